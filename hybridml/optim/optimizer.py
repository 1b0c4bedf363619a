"""What all optimisers share: the step counter, the learning rate, slots, and the one place where variables are assigned.

An optimiser is a pure rule, `delta(x, g, slots, c) -> (step, new slots)`, over tensors of one parameter. Scalars that are the
same for all parameters (bias corrections, a schedule's value) are computed once a step, in float64, by `coefficients`. So the
update of one parameter is a chain of elementwise ops, which a traced function runs as one kernel.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import hybridml as hml
from hybridml.errors import GradientWarning, ShapeError, user_stacklevel

Schedule = Callable[[Any], Any]
Coefficients = dict[str, Any]
Slots = tuple[Any, ...]


class Optimizer:
    """Base class.

    learning_rate: a number, a 0-d `Variable`, or a schedule: a function of the number of steps done so far (an int64 tensor of
        shape ()) that returns a number or a tensor of shape (). A number is kept in a variable: set `opt.learning_rate = 0.01`
        at any time, and functions that are traced already follow.
    weight_decay: each step also takes `learning_rate * weight_decay * x` off a parameter x. It is decoupled from the
        gradient, as in AdamW, for every optimiser.

    >>> import hybridml as hml
    >>> w = hml.Variable([1.0, 2.0])
    >>> opt = hml.optim.SGD(0.5)
    >>> opt.apply_gradients([(hml.asarray([1.0, 1.0]), w)])
    >>> w.numpy().tolist()
    [0.5, 1.5]
    """

    slot_names: ClassVar[tuple[str, ...]] = ()
    decays_in_delta: ClassVar[bool] = False  # True where the rule applies weight_decay itself

    def __init__(self, learning_rate: Any, *, weight_decay: float = 0.0) -> None:
        self.iterations = hml.Variable(0, dtype=hml.int64, trainable=False, name="iterations")
        self.weight_decay = _not_negative("weight_decay", weight_decay)
        self._slots: dict[Any, Slots] = {}  # by variable, so that a trace knows that they are told apart
        self._built: list[
            Any
        ] = []  # keeps variables alive, so that an id is never used again for another one
        self._warned: set[int] = set()
        self._rate: Any = None
        self.learning_rate = learning_rate

    # the learning rate

    @property
    def learning_rate(self) -> Any:
        """The variable or the schedule that the learning rate comes from."""
        return self._rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if isinstance(value, hml.Variable):
            if value.shape != ():
                raise ShapeError(f"a learning rate variable must have shape (), got {value!r}")
            self._rate = value
        elif callable(value):
            self._rate = value
        elif isinstance(self._rate, hml.Variable):
            self._rate.assign(hml.asarray(_not_negative("learning_rate", value), dtype=hml.float64))
        else:
            number = _not_negative("learning_rate", value)
            self._rate = hml.Variable(number, dtype=hml.float64, trainable=False, name="learning_rate")

    def _rate_now(self, step: Any) -> Any:
        rate = self._rate.value() if isinstance(self._rate, hml.Variable) else self._rate(step)
        return hml.asarray(rate, dtype=hml.float64)

    # state

    @property
    def variables(self) -> list[Any]:
        """All state: the step counter, the learning rate if it is a variable, and every slot."""
        rate = [self._rate] if isinstance(self._rate, hml.Variable) else []
        return [self.iterations, *rate, *[s for v in self._built for s in self._slots[v]]]

    def build(self, variables: Iterable[Any]) -> None:
        """Make the slots of variables that have none yet; `apply_gradients` does it by itself."""
        for v in variables:
            if v in self._slots:
                continue
            if not isinstance(v, hml.Variable):
                raise TypeError(
                    f"an optimiser updates Variables, got {type(v).__name__}; make one with hml.Variable(x)"
                )
            with hml.init_scope():
                made = [
                    hml.Variable(hml.zeros(v.shape, dtype=v.dtype), trainable=False, name=f"{v.name}/{slot}")
                    for slot in self.slot_names
                ]
            self._slots[v] = tuple(made)
            self._built.append(v)

    def slots(self, variable: Any) -> dict[str, Any]:
        """The slot variables of one variable by name; empty if it was never updated."""
        return dict(zip(self.slot_names, self._slots.get(variable, ()), strict=False))

    # updates

    def apply_gradients(self, grads_and_variables: Iterable[tuple[Any, Any]]) -> None:
        """One step: `apply_gradients(zip(grads, variables))`.

        A gradient has its variable's shape. A variable whose gradient is None is left alone, with one GradientWarning. Raises
        ValueError if there is nothing to apply, ShapeError for a gradient of another shape.
        """
        pairs = self._checked(list(grads_and_variables))
        self.build([v for _, v in pairs])
        step = self.iterations.value()
        shared = self.coefficients(self._rate_now(step), step)
        by_dtype: dict[Any, Coefficients] = {}
        for g, v in pairs:
            c = by_dtype.get(v.dtype)
            if c is None:
                c = by_dtype[v.dtype] = {k: hml.astype(x, v.dtype) for k, x in shared.items()}
            self._update(v, hml.astype(g, v.dtype), c)
        self.iterations.assign_add(1)

    def minimize(self, loss_fn: Callable[[], Any], variables: Sequence[Any]) -> Any:
        """Compute `loss_fn()`, take one step down its gradient, and return the loss (before the step).

        >>> import hybridml as hml
        >>> w = hml.Variable(3.0)
        >>> loss = hml.optim.SGD(0.1).minimize(lambda: w * w, [w])
        >>> float(loss), round(float(w), 4)
        (9.0, 2.4)
        """
        with hml.GradientTape() as tape:
            loss = loss_fn()
        self.apply_gradients(zip(tape.gradient(loss, list(variables)), variables, strict=True))
        return loss

    def _update(self, v: Any, g: Any, c: Coefficients) -> None:
        slots = self._slots[v]
        x = v.value()
        step, new = self.delta(x, g, tuple([s.value() for s in slots]), c)
        if self.weight_decay and not self.decays_in_delta:
            step = step + c["rate"] * self.weight_decay * x
        result = x - step
        del x  # so that assignment finds nobody holding the old value and happens in place
        for s, value in zip(slots, new, strict=True):
            s.assign(value)
        v.assign(result)

    def _checked(self, pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        kept = []
        for g, v in pairs:
            if g is None:
                self._warn_none(v)
                continue
            if g.shape != v.shape:
                raise ShapeError(
                    f"the gradient of {v!r} has shape {g.shape}; it must have the variable's shape"
                )
            kept.append((g, v))
        if not kept:
            names = ", ".join(repr(v) for _, v in pairs) or "no variables at all"
            raise ValueError(
                f"there is no gradient to apply (given: {names}); was the loss computed inside the tape?"
            )
        return kept

    def _warn_none(self, v: Any) -> None:
        if id(v) in self._warned:
            return
        self._warned.add(id(v))
        warnings.warn(
            f"{type(self).__name__} leaves {v!r} alone: its gradient is None, so the loss does not depend on it. "
            "Leave it out of the list, or see to it that the loss uses it. (Said once for each variable.)",
            GradientWarning,
            stacklevel=user_stacklevel(),
        )

    # the rule

    def coefficients(self, rate: Any, step: Any) -> Coefficients:
        """Scalars of this step for all parameters, as float64 tensors of shape (); `step` is the number of steps done so far."""
        return {"rate": rate}

    def delta(self, x: Any, g: Any, slots: Slots, c: Coefficients) -> tuple[Any, Slots]:
        """What to take off the parameter x whose gradient is g, and the slots' new values."""
        raise NotImplementedError(f"{type(self).__name__} must define delta")


def _not_negative(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if not 0.0 <= number < float("inf"):
        raise ValueError(f"{name} must be a finite number that is not negative, got {value!r}")
    return number


def fraction(name: str, value: float) -> float:
    """A decay rate or a momentum: a number in [0, 1)."""
    if not 0.0 <= _not_negative(name, value) < 1.0:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")
    return float(value)
