"""Transposes become flags of the products that read them."""

import pytest
from graphs import array, check_pass, ops, trace_of, traced

import hybridml as hml
from hybridml.trace.passes import dce, layout

FLAGS = {"transposes": (True, True), "transposes twice": (False, False), "batched transposes": (True, False)}


@pytest.mark.parametrize("name", FLAGS)
def test_transposes_become_flags(name):
    new = dce(check_pass(layout, *traced(name)))
    assert ops(new) == ["matmul"]
    assert (new.nodes[0].attrs["ta"], new.nodes[0].attrs["tb"]) == FLAGS[name]


def test_gradients_of_a_product_need_no_transposes():
    new = dce(check_pass(layout, *traced("a training step")))
    assert ops(new).count("matmul") == 2 and "permute_dims" not in ops(new)


def test_other_permutations_stay():
    new = dce(layout(trace_of(lambda x, y: hml.transpose(x, (1, 0, 2)) @ y, array(2, 3, 4), array(4, 5))))
    assert "permute_dims" in ops(new)


def test_a_transpose_that_is_also_a_result_stays_for_that():
    new = dce(layout(trace_of(lambda x, y: (x.T @ y, x.T), array(4, 3), array(4, 5))))
    assert ops(new).count("permute_dims") == 1
