"""Convolutions by cuDNN, where its Python front end (nvidia-cudnn-frontend) is installed.

cuDNN wants channels innermost in filters too: ours are turned by a small kernel before (or after, for their gradient). A graph of
cuDNN's is built once a plan, from its heuristics; engines that give other bits from run to run are left out, and under the policy
`float32` those of the tensor cores. Under `bfloat16` it is TF32 as well: cuDNN does not round operands. Without groups, float32 only.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hybridml.kernels.cuda.epilogue import NOTHING, Epilogue, gelu, wide
from hybridml.kernels.cuda.lt import ALIGNED
from hybridml.ops.convolution import CONV, CONV_FILTER, CONV_INPUT
from hybridml.ops.registry import PUBLIC, Kind, Op
from hybridml.ops.spec import TensorSpec, spec
from hybridml.ops.view import PERMUTE
from hybridml.trace.graph import Node, Value
from hybridml.trace.passes.rewrite import Rewriter

Shape = tuple[int, ...]
_COPY = PUBLIC["copy"].op  # type: ignore[attr-defined]  # by `public`
DTYPES = ("float16", "bfloat16", "float32")
_X, _W, _G, _BIAS, _RESIDUAL = 1, 2, 3, 4, 5  # what the tensors of a graph are called


@dataclass(frozen=True)
class ConvolutionPlan:
    """One of the three directions. Images x and results g as in `ops/convolution.py`, filters w [filters, height, width, channels of a
    group]."""

    direction: str  # "conv", "conv_input" or "conv_filter"
    x: Shape
    w: Shape
    g: Shape
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    precision: str
    dtype: str = "float32"
    groups: int = 1
    epilogue: Epilogue = NOTHING
    batch: int = 1
    outer: int = 1
    outer_strides: tuple[int, int, int] = (0, 0, 0)

    @property
    def m(self) -> int:
        """As a product: its rows."""
        return math.prod(self.g[:3])

    @property
    def n(self) -> int:
        """As a product: its columns."""
        return self.g[3]

    @property
    def shape(self) -> Shape:
        """Of the result."""
        return {"conv": self.g, "conv_input": self.x, "conv_filter": self.w}[self.direction]

    @property
    def title(self) -> str:
        after = f", then {self.epilogue}" if self.epilogue else ""
        computed = self.precision if self.dtype == "float32" else self.dtype
        return f"{self.direction} of {self.x} by {self.w} in {computed}{after}"


def _eager(xp: Any, a: Any, b: Any, *rest: Any, plan: ConvolutionPlan) -> Any:
    attrs = {
        "strides": plan.strides,
        "padding": plan.padding,
        "dilation": plan.dilation,
        "groups": plan.groups,
    }
    dtype, (a, b, *more) = a.dtype, map(wide, (a, b, *rest))
    if plan.direction == "conv_filter":
        w = CONV_FILTER.eager(xp, a, b, window=plan.w[1:3], **attrs)
        return xp.ascontiguousarray(w.transpose(3, 0, 1, 2)).astype(dtype)
    w = b.transpose(1, 2, 3, 0)
    if plan.direction == "conv_input":
        return CONV_INPUT.eager(xp, a, w, size=plan.x[1:3], **attrs).astype(dtype)
    out = CONV.eager(xp, a, w, **attrs)
    if plan.epilogue.residual:
        out = out + more.pop(0).reshape(out.shape)
    if plan.epilogue.bias:
        out = out + more.pop(0)
    if plan.epilogue.function:
        out = xp.where(out <= 0, 0, out) if plan.epilogue.function == "relu" else gelu(xp, out)
    return out.astype(dtype)


def _infer(a: TensorSpec, b: TensorSpec, *rest: TensorSpec, plan: ConvolutionPlan) -> TensorSpec:
    return spec(plan.shape, a.dtype)


CONVOLUTION = Op("cudnn", Kind.EXTERN, provider="gemm", infer=_infer, eager=_eager)
"""A library's convolution: a product to everybody else. Inputs: the two operands of its direction, then the residual and the
bias."""


def unsupported(p: ConvolutionPlan) -> str | None:
    """What our graphs of cuDNN leave to others."""
    e = p.epilogue
    rest = e.keeps or e.derivative or e.sums or (e and p.direction != "conv")
    return f"no convolution of cuDNN's is given the epilogue `{e}` here" if rest else None


class CuDnn:
    """cuDNN for one GPU. Not for two threads at once."""

    def __init__(self, workspace: int) -> None:
        self._workspace = workspace
        self._graphs: dict[ConvolutionPlan, Any] = {}

    @functools.cached_property
    def _cudnn(self) -> Any:
        return importlib.import_module("cudnn")

    @functools.cached_property
    def _handle(self) -> Any:
        return self._cudnn.create_handle()

    def refuse(self, p: ConvolutionPlan, aligned: int = ALIGNED) -> str | None:
        """Why cuDNN does not compute this of operands that begin at multiples of so many bytes, or None."""
        if importlib.util.find_spec("cudnn") is None:
            return "cuDNN's front end is not installed: pip install nvidia-cudnn-frontend nvidia-cudnn-cu13 (or -cu12)"
        if (reason := unsupported(p)) is not None:
            return reason
        if (
            aligned < ALIGNED
        ):  # tensors are described with this alignment, and the front end has no other in Python
            return f"cuDNN wants operands that begin at multiples of {ALIGNED} bytes, these do at multiples of {aligned}"
        try:
            self._graph(p)
        except Exception as error:  # its own classes
            return f"cuDNN: {error}".splitlines()[0]
        return None

    def convolution(
        self, p: ConvolutionPlan, reads: Sequence[int], writes: Sequence[int], workspace: int, stream: int
    ) -> None:
        """In the order of the stream; operands and result as CONVOLUTION has them."""
        names = {"conv": (_X, _W, _G), "conv_input": (_G, _W, _X), "conv_filter": (_X, _G, _W)}[p.direction]
        pack = dict(zip(names, (*reads[:2], *writes), strict=True))
        more = [_RESIDUAL] * p.epilogue.residual + [_BIAS] * p.epilogue.bias
        pack |= zip(more, reads[2:], strict=True)
        graph = self._graph(p)
        self._cudnn.set_stream(self._handle, stream)
        graph.execute(pack, workspace, handle=self._handle)

    def _graph(self, p: ConvolutionPlan) -> Any:
        if p not in self._graphs:
            graph = described(self._cudnn, p, self._handle)
            graph.validate()
            graph.build_operation_graph()
            graph.create_execution_plans([self._cudnn.heur_mode.A, self._cudnn.heur_mode.FALLBACK])
            graph.deselect_numeric_notes(left_out(self._cudnn.numerical_note, p))
            graph.deselect_workspace_greater_than(self._workspace)
            graph.check_support()
            graph.build_plans()
            self._graphs[p] = graph
        return self._graphs[p]


def left_out(notes: Any, p: ConvolutionPlan) -> list[Any]:
    """What engines must not do."""
    exactly = p.dtype == "float32" and p.precision == "float32"
    return [
        notes.NONDETERMINISTIC, notes.REDUCED_PRECISION_REDUCTION, *([notes.TENSOR_CORE, notes.DOWN_CONVERT_INPUTS] if exactly else [])
    ]  # fmt: skip


def described(cudnn: Any, p: ConvolutionPlan, handle: Any = None) -> Any:
    """A graph of cuDNN's, not yet built."""
    types = cudnn.data_type
    real = {"float32": types.FLOAT, "float16": types.HALF, "bfloat16": types.BFLOAT16}[p.dtype]
    graph = cudnn.pygraph(
        name=p.direction,
        io_data_type=real,
        intermediate_data_type=types.FLOAT,
        compute_data_type=types.FLOAT,
        handle=handle,
    )

    def tensor(number: int, shape: Shape) -> Any:
        dims, strides = _channels_second(shape)
        return graph.tensor(dim=dims, stride=strides, data_type=real, uid=number)

    before, after = ([pair[side] for pair in p.padding] for side in (0, 1))
    how = {
        "pre_padding": before,
        "post_padding": after,
        "stride": list(p.strides),
        "dilation": list(p.dilation),
    }
    if p.direction == "conv":
        out, number = graph.conv_fprop(image=tensor(_X, p.x), weight=tensor(_W, p.w), **how), _G
        if p.epilogue.residual:
            out = graph.add(a=out, b=tensor(_RESIDUAL, p.g))
        if p.epilogue.bias:
            out = graph.bias(input=out, bias=tensor(_BIAS, (1, 1, 1, p.n)))
        if p.epilogue.function:
            out = (graph.relu if p.epilogue.function == "relu" else graph.gelu_approx_tanh)(input=out)
    elif p.direction == "conv_input":
        out, number = graph.conv_dgrad(loss=tensor(_G, p.g), filter=tensor(_W, p.w), **how), _X
    else:
        out, number = graph.conv_wgrad(image=tensor(_X, p.x), loss=tensor(_G, p.g), **how), _W
    dims, strides = _channels_second(p.shape)
    out.set_output(True).set_uid(number).set_dim(dims).set_stride(strides).set_data_type(real)
    return graph


