"""Matrix products as steps of a program: which of a batch's products one step takes, what it is planned from, what rides in it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hybridml.kernels import gemm
from hybridml.kernels.lower import Lowered
from hybridml.kernels.space import collapse, stretch
from hybridml.kernels.steps import kernel_nanoseconds
from hybridml.kernels.views import Place
from hybridml.kernels.walk import Walk
from hybridml.ops.registry import Layout
from hybridml.symbolic import has_dims
from hybridml.trace.bind import Sizes
from hybridml.trace.graph import Graph, Node, Value

if TYPE_CHECKING:
    from hybridml.kernels.epilogue import Epilogue
    from hybridml.kernels.prologue import Prologue


@dataclass(frozen=True)
class Product:
    """What a matrix product is planned from: the function that plans it, and the sizes, strides and flags that it takes."""

    planner: Callable[..., Any]
    args: tuple[Any, ...]
    keywords: dict[str, Any]

    def at(self, sizes: Sizes) -> Product:
        return Product(self.planner, sizes(self.args), {k: sizes(x) for k, x in self.keywords.items()})

    @property
    def turned(self) -> tuple[bool, bool]:
        """Whether A and B lie in memory as their transposes."""
        return self.args[4], self.args[5]

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
    prologues: tuple[Prologue, ...] = ()

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
            prologues=tuple([p.at(sizes) for p in self.prologues]),
        )

    @property
    def generated(self) -> list[Lowered]:
        """What was lowered for it."""
        riding = [] if self.epilogue is None else [self.epilogue.lowered]
        return [*riding, *[p.lowered for p in self.prologues]]

    @property
    def _packed(self) -> set[int]:
        """The operands that it makes itself."""
        return {p.operand for p in self.prologues}

    @property
    def operands(self) -> list[tuple[Value, int, int]]:
        """Base, byte offset and the word of its address, for each operand that lies in memory."""
        given = ((*self.a, self.plan.a_word), (*self.b, self.plan.b_word))
        return [x for number, x in enumerate(given) if number not in self._packed]

    @property
    def _inputs(self) -> tuple[Value, ...]:
        """What the product and its prologues read."""
        own = [v for number, (v, _) in enumerate((self.a, self.b)) if number not in self._packed]
        return tuple(dict.fromkeys([*own, *[v for p in self.prologues for v in p.reads]]))

    @property
    def reads(self) -> tuple[Value, ...]:
        return self._inputs if self.epilogue is None else (*self._inputs, *self.epilogue.reads)

    @property
    def writes(self) -> tuple[Value, ...]:
        return (self.c[0],) if self.epilogue is None else self.epilogue.writes

    @property
    def in_place(self) -> list[tuple[Value, Value]]:
        """(input, output) pairs that may share memory: none that the product itself reads."""
        if self.epilogue is None:
            return []
        return [(x, o) for x, o in self.epilogue.in_place if x not in self._inputs]

    @property
    def scratch(self) -> list[tuple[Value, int]]:
        return [] if self.epilogue is None else self.epilogue.scratch

    @property
    def nanoseconds(self) -> float:
        return self.flops / 50.0 + sum(map(kernel_nanoseconds, self.generated))

    def carrying(self, e: Epilogue) -> GemmStep:
        """With an epilogue."""
        return replace(self, epilogue=e)

    def packing(self, prologues: tuple[Prologue, ...]) -> GemmStep:
        """With what makes its operands."""
        return replace(self, prologues=prologues)

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
        if self.prologues:  # no product that is computed as its transpose has any
            turned = [bool(p.template[word]) for word in (gemm.Words.TRANSA, gemm.Words.TRANSB)]
            own = [w for number, w in enumerate(own) if number not in self._packed]
            own += [w for q in self.prologues for w in q.walks(p.split, turned[q.operand], p.extent)]
        return (*own, *(() if self.epilogue is None else self.epilogue.walks(p.split)))


def gemm_steps(
    graph: Graph,
    n: Node,
    places: dict[Value, Place],
    threads: int,
    plan_of: Callable[..., Any] = gemm.plan,
    dtypes: Sequence[str] = ("float32", "float64"),
    **options: Any,
) -> list[GemmStep] | None:
    """The products that make up a (batched) matmul node, or None where the provider cannot take it.

    `plan_of` says how the target computes one: it takes what `gemm.plan` takes, and the `options`; `dtypes` are those that it has.
    """
    x, y = n.values
    out = n.out
    if out.dtype.name not in dtypes or out.spec.size == 0:
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
