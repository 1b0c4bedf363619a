"""Pooling: the largest element of each window and its place, elements by place, and the way back.

`pooling` reads the text of this file, puts the image's dtype in place of float32 and that of the places in place of uint8, and hands
it to `jit`. Channels are the innermost loops: those become vectors.
"""

from hybridml.kernels.pointer import float32_in, float32_out, size, uint8_in, uint8_out


def largest(args, begin, end):
    """Rows of windows: o0 the largest elements, o1 their places. NaN is larger than all; of equal ones the first wins."""
    x0 = float32_in(args, 0, 0)
    o0 = float32_out(args, 1, 1)
    o1 = uint8_out(args, 2, 2)
    height, width, channels = size(args, 3), size(args, 4), size(args, 5)
    out_height, out_width = size(args, 6), size(args, 7)
    down, across = size(args, 8), size(args, 9)
    for row in range(begin, end):
        image = row // out_height * height
        top = row % out_height * size(args, 10) - size(args, 12)
        for column in range(out_width):
            left = column * size(args, 11) - size(args, 13)
            o = (row * out_width + column) * channels
            begun = False
            for a in range(max(0, -top), min(down, height - top)):
                for b in range(max(0, -left), min(across, width - left)):
                    x = ((image + top + a) * width + left + b) * channels
                    tap = a * across + b
                    if begun:
                        for c in range(channels):
                            new, old = x0[x + c], o0[o + c]
                            larger = new > old or (new != new and old == old)
                            o0[o + c] = new if larger else old
                            o1[o + c] = tap if larger else o1[o + c]
                    else:
                        for c in range(channels):
                            o0[o + c] = x0[x + c]
                            o1[o + c] = tap
                        begun = True


def take(args, begin, end):
    """Rows of windows: the element of x0 at the place x1 in each, 0 where that is no element of the image."""
    x0 = float32_in(args, 0, 0)
    x1 = uint8_in(args, 1, 1)
    o0 = float32_out(args, 2, 2)
    height, width, channels = size(args, 3), size(args, 4), size(args, 5)
    out_height, out_width = size(args, 6), size(args, 7)
    down, across = size(args, 8), size(args, 9)
    for row in range(begin, end):
        image = row // out_height * height
        top = row % out_height * size(args, 10) - size(args, 12)
        for column in range(out_width):
            left = column * size(args, 11) - size(args, 13)
            o = (row * out_width + column) * channels
            for c in range(channels):
                o0[o + c] = 0
            for a in range(max(0, -top), min(down, height - top)):
                for b in range(max(0, -left), min(across, width - left)):
                    x = ((image + top + a) * width + left + b) * channels
                    tap = a * across + b
                    for c in range(channels):
                        o0[o + c] = x0[x + c] if x1[o + c] == tap else o0[o + c]


def scatter(args, begin, end):
    """Images: 0, and x0 added at the place x1 in each window."""
    x0 = float32_in(args, 0, 0)
    x1 = uint8_in(args, 1, 1)
    o0 = float32_out(args, 2, 2)
    height, width, channels = size(args, 3), size(args, 4), size(args, 5)
    out_height, out_width = size(args, 6), size(args, 7)
    down, across = size(args, 8), size(args, 9)
    for k in range(begin * height * width * channels, end * height * width * channels):
        o0[k] = 0
    for row in range(begin * out_height, end * out_height):
        image = row // out_height * height
        top = row % out_height * size(args, 10) - size(args, 12)
        for column in range(out_width):
            left = column * size(args, 11) - size(args, 13)
            g = (row * out_width + column) * channels
            for a in range(max(0, -top), min(down, height - top)):
                for b in range(max(0, -left), min(across, width - left)):
                    x = ((image + top + a) * width + left + b) * channels
                    tap = a * across + b
                    for c in range(channels):
                        old = o0[x + c]
                        o0[x + c] = old + x0[g + c] if x1[g + c] == tap else old