def _channels_second(shape: Shape) -> tuple[list[int], list[int]]:
    """cuDNN's order of axes, over memory with channels last."""
    n, h, w, c = shape
    return [n, c, h, w], [h * w * c, 1, w * c, c]


def lower(r: Rewriter, n: Node, precision: str, refuse: Any, aligned: Callable[[Value], int]) -> bool:
    """Put a library's node in place of a convolution, if it takes it. `aligned` knows where buffers begin."""
    a, b = (r[v] for v in n.values)
    if n.out.dtype.name not in DTYPES or not isinstance(a, Value) or not isinstance(b, Value):
        return False
    direction = n.op.provider or ""
    x, w, g = {"conv": (a, b, n.out), "conv_input": (n.out, b, a), "conv_filter": (a, n.out, b)}[direction]
    turned = (w.shape[3], *w.shape[:3])
    strides, padding, dilation = (n.attrs[k] for k in ("strides", "padding", "dilation"))
    plan = ConvolutionPlan(
        direction, x.shape, turned, g.shape, strides, padding, dilation, precision, n.out.dtype.name, n.attrs["groups"]
    )  # fmt: skip
    if refuse(plan, min(map(aligned, (*n.values, n.out)))) is not None:
        return False

    def turn(v: Value, axes: Shape) -> Value:
        return r.emit(_COPY, (r.emit(PERMUTE, (v,), {"axes": axes}, n.source),), {}, n.source)

    second = b if direction == "conv_filter" else turn(b, (3, 0, 1, 2))
    out = r.emit(CONVOLUTION, (a, second), {"plan": plan}, n.source)
    r.replace(n.out, turn(out, (1, 2, 3, 0)) if direction == "conv_filter" else out)
    return True
