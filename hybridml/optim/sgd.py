"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from hybridml.optim.optimizer import Coefficients, Optimizer, Slots, fraction


class SGD(Optimizer):
    """x <- x - rate * g; with momentum m, x moves by the velocity v <- m * v - rate * g.

    nesterov: look ahead along the velocity, x <- x + m * v - rate * g (Sutskever et al., 2013).

    >>> SGD(0.1, momentum=0.9).slot_names
    ('velocity',)
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        *,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay)
        self.momentum = fraction("momentum", momentum)
        self.nesterov = bool(nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum above 0")
        self.slot_names = ("velocity",) if self.momentum else ()  # type: ignore[misc]  # decided for each optimiser

    def delta(self, x: Any, g: Any, slots: Slots, c: Coefficients) -> tuple[Any, Slots]:
        step = c["rate"] * g
        if not self.momentum:
            return step, ()
        velocity = self.momentum * slots[0] - step
        return (step - self.momentum * velocity if self.nesterov else -velocity), (velocity,)
