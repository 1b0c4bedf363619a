"""What an executable does, step by step: generated kernels, matrix products, and the Python steps between."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from hybridml.errors import HybridMLError, located
from hybridml.kernels import gemm
from hybridml.kernels.jit import Kernel
from hybridml.kernels.lower import Lowered
from hybridml.kernels.space import collapse, stretch
from hybridml.kernels.spec import Let, Loop, Statement, Store
from hybridml.kernels.views import Place
from hybridml.kernels.walk import Walk
from hybridml.ops.registry import Kind, Layout
from hybridml.symbolic import has_dims
from hybridml.trace.bind import Sizes
from hybridml.trace.graph import Graph, Node, Value, has_effects

if TYPE_CHECKING:
    from hybridml.kernels.control import ControlStep
    from hybridml.kernels.epilogue import Epilogue
    from hybridml.kernels.sweep import SweepStep

CHUNK_NANOSECONDS = 3000.0  # work that makes a piece worth handing to another thread
GRAIN = 64  # elements: pieces begin at cache lines


@dataclass
class KernelStep:
    """One generated kernel."""

    lowered: Lowered
    kernel: Kernel
    source: str
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]

    def at(self, sizes: Sizes) -> KernelStep:
        """For these sizes: the same kernel, other words."""
        return KernelStep(
            self.lowered.at(sizes), self.kernel, self.source, sizes.all(self.reads), sizes.all(self.writes)
        )

    @property
    def generated(self) -> list[Lowered]:
        """What was lowered for it."""
        return [self.lowered]

    @property
    def in_place(self) -> list[tuple[Value, Value]]:
        """(input, output) pairs that may share memory."""
        return self.lowered.in_place

    @property
    def walks(self) -> tuple[Walk, ...]:
        """How it goes through its operands; empty where that is not known."""
        return self.lowered.walks

    @property
    def scratch(self) -> list[tuple[Value, int]]:
        """Memory that this step alone uses: a key and bytes."""
        return [(v, v.spec.nbytes) for v in self.lowered.temporaries]

    @property
    def checks(self) -> bool:
        """True if it may find its operands at fault and end the call."""
        return self.lowered.check is not None

    @property
    def nanoseconds(self) -> float:
        """A rough estimate of one thread's time, to decide on splitting."""
        return kernel_nanoseconds(self.lowered)

    @property
    def grain(self) -> int:
        """Pieces of an extent that counts elements begin at cache lines; pieces of rows anywhere."""
        spec = self.lowered.spec
        along_elements = not spec.parallel or not any(isinstance(s, Loop) for s in spec.body)
        return GRAIN if along_elements else 1

    def chunks(self, threads: int) -> tuple[int, int]:
        """(pieces, grain) for this many threads."""
        return _pieces(self.nanoseconds, self.lowered.extent, self.grain, threads), self.grain


def kernel_nanoseconds(lowered: Lowered) -> float:
    """A rough estimate of one thread's time in a generated kernel."""
    return lowered.work * sum(_cost(s) for s in lowered.spec.body)


