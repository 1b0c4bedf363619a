"""A kernel that moves data, written by hand: an iteration space, operands strided over it, and a few statements.

    frame = Frame("take", (1000, 64))
    x = frame.read(table, (0, 1))           # strides over the space; what an index adds comes at the access
    k = frame.read(indices, (1, 0))
    o = frame.write(out, (64, 1))
    row = frame.load(k)
    frame.store(o, frame.load(x, f"{row} * {frame.word('x0_row', 64)}"))
    frame.lowered()

Axes that all operands walk as one are merged. A statement stands in the outermost loop in which all that it reads is
known: above, the index is loaded once a row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybridml.kernels.lower import Check, Lowered
from hybridml.kernels.space import collapse
from hybridml.kernels.spec import (
    Axis,
    Flag,
    KernelSpec,
    Let,
    Load,
    Loop,
    Mode,
    Operand,
    Scalar,
    Statement,
    Store,
)
from hybridml.kernels.views import Place
from hybridml.ops.spec import spec
from hybridml.trace.graph import Node, Value

_LEAD, _RUNNING, _REST = 0, 1, 2
_NAME = re.compile(r"\bv\d+\b")
_INT64 = np.dtype(np.int64)
_BOOL = np.dtype(np.bool_)


def bits(dtype: np.dtype) -> np.dtype:
    """The unsigned integer of a dtype's size: what is only moved needs no other kernel for each dtype.

    Raises:
        TypeError: elements of this size are no kernel's business.
    """
    if dtype.itemsize not in (1, 2, 4, 8):
        raise TypeError(f"kernels move elements of 1, 2, 4 or 8 bytes, not {dtype.name}")
    return np.dtype(f"u{dtype.itemsize}")


@dataclass
class _Handle:
    """An operand and its strides over the squeezed space."""

    operand: Operand
    value: Value
    strides: tuple[int, ...]
    offset: int  # elements


class Frame:
    """Builds one kernel over `space`.

    Args:
        title: the kernel's name, for people.
        space: the sizes that the kernel iterates over.
        running: neighbouring axes along which a step depends on the one before, so that they run in order on one thread; the axes
            before them, or else the first one after them, are shared out.
    """

    def __init__(self, title: str, space: tuple[int, ...], running: Collection[int] = ()) -> None:
        self.title = title
        self._axes_of_space = [k for k, d in enumerate(space) if d != 1]
        self._space = tuple([space[k] for k in self._axes_of_space])
        first = min(running, default=len(space))
        self._classes = tuple(
            [_RUNNING if k in running else _LEAD if k < first else _REST for k in self._axes_of_space]
        )
        self._handles: list[_Handle] = []
        self._words: list[str] = []
        self._word_values: list[int] = []
        self._scalars: list[Scalar] = []
        self._scalar_values: list[tuple[Any, np.dtype]] = []
        self._axes: list[Axis] = []
        self._levels: dict[str, int] = {}  # of names: how many inner loops surround them
        self._bodies: list[list[Statement]] = []
        self._texts: dict[str, str] = {}
        self._check: Check | None = None

    # operands: all of them before the first statement

    def read(
        self, place: Place, strides: tuple[int, ...], dtype: np.dtype | None = None, skip: int = 0
    ) -> _Handle:
        """An input at its place's base and offset (`skip` elements further), read as `dtype` (default: its bits)."""
        base, layout = place
        name = f"x{sum(not h.operand.written for h in self._handles)}"
        return self._operand(Operand(name, dtype or bits(base.dtype)), base, strides, layout.offset + skip)

    def write(
        self, v: Value, strides: tuple[int, ...], offset: int = 0, dtype: np.dtype | None = None
    ) -> _Handle:
        """An output, which may be loaded too."""
        name = f"o{sum(h.operand.written for h in self._handles)}"
        return self._operand(Operand(name, dtype or bits(v.dtype), written=True), v, strides, offset)

    def _operand(self, operand: Operand, v: Value, strides: tuple[int, ...], offset: int) -> _Handle:
        assert not self._axes, "operands come before statements: they decide which axes merge"
        handle = _Handle(operand, v, tuple([strides[k] for k in self._axes_of_space]), offset)
        self._handles.append(handle)
        return handle

    # words and scalars

    def word(self, name: str, value: int) -> str:
        """The name of an int64 word of the argument block."""
        if name not in self._words:
            self._words.append(name)
            self._word_values.append(value)
        return name

    def scalar(self, value: Any, dtype: np.dtype) -> str:
        """The name of a literal that is handed over in the argument block."""
        name = f"c{len(self._scalars)}"
        self._scalars.append(Scalar(name, dtype))
        self._scalar_values.append((value, dtype))
        return name

    def stride(self, name: str, value: int) -> str:
        """A stride for an index: 1 as a literal, which is part of the kernel's structure, else a word."""
        return "1" if value == 1 else self.word(name, value)

    # statements

    def load(self, handle: _Handle, more: str = "") -> str:
        """The name of the operand's element here; `more` is added to the index."""
        level = max(self._level(handle), self._level_of_text(more))
        if handle.operand.written:
            level = len(self._inner)  # another step may have written it since
        return self._name(level, lambda name: Load(name, handle.operand, self._index(handle, more)))

    def let(self, text: str, dtype: np.dtype, note: str = "") -> str:
        """The name of a computed value."""
        return self._name(self._level_of_text(text), lambda name: Let(name, text, dtype, note))

    def store(self, handle: _Handle, value: str, more: str = "") -> None:
        """Write an element."""
        level = max(self._level(handle), self._level_of_text(f"{value} {more}"))
        self._add(level, Store(handle.operand, self._index(handle, more), value))

    def flag(self, node: Node, when: str) -> None:
        """Report the node's operands as faulty where the condition holds."""
        if self._check is None:
            self._check = Check(node, Value(spec((1,), _BOOL)))
            operand = Operand(f"o{sum(h.operand.written for h in self._handles)}", _BOOL, written=True)
            self._handles.append(_Handle(operand, self._check.flag, (0,) * len(self._space), 0))
        self._add(self._level_of_text(when), Flag(self._handles[-1].operand, when))

    def position(self, node: Node, index: _Handle, size: int, suffix: str = "") -> str:
        """An index of an axis of `size` elements: from the front, checked, and 0 where it is at fault."""
        n = self.word(f"n_axis{suffix}", size)
        k = self.load(index)
        front = self.let(f"i64({k}) + {n} if {k} < 0 else i64({k})", _INT64, "from the front")
        bad = self.let(f"u64({front}) >= u64({n})", _BOOL, "too large, or still negative")
        self.flag(node, bad)
        return self.let(f"0 if {bad} else {front}", _INT64)

    def _name(self, level: int, make: Any) -> str:
        name = f"v{len(self._levels)}"
        self._levels[name] = level
        self._add(level, make(name))
        return name

    def _add(self, level: int, statement: Statement) -> None:
        self._bodies[level].append(statement)

    def _level_of_text(self, text: str) -> int:
        self._settle()
        return max([self._levels[name] for name in _NAME.findall(text)], default=0)

    # axes

    def _settle(self) -> None:
        """Merge axes, and decide which are shared out and which are loops."""
        if self._bodies:
            return
        runs = collapse(self._space, self._classes, [h.strides for h in self._handles])
        self._runs = runs
        self._sizes = [math.prod(self._space[k] for k in run) for run in runs]
        classes = [self._classes[run[0]] for run in runs]
        lead = [k for k, c in enumerate(classes) if c == _LEAD]
        if _RUNNING not in classes and len(lead) > 1:
            lead = lead[:-1]
        self._outer, self._inner = lead, [k for k in range(len(runs)) if k not in lead]
        self._split = next((k for k in self._inner if classes[k] == _REST), None) if not lead else None
        self._axes = [Axis("", "")] * len(runs)
        for letter, members in (("i", self._outer), ("j", self._inner)):
            for position, k in enumerate(members):
                name = f"{letter}{position}" if len(members) > 1 else letter
                self._axes[k] = Axis(name, self.word(f"n_{name}", self._sizes[k]))
        self._bodies = [[] for _ in range(len(self._inner) + 1)]

    def _level(self, handle: _Handle) -> int:
        self._settle()
        found = [p + 1 for p, k in enumerate(self._inner) if handle.strides[self._runs[k][-1]]]
        return max(found, default=0)

    def _index(self, handle: _Handle, more: str) -> str:
        """`i * x0_i + j`: a stride of 1 on the innermost axis is part of the kernel's structure."""
        name = handle.operand.name
        if name not in self._texts:
            terms = []
            for k, axis in enumerate(self._axes):
                stride = handle.strides[self._runs[k][-1]]
                if stride == 1 and k == len(self._axes) - 1:
                    terms.append(axis.name)
                elif stride:
                    terms.append(f"{axis.name} * {self.word(f'{name}_{axis.name}', stride)}")
            self._texts[name] = " + ".join(terms)
        return " + ".join(filter(None, (self._texts[name], more))) or "0"

    # the result

    def lowered(self, in_place: tuple[tuple[Value, Value], ...] = ()) -> Lowered:
        """The kernel, and its argument words; `in_place` are pairs (input, output) that may share memory."""
        self._settle()
        body = self._bodies[-1]
        running = [self._classes[run[0]] == _RUNNING for run in self._runs]
        for level in reversed(range(len(self._inner))):
            k = self._inner[level]
            body = [
                *self._bodies[level],
                Loop(self._axes[k], body, split=k == self._split, running=running[k]),
            ]
        if self._split is not None:
            extent = self._sizes[self._split]
        else:
            extent = math.prod(self._sizes[k] for k in self._outer)
        made = KernelSpec(
            Mode.MAP, [h.operand for h in self._handles], self._words, self._scalars, [self._axes[k] for k in self._outer], body,
            self.title, [self.title],
        )  # fmt: skip
        bases = [(h.value, h.offset * h.operand.dtype.itemsize) for h in self._handles]
        return Lowered(
            made,
            bases,
            self._word_values,
            self._scalar_values,
            extent,
            math.prod(self._sizes),
            [],
            list(in_place),
            self._check,
        )
