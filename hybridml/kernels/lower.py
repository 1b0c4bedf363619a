"""From a fusion group to a KernelSpec and the values of its argument words.

Full-level values are computed where they are asked for, once a loop: a value that a later pass over the row needs again is loaded or
computed again from cache-hot operands, unless it is expensive and an output's row is free to hold it. Reductions are never
computed twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hybridml.kernels.group import Group
from hybridml.kernels.space import canonical, collapse, stretch, strides_over
from hybridml.kernels.spec import (
    Accumulate,
    Accumulator,
    Axis,
    KernelSpec,
    Let,
    Load,
    Loop,
    Mode,
    Operand,
    Scalar,
    Statement,
    Store,
    suffix,
)
from hybridml.kernels.text import wrapping
from hybridml.kernels.views import Place
from hybridml.ops.registry import Kind, Layout
from hybridml.trace.graph import Graph, Node, Value

_FUNCTION = re.compile(r"\bm_\w+(?=\()")


@dataclass(frozen=True)
class Check:
    """What a kernel looks for on its way: it sets the one bool of `flag` where the node's operands are at fault."""

    node: Node
    flag: Value


@dataclass
class Lowered:
    """A kernel and what its words are in this program."""

    spec: KernelSpec
    operands: list[tuple[Value, int]]  # base value and byte offset of each operand
    words: list[int]
    scalars: list[tuple[Any, np.dtype]]
    extent: int
    work: int  # elements touched, for the decision to run in parallel
    temporaries: list[Value]  # buffers that only this kernel uses
    in_place: list[tuple[Value, Value]]  # (input, output) pairs that may share memory
    check: Check | None = None


@dataclass
class _Source:
    """An operand of the group from outside, or an output: strides over the group's collapsed axes."""

    operand: Operand | None
    base: Value | None
    strides: tuple[int, ...]
    offset: int
    words: tuple[str, ...] = ()


