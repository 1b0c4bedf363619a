"""Matrix products of all forms, sizes and splits against NumPy in double precision."""

import itertools
import sys

import numpy as np
import pytest

from hybridml.kernels import blas, gemm
from hybridml.kernels.driver import Table
from hybridml.kernels.gemm import Split

TOLERANCE = {"float32": 2e-5, "float64": 1e-13}


def stored(rng, rows, columns, transposed, batch, padding, dtype):
    """A batch of matrices with ``padding`` NaN elements after each row, and their op() as float64."""
    height, width = (columns, rows) if transposed else (rows, columns)
    buffer = np.full((batch, height, width + padding), np.nan, dtype)
    buffer[:, :, :width] = rng.uniform(-1, 1, (batch, height, width))
    matrices = buffer[:, :, :width].astype(np.float64)
    return buffer, matrices.swapaxes(1, 2) if transposed else matrices


def check(
    m, n, k, dtype="float32", ta=False, tb=False, batch=1, padding=0, accumulate=False, runs=1, **options
):
    rng = np.random.default_rng(m * 1000003 + n * 1009 + k)
    a, op_a = stored(rng, m, k, ta, batch, padding, dtype)
    b, op_b = stored(rng, k, n, tb, batch, padding, dtype)
    c, old = stored(rng, m, n, False, batch, padding, dtype)
    before = a.copy(), b.copy()
    if not accumulate:
        c[:, :, :n] = np.nan
    product = gemm.plan(
        m,
        n,
        k,
        dtype,
        ta,
        tb,
        batch,
        accumulate=accumulate,
        **(dict(lda=a.shape[2], ldb=b.shape[2], ldc=c.shape[2]) if padding else {}),
        **options,
    )
    table = Table()
    block = table.block(product.words(a.ctypes.data, b.ctypes.data, c.ctypes.data))
    table.run(product.kernel.address, block, product.extent, product.chunks, product.grain)
    table.finish().run([])
    expected = op_a @ op_b + (old if accumulate else 0)
    np.testing.assert_allclose(c[:, :, :n], expected, rtol=0, atol=TOLERANCE[dtype] * max(1, k) ** 0.5 * 2)
    assert np.isnan(c[:, :, n:]).all(), "wrote beside the result"
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])
    return c


FORMS = list(itertools.product([False, True], repeat=2))
SIZES = [
    (1, 1, 1),
    (1, 33, 7),
    (33, 1, 7),
    (7, 33, 1),
    (8, 32, 16),
    (13, 45, 300),
    (65, 17, 33),
    (2, 3, 1100),
    (1, 300, 20),
]


