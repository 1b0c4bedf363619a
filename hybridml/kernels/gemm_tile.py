"""The vector code of the generated matrix product: a tile of C held in registers.

Numba has no vector types, so these intrinsics write LLVM vectors. ``*_tile`` computes a few rows and some
vectors of columns of C at once: for each step along the summed axis it loads the vectors of B, and
multiplies them by one element of A for each row. ``*_fitting_tile`` chooses the rows so that the tiles of a
block are alike. ``*_dots`` computes a few elements of one column of C from operands that lie along the
summed axis.

Every operand is an int64 address, every stride a number of elements. Columns beyond the last are masked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from hybridml.kernels.language import build as cgutils
from hybridml.kernels.language import lanes, types
from hybridml.kernels.language.functions import intrinsic
from hybridml.kernels.vectors import TILE_VECTORS, vectors

HERE = vectors()
VECTOR_BYTES, TILE_ROWS = HERE.bytes, HERE.tile_rows
WHOLE_PANELS = HERE.costly_masks  # what a fitting tile reads of B has room for whole vectors

float32_width = VECTOR_BYTES // 4
float64_width = VECTOR_BYTES // 8
float32_item = 4
float64_item = 8

ACCUMULATE, KEEP = 1, 2
"""Bits: C is added to; C is stored although an epilogue has taken it."""

_ARGUMENTS = 14  # of a fitting tile, but for the rows that are left

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)


def prefetch(builder: Any, address: Any, *, write: bool, level: int) -> None:
    """Fetch the cache line at an address, which need not be a valid one, into the first- or second-level cache."""
    pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, _I32(int(write)), _I32(4 - level), _I32(1)])


class Emitter:
    """Writes vector instructions for one element type at the builder's place."""

    def __init__(self, builder: Any, element: ir.Type) -> None:
        self.builder = builder
        self.element = element
        self.item_bytes = 4 if element == ir.FloatType() else 8
        self.width = VECTOR_BYTES // self.item_bytes
        self.vector = ir.VectorType(element, self.width)

    def address(self, base: Any, *terms: Any) -> Any:
        """``base`` plus a number of elements."""
        for term in terms:
            base = self.builder.add(base, self.builder.mul(term, _I64(self.item_bytes)))
        return base

    def splat(self, value: Any) -> Any:
        return lanes.splat(self.builder, value, self.width)

    def first_lanes(self, count: Any) -> Any:
        """The mask of the lanes below ``count``, an int64 of any size."""
        return lanes.first(self.builder, count, self.width)

    def scalar(self, address: Any) -> Any:
        return self.builder.load(self.builder.inttoptr(address, self.element.as_pointer()))

    def load(self, address: Any, mask: Any | None) -> Any:
        pointer = self.builder.inttoptr(address, self.vector.as_pointer())
        return lanes.load(self.builder, pointer, self.item_bytes, mask)

    def store(self, value: Any, address: Any, mask: Any | None) -> None:
        pointer = self.builder.inttoptr(address, self.vector.as_pointer())
        lanes.store(self.builder, value, pointer, self.item_bytes, mask)

    def zero(self) -> Any:
        return ir.Constant(self.vector, None)

    def sum_of_products(self, total: Any, x: Any, y: Any) -> Any:
        # "contract" lets the two become one fused instruction where the processor has it, and stay two where
        # not.
        product = self.builder.fmul(x, y, flags=("contract",))
        return self.builder.fadd(total, product, flags=("contract",))

    def repeat(
        self, count: Any, first: Sequence[Any], step: Callable[[Sequence[Any]], Sequence[Any]]
    ) -> list[Any]:
        """What becomes of the values `first` when `values = step(values)` runs `count` times: a loop that holds them in registers."""
        builder, before = self.builder, self.builder.block
        header, body, after = [builder.append_basic_block(name) for name in ("repeat", "step", "repeated")]
        builder.branch(header)
        builder.position_at_end(header)
        carried = [builder.phi(x.type) for x in (_I64(0), *first)]
        builder.cbranch(builder.icmp_signed("<", carried[0], count), body, after)
        builder.position_at_end(body)
        following = [builder.add(carried[0], _I64(1), flags=("nsw",)), *step(carried[1:])]
        for phi, start, x in zip(carried, (_I64(0), *first), following, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(x, builder.block)
        builder.branch(header)
        builder.position_at_end(after)
        return carried[1:]

    def where(self, condition: Any, values: Sequence[Any], then: Callable[[], Sequence[Any]]) -> list[Any]:
        """`values`, or what `then()` makes where the condition holds."""
        before = self.builder.block
        with self.builder.if_then(condition):
            others = then()
            inside = self.builder.block
        return cgutils.meeting(self.builder, [(before, values), (inside, others)])

    def total(self, value: Any) -> Any:
        """The sum of a vector's lanes, halves first: always the same order."""
        half = self.width
        while half > 1:
            half //= 2
            upper = list(range(half, 2 * half)) + [0] * (self.width - half)
            value = self.builder.fadd(value, self.builder.shuffle_vector(value, value, lanes.places(*upper)))
        return self.builder.extract_element(value, _I32(0))


Masks = Sequence[Any | None]


def _emit_tile(builder: Any, element: ir.Type, rows: int, vectors: int, values: Sequence[Any]) -> None:
    """Rows and vectors of C, whose columns may be any number of these vectors' lanes."""
    columns = values[8]
    emit = Emitter(builder, element)
    partial = [emit.first_lanes(builder.sub(columns, _I64(v * emit.width))) for v in range(vectors)]
    full = builder.icmp_signed(">=", columns, _I64(vectors * emit.width))
    _emit_full_or_masked(emit, rows, values, full, partial)


def _emit_full_or_masked(
    emit: Emitter, rows: int, values: Sequence[Any], full: Any, masks: Masks, whole: bool = False
) -> None:
    """Tiles; where B has room for `whole` vectors, all of it is read."""

    def tile(masks: Masks) -> None:
        read = [None] * len(masks) if whole else masks
        _emit_end(emit, rows, values, masks, _emit_sums(emit, rows, values, read))

    if HERE.free_masks:
        tile(masks)
        return
    with emit.builder.if_else(full) as (then, otherwise):
        with then:
            tile([None] * len(masks))
        with otherwise:
            tile(masks)


def _emit_sums(emit: Emitter, rows: int, values: Sequence[Any], masks: Masks) -> list[Any]:
    """The products summed up, for each row the vectors of its columns; of B only what the masks let through is read."""
    builder, vectors = emit.builder, len(masks)
    a, a_row, a_column, b, b_row, _, _, depth, *_ = values
    row_starts = [emit.address(a, builder.mul(a_row, _I64(r))) for r in range(rows)]
    for place in _places(emit, rows, values, vectors):
        # while the sums are made, the lines of C that they are stored to arrive
        prefetch(builder, place, write=True, level=1)
    a_step, b_step = [builder.mul(stride, _I64(emit.item_bytes)) for stride in (a_column, b_row)]

    def step(values: Sequence[Any]) -> Sequence[Any]:
        across, down, *sums = values
        columns = [emit.load(emit.address(down, _I64(v * emit.width)), mask) for v, mask in enumerate(masks)]
        factors = [emit.splat(emit.scalar(builder.add(start, across))) for start in row_starts]
        added = [
            emit.sum_of_products(x, factors[k // vectors], columns[k % vectors]) for k, x in enumerate(sums)
        ]
        return [builder.add(across, a_step), builder.add(down, b_step), *added]

    _, _, *sums = emit.repeat(depth, [_I64(0), b, *[emit.zero()] * (rows * vectors)], step)
    return sums


def _emit_end(emit: Emitter, rows: int, values: Sequence[Any], masks: Masks, sums: list[Any]) -> None:
    """What C holds is added, if it is to be; then C is stored, or the epilogue takes the sums, or both."""
    builder, vectors = emit.builder, len(masks)
    *_, columns, accumulate = values[:10]
    after = values[10:]
    places = _places(emit, rows, values, vectors)

    def with_c() -> list[Any]:
        return [
            builder.fadd(x, emit.load(p, masks[k % vectors]))
            for k, (x, p) in enumerate(zip(sums, places, strict=True))
        ]

    def flag(bit: int) -> Any:
        return cgutils.is_not_null(builder, builder.and_(accumulate, _I64(bit)))

    def store() -> None:
        for k, (x, place) in enumerate(zip(sums, places, strict=True)):
            emit.store(x, place, masks[k % vectors])

    sums = emit.where(flag(ACCUMULATE), sums, with_c)
    if not after:
        store()
        return
    epilogue, block, row, column = after
    rides = cgutils.is_not_null(builder, epilogue)
    with builder.if_then(builder.or_(builder.not_(rides), flag(KEEP))):
        store()
    with builder.if_then(rides):
        taken = _whole_tile(emit, sums, vectors)
        call_on_tile(builder, epilogue, [block, row, _I64(rows), column, columns], taken)


def _places(emit: Emitter, rows: int, values: Sequence[Any], vectors: int) -> list[Any]:
    """Where each vector of a tile of C lies."""
    c, c_row = values[5], values[6]
    starts = [emit.address(c, emit.builder.mul(c_row, _I64(r))) for r in range(rows)]
    return [emit.address(start, _I64(v * emit.width)) for start in starts for v in range(vectors)]


def _whole_tile(emit: Emitter, sums: Sequence[Any], vectors: int) -> list[Any]:
    """The vectors of a tile, with zeros for those that are not there."""
    found = [emit.zero()] * (TILE_ROWS * TILE_VECTORS)
    for k, x in enumerate(sums):
        found[k // vectors * TILE_VECTORS + k % vectors] = x
    return found


def call_on_tile(builder: Any, function: Any, numbers: Sequence[Any], vectors: Sequence[Any]) -> None:
    """Call what `translate.tile` made, by its address, with a tile's vectors in registers."""
    kind = ir.FunctionType(ir.VoidType(), [_I64] * len(numbers) + [v.type for v in vectors])
    pointer = builder.inttoptr(function, kind.as_pointer())
    builder.call(pointer, [*numbers, *vectors], cconv=HERE.arguments or None)


def _emit_fitting_tile(builder: Any, element: ir.Type, left: Any, values: Sequence[Any]) -> Any:
    """One or two vectors of columns, and as many rows as make the tiles of ``left`` rows alike; how many these are.

    A last tile of few rows would wait for its own results: a multiply-add takes four cycles, and a core starts two in each.
    """

    def rounded_up(x: Any, y: Any) -> Any:
        return builder.udiv(builder.sub(builder.add(x, y), _I32(1)), y)

    count = builder.trunc(left, _I32)
    rows = rounded_up(count, rounded_up(count, _I32(TILE_ROWS)))
    none, end = builder.append_basic_block("none"), builder.append_basic_block("tile_end")
    choice = builder.switch(rows, none)
    chosen = []
    for r in range(1, TILE_ROWS + 1):
        block = builder.append_basic_block(f"rows_{r}")
        choice.add_case(_I32(r), block)
        builder.position_at_end(block)
        builder.branch(end)
        chosen.append((_tile_function(builder.module, element, r), block))
    builder.position_at_end(none)
    builder.unreachable()
    builder.position_at_end(end)
    # One call for all of them: its arguments take more code than the choice.
    function = builder.phi(chosen[0][0].type)
    for tile, block in chosen:
        function.add_incoming(tile, block)
    builder.call(function, values)
    return builder.zext(rows, _I64)


def _tile_function(module: Any, element: ir.Type, rows: int) -> Any:
    """One or two vectors of columns of so many rows. A function of its own has all registers for itself."""
    name = f"tile_of_{rows}_{element}"
    if name in module.globals:
        return module.globals[name]
    function = cgutils.function(module, ir.FunctionType(ir.VoidType(), [_I64] * _ARGUMENTS), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = cgutils.builder_at(function.append_basic_block("entry"))
    emit = Emitter(builder, element)
    values, columns = function.args, function.args[8]
    masks = [emit.first_lanes(builder.sub(columns, _I64(v * emit.width))) for v in range(TILE_VECTORS)]
    is_narrow = builder.icmp_signed("<=", columns, _I64(emit.width))
    if HERE.free_masks:  # one end for both, whose masks say which columns are there
        ends = []
        with builder.if_else(is_narrow) as (narrow, wide):
            with narrow:
                sums = _whole_tile(emit, _emit_sums(emit, rows, values, masks[:1]), 1)
                ends.append((builder.block, sums))
            with wide:
                sums = _emit_sums(emit, rows, values, [None, masks[1]])
                ends.append((builder.block, sums))
        _emit_end(emit, rows, values, masks, cgutils.meeting(builder, ends))
    else:  # with few registers, what they had in common would be spilled
        with builder.if_else(is_narrow) as (narrow, wide):
            with narrow:
                read = [None] if WHOLE_PANELS else masks[:1]
                _emit_end(emit, rows, values, masks[:1], _emit_sums(emit, rows, values, read))
            with wide:
                full = builder.icmp_signed(">=", columns, _I64(TILE_VECTORS * emit.width))
                _emit_full_or_masked(emit, rows, values, full, [None, masks[1]], WHOLE_PANELS)
    builder.ret_void()
    return function


def _emit_dots(builder: Any, element: ir.Type, rows: int, values: Sequence[Any]) -> None:
    a, a_row, b, c, c_row, depth, accumulate = values
    emit = Emitter(builder, element)
    width = _I64(emit.width)
    row_starts = [emit.address(a, builder.mul(a_row, _I64(r))) for r in range(rows)]
    whole = builder.sdiv(depth, width)

    def step(values: Sequence[Any], mask: Any | None = None) -> Sequence[Any]:
        along, *sums = values
        vector = emit.load(builder.add(b, along), mask)
        loaded = [emit.load(builder.add(start, along), mask) for start in row_starts]
        added = [emit.sum_of_products(x, row, vector) for x, row in zip(sums, loaded, strict=True)]
        return [builder.add(along, _I64(VECTOR_BYTES)), *added]

    values = emit.repeat(whole, [_I64(0), *[emit.zero()] * rows], step)
    done = builder.mul(whole, width)
    rest = builder.icmp_signed("<", done, depth)
    _, *sums = emit.where(rest, values, lambda: step(values, emit.first_lanes(builder.sub(depth, done))))
    for r in range(rows):
        place = builder.inttoptr(emit.address(c, builder.mul(c_row, _I64(r))), element.as_pointer())
        old = builder.select(cgutils.is_not_null(builder, accumulate), builder.load(place), element(0.0))
        builder.store(builder.fadd(emit.total(sums[r]), old), place)


def _make_tile(element: ir.Type) -> Any:
    @intrinsic(prefer_literal=True)
    def tile(  # type: ignore[no-untyped-def]
        typingctx, rows, vectors, a, a_row, a_column, b, b_row, c, c_row, depth, columns, accumulate
    ):
        """C[rows, vectors * width] = A[rows, depth] @ B[depth, columns] (+ C); rows and vectors are
        literal."""

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            _emit_tile(builder, element, rows.literal_value, vectors.literal_value, values[2:])
            return context.get_dummy_value()

        return types.none(rows, vectors, *[types.int64] * 10), codegen

    return tile


def _make_fitting_tile(element: ir.Type) -> Any:
    @intrinsic
    def fitting_tile(  # type: ignore[no-untyped-def]
        typingctx,
        left,
        a,
        a_row,
        a_column,
        b,
        b_row,
        c,
        c_row,
        depth,
        columns,
        accumulate,
        epilogue,
        block,
        row,
        column,
    ):
        """As ``tile`` for up to two vectors of columns, and for as many of ``left`` rows as it returns, at most `TILE_ROWS`.

        An ``epilogue`` that is not 0 takes the tile, with its own argument ``block``, as that of C from this row and column on; C itself
        is then stored only if ``accumulate`` has the bit `KEEP`.
        """

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            return _emit_fitting_tile(builder, element, values[0], values[1:])

        return types.int64(*[types.int64] * (1 + _ARGUMENTS)), codegen

    return fitting_tile


def _make_dots(element: ir.Type) -> Any:
    @intrinsic(prefer_literal=True)
    def dots(typingctx, rows, a, a_row, b, c, c_row, depth, accumulate):  # type: ignore[no-untyped-def]
        """C[rows] = A[rows, depth] @ B[depth] (+ C), A's rows and B contiguous; rows is literal."""

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            _emit_dots(builder, element, rows.literal_value, values[1:])
            return context.get_dummy_value()

        return types.none(rows, *[types.int64] * 7), codegen

    return dots


def _make_blas_call(element: ir.Type) -> Any:
    @intrinsic
    def call_blas(typingctx, function, trans1, trans2, m, n, k, x, ldx, y, ldy, beta, z, ldz):  # type: ignore[no-untyped-def]
        """Call a Fortran ``?gemm(trans1, trans2, m, n, k, 1, x, ldx, y, ldy, beta, z, ldz)`` by its address.

        Fortran takes every argument by address. An int64 in little-endian memory is also the int32 that a
        library with 32-bit integers reads there, so one call serves both kinds.
        """

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            def place(value: Any) -> Any:
                slot = cgutils.alloca_once(builder, value.type)
                builder.store(value, slot)
                return builder.ptrtoint(slot, _I64)

            function, trans1, trans2, m, n, k, x, ldx, y, ldy, beta, z, ldz = values
            one, zero = element(1.0), element(0.0)
            factor = builder.select(cgutils.is_not_null(builder, beta), one, zero)
            letters = [
                builder.select(cgutils.is_not_null(builder, t), _I64(84), _I64(78)) for t in (trans1, trans2)
            ]
            arguments = [
                *[place(value) for value in (*letters, m, n, k, one)],
                *(x, place(ldx), y, place(ldy), place(factor), z, place(ldz)),
            ]
            signature = ir.FunctionType(ir.VoidType(), [_I64] * len(arguments))
            builder.call(builder.inttoptr(function, signature.as_pointer()), arguments)
            return context.get_dummy_value()

        return types.none(*[types.int64] * 13), codegen

    return call_blas


@intrinsic(prefer_literal=True)
def scratch(typingctx, count):  # type: ignore[no-untyped-def]
    """The address of a literal number of bytes on this call's stack, at the start of a cache line."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        space = cgutils.space(builder, count.literal_value, 64)
        return builder.ptrtoint(space, _I64)

    return types.int64(count), codegen


float32_tile = _make_tile(ir.FloatType())
float64_tile = _make_tile(ir.DoubleType())
float32_fitting_tile = _make_fitting_tile(ir.FloatType())
float64_fitting_tile = _make_fitting_tile(ir.DoubleType())
float32_dots = _make_dots(ir.FloatType())
float64_dots = _make_dots(ir.DoubleType())
float32_call_blas = _make_blas_call(ir.FloatType())
float64_call_blas = _make_blas_call(ir.DoubleType())
