"""The matrix products C = op(A) @ op(B), or C += op(A) @ op(B), as kernels.

`gemm` reads the text of this file and hands it to `jit`; for double precision it puts float64 in place of
float32. All matrices are row-major. The words of the argument block are those of `gemm.Words`.
"""

from hybridml.kernels.gemm_tile import (
    float32_call_blas,
    float32_copy,
    float32_copy_columns,
    float32_dots,
    float32_fitting_tile,
    float32_tile,
    float32_width,
    scratch,
)
from hybridml.kernels.gemm_tile import (
    float32_item as ITEM,
)
from hybridml.kernels.native import (
    atomic_add,
    atomic_store,
    call_get_int,
    call_set_int,
    compare_exchange,
    load,
    pause,
    store,
)

WIDTH = float32_width
PANEL = 2 * WIDTH
FAR_APART = 4096
MANY_ROWS = 64
STEPS = 32768 // (PANEL * ITEM)  # a packed panel of B takes 32 KiB of stack


def tiled(args, begin, end):
    """Small products: tiles of C in registers, B read in place, or packed panel by panel if it is
    transposed."""
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
    a_row, a_column = lda, 1
    if transa:
        a_row, a_column = 1, lda
    panel = scratch(32768)
    # Rows of B that lie far apart cost more to reach than to copy once, if enough rows of A use them.
    pack = transb or (ldb * ITEM >= FAR_APART and last_row - first_row >= MANY_ROWS)
    block = depth
    if pack:
        block = min(depth, STEPS)
    for entry in range(first_entry, last_entry):
        a = args[6] + entry * args[13] * ITEM
        b = args[8] + entry * args[14] * ITEM
        c = args[10] + entry * args[15] * ITEM
        for column in range(first_column, last_column, PANEL):
            columns = min(PANEL, last_column - column)
            start = 0
            while True:
                steps = min(block, depth - start)
                accumulate = args[17] if start == 0 else 1
                if pack:
                    b_here, b_row = panel, PANEL
                    if transb:
                        for j in range(columns):
                            for step in range(steps):
                                float32_copy(panel, step * PANEL + j, b, (column + j) * ldb + start + step)
                    else:
                        b_first = b + (start * ldb + column) * ITEM
                        for step in range(steps):
                            float32_copy_columns(
                                2, panel + step * PANEL * ITEM, b_first + step * ldb * ITEM, columns
                            )
                else:
                    b_here, b_row = b + column * ITEM, ldb
                a_here = a + start * a_column * ITEM
                c_here = c + column * ITEM
                row = first_row
                while row < last_row:
                    row += float32_fitting_tile(
                        last_row - row,
                        a_here + row * a_row * ITEM,
                        a_row,
                        a_column,
                        b_here,
                        b_row,
                        c_here + row * ldc * ITEM,
                        ldc,
                        steps,
                        columns,
                        accumulate,
                    )
                start += steps
                if start >= depth:
                    break


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
        a = args[6] + entry * args[13] * ITEM
        b = args[8] + entry * args[14] * ITEM
        c = args[10] + entry * args[15] * ITEM
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
        a = args[6] + entry * args[13] * ITEM
        b = args[8] + entry * args[14] * ITEM
        c = args[10] + entry * args[15] * ITEM
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
    a, b, c = args[6], args[8], args[10]
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
            b + entry * args[14] * ITEM,
            ldb,
            a + entry * args[13] * ITEM,
            lda,
            args[17],
            c + entry * args[15] * ITEM,
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
