"""Stores past the caches: which outputs, the text of such kernels, and results that are the same to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hybridml as hml
from hybridml.kernels import jit, streaming
from hybridml.kernels.driver import Table

rng = np.random.default_rng(0)


def array(*shape: int, dtype: str = "float32") -> Any:
    return hml.asarray(rng.normal(size=shape).astype("float32"), dtype=dtype)


def layer_norm(x: Any, scale: Any, offset: Any, g: Any) -> Any:
    with hml.GradientTape() as tape:
        for a in (x, scale, offset):
            tape.watch(a)
        y = hml.nn.layer_norm(x, scale, offset)
    return y, *tape.gradient(y, [x, scale, offset], output_gradients=g)


def rms_norm(x: Any) -> Any:
    return x * hml.rsqrt(hml.mean(x * x, axis=-1, keepdims=True) + 1e-6)


CASES: dict[str, tuple[Any, Any]] = {
    "gradients": (layer_norm, lambda n, d: (array(n, d), array(d), array(d), array(n, d))),
    "rows": (rms_norm, lambda n, d: (array(n, d),)),
    "half": (rms_norm, lambda n, d: (array(n, d, dtype="bfloat16"),)),
    "double": (rms_norm, lambda n, d: (array(n, d, dtype="float64"),)),
    "axes": (lambda x: rms_norm(hml.reshape(x, (4, -1, x.shape[1]))), lambda n, d: (array(n, d),)),
    "transposed": (lambda x: rms_norm(x.mT), lambda n, d: (array(d, n),)),
}


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`caches(n)` makes the last-level cache that many bytes, and outputs of any size worth streaming."""
    monkeypatch.setattr(streaming, "LEAST", 1)
    return lambda size: monkeypatch.setattr(streaming, "last_level_cache", lambda: size)


def nbytes(x: Any) -> int:
    return x.size * x.dtype.itemsize


def streams(f: Any, *args: Any) -> int:
    """How many outputs of the traced function go past the caches."""
    concrete = hml.function(f).get_concrete_function(*args)
    return sum(k.source.count(" stream(") for k in concrete.kernels if hasattr(k, "source"))


def between(args: Any) -> int:
    """A cache that holds what is read, and nothing more."""
    return sum(map(nbytes, hml.pytree.leaves(args))) + 4096


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [(1024, 32), (64, 2080), (256, 1024)])
def test_results_are_the_same(name: str, shape: tuple[int, int], caches: Any) -> None:
    f, make = CASES[name]
    args = make(*shape)
    caches(1)
    plain = hml.pytree.leaves(hml.function(lambda *args: f(*args))(*args))
    caches(between(args))
    assert streams(f, *args) == (2 if name == "gradients" else 1)
    for got, want in zip(hml.pytree.leaves(hml.function(f)(*args)), plain, strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy())


def test_only_what_would_push_out_what_is_read(caches: Any) -> None:
    x = array(64, 1024)
    for size, expected in ((nbytes(x) - 1, 0), (nbytes(x), 1), (2 * nbytes(x) - 1, 1), (2 * nbytes(x), 0)):
        caches(size)
        assert streams(rms_norm, x) == expected, size


def test_small_outputs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    x = array(64, 1024)
    monkeypatch.setattr(streaming, "last_level_cache", lambda: nbytes(x))
    assert streams(rms_norm, x) == 0


def test_rows_that_do_not_begin_at_cache_lines_stay(caches: Any) -> None:
    x = array(64, 1001)
    caches(nbytes(x))
    assert streams(rms_norm, x) == 0


def test_single_passes_stay(caches: Any) -> None:
    x = array(64, 1024)
    caches(nbytes(x))
    assert streams(lambda x: hml.exp(x) * 2, x) == 0
    assert streams(lambda x: x - hml.ones((64, 1)), x) == 0


def test_what_takes_the_place_of_an_input_stays(caches: Any) -> None:
    v = hml.Variable(array(64, 1024))
    caches(nbytes(v))
    assert streams(lambda: v.assign(rms_norm(v.value())), *()) == 0


def test_what_is_read_back_stays(caches: Any) -> None:
    """The row of the output holds the exponentials until their sum is known."""
    x = array(64, 1024)
    caches(nbytes(x))
    assert streams(hml.nn.softmax, x) == 0


def test_passes_that_add_up_stay(caches: Any) -> None:
    """A sum of pieces rounds otherwise than a sum of blocks."""
    x = array(64, 1024)
    caches(nbytes(x))
    assert streams(lambda x: (y := rms_norm(x), hml.sum(y, axis=-1)), x) == 0


def test_rows_are_asked_for_before_they_are_read(caches: Any) -> None:
    """Two rows before, in the pieces in which results leave."""
    caches(64 * 1024 * 4)
    (kernel,) = hml.function(rms_norm).get_concrete_function(array(64, 1024)).kernels
    assert "ahead(x0, (i + 2) * x0_i + jp, min(PIECE, n_j - jp))" in kernel.source


def test_the_batch_may_change(caches: Any) -> None:
    f = hml.function(rms_norm)
    caches(64 * 1024 * 4)
    for rows in (64, 32, 48, 3, 1):
        x = array(rows, 1024)
        np.testing.assert_allclose(f(x).numpy(), rms_norm(x).numpy(), rtol=1e-5, atol=1e-7)


STREAM = """
from hybridml.kernels.pointer import float32_in, float32_out, size
from hybridml.kernels.gemm_tile import scratch
from hybridml.kernels.pointer import float32_to
from hybridml.kernels.stream_loops import ahead, stream, stream_end

def move(args, begin, end):
    o0 = float32_out(args, 0, 0)
    x0 = float32_in(args, 1, 1)
    first = size(args, 2)
    near = scratch(4096)
    w0 = float32_to(near + 0, 2)
    ahead(x0, 100000, 64)
    for k in range(end):
        w0[k] = x0[k]
    stream(o0, first, w0, end)
    stream_end()
"""


def test_elements_go_anywhere_and_nowhere_else() -> None:
    kernel = jit.load(STREAM, "move")
    x = rng.normal(size=1024).astype(np.float32)
    for first in (0, 1, 3, 15, 16, 17):
        for count in (0, 1, 7, 15, 16, 31, 32, 33, 100, 1000):
            out = np.zeros(1100, np.float32)
            table = Table()
            table.run(kernel.address, table.block([out.ctypes.data, x.ctypes.data, first]), count)
            table.finish().run([])
            expected = np.zeros_like(out)
            expected[first : first + count] = x[:count]
            np.testing.assert_array_equal(out, expected)
