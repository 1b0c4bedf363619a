"""Matrix products as instructions of a program: which kernel, how it is split, the words of its arguments.

Three kernels share one argument layout (`Words`): register tiles for products up to middle size, dot products
where the result is one column and both operands lie along the summed axis, and the process's BLAS for the
large rest.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from hybridml.kernels import blas, gemm_cost, jit
from hybridml.kernels.gemm_cost import Machine, Product, Split
from hybridml.kernels.jit import Kernel
from hybridml.kernels.vectors import vectors
from hybridml.kernels.walk import Axes

_ZEN_5 = Machine(16, library_share=0.5)
_ZEN_3 = Machine(
    8, library_share=1.0, tile_rows=6, start=60.0, pack=0.05, library_call=1000.0, library_pack=0.5
)
_PROCESSORS = {64: _ZEN_5, 32: _ZEN_3, 16: Machine(4, library_share=0.9, tile_rows=6)}
"""Figures for the cost model, by the bytes of a vector."""

CYCLES = 2.0  # in a nanosecond of an estimate, which is rather too long

_NUMBER_LIMIT = 2**31


class Words(IntEnum):
    """The argument block of a matrix product. Strides and leading dimensions count elements."""

    FUNCTION = 0
    TRANSA = 1
    TRANSB = 2
    M = 3
    N = 4
    K = 5
    A = 6
    LDA = 7
    B = 8
    LDB = 9
    C = 10
    LDC = 11
    BATCH = 12
    STRIDE_A = 13
    STRIDE_B = 14
    STRIDE_C = 15
    SPLIT = 16
    ACCUMULATE = 17
    HOLD = 18
    INNER = 19  # entries of the inner batch axis; the strides above are its own, those below the outer axis's
    OUTER_A = 20
    OUTER_B = 21
    OUTER_C = 22
    EPILOGUE = 23  # the address of a kernel for each block of C, and of its argument block; see `epilogue`
    EPILOGUE_ARGS = 24
    BLOCK_ALONE = 25  # C is that block alone
    TILE_EPILOGUE = (
        26  # the address of a function for each register tile of C, in place of EPILOGUE; see `emit_tile`
    )
    KEEP = 27  # whether others want C then
    PROLOGUE_A = (
        28  # the address of a kernel that makes each block of A, and of its argument block; see `prologue`
    )
    PROLOGUE_A_ARGS = 29
    PROLOGUE_B = 30
    PROLOGUE_B_ARGS = 31
    FIRST_ROW = 32  # what an epilogue of tiles calls the first row and column of C
    FIRST_COLUMN = 33
    PANELS_B = 34  # the prologue of B makes panels


@dataclass(frozen=True)
class Plan:
    """Everything `driver.Table.run` needs for one product, but for the addresses.

    ``template`` is the argument block with zeros at ``a_word``, ``b_word`` and ``c_word``, where the
    addresses of A, B and C belong (a product may be computed as its transpose, and then A's place is B's).
    """

    kernel: Kernel
    extent: int
    chunks: int
    grain: int
    template: tuple[int, ...]
    a_word: int
    b_word: int
    c_word: int

    def words(self, a: int = 0, b: int = 0, c: int = 0) -> list[int]:
        """The argument block for operands at these addresses; leave 0 what a patch fills in."""
        words = list(self.template)
        words[self.a_word], words[self.b_word], words[self.c_word] = a, b, c
        return words

    @property
    def split(self) -> Split:
        """What the extent counts."""
        return Split(self.template[Words.SPLIT])

    def walks(self) -> list[tuple[Axes, Axes]]:
        """For A, B and C as the kernel has them: the axes that the extent runs over, and the others."""
        w = dict(zip(Words, self.template, strict=True))
        m, n, k, split = w[Words.M], w[Words.N], w[Words.K], Split(w[Words.SPLIT])
        lda, ldb, ldc, transa, transb = [
            w[word] for word in (Words.LDA, Words.LDB, Words.LDC, Words.TRANSA, Words.TRANSB)
        ]
        strides = (  # along rows, columns and steps; 0 where an operand does not have that axis
            (1 if transa else lda, 0, lda if transa else 1),
            (0, ldb if transb else 1, 1 if transb else ldb),
            (ldc, 1, 0),
        )
        found: list[tuple[Axes, Axes]] = []
        for number, own in enumerate(strides):
            batch = (
                (w[Words.BATCH] // w[Words.INNER], w[Words(Words.OUTER_A + number)]),
                (w[Words.INNER], w[Words(Words.STRIDE_A + number)]),
            )
            axes = tuple(zip((m, n, k), own, strict=True))
            if split is Split.BATCH:
                found.append((batch, axes))
            else:
                found.append(((axes[split],), (*batch, *axes[:split], *axes[split + 1 :])))
        return found


def plan(
    m: int,
    n: int,
    k: int,
    dtype: str = "float32",
    transa: bool = False,
    transb: bool = False,
    batch: int = 1,
    threads: int = 1,
    *,
    lda: int | None = None,
    ldb: int | None = None,
    ldc: int | None = None,
    strides: tuple[int, int, int] | None = None,
    outer: int = 1,
    outer_strides: tuple[int, int, int] = (0, 0, 0),
    accumulate: bool = False,
    split: Split | None = None,
    chunks: int | None = None,
    provider: str | None = None,
    epilogue: bool = False,
    saved: float = 0.0,
    beside: float = 0.0,
) -> Plan:
    """Plan C = op(A) @ op(B), or C += op(A) @ op(B), on row-major matrices.

    Args:
        m, n, k: op(A) is m x k, op(B) is k x n, C is m x n; any of them may be 0 (k = 0 gives zeros).
        dtype: ``"float32"`` or ``"float64"``.
        transa: A is stored k x m.
        transb: B is stored n x k.
        batch: number of products along the (inner) batch axis.
        threads: how many threads may share the work.
        lda, ldb, ldc: elements from one stored row to the next; default: rows are contiguous.
        strides: elements from one batch entry to the next in A, B and C, 0 to share an operand; default:
            contiguous.
        outer: entries of a second batch axis around the first.
        outer_strides: likewise for that axis.
        accumulate: add to what C holds.
        split, chunks, provider: decide what is otherwise chosen: the split axis, the number of pieces, and
            the kernel (``"tiled"`` or ``"library"``).
        epilogue: something could ride in C's blocks; see `carries`.
        saved: cycles that tiles save besides.
        beside: nanoseconds of what rides.

    Raises:
        ValueError: a size is negative or too large, a leading dimension is less than a row, the dtype or
            provider is unknown.

    Example:
        >>> product = plan(64, 10, 100)
        >>> block = table.block(product.words(a, b, c))  # doctest: +SKIP
        >>> table.run(
        ...     product.kernel.address, block, product.extent, product.chunks, product.grain
        ... )  # doctest: +SKIP
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f"a matrix product takes float32 or float64, not {dtype!r}")
    if provider not in (None, "tiled", "library"):
        raise ValueError(f"provider={provider!r}: expected 'tiled' or 'library'")
    for name, value in {"m": m, "n": n, "k": k, "batch": batch, "outer": outer}.items():
        if not 0 <= value < _NUMBER_LIMIT:
            raise ValueError(f"{name}={value}: expected a number from 0 to 2**31 - 1")
    lda = _leading("lda", lda, m if transa else k)
    ldb = _leading("ldb", ldb, k if transb else n)
    ldc = _leading("ldc", ldc, n)
    stride_a, stride_b, stride_c = strides or (
        (k if transa else m) * lda,
        (n if transb else k) * ldb,
        m * ldc,
    )
    outer_a, outer_b, outer_c = outer_strides
    inner, batch = max(1, batch), batch * outer
    a_word, b_word = int(Words.A), int(Words.B)
    if m == 1 and transb and (not transa or lda == 1):
        # One row times rows of B: as B times a column, a dot product for each element of C.
        m, n, ldc = n, 1, 1
        lda, ldb, transa, transb = ldb, 1, False, False
        stride_a, stride_b = stride_b, stride_a
        outer_a, outer_b = outer_b, outer_a
        a_word, b_word = b_word, a_word
        split = _SWAPPED.get(split, split)
    elif n == 1 and transa and ldc == 1 and (transb or ldb == 1):
        # A column of C that lies along A's rows: as one row times A, vectors along C.
        m, n, ldc = 1, m, max(m, 1)
        lda, ldb, transa, transb = 1, lda, True, False
        stride_a, stride_b = stride_b, stride_a
        outer_a, outer_b = outer_b, outer_a
        a_word, b_word = b_word, a_word
        split = _SWAPPED.get(split, split)
    product, here = Product(m, n, k, transa, transb, batch), machine(dtype)
    saved += gemm_cost.saved_by_epilogue(product, here) if epilogue else 0.0
    entry = provider or _choose(product, ldb, here, saved)
    if chunks is None:
        chunks = gemm_cost.worthwhile_chunks(product, threads, here, CYCLES * beside)
    if split is None:
        split = gemm_cost.best_split(product, chunks, here)
    grain = product.grain(split, chunks, here)
    words = [0] * len(Words)
    if entry == "library":
        library = blas.find()
        if library is None:
            entry = "tiled"
        else:
            words[Words.FUNCTION] = library.sgemm if dtype == "float32" else library.dgemm
            words[Words.HOLD] = library.hold
    words[Words.TRANSA : Words.K + 1] = [int(transa), int(transb), m, n, k]
    words[Words.LDA], words[Words.LDB], words[Words.LDC] = lda, ldb, ldc
    words[Words.BATCH : Words.ACCUMULATE + 1] = [
        batch,
        stride_a,
        stride_b,
        stride_c,
        int(split),
        int(accumulate),
    ]
    words[Words.INNER : Words.EPILOGUE] = [inner, outer_a, outer_b, outer_c]
    extent = (m, n, batch)[split] if min(m, n, batch) else 0
    return Plan(load(entry, dtype), extent, chunks, grain, tuple(words), a_word, b_word, int(Words.C))


