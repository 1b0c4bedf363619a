"""Every row under vmap against a loop over the examples. Nothing here names an op: a new row is tested by having samples."""

import itertools

import numpy as np
import pytest

import hybridml as hml
from hybridml import pytree
from hybridml.ops import batching
from hybridml.ops.registry import OPS, Kind
from hybridml.testing import public_functions, samples_of

FUNCTIONS = public_functions()
ROWS = [op for op in OPS.values() if op.samples is not None and op.kind is not Kind.EFFECT]
SIZE = 3


def examples_of(x):
    """SIZE arrays of one shape with other elements in each."""
    return np.stack([np.roll(x.reshape(-1), k).reshape(x.shape) for k in range(SIZE)])


def ways(n):
    """Which of n arrays are mapped: each subset that is not empty, of the first few."""
    flags = [f for f in itertools.product((True, False), repeat=min(n, 3)) if any(f)]
    return [(*f, *[f[-1]] * (n - len(f))) for f in flags]


@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
def test_vmap_equals_a_loop(op):
    f = FUNCTIONS[op.name]
    for sample in samples_of(op):
        leaves, structure = pytree.flatten(sample.args)
        places = [i for i, x in enumerate(leaves) if isinstance(x, np.ndarray)]
        for mapped in ways(len(places)):
            chosen = [i for i, m in zip(places, mapped, strict=True) if m]
            stacks = {i: examples_of(leaves[i]) for i in chosen}

            def one(rows, chosen=chosen, sample=sample, leaves=leaves, structure=structure):
                now = dict(zip(chosen, rows, strict=True))
                return f(
                    *pytree.unflatten(structure, [now.get(i, x) for i, x in enumerate(leaves)]),
                    **sample.kwargs,
                )

            try:
                wanted = [one([hml.asarray(stacks[i][k]) for i in chosen]) for k in range(SIZE)]
            except hml.errors.HybridMLError as refusal:
                with pytest.raises(type(refusal)):
                    hml.vmap(one)([stacks[i] for i in chosen])
                continue
            got = hml.vmap(one)([stacks[i] for i in chosen])
            for a, *each in zip(pytree.leaves(got), *map(pytree.leaves, wanted), strict=True):
                expected = np.stack([x.numpy() for x in each])
                assert a.dtype == expected.dtype and a.shape == expected.shape, (sample.label, mapped)
                np.testing.assert_allclose(
                    a.numpy(), expected, rtol=1e-5, atol=1e-6, err_msg=f"{sample.label} {mapped}"
                )


@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
def test_a_rule_and_not_the_loop(op, monkeypatch):
    """The loop is for rows that draw or decide: every other row maps as one operation."""
    if op.kind is Kind.RANDOM:
        pytest.skip("a state for each example is drawn from one by one")
    monkeypatch.setattr(batching, "one_by_one", lambda op, *_: pytest.fail(f"{op.name} has no rule"))
    for sample in samples_of(op):
        leaves, structure = pytree.flatten(sample.args)
        places = [i for i, x in enumerate(leaves) if isinstance(x, np.ndarray)]

        def one(rows, sample=sample, leaves=leaves, structure=structure, places=places):
            now = dict(zip(places, rows, strict=True))
            return FUNCTIONS[op.name](
                *pytree.unflatten(structure, [now.get(i, x) for i, x in enumerate(leaves)]), **sample.kwargs
            )

        if places:
            hml.vmap(one)([examples_of(leaves[i]) for i in places])


def test_no_examples():
    for f in (
        lambda x: x * 2,
        lambda x: x.sum(),
        lambda x: hml.top_k(x, 1)[1],
        lambda x: hml.check_finite(x, "x"),
    ):
        one = f(hml.ones((4,)))
        none = hml.vmap(f)(hml.zeros((0, 4)))
        assert none.shape == (0, *one.shape) and none.dtype == one.dtype
