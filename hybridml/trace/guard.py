"""One trace of a function, and the guard that recognises the calls it can answer."""

from __future__ import annotations

import contextlib
import copy
from array import array
from typing import Any

import numpy as np

from hybridml import backends, dtypes, pytree
from hybridml.eager.creation import asarray
from hybridml.eager.tensor import Tensor, wrap
from hybridml.eager.variable import Variable
from hybridml.errors import DTypeError
from hybridml.kernels.recognise import NO_ANSWER
from hybridml.trace.concrete import ConcreteFunction
from hybridml.trace.entry import FastWay, fast_way
from hybridml.trace.signature import is_tensor, leaf_key
from hybridml.trace.watch import Read

NUMBERS = {int: dtypes.int64, float: dtypes.float64}  # how a Python number that varies enters a graph


def _scalar(x: float) -> np.ndarray:
    """A Python number as an input of a graph."""
    try:
        return np.array(x, NUMBERS[type(x)])
    except OverflowError:
        raise DTypeError(
            f"expected a Python int that fits into int64, got {x}; pass a float, or a smaller int"
        ) from None


class Trace:
    """A concrete function and the guard that recognises calls it can answer."""

    __slots__ = (
        "_tried", "args", "array_type", "concrete", "fast", "guards", "hits", "n", "numbers", "places", "reads", "structure",
        "takes_no_tensor",
    )  # fmt: skip

    def __init__(
        self,
        concrete: ConcreteFunction,
        leaves: list[Any],
        structure: pytree.Structure,
        numbers: frozenset[int],
        hits: array[int],
    ) -> None:
        self.concrete = concrete
        self.hits = hits  # where calls that it answers are counted
        self.reads: tuple[Read, ...] = ()
        self.numbers = numbers
        self.array_type = concrete.backend.array_type
        self.takes_no_tensor = not any(isinstance(x, Variable) or is_tensor(x) for x in leaves)
        self.fast: FastWay | None = None
        self._tried = False  # whether there can be a fast way
        args, kwargs = structure.children
        self.args = args
        flat = not kwargs.children and all(c.node is None for c in args.children)
        self.structure = None if flat else args
        self.n = len(leaves) if not kwargs.children else -1  # a call by keywords takes the slow way
        self.guards: list[tuple[Any, Any]] = []
        of = {id(v): j for j, v in enumerate(concrete.variables)}
        self.places = [(i, of.get(id(x))) for i, x in enumerate(leaves) if isinstance(x, Variable)]
        for i, x in enumerate(leaves):
            if isinstance(x, Variable):
                self.guards.append((None, x))
            elif i in numbers:
                self.guards.append((NUMBERS[type(x)], type(x)))
            elif is_tensor(x):
                self.guards.append((x.dtype, tuple(x.shape)))
            else:
                self.guards.append((None, leaf_key(x)))

    @property
    def captured(self) -> set[int]:
        """Ids of the variables that the function reads or assigns without being given them."""
        given = {j for _, j in self.places}
        return {id(v) for j, v in enumerate(self.concrete.variables) if j not in given}

    def on(self, leaves: list[Any]) -> Trace:
        """The trace for the variables among these arguments."""
        if all(leaves[i] is self.guards[i][1] for i, _ in self.places):
            return self
        variables = list(self.concrete.variables)
        other = copy.copy(self)
        other.fast, other._tried = None, False
        other.guards = list(self.guards)
        for i, j in self.places:
            other.guards[i] = (None, leaves[i])
            if j is not None:
                variables[j] = leaves[i]
        other.concrete = self.concrete.on(variables)
        return other

    def tensors(self, leaves: list[Any]) -> list[Tensor]:
        """The leaves that are inputs of the graph, as tensors."""
        backend = self.concrete.backend
        with contextlib.nullcontext() if backend.on_cpu else backends.device(backend.name):
            return [
                wrap(backend.put(_scalar(x)))
                if i in self.numbers
                else x
                if isinstance(x, Tensor)
                else asarray(x)
                for i, x in enumerate(leaves)
                if i in self.numbers or is_tensor(x)
            ]

    def answer(self, args: tuple[Any, ...], tried: bool) -> Any:
        """What the function returns for a call that fits, or NO_ANSWER.

        The first call that fits, the second of its kind, makes the fast way of those that follow; what that does not recognise (it is not
        asked again where it was `tried`) is looked at here.
        """
        if not tried and self.fast is not None and (found := self.fast(args)) is not NO_ANSWER:
            return found
        arrays = self.match(args)
        if arrays is None:
            return NO_ANSWER
        if not self._tried and self.concrete.is_bare:
            self.fast, self._tried = fast_way(self, args), True
        self.hits[0] += 1
        return self.concrete.returned(self.concrete.run(arrays))

    def match(self, args: tuple[Any, ...]) -> list[np.ndarray] | None:
        """The input arrays of a call that fits, or None."""
        if self.structure is not None:
            found = pytree.leaves_of(args, self.structure)
            if found is None:
                return None
            leaves: Any = found
        else:
            leaves = args
        if len(leaves) != self.n or (
            self.takes_no_tensor and backends.elsewhere and not self.concrete.variables
            and backends.current() is not self.concrete.backend
        ):  # fmt: skip
            return None
        arrays: list[Any] = []
        array_type: Any = self.array_type
        a: Any
        for x, (dtype, expected) in zip(leaves, self.guards, strict=True):
            if type(x) is Tensor:
                a = x._array
            elif type(x) is np.ndarray:
                a = x
            elif dtype is None:
                other = isinstance(expected, Variable) or is_tensor(x)
                if x is expected or (not other and leaf_key(x) == expected):
                    continue
                return None
            elif type(x) is expected:  # a number that this trace takes as a scalar
                arrays.append(self.concrete.backend.put(_scalar(x)))
                continue
            else:
                return None
            if a.dtype is not dtype or a.shape != expected or type(a) is not array_type:
                return None
            arrays.append(a if a.flags.c_contiguous else backends.contiguous(a))
        return arrays
