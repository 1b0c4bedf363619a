"""From source to address: pointers of every dtype, vectorisation, keys, counters, and a second process."""

import contextvars
import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from hybridml.kernels import jit, llvm
from hybridml.kernels.driver import scalar_word
from hybridml.kernels.translate import translate

DTYPES = ["bool", "float32", "float64"] + [
    f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
]

SELECT = """
from hybridml.kernels.pointer import bool_in, {0}_in, {0}_out, {0}_scalar
def select(args, begin, end):
    mask = bool_in(args, 0, 0)
    x = {0}_in(args, 1, 1)
    out = {0}_out(args, 2, 2)
    other = {0}_scalar(args, 3)
    for i in range(begin, end):
        out[i] = x[i] if mask[i] else other
"""


def call(kernel, words, begin, end):
    block = np.array(words, np.int64)
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(kernel.address)(block.ctypes.data, begin, end)


def sample(dtype, n):
    if dtype == "bool":
        return np.arange(n) % 3 == 0
    if dtype.startswith("float"):
        return np.linspace(-2, 2, n).astype(dtype)
    info = np.iinfo(dtype)
    return np.resize(np.array([info.min, 0, 1, info.max], dtype), n)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_reads_and_writes_its_own_bytes(dtype):
    kernel = jit.load(SELECT.format(dtype), "select")
    for n, begin, end in [(1, 0, 1), (70, 0, 70), (70, 3, 60), (5, 2, 2)]:
        x, mask = sample(dtype, n), np.arange(n) % 2 == 0
        out = np.zeros(n, dtype)
        other = sample(dtype, 4)[3]
        words = [mask.ctypes.data, x.ctypes.data, out.ctypes.data, scalar_word(other, dtype)]
        call(kernel, words, begin, end)
        expected = np.zeros(n, dtype)
        expected[begin:end] = np.where(mask, x, other)[begin:end]
        np.testing.assert_array_equal(out, expected)
        assert set(out.view(np.uint8)) <= {0, 1} or dtype != "bool"


def test_inputs_cannot_be_written():
    source = (
        "from hybridml.kernels.pointer import float32_in\n"
        "def bad(args, begin, end):\n    float32_in(args, 0, 0)[begin] = 1.0\n"
    )
    with pytest.raises(Exception, match="is an input: declare it with _out"):
        jit.load(source, "bad")


def test_words_are_literal():
    source = (
        "from hybridml.kernels.pointer import size\n"
        "def bad(args, begin, end):\n    args[0] = size(args, begin)\n"
    )
    with pytest.raises(Exception, match="must be a literal integer"):
        jit.load(source, "bad")


def many_operands(inputs, outputs):
    lines = ["from hybridml.kernels.pointer import float32_in, float32_out", "def many(args, begin, end):"]
    lines += [f"    x{i} = float32_in(args, {i}, {i})" for i in range(inputs)]
    lines += [f"    o{i} = float32_out(args, {inputs + i}, {inputs + i})" for i in range(outputs)]
    lines += ["    for i in range(begin, end):"]
    lines += [
        f"        o{j}[i] = " + " + ".join(f"x{i}[i] * x{(i + j) % inputs}[i]" for i in range(inputs))
        for j in range(outputs)
    ]
    return "\n".join(lines) + "\n"


def test_many_operands_vectorise_without_checks_at_run_time():
    text = str(llvm.optimised(translate(many_operands(6, 3), "many", jit.KERNEL, "many", "many.py").text))
    assert "vector.body" in text
    assert "vector.memcheck" not in text
    assert "x float>" in text


def test_many_operands_compute_what_they_say():
    kernel = jit.load(many_operands(6, 3), "many")
    x = np.random.default_rng(0).random((6, 1000), np.float32)
    out = np.zeros((3, 1000), np.float32)
    call(kernel, [row.ctypes.data for row in [*x, *out]], 0, 1000)
    for j in range(3):
        np.testing.assert_allclose(out[j], sum(x[i] * x[(i + j) % 6] for i in range(6)), rtol=1e-5)


def test_an_error_quotes_the_line():
    with pytest.raises(Exception, match="undefined_name"):
        jit.load("def wrong(args, begin, end):\n    args[0] = undefined_name\n", "wrong")


