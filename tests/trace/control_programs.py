"""Programs with control flow, for the tests of tracing and of native execution: name, function, arguments.

Arrays are float64, so that gradients can be checked by differences; every program is differentiable at its point.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import hybridml as hml

rng = np.random.default_rng(3)


def array(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


class Program(NamedTuple):
    name: str
    f: Any
    args: tuple[Any, ...]


def branches(x, p):
    return hml.cond(
        p.sum() > 0, lambda: {"y": x * p, "z": (x * x).sum()}, lambda: {"y": hml.sin(x), "z": p.sum()}
    )


def nested_branches(x, p):
    def inner():
        return hml.cond(x.sum() > p.sum(), lambda: x * 2, lambda: x * p)

    return hml.cond(p.sum() > 0, inner, lambda: x + p) * p


def branch_without_use(x, p):
    return hml.cond(x.sum() > -1e9, lambda: x, lambda: p)


def carry_only(x, p):
    return hml.scan(lambda c, _: (hml.tanh(c * p) + x, None), x, length=4)[0]


def sums_and_products(xs, start):
    def f(carry, x):
        total, product = carry
        return {"t": total["t"] + x.sum()}, product * hml.cos(x)

    def step(carry, x):
        new = f((carry[0], carry[1]), x)
        return new, (new[1], new[0]["t"] * x)

    return hml.scan(step, ({"t": start.sum()}, start), xs)


def backwards(xs, start):
    return hml.scan(lambda c, x: (c * x + start, c * c), start, xs, reverse=True)


def rows_alone(xs, w):
    return hml.map_fn(lambda x: {"a": hml.sin(x) * w, "b": x.sum()}, xs)


def recurrent(xs, h, w):
    def step(h, x):
        new = hml.tanh(h @ w + x)
        return new, new * 2

    return hml.scan(step, h, xs)


def gated(xs, h, w, u):
    n = h.shape[-1]

    def step(h, x):
        gates = hml.sigmoid(x @ w[:, : 2 * n] + h @ u[:, : 2 * n])
        z, r = gates[:, :n], gates[:, n:]
        new = hml.tanh(x @ w[:, 2 * n :] + (r * h) @ u[:, 2 * n :])
        h = z * h + (1 - z) * new
        return h, h

    return hml.scan(step, h, xs)


def scan_in_scan(xs, w):
    def outer(c, x):
        inner, ys = hml.scan(lambda d, e: (hml.sin(d + e * c.sum()), d * w), c, x)
        return inner, ys

    return hml.scan(outer, w, xs)


def branch_in_scan(xs, w):
    def step(c, x):
        y = hml.cond(x.sum() > 0, lambda: c * x, lambda: c + w)
        return hml.sin(y), y

    return hml.scan(step, w, xs)


def counted(x, p):
    return hml.while_loop(lambda i, s: i < 5, lambda i, s: (i + 1, hml.sin(s * p) + x), (0, x))[1]


def until_large(x, p):
    def body(i, s):
        return i + 1, s * 1.3 + hml.sin(p)

    return hml.while_loop(lambda i, s: (s * s).sum() < 30.0, body, (0, x), maximum_iterations=20)


def bounded(x, p):
    return hml.while_loop(lambda s: (s * s).sum() < 1e9, lambda s: s * 1.1 + p, [x], maximum_iterations=3)


def loop_in_scan(xs, w):
    def step(c, x):
        c = hml.while_loop(lambda i, s: i < 2, lambda i, s: (i + 1, hml.sin(s + x)), (0, c))[1]
        return c, c * w

    return hml.scan(step, w, xs)


def never(x, p):
    return hml.while_loop(lambda i, s: i < 0, lambda i, s: (i + 1, s * p), (0, x * 2))[1] + p


def no_rows(x, p):
    last, ys = hml.scan(lambda c, row: (c * row, c.sum()), p, x[:0])
    return last * 2, ys


@hml.custom_gradient
def own_exp(x):
    y = hml.exp(x)
    return y, lambda g: g * y


def own_rule(xs, w):
    return hml.scan(lambda c, x: (own_exp(hml.sin(c * x)), own_exp(c) * w), w, xs)


PROGRAMS = [
    Program("cond, true", branches, (array(3), np.abs(array(3)))),
    Program("cond, false", branches, (array(3), -np.abs(array(3)))),
    Program("cond in cond", nested_branches, (array(3), np.abs(array(3)))),
    Program("cond that returns operands", branch_without_use, (array(3), array(3))),
    Program("scan without xs", carry_only, (array(3), array(3))),
    Program("scan over nests", sums_and_products, (array(4, 3), array(3))),
    Program("scan in reverse", backwards, (array(4, 3), array(3))),
    Program("map_fn", rows_alone, (array(4, 3), array(3))),
    Program("recurrent", recurrent, (array(5, 2, 3), array(2, 3), array(3, 3) / 2)),
    Program("gated", gated, (array(4, 2, 3), array(2, 3), array(3, 9) / 2, array(3, 9) / 2)),
    Program("scan in scan", scan_in_scan, (array(3, 2, 4), array(4))),
    Program("cond in scan", branch_in_scan, (array(5, 3), array(3))),
    Program("counted loop", counted, (array(3), array(3))),
    Program("loop until large", until_large, (array(3), array(3))),
    Program("bounded loop", bounded, (array(3), array(3))),
    Program("loop in scan", loop_in_scan, (array(3, 2), array(2))),
    Program("custom gradient in scan", own_rule, (array(3, 2), array(2))),
    Program("no iterations", never, (array(3), array(3))),
    Program("no rows", no_rows, (array(3, 3), array(3))),
]
