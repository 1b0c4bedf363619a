"""Attention and the transformer block."""

from __future__ import annotations

from typing import Any

import hybridml as hml
from hybridml.nn import activations
from hybridml.nn.layers.core import Dense, Dropout, last_axis, positive, project
from hybridml.nn.layers.normalization import LayerNorm
from hybridml.nn.module import Module


class _Heads(Module):
    """A projection of the last axis to several heads: (..., T, inputs) to (..., heads, T, size). kernel: (inputs, heads, size)."""

    def __init__(
        self, heads: int, size: int, use_bias: bool, initializers: tuple[Any, Any], dtype: Any
    ) -> None:
        super().__init__()
        self.heads, self.size, self.use_bias, self.dtype = heads, size, use_bias, dtype
        self.kernel_initializer, self.bias_initializer = initializers
        self.kernel: Any = None
        self.bias: Any = None

    def build(self, input_shape: Any) -> None:
        inputs, width = last_axis(self, input_shape), self.heads * self.size

        def as_matrix(shape: Any, dtype: Any) -> Any:
            """Every head reads all inputs: what decides the scale of the numbers is (inputs, heads * size)."""
            return hml.reshape(self.kernel_initializer((inputs, width), dtype), shape)

        self.kernel = self.add_weight((inputs, self.heads, self.size), as_matrix, "kernel", dtype=self.dtype)
        if self.use_bias:
            self.bias = self.add_weight(
                (self.heads, self.size), self.bias_initializer, "bias", dtype=self.dtype
            )

    def call(self, x: Any) -> Any:
        width = self.heads * self.size
        bias = None if self.bias is None else hml.reshape(self.bias, (width,))
        out = project(x, hml.reshape(self.kernel, (x.shape[-1], width)), bias)
        return hml.moveaxis(hml.reshape(out, (*x.shape[:-1], self.heads, self.size)), -2, -3)


class MultiHeadAttention(Module):
    """Attention with several heads (Vaswani et al., "Attention Is All You Need", 2017).

    query: (batch, T, inputs). value: (batch, S, inputs), the query unless given; key: the value unless given.
    attention_mask: bools that broadcast to (batch, T, S), True where a query may look. Returns (batch, T, output), where output is
    the query's last axis unless `output_shape` says otherwise; with `return_attention_scores` also (batch, heads, T, S).

    >>> import hybridml as hml
    >>> hml.nn.MultiHeadAttention(num_heads=2, key_dim=8)(hml.ones((3, 5, 16)), use_causal_mask=True).shape
    (3, 5, 16)
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: int | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        *,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        heads, size = positive("num_heads", num_heads), positive("key_dim", key_dim)
        values = size if value_dim is None else positive("value_dim", value_dim)
        if not 0 <= dropout <= 1:
            raise ValueError(f"a dropout rate is in [0, 1], got {dropout!r}")
        start = (hml.initializers.get(kernel_initializer), hml.initializers.get(bias_initializer))
        self.num_heads, self.key_dim, self.value_dim, self.dropout = heads, size, values, dropout
        self.output_size = output_shape
        self.query = _Heads(heads, size, use_bias, start, dtype)
        self.key = _Heads(heads, size, use_bias, start, dtype)
        self.value = _Heads(heads, values, use_bias, start, dtype)
        self._output_options = (use_bias, *start, dtype)
        self.output: Any = None

    def build(self, query_shape: Any, value_shape: Any = None, key_shape: Any = None) -> None:
        use_bias, kernel, bias, dtype = self._output_options
        size = last_axis(self, query_shape) if self.output_size is None else self.output_size
        self.output = Dense(size, None, use_bias, kernel, bias, dtype=dtype, name="output")
        self.output.build((None, None, self.num_heads * self.value_dim))

    def call(
        self,
        query: Any,
        value: Any = None,
        key: Any = None,
        attention_mask: Any = None,
        use_causal_mask: bool = False,
        return_attention_scores: bool = False,
        training: Any = False,
    ) -> Any:
        query = hml.asarray(query)
        value = query if value is None else hml.asarray(value)
        key = value if key is None else hml.asarray(key)
        if attention_mask is not None:
            attention_mask = hml.expand_dims(attention_mask, axis=-3)
        q, k, v = self.query(query), self.key(key), self.value(value)

        def attend(rate: float) -> Any:
            return hml.nn.scaled_dot_product_attention(
                q, k, v, attention_mask, is_causal=use_causal_mask, dropout_rate=rate, return_weights=True
            )

        if self.dropout and hasattr(training, "dtype"):
            seen, weights = hml.cond(training, lambda: attend(self.dropout), lambda: attend(0.0))
        else:
            seen, weights = attend(self.dropout if training else 0.0)
        seen = hml.moveaxis(seen, -3, -2)
        out = self.output(hml.reshape(seen, (*seen.shape[:-2], self.num_heads * self.value_dim)))
        return (out, weights) if return_attention_scores else out


class TransformerBlock(Module):
    """Self-attention and two dense layers, each with a residual connection and a layer norm.

    x: (batch, time, d), and so the result; d is a multiple of num_heads. norm_first: normalise before each part (Xiong et al., 2020)
    or after each sum, as in the original. causal: each position sees those before it.

    >>> import hybridml as hml
    >>> hml.nn.TransformerBlock(num_heads=2, intermediate_dim=32, causal=True)(hml.ones((3, 5, 16))).shape
    (3, 5, 16)
    """

    def __init__(
        self,
        num_heads: int,
        intermediate_dim: int,
        dropout: float = 0.0,
        activation: Any = "gelu",
        norm_first: bool = True,
        causal: bool = False,
        epsilon: float = 1e-5,
        *,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.num_heads, self.intermediate_dim = (
            positive("num_heads", num_heads),
            positive("intermediate_dim", intermediate_dim),
        )
        self.norm_first, self.causal, self.dtype = norm_first, causal, dtype
        self.rate, self.activation = dropout, activations.get(activation)
        self.attention: Any = None
        self.expand: Any = None
        self.contract: Any = None
        self.attention_norm = LayerNorm(epsilon=epsilon, dtype=dtype)
        self.dense_norm = LayerNorm(epsilon=epsilon, dtype=dtype)
        self.attention_dropout, self.dense_dropout = Dropout(dropout), Dropout(dropout)

    def build(self, input_shape: Any) -> None:
        d = last_axis(self, input_shape)
        if d % self.num_heads:
            raise ValueError(f"{self.name}: the last axis {d} is no multiple of num_heads {self.num_heads}")
        self.attention = MultiHeadAttention(
            self.num_heads, d // self.num_heads, dropout=self.rate, dtype=self.dtype
        )
        self.expand = Dense(self.intermediate_dim, self.activation, dtype=self.dtype)
        self.contract = Dense(d, dtype=self.dtype)

    def call(self, x: Any, attention_mask: Any = None) -> Any:
        x = hml.asarray(x)

        def attend(x: Any) -> Any:
            seen = self.attention(x, attention_mask=attention_mask, use_causal_mask=self.causal)
            return self.attention_dropout(seen)

        def think(x: Any) -> Any:
            return self.dense_dropout(self.contract(self.expand(x)))

        if self.norm_first:
            x = x + attend(self.attention_norm(x))
            return x + think(self.dense_norm(x))
        x = self.attention_norm(x + attend(x))
        return self.dense_norm(x + think(x))
