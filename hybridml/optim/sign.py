"""Optimisers whose step does not grow with the gradient: by its sign (Lion), by the parameter's norm (LAMB)."""

from __future__ import annotations

from typing import Any, ClassVar

import hybridml as hml
from hybridml.optim.adam import Adam, steps_from_one
from hybridml.optim.optimizer import Coefficients, Optimizer, Slots, fraction


class Lion(Optimizer):
    """x <- x - rate * sign(beta_1 * m + (1 - beta_1) * g), then m moves towards g by 1 - beta_2 (Chen et al., 2023)."""

    slot_names: ClassVar[tuple[str, ...]] = ("m",)

    def __init__(
        self,
        learning_rate: Any = 0.0001,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        *,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay)
        self.beta_1, self.beta_2 = fraction("beta_1", beta_1), fraction("beta_2", beta_2)

    def delta(self, x: Any, g: Any, slots: Slots, c: Coefficients) -> tuple[Any, Slots]:
        m = slots[0]
        step = c["rate"] * hml.sign(self.beta_1 * m + (1.0 - self.beta_1) * g)
        return step, (self.beta_2 * m + (1.0 - self.beta_2) * g,)


class LAMB(Adam):
    """Adam's direction, plus weight decay, scaled to the parameter's norm (You et al., 2020).

    Where the norm of the parameter or of the direction is 0, the direction is taken as it is.
    """

    decays_in_delta: ClassVar[bool] = True

    def coefficients(self, rate: Any, step: Any) -> Coefficients:
        return super().coefficients(rate, step) | {
            "unbias_m": 1.0 / (1.0 - self.beta_1 ** steps_from_one(step))
        }

    def delta(self, x: Any, g: Any, slots: Slots, c: Coefficients) -> tuple[Any, Slots]:
        m, v = self.moments(g, slots)
        direction = c["unbias_m"] * m / (hml.sqrt(v) * c["unbias_v"] + self.epsilon)
        if self.weight_decay:
            direction = direction + self.weight_decay * x
        size, length = hml.sqrt(hml.sum(x * x)), hml.sqrt(hml.sum(direction * direction))
        both = hml.minimum(size, length) > 0.0
        trust = hml.where(both, size / hml.where(both, length, 1.0), 1.0)
        return c["rate"] * trust * direction, (m, v)
