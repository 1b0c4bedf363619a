"""Checkpointing: keep what a function was given, and compute what is inside again when its gradient is asked for.

(Chen et al., "Training deep nets with sublinear memory cost", 2016.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from hybridml import pytree
from hybridml.eager.state import state, traced_form
from hybridml.eager.step import is_watched, record_step
from hybridml.eager.tape import GradientTape
from hybridml.eager.tensor import Tensor
from hybridml.eager.variable import Variable
from hybridml.ops.identity import stop_gradient


def checkpoint(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` with the same values and gradients, whose inner steps no tape holds on to: the gradient runs `f` a second time.

    Takes any arguments; gradients reach tensors among them, and tensors and variables that `f` closes over. The second run finds
    variables, random number generators among them, as the first one found them, and what it assigns is undone. Eagerly, Python side
    effects happen twice; in a traced function once a trace, as ever, and what `f` needs to hand on it must return.

    >>> import hybridml as hml
    >>> x = hml.asarray(2.0)
    >>> float(hml.grad(hml.checkpoint(lambda x: hml.exp(x) * x))(x)) == float(hml.grad(lambda x: hml.exp(x) * x)(x))
    True
    """

    @functools.wraps(f, updated=())
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        run = functools.partial(traced_form(f), *args, **kwargs)
        if state.now.traces:
            return state.now.traces[-1].checkpoint(run)
        if not state.now.tapes:
            return run()
        sources = _Sources(state.now.tapes)
        tapes, state.now.tapes = state.now.tapes, [sources]  # type: ignore[list-item]  # stands in for a tape
        try:
            out = run()
        finally:
            state.now.tapes = tapes
        with _nothing_recorded():
            leaves, structure = pytree.flatten(out)
            leaves = [x.value() if isinstance(x, Variable) else x for x in leaves]
            # a tensor that came from outside is handed on under a new name: a step does not give what it takes
            leaves = [stop_gradient(x) if isinstance(x, Tensor) and x._id is not None else x for x in leaves]
        results = [x for x in leaves if isinstance(x, Tensor)]
        found = sources.tensors()
        record_step(found, results, _recomputation(run, found, sources.variables))
        return pytree.unflatten(structure, leaves)

    return checkpointed


class _Sources:
    """Stands in for the tapes while the function runs: notes what they watch and what variables were, and keeps nothing else."""

    def __init__(self, tapes: list[GradientTape]) -> None:
        self._tapes = tapes
        self._found: dict[Any, Any] = {}
        self.variables: dict[
            Variable, np.ndarray
        ] = {}  # holding the array keeps assignments from changing it

    def tensors(self) -> list[Any]:
        return list(self._found.values())

    def is_watching(self, x: Any) -> bool:
        if isinstance(x, (Tensor, Variable)) and any(is_watched(t, x) for t in self._tapes):
            self._found.setdefault(id(x) if x._id is None else -x._id, x)
        return False

    def record(self, op: Any, attrs: Any, operands: list[Any], result: Any) -> None:
        for x in operands:
            self.is_watching(x)

    def accessed(self, variable: Variable) -> None:
        self.variables.setdefault(variable, variable._array)
        for t in self._tapes:
            t.accessed(variable)

    def assigned(self, variable: Variable, value: Any) -> None:
        self.variables.setdefault(variable, variable._array)

    def left(self, x: Any, how: str) -> None:
        for t in self._tapes:
            t.left(x, how)


def _recomputation(
    run: Callable[[], Any], sources: list[Any], variables: dict[Variable, np.ndarray]
) -> Callable[[list[Any], list[bool]], list[Any]]:
    def pull(grads: list[Any], wanted: list[bool]) -> list[Any]:
        with GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            with _as_they_were(variables):
                leaves = [x.value() if isinstance(x, Variable) else x for x in pytree.leaves(run())]
        results = [x for x in leaves if isinstance(x, Tensor)]
        pairs = [(r, g) for r, g in zip(results, grads, strict=True) if g is not None]
        found = tape._gradients([r for r, _ in pairs], [g for _, g in pairs], sources)
        return [g if want else None for g, want in zip(found, wanted, strict=True)]

    return pull


@contextmanager
def _as_they_were(variables: dict[Variable, np.ndarray]) -> Iterator[None]:
    """With the values of then; whatever is assigned inside is undone. Other threads must leave these variables alone meanwhile."""
    now = {v: v._array for v in variables}
    for v, array in variables.items():
        v._array = array
    try:
        yield
    finally:
        for v, array in now.items():
            v._array = array


@contextmanager
def _nothing_recorded() -> Iterator[None]:
    tapes, state.now.tapes = state.now.tapes, []
    try:
        yield
    finally:
        state.now.tapes = tapes