def packs(p: Plan, operand: int, size: int) -> tuple[int, int] | None:
    """(columns, times) of what is packed of operand A (0) or B (1), all `size` elements of it as they lie in memory: the length of its
    rows, and how often each element would be packed. None where that does not go in blocks of rows and columns."""
    if p.kernel.name != "tiled" or p.a_word != Words.A or not p.extent:
        return None
    w = p.template
    m, n, k, batch = w[Words.M], w[Words.N], w[Words.K], w[Words.BATCH]
    turned = w[(Words.TRANSA, Words.TRANSB)[operand]]
    rows, columns = ((m, k), (k, n))[operand]
    if turned:
        rows, columns = columns, rows
    inner, outer = w[Words.INNER], batch // w[Words.INNER]
    step, far = w[(Words.STRIDE_A, Words.STRIDE_B)[operand]], w[(Words.OUTER_A, Words.OUTER_B)[operand]]
    in_order = (inner == 1 or step == rows * columns) and (outer == 1 or far == inner * rows * columns)
    whole = min(rows, columns) > 1 and size == batch * rows * columns
    if not whole or not in_order or w[(Words.LDA, Words.LDB)[operand]] != columns:
        return None
    pieces = min(p.chunks, p.extent)
    if operand == 0:
        return columns, pieces if p.split is Split.COLUMNS else 1
    share = -(-m // pieces) if p.split is Split.ROWS else m
    return columns, -(-share // gemm_cost.BLOCK_ROWS) * (pieces if p.split is Split.ROWS else 1)


def carries(p: Plan, n: int) -> bool:
    """True for a product in tiles of C's own rows and columns, `n` of these."""
    plain = p.a_word == Words.A and p.template[Words.LDC] == n and min(p.template[Words.M], n) > 1
    return plain and p.extent > 0 and p.kernel.name == "tiled"


def fits_block(depth: int) -> bool:
    """True if a block of C is summed up in one go, so that C need not be kept between."""
    return depth <= 2 * gemm_cost.STEPS


def load(entry: str, dtype: str) -> Kernel:
    """The kernel ``"tiled"``, ``"dotted"``, ``"row"`` or ``"library"`` for a dtype."""
    return jit.load(_source(dtype), entry)


@functools.cache
def _source(dtype: str) -> str:
    text = Path(__file__).with_name("gemm_loops.py").read_text(encoding="utf-8")
    return text.replace("float32", dtype)


_SWAPPED: dict[Split | None, Split] = {  # the axes of a transposed result
    Split.ROWS: Split.COLUMNS,
    Split.COLUMNS: Split.ROWS,
}


def _leading(name: str, given: int | None, width: int) -> int:
    if given is not None and given < width:
        raise ValueError(f"{name}={given} is less than a row of {width} elements")
    # BLAS wants a positive number also where there is nothing to step over.
    return max(1, width if given is None else given)


def _choose(p: Product, ldb: int, machine: Machine, saved: float) -> str:
    if p.n == 1 and not p.transa and (p.transb or ldb == 1):
        return "dotted"
    if p.m == 1 and not p.transb:
        return "row"
    return "tiled" if gemm_cost.tiled(p, machine) <= gemm_cost.library(p, machine) + saved else "library"


@functools.cache
def machine(dtype: str) -> Machine:
    """This processor, for the cost model."""
    return replace(_PROCESSORS[vectors().bytes], lanes=vectors().bytes // (4 if dtype == "float32" else 8))
