"""What is said about repeated traces, how many are kept, and what an `input_signature` refuses."""

import warnings

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import RetraceWarning, SignatureError
from hybridml.trace import traces as traces_of_functions


def vector(*numbers):
    return hml.asarray(np.array(numbers, np.float32))


x3, x4 = vector(1, 2, 3), vector(1, 2, 3, 4)


def counted(f=lambda *args, **kwargs: hml.zeros(()), **options):
    """(traced function, list that grows by one at each trace)."""
    traces = []

    def counting(*args, **kwargs):
        traces.append(args)
        return f(*args, **kwargs)

    return hml.function(counting, **options), traces


def test_a_repeated_retrace_warns_once_naming_argument_old_new_and_cure():
    f, _ = counted(lambda image, mode: image, reduce_retracing=False)
    with pytest.warns(RetraceWarning) as caught:
        for n in range(2, 12):
            f(hml.zeros((n,)), "train")
    message = str(caught[0].message)
    assert len(caught) == 1
    for part in ("argument `args[0]`", "float32[5]", "float32[6]", "pass batches of one shape", __file__):
        assert part in message
    explained = f.explain_retraces()
    assert "changed 9 time(s)" in explained and "Cure:" in explained


def test_the_argument_is_named_as_the_function_names_it():
    @hml.function
    def f(image, mode="train"):
        return image

    f(x3)
    assert "never traced again" in f.explain_retraces()
    f(x3, "test")
    assert "argument `mode` changed 1 time(s), last from 'train' to 'test'" in f.explain_retraces()
    f(x4, "test")
    assert "argument `image`, axis 0, varies: one trace takes all sizes from 2 on" in f.explain_retraces()
    f({"a": x3}, "test")
    assert "the nesting of the arguments" in f.explain_retraces()


def test_cache_info_counts():
    f, _ = counted(lambda x: x + 1)
    f(x3), f(x3), f(x4)
    info = f.cache_info()
    assert (info.traces, info.hits, info.evictions, info.size) == (2, 1, 0, 2)


def test_the_trace_used_longest_ago_is_dropped(monkeypatch):
    monkeypatch.setattr(traces_of_functions, "MAX_TRACES", 3)
    f, traces = counted(lambda x, mode: x + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RetraceWarning)
        for mode in "abcadeea":
            f(x3, mode)
        assert f.cache_info().size == 3 and f.cache_info().evictions == len(traces) - 3
        assert [a[1] for a in traces] == ["a", "b", "c", "d", "e"]  # a was used again before d came
        f(x3, "b")
    assert [a[1] for a in traces][-1] == "b"


SIGNATURE = (hml.TensorSpec((None, 3), hml.float32), hml.TensorSpec((), hml.float32))
MISFITS = {
    "the dtype": (
        (np.zeros((2, 3)), np.float32(1)),
        r"argument `x`: expected float32\[.*3\], got float64\[2, 3\]",
    ),
    "the rank": ((np.zeros(3, np.float32), np.float32(1)), r"argument `x`: expected .*, got float32\[3\]"),
    "the size": (
        (np.zeros((2, 4), np.float32), np.float32(1)),
        r"argument `x`: expected .*, got float32\[2, 4\]",
    ),
    "the kind": ((np.zeros((2, 3), np.float32), "one"), "argument `y`: expected .*, got str 'one'"),
    "the number": ((np.zeros((2, 3), np.float32),), "missing a required argument: 'y'"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_input_signature_errors_name_the_argument(case):
    args, message = MISFITS[case]

    @hml.function(input_signature=SIGNATURE)
    def f(x, y):
        return x * y

    with pytest.raises(SignatureError, match=message):
        f(*args)
    assert f(np.ones((2, 3), np.float32), np.float32(2)).tolist() == [[2, 2, 2], [2, 2, 2]]


def test_the_cure_of_a_number_that_is_a_size_works():
    x = hml.zeros(840)
    sized = hml.function(lambda x, n: hml.reshape(x, (n, -1)))
    with pytest.warns(RetraceWarning, match="if it is a size, take it from the shape of an argument"):
        for n in range(2, 9):
            sized(x, n)
    cured = hml.function(lambda x, like: hml.reshape(x, (like.shape[0], -1)))
    for n in (2, 4, 7, 8):
        assert cured(x, hml.zeros(n)).shape == (n, 840 // n)
    assert cured.cache_info().traces <= 3
