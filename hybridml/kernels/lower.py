"""From a fusion group to a KernelSpec and the values of its argument words.

Full-level values are computed where they are asked for, once a loop: a value that a later pass over the row needs again is loaded or
computed again from cache-hot operands, unless it is expensive and an output's row is free to hold it. Reductions are never
computed twice. `rows` and `columns` say what the passes look like.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from hybridml.dtypes import is_float
from hybridml.kernels.arguments import Access, Arguments
from hybridml.kernels.geometry import Geometry, scalar_text
from hybridml.kernels.group import Group
from hybridml.kernels.halves import in_single
from hybridml.kernels.spec import Accumulate, KernelSpec, Let, Load, Loop, Mode, Statement, Store, suffix
from hybridml.kernels.text import wrapping
from hybridml.kernels.views import Place
from hybridml.kernels.walk import Walk
from hybridml.ops.registry import Kind
from hybridml.trace.bind import Sizes
from hybridml.trace.graph import Graph, Node, Value

_FUNCTION = re.compile(r"\bm_\w+(?=\()")


@dataclass(frozen=True)
class Check:
    """What a kernel looks for on its way: it sets the one bool of `flag` where the node's operands are at fault."""

    node: Node
    flag: Value

    def at(self, sizes: Sizes) -> Check:
        """For these sizes. The flag stays: each program has its own memory for it."""
        return Check(sizes.node(self.node), self.flag)


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
    walks: tuple[Walk, ...] = ()  # of each operand; empty where the extent is not simply a part of the axes

    def at(self, sizes: Sizes) -> Lowered:
        """For these sizes: the same text, other words. Walks are looked at by sweeps alone, which put the sizes in themselves."""
        value = sizes.value
        return Lowered(
            self.spec,
            [(value(v), sizes(offset)) for v, offset in self.operands],
            list(map(sizes, self.words)),
            [(sizes(x), dtype) for x, dtype in self.scalars],
            sizes(self.extent),
            sizes(self.work),
            list(map(value, self.temporaries)),
            [(value(x), value(o)) for x, o in self.in_place],
            None if self.check is None else self.check.at(sizes),
            self.walks,
        )


@dataclass
class Scope:
    """A place in the text where values are asked for.

    `names` are those known here. Loads that do not vary along the loops go to `hoisted`, before them, and are known to `row` too.
    `stage` is the pass being written; kept values of stages up to `done` lie in their buffers.
    """

    stage: int
    done: int
    names: dict[Any, str]
    row: dict[Any, str]
    body: list[Statement] = field(default_factory=list)
    hoisted: list[Statement] = field(default_factory=list)
    stores: list[Statement] = field(
        default_factory=list
    )  # last in their loop, so that an output may take an input's memory


