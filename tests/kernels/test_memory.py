"""The memory plan: what lives at once lies apart, and what does not may lie together."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hybridml.kernels.memory import ALIGN, Interval, plan


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
