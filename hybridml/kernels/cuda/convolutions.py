"""A pass: convolutions and their gradients as products over patches, where no library is to take them.

    conv2d                   patches(x) @ w
    conv2d_transpose         image(g @ w.T)
    conv2d_filter_gradient   patches(x).T @ g

Bias and activation after a convolution are then the epilogue of its product. Groups are a batch of products; depthwise filters, which have
nothing to sum over but taps, are multiplied and added up by a generated kernel. A window of one pixel needs no patches.

16-bit patches are multiplied as they are, for a product is summed in float32 and rounded once. Where it is not the product that sums
up the result, everything up to the result is float32, as the definition has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hybridml.kernels.cuda import patches
from hybridml.kernels.cuda.patches import IMAGE, PATCHES
from hybridml.kernels.cuda.products import DTYPES
from hybridml.ops.convolution_geometry import geometry
from hybridml.ops.elementwise import CAST
from hybridml.ops.linalg import MATMUL
from hybridml.ops.registry import PUBLIC, Op
from hybridml.ops.spec import spec
from hybridml.ops.view import PERMUTE, RESHAPE
from hybridml.ops.windows import Windows
from hybridml.trace.graph import Graph, Node, Operand, Value
from hybridml.trace.passes.rewrite import Rewriter, rewrite

SHARED_BYTES = (
    64 << 20
)  # patches that stay in memory from a convolution to its filters' gradient; larger ones are made twice

_COPY, _MULTIPLY, _SUM = (PUBLIC[name].op for name in ("copy", "multiply", "sum"))  # type: ignore[attr-defined]  # by `public`

Lower = Callable[[Rewriter, Node], bool]  # a library's way: True if it has put in nodes for this one


def convolutions(graph: Graph, library: Lower) -> Graph:
    """The graph without convolutions, but for those of dtypes that nothing here takes."""
    shared: dict[tuple[Any, ...], Value] = {}

    def visit(r: Rewriter, n: Node) -> bool:
        if n.op.provider not in ("conv", "conv_input", "conv_filter"):
            return False
        if n.out.dtype.name not in DTYPES or any(not v.spec.size for v in (*n.values, n.out)):
            return False
        if not library(r, n):
            _Products(r, n, shared).run()
        return True

    found = rewrite(graph, visit)
    return found if found.nodes != graph.nodes else graph


class _Products:
    """One convolution, its names as in `ops/convolution.py`: images x, filters w, results or their gradient g."""

    def __init__(self, r: Rewriter, n: Node, shared: dict[tuple[Any, ...], Value]) -> None:
        self.r, self.n, self.shared = r, n, shared
        first, second = (_value(r[v]) for v in n.values)
        self.x, self.w, self.g = {"conv": (first, second, n.out), "conv_input": (n.out, second, first),
                                  "conv_filter": (first, n.out, second)}[n.op.provider or ""]  # fmt: skip
        self.windows: Windows = geometry(self._shape(self.x), self._shape(self.w), n.attrs)
        self.groups = n.attrs["groups"]
        self.each, self.filters = self._shape(self.w)[2], self._shape(self.w)[3] // self.groups
        self.rows = math.prod(self._shape(self.g)[:3])
        self.taps = math.prod(self._shape(self.w)[:2])

    def run(self) -> None:
        depthwise = self.groups > 1 and self.each == 1
        way = {
            "conv": self._depthwise if depthwise else self._forward,
            "conv_input": self._depthwise_input if depthwise else self._input,
            "conv_filter": self._depthwise_filter if depthwise else self._filter,
        }[self.n.op.provider or ""]
        summed_by_product = not depthwise and (self.n.op.provider != "conv_input" or self._is_plain)
        narrow = self.n.out.dtype.itemsize < 4 and not summed_by_product
        if narrow:
            self.x, self.w, self.g = map(self._wide, (self.x, self.w, self.g))
        out = way()
        self.r.replace(self.n.out, self._emit(CAST, out, dtype=self.n.out.dtype) if narrow else out)

    def _wide(self, v: Value) -> Value:
        """An operand in float32."""
        if v is self.n.out:
            return v
        key = v, "float32"
        if key not in self.shared:
            self.shared[key] = self._emit(CAST, v, dtype=np.dtype(np.float32))
        return self.shared[key]

    # products

    def _forward(self) -> Value:
        return self._joined(self._product(self._patches(), self._filters()), self.n.out)

    def _input(self) -> Value:
        return self._image(self._product(self._gradients(), self._filters(), tb=True))

    def _filter(self) -> Value:
        return self._joined(self._product(self._patches(), self._gradients(), ta=True), self.n.out)

    def _product(self, a: Operand, b: Operand, ta: bool = False, tb: bool = False) -> Value:
        return self._emit(MATMUL, a, b, ta=ta, tb=tb)

    def _joined(self, product: Value, like: Value) -> Value:
        """A product for each group as one array."""
        if self.groups > 1:
            product = self._emit(_COPY, self._emit(PERMUTE, product, axes=(1, 0, 2)))
        return self._reshape(product, like.shape)

    # depthwise: one filter value a channel and tap

    def _depthwise(self) -> Value:
        p = self._reshape(self._patches(1), (self.rows, self.taps, self.groups, 1))
        return self._reshape(self._sum(self._times(p, self._by_tap()), 1), self.n.out.shape)

    def _depthwise_input(self) -> Value:
        g = self._reshape(self.g, (self.rows, 1, self.groups, self.filters))
        return self._image(self._sum(self._times(g, self._by_tap()), 3), 1)

    def _depthwise_filter(self) -> Value:
        p = self._reshape(self._patches(1), (self.rows, self.taps, self.groups, 1))
        g = self._reshape(self.g, (self.rows, 1, self.groups, self.filters))
        return self._reshape(self._sum(self._times(p, g), 0), self.n.out.shape)

    def _by_tap(self) -> Value:
        return self._reshape(self.w, (self.taps, self.groups, self.filters))

    def _times(self, a: Value, b: Value) -> Value:
        return self._emit(_MULTIPLY, a, b)

    def _sum(self, a: Value, axis: int) -> Value:
        if a.shape[axis] == 1:
            return self._reshape(a, (*a.shape[:axis], *a.shape[axis + 1 :]))
        return self._emit(_SUM, a, axis=(axis,), keepdims=False)

    # operands of products: [rows, elements], or [groups, rows, elements]

    @property
    def _is_plain(self) -> bool:
        """True if a window is a pixel, and every pixel has one."""
        w = self.windows
        return w.window == (1, 1) and w.strides == (1, 1) and not np.any(w.padding) and self.groups == 1

    def _patches(self, groups: int | None = None) -> Value:
        groups = groups or self.groups
        shape = (self.rows, self.taps * self._shape(self.x)[3])
        if self._is_plain:
            return self._reshape(self.x, shape)
        key = (
            self.x,
            groups,
            self.windows.window,
            *[self.n.attrs[k] for k in ("strides", "padding", "dilation")],
        )
        if key not in self.shared:
            found = self._emit(PATCHES, self.x, *self._tables(patches.seen), groups=groups)
            if found.spec.nbytes > SHARED_BYTES:
                return self._by_rows(found, groups)
            self.shared[key] = found
        return self._by_rows(self.shared[key], groups)

    def _by_rows(self, p: Value, groups: int) -> Value:
        shape = (self.rows, p.spec.size // groups // self.rows)
        return self._reshape(p, shape if groups == 1 else (groups, *shape))

    def _filters(self) -> Value:
        return self._by_group(self.w, self.taps * self.each)

    def _gradients(self) -> Value:
        return self._by_group(self.g, self.rows)

    def _by_group(self, v: Value, rows: int) -> Value:
        if self.groups == 1:
            return self._reshape(v, (rows, self.filters))
        apart = self._reshape(v, (rows, self.groups, self.filters))
        return self._emit(PERMUTE, apart, axes=(1, 0, 2))

    def _image(self, p: Value, groups: int | None = None) -> Value:
        """Images from the gradients of patches."""
        if self._is_plain:
            return self._reshape(p, self.n.out.shape)
        groups = groups or self.groups
        w, (examples, _, _, channels) = self.windows, self.n.out.shape
        p = self._reshape(p, (groups, examples, *w.count, *w.window, channels // groups))
        return self._emit(IMAGE, p, *self._tables(patches.seen_by))

    def _tables(self, of: Callable[[Windows], list[np.ndarray]]) -> list[Value]:
        found = []
        for table in of(self.windows):
            v = Value(spec(table.shape, table.dtype))
            self.r.constants[v] = table
            found.append(v)
        return found

    # nodes

    def _emit(self, op: Op, *inputs: Operand, **attrs: Any) -> Value:
        return self.r.emit(op, inputs, attrs, self.n.source)

    def _reshape(self, v: Value, shape: tuple[int, ...]) -> Value:
        return v if v.shape == shape else self._emit(RESHAPE, v, shape=shape)

    def _shape(self, v: Value) -> tuple[int, ...]:
        return v.shape


def _value(x: Operand) -> Value:
    assert isinstance(x, Value), "an image is no number"
    return x


__all__ = ["convolutions"]
