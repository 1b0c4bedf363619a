"""The fast way of a call: a trace's guard as rows that native code walks, so that Python does nothing for each argument."""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from hybridml import buffers, pytree
from hybridml.eager.tensor import Tensor, wrap
from hybridml.eager.variable import Variable
from hybridml.kernels import layout, objects
from hybridml.kernels.driver import Program
from hybridml.kernels.recognise import Rows
from hybridml.trace.signature import ObjectKey

if TYPE_CHECKING:
    from hybridml.trace.guard import Trace


@functools.cache
def slots() -> tuple[int, int] | None:
    """How far into a Tensor and into a Variable their array lies; None where native code cannot read objects."""
    if not objects.known():
        return None
    array = np.zeros(1)
    tensor, variable = wrap(array), Variable(0.0)
    found = objects.slot_of(Tensor, tensor, array), objects.slot_of(Variable, variable, variable._array)
    return None if None in found else found  # type: ignore[return-value]


class Unrecognisable(Exception):
    """Arguments that only Python code can recognise."""


def entry_of(trace: Trace, args: tuple[Any, ...]) -> Entry | None:
    """The fast way into a trace's program; `args` are arguments that fit the trace. None where only Python code can tell what fits."""
    concrete, places = trace.concrete, slots()
    program = concrete.program.alone
    if program is None or places is None or (trace.takes_no_tensor and not concrete.variables):
        return None
    try:
        walk = _Walk(trace, args, places[0])
    except Unrecognisable:
        return None
    written = set(map(id, concrete.assigned))
    for j, v in enumerate(concrete.variables):
        walk.rows.state(v, places[1], walk.inputs + j, id(v) in written)
    return Entry(walk, program, walk.inputs + len(concrete.variables), concrete.program.results)


class Entry:
    """A program and the rows that recognise a call's arguments."""

    __slots__ = ("_blank", "_call", "_numbers", "_program", "_results", "_start")

    def __init__(
        self,
        walk: _Walk,
        program: Program,
        start: int,
        results: list[tuple[buffers.Empty, tuple[int, ...], np.dtype]],
    ) -> None:
        self._call, self._program = walk.rows.finish(program), program
        self._start, self._blank, self._numbers = start, [None] * start, walk.scalars
        self._results = results

    def run(self, args: tuple[Any, ...]) -> list[np.ndarray] | None:
        """The results of a call of these arguments, or None if they are others."""
        arrays: list[Any] = self._blank.copy()
        for empty, shape, dtype in self._results:
            arrays.append(empty(shape, dtype))
        for i, dtype in self._numbers:
            arrays[i] = np.empty((), dtype)
        result = self._call(arrays, args)
        if result:
            if result == layout.MISFIT:
                return None
            self._program.after(result, arrays)
        del arrays[: self._start]
        return arrays


class _Walk:
    """Writes the rows for the arguments of a call and everything in them."""

    def __init__(self, trace: Trace, args: tuple[Any, ...], slot: int) -> None:
        self.rows = Rows(Tensor, slot)
        self.inputs = 0
        self.scalars: list[tuple[int, np.dtype]] = []  # inputs that are Python numbers
        self._guards = iter(enumerate(trace.guards))
        self._numbers = trace.numbers
        self._nest(args, trace.args, self.rows.root)

    def _nest(self, x: Any, s: pytree.Structure, place: int) -> None:
        if s.node is None:
            self._leaf(x, place)
        elif x is None:
            self.rows.the(x, place)
        elif pytree.is_state(x):
            self._object(x, s, place)
        elif pytree.is_container(s.node):
            first = self.rows.items(x, place)
            order = list(x) if isinstance(x, dict) else range(len(x))
            places = {key: first + i for i, key in enumerate(order)}
            keys: Any = s.aux if isinstance(x, dict) else order
            for key, child in zip(keys, s.children, strict=True):
                self._nest(x[key], child, places[key])
        else:
            raise Unrecognisable

    def _object(self, x: Any, s: pytree.Structure, place: int) -> None:
        """An object with state: itself, and everything below it is what it was."""
        self.rows.alive(weakref.ref(x), place)
        form: Any = pytree.flatten(x, opened=True)[1].aux
        for container, values in form.contents():
            first = self.rows.items(container, self.rows.known(container))
            for i, value in enumerate(values):
                self.rows.the(value, first + i)
        for _ in range(s.n_leaves):
            next(self._guards)

    def _leaf(self, x: Any, place: int) -> None:
        i, (dtype, expected) = next(self._guards)
        if isinstance(expected, Variable):
            self.rows.the(x, place)
        elif i in self._numbers:
            self.scalars.append((self.inputs, dtype))
            self.rows.number(type(x), place, self._input())
        elif dtype is None:
            self._constant(x, expected, place)
        elif type(x) is Tensor or type(x) is np.ndarray:
            self.rows.array(place, dtype, expected, self._input())
        else:
            raise Unrecognisable

    def _input(self) -> int:
        self.inputs += 1
        return self.inputs - 1

    def _constant(self, x: Any, key: Any, place: int) -> None:
        if type(x) is float or (type(x) is int and abs(x) < 2**63):
            self.rows.equals(x, place)
        elif not isinstance(key, ObjectKey):
            self.rows.the(x, place)  # an equal value in another object is recognised by Python code
        elif isinstance(key.ref, weakref.ref):
            self.rows.alive(key.ref, place)
        else:
            raise Unrecognisable
