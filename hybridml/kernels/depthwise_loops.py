"""Convolution and its two gradients where every channel has filters of its own: nothing to multiply matrices for.

`convolution` reads the text of this file and hands it to `jit`; for double precision it puts float64 in place of float32.
`conv_layout` names the words of the argument block. The innermost loops run over channels and become vectors.
"""

from hybridml.kernels.conv_layout import (
    DILATION_ACROSS,
    DILATION_DOWN,
    FILTERS,
    GROUPS,
    HEIGHT,
    LEFT,
    OUT_HEIGHT,
    OUT_WIDTH,
    PARTS,
    ROWS,
    STRIDE_ACROSS,
    STRIDE_DOWN,
    TAPS_ACROSS,
    TAPS_DOWN,
    TOP,
    WIDTH,
    G,
    W,
    X,
)
from hybridml.kernels.language.functions import device
from hybridml.kernels.pointer import float32_in, float32_out, size


@device
def first_window(across, stride):
    """The first window of a row that sees an element of the image at a tap `across` from the window's own place."""
    return (max(0, -across) + stride - 1) // stride


@device
def end_of_windows(across, stride, width, windows):
    """And the one after the last."""
    return min(windows, (width - across + stride - 1) // stride) if width > across else 0


def forward(args, begin, end):
    """Rows of results."""
    x0 = float32_in(args, X, 0)
    x1 = float32_in(args, W, 1)
    o0 = float32_out(args, G, 2)
    channels, many = size(args, GROUPS), size(args, FILTERS)
    height, width, windows = size(args, HEIGHT), size(args, WIDTH), size(args, OUT_WIDTH)
    stride = size(args, STRIDE_ACROSS)
    filters = channels * many
    for row in range(begin, end):
        image = row // size(args, OUT_HEIGHT) * height
        line = row % size(args, OUT_HEIGHT) * size(args, STRIDE_DOWN) - size(args, TOP)
        for k in range(row * windows * filters, (row + 1) * windows * filters):
            o0[k] = 0.0
        for down in range(size(args, TAPS_DOWN)):
            v = line + down * size(args, DILATION_DOWN)
            if v < 0 or v >= height:
                continue
            for t in range(size(args, TAPS_ACROSS)):
                across = t * size(args, DILATION_ACROSS) - size(args, LEFT)
                w = (down * size(args, TAPS_ACROSS) + t) * filters
                for window in range(
                    first_window(across, stride), end_of_windows(across, stride, width, windows)
                ):
                    x = ((image + v) * width + window * stride + across) * channels
                    o = (row * windows + window) * filters
                    if many == 1:
                        for c in range(channels):
                            o0[o + c] += x0[x + c] * x1[w + c]
                    else:
                        for c in range(channels):
                            for m in range(many):
                                o0[o + c * many + m] += x0[x + c] * x1[w + c * many + m]


def by_input(args, begin, end):
    """Rows of the gradient by the images."""
    x0 = float32_in(args, G, 0)
    x1 = float32_in(args, W, 1)
    o0 = float32_out(args, X, 2)
    channels, many = size(args, GROUPS), size(args, FILTERS)
    height, width, windows = size(args, HEIGHT), size(args, WIDTH), size(args, OUT_WIDTH)
    stride = size(args, STRIDE_ACROSS)
    filters = channels * many
    for row in range(begin, end):
        image, line = row // height, row % height
        for k in range(row * width * channels, (row + 1) * width * channels):
            o0[k] = 0.0
        for down in range(size(args, TAPS_DOWN)):
            from_top = line + size(args, TOP) - down * size(args, DILATION_DOWN)
            v = from_top // size(args, STRIDE_DOWN)
            if from_top < 0 or from_top % size(args, STRIDE_DOWN) != 0 or v >= size(args, OUT_HEIGHT):
                continue
            for t in range(size(args, TAPS_ACROSS)):
                across = t * size(args, DILATION_ACROSS) - size(args, LEFT)
                w = (down * size(args, TAPS_ACROSS) + t) * filters
                for window in range(
                    first_window(across, stride), end_of_windows(across, stride, width, windows)
                ):
                    g = ((image * size(args, OUT_HEIGHT) + v) * windows + window) * filters
                    o = (row * width + window * stride + across) * channels
                    if many == 1:
                        for c in range(channels):
                            o0[o + c] += x0[g + c] * x1[w + c]
                    else:
                        for c in range(channels):
                            for m in range(many):
                                o0[o + c] += x0[g + c * many + m] * x1[w + c * many + m]


def by_filter(args, begin, end):
    """Parts of the gradient by the filters, each from some of the rows of windows."""
    x0 = float32_in(args, X, 0)
    x1 = float32_in(args, G, 1)
    o0 = float32_out(args, W, 2)
    channels, many = size(args, GROUPS), size(args, FILTERS)
    height, width, windows = size(args, HEIGHT), size(args, WIDTH), size(args, OUT_WIDTH)
    stride = size(args, STRIDE_ACROSS)
    filters = channels * many
    elements = size(args, TAPS_DOWN) * size(args, TAPS_ACROSS) * filters
    for part in range(begin, end):
        for k in range(part * elements, (part + 1) * elements):
            o0[k] = 0.0
        for row in range(
            size(args, ROWS) * part // size(args, PARTS), size(args, ROWS) * (part + 1) // size(args, PARTS)
        ):
            image = row // size(args, OUT_HEIGHT) * height
            line = row % size(args, OUT_HEIGHT) * size(args, STRIDE_DOWN) - size(args, TOP)
            for down in range(size(args, TAPS_DOWN)):
                v = line + down * size(args, DILATION_DOWN)
                if v < 0 or v >= height:
                    continue
                for t in range(size(args, TAPS_ACROSS)):
                    across = t * size(args, DILATION_ACROSS) - size(args, LEFT)
                    o = part * elements + (down * size(args, TAPS_ACROSS) + t) * filters
                    for window in range(
                        first_window(across, stride), end_of_windows(across, stride, width, windows)
                    ):
                        x = ((image + v) * width + window * stride + across) * channels
                        g = (row * windows + window) * filters
                        if many == 1:
                            for c in range(channels):
                                o0[o + c] += x0[x + c] * x1[g + c]
                        else:
                            for c in range(channels):
                                for m in range(many):
                                    o0[o + c * many + m] += x0[x + c] * x1[g + c * many + m]
