"""Layers one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hybridml.nn.layers.core import Lambda
from hybridml.nn.module import Module


class Sequential(Module):
    """Modules one after the other; a plain function among them becomes a Lambda layer.

    >>> import hybridml as hml
    >>> net = hml.nn.Sequential([hml.nn.Dense(8), hml.nn.relu, hml.nn.Dense(2)])
    >>> net(hml.ones((3, 4))).shape, len(net), list(net.named_variables)[0]
    ((3, 2), 3, 'layers.0.kernel')
    """

    def __init__(
        self, layers: Iterable[Module | Callable[..., Any]] = (), *, name: str | None = None
    ) -> None:
        super().__init__(name=name)
        self.layers: list[Module] = []
        for layer in layers:
            self.add(layer)

    def add(self, layer: Module | Callable[..., Any]) -> None:
        """Put one more module at the end."""
        if not isinstance(layer, Module):
            if not callable(layer) or isinstance(layer, type):
                raise TypeError(
                    f"Sequential takes modules and functions of a tensor, got {layer!r}"
                    + ("; make an object of the class: add ()" if isinstance(layer, type) else "")
                )
            layer = Lambda(layer)
        self.layers.append(layer)

    def pop(self) -> Module:
        """Take the last module off."""
        return self.layers.pop()

    def call(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __bool__(self) -> bool:
        return True  # an empty model is a model

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    def __getitem__(self, index: Any) -> Any:
        return Sequential(self.layers[index]) if isinstance(index, slice) else self.layers[index]
