"""Convolution and its two gradients as matrix products over gathered windows (implicit GEMM).

`convolution` reads the text of this file and hands it to `jit`; for double precision it puts float64 in place of float32.
`conv_layout` names the words of the argument block. A panel on the stack takes the elements that a block of neighbouring windows
sees; the tiles of `gemm_loops` do the rest, called by address with an argument block of this call's own.

A panel has a row for each tap and channel if few channels lie side by side (BY_TAP): neighbouring windows are then copied together.
Else it has a row for each window, and its channels are copied together.
"""

from hybridml.kernels.conv_layout import (
    BLOCK_ALONE,
    BLOCK_BYTES,
    BLOCK_CHANNELS,
    BLOCK_TAPS,
    BLOCK_WINDOWS,
    BY_TAP,
    CHANNELS,
    DILATION_ACROSS,
    DILATION_DOWN,
    EPILOGUE,
    EPILOGUE_ARGS,
    FILTERS,
    GROUPS,
    HEIGHT,
    KEEP,
    LEFT,
    OUT_HEIGHT,
    OUT_WIDTH,
    PANEL_BYTES,
    PANEL_SLACK,
    PARTS,
    ROWS,
    STRIDE_ACROSS,
    STRIDE_DOWN,
    TAPS_ACROSS,
    TAPS_DOWN,
    TEMPLATE,
    TEMPLATE_WORDS,
    TILE_EPILOGUE,
    TILED,
    TOP,
    WIDTH,
    X_COLUMN,
    X_IMAGE,
    X_ROW,
    G,
    W,
    X,
)
from hybridml.kernels.conv_tile import float32_copy_or_zero, float32_copy_some
from hybridml.kernels.gemm import Words
from hybridml.kernels.gemm_pack import float32_copy, float32_copy_transposed
from hybridml.kernels.gemm_tile import float32_item as ITEM
from hybridml.kernels.gemm_tile import float32_width as LANES
from hybridml.kernels.gemm_tile import scratch
from hybridml.kernels.language.functions import device
from hybridml.kernels.native import call_kernel, call_on_block, clear_bytes, copy_bytes, store
from hybridml.kernels.pointer import float32_in, float32_out, size

PANEL = PANEL_BYTES + PANEL_SLACK
PRODUCT_BYTES = 1024
P_TRANSA, P_M, P_N, P_K = 8 * Words.TRANSA, 8 * Words.M, 8 * Words.N, 8 * Words.K
P_A, P_B, P_C = 8 * Words.A, 8 * Words.B, 8 * Words.C
P_EPILOGUE_ARGS, P_TILE_EPILOGUE, P_KEEP = 8 * Words.EPILOGUE_ARGS, 8 * Words.TILE_EPILOGUE, 8 * Words.KEEP
P_FIRST_ROW, P_FIRST_COLUMN = 8 * Words.FIRST_ROW, 8 * Words.FIRST_COLUMN
P_LDA, P_LDB, P_LDC, P_ACCUMULATE = 8 * Words.LDA, 8 * Words.LDB, 8 * Words.LDC, 8 * Words.ACCUMULATE


@device
def gather_by_tap(args, panel, row_bytes, first, windows, tap, taps, channel, channels):
    """panel[tap, channel][window] for a block of windows, which are counted over all images."""
    out_width = args[OUT_WIDTH]
    stride = args[STRIDE_ACROSS]
    step = stride * args[X_COLUMN] * ITEM
    for t in range(tap, tap + taps):
        down = t // args[TAPS_ACROSS] * args[DILATION_DOWN] - args[TOP]
        across = t % args[TAPS_ACROSS] * args[DILATION_ACROSS] - args[LEFT]
        # From low up to high, the windows of a row see an element of the image at this tap.
        low = (max(0, -across) + stride - 1) // stride
        high = (args[WIDTH] - across + stride - 1) // stride if args[WIDTH] > across else 0
        done = 0
        while done < windows:
            column = (first + done) % out_width
            row = (first + done) // out_width
            run = min(out_width - column, windows - done)
            line = row % args[OUT_HEIGHT] * args[STRIDE_DOWN] + down
            start = max(0, low - column)
            stop = min(run, high - column) if line >= 0 and line < args[HEIGHT] else 0
            place = row // args[OUT_HEIGHT] * args[X_IMAGE] + line * args[X_ROW] + across * args[X_COLUMN]
            of = args[X] + (place + channel) * ITEM + column * step
            to = panel + done * ITEM
            for _ in range(channels):
                if step == ITEM:
                    for k in range(0, run, LANES):
                        float32_copy_some(to + k * ITEM, of + k * ITEM, start - k, stop - k)
                else:
                    for k in range(run):
                        float32_copy_or_zero(
                            to + k * ITEM, of + k * step, 1 if start <= k and k < stop else 0
                        )
                to += row_bytes
                of += ITEM
            done += run
        panel += channels * row_bytes


