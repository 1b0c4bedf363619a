"""Activations by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hybridml as hml

NAMES = (
    "elu", "gelu", "hard_sigmoid", "hard_silu", "leaky_relu", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu",
    "softmax", "softplus", "softsign", "tanh",
)  # fmt: skip


def get(activation: str | Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    """A function of one tensor, from its name in `hml.nn` or itself; None for no activation ("linear").

    >>> get("relu") is hml.nn.relu, get("linear"), get(hml.tanh) is hml.tanh
    (True, None, True)
    """
    if activation is None or activation == "linear":
        return None
    if isinstance(activation, str):
        name = {"swish": "silu", "hard_swish": "hard_silu"}.get(activation, activation)
        if name not in NAMES:
            raise ValueError(f"no activation is called {activation!r}; there are {', '.join(NAMES)}, linear")
        return getattr(hml.nn, name)
    if not callable(activation):
        raise TypeError(f"an activation is a name or a function of a tensor, got {activation!r}")
    return activation


def apply(activation: Callable[[Any], Any] | None, x: Any) -> Any:
    """The activation of x; a user's function with its control flow converted where it is traced."""
    return x if activation is None else hml.traced_form(activation)(x)
