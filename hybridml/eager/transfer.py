"""Moving a tensor to another device; tapes follow, and the gradient moves back."""

from __future__ import annotations

from typing import Any

from hybridml import backends
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor, wrap
from hybridml.errors import DeviceError, located, user_line


def to(x: Tensor, device: str) -> Tensor:
    """`x` on another device; itself where it is there already.

    Raises DeviceError for a device that is not there, or inside a traced function or a vmap if the device is not the current one.
    """
    target = backends.named(device)
    if x.priority:
        if target is backends.current():
            return x
        raise DeviceError(
            located(
                f'x.to("{target.name}") of {x.spec} inside @hml.function or hml.vmap: what is traced runs on one device, that of its '
                "arguments; move tensors before the call",
                user_line(),
            )
        )
    source = backends.of(x._array)
    if source is target:
        return x
    moved = wrap(target.put(source.get(x._array)))

    def back(grads: list[Any], wanted: list[bool]) -> list[Any]:
        return [None if grads[0] is None else to(grads[0], source.name)]

    for tape in state.now.tapes:
        if tape.is_watching(x):
            tape.add([x._id], [moved], back)
    return moved
