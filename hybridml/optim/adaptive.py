"""Optimisers that scale each element's step by the size of its past gradients."""

from __future__ import annotations

from typing import Any, ClassVar

import hybridml as hml
from hybridml.optim.optimizer import Coefficients, Optimizer, Slots, fraction


class Adagrad(Optimizer):
    """x <- x - rate * g / (sqrt(a) + epsilon), where a sums the squares of all gradients (Duchi et al., 2011)."""

    slot_names: ClassVar[tuple[str, ...]] = ("sum_of_squares",)

    def __init__(
        self, learning_rate: Any = 0.001, epsilon: float = 1e-7, *, weight_decay: float = 0.0
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay)
        self.epsilon = float(epsilon)

    def delta(self, x: Any, g: Any, slots: Slots, c: Coefficients) -> tuple[Any, Slots]:
        a = slots[0] + g * g
        return c["rate"] * g / (hml.sqrt(a) + self.epsilon), (a,)


class RMSprop(Optimizer):
    """x <- x - rate * g / (sqrt(v) + epsilon), where v is a running mean of g * g (Tieleman and Hinton, 2012).

    momentum: sum steps up with this decay. centered: divide by the standard deviation instead, using the running mean of g.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        *,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay)
        self.rho, self.momentum = fraction("rho", rho), fraction("momentum", momentum)
        self.epsilon, self.centered = float(epsilon), bool(centered)
        self.slot_names = (  # type: ignore[misc]  # decided for each optimiser
            "v",
            *(("mean",) if self.centered else ()),
            *(("momentum",) if self.momentum else ()),
        )

    def delta(self, x: Any, g: Any, slots: Slots, c: Coefficients) -> tuple[Any, Slots]:
        old = dict(zip(self.slot_names, slots, strict=True))
        new = {"v": self.rho * old["v"] + (1.0 - self.rho) * (g * g)}
        variance = new["v"]
        if self.centered:
            new["mean"] = self.rho * old["mean"] + (1.0 - self.rho) * g
            # Rounding can take the difference below zero where the gradient does not vary.
            variance = hml.maximum(variance - new["mean"] * new["mean"], 0.0)
        step = c["rate"] * g / (hml.sqrt(variance) + self.epsilon)
        if self.momentum:
            step = new["momentum"] = self.momentum * old["momentum"] + step
        return step, tuple(new.values())


class Adadelta(Optimizer):
    """Steps in the parameter's own units: rate * g * rms(steps) / rms(gradients) (Zeiler, 2012)."""

    slot_names: ClassVar[tuple[str, ...]] = ("v", "steps")

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.95,
        epsilon: float = 1e-7,
        *,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay)
        self.rho, self.epsilon = fraction("rho", rho), float(epsilon)

    def delta(self, x: Any, g: Any, slots: Slots, c: Coefficients) -> tuple[Any, Slots]:
        v = self.rho * slots[0] + (1.0 - self.rho) * (g * g)
        step = g * hml.sqrt(slots[1] + self.epsilon) / hml.sqrt(v + self.epsilon)
        return c["rate"] * step, (v, self.rho * slots[1] + (1.0 - self.rho) * (step * step))
