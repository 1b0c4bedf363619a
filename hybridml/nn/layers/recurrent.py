"""Recurrent layers: one `hml.scan` over time. What does not wait for the step before, the inputs' projection, is one product first."""

from __future__ import annotations

import copy
from typing import Any

import hybridml as hml
from hybridml.errors import ShapeError
from hybridml.nn import activations
from hybridml.nn.layers.core import last_axis, positive, project
from hybridml.nn.module import Module


class _Recurrent(Module):
    """x: (batch, time, inputs). A subclass says how many gates it has, what its state is, and how one step goes.

    kernel: (inputs, gates * units), recurrent_kernel: (units, gates * units), bias: (gates * units,).
    """

    gates = 1
    states = 1

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        *,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.units = positive("units", units)
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = hml.initializers.get(kernel_initializer)
        self.recurrent_initializer = hml.initializers.get(recurrent_initializer)
        self.bias_initializer = hml.initializers.get(bias_initializer)
        self.return_sequences, self.return_state, self.go_backwards = (
            return_sequences,
            return_state,
            go_backwards,
        )
        self.dtype = dtype
        self.kernel: Any = None
        self.recurrent_kernel: Any = None
        self.bias: Any = None

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 3:
            raise ShapeError(f"{self.name} takes (batch, time, inputs), got the shape {input_shape}")
        n, inputs, width = self.units, last_axis(self, input_shape), self.gates * self.units
        self.kernel = self.add_weight((inputs, width), self.kernel_initializer, "kernel", dtype=self.dtype)
        self.recurrent_kernel = self.add_weight(
            (n, width), self.recurrent_initializer, "recurrent_kernel", dtype=self.dtype
        )
        if self.use_bias:
            self.bias = self.add_weight(self._bias_shape(), self._initial_bias, "bias", dtype=self.dtype)

    def _bias_shape(self) -> tuple[int, ...]:
        return (self.gates * self.units,)

    def _initial_bias(self, shape: Any, dtype: Any) -> Any:
        return self.bias_initializer(shape, dtype)

    def _input_bias(self) -> Any:
        """What is added to the inputs' projection."""
        return self.bias

    def _step(self, state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
        """The next state from the last one and the projected input; its first part is the output."""
        raise NotImplementedError(f"{type(self).__name__} must define _step")

    def call(self, x: Any, initial_state: Any = None) -> Any:
        x = hml.asarray(x)
        if x.ndim != 3:
            raise ShapeError(f"{self.name} takes (batch, time, inputs), got the shape {x.shape}")
        rows = project(hml.permute_dims(x, (1, 0, 2)), self.kernel, self._input_bias())
        state = self._start(initial_state, x.shape[0], rows.dtype)

        def step(state: Any, row: Any) -> tuple[Any, Any]:
            state = self._step(state, row)
            return state, state[0] if self.return_sequences else None

        state, outputs = hml.scan(step, state, rows, reverse=self.go_backwards)
        if not self.return_sequences:
            out = state[0]
        else:
            # In the order in which they came, as Keras gives them.
            out = hml.permute_dims(hml.flip(outputs, axis=0) if self.go_backwards else outputs, (1, 0, 2))
        return (out, *state) if self.return_state else out

    def _start(self, given: Any, batch: int, dtype: Any) -> tuple[Any, ...]:
        if given is None:
            return tuple([hml.zeros((batch, self.units), dtype=dtype) for _ in range(self.states)])
        state = tuple(given) if isinstance(given, (list, tuple)) else (given,)
        if len(state) != self.states or any(hml.asarray(s).shape != (batch, self.units) for s in state):
            raise ShapeError(
                f"{self.name} has a state of {self.states} tensors of shape ({batch}, units {self.units}), "
                f"got {[hml.asarray(s).shape for s in state]}"
            )
        return tuple([hml.astype(s, dtype) for s in state])


class SimpleRNN(_Recurrent):
    """h = activation(x @ kernel + h @ recurrent_kernel + bias), over time.

    x: (batch, time, inputs). Returns the last h (batch, units), or all of them (batch, time, units) with `return_sequences`; with
    `return_state` also the last state.

    >>> import hybridml as hml
    >>> hml.nn.SimpleRNN(4, return_sequences=True)(hml.ones((2, 5, 3))).shape
    (2, 5, 4)
    """

    def _step(self, state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
        (h,) = state
        return (activations.apply(self.activation, x + hml.matmul(h, self.recurrent_kernel)),)


class GRU(_Recurrent):
    """The gated recurrent unit of Cho et al. (2014), the reset gate after the matrix product unless `reset_after=False`.

    Gates in the order update, reset, candidate; with `reset_after` the bias is (2, 3 * units), for inputs and state apart.
    Arguments and results as SimpleRNN.

    >>> import hybridml as hml
    >>> hml.nn.GRU(4)(hml.ones((2, 5, 3))).shape
    (2, 4)
    """

    gates = 3

    def __init__(
        self,
        units: int,
        *args: Any,
        recurrent_activation: Any = "sigmoid",
        reset_after: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, *args, **kwargs)
        self.recurrent_activation = activations.get(recurrent_activation)
        self.reset_after = reset_after

    def _bias_shape(self) -> tuple[int, ...]:
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    def _input_bias(self) -> Any:
        return self.bias[0] if self.use_bias and self.reset_after else self.bias

    def _step(self, state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
        (h,), n, kernel = state, self.units, self.recurrent_kernel
        if self.reset_after:
            inner = hml.matmul(h, kernel)
            inner = inner + self.bias[1] if self.use_bias else inner
            gates = activations.apply(self.recurrent_activation, x[:, : 2 * n] + inner[:, : 2 * n])
            z, r = gates[:, :n], gates[:, n:]
            new = x[:, 2 * n :] + r * inner[:, 2 * n :]
        else:
            gates = activations.apply(
                self.recurrent_activation, x[:, : 2 * n] + hml.matmul(h, kernel[:, : 2 * n])
            )
            z, r = gates[:, :n], gates[:, n:]
            new = x[:, 2 * n :] + hml.matmul(r * h, kernel[:, 2 * n :])
        return (z * h + (1 - z) * activations.apply(self.activation, new),)


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997) with forget gates. The state is (h, c).

    Gates in the order input, forget, cell, output. `unit_forget_bias` starts the forget gate's bias at 1 (Jozefowicz et al., 2015).
    Arguments and results as SimpleRNN.

    >>> import hybridml as hml
    >>> out, h, c = hml.nn.LSTM(4, return_state=True)(hml.ones((2, 5, 3)))
    >>> out.shape, c.shape
    ((2, 4), (2, 4))
    """

    gates = 4
    states = 2

    def __init__(
        self,
        units: int,
        *args: Any,
        recurrent_activation: Any = "sigmoid",
        unit_forget_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, *args, **kwargs)
        self.recurrent_activation = activations.get(recurrent_activation)
        self.unit_forget_bias = unit_forget_bias

    def _initial_bias(self, shape: Any, dtype: Any) -> Any:
        if not self.unit_forget_bias:
            return super()._initial_bias(shape, dtype)
        n, start = self.units, self.bias_initializer
        return hml.concat([start((n,), dtype), hml.ones(n, dtype=dtype), start((2 * n,), dtype)])

    def _step(self, state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
        (h, c), n = state, self.units
        x = x + hml.matmul(h, self.recurrent_kernel)
        i = activations.apply(self.recurrent_activation, x[:, :n])
        f = activations.apply(self.recurrent_activation, x[:, n : 2 * n])
        new = activations.apply(self.activation, x[:, 2 * n : 3 * n])
        o = activations.apply(self.recurrent_activation, x[:, 3 * n :])
        c = f * c + i * new
        return o * activations.apply(self.activation, c), c


class Bidirectional(Module):
    """A recurrent layer over time in both directions, the results joined.

    layer: one that is not built; a copy of it goes backwards, unless `backward_layer` is given. merge_mode: "concat", "sum", "mul",
    "ave", or None for a list of both. With `return_state`, the states of both follow.

    >>> import hybridml as hml
    >>> hml.nn.Bidirectional(hml.nn.LSTM(4, return_sequences=True))(hml.ones((2, 5, 3))).shape
    (2, 5, 8)
    """

    def __init__(
        self,
        layer: Any,
        merge_mode: str | None = "concat",
        backward_layer: Any = None,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        if merge_mode not in ("concat", "sum", "mul", "ave", None):
            raise ValueError(f'merge_mode must be "concat", "sum", "mul", "ave" or None, got {merge_mode!r}')
        if backward_layer is None:
            if layer.built:
                raise ValueError(
                    f"{layer.name} has weights already, which a copy would share: give Bidirectional a new layer, or both"
                )
            backward_layer = copy.deepcopy(layer)
            backward_layer.go_backwards = not layer.go_backwards
        if layer.go_backwards == backward_layer.go_backwards:
            raise ValueError("one of the two layers of Bidirectional must have go_backwards=True")
        if (
            layer.return_sequences != backward_layer.return_sequences
            or layer.return_state != backward_layer.return_state
        ):
            raise ValueError("the layers of Bidirectional must agree on return_sequences and return_state")
        self.forward_layer, self.backward_layer, self.merge_mode = layer, backward_layer, merge_mode

    def call(self, x: Any, initial_state: Any = None) -> Any:
        half = None if initial_state is None else len(initial_state) // 2
        starts = (None, None) if half is None else (initial_state[:half], initial_state[half:])
        found = [
            layer(x, initial_state=s)
            for layer, s in zip((self.forward_layer, self.backward_layer), starts, strict=True)
        ]
        states: list[Any] = []
        if self.forward_layer.return_state:
            states = [*found[0][1:], *found[1][1:]]
            found = [f[0] for f in found]
        if self.forward_layer.return_sequences:
            found[1] = hml.flip(found[1], axis=1)
        out = self._merge(*found)
        return (out, *states) if states else out

    def _merge(self, a: Any, b: Any) -> Any:
        match self.merge_mode:
            case "concat":
                return hml.concat([a, b], axis=-1)
            case "sum":
                return a + b
            case "mul":
                return a * b
            case "ave":
                return (a + b) / 2
        return [a, b]