@pytest.mark.parametrize("provider", ["tiled", "library", None])
@pytest.mark.parametrize("ta, tb", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_forms_and_sizes(dtype, ta, tb, provider):
    for (m, n, k), padding, accumulate in itertools.product(SIZES, [0, 3], [False, True]):
        check(m, n, k, dtype, ta, tb, padding=padding, accumulate=accumulate, provider=provider)


@pytest.mark.parametrize("provider", ["tiled", "library", None])
@pytest.mark.parametrize("split", list(Split))
@pytest.mark.parametrize("chunks", [1, 3, 7])
def test_split_over_chunks(split, chunks, provider):
    for (m, n, k), (ta, tb) in itertools.product([(37, 50, 20), (1, 70, 5), (70, 1, 5), (3, 2, 4)], FORMS):
        check(m, n, k, "float32", ta, tb, batch=3, split=split, chunks=chunks, provider=provider)


@pytest.mark.parametrize("provider", ["tiled", "library", None])
@pytest.mark.parametrize("ta, tb", FORMS)
def test_nothing_to_sum_gives_zeros(ta, tb, provider):
    assert not check(5, 6, 0, "float32", ta, tb, provider=provider).any()
    assert not check(1, 6, 0, "float32", ta, tb, provider=provider).any()
    assert not check(6, 1, 0, "float64", ta, tb, provider=provider).any()
    check(5, 6, 0, "float64", ta, tb, accumulate=True, provider=provider)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ta, tb", FORMS)
def test_blocks_and_panels_that_are_packed(dtype, ta, tb):
    """More rows than a block of A, more steps than a panel of B, leading dimensions that are far apart or meet in cache sets."""
    for m, n, k in [(131, 100, 1024), (261, 98, 258), (300, 1024, 17), (1, 2048, 300), (517, 97, 1025)]:
        check(m, n, k, dtype, ta, tb, provider="tiled")
        check(m, n, k, dtype, ta, tb, provider="tiled", padding=5, accumulate=True, chunks=2)


@pytest.mark.parametrize("provider", ["tiled", "library"])
def test_a_batch_of_two_axes(provider):
    """Heads beside each other in one matrix: neither axis of the batch continues the other."""
    rng = np.random.default_rng(0)
    x = rng.random((3, 5, 4, 6), np.float32)  # entries, rows, heads, columns
    y = rng.random((3, 4, 6, 7), np.float32)
    out = np.empty((3, 4, 5, 7), np.float32)
    product = gemm.plan(
        5, 7, 6, batch=4, strides=(6, 42, 35), lda=24, outer=3, outer_strides=(120, 168, 140), provider=provider,
    )  # fmt: skip
    table = Table()
    block = table.block(product.words(x.ctypes.data, y.ctypes.data, out.ctypes.data))
    table.run(product.kernel.address, block, product.extent, 5, product.grain)
    table.finish().run([])
    assert product.extent == 12
    np.testing.assert_allclose(out, x.swapaxes(1, 2) @ y, rtol=1e-6)


def test_a_sum_of_many_terms_keeps_float32_accuracy():
    """The error of a float32 product is bounded by k eps |A| |B|; sums in blocks stay far below that."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(40, 5000)).astype(np.float32)
    b = rng.normal(size=(5000, 36)).astype(np.float32)
    c = np.empty((40, 36), np.float32)
    product = gemm.plan(40, 36, 5000, provider="tiled")
    table = Table()
    block = table.block(product.words(a.ctypes.data, b.ctypes.data, c.ctypes.data))
    table.run(product.kernel.address, block, product.extent, product.chunks, product.grain)
    table.finish().run([])
    x, y = a.astype(np.float64), b.astype(np.float64)
    bound = np.finfo(np.float32).eps * (np.abs(x) @ np.abs(y))
    assert (np.abs(c - x @ y) <= bound * 50).all()  # 5000 in the worst case


@pytest.mark.parametrize("m, n, batch", [(0, 4, 1), (4, 0, 1), (4, 4, 0), (0, 0, 0)])
def test_empty_results_run_nothing(m, n, batch):
    for (ta, tb), provider in itertools.product(FORMS, ["tiled", "library"]):
        assert check(m, n, 3, "float32", ta, tb, batch=batch, provider=provider).size == 0


def test_a_batch_may_share_an_operand():
    rng = np.random.default_rng(0)
    a, b, c = rng.random((5, 4, 6)), rng.random((6, 7)), np.empty((5, 4, 7))
    product = gemm.plan(4, 7, 6, "float64", batch=5, strides=(24, 0, 28))
    table = Table()
    block = table.block(product.words(a.ctypes.data, b.ctypes.data, c.ctypes.data))
    table.run(product.kernel.address, block, product.extent, product.chunks, product.grain)
    table.finish().run([])
    np.testing.assert_allclose(c, a @ b, rtol=1e-13)


def test_pieces_do_not_change_a_tiled_result():
    whole = check(96, 128, 200, provider="tiled")
    for split, chunks in itertools.product([Split.ROWS, Split.COLUMNS], [2, 5, 16]):
        pieces = check(96, 128, 200, split=split, chunks=chunks, provider="tiled")
        np.testing.assert_array_equal(pieces, whole)


def test_large_products_are_shared_out_and_small_ones_are_not():
    assert gemm.plan(16, 32, 32, threads=8).chunks == 1
    assert gemm.plan(512, 512, 512, threads=8).chunks == 8
    assert gemm.plan(8, 4096, 512, threads=4).template[gemm.Words.SPLIT] == Split.COLUMNS
    assert gemm.plan(4096, 8, 512, threads=4).template[gemm.Words.SPLIT] == Split.ROWS
    assert gemm.plan(64, 64, 64, batch=64, threads=4).template[gemm.Words.SPLIT] == Split.BATCH


@pytest.mark.parametrize(
    "mistake", [dict(m=-1), dict(k=2**31), dict(dtype="int32"), dict(lda=3), dict(provider="gpu")]
)
def test_refusals_name_the_argument(mistake):
    arguments = dict(m=4, n=4, k=4) | mistake
    with pytest.raises(ValueError, match=str(next(iter(mistake.values())))):
        gemm.plan(**arguments)


def test_mkl_goes_first_where_it_is_installed(monkeypatch, tmp_path):
    """Where the wheel would put it stands a link to NumPy's own BLAS."""
    extension = sys.modules["numpy._core._multiarray_umath"].__file__
    if blas._from_numpy() is None:
        pytest.skip("NumPy's BLAS cannot be found by name")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert blas._from_mkl() is None
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libmkl_rt.so.9").symlink_to(extension)
    found = blas.find.__wrapped__()
    assert found.origin.startswith("MKL (") and found.hold
    (tmp_path / "lib" / "libmkl_rt.so.9").unlink()
    (tmp_path / "lib" / "libmkl_rt.so.8").write_bytes(b"no library")
    assert not blas.find.__wrapped__().origin.startswith("MKL")


def test_the_library_gets_its_threads_back():
    import ctypes

    library = blas.find()
    if library is None:
        pytest.skip("this process has no BLAS whose address can be found")
    words = (ctypes.c_int64 * 5).from_address(library.hold)
    if not words[3]:
        pytest.skip("this BLAS has no openblas_set_num_threads")
    get = ctypes.CFUNCTYPE(ctypes.c_int)(words[3])
    put = ctypes.CFUNCTYPE(None, ctypes.c_int)(words[4])
    threads = get()
    put(3)
    try:
        during = get()  # a build for one thread ignores the request
        check(64, 64, 64, provider="library", chunks=4)
        assert get() == during
        assert list(words[:2]) == [0, 0]
    finally:
        put(threads)
