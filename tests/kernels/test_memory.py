"""The memory plan: what lives at once lies apart, and what does not may lie together."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hybridml.kernels.memory import ALIGN, Interval, plan, stacked


@st.composite
def intervals(draw):
    rows = draw(
        st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 12), st.integers(0, 12)), max_size=25)
    )
    return [Interval(k, nbytes, min(a, b), max(a, b)) for k, (nbytes, a, b) in enumerate(rows)]


@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(intervals())
def test_nothing_that_lives_at_once_overlaps(buffers):
    offsets, size = plan(buffers)
    assert set(offsets) == {b.key for b in buffers}
    for b in buffers:
        start, end = offsets[b.key], offsets[b.key] + b.nbytes
        assert start % ALIGN == 0 and 0 <= start and end <= size
        for c in buffers:
            if c.key > b.key and c.born <= b.dies and b.born <= c.dies and b.nbytes and c.nbytes:
                assert end <= offsets[c.key] or offsets[c.key] + c.nbytes <= start
    rounded = [-(-max(b.nbytes, 1) // ALIGN) * ALIGN for b in buffers]
    live = [sum(n for b, n in zip(buffers, rounded, strict=True) if b.born <= t <= b.dies) for t in range(13)]
    assert max(live) <= size <= sum(rounded)


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(intervals(), st.data())
def test_nothing_that_lives_at_once_overlaps_at_other_sizes(buffers, data):
    """The order of a plan, with other numbers in: sizes that grow, shrink and change places."""
    offsets, size = plan(buffers)
    stack = stacked(buffers, offsets)
    assert sorted(stack.keys) == [b.key for b in buffers]
    by_key = {b.key: b for b in buffers}
    own, arena = stack.at([by_key[k].nbytes for k in stack.keys])
    assert arena <= size and all(at <= offsets[k] for k, at in zip(stack.keys, own, strict=True))
    for _ in range(3):
        other = {b.key: data.draw(st.integers(1, 20_000)) for b in buffers}
        found, arena = stack.at([other[k] for k in stack.keys])
        at = dict(zip(stack.keys, found, strict=True))
        for b in buffers:
            assert at[b.key] % ALIGN == 0 and at[b.key] + other[b.key] <= arena
            for c in buffers:
                if c.key > b.key and c.born <= b.dies and b.born <= c.dies:
                    below, above = sorted((b.key, c.key), key=at.__getitem__)
                    assert at[below] + other[below] <= at[above]


def test_a_chain_needs_two_buffers_however_long_it_is():
    _, size = plan([Interval(t, 1000, t, t + 1) for t in range(100)])
    assert size == 2 * 1024


def test_a_gap_is_filled_by_what_fits_it_best():
    buffers = [
        Interval("a", 640, 0, 9),
        Interval("gap", 320, 0, 1),
        Interval("b", 256, 0, 9),
        Interval("new", 320, 2, 3),
    ]
    offsets, size = plan(buffers)
    assert offsets["new"] == offsets["gap"] and size == 640 + 320 + 256


def test_equal_lists_have_equal_plans():
    buffers = [Interval(k, 100 + k % 3, k % 5, k % 5 + 2) for k in range(30)]
    assert plan(buffers) == plan(list(buffers))


def test_nothing_needs_nothing():
    assert plan([]) == ({}, 0)