def _pieces(nanoseconds: float, extent: int, grain: int, threads: int) -> int:
    if threads == 1:
        return 1
    return max(1, min(2 * threads, int(nanoseconds / CHUNK_NANOSECONDS), -(-extent // grain)))


def _cost(s: Statement) -> float:
    """Nanoseconds an element, from what was seen of vectorised loops on one core."""
    if isinstance(s, Loop):
        return sum(_cost(t) for t in s.body)
    if isinstance(s, Let):
        return 0.5 if "m_" in s.text else 0.04
    return 0.15 if isinstance(s, Store) else 0.1


@dataclass
class HorizontalStep:
    """One kernel text over several buffers, as one launch."""

    parts: list[KernelStep]
    checks: bool = False

    def at(self, sizes: Sizes) -> HorizontalStep:
        """For these sizes."""
        return HorizontalStep([p.at(sizes) for p in self.parts])

    @property
    def reads(self) -> tuple[Value, ...]:
        return tuple([v for p in self.parts for v in p.reads])

    @property
    def writes(self) -> tuple[Value, ...]:
        return tuple([v for p in self.parts for v in p.writes])

    @property
    def kernel(self) -> Kernel:
        return self.parts[0].kernel

    @property
    def source(self) -> str:
        return self.parts[0].source

    @cached_property
    def in_place(self) -> list[tuple[Value, Value]]:
        """The parts run in no order, so only the part that writes may read."""
        readers = Counter(v for p in self.parts for v in set(p.reads))
        return [pair for p in self.parts for pair in p.in_place if readers[pair[0]] == 1]

    @property
    def scratch(self) -> list[tuple[Value, int]]:
        return [s for p in self.parts for s in p.scratch]

    @property
    def nanoseconds(self) -> float:
        return sum(p.nanoseconds for p in self.parts)

    @property
    def extents(self) -> list[int]:
        return [p.lowered.extent for p in self.parts]

    def chunks(self, threads: int) -> tuple[int, int]:
        """(pieces, grain) for this many threads."""
        return _pieces(self.nanoseconds, sum(self.extents), self.parts[0].grain, threads), self.parts[0].grain


@dataclass(frozen=True)
class Product:
    """What a matrix product is planned from: the function that plans it, and the sizes, strides and flags that it takes."""

    planner: Callable[..., Any]
    args: tuple[Any, ...]
    keywords: dict[str, Any]

    def at(self, sizes: Sizes) -> Product:
        return Product(self.planner, sizes(self.args), {k: sizes(x) for k, x in self.keywords.items()})

    def plan(self) -> Any:
        """The plan, or None while sizes are open."""
        return None if has_dims((self.args, self.keywords)) else self.planner(*self.args, **self.keywords)


@dataclass
class GemmStep:
    """One matrix product of a batch, with what is done to its blocks.

    While sizes are open there is no plan; `planned` makes it of numbers.
    """

    planned: Product
    plan: Any  # gemm.Plan on the CPU
    a: tuple[Value, int]  # base and byte offset
    b: tuple[Value, int]
    c: tuple[Value, int]
    flops: int
    title: str = "matmul"
    checks: bool = False
    epilogue: Epilogue | None = None

    def at(self, sizes: Sizes) -> GemmStep:
        """For these sizes: which kernel and how it is split is decided anew, for it is an estimate."""
        product = self.planned.at(sizes)
        a, b, c = [(sizes.value(v), sizes(offset)) for v, offset in (self.a, self.b, self.c)]
        beside = None if self.epilogue is None else self.epilogue.at(sizes)
        return replace(
            self,
            planned=product,
            plan=product.plan(),
            a=a,
            b=b,
            c=c,
            flops=sizes(self.flops),
            epilogue=beside,
        )

    @property
    def generated(self) -> list[Lowered]:
        """What was lowered for it."""
        return [] if self.epilogue is None else [self.epilogue.lowered]

    @property
    def reads(self) -> tuple[Value, ...]:
        own = (self.a[0], self.b[0])
        return own if self.epilogue is None else (*own, *self.epilogue.reads)

    @property
    def writes(self) -> tuple[Value, ...]:
        return (self.c[0],) if self.epilogue is None else self.epilogue.writes

    @property
    def in_place(self) -> list[tuple[Value, Value]]:
        """(input, output) pairs that may share memory: none that the product itself reads."""
        if self.epilogue is None:
            return []
        return [(x, o) for x, o in self.epilogue.in_place if x not in (self.a[0], self.b[0])]

    @property
    def scratch(self) -> list[tuple[Value, int]]:
        return [] if self.epilogue is None else self.epilogue.scratch

    @property
    def nanoseconds(self) -> float:
        return self.flops / 50.0 + (
            0.0 if self.epilogue is None else kernel_nanoseconds(self.epilogue.lowered)
        )

    def carrying(self, e: Epilogue) -> GemmStep:
        """With an epilogue."""
        return replace(self, epilogue=e)

    @functools.cached_property
    def walks(self) -> tuple[Walk, ...]:
        """How it goes through its operands."""
        p, item = self.plan, self.c[0].dtype.itemsize
        first, second = (self.a, self.b) if p.a_word == gemm.Words.A else (self.b, self.a)
        place = self.c[0] if self.epilogue is None else self.epilogue.place
        operands = zip((first, second, (place, self.c[1])), (False, False, True), p.walks(), strict=True)
        own = [
            Walk(base, written, outer, inner, offset // item)
            for (base, offset), written, (outer, inner) in operands
            if base is not None
        ]
        return (*own, *(() if self.epilogue is None else self.epilogue.walks(p.split)))


@dataclass
class RoutineStep:
    """One of our own routines: a kernel with a block of words, some of which are addresses.

    `operands` are (base or scratch value, byte offset, which word takes its address). Threads share it in at most `threads` pieces, and
    in no more than the work is `worth`.
    """

    title: str
    kernel: Kernel
    words: list[int]
    operands: tuple[tuple[Value, int, int], ...]
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    extent: int
    nanoseconds: float  # of one thread
    worth: float = 1.0
    threads: int = 1
    grain: int = 1
    flops: int = 0  # where they say more than nanoseconds
    blocks: tuple[
        tuple[int, tuple[int, ...]], ...
    ] = ()  # (which word takes its address, words of another block)
    checks: bool = False
    in_place: tuple[tuple[Value, Value], ...] = ()
    scratch: tuple[tuple[Value, int], ...] = ()
    carries: int = 0  # the word of an epilogue's kernel, before its arguments' and whether blocks are alone; 0 where it takes none
    fits_block: bool = False
    epilogue: Epilogue | None = None

    def carrying(self, e: Epilogue) -> RoutineStep:
        """With an epilogue."""
        operands = [(e.place if v is e.product else v, offset, word) for v, offset, word in self.operands]
        return replace(
            self,
            operands=tuple([(v, offset, word) for v, offset, word in operands if v is not None]),
            reads=(*self.reads, *e.reads),
            writes=e.writes,
            in_place=tuple([(x, o) for x, o in e.in_place if x not in self.reads]),
            scratch=tuple(e.scratch),
            nanoseconds=self.nanoseconds + kernel_nanoseconds(e.lowered),
            epilogue=e,
        )

    def at(self, sizes: Sizes) -> RoutineStep:
        """For these sizes."""
        value = sizes.value
        return replace(
            self,
            words=list(map(sizes, self.words)),
            operands=tuple([(sizes.value(v), sizes(offset), word) for v, offset, word in self.operands]),
            reads=sizes.all(self.reads),
            writes=sizes.all(self.writes),
            extent=sizes(self.extent),
            nanoseconds=sizes(self.nanoseconds),
            worth=sizes(self.worth),
            flops=sizes(self.flops),
            blocks=sizes(self.blocks),
            in_place=tuple([(value(x), value(o)) for x, o in self.in_place]),
            scratch=tuple([(value(v), sizes(n)) for v, n in self.scratch]),
            epilogue=None if self.epilogue is None else self.epilogue.at(sizes),
        )

    @property
    def pieces(self) -> int:
        return max(1, min(self.threads, self.extent, int(self.worth)))


@dataclass
class EmptyStep:
    """A node whose results have no elements: nothing is done, but they have a place."""

    title: str
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    nanoseconds: float = 0.0
    checks: bool = False
    in_place: tuple[tuple[Value, Value], ...] = ()
    scratch: tuple[tuple[Value, int], ...] = ()

    def at(self, sizes: Sizes) -> EmptyStep:
        """For these sizes."""
        return replace(self, reads=sizes.all(self.reads), writes=sizes.all(self.writes))


@dataclass
class PythonStep:
    """A node without a native kernel: its row's eager form, called between two native segments."""

    node: Node
    reads: tuple[Value, ...]
    writes: tuple[Value, ...] = field(default=())
    nanoseconds: float = 1e5
    reason: str = "has no native kernel for these operands"
    checks: bool = False
    in_place: tuple[tuple[Value, Value], ...] = ()
    scratch: tuple[tuple[Value, int], ...] = ()

    def at(self, sizes: Sizes) -> PythonStep:
        """For these sizes."""
        node = sizes.node(self.node)
        return replace(self, node=node, reads=sizes.all(self.reads), writes=sizes.all(self.writes))


Step: TypeAlias = (
    "KernelStep | HorizontalStep | GemmStep | RoutineStep | EmptyStep | PythonStep | ControlStep | SweepStep"
)


def merge_equal_updates(steps: list[Step]) -> list[Step]:
    """Kernels of one text whose results nobody reads (updates of parameters) become one horizontal launch at the end."""
    read = {v for s in steps for v in s.reads}
    writers = Counter(v for s in steps for v in s.writes)
    by_kernel: dict[str, list[KernelStep]] = {}
    for s in steps:
        if (
            isinstance(s, KernelStep)
            and not s.checks
            and not any(v in read or writers[v] > 1 for v in s.writes)
        ):
            by_kernel.setdefault(s.kernel.name, []).append(s)
    groups = [group for group in by_kernel.values() if len(group) > 1]
    moved = {id(s) for group in groups for s in group}
    return [s for s in steps if id(s) not in moved] + [HorizontalStep(group) for group in groups]


def is_empty(n: Node) -> bool:
    """True where there is nothing to do, and no index or value to check."""
    if not n.outputs or any(v.spec.size for v in n.outputs):
        return False
    if n.op.kind is Kind.CONTROL and has_effects(n):
        return False
    if n.op.kind in (Kind.CONTROL, Kind.EFFECT) and n.op.provider is None:
        return False
    return n.op.kind is not Kind.INDEX or not any(v.spec.size for v in n.values[1:])


def run_eagerly(n: Node, operands: list[Any], xp: Any = np) -> Any:
    """A node by its row's eager form on arrays of `xp`; errors name the op and the user's line."""
    try:
        with np.errstate(all="ignore"):
            return n.op.eager(xp, *operands, **n.attrs)
    except HybridMLError as e:
        raise type(e)(located(f"{n.op.name}: {e}", n.source)) from None


def gemm_steps(
    graph: Graph,
    n: Node,
    places: dict[Value, Place],
    threads: int,
    plan_of: Callable[..., Any] = gemm.plan,
    **options: Any,
) -> list[GemmStep] | None:
    """The products that make up a (batched) matmul node, or None where the provider cannot take it.

    `plan_of` says how the target computes one: it takes what `gemm.plan` takes, and the `options`.
    """
    x, y = n.values
    out = n.out
    if out.dtype.name not in ("float32", "float64") or out.spec.size == 0:
        return None
    batch = out.shape[:-2]
    m, cols = out.shape[-2:]
    a = _operand(places[x], batch)
    b = _operand(places[y], batch)
    if a is None or b is None:
        return None
    (a_base, a_layout, a_t, lda), (b_base, b_layout, b_t, ldb) = a, b
    ta, tb = n.attrs["ta"] != a_t, n.attrs["tb"] != b_t
    k = x.shape[-2] if n.attrs["ta"] else x.shape[-1]
    c_strides = Layout.contiguous(out.shape).strides
    a_batch, b_batch = a_layout.strides[:-2], b_layout.strides[:-2]
    if (
        batch
        and not ta
        and all(s == 0 or d == 1 for s, d in zip(b_batch, batch, strict=True))
        and _stacks(a_layout, lda)
    ):
        m, batch, a_batch, b_batch = m * math.prod(batch), (), (), ()  # one tall product instead of a batch
    itemsize = out.dtype.itemsize
    dims = tuple([d for d in batch if d != 1])
    kept = [i for i, d in enumerate(batch) if d != 1]
    strides = [tuple([s[i] for i in kept]) for s in (a_batch, b_batch, c_strides[: len(batch)])]
    runs = collapse(dims, (0,) * len(dims), strides)
    sizes = [math.prod(dims[i] for i in run) for run in runs]
    starts = [tuple([s[run[-1]] for run in runs]) for s in strides]
    outer, inner = (1, 1, *sizes)[-2:]
    steps = [(0, 0, *s)[-2:] for s in starts]  # of A, B and C along the outer and the inner axis
    product = Product(plan_of, (m, cols, k, out.dtype.name, ta, tb, inner, threads), {
        "lda": lda, "ldb": ldb, "strides": (steps[0][1], steps[1][1], steps[2][1]),
        "outer": outer, "outer_strides": (steps[0][0], steps[1][0], steps[2][0]), **options,
    })  # fmt: skip
    plan = product.plan()
    found = []
    for index in np.ndindex(*sizes[:-2]):
        offsets = [sum(i * s for i, s in zip(index, st, strict=False)) * itemsize for st in starts]
        found.append(
            GemmStep(
                product, plan, (a_base, a_layout.offset * itemsize + offsets[0]), (b_base, b_layout.offset * itemsize + offsets[1]),
                (out, offsets[2]), 2 * m * cols * k * inner * outer,
            )
        )  # fmt: skip
    return found


def _operand(place: Place, batch: tuple[int, ...]) -> tuple[Value, Layout, bool, int] | None:
    base, layout = place
    matrix = layout.matrix
    if matrix is None:
        return None
    return base, stretch(layout, (*batch, *layout.shape[-2:])), matrix[0], matrix[1]


def _stacks(layout: Layout, ld: int) -> bool:
    """True if the batch axes merely continue the rows."""
    step = ld * layout.shape[-2]
    for d, s in zip(reversed(layout.shape[:-2]), reversed(layout.strides[:-2]), strict=True):
        if d != 1 and s != step:
            return False
        step *= d
    return True
