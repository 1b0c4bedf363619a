"""The matrix products C = op(A) @ op(B), or C += op(A) @ op(B), as kernels.

`gemm` reads the text of this file and hands it to `jit`; for double precision it puts float64 in place of
float32. All matrices are row-major. The words of the argument block are those of `gemm.Words`.
"""

from hybridml.kernels.gemm_cost import STEPS
from hybridml.kernels.gemm_pack import float32_copy, float32_copy_columns, float32_copy_transposed
from hybridml.kernels.gemm_tile import (
    KEEP,
    WHOLE_PANELS,
    float32_call_blas,
    float32_dots,
    float32_fitting_tile,
    float32_tile,
    float32_width,
    scratch,
)
from hybridml.kernels.gemm_tile import (
    float32_item as ITEM,
)
from hybridml.kernels.language.functions import device
from hybridml.kernels.native import (
    atomic_add,
    atomic_store,
    call_get_int,
    call_on_block,
    call_set_int,
    compare_exchange,
    copy_bytes,
    load,
    pause,
    store,
)

WIDTH = float32_width
PANEL = 2 * WIDTH
SLACK = 16  # elements between packed rows of A, and panels of B: at powers of two they would meet in one cache set
PANELS = 4  # of B are packed at once: rows that lie far apart are read some cache lines at a time
BLOCK_ROWS = 1024 // ITEM  # of A that packed panels of B serve
# When packing pays, by measurement: on Zen 5 for vectors of 64 bytes, on Zen 3 for others.
ON_WIDE = WIDTH * ITEM == 64
FEW_ROWS = 24  # of A that use a panel of B whose rows lie across cache lines
MANY_ROWS = 128 if ON_WIDE else FEW_ROWS  # of A that use a panel of B
FEW_PANELS = 16 if ON_WIDE else 2  # of B that use columns of A that lie FAR_APART
MANY_PANELS = 16  # of B that use rows of A that meet in one cache set
FAR_APART = 1024  # bytes
A_BLOCK = max(  # elements: rows of A, or columns as they lie where A is transposed
    BLOCK_ROWS * (STEPS + SLACK), STEPS * (BLOCK_ROWS + SLACK), 2 * STEPS * (BLOCK_ROWS // 2 + SLACK)
)
C_COLUMNS = 128  # of a block of C that an epilogue is given at once: with its rows, a quarter of a second-level cache or less
MOST_STEPS = 2 * STEPS  # along the summed axis for a block of C that is summed up in one go


@device
def start_of(args, operand, entry):
    """The address of one entry of A, B or C (operand 0, 1, 2), whose batch has an outer and an inner axis."""
    inner = args[19]
    return (
        args[6 + 2 * operand]
        + (entry // inner * args[20 + operand] + entry % inner * args[13 + operand]) * ITEM
    )


@device
def part(size, most):
    """The size of parts that are at most so large, as many as needed, alike."""
    parts = (size + most - 1) // most
    return (size + parts - 1) // parts if parts > 0 else 1


@device
def transpose(to, to_row, of, of_row, rows, columns):
    """Rows of a matrix become columns, in blocks; the last ones overlap those before."""
    if rows >= WIDTH and columns >= WIDTH:
        for row in range(0, rows, WIDTH):
            i = min(row, rows - WIDTH)
            for column in range(0, columns, WIDTH):
                j = min(column, columns - WIDTH)
                float32_copy_transposed(
                    to + (j * to_row + i) * ITEM, to_row, of + (i * of_row + j) * ITEM, of_row
                )
    else:
        for i in range(rows):
            for j in range(columns):
                float32_copy(to, j * to_row + i, of, i * of_row + j)


@device
def pack_rows(block, block_row, a, lda, transa, rows, steps):
    """Some rows of A on some steps, side by side."""
    if transa:
        transpose(block, block_row, a, lda, steps, rows)
    else:
        for row in range(rows):
            copy_bytes(block + row * block_row * ITEM, a + row * lda * ITEM, steps * ITEM)


@device
def pack_panels(panels, stride, b, ldb, transb, start, steps, left, right):
    """Some columns of B on some steps, in panels `stride` elements apart: PANEL elements a step."""
    if transb:
        for column in range(left, right, PANEL):
            of = b + (column * ldb + start) * ITEM
            transpose(panels, PANEL, of, ldb, min(PANEL, right - column), steps)
            panels += stride * ITEM
    else:
        whole = left + (right - left) // PANEL * PANEL
        for step in range(steps):
            of = b + ((start + step) * ldb + left) * ITEM
            to = panels + step * PANEL * ITEM
            for _ in range(left, whole, PANEL):  # no masks
                float32_copy_columns(2, to, of, PANEL)
                of += PANEL * ITEM
                to += stride * ITEM
            if whole < right:
                float32_copy_columns(2, to, of, right - whole)


def tiled(args, begin, end):
    """Tiles of C in registers, from blocks of A and panels of B that are packed where that pays (Goto and van de Geijn).

    An epilogue, if there is one (word 23), is called on each block of C as soon as that is summed up, while it is in the cache. It has
    an argument block of its own (24) and counts rows over all entries. If nobody else wants C (25), a block of it
    lies on the stack, and is summed up in one go. Another kind of epilogue (26) takes each register tile as soon as that is summed up; C is
    stored then only if others want it (27), and where it is summed up in one go its address, which may be 0, says where results will be.
    It counts rows and columns from (32) and (33) on.

    A prologue of A (28) or of B (30) is called, with an argument block of its own (29, 31), for each block of the operand that is
    packed, and makes it; it counts rows as the operand would lie in memory, over all entries. One of B may make panels (34) instead.
    """
    transa = args[1]
    transb = args[2]
    depth = args[5]
    lda = args[7]
    ldb = args[9]
    ldc = args[11]
    first_row, last_row = 0, args[3]
    first_column, last_column = 0, args[4]
    first_entry, last_entry = 0, args[12]
    if args[16] == 0:
        first_row, last_row = begin, end
    elif args[16] == 1:
        first_column, last_column = begin, end
    else:
        first_entry, last_entry = begin, end
    epilogue, alone, in_tile = args[23], args[25], args[26]
    prologue_a, prologue_b, panels_b = args[28], args[30], args[34]
    rows = last_row - first_row
    pack_b = transb or rows >= MANY_ROWS or (rows >= FEW_ROWS and ldb * ITEM % 64 != 0)
    # Columns of A that lie far apart, or rows that meet in the same cache sets, are gathered once for all panels.
    across = last_column - first_column
    pack_a = transa and lda * ITEM >= FAR_APART and across >= FEW_PANELS * PANEL
    pack_a = pack_a or (lda * ITEM % 4096 == 0 and across >= MANY_PANELS * PANEL)
    pack_a = pack_a and rows >= 8 and depth >= 16
    most_rows, most_steps, wide = part(rows, BLOCK_ROWS), part(depth, STEPS), max(1, across)
    on_stack = alone and (epilogue != 0 or args[10] == 0)
    if epilogue != 0 or on_stack:
        wide = C_COLUMNS
    if alone and depth > STEPS:
        most_rows, most_steps = part(rows, BLOCK_ROWS // 2), depth
    b_panel, a_packed = most_steps * PANEL + SLACK, most_steps + SLACK
    b_line = (MOST_STEPS if transb else PANELS * PANEL) + SLACK  # elements between rows of B's block
    panels = scratch(PANELS * (MOST_STEPS * PANEL + SLACK) * ITEM)
    a_block = scratch(A_BLOCK * ITEM)
    b_block = scratch(MOST_STEPS * (PANELS * PANEL + SLACK) * ITEM)
    c_block = scratch(BLOCK_ROWS * (C_COLUMNS + SLACK) * ITEM)
    for entry in range(first_entry, last_entry):
        a = start_of(args, 0, entry)
        b = start_of(args, 1, entry)
        c = start_of(args, 2, entry)
        line = entry * args[3]
        top = first_row
        while top < last_row:
            bottom = min(top + most_rows, last_row)
            start = 0
            while True:
                steps = min(most_steps, depth - start)
                accumulate = args[17] if start == 0 else 1
                rider = in_tile if start + steps >= depth else 0
                if rider != 0 and args[27]:
                    accumulate += KEEP
                # Element (row, step) of A lies at a_here + (row * a_row + step * a_column) * ITEM.
                a_here, a_row, a_column = a + (top * lda + start) * ITEM, lda, 1
                if transa:
                    a_here, a_row, a_column = a + (start * lda + top) * ITEM, 1, lda
                if prologue_a != 0 and transa:
                    a_here, a_row, a_column = a_block, 1, bottom - top + SLACK
                    row = entry * depth + start
                    call_on_block(prologue_a, args[29], a_block, a_column, row, row + steps, top, bottom)
                elif prologue_a != 0:
                    a_here, a_row, a_column = a_block, a_packed, 1
                    call_on_block(
                        prologue_a, args[29], a_block, a_row, line + top, line + bottom, start, start + steps
                    )
                elif pack_a:
                    pack_rows(a_block, a_packed, a_here, lda, transa, bottom - top, steps)
                    a_here, a_row, a_column = a_block, a_packed, 1
                for left in range(first_column, last_column, wide):
                    right = min(left + wide, last_column)
                    c_here, c_row = c + (top * ldc + left) * ITEM, ldc
                    if on_stack:
                        c_here, c_row = c_block, C_COLUMNS + SLACK
                    for near in range(left, right, PANELS * PANEL):
                        far = min(near + PANELS * PANEL, right)
                        of, of_row, of_step, of_column = b, ldb, start, near
                        is_ragged = WHOLE_PANELS and (far - near) % PANEL != 0
                        packed = pack_b or prologue_b != 0 or is_ragged
                        if panels_b:
                            for column in range(near, far, PANEL):
                                row = entry * depth + start
                                to = panels + (column - near) // PANEL * b_panel * ITEM
                                right_end = min(column + PANEL, far)
                                call_on_block(
                                    prologue_b, args[31], to, PANEL, row, row + steps, column, right_end
                                )
                        elif prologue_b != 0:
                            of, of_row, of_step, of_column = b_block, b_line, 0, 0
                            if transb:
                                row = entry * args[4]
                                call_on_block(
                                    prologue_b,
                                    args[31],
                                    of,
                                    of_row,
                                    row + near,
                                    row + far,
                                    start,
                                    start + steps,
                                )
                            else:
                                row = entry * depth + start
                                call_on_block(prologue_b, args[31], of, of_row, row, row + steps, near, far)
                        if packed and not panels_b:
                            right_end = of_column + far - near
                            pack_panels(
                                panels, b_panel, of, of_row, transb, of_step, steps, of_column, right_end
                            )
                        for column in range(near, far, PANEL):
                            b_here, b_row = b + (start * ldb + column) * ITEM, ldb
                            if packed:
                                b_here, b_row = panels + (column - near) // PANEL * b_panel * ITEM, PANEL
                            row = 0
                            while row < bottom - top:
                                row += float32_fitting_tile(
                                    bottom - top - row,
                                    a_here + row * a_row * ITEM,
                                    a_row,
                                    a_column,
                                    b_here,
                                    b_row,
                                    c_here + (row * c_row + column - left) * ITEM,
                                    c_row,
                                    steps,
                                    min(PANEL, far - column),
                                    accumulate,
                                    rider,
                                    args[24],
                                    args[32] + line + top + row,
                                    args[33] + column,
                                )
                    if epilogue != 0 and start + steps >= depth:
                        call_on_block(
                            epilogue, args[24], c_here, c_row, line + top, line + bottom, left, right
                        )
                start += steps
                if start >= depth:
                    break
            top = bottom


def row(args, begin, end):
    """One row times a matrix: memory sets the pace, so B is read in long stretches."""
    depth = args[5]
    a_step = args[7] if args[1] else 1
    ldb = args[9]
    first_column, last_column = 0, args[4]
    first_entry, last_entry = 0, args[12]
    if args[16] == 1:
        first_column, last_column = begin, end
    elif args[16] == 2:
        first_entry, last_entry = begin, end
    for entry in range(first_entry, last_entry):
        a = start_of(args, 0, entry)
        b = start_of(args, 1, entry)
        c = start_of(args, 2, entry)
        for column in range(first_column, last_column, 8 * WIDTH):
            columns = last_column - column
            float32_tile(
                1, 8, a, 0, a_step, b + column * ITEM, ldb, c + column * ITEM, 0, depth, columns, args[17]
            )


def dotted(args, begin, end):
    """A matrix of contiguous rows times a contiguous column: one dot product for each element of C."""
    depth = args[5]
    lda = args[7]
    ldc = args[11]
    first_row, last_row = 0, args[3]
    first_entry, last_entry = 0, args[12]
    if args[16] == 0:
        first_row, last_row = begin, end
    elif args[16] == 2:
        first_entry, last_entry = begin, end
    for entry in range(first_entry, last_entry):
        a = start_of(args, 0, entry)
        b = start_of(args, 1, entry)
        c = start_of(args, 2, entry)
        row = first_row
        while row + 4 <= last_row:
            float32_dots(4, a + row * lda * ITEM, lda, b, c + row * ldc * ITEM, ldc, depth, args[17])
            row += 4
        while row < last_row:
            float32_dots(1, a + row * lda * ITEM, lda, b, c + row * ldc * ITEM, ldc, depth, args[17])
            row += 1


def library(args, begin, end):
    """A BLAS: row-major C = op(A) @ op(B) is what it sees as column-major C' = op(B)' @ op(A)'.

    Word 18 points to the words [lock, products under way, threads to restore, address of get, address of
    set]: the first product to enter holds the library to one thread, for the pool is what shares the work
    out, the last one to leave gives its threads back. All five are zero where the library has no such
    functions.
    """
    rows, columns, depth = args[3], args[4], args[5]
    lda, ldb, ldc = args[7], args[9], args[11]
    a, b, c = 0, 0, 0  # byte offsets of this piece
    first_entry, last_entry = 0, args[12]
    if args[16] == 0:
        a += begin * ITEM if args[1] else begin * lda * ITEM
        c += begin * ldc * ITEM
        rows = end - begin
    elif args[16] == 1:
        b += begin * ldb * ITEM if args[2] else begin * ITEM
        c += begin * ITEM
        columns = end - begin
    else:
        first_entry, last_entry = begin, end
    hold = args[18]
    if load(hold + 24) != 0:
        while compare_exchange(hold, 0, 1) == 0:
            pause()
        if atomic_add(hold + 8, 1) == 0:
            threads = call_get_int(load(hold + 24))
            store(hold + 16, threads)
            if threads != 1:
                call_set_int(load(hold + 32), 1)
        atomic_store(hold, 0)
    for entry in range(first_entry, last_entry):
        float32_call_blas(
            args[0],
            args[2],
            args[1],
            columns,
            rows,
            depth,
            start_of(args, 1, entry) + b,
            ldb,
            start_of(args, 0, entry) + a,
            lda,
            args[17],
            start_of(args, 2, entry) + c,
            ldc,
        )
    if load(hold + 24) != 0:
        while compare_exchange(hold, 0, 1) == 0:
            pause()
        if atomic_add(hold + 8, -1) == 1:
            threads = load(hold + 16)
            if threads != 1:
                call_set_int(load(hold + 32), threads)
        atomic_store(hold, 0)
