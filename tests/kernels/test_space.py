"""Iteration spaces, against NumPy's own idea of shapes and strides."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridml.kernels.space import canonical, collapse, parts, refine, squeeze, stretch, strides_over
from hybridml.ops.registry import Layout

sizes = st.lists(st.integers(2, 6), max_size=4).map(tuple)
shapes = st.lists(st.integers(1, 4), max_size=4).map(tuple)
bounded = settings(max_examples=60, derandomize=True, database=None, deadline=None)


def strided(layout, flat):
    """The view of a flat buffer that a layout describes, made by NumPy."""
    step = flat.dtype.itemsize
    return np.lib.stride_tricks.as_strided(
        flat[layout.offset :], layout.shape, [s * step for s in layout.strides], writeable=False
    )


@bounded
@given(st.lists(st.tuples(st.integers(2, 6), st.booleans(), st.booleans()), max_size=5))
def test_refine_is_the_coarsest_common_refinement(pieces):
    def merged(which):
        """Neighbouring pieces as one axis wherever this space does not cut."""
        out, product = [], 1
        for d, *cuts in pieces:
            product *= d
            if cuts[which]:
                out.append(product)
                product = 1
        return tuple([*out, product] if product > 1 else out)

    a, b = merged(0), merged(1)
    fine = refine(a, b)
    assert fine is not None and refine(b, a) == fine
    assert len(fine) <= len(pieces)
    for coarse in (a, b):
        groups = parts(coarse, fine)
        assert [math.prod(fine[k] for k in g) for g in groups] == list(coarse)
        assert [k for g in groups for k in g] == list(range(len(fine)))


@pytest.mark.parametrize("a, b", [((4, 6), (6, 4)), ((6,), (4,)), ((2, 3), (3, 2)), ((2,), ()), ((5,), (7,))])
def test_crossing_factors_have_no_refinement(a, b):
    assert refine(a, b) is None and refine(b, a) is None


@bounded
@given(sizes)
def test_a_space_refines_itself(space):
    assert refine(space, space) == space


@bounded
@given(shapes)
def test_canonical_strides_are_numpys(shape):
    space = squeeze(shape)
    assert [s * 8 for s in canonical(space)] == list(np.empty(space).strides)
    assert math.prod(space) == math.prod(shape)


@bounded
@given(sizes, st.data())
def test_canonical_over_some_axes(space, data):
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, len(space) - 1))))) if space else ()
    found = canonical(space, axes)
    assert all(found[k] == 0 for k in range(len(space)) if k not in axes)
    assert tuple([found[k] for k in axes]) == canonical(tuple([space[k] for k in axes]))


@bounded
@given(shapes, st.data())
def test_stretch_is_broadcasting(shape, data):
    lead = tuple(data.draw(st.lists(st.integers(1, 3), max_size=2)))
    wide = lead + tuple([data.draw(st.integers(1, 4)) if d == 1 else d for d in shape])
    flat = np.arange(math.prod(shape))
    seen = strided(stretch(Layout.contiguous(shape), wide), flat)
    np.testing.assert_array_equal(seen, np.broadcast_to(flat.reshape(shape), wide))


@bounded
@given(shapes, st.data())
def test_strides_over_a_finer_space_name_the_same_elements(shape, data):
    axes = data.draw(st.permutations(range(len(shape))))
    flat = np.arange(math.prod(shape))
    view = flat.reshape(shape).transpose(axes)
    layout = Layout(view.shape, tuple([s // 8 for s in view.strides]))
    space = tuple([p for d in squeeze(view.shape) for p in ((2, 2) if d == 4 else (d,))])
    fine = Layout(space, strides_over(layout, space))
    np.testing.assert_array_equal(strided(fine, flat).reshape(-1), view.reshape(-1))


@bounded
@given(sizes, st.data())
def test_collapsed_runs_walk_every_operand_as_one(space, data):
    classes = tuple([data.draw(st.integers(0, 1)) for _ in space])
    masks = data.draw(
        st.lists(st.lists(st.booleans(), min_size=len(space), max_size=len(space)), min_size=1, max_size=3)
    )
    operands = [canonical(space, tuple([k for k, on in enumerate(m) if on])) for m in masks]
    runs = collapse(space, classes, operands)
    assert [k for run in runs for k in run] == list(range(len(space)))
    for run in runs:
        assert len({classes[k] for k in run}) == 1
        for strides in operands:
            offsets = [
                sum(i * strides[k] for i, k in zip(index, run, strict=True))
                for index in np.ndindex(*[space[k] for k in run])
            ]
            assert offsets == [i * strides[run[-1]] for i in range(len(offsets))]
    assert len(collapse(space, (0,) * len(space), [canonical(space)])) == min(len(space), 1)