def test_every_part_of_the_key_counts(monkeypatch):
    base = jit.explain_key("source", "name")
    assert base == jit.explain_key("source", "name")
    assert base["source"] != jit.explain_key("other", "name")["source"]
    assert base["name"] != jit.explain_key("source", "other")["name"]
    assert base["signature"] != jit.explain_key("source", "name", "void(int64)")["signature"]
    importing = jit.explain_key("from hybridml.kernels.pointer import size", "name")
    assert base["imports"] != importing["imports"]
    for part in ("abi", "python", "numba", "llvmlite", "cpu", "cpu_features", "triple"):
        assert base[part], part
    monkeypatch.setenv("NUMBA_OPT", "1")
    assert base["numba_settings"] != jit.explain_key("source", "name")["numba_settings"]


def test_a_changed_module_changes_the_key_of_its_kernels(tmp_path, monkeypatch):
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    (kernels / "mine.py").write_text("from hybridml.kernels.deep import x")
    (kernels / "deep.py").write_text("x = 1")
    monkeypatch.setattr(jit, "_PACKAGE", tmp_path)

    def digest():  # as a new process finds it
        jit._module_digest.cache_clear()
        return jit._imports_digest.__wrapped__(("kernels.mine",))

    before = digest()
    assert digest() == before
    (kernels / "deep.py").write_text("x = 2")
    assert digest() != before
    jit._module_digest.cache_clear()


def test_counters_and_forbidding(empty_cache):
    source = "def counted(args, begin, end):\n    args[0] = begin\n"
    before = jit.stats()
    with jit.forbid_compiling(), pytest.raises(jit.CompileForbidden, match="counted"):
        jit.load(source, "counted")
    assert jit.load(source, "counted").origin == "compiled"
    assert jit.load(source, "counted").origin == "memory"
    after = jit.stats()
    assert after.compiled - before.compiled == 1
    assert after.memory_hits - before.memory_hits == 1
    assert after.seconds > before.seconds


def test_a_function_that_is_nowhere_is_an_error_and_not_stored(empty_cache):
    source = (
        "import math\nfrom numba import types\n"
        "missing = types.ExternalFunction('numba_gcd_not_there', types.int64(types.int64))\n"
        "def outside(args, begin, end):\n    args[0] = missing(begin)\n"
    )
    with pytest.raises(RuntimeError, match="numba_gcd_not_there"):
        jit.load(source, "outside").address  # noqa: B018  # asking links it
    assert not (empty_cache / "kernels").exists()


def test_c_library_functions_link_in_a_second_process(fresh_process):
    program = (
        "import sys\nimport numpy as np, ctypes\nfrom hybridml.kernels import jit\n"
        "source = '''import math\nfrom hybridml.kernels.pointer import float64_out\n"
        "def powers(args, begin, end):\n    p = float64_out(args, 0, 0)\n"
        "    for i in range(begin, end):\n        p[i] = math.pow(p[i], 1.5) + math.atan2(p[i], 2.0)\n'''\n"
        "kernel = jit.load(source, 'powers')\n"
        "x = np.arange(5.0)\nwords = np.array([x.ctypes.data])\n"
        "ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(kernel.address)(words.ctypes.data, 0, 5)\n"
        "assert np.allclose(x, np.arange(5.0) ** 1.5 + np.arctan2(np.arange(5.0), 2))\n"
        "print(kernel.origin, 'numba' in sys.modules)\n"
    )
    assert fresh_process(program) == "compiled True\n"
    assert fresh_process(program) == "disk False\n"


def test_many_threads_load_the_same_kernel_once(empty_cache):
    source = "def together(args, begin, end):\n    args[1] = end\n"
    before = jit.stats().compiled
    kernels = []

    def load():
        kernels.append(jit.load(source, "together"))

    threads = [threading.Thread(target=contextvars.copy_context().run, args=[load]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({kernel.address for kernel in kernels}) == 1
    assert len(kernels) == 8
    assert jit.stats().compiled == before + 1


def test_numba_s_first_compilation_does_not_import_scipy_linalg(tmp_path: Path) -> None:
    """The workaround in `numba_compiler._load_blas_alone`: fails once Numba no longer asks for BLAS, or scipy.linalg breaks by it."""
    code = (
        "import sys, numpy as np\n"
        "from hybridml.testing import kernels\n"
        "x = np.ones(2, np.float32)\n"
        "assert kernels.apply('x0 + x0', x, by='numba').tolist() == [2.0, 2.0]\n"
        "assert 'numba.np.arraymath' in sys.modules and 'scipy.linalg.cython_blas' in sys.modules\n"
        "assert 'scipy.linalg' not in sys.modules\n"
        "import scipy.linalg\n"
        "assert scipy.linalg.blas.ddot([1.0], [2.0]) == 2.0\n"
        "from scipy.linalg import cython_blas\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "HYBRIDML_CACHE_DIR": str(tmp_path)}, check=True
    )
