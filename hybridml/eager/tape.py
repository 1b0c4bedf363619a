"""GradientTape: record what happened, then walk it backwards.

An entry keeps what its gradient rule reads (`Op.saves`) and specs for the rest. `backward` walks them; its rules are written in public
ops, so walking back under another tape, or inside a trace, needs nothing special: that is how higher orders and traced gradients come
about.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from hybridml import dtypes, pytree
from hybridml.eager.backward import Entry, Rule, gradients
from hybridml.eager.creation import asarray, beside, ones_like, zeros_like
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor, wrap
from hybridml.eager.variable import Variable, next_id
from hybridml.errors import GradientWarning, ShapeError, TapeError, user_line, user_stacklevel
from hybridml.ops.registry import PUBLIC, Op

Pullback = Rule


class GradientTape:
    """Records operations on watched tensors, so that gradients can be asked for afterwards.

    Trainable variables are watched when they are read (`watch_accessed_variables`), tensors when `watch` is called. A tape
    answers `gradient` once and lets go of its memory, unless it is `persistent`.

    >>> import hybridml as hml
    >>> x = hml.asarray(3.0)
    >>> with hml.GradientTape() as tape:
    ...     tape.watch(x)
    ...     y = x * x
    >>> float(tape.gradient(y, x))
    6.0
    """

    def __init__(self, persistent: bool = False, watch_accessed_variables: bool = True) -> None:
        self._persistent = persistent
        self._watch_accessed = watch_accessed_variables
        self._used = False
        self._stopped = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything recorded and watched."""
        self._entries: list[Entry] = []
        self._watched: set[int] = set()
        self._variables: dict[int, Variable] = {}
        self._left: dict[int, str] = {}  # how and where values of watched tensors left what is recorded

    # recording

    def __enter__(self) -> GradientTape:
        if self in state.now.tapes:
            raise TapeError("this tape is recording already; use a second tape for a nested gradient")
        state.now.tapes.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        state.now.tapes.remove(self)

    def watch(self, tensors: Any) -> None:
        """Record what happens to a tensor, a variable, or a structure of them."""
        for t in pytree.leaves(tensors):
            if not isinstance(t, (Tensor, Variable)):
                raise TapeError(
                    f"can only watch tensors and variables, got {type(t).__name__}; make one with hml.asarray"
                )
            if t._id is None:
                t._id = next_id()
            if dtypes.is_float(t.dtype):
                self._watched.add(t._id)
            if isinstance(t, Variable):
                self._variables[t._id] = t

    def watched_variables(self) -> tuple[Variable, ...]:
        """The variables watched so far, in the order of first use."""
        return tuple(self._variables.values())

    def accessed(self, variable: Variable) -> None:
        """A variable was read while this tape was active."""
        if (
            self._watch_accessed
            and variable.trainable
            and not self._stopped
            and variable._id not in self._watched
        ):
            self._watched.add(variable._id)
            self._variables[variable._id] = variable

    def assigned(self, variable: Variable, value: Any) -> None:
        """A variable is about to be assigned while this tape is active."""
        self.left(value, f"assigned to {variable!r}")

    def left(self, x: Any, how: str) -> None:
        """The values of a tensor went where no tape follows, while this tape was active."""
        if self.is_watching(x):
            self._left.setdefault(x._id, f"{how} at {user_line()}")

    def stop_recording(self) -> _Paused:
        """A context in which nothing is recorded on this tape."""
        return _Paused(self)

    def record(self, op: Op, attrs: dict[str, Any], operands: Sequence[Any], result: Any) -> None:
        """Called by the door after every op."""
        if (op.vjps is None and op.pullback is None) or self._stopped:
            return
        watched = self._watched
        ids = [x._id if isinstance(x, Tensor) and x._id in watched else None for x in operands]
        if not any(ids):
            return
        results = result if type(result) is tuple else (result,)
        if op.pullback is not None:
            self.add(ids, results, op.pullback(attrs, operands, results))
            return
        kept = operands if op.reads_inputs else [x.spec if isinstance(x, Tensor) else x for x in operands]
        outs = results if op.reads_output else tuple([r.spec for r in results])
        self._entries.append(Entry(ids, self._named(results), op, attrs, kept, outs))

    def record_played(
        self, op: Op, operands: Sequence[Any], kept: Sequence[Any], results: Sequence[Tensor]
    ) -> None:
        """A composite was played as one step, `op`, whose rule reads `kept`: operands, or specs of them."""
        ids = [x._id if x._id in self._watched else None for x in operands]
        if any(ids) and not self._stopped:
            self._entries.append(Entry(ids, self._named(results), op, {}, kept, results, played=True))

    def add(self, inputs: list[int | None], results: Sequence[Tensor], pullback: Pullback) -> None:
        """Record a step with its own rule; `inputs` are ids, None for what is not watched."""
        self._entries.append(Entry(inputs, self._named(results), None, {}, (), (), pullback))

    def _named(self, results: Sequence[Tensor]) -> list[int]:
        """The results' names; floats among them are watched from now on."""
        outputs = []
        for r in results:
            if r._id is None:
                r._id = next_id()
            outputs.append(r._id)
            if dtypes.is_float(r.dtype):
                self._watched.add(r._id)
        return outputs

    def is_watching(self, x: Any) -> bool:
        return isinstance(x, (Tensor, Variable)) and x._id in self._watched and not self._stopped

    # asking

    def gradient(
        self, target: Any, sources: Any, output_gradients: Any = None, unconnected_gradients: str = "none"
    ) -> Any:
        """The gradient of the sum of `target` with respect to each of `sources`, in the structure of `sources`.

        target: a tensor or a structure of tensors, of any shape; `output_gradients` (same structure) weighs its elements.
        unconnected_gradients: "none" gives None for a source the target does not depend on, "zero" gives zeros.
        Raises TapeError if a tape that is not persistent is asked twice.
        """
        if unconnected_gradients not in ("none", "zero"):
            raise ValueError(f'unconnected_gradients must be "none" or "zero", got {unconnected_gradients!r}')
        if self._used and not self._persistent:
            raise TapeError(
                "this tape was used up by an earlier call of gradient(); "
                "use GradientTape(persistent=True) to ask it several times"
            )
        self._used = True
        flat_sources, structure = pytree.flatten(sources)
        targets = [t.value() if isinstance(t, Variable) else t for t in pytree.leaves(target)]
        seeds = _seeds(targets, output_gradients)
        active = self in state.now.tapes
        if active:
            state.now.tapes.remove(self)
        try:
            found = self._gradients(targets, seeds, flat_sources)
            reasons = [
                self._why_none(s) if g is None and unconnected_gradients == "none" else ""
                for s, g in zip(flat_sources, found, strict=True)
            ]
        finally:
            if active:
                state.now.tapes.append(self)
            if not self._persistent:
                self._entries = []
        out = []
        for i, (s, g, why) in enumerate(zip(flat_sources, found, reasons, strict=True)):
            if g is None and unconnected_gradients == "zero":
                g = zeros_like(s)
            if why:
                _explain_once(_name(s, i, len(flat_sources)), why)
            out.append(g)
        return pytree.unflatten(structure, out)

    def _gradients(self, targets: list[Any], seeds: list[Any], sources: list[Any]) -> list[Any]:
        names = [s._id if isinstance(s, (Tensor, Variable)) else None for s in sources]
        begin = [
            (t._id, g)
            for t, g in zip(targets, seeds, strict=True)
            if isinstance(t, Tensor) and t._id is not None
        ]
        found = gradients(self._entries, begin, {i for i in names if i in self._watched})  # type: ignore[misc]
        return [None if i is None else found.get(i) for i in names]

    def _why_none(self, source: Any) -> str:
        if not isinstance(source, (Tensor, Variable)):
            return "it is not a tensor"
        if not dtypes.is_float(source.dtype):
            return f"its dtype is {source.dtype.name}; only floating point tensors have gradients"
        if source._id not in self._watched:
            return "the tape did not watch it: call tape.watch(x) before using it, or make it a trainable Variable"
        why = "the target does not depend on it through recorded, differentiable operations"
        reached = {source._id}
        for e in self._entries:
            if any(i in reached for i in e.inputs):
                reached.update(e.outputs)
        left = [how for i, how in self._left.items() if i in reached]
        if not left:
            return why
        return (
            f"{why}. What was computed from it was {left[0]}: gradients stop there. Go on with the tensor itself, in hml operations, "
            "or give the step a gradient with hml.custom_gradient"
        )

    def jacobian(self, target: Any, sources: Any, unconnected_gradients: str = "none") -> Any:
        """d target / d source with shape target.shape + source.shape, one backward walk an element of `target`.

        The tape must be persistent unless the target has one element.
        """
        rows = [
            self.gradient(
                target,
                sources,
                output_gradients=_one_hot(target, i),
                unconnected_gradients=unconnected_gradients,
            )
            for i in range(target.size)
        ]
        stack, reshape = PUBLIC["stack"], PUBLIC["reshape"]
        return pytree.map(
            lambda *gs: None if gs[0] is None else reshape(stack(list(gs)), (*target.shape, *gs[0].shape)),
            *rows,
        )

    def batch_jacobian(self, target: Any, source: Any) -> Any:
        """d target[i] / d source[i] for each row i: shape (rows, *target.shape[1:], *source.shape[1:])."""
        if target.ndim == 0 or source.ndim == 0 or target.shape[0] != source.shape[0]:
            raise ShapeError(f"batch_jacobian needs equal first sizes, got {target.shape} and {source.shape}")
        n = target.shape[0]
        flat = PUBLIC["reshape"]
        per = target.size // max(n, 1)
        rows = []
        for j in range(per):
            seed = _columns_seed(target, j)
            rows.append(self.gradient(target, source, output_gradients=seed))
        stacked = PUBLIC["stack"](rows, axis=1)
        return flat(stacked, (*target.shape, *source.shape[1:]))


