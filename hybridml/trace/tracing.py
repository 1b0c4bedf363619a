"""Writing a Python function down: once for these arguments, or once for whatever sizes of theirs may vary."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hybridml import backends, pytree
from hybridml.eager.state import state
from hybridml.eager.variable import Variable
from hybridml.errors import TraceError
from hybridml.ops.spec import TensorSpec, spec
from hybridml.symbolic import Dim, Guards, Scope
from hybridml.symbolic.polynomial import atom
from hybridml.trace import autograph
from hybridml.trace.any_size import AnySize
from hybridml.trace.builder import Builder
from hybridml.trace.concrete import ConcreteFunction
from hybridml.trace.families import NUMBER
from hybridml.trace.general import General
from hybridml.trace.signature import Binder, Place, Places, is_tensor, leaf_names
from hybridml.trace.watch import Read, is_plain, reads_of
from hybridml.trace.written import Written, write

STAND_IN_SIZE = (
    120  # what comparisons are answered by where a size is open and no call has come: it has many divisors
)


def stand_in(x: Any) -> Any:
    """An array of a specification's shape, which takes no memory; all else as it is."""
    return np.broadcast_to(np.zeros((), x.dtype), x.shape) if isinstance(x, TensorSpec) else x


class Tracing:
    """A Python function and how it is to be traced. `instance` is whose method it is."""

    def __init__(
        self, python_function: Callable[..., Any], name: str, binder: Binder, converts: bool, check: bool, background: bool
    ) -> None:  # fmt: skip
        self.python_function, self.name, self.binder = python_function, name, binder
        self._converts, self._check, self._background = converts, check, background
        self._owned: dict[Any, Variable] = {}  # those that the function makes, by the place where it does
        self.instance: weakref.ref[Any] | None = None

    def run(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The Python function: as it is when it runs eagerly, with its control flow converted when it is traced or mapped."""
        if self._converts and (state.now.traces or state.now.levels):
            return autograph.run(self.python_function, args, kwargs)
        return self.python_function(*args, **kwargs)

    def source(self) -> str:
        """The function after control-flow conversion, or its own text with the reason why it was not converted."""
        return autograph.text(self.python_function) if self._converts else "# not converted: autograph=False"

    def build(
        self, leaves: list[Any], structure: pytree.Structure, numbers: frozenset[int] = frozenset(), device: str = "cpu:0"
    ) -> ConcreteFunction:  # fmt: skip
        """Run the function once on symbolic tensors and compile what it wrote down.

        `numbers` are the positions of Python numbers that enter as weakly typed scalars rather than by value.
        """
        w = self._written(leaves, structure, numbers)
        return ConcreteFunction(
            w.graph, w.variables, w.outputs, w.seconds, self._check, w.named, None, self._background, backends.named(device)
        )  # fmt: skip

    def generalise(
        self, leaves: list[Any], structure: pytree.Structure, places: Places, sizes: dict[Place, int], device: str = "cpu:0"
    ) -> General:  # fmt: skip
        """Run the function once with these sizes as symbols; `sizes` are what comparisons are answered by."""
        scope, guards = Scope(self.name), Guards()
        dims = {place: Dim(atom(scope.symbol(size)), scope) for place, size in sizes.items()}

        def symbolic(i: int, s: TensorSpec) -> TensorSpec:
            return spec([dims.get((i, a), d) for a, d in enumerate(s.shape)], s.dtype)

        numbers = frozenset([i for i, axis in places if axis == NUMBER])
        with scope.deciding(guards):
            w = self._written(leaves, structure, numbers, symbolic)
        return General(
            scope, guards, tuple(sizes), w.graph, w.variables, w.outputs, w.seconds, self._check, w.named, self._background,
            backends.named(device),
        )  # fmt: skip

    def any_size(self, leaves: list[Any], structure: pytree.Structure, device: str) -> AnySize:
        """The trace for specifications with open sizes.

        Raises TraceError where the function needs to know one of them.
        """
        specs = [(i, x) for i, x in enumerate(leaves) if isinstance(x, TensorSpec)]
        hints = {(i, a): STAND_IN_SIZE for i, x in specs for a, d in enumerate(x.shape) if d is None}
        general = self.generalise(leaves, structure, frozenset(hints), hints, device)
        names = self.names(structure)
        for (i, axis), guard in general.pinned.items():
            raise TraceError(
                f"argument `{names[i]}`: the size of axis {axis} cannot be left open, because the function is traced for one size "
                f"only where {guard}\nGive that size in the TensorSpec"
            )

        def retrace(specs: list[TensorSpec]) -> ConcreteFunction:
            given = iter(specs)
            new = [next(given) if is_tensor(x) or isinstance(x, TensorSpec) else x for x in leaves]
            return self.build(new, structure, device=device)

        return AnySize(general, retrace)

    def _written(
        self,
        leaves: list[Any],
        structure: pytree.Structure,
        numbers: frozenset[int],
        symbolic: Callable[[int, TensorSpec], TensorSpec] = lambda i, s: s,
    ) -> Written:
        builder = Builder(self.name, self._owned)
        builder.converts = self._converts
        return write(builder, self.run, leaves, structure, self.names(structure), numbers, symbolic)

    # what the arguments are called, and what the function knows besides them

    def names(self, structure: pytree.Structure) -> list[str]:
        """Of the leaves of a call's arguments."""
        return leaf_names(structure, self.binder)

    def reads(self, leaves: list[Any], structure: pytree.Structure) -> tuple[Read, ...]:
        """The Python values from outside that the function reads, with what they are now."""
        return reads_of(self.python_function, self._objects(leaves, structure))

    def _objects(self, leaves: list[Any], structure: pytree.Structure) -> dict[str, Any]:
        """Arguments that are objects, whose attributes the function may read, by name."""
        known = {
            name: x
            for x, name in zip(leaves, self.names(structure), strict=True)
            if not is_tensor(x) and not is_plain(x) and not isinstance(x, (Variable, TensorSpec))
        }
        instance = self.instance() if self.instance is not None else None
        code = getattr(inspect.unwrap(self.python_function), "__code__", None)
        if instance is not None and code is not None and code.co_argcount:
            known[code.co_varnames[0]] = instance
        return known
