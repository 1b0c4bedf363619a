"""Gradients of neighbouring slices become one concatenation."""

import numpy as np
import pytest
from graphs import array, check_pass, count

import hybridml as hml
from hybridml.testing import check_traced
from hybridml.trace.function import Function
from hybridml.trace.passes import cse, dce, tiles

rng = np.random.default_rng(0)


def gradient(f):
    return lambda x: hml.grad(lambda x: sum((hml.exp(part) * (k + 1)).sum() for k, part in enumerate(f(x))))(
        x
    )


# slices of a (6, 8) array: what is scattered and joined afterwards
CASES = {
    "halves": (lambda x: (x[:, :3], x[:, 3:]), 0, 1),
    "in another order": (lambda x: (x[:, 5:], x[:, :2], x[:, 2:5]), 0, 1),
    "rows": (lambda x: (x[0], x[1], x[2], x[3], x[4], x[5]), 0, 1),
    "negative bounds": (lambda x: (x[:-2], x[-2:]), 0, 1),
    "a part of the whole": (lambda x: (x[1:3, 2:4], x[1:3, 4:7]), 1, 1),
    "a gap between": (lambda x: (x[:, :3], x[:, 4:]), 2, 0),
    "an overlap": (lambda x: (x[:, :4], x[:, 3:]), 2, 0),
    "two axes": (lambda x: (x[:3, :4], x[3:, 4:]), 2, 0),
    "steps": (lambda x: (x[::2], x[1::2]), 2, 0),
    "and the whole": (lambda x: (x[:, :3], x[:, 3:], x), 0, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_joined(name):
    f, scatters, joins = CASES[name]
    x = array(6, 8)
    graph = Function(gradient(f)).get_concrete_function(x).graph
    before = cse(dce(graph))
    new = dce(check_pass(tiles, before, [x], []))
    assert (count(new, "slice_scatter"), count(new, "concat")) == (scatters, joins)
    check_traced(gradient(f), [hml.asarray(x)], ops=20)


def test_the_gates_of_a_recurrent_cell_are_joined():
    """Kernels of the gradient of one step: the count of what moves data."""

    def cell(gi, gh):
        r, z = hml.sigmoid(gi[:, :4] + gh[:, :4]), hml.sigmoid(gi[:, 4:8] + gh[:, 4:8])
        return (hml.tanh(gi[:, 8:] + r * gh[:, 8:]) * z).sum()

    concrete = check_traced(hml.grad(cell, (0, 1)), [hml.asarray(array(3, 12)) for _ in range(2)], ops=20)
    assert count(concrete.optimized, "slice_scatter") == 0 and count(concrete.optimized, "concat") == 2


def test_a_gradient_that_somebody_else_reads_stays():
    def f(x, g):
        a = hml.slice_scatter(g, (6, 8), (0, 0), (6, 3), (1, 1))
        b = hml.slice_scatter(g, (6, 8), (0, 3), (6, 6), (1, 1))
        return a + b + x, a

    concrete = check_traced(f, [hml.asarray(array(6, 8)), hml.asarray(array(6, 3))], ops=20)
    assert count(concrete.optimized, "slice_scatter") == 2


def test_a_sum_of_thousands():
    """As long as nobody wants to join them, terms only have to be looked at, once."""

    @hml.function
    def total(xs):
        out = xs[0]
        for x in xs[1:]:
            out = out + x
        return out

    xs = [hml.full(2, float(k)) for k in range(1500)]
    assert total(xs).tolist() == [sum(range(1500))] * 2
