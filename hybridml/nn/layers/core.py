"""Dense layers, embeddings, and layers that only reshape, join or drop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import hybridml as hml
from hybridml.errors import ShapeError
from hybridml.nn import activations
from hybridml.nn.module import Module


def positive(name: str, value: Any) -> int:
    """A size: an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive int, got {value!r}")
    return value


def when(training: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """`yes()` while training, else `no()`; a tensor decides when it runs."""
    if hasattr(training, "dtype"):
        return hml.cond(training, yes, no)
    return yes() if training else no()


def last_axis(layer: Module, shape: Any) -> int:
    """The size of the last axis, which weights are made for."""
    if not isinstance(shape, tuple) or not shape or shape[-1] is None:
        raise ShapeError(
            f"{layer.name} needs to know the size of its input's last axis, got the shape {shape}"
        )
    return shape[-1]


def project(x: Any, kernel: Any, bias: Any = None) -> Any:
    """x @ kernel + bias over the last axis: one matrix product, however many dimensions x has."""
    if x.ndim > 2:
        flat = hml.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
        return hml.reshape(project(flat, kernel, bias), (*x.shape[:-1], kernel.shape[-1]))
    out = hml.matmul(x, kernel)
    return out if bias is None else out + bias


class Dense(Module):
    """activation(x @ kernel + bias) over the last axis.

    x: (..., inputs). Returns (..., units). kernel: (inputs, units), bias: (units,).

    >>> import hybridml as hml
    >>> hml.nn.Dense(4, activation="relu")(hml.ones((2, 3))).shape
    (2, 4)
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        *,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.units = positive("units", units)
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = hml.initializers.get(kernel_initializer)
        self.bias_initializer = hml.initializers.get(bias_initializer)
        self.dtype = dtype
        self.kernel: Any = None
        self.bias: Any = None

    def build(self, input_shape: Any) -> None:
        inputs = last_axis(self, input_shape)
        self.kernel = self.add_weight(
            (inputs, self.units), self.kernel_initializer, "kernel", dtype=self.dtype
        )
        if self.use_bias:
            self.bias = self.add_weight((self.units,), self.bias_initializer, "bias", dtype=self.dtype)

    def call(self, x: Any) -> Any:
        return activations.apply(self.activation, project(hml.asarray(x), self.kernel, self.bias))


class Embedding(Module):
    """A vector for each integer: ids of any shape to (*ids.shape, output_dim).

    Ids are in [0, input_dim); others raise IndexOutOfRangeError. embeddings: (input_dim, output_dim).

    >>> import hybridml as hml
    >>> hml.nn.Embedding(10, 4)([[1, 2, 3]]).shape
    (1, 3, 4)
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        *,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.input_dim, self.output_dim = positive("input_dim", input_dim), positive("output_dim", output_dim)
        self.embeddings_initializer = hml.initializers.get(embeddings_initializer)
        self.dtype = dtype
        self.embeddings: Any = None

    def build(self, ids_shape: Any = None) -> None:
        shape = (self.input_dim, self.output_dim)
        self.embeddings = self.add_weight(shape, self.embeddings_initializer, "embeddings", dtype=self.dtype)

    def call(self, ids: Any) -> Any:
        return hml.nn.embedding_lookup(self.embeddings, ids)


class Flatten(Module):
    """All axes but the first made one.

    >>> import hybridml as hml
    >>> hml.nn.Flatten()(hml.ones((2, 3, 4))).shape
    (2, 12)
    """

    def call(self, x: Any) -> Any:
        x = hml.asarray(x)
        if not x.ndim:
            raise ShapeError("Flatten keeps the first axis, but the input has no dimensions")
        return hml.reshape(x, (x.shape[0], math.prod(x.shape[1:])))


class Reshape(Module):
    """Another shape for each example; one -1 stands for what is left.

    >>> import hybridml as hml
    >>> hml.nn.Reshape((2, -1))(hml.ones((5, 6))).shape
    (5, 2, 3)
    """

    def __init__(self, target_shape: Sequence[int], *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.target_shape = tuple(target_shape)
        if sum(d == -1 for d in self.target_shape) > 1 or any(d < -1 for d in self.target_shape):
            raise ValueError(f"a target shape has sizes and at most one -1, got {self.target_shape}")

    def call(self, x: Any) -> Any:
        x = hml.asarray(x)
        size, known = math.prod(x.shape[1:]), math.prod([d for d in self.target_shape if d != -1])
        whole = tuple([(size // known if known else 0) if d == -1 else d for d in self.target_shape])
        if math.prod(whole) != size:
            raise ShapeError(
                f"an example of shape {x.shape[1:]} cannot be reshaped to {self.target_shape}: {size} elements"
            )
        return hml.reshape(x, (x.shape[0], *whole))


class Dropout(Module):
    """While training, each element 0 with probability `rate`, else divided by 1 - rate. Otherwise the input.

    The numbers are fresh at each call, traced or not; a seed gives this layer a stream of its own.

    >>> import hybridml as hml
    >>> drop = hml.nn.Dropout(0.5, seed=1)
    >>> drop(hml.ones(3)).tolist(), sorted(set(drop(hml.ones(100), training=True).tolist()))
    ([1.0, 1.0, 1.0], [0.0, 2.0])
    """

    def __init__(
        self, rate: float, noise_shape: Any = None, seed: int | None = None, *, name: str | None = None
    ) -> None:
        super().__init__(name=name)
        if not 0 <= rate <= 1:
            raise ValueError(f"a dropout rate is in [0, 1], got {rate!r}")
        self.rate, self.noise_shape, self.seed = rate, noise_shape, seed
        self._generator = None if seed is None else hml.random.Generator(seed)

    def call(self, x: Any, training: Any = False) -> Any:
        x = hml.asarray(x)

        def dropped() -> Any:
            return hml.nn.dropout(x, self.rate, noise_shape=self.noise_shape, generator=self._generator)

        return when(training, dropped, lambda: x)


class Activation(Module):
    """An activation as a layer, by name or as a function of a tensor.

    >>> import hybridml as hml
    >>> hml.nn.Activation("relu")([-1., 2.]).tolist()
    [0.0, 2.0]
    """

    def __init__(self, activation: Any, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.activation = activations.get(activation)

    def call(self, x: Any) -> Any:
        return activations.apply(self.activation, hml.asarray(x))


class Lambda(Module):
    """Any function as a layer. Its own variables are no part of the layer: write a Module for those.

    >>> import hybridml as hml
    >>> hml.nn.Lambda(lambda x: x * 2)(hml.asarray([1., 2.])).tolist()
    [2.0, 4.0]
    """

    def __init__(self, function: Callable[..., Any], *, name: str | None = None) -> None:
        super().__init__(name=name)
        if not callable(function):
            raise TypeError(f"Lambda takes a function, got {function!r}")
        self.function = function

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return hml.traced_form(self.function)(*args, **kwargs)


class Add(Module):
    """The sum of a list of tensors, which broadcast.

    >>> import hybridml as hml
    >>> hml.nn.Add()([hml.ones(2), hml.ones(2)]).tolist()
    [2.0, 2.0]
    """

    def call(self, inputs: Sequence[Any]) -> Any:
        first, *rest = _several(self, inputs)
        for x in rest:
            first = first + x
        return first


class Multiply(Module):
    """The product of a list of tensors, which broadcast.

    >>> import hybridml as hml
    >>> hml.nn.Multiply()([hml.asarray([2., 3.]), hml.asarray([4., 5.])]).tolist()
    [8.0, 15.0]
    """

    def call(self, inputs: Sequence[Any]) -> Any:
        first, *rest = _several(self, inputs)
        for x in rest:
            first = first * x
        return first


class Concatenate(Module):
    """A list of tensors joined along an axis.

    >>> import hybridml as hml
    >>> hml.nn.Concatenate()([hml.ones((2, 3)), hml.ones((2, 1))]).shape
    (2, 4)
    """

    def __init__(self, axis: int = -1, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.axis = axis

    def call(self, inputs: Sequence[Any]) -> Any:
        return hml.concat(_several(self, inputs), axis=self.axis)


def _several(layer: Module, inputs: Any) -> list[Any]:
    if not isinstance(inputs, (list, tuple)) or not inputs:
        raise TypeError(
            f"{layer.name} takes a list of tensors, got {type(inputs).__name__}; call it as layer([x, y])"
        )
    return [hml.asarray(x) for x in inputs]
