"""Every row of the registry with each of its dimensions changing: traced, traced with the size as a symbol, bound; against eager.

What the samples write as numbers (a shape to reshape to, say) stays as it is, so some calls do not fit at other sizes: traced they have
to refuse what eager refuses. Nothing here names an op.
"""

import numpy as np
import pytest

import hybridml as hml
from hybridml import pytree
from hybridml.eager.tensor import wrap
from hybridml.errors import HybridMLError
from hybridml.ops.registry import OPS
from hybridml.symbolic import has_dims
from hybridml.testing import assert_close, public_functions, samples_of
from hybridml.trace.graph import subgraphs

FUNCTIONS = public_functions()
ROWS = [op for op in OPS.values() if op.samples is not None]
SAMPLES = 6  # of each row
GROWN = (0, 1, 2, 5)  # how much larger the dimension is from call to call


def as_call(op, sample):
    """(f, arrays): the sample as a function of its arrays alone."""
    leaves, structure = pytree.flatten(sample.args)
    places = [i for i, x in enumerate(leaves) if isinstance(x, np.ndarray)]

    def f(*given):
        full = list(leaves)
        for i, t in zip(places, given, strict=True):
            full[i] = t
        return FUNCTIONS[op.name](*pytree.unflatten(structure, full), **sample.kwargs)

    cast = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in (leaves[i] for i in places)]
    return f, cast


def changes(arrays):
    """Which axes change: each alone, and all axes of one size together."""
    axes = [(i, a) for i, x in enumerate(arrays) for a, d in enumerate(x.shape) if d >= 2]
    alone = [{p} for p in axes]
    together = [
        {p for p in axes if arrays[p[0]].shape[p[1]] == d} for d in {arrays[i].shape[a] for i, a in axes}
    ]
    return [*alone, *[t for t in together if len(t) > 1]]


def grown(arrays, axes, by):
    """The arrays with those axes longer: their elements come again."""
    found = []
    for i, x in enumerate(arrays):
        for a in [a for j, a in axes if j == i]:
            x = np.take(x, np.arange(x.shape[a] + by), axis=a, mode="wrap")
        found.append(wrap(np.ascontiguousarray(x)))
    return found


def nothing_is_left_open(graph):
    for n in graph.nodes:
        inner = subgraphs(n)
        for g in inner.values():
            nothing_is_left_open(g)
        plain = {k: a for k, a in n.attrs.items() if k not in inner}
        assert not has_dims((plain, [v.shape for v in (*n.values, *n.outputs)], list(n.inputs))), n


@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
def test_any_size_is_eager(op):
    for sample in samples_of(op)[:SAMPLES]:
        f, arrays = as_call(op, sample)
        for axes in changes(arrays):
            function, compared, label = hml.function(f), 0, f"{op.name} {sample.label}, axes {sorted(axes)}"
            for by in GROWN:
                tensors = grown(arrays, axes, by)
                try:
                    want = f(*tensors)
                    hml.function(f, reduce_retracing=False).get_concrete_function(*tensors)
                except HybridMLError as e:
                    with pytest.raises(type(e)):
                        function(*tensors)
                    continue
                for k, (a, b) in enumerate(
                    zip(pytree.leaves(function(*tensors)), pytree.leaves(want), strict=True)
                ):
                    assert_close(a.numpy(), b.numpy(), ops=16, label=f"{label}, {by} more, result {k}")
                nothing_is_left_open(function._recent.trace.concrete.optimized)
                compared += 1
            info = function.cache_info()
            if compared == len(GROWN):
                assert info.binds or "because" in function.explain_retraces(), label


def test_every_row_allows_every_size():
    """One trace for all sizes, where all axes of one size change together, and plans with the sizes open."""
    refusing = set()
    for op in ROWS:
        for sample in samples_of(op)[:2]:
            f, arrays = as_call(op, sample)
            for axes in changes(arrays)[-1:]:
                try:
                    [f(*grown(arrays, axes, by)) for by in GROWN]
                except HybridMLError:
                    continue
                function = hml.function(f)
                [function(*grown(arrays, axes, by)) for by in GROWN]
                if function.cache_info().binds != 2 or function.cache_info().apart:
                    refusing.add(op.name)
    assert not refusing