@device
def gather_by_window(args, panel, row_bytes, first, windows, tap, taps, channel, channels):
    """panel[window][tap, channel] for a block of windows, which are counted over all images."""
    taps_across = args[TAPS_ACROSS]
    # Taps of a row lie side by side if they are not dilated and all channels are wanted.
    whole_rows = tap % taps_across + taps % taps_across == 0
    side_by_side = False
    if whole_rows and args[DILATION_ACROSS] == 1:
        side_by_side = args[X_COLUMN] == channels
    for k in range(windows):
        row = (first + k) // args[OUT_WIDTH]
        line = row % args[OUT_HEIGHT] * args[STRIDE_DOWN] - args[TOP]
        column = (first + k) % args[OUT_WIDTH] * args[STRIDE_ACROSS] - args[LEFT]
        image = args[X] + (row // args[OUT_HEIGHT] * args[X_IMAGE] + channel) * ITEM
        to = panel + k * row_bytes
        if side_by_side:
            start = max(0, -column) * channels
            stop = min(taps_across, args[WIDTH] - column) * channels
            for t in range(tap // taps_across, (tap + taps) // taps_across):
                v = line + t * args[DILATION_DOWN]
                end = stop if v >= 0 and v < args[HEIGHT] else 0
                of = image + (v * args[X_ROW] + column * args[X_COLUMN]) * ITEM
                for c in range(0, taps_across * channels, LANES):
                    float32_copy_some(to + c * ITEM, of + c * ITEM, start - c, end - c)
                to += taps_across * channels * ITEM
        else:
            for t in range(tap, tap + taps):
                v = line + t // taps_across * args[DILATION_DOWN]
                h = column + t % taps_across * args[DILATION_ACROSS]
                end = channels if v >= 0 and v < args[HEIGHT] and h >= 0 and h < args[WIDTH] else 0
                of = image + (v * args[X_ROW] + h * args[X_COLUMN]) * ITEM
                for c in range(0, channels, LANES):
                    float32_copy_some(to + c * ITEM, of + c * ITEM, 0, end - c)
                to += channels * ITEM


@device
def gather(args, panel, first, windows, tap, taps, channel, channels):
    """The panel; returns the elements from one of its rows to the next."""
    if args[BY_TAP]:
        row = windows + LANES
        gather_by_tap(args, panel, row * ITEM, first, windows, tap, taps, channel, channels)
    else:
        row = taps * channels + LANES
        gather_by_window(args, panel, row * ITEM, first, windows, tap, taps, channel, channels)
    return row


@device
def start_product(args, words, transposed, columns, row):
    """An argument block that is this call's own, for products that write rows of `columns` elements, `row` elements apart."""
    copy_bytes(words, args[TEMPLATE], args[TEMPLATE_WORDS] * 8)
    store(words + P_TRANSA, transposed)
    store(words + P_N, columns)
    store(words + P_LDC, row)


@device
def product(args, words, m, k, a, lda, b, ldb, c, accumulate):
    store(words + P_M, m)
    store(words + P_K, k)
    store(words + P_A, a)
    store(words + P_LDA, lda)
    store(words + P_B, b)
    store(words + P_LDB, ldb)
    store(words + P_C, c)
    store(words + P_ACCUMULATE, accumulate)
    call_kernel(args[TILED], words, 0, m)


def forward(args, begin, end):
    """Results, for some rows of windows: panels times filters. An epilogue is called on each block of windows, or on each tile of it."""
    panel = scratch(PANEL)
    block = scratch(BLOCK_BYTES)
    words = scratch(PRODUCT_BYTES)
    each, many = args[CHANNELS], args[FILTERS]
    filters = args[GROUPS] * many
    start_product(args, words, args[BY_TAP], many, filters)
    store(words + P_EPILOGUE_ARGS, args[EPILOGUE_ARGS])
    store(words + P_KEEP, args[KEEP])
    taps_in_all = args[TAPS_DOWN] * args[TAPS_ACROSS]
    first = begin * args[OUT_WIDTH]
    last = end * args[OUT_WIDTH]
    blocks = (last - first + args[BLOCK_WINDOWS] - 1) // args[BLOCK_WINDOWS]
    while first < last:
        windows = (
            last - first + blocks - 1
        ) // blocks  # shared out evenly: a narrow last one would cost much
        blocks -= 1
        to = block if args[BLOCK_ALONE] else args[G] + first * filters * ITEM
        store(words + P_FIRST_ROW, first)
        for group in range(args[GROUPS]):
            c = to + group * many * ITEM
            store(words + P_FIRST_COLUMN, group * many)
            tap = 0
            while tap < taps_in_all:
                taps = min(args[BLOCK_TAPS], taps_in_all - tap)
                channel = 0
                while channel < each:
                    channels = min(args[BLOCK_CHANNELS], each - channel)
                    is_last = tap + taps == taps_in_all and channel + channels == each
                    store(words + P_TILE_EPILOGUE, args[TILE_EPILOGUE] if is_last else 0)
                    row = gather(args, panel, first, windows, tap, taps, group * each + channel, channels)
                    b = args[W] + ((tap * each + channel) * filters + group * many) * ITEM
                    again = 1 if tap + channel > 0 else 0
                    product(args, words, windows, taps * channels, panel, row, b, filters, c, again)
                    channel += channels
                tap += taps
        if args[EPILOGUE] != 0:
            call_on_block(
                args[EPILOGUE], args[EPILOGUE_ARGS], to, filters, first, first + windows, 0, filters
            )
        first += windows


def by_filter(args, begin, end):
    """Parts of the gradient by the filters, each from some of the rows of windows: panels, transposed, times results' gradients."""
    panel = scratch(PANEL)
    words = scratch(PRODUCT_BYTES)
    each, many = args[CHANNELS], args[FILTERS]
    filters = args[GROUPS] * many
    start_product(args, words, 1 - args[BY_TAP], many, filters)
    taps_in_all = args[TAPS_DOWN] * args[TAPS_ACROSS]
    for part in range(begin, end):
        out = args[W] + part * taps_in_all * each * filters * ITEM
        start = args[ROWS] * part // args[PARTS] * args[OUT_WIDTH]
        last = args[ROWS] * (part + 1) // args[PARTS] * args[OUT_WIDTH]
        tap = 0
        while tap < taps_in_all:  # outside of the windows, so that what is added to stays in the cache
            taps = min(args[BLOCK_TAPS], taps_in_all - tap)
            channel = 0
            while channel < each:
                channels = min(args[BLOCK_CHANNELS], each - channel)
                first = start
                while first < last:
                    windows = min(args[BLOCK_WINDOWS], last - first)
                    again = 1 if first > start else 0
                    for group in range(args[GROUPS]):
                        row = gather(args, panel, first, windows, tap, taps, group * each + channel, channels)
                        b = args[G] + (first * filters + group * many) * ITEM
                        c = out + ((tap * each + channel) * filters + group * many) * ITEM
                        product(args, words, taps * channels, windows, panel, row, b, filters, c, again)
                    first += windows
                channel += channels
            tap += taps


def by_input(args, begin, end):
    """Rows of the gradient by the images. For each tap, the windows that see an element of the row there make up a matrix, and so do
    those elements: one product, added. W holds the filters of each tap transposed, [filters, channels]."""
    words = scratch(PRODUCT_BYTES)
    groups, each, many = args[GROUPS], args[CHANNELS], args[FILTERS]
    filters = groups * many
    stride = args[STRIDE_ACROSS]
    start_product(args, words, 0, each, stride * args[X_COLUMN])
    for row in range(begin, end):
        image, line = row // args[HEIGHT], row % args[HEIGHT]
        x = args[X] + (image * args[X_IMAGE] + line * args[X_ROW]) * ITEM
        clear_bytes(x, args[WIDTH] * groups * each * ITEM)
        for down in range(args[TAPS_DOWN]):
            from_top = line + args[TOP] - down * args[DILATION_DOWN]
            window = from_top // args[STRIDE_DOWN]
            if from_top < 0 or from_top % args[STRIDE_DOWN] != 0 or window >= args[OUT_HEIGHT]:
                continue
            g = args[G] + (image * args[OUT_HEIGHT] + window) * args[OUT_WIDTH] * filters * ITEM
            for t in range(args[TAPS_ACROSS]):
                across = t * args[DILATION_ACROSS] - args[LEFT]
                low = (max(0, -across) + stride - 1) // stride
                high = (args[WIDTH] - across + stride - 1) // stride if args[WIDTH] > across else 0
                windows = min(high, args[OUT_WIDTH]) - low
                if windows > 0:
                    a = g + low * filters * ITEM
                    w = args[W] + (down * args[TAPS_ACROSS] + t) * filters * each * ITEM
                    c = x + (low * stride + across) * args[X_COLUMN] * ITEM
                    for group in range(groups):
                        b = w + group * many * each * ITEM
                        to = c + group * each * ITEM
                        product(args, words, windows, many, a + group * many * ITEM, filters, b, each, to, 1)


def turn_filters(args, begin, end):
    """For some taps, the filters of each transposed to [filters, channels]; the taps in reverse order where word 5 says so."""
    each, filters = args[3], args[4]
    whole_rows, whole_columns = each // LANES * LANES, filters // LANES * LANES
    for tap in range(begin, end):
        of = args[0] + tap * each * filters * ITEM
        place = args[2] - 1 - tap if args[5] else tap
        to = args[1] + place * each * filters * ITEM
        for c in range(0, whole_rows, LANES):
            for f in range(0, whole_columns, LANES):
                float32_copy_transposed(
                    to + (f * each + c) * ITEM, each, of + (c * filters + f) * ITEM, filters
                )
        for c in range(each):
            for f in range(whole_columns if c < whole_rows else 0, filters):
                float32_copy(to, f * each + c, of, c * filters + f)


def add_parts(args, begin, end):
    """Elements of the gradient by the filters: the parts added up, in their order."""
    x0 = float32_in(args, 0, 0)
    o0 = float32_out(args, 1, 1)
    elements = size(args, 2)
    for k in range(begin, end):
        o0[k] = x0[k]
    for part in range(1, size(args, 3)):
        for k in range(begin, end):
            o0[k] += x0[part * elements + k]
