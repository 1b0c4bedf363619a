"""The fast way of a call: a trace's guard as rows that native code walks, so that Python does nothing for each argument."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hybridml import pytree
from hybridml.eager.tensor import Tensor, wrap
from hybridml.eager.variable import Variable
from hybridml.kernels import objects
from hybridml.kernels.recognise import NO_ANSWER, Form, Rows
from hybridml.trace.signature import ObjectKey

if TYPE_CHECKING:
    from hybridml.trace.guard import Trace


@functools.cache
def forms() -> tuple[Form, int] | None:
    """What native code knows of a Tensor, and how far into a Variable its array lies; None where it cannot read objects."""
    if not objects.known():
        return None
    array = np.zeros(1)
    tensor, variable = wrap(array), Variable(0.0)
    at, none = objects.slot_of(Tensor, tensor, array), objects.slot_of(Tensor, tensor, None)
    of_variable = objects.slot_of(Variable, variable, variable._array)
    if at is None or none is None or of_variable is None:
        return None
    return Form(Tensor, at, none), of_variable


FastWay = Callable[[tuple[Any, ...]], Any]
"""Of a call's arguments: what the function returns for them, or NO_ANSWER."""


class Unrecognisable(Exception):
    """Arguments that only Python code can recognise."""


def fast_way(trace: Trace, args: tuple[Any, ...]) -> FastWay | None:
    """What answers calls of the trace; `args` are arguments that fit it. None where only Python code can tell what fits."""
    concrete, known = trace.concrete, forms()
    program = concrete.program.alone
    if program is None or known is None or (trace.takes_no_tensor and not concrete.variables):
        return None
    try:
        walk = _Walk(trace, args, known[0])
    except Unrecognisable:
        return None
    rows, variables = walk.rows, concrete.variables
    written = set(map(id, concrete.assigned))
    for j, v in enumerate(variables):
        rows.state(v, known[1], walk.inputs + j, id(v) in written)
    for i, (shape, dtype) in enumerate(concrete.program.results):
        rows.result(dtype, shape, walk.inputs + len(variables) + i)
    call = rows.finish(program, concrete.plan.single)
    if concrete.plan.single or concrete.plan.flat:
        return call
    filled = concrete.plan.filled

    def answer(args: tuple[Any, ...]) -> Any:
        results = call(args)
        return NO_ANSWER if results is NO_ANSWER else filled(results)

    return answer


class _Walk:
    """Writes the rows for the arguments of a call and everything in them."""

    def __init__(self, trace: Trace, args: tuple[Any, ...], form: Form) -> None:
        self.rows = Rows(form, trace.hits)
        self.inputs = 0
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
