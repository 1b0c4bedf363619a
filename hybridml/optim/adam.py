"""Adam and its relatives: steps scaled by running moments of the gradient."""

from __future__ import annotations

from typing import Any, ClassVar

import hybridml as hml
from hybridml.optim.optimizer import Coefficients, Optimizer, Slots, fraction


def steps_from_one(step: Any) -> Any:
    """The number t of the step being taken, counted from 1 as in the papers, in float64."""
    return hml.astype(step, hml.float64) + 1.0


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015, algorithm 1): x <- x - rate * m_hat / (sqrt(v_hat) + epsilon).

    m and v are running means of the gradient and of its square, m_hat and v_hat the same without their bias towards zero.
    """

    slot_names: ClassVar[tuple[str, ...]] = ("m", "v")

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        *,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay)
        self.beta_1, self.beta_2 = fraction("beta_1", beta_1), fraction("beta_2", beta_2)
        self.epsilon = float(epsilon)

    def coefficients(self, rate: Any, step: Any) -> Coefficients:
        t = steps_from_one(step)
        # In float64: 1 - 0.999 ** t loses half its digits in float32.
        unbias = 1.0 / hml.sqrt(1.0 - self.beta_2**t)
        return {"rate": rate, "rate_m": rate / (1.0 - self.beta_1**t), "unbias_v": unbias}

    def moments(self, g: Any, slots: Slots) -> tuple[Any, Any]:
        m = self.beta_1 * slots[0] + (1.0 - self.beta_1) * g
        v = self.beta_2 * slots[1] + (1.0 - self.beta_2) * (g * g)
        return m, v

    def delta(self, x: Any, g: Any, slots: Slots, c: Coefficients) -> tuple[Any, Slots]:
        m, v = self.moments(g, slots)
        return c["rate_m"] * m / (hml.sqrt(v) * c["unbias_v"] + self.epsilon), (m, v)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, weight_decay=weight_decay)


class Adamax(Adam):
    """Adam with the infinity norm in place of the second moment (Kingma and Ba, 2015, algorithm 2)."""

    def coefficients(self, rate: Any, step: Any) -> Coefficients:
        return {"rate": rate, "rate_m": rate / (1.0 - self.beta_1 ** steps_from_one(step))}

    def delta(self, x: Any, g: Any, slots: Slots, c: Coefficients) -> tuple[Any, Slots]:
        m = self.beta_1 * slots[0] + (1.0 - self.beta_1) * g
        u = hml.maximum(self.beta_2 * slots[1], hml.abs(g))
        return c["rate_m"] * m / (u + self.epsilon), (m, u)


class Nadam(Adam):
    """Adam with Nesterov momentum (Dozat, 2016), with a constant momentum beta_1.

    x <- x - rate * (beta_1 * m_hat' + (1 - beta_1) * g / (1 - beta_1^t)) / (sqrt(v_hat) + epsilon), where m_hat' is m corrected
    for the next step, m / (1 - beta_1^(t+1)).
    """

    def coefficients(self, rate: Any, step: Any) -> Coefficients:
        found, t = super().coefficients(rate, step), steps_from_one(step)
        found["ahead"] = rate * self.beta_1 / (1.0 - self.beta_1 ** (t + 1.0))
        found["now"] = rate * (1.0 - self.beta_1) / (1.0 - self.beta_1**t)
        return found

    def delta(self, x: Any, g: Any, slots: Slots, c: Coefficients) -> tuple[Any, Slots]:
        m, v = self.moments(g, slots)
        return (c["ahead"] * m + c["now"] * g) / (hml.sqrt(v) * c["unbias_v"] + self.epsilon), (m, v)