class Lowering:
    """Builds one KernelSpec."""

    def __init__(self, graph: Graph, group: Group, places: dict[Value, Place], outputs: list[Value]) -> None:
        self.graph, self.group, self.places = graph, group, places
        self.members = group.nodes
        self.nodes = graph.nodes
        self.outputs = outputs
        self.index_of = {self.nodes[i].out: i for i in group.nodes}
        self.scalars: list[Scalar] = []
        self.scalar_values: list[tuple[Any, np.dtype]] = []
        self.operands: list[Operand] = []
        self.bases: list[tuple[Value, int]] = []
        self.words: list[str] = []
        self.word_values: list[int] = []
        self.temporaries: list[Value] = []
        self._names = 0
        self._sources: dict[Any, _Source] = {}
        self._stage: dict[int, int] = {}
        self._stages()
        self._axes()

    # what lives where, and when

    def reduces(self, i: int) -> bool:
        return self.nodes[i].op.reduce is not None

    def is_kept(self, i: int) -> bool:
        """True if the node's *result* has one element a row."""
        return i in self.group.kept or self.reduces(i)

    def _stages(self) -> None:
        """The pass over the row in which a node is computed; a kept node: the passes that come before it."""
        for i in self.members:
            stage = 0
            for v in self.nodes[i].values:
                j = self.index_of.get(self.places[v][0])
                if j is not None:
                    stage = max(stage, self._stage[j] + self.reduces(j))
            self._stage[i] = stage

    def _strides(self, i: int, v: Value) -> tuple[tuple[int, ...], int]:
        """An operand's strides over the group's space (0 along reduced axes for a kept reader), and its offset."""
        n = self.nodes[i]
        _, layout = self.places[v]
        if n.op.kind is Kind.RANDOM:
            return (0,) * len(self.group.space), layout.offset
        domain = v.shape if self.reduces(i) else n.out.shape
        return self._over_space(stretch(layout, domain), i), layout.offset

    def _over_space(self, layout: Layout, i: int) -> tuple[int, ...]:
        g = self.group
        if i not in g.kept:
            return strides_over(layout, g.space)
        axes = g.kept_axes
        found = [0] * len(g.space)
        for k, s in zip(axes, strides_over(layout, tuple([g.space[k] for k in axes])), strict=True):
            found[k] = s
        return tuple(found)

    def _coordinates(self, i: int) -> Layout:
        """The affine index that {index} stands for: along attrs["axis"], or linear where there is no axis."""
        n = self.nodes[i]
        axis = n.attrs.get("axis")
        if axis is None:
            return Layout.contiguous(n.out.shape)
        return Layout(n.out.shape, tuple([int(a == axis) for a in range(len(n.out.shape))]))

    def _template(self, i: int) -> str:
        n = self.nodes[i]
        text = n.op.scalar
        if callable(text):
            text = text(tuple([x.dtype for x in n.values]), n.out.dtype, **n.attrs)
        return text or ""

    def _uses_index(self, i: int) -> bool:
        return "{index}" in self._template(i)

    def _axes(self) -> None:
        g = self.group
        everything: list[tuple[int, ...]] = [canonical(g.space, g.kept_axes), canonical(g.space)]
        for i in self.members:
            for v in self.nodes[i].values:
                if self.places[v][0] not in self.index_of:
                    everything.append(self._strides(i, v)[0])
            if self._uses_index(i):
                everything.append(self._over_space(self._coordinates(i), i))
        if not g.reduced:
            everything = everything[1:]
        elif not any(not self.is_kept(i) and self.nodes[i].out in self.outputs for i in self.members):
            everything.pop(1)
        classes = tuple([int(k in g.reduced) for k in range(len(g.space))])
        self.runs = collapse(g.space, classes, everything)
        self.sizes = [int(np.prod([g.space[k] for k in run])) for run in self.runs]
        reduced = [run[0] in g.reduced for run in self.runs]
        self.axes = [Axis("", "")] * len(self.runs)
        last = len(self.runs) - 1
        if not g.reduced:
            self.mode = Mode.MAP
            self.outer = list(range(last)) if last > 0 else list(range(len(self.runs)))
            self.inner = [last] if last > 0 else []
        elif reduced[last]:
            self.mode = Mode.ROW
            self.outer = [k for k, r in enumerate(reduced) if not r]
            self.inner = [k for k, r in enumerate(reduced) if r]
        else:
            self.mode = Mode.COLUMN
            self.outer = [k for k, r in enumerate(reduced) if not r and k != last]
            self.inner = [k for k, r in enumerate(reduced) if r] + [last]
        for names, members in (("i", self.outer), ("j", self.inner)):
            for position, k in enumerate(members):
                name = f"{names}{position}" if len(members) > 1 else names
                self.axes[k] = Axis(name, self._word(f"n_{name}", self.sizes[k]))

    # argument words

    def _word(self, name: str, value: int) -> str:
        self.words.append(name)
        self.word_values.append(value)
        return name

    def _new(self) -> str:
        self._names += 1
        return f"v{self._names - 1}"

    def scalar(self, value: Any, dtype: np.dtype) -> str:
        key = ("scalar", repr(value), dtype)
        if key not in self._sources:
            name = f"c{len(self.scalars)}"
            self.scalars.append(Scalar(name, dtype))
            self.scalar_values.append((value, dtype))
            self._sources[key] = name  # type: ignore[assignment]
        return self._sources[key]  # type: ignore[return-value]

    def _affine(self, name: str, strides: tuple[int, ...], unit: tuple[int, ...]) -> str:
        """The index text `i * x0_i + j`; strides of 1 on the axes in `unit` are left out of the words."""
        terms = []
        for k, axis in enumerate(self.axes):
            if strides[k] == 0:
                continue
            if strides[k] == 1 and k in unit:
                terms.append(axis.name)
            else:
                terms.append(f"{axis.name} * {self._word(f'{name}_{axis.name}', strides[k])}")
        return " + ".join(terms) or "0"

    def _collapsed(self, strides: tuple[int, ...]) -> tuple[int, ...]:
        return tuple([0 if self.sizes[k] == 1 else strides[run[-1]] for k, run in enumerate(self.runs)])

    def source(self, i: int, v: Value) -> tuple[Operand, str, tuple[int, ...]]:
        """The operand for an outside value as node i reads it: operand, index text, collapsed strides."""
        base = self.places[v][0]
        raw, offset = self._strides(i, v)
        strides = self._collapsed(raw)
        key = (base, strides, offset)
        if key not in self._sources:
            operand = Operand(f"x{sum(not o.written for o in self.operands)}", base.dtype)
            self._add_operand(operand, base, offset)
            self._sources[key] = (operand, self._affine(operand.name, strides, self._unit()), strides)  # type: ignore[assignment]
        return self._sources[key]  # type: ignore[return-value]

    def _unit(self) -> tuple[int, ...]:
        """Axes whose unit stride is part of the kernel's structure: the innermost one."""
        return (len(self.runs) - 1,)

    def _add_operand(self, operand: Operand, base: Value, offset: int) -> None:
        self.operands.append(operand)
        self.bases.append((base, offset * base.dtype.itemsize))

    def target(self, v: Value, kept: bool) -> tuple[Operand, str]:
        """The operand for a value this kernel writes."""
        key = ("out", v)
        if key not in self._sources:
            operand = Operand(f"o{sum(o.written for o in self.operands)}", v.dtype, written=True)
            self._add_operand(operand, v, 0)
            axes = self.group.kept_axes if kept else None
            strides = self._collapsed(canonical(self.group.space, axes))
            self._sources[key] = (operand, self._affine(operand.name, strides, self._unit()))  # type: ignore[assignment]
        return self._sources[key]  # type: ignore[return-value]

    # scalar text

    def text(self, i: int, names: list[str]) -> str:
        """The node's scalar text over these names, its functions chosen by dtype, its result of the output's dtype."""
        n = self.nodes[i]
        template, out = self._template(i), n.out.dtype
        index = self.coordinate(i) if "{index}" in template else ""
        if n.op.kind is Kind.RANDOM:
            return template.format(seed=names[0], counter=names[1], index=index)
        text = wrapping(template, out).format(*names, out=suffix(out), index=index)
        functions = suffix(self.literal_dtype(i))
        text = _FUNCTION.sub(lambda m: f"{m[0]}_{functions}", text)
        if out.kind == "b" and any(v.dtype.kind == "b" for v in n.values):
            return f"({text}) != 0"  # arithmetic on bools is done in integers
        return f"{suffix(out)}({text})" if out.kind in "iu" else text

    def literal_dtype(self, i: int) -> np.dtype:
        """The dtype of a node's promoted operands, which its literals take and its functions are chosen by."""
        n = self.nodes[i]
        for x in n.inputs[n.op.fixed :]:
            if isinstance(x, Value):
                return x.dtype
        return n.out.dtype

    def coordinate(self, i: int) -> str:
        key = ("index", i)
        if key not in self._sources:
            strides = self._collapsed(self._over_space(self._coordinates(i), i))
            self._sources[key] = self._affine(f"k{i}", strides, self._unit())  # type: ignore[assignment]
        return f"({self._sources[key]})"

    # the body

    def build(self) -> Lowered:
        body = self._columns() if self.mode is Mode.COLUMN else self._rows()
        extent = int(np.prod([self.sizes[k] for k in self.outer])) if self.outer else 1
        if self.mode is Mode.COLUMN and not self.outer:
            extent = self.sizes[-1]
        names = [self.nodes[i].op.name for i in self.members]
        spec = KernelSpec(
            self.mode, self.operands, self.words, self.scalars, [self.axes[k] for k in self.outer], body,
            "_".join(dict.fromkeys(names)), [self._note(i) for i in self.members],
        )  # fmt: skip
        return Lowered(
            spec, self.bases, self.word_values, self.scalar_values, extent, int(np.prod(self.sizes)) if self.sizes else 1,
            self.temporaries, self._in_place(body),
        )  # fmt: skip

    def _note(self, i: int) -> str:
        n = self.nodes[i]
        return f"{n.op.name} -> {n.out.dtype.name}"

    def _in_place(self, body: list[Statement]) -> list[tuple[Value, Value]]:
        """(input, output) pairs that may share memory: the input is not read after the output is first written.

        Stores come last in their loop, so reading and writing one element in the same pass is in order.
        """
        first_store: dict[str, int] = {}
        last_load: dict[str, int] = {}

        def walk(s: Statement, at: int) -> None:
            if isinstance(s, Load):
                last_load[s.operand.name] = at
            elif isinstance(s, Store):
                first_store.setdefault(s.operand.name, at)
            elif isinstance(s, Loop):
                for inner in s.body:
                    walk(inner, at)

        for at, s in enumerate(body):
            walk(s, at)
        layouts: dict[Value, set[Any]] = {}
        for i in self.members:
            for v in self.nodes[i].values:
                base = self.places[v][0]
                if base not in self.index_of:
                    strides, offset = self._strides(i, v)
                    layouts.setdefault(base, set()).add((self._collapsed(strides), offset))
        names = {base: o.name for o, (base, _) in zip(self.operands, self.bases, strict=True)}
        found = []
        for o in self.outputs:
            i = self.index_of[o]
            if self.reduces(i) and self.mode is Mode.COLUMN:
                continue  # its buffer is the accumulator, written once a row
            own = self._collapsed(canonical(self.group.space, self.group.kept_axes if self.is_kept(i) else None))
            for x, seen in layouts.items():
                same_size = x.dtype.itemsize == o.dtype.itemsize and x.spec.size == o.spec.size
                if same_size and seen == {(own, 0)} and last_load.get(names[x], -1) <= first_store[names[o]]:
                    found.append((x, o))
        return found

    def _operand_names(self, i: int, body: list[Statement], hoisted: list[Statement], env: dict[Any, str], stage: int) -> list[str]:
        if self.nodes[i].op.kind is Kind.RANDOM:
            return self._state(i, hoisted, env)
        names = []
        for x in self.nodes[i].inputs:
            if not isinstance(x, Value):
                names.append(self.scalar(x, self.literal_dtype(i)))
                continue
            j = self.index_of.get(self.places[x][0])
            names.append(self._outside(i, x, body, hoisted, env) if j is None else self._inside(j, body, hoisted, env, stage))
        return names

    def _state(self, i: int, hoisted: list[Statement], env: dict[Any, str]) -> list[str]:
        """Seed and counter: the two words of a random node's operand."""
        operand, _, _ = self.source(i, self.nodes[i].values[0])
        names = []
        for word in ("0", "1"):
            key = (operand, word)
            if key not in env:
                env[key] = self._new()
                hoisted.append(Load(env[key], operand, word))
            names.append(env[key])
        return names

    def _outside(self, i: int, x: Value, body: list[Statement], hoisted: list[Statement], env: dict[Any, str]) -> str:
        operand, index, strides = self.source(i, x)
        key = (operand, index)
        if key not in env:
            name = self._new()
            varies = any(strides[k] for k in self.inner)
            if varies:
                env[key] = name
                body.append(Load(name, operand, index))
            else:
                env[key] = name
                self.row_env[key] = name
                hoisted.append(Load(name, operand, index))
        return env[key]

    def _inside(self, j: int, body: list[Statement], hoisted: list[Statement], env: dict[Any, str], stage: int) -> str:
        """The name of a group member's value at this point of the loop, computed now if it has to be."""
        if j in env:
            return env[j]
        v = self.nodes[j].out
        held = self.held_in.get(j)
        if held is not None and self._stage[j] < stage:
            operand, index = held
            name = self._new()
            body.append(Load(name, operand, index))
        else:
            names = self._operand_names(j, body, hoisted, env, stage)
            name = self._new()
            body.append(Let(name, self.text(j, names), v.dtype, self.nodes[j].op.name))
        env[j] = name
        return name

    def _hold(self) -> None:
        """Where full-level values of an earlier pass can be read back: their own output, or the row of a later output."""
        self.held_in: dict[int, tuple[Operand, str]] = {}
        full = [i for i in self.members if not self.is_kept(i)]
        last_use: dict[int, int] = {}
        for i in self.members:
            for x in self.nodes[i].values:
                j = self.index_of.get(self.places[x][0])
                if j is not None and not self.is_kept(j):
                    last_use[j] = max(last_use.get(j, 0), self._stage[i])
        free = []
        for i in full:
            if self.nodes[i].out in self.outputs:
                self.held_in[i] = self.target(self.nodes[i].out, kept=False)
                free.append(i)
        for j in full:
            expensive = _FUNCTION.search(str(self.nodes[j].op.scalar)) is not None
            if j in self.held_in or not expensive or last_use.get(j, 0) <= self._stage[j]:
                continue
            for o in free:
                if self.nodes[o].out.dtype == self.nodes[j].out.dtype and self._stage[o] >= last_use[j] > self._stage[j]:
                    self.held_in[j] = self.held_in[o]
                    self.borrowed[j] = self.held_in[o]
                    free.remove(o)
                    break

    def _full_pass(self, stage: int, hoisted: list[Statement], env: dict[Any, str]) -> tuple[list[Statement], list[int]]:
        """The innermost body of one pass, and the reductions it feeds."""
        body: list[Statement] = []
        stores: list[Statement] = []  # last, so that an output may share the memory of an input
        reductions: list[int] = []
        for i in self.members:
            if self._stage[i] != stage:
                continue
            if self.reduces(i):
                reductions.append(i)
                name = self._operand_names(i, body, hoisted, env, stage)[0]
                body.append(self._accumulate(i, name))
            elif not self.is_kept(i) and self.nodes[i].out in self.outputs:
                name = self._inside(i, body, hoisted, env, stage)
                stores.append(Store(*self.target(self.nodes[i].out, kept=False), name))
            elif i in self.borrowed:
                name = self._inside(i, body, hoisted, env, stage)
                stores.append(Store(*self.borrowed[i], name))
        return body + stores, reductions

    def _accumulate(self, i: int, name: str) -> Accumulate:
        n = self.nodes[i]
        assert n.op.reduce is not None
        combine = _FUNCTION.sub(lambda m: f"{m[0]}_{suffix(n.out.dtype)}", wrapping(n.op.reduce.combine, n.out.dtype))
        lanes = n.op.reduce.lanes if n.out.dtype.kind == "f" else None
        return Accumulate(self.accumulators[i], name, combine, lanes, n.out.dtype)

    def _identity(self, i: int) -> str:
        n = self.nodes[i]
        assert n.op.reduce is not None
        return self.scalar(n.op.reduce.identity(n.out.dtype), n.out.dtype)

    def _nest(self, axes: list[int], body: list[Statement], reduces: tuple[Accumulator, ...] = ()) -> list[Statement]:
        for k in reversed(axes):
            body = [Loop(self.axes[k], body)]
        if axes and reduces:
            assert isinstance(body[0], Loop)
            body[0].reduces = reduces
        return body

    def _rows(self) -> list[Statement]:
        """MAP and ROW: passes over the inner axes, with the kept values between them as scalars."""
        self.accumulators = {i: f"a{k}" for k, i in enumerate(i for i in self.members if self.reduces(i))}
        self.borrowed: dict[int, tuple[Operand, str]] = {}
        self.row_env: dict[Any, str] = {}
        self._hold()
        out: list[Statement] = []
        for stage in range(max(self._stage.values()) + 2):
            for i in self.members:  # kept values that are known by now
                if i in self.group.kept and self._stage[i] == stage:
                    self._inside(i, out, out, self.row_env, stage)
            hoisted: list[Statement] = []
            body, reductions = self._full_pass(stage, hoisted, dict(self.row_env))
            if not body:
                continue
            out += hoisted
            starts = tuple([Accumulator(self.accumulators[i], self._identity(i), self.nodes[i].out.dtype) for i in reductions])
            out += self._nest(self.inner, body, starts)
            for i in reductions:
                self.row_env[i] = self.accumulators[i]
        for i in self.members:
            if self.is_kept(i) and self.nodes[i].out in self.outputs:
                operand, index = self.target(self.nodes[i].out, kept=True)
                out.append(Store(operand, index, self.row_env[i]))
        return out

    def _columns(self) -> list[Statement]:
        """COLUMN: passes down the reduced axes with the innermost axis inside; kept values are vectors in buffers."""
        self.accumulators = {i: "" for i in self.members if self.reduces(i)}
        self.borrowed = {}
        self.row_env = {}
        self._hold()
        column, reduced = self.inner[-1], self.inner[:-1]
        later: set[int] = set()  # kept values read by a later pass
        for i in self.members:
            for x in self.nodes[i].values:
                j = self.index_of.get(self.places[x][0])
                if j is not None and self.is_kept(j) and (not self.is_kept(i) or self.reduces(i) or self._stage[i] > self._stage[j]):
                    later.add(j)
        buffers: dict[int, tuple[Operand, str]] = {}
        for i in self.members:
            v = self.nodes[i].out
            if self.is_kept(i) and (self.reduces(i) or v in self.outputs or i in later):
                if v not in self.outputs:
                    self.temporaries.append(v)
                buffers[i] = self.target(v, kept=True)
        self.held_in |= buffers
        out: list[Statement] = []
        for stage in range(max(self._stage.values()) + 2):
            kept_body: list[Statement] = []
            stores: list[Statement] = []
            env: dict[Any, str] = {}
            for i in self.members:
                if i in self.group.kept and self._stage[i] == stage:
                    name = self._kept(i, kept_body, env, stage, stage - 1)
                    if i in buffers:
                        stores.append(Store(*buffers[i], name))
            if kept_body:
                out.append(self._column_loop(column, kept_body + stores))
            stores = []
            body: list[Statement] = []
            starts: list[Statement] = []
            env = {}
            for i in self.members:
                if self._stage[i] != stage or i in self.group.kept:
                    continue
                if self.reduces(i):
                    operand, index = buffers[i]
                    starts.append(Store(operand, index, self._identity(i)))
                    x = self.nodes[i].inputs[0]
                    assert isinstance(x, Value)
                    j = self.index_of.get(self.places[x][0])
                    value = self._outside(i, x, body, body, env) if j is None else self._kept(j, body, env, stage, stage)
                    name, result = self._new(), self._new()
                    body.append(Load(name, operand, index))
                    step = replace(self._accumulate(i, value), name=name)
                    body.append(Let(result, step.combine.format(name, value), step.dtype, self.nodes[i].op.name, step))
                    stores.append(Store(operand, index, result))
                elif self.nodes[i].out in self.outputs:
                    name = self._kept(i, body, env, stage, stage)
                    stores.append(Store(*self.target(self.nodes[i].out, kept=False), name))
                elif i in self.borrowed:
                    name = self._kept(i, body, env, stage, stage)
                    stores.append(Store(*self.borrowed[i], name))
            if starts:
                out.append(self._column_loop(column, starts))
            if body:
                out += self._nest(reduced, [self._column_loop(column, body + stores)])
        return out

    def _kept(self, i: int, body: list[Statement], env: dict[Any, str], stage: int, done: int) -> str:
        """A member's value in a loop over columns: read back from its buffer if it has one by now, else computed.

        `done` is the last stage whose kept values lie in their buffers.
        """
        if i not in env and self.is_kept(i) and i in self.held_in and (self.reduces(i) or self._stage[i] <= done):
            operand, index = self.held_in[i]
            env[i] = self._new()
            body.append(Load(env[i], operand, index))
        if i not in env and not self.is_kept(i) and i in self.held_in and self._stage[i] < stage:
            operand, index = self.held_in[i]
            env[i] = self._new()
            body.append(Load(env[i], operand, index))
        if i not in env:
            names = self._state(i, body, env) if self.nodes[i].op.kind is Kind.RANDOM else []
            for x in () if names else self.nodes[i].inputs:
                if not isinstance(x, Value):
                    names.append(self.scalar(x, self.literal_dtype(i)))
                    continue
                j = self.index_of.get(self.places[x][0])
                names.append(self._outside(i, x, body, body, env) if j is None else self._kept(j, body, env, stage, done))
            env[i] = self._new()
            body.append(Let(env[i], self.text(i, names), self.nodes[i].out.dtype, self.nodes[i].op.name))
        return env[i]

    def _column_loop(self, column: int, body: list[Statement]) -> Loop:
        return Loop(self.axes[column], body, split=not self.outer)


def lower(graph: Graph, group: Group, places: dict[Value, Place], outputs: list[Value]) -> Lowered:
    """The kernel of one group; `outputs` are the values that others need."""
    return Lowering(graph, group, places, outputs).build()