class Lowering:
    """What both kinds of passes share: names, operands, text, and what is held for later passes."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.nodes, self.members, self.stage = geometry.nodes, geometry.members, geometry.stage
        self.arguments = Arguments(geometry)
        self.axes = self.arguments.axes
        self.temporaries: list[Value] = []
        self._named = 0
        self.held: dict[int, Access] = {}  # where values can be read back by later passes
        self.borrowed: dict[
            int, Access
        ] = {}  # the rows of later outputs that hold expensive values until then
        self.passes: list[Statement] = []  # those of one row, where the kernel's body is not that already
        self._hold()

    def statements(self) -> list[Statement]:
        """What happens for each element of the kernel's extent."""
        raise NotImplementedError

    def build(self) -> Lowered:
        g, a = self.geometry, self.arguments
        body = self.statements()
        title = "_".join(dict.fromkeys(self.nodes[i].op.name for i in self.members))
        notes = [f"{self.nodes[i].op.name} -> {self.nodes[i].out.dtype.name}" for i in self.members]
        outer, crossed = ([self.axes[k] for k in axes] for axes in (g.outer, g.crossed))
        in_place = self._in_place(self.passes or body)
        scalars, body = in_single(a.scalars, body)
        spec = KernelSpec(g.mode, a.operands, a.words, scalars, outer, body, title, notes, tuple(crossed))
        return Lowered(
            spec,
            a.bases,
            a.word_values,
            a.scalar_values,
            g.extent,
            prod(g.sizes),
            self.temporaries,
            in_place,
            walks=self._walks(),
        )

    def _walks(self) -> tuple[Walk, ...]:
        g, a = self.geometry, self.arguments
        outer = g.outer or ([g.inner[-1]] if g.mode is Mode.COLUMN else [])
        inner = [k for k in range(len(g.sizes)) if k not in outer]
        return tuple([
            Walk(
                base, operand.written, tuple([(g.sizes[k], strides[k]) for k in outer]),
                tuple([(g.sizes[k], strides[k]) for k in inner]), nbytes // base.dtype.itemsize,
            )
            for operand, (base, nbytes), strides in zip(a.operands, a.bases, a.strides, strict=True)
        ])  # fmt: skip

    # names and text

    def new(self) -> str:
        self._named += 1
        return f"v{self._named - 1}"

    def write(self, i: int) -> Access:
        """Where the result of node i goes."""
        return self.arguments.write(i)

    def text(self, i: int, names: list[str]) -> str:
        """The node's scalar text over these names, its functions chosen by dtype, its result of the output's dtype."""
        n = self.nodes[i]
        template, out = scalar_text(n), n.out.dtype
        index = self.arguments.index(i) if self.geometry.uses_index(i) else ""
        if n.op.kind is Kind.RANDOM:
            return template.format(seed=names[0], counter=names[1], index=index)
        text = _suffixed(
            wrapping(template, out).format(*names, out=suffix(out), index=index), self.literal_dtype(i)
        )
        if out.kind == "b" and any(v.dtype.kind == "b" for v in n.values):
            return f"({text}) != 0"  # arithmetic on bools is done in integers
        return f"{suffix(out)}({text})" if out.kind in "iu" else text

    def literal_dtype(self, i: int) -> np.dtype:
        """The dtype of a node's promoted operands, which its literals take and its functions are chosen by."""
        n = self.nodes[i]
        return next((x.dtype for x in n.inputs[n.op.fixed :] if isinstance(x, Value)), n.out.dtype)

    def accumulate(self, i: int, accumulator: str, value: str) -> Accumulate:
        n = self.nodes[i]
        assert n.op.reduce is not None
        lanes = n.op.reduce.lanes if is_float(n.out.dtype) else None
        combine = _suffixed(wrapping(n.op.reduce.combine, n.out.dtype), n.out.dtype)
        return Accumulate(accumulator, value, combine, lanes, n.out.dtype)

    def identity(self, i: int) -> str:
        """The name of the scalar that a reduction starts from."""
        n = self.nodes[i]
        assert n.op.reduce is not None
        return self.arguments.scalar(n.op.reduce.identity(n.out.dtype), n.out.dtype)

    def added(self, i: int, scope: Scope) -> Store:
        """The step of a reduction whose accumulators lie in memory: what stores the sum so far and one more value."""
        value = self.operands(i, scope)[0]
        before, after = self.new(), self.new()
        scope.body.append(Load(before, *self.held[i]))
        step = replace(self.accumulate(i, before, value), name=before)
        text = step.combine.format(before, value)
        scope.body.append(Let(after, text, step.dtype, self.nodes[i].op.name, step))
        return Store(*self.held[i], after)

    # values

    def value(self, i: int, scope: Scope) -> str:
        """The name of a member's value at this place, read back or computed now if it has to be."""
        if i not in scope.names:
            name = None
            if i in self.held and self.can_read_back(i, scope):
                name = self.new()
                scope.body.append(Load(name, *self.held[i]))
            else:
                operands = self.operands(i, scope)
                name = self.new()
                n = self.nodes[i]
                scope.body.append(Let(name, self.text(i, operands), n.out.dtype, n.op.name))
            scope.names[i] = name
        return scope.names[i]

    def can_read_back(self, i: int, scope: Scope) -> bool:
        """True if the memory that holds the value has been written by now."""
        return self.stage[i] < scope.stage

    def operands(self, i: int, scope: Scope) -> list[str]:
        """The names of a node's operands at this place."""
        n = self.nodes[i]
        if n.op.kind is Kind.RANDOM:
            operand, _ = self._access(i, n.values[0])
            return [self._load(operand, word, False, scope) for word in ("0", "1")]  # seed and counter
        names = []
        for x in n.inputs:
            if not isinstance(x, Value):
                names.append(self.arguments.scalar(x, self.literal_dtype(i)))
            elif (j := self.geometry.member(x)) is not None:
                names.append(self.value(j, scope))
            else:
                varies = any(self.geometry.strides(i, x)[k] for k in self.geometry.inner)
                names.append(self._load(*self._access(i, x), varies, scope))
        return names

    def _access(self, i: int, x: Value) -> Access:
        base, layout = self.geometry.places[x]
        return self.arguments.read(base, self.geometry.strides(i, x), layout.offset)

    def _load(self, operand: Any, index: str, varies: bool, scope: Scope) -> str:
        key = (operand, index)
        if key not in scope.names:
            scope.names[key] = name = self.new()
            if varies:
                scope.body.append(Load(name, operand, index))
            else:
                scope.row[key] = name
                scope.hoisted.append(Load(name, operand, index))
        return scope.names[key]

    # what later passes can read back

    def _hold(self) -> None:
        """Full-level values of an earlier pass: in their own output, or, if expensive, in the row of a later output."""
        g = self.geometry
        full = [i for i in self.members if not g.is_kept(i) and not g.crosses(i)]
        last_use: dict[int, int] = {}
        for i in reversed(self.members):
            again = i in full and not g.is_output(i)  # computed anew in each pass that asks for it
            at = max(self.stage[i], last_use.get(i, 0)) if again else self.stage[i]
            for x in self.nodes[i].values:
                j = g.member(x)
                if j is not None:
                    last_use[j] = max(last_use.get(j, 0), at)
        free = [i for i in full if g.is_output(i)]
        self.held = {i: self.write(i) for i in free}
        for j in full:
            needed_later = last_use.get(j, 0) > self.stage[j]
            if j in self.held or not needed_later or not _FUNCTION.search(scalar_text(self.nodes[j])):
                continue
            for o in free:
                if self.nodes[o].out.dtype == self.nodes[j].out.dtype and self.stage[o] >= last_use[j]:
                    self.held[j] = self.borrowed[j] = self.held[o]
                    free.remove(o)
                    break

    def _in_place(self, passes: list[Statement]) -> list[tuple[Value, Value]]:
        """(input, output) pairs that may share memory: the input is not read after the output is first written.

        Stores come last in their loop, so reading and writing one element in the same pass is in order.
        """
        g = self.geometry
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

        for at, s in enumerate(passes):
            walk(s, at)
        walked: dict[Value, set[Any]] = {}
        for i in self.members:
            for v in self.nodes[i].values:
                if g.member(v) is None:
                    base, layout = g.places[v]
                    walked.setdefault(base, set()).add((g.strides(i, v), layout.offset))
        names = {
            base: o.name for o, (base, _) in zip(self.arguments.operands, self.arguments.bases, strict=True)
        }
        found = []
        for i in self.members:
            o = self.nodes[i].out
            if not g.is_output(i) or g.crosses(i) or (g.reduces(i) and g.mode is Mode.COLUMN):
                continue  # a reduction down the columns accumulates in its output from the start
            own = {(g.own_strides(i), 0)}
            for x, seen in walked.items():
                same_size = x.dtype.itemsize == o.dtype.itemsize and x.spec.size == o.spec.size
                if same_size and seen == own and last_load.get(names[x], -1) <= first_store[names[o]]:
                    found.append((x, o))
        return found


def _suffixed(text: str, dtype: np.dtype) -> str:
    """The text with the functions of a dtype: m_exp(v0) becomes m_exp_f32(v0)."""
    return _FUNCTION.sub(lambda m: f"{m[0]}_{suffix(dtype)}", text)


def lower(graph: Graph, group: Group, places: dict[Value, Place], outputs: list[Value]) -> Lowered:
    """The kernel of one group; `outputs` are the values that others need."""
    from hybridml.kernels.columns import ColumnLowering
    from hybridml.kernels.rows import RowLowering

    geometry = Geometry(graph, group, places, outputs)
    kind = ColumnLowering if geometry.mode is Mode.COLUMN else RowLowering
    return kind(geometry).build()
