"""Graphs whose kernels are printed for CUDA by the tests, small and of odd sizes, and their lowering."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np

import hybridml as hml
from hybridml.compare.workloads import forward, regression_step
from hybridml.kernels import emit_cuda, launch
from hybridml.kernels.emit_cuda import Phase
from hybridml.kernels.fuser import Fuser
from hybridml.kernels.group import Group
from hybridml.kernels.launch import Shape
from hybridml.kernels.lower import Lowered, lower
from hybridml.kernels.movement import lower_movement
from hybridml.kernels.spec import Mode
from hybridml.kernels.views import places
from hybridml.trace import concrete
from hybridml.trace.graph import Graph

PHASES: tuple[Phase, ...] = ("partial", "finish")
Case = tuple[Graph, list[Any], list[Any]]


def traced(function: Callable[..., Any], *args: Any) -> Case:
    """The optimised graph of a function, and the arrays that it runs on; nothing is compiled for the CPU."""
    tensors = [hml.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
    with mock.patch.object(concrete, "executable", lambda *args: None):
        found = hml.function(function).get_concrete_function(*tensors)
    arrays = [t.numpy() for t in tensors if isinstance(t, hml.Tensor)]
    return found.optimized, arrays, [v.numpy() for v in found.variables]


def lowerings(graph: Graph) -> list[tuple[Group, list[Lowered]]]:
    """Every group and its kernels in the order of the program; library calls and Python steps have none."""
    at = places(graph)
    fuser = Fuser(graph, at)
    results = {at[v][0] for v in graph.results}
    readers: dict[Any, set[int]] = {}
    for i, n in enumerate(graph.nodes):
        for v in n.values:
            readers.setdefault(at[v][0], set()).add(i)
    found: list[tuple[Group, list[Lowered]]] = []
    for g in fuser.fuse():
        written = [v for i in g.nodes for v in graph.nodes[i].outputs]
        outputs = [v for v in written if v in results or readers.get(v, set()) - set(g.nodes)]
        if g.fusible:
            found.append((g, [lower(graph, g, at, outputs)]))
        else:
            n = graph.nodes[g.first]
            moves = lower_movement(n, at) if n.outputs and n.out.spec.size else None
            found.append((g, moves or []))
    return found


def extents(low: Lowered) -> tuple[int, int]:
    """(kept, reduced) elements of a kernel."""
    kept, reduced = emit_cuda.space(low.spec)
    words = low.spec.words, low.words
    return launch.sizes(kept, *words), launch.sizes(reduced, *words)


def scratch(low: Lowered) -> set[str]:
    """Operands that only the kernel itself uses."""
    pairs = zip(low.spec.operands, low.operands, strict=True)
    return {operand.name for operand, (base, _) in pairs if base in low.temporaries}


def planned(low: Lowered, **options: Any) -> launch.Launch:
    """The launch that a GPU would get."""
    sizes = [r.step.dtype.itemsize for r in emit_cuda.reductions(low.spec)]
    turn = emit_cuda.turn(low.spec, low.words)
    return launch.plan(
        low.spec.mode,
        *extents(low),
        low.words,
        splittable=emit_cuda.is_splittable(low.spec),
        accumulators=sizes,
        vector=emit_cuda.width(low.spec, low.words),
        held_words=emit_cuda.held_words(low.spec),
        staged_bytes=emit_cuda.staged_bytes(low.spec),
        turn=turn,
        tiles=emit_cuda.tiles(low.spec, low.words, turn.axis) if turn else 0,
        **options,
    )


def shapes(mode: Mode, index: int = 64) -> list[Shape]:
    """One block of every kind that `launch.plan` makes for a mode."""
    if mode is Mode.MAP:
        return [Shape(256, 1, index)]
    if mode is Mode.ROW:
        return [Shape(8, 32, index), Shape(32, 8, index), Shape(256, 1, index), Shape(512, 1, index)]
    return [Shape(256, 1, index), Shape(32, 8, index)]


def widened(lows: list[Lowered], bases: list[Shape]) -> list[Shape]:
    """These blocks, and each with accesses of several elements, with rows in registers and with rows in shared memory, where all
    kernels of the group allow it."""
    found = list(bases)
    width = min(emit_cuda.width(low.spec, low.words) for low in lows)
    holds = all(emit_cuda.held_words(low.spec) for low in lows)
    _, reduced = extents(lows[0])
    turns = {emit_cuda.turn(low.spec, low.words) for low in lows}
    if turns != {None}:
        (turn,) = turns
        found += [Shape(launch.TILE, 2, index, turn=turn) for index in (64, 32)]
    for base in bases:
        if width > 1:
            found.append(replace(base, vector=width))
        found += [
            replace(base, vector=v, held=-(-reduced // (base.x * v))) for v in ({1, width} if holds else ())
        ]
        if base.x > launch.WARP and base.y == 1 and all(emit_cuda.staged_bytes(low.spec) for low in lows):
            found.append(replace(base, vector=width, staged=True))
    return found


_rng = np.random.default_rng(7)


def build(name: str) -> Case:
    """A case by its name, with the same numbers in every order of tests."""
    global _rng
    _rng = np.random.default_rng(zlib.crc32(name.encode()))
    return CASES[name]()


def floats(*shape: int, dtype: Any = np.float32) -> Any:
    return _rng.normal(size=shape).astype(dtype)


def integers(*shape: int, dtype: Any = np.int32, low: int = -90, high: int = 90) -> Any:
    return _rng.integers(low, high, shape).astype(dtype)


def _loss(x: Any, y: Any) -> Any:
    return hml.mean(hml.nn.softmax_cross_entropy(x, y))


def _gradient(f: Callable[..., Any]) -> Callable[..., Any]:
    def gradient(x: Any, *rest: Any) -> Any:
        with hml.GradientTape() as tape:
            tape.watch(x)
            loss = f(x, *rest)
        return loss, tape.gradient(loss, x)

    return gradient


def _draw(generator: Any) -> Callable[..., Any]:
    def draw() -> Any:
        return generator.uniform((5, 7)), generator.normal((37,)), generator.randint(10, shape=(11,))

    return draw


def _step(case: Any) -> Case:
    return traced(case.f, *case.args(0))


# fmt: off
CASES: dict[str, Callable[[], Case]] = {
    "elementwise": lambda: traced(lambda x, y: hml.nn.gelu(x * y + 1.5) * hml.sigmoid(x) - y, floats(91), floats(91)),
    "scalar": lambda: traced(lambda x: hml.exp(x) + x, np.array(0.5, np.float32)),
    "broadcast": lambda: traced(lambda x, y: x + y * 2, floats(5, 1, 7), floats(3, 1)),
    "strided": lambda: traced(lambda x: hml.tanh(x[1::3, ::2]) + x[:3, 5:0:-1], floats(9, 9)),
    "transposed": lambda: traced(lambda x: hml.exp(hml.permute_dims(x, (2, 0, 1))) * 2.0, floats(3, 5, 7)),
    "turned": lambda: traced(
        lambda x, y: hml.exp(hml.permute_dims(x, (2, 1, 0))) * 2.0 + y, floats(18, 2, 35), floats(35, 1, 18)),
    "turned_and_not": lambda: traced(lambda x: x - x.T[::-1], floats(33, 33)),
    "turned_narrow": lambda: traced(
        lambda b, h: (hml.logical_not(b.T), h.T * 2, hml.where(b.T, h.T, -h.T).astype(hml.float32)),
        floats(16, 35) > 0, floats(16, 35, dtype=np.float16)),
    "turned_wide": lambda: traced(
        lambda x, k: hml.where(k.T > 0, x.T, 0.0), floats(34, 17, dtype=np.float64), integers(34, 17, dtype=np.int64)),
    "reversed_rows": lambda: traced(lambda x: hml.sum(x[::-1, ::-1] * x, axis=1), floats(6, 11)),
    "bool": lambda: traced(
        lambda x, y: (hml.any(x > y, axis=1), hml.all(x > -2, axis=0), hml.where(x > y, x, y), hml.logical_not(x > 0)),
        floats(5, 13), floats(5, 13)),
    "int": lambda: traced(
        lambda x, y: (x // y, x % y, hml.sum(x, axis=0), hml.prod(y, axis=1), hml.maximum(x, y), hml.max(x)),
        integers(7, 9), integers(7, 9)),
    "narrow_int": lambda: traced(
        lambda x: (x + x, hml.max(x, axis=0), hml.min(x, axis=1), hml.sum(x)), integers(6, 10, dtype=np.uint8, low=0, high=255)),
    "wide_int": lambda: traced(
        lambda x: (x * x, hml.max(x, axis=1), hml.sum(x, axis=1)), integers(4, 70, dtype=np.uint64, low=0, high=2**62)),
    "cast": lambda: traced(lambda x: (x.astype(hml.int32), (x > 0).astype(hml.float64), x.astype(hml.uint8)), abs(floats(33))),
    "sum": lambda: traced(lambda x: hml.sum(x * x), floats(13, 17)),
    "sum_rows": lambda: traced(lambda x: (hml.sum(x, axis=1), hml.max(x, axis=1)), floats(5, 70)),
    "sum_columns": lambda: traced(lambda x: (hml.sum(x, axis=0), hml.min(x, axis=0)), floats(21, 37)),
    "sum_middle": lambda: traced(lambda x: hml.sum(x, axis=1), floats(4, 9, 7)),
    "sum_outer_and_inner": lambda: traced(lambda x: hml.mean(hml.exp(x), axis=(0, 2)), floats(4, 5, 9)),
    "float64": lambda: traced(lambda x: hml.sum(hml.log(x * x + 1), axis=1), floats(6, 40, dtype=np.float64)),
    "wide": lambda: traced(lambda x, y, b: hml.where(b, hml.exp(x), y) * 2 + x[:1], floats(6, 20), floats(6, 20), floats(20) > 0),
    "wide_odd": lambda: traced(lambda x, y: (x * y + 1, x > y), floats(93), floats(93)),
    "misaligned": lambda: traced(lambda x, y: (x[1:81] * y[:80], hml.exp(x[4:44])), floats(83), floats(83)),
    "wide_bools": lambda: traced(lambda x, y: hml.logical_or(x, y), floats(77) > 0, floats(77) > 0),
    "wide_float64": lambda: traced(
        lambda x, y: (x + y.astype(hml.float64), x.astype(hml.float32)), floats(38, dtype=np.float64), floats(38)),
    "wide_softmax": lambda: traced(lambda x, s, o: hml.nn.layer_norm(hml.nn.softmax(x), s, o), floats(5, 44), floats(44), floats(44)),
    "wide_softmax_of_view": lambda: traced(lambda x: hml.nn.softmax(x[:, 2:38]), floats(5, 40)),
    "wide_softmax_misaligned": lambda: traced(lambda x: hml.nn.softmax(x[:, 1:37]), floats(3, 40)),
    "wide_rows": lambda: traced(
        lambda x, y: (hml.any(x > y, axis=1), hml.sum(x, axis=1), hml.where(x > y, x, y[:, ::-1])), floats(3, 48), floats(3, 48)),
    "wide_cross_entropy": lambda: traced(_gradient(_loss), floats(7, 12), integers(7, dtype=np.int64, low=0, high=12)),
    "wide_loss": lambda: traced(_gradient(lambda x, y: hml.mean((x - y) ** 2)), floats(6, 16), floats(6, 16)),
    "embedding": lambda: traced(lambda x, k: hml.take(x, k, axis=0), floats(7, 12), integers(5, low=-7, high=7)),
    "half": lambda: traced(
        lambda x, y: (hml.tanh(x * y + 1.5) / 3, x > y, hml.where(x > 0, x, -y)),
        floats(45, dtype=np.float16), floats(45, dtype=np.float16)),
    "half_rows": lambda: traced(
        lambda x: (hml.nn.softmax(x), hml.sum(x, axis=0), hml.max(x, axis=1)), floats(5, 24, dtype=np.float16)),
    "half_mixed": lambda: traced(
        lambda x, y: hml.sum((x.astype(hml.float32) * y), axis=1).astype(hml.float16), floats(4, 20, dtype=np.float16), floats(4, 20)),
    "bfloat": lambda: traced(
        lambda x, y: (hml.tanh(x * y + 1.5) / 3, x > y, hml.where(x > 0, x, -y), x.astype(hml.float16)),
        floats(45, dtype=hml.bfloat16), floats(45, dtype=hml.bfloat16)),
    "bfloat_rows": lambda: traced(
        lambda x: (hml.nn.softmax(x), hml.sum(x, axis=0), hml.max(x, axis=1)), floats(5, 24, dtype=hml.bfloat16)),
    "bfloat_mixed": lambda: traced(
        lambda x, y: hml.sum((x.astype(hml.float32) * y), axis=1).astype(hml.bfloat16), floats(4, 20, dtype=hml.bfloat16), floats(4, 20)),
    "bfloat_turned": lambda: traced(
        lambda x: x.T * 2 + hml.sum(x.T, axis=0), floats(16, 35, dtype=hml.bfloat16)),
    "nan": lambda: traced(
        lambda x: (hml.max(x, axis=1), hml.max(x, axis=0), hml.nn.softmax(x)),
        np.array([[1, np.nan, 2], [np.inf, 0, -np.inf], [-np.inf, -np.inf, 5]], np.float32)),
    "softmax": lambda: traced(hml.nn.softmax, floats(5, 37)),
    "log_softmax": lambda: traced(lambda x: hml.nn.log_softmax(x, axis=0), floats(19, 6)),
    "layer_norm": lambda: traced(lambda x, g, b: hml.nn.layer_norm(x, g, b), floats(4, 33), floats(33), floats(33)),
    "layer_norm_gradient": lambda: traced(
        _gradient(lambda x, g, b: hml.sum(hml.nn.layer_norm(x, g, b) ** 2)), floats(4, 33), floats(33), floats(33)),
    "batch_norm": lambda: traced(lambda x: (x - hml.mean(x, axis=0)) / hml.sqrt(hml.var(x, axis=0) + 1e-3), floats(23, 9)),
    "logsumexp": lambda: traced(lambda x: (hml.logsumexp(x, axis=1), hml.nn.softmax(x)), floats(4, 70)),
    "cross_entropy": lambda: traced(_gradient(_loss), floats(9, 11), integers(9, dtype=np.int64, low=0, high=11)),
    "gather": lambda: traced(
        lambda x, k: (hml.take(x, k, axis=1), hml.take_along_axis(x, k[:, None], axis=1)),
        floats(5, 7), integers(5, low=-7, high=7)),
    "scatter": lambda: traced(
        lambda x, k, u: hml.scatter_add(x, k, u, axis=0), floats(6, 5), integers(9, dtype=np.int64, low=-6, high=6), floats(9, 5)),
    "cumsum": lambda: traced(
        lambda x: (hml.cumsum(x, axis=1), hml.cumsum(x, axis=0, reverse=True)), floats(3, 8, 4)),
    "boxes": lambda: traced(
        lambda x, y: (hml.concat([x, y[:, ::-1], x], axis=1), hml.pad(y, ((1, 2), (0, 3)), value=2.0)), floats(5, 3), floats(5, 4)),
    "check_finite": lambda: traced(lambda x: hml.check_finite(x, "x") * 2, floats(5, 7)),
    "random": lambda: traced(_draw(hml.random.Generator(3))),
    "sgd_step": lambda: _step(regression_step(lambda: hml.optim.SGD(0.01), 6, 7, 5, 3)),
    "adam_step": lambda: _step(regression_step(lambda: hml.optim.Adam(0.01), 6, 7, 5, 3)),
    "forward": lambda: _step(forward(6, 7, 5, 3)),
}
# fmt: on