def _name(source: Any, i: int, n: int) -> str:
    if isinstance(source, Variable):
        return repr(source)
    which = f"source {i}" if n > 1 else "the source"
    return f"{which}, {f'a tensor {source.spec}' if isinstance(source, Tensor) else f'a {type(source).__name__}'},"


_explained: set[tuple[str, str]] = set()  # (what and why, where it was asked)


def _explain_once(name: str, why: str) -> None:
    """Warn that a gradient is None, once for each cause and line that asks: a training loop says it once."""
    text = f"the gradient of {name} is None because {why}"
    cause = (text, str(user_line()))
    if cause in _explained:
        return
    if len(_explained) > 10_000:  # lines that are made on the fly
        _explained.clear()
    _explained.add(cause)
    warnings.warn(text, GradientWarning, stacklevel=user_stacklevel())


def _one_hot(target: Any, i: int) -> Tensor:
    seed = np.zeros(target.size, target.dtype)
    seed[i] = 1
    with beside(target):
        return asarray(seed.reshape(target.shape))


def _columns_seed(target: Any, j: int) -> Tensor:
    n = target.shape[0]
    one_row = np.zeros(target.size // max(n, 1), target.dtype)
    one_row[j] = 1
    with beside(target):
        row = asarray(one_row)
    return PUBLIC["reshape"](PUBLIC["broadcast_to"](row, (n, len(one_row))), target.shape)  # type: ignore[no-any-return]


_ones: dict[Any, np.ndarray] = {}  # one number of each dtype: where most gradients begin


def _one(t: Any) -> Tensor:
    if type(t) is not Tensor or type(t._array) is not np.ndarray or t._array.shape:
        return ones_like(t)
    dtype = t._array.dtype
    if dtype not in _ones:
        _ones[dtype] = np.ones((), dtype)
    return wrap(_ones[dtype])


def _seeds(targets: list[Any], output_gradients: Any) -> list[Any]:
    if output_gradients is None:
        return [_one(t) for t in targets]
    given = pytree.leaves(output_gradients)
    if len(given) != len(targets):
        raise ShapeError(f"output_gradients has {len(given)} tensors for {len(targets)} targets")
    seeds = [_seed(g, t) for g, t in zip(given, targets, strict=True)]
    for g, t in zip(seeds, targets, strict=True):
        if g.shape != t.shape:
            raise ShapeError(
                f"an output gradient has shape {g.shape}, its target {t.shape}; they must be equal"
            )
    return seeds


def _seed(g: Any, target: Any) -> Tensor:
    if isinstance(g, Tensor):
        return g
    with beside(target):
        return asarray(g, dtype=target.dtype)


class _Paused:
    def __init__(self, tape: GradientTape) -> None:
        self._tape = tape

    def __enter__(self) -> None:
        self._tape._stopped += 1

    def __exit__(self, *_: Any) -> None:
        self._tape._stopped -= 1
