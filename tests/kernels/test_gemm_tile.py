"""The register tile: how rows are shared out, and on other processors than this one, what LLVM makes of its loops, and results."""

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hybridml.kernels import gemm_tile, host, jit, llvm

X86 = llvm.binding().get_process_triple().startswith(("x86_64", "amd64"))

# A process that takes itself for another processor; LLVM's name and features of it.
ANOTHER = """
import llvmlite.binding as llvm
features = llvm.FeatureMap({features!r})
llvm.get_host_cpu_features = lambda: features
llvm.get_host_cpu_name = lambda: {cpu!r}
"""

# The loops of a kernel that branch nowhere but back: (multiply-adds, lines that reach the stack) of each.
LOOPS = """
import json, re
from hybridml.kernels import gemm, gemm_tile, llvm
from hybridml.kernels.jit import KERNEL
from hybridml.kernels.translate import translate

text = translate(gemm._source({dtype!r}), "tiled", KERNEL, "tiled", "gemm_loops.py").text
module = llvm.Module(text, loops=False)
module.optimise()
lines = llvm.machine().emit_assembly(module.parsed).splitlines()
stack, starts, found = ["(%rsp"], dict(), []
for number, line in enumerate(lines):
    label = re.match(r"(\\.?\\w+):", line)
    jump = re.match(r"\\s+j\\w+\\s+(\\.LBB\\d+_\\d+)", line)
    if label and not label[1].startswith(".L"):  # a function begins
        stack = ["(%rsp"]
    elif "%rsp, %rbp" in line:  # which addresses its stack by this register
        stack = ["(%rsp", "(%rbp"]
    elif label:
        starts[label[1]] = number
    elif jump and jump[1] in starts:
        body = lines[starts[jump[1]] : number]
        if not any(re.match(r"\\s+(j|call)", inner) for inner in body):
            sums = sum(bool(re.search(r"vfmadd|\\s(addps|addpd)\\s", inner)) for inner in body)
            found.append([sums, [inner for inner in body if any(s in inner for s in stack)]])
print(json.dumps(dict(rows=gemm_tile.TILE_ROWS, bytes=gemm_tile.VECTOR_BYTES, loops=found)))
"""

# The same for a 64-bit ARM, whose code LLVM writes on any machine: for each loop the number of multiply-adds, and the lines in it that
# reach the stack or branch.
ARM = """
import json, re
import llvmlite.binding as binding
binding.initialize_all_targets()
binding.initialize_all_asmprinters()
features = binding.FeatureMap({{"neon": True, "fp-armv8": True}})
binding.get_host_cpu_features = lambda: features
binding.get_host_cpu_name = lambda: "neoverse-n1"
binding.get_process_triple = lambda: "aarch64-unknown-linux-gnu"
from hybridml.kernels import gemm, gemm_tile, llvm
from hybridml.kernels.jit import KERNEL
from hybridml.kernels.translate import translate

module = llvm.Module(translate(gemm._source({dtype!r}), "tiled", KERNEL, "tiled", "gemm_loops.py").text, loops=False)
module.optimise()
starts, found = dict(), []
lines = llvm.machine().emit_assembly(module.parsed).splitlines()
for number, line in enumerate(lines):
    label = re.match(r"(\\.LBB\\w+):", line)
    jump = re.search(r"(\\.LBB\\w+)$", line)
    if label:
        starts[label[1]] = number
    elif jump and jump[1] in starts:
        body = lines[starts[jump[1]] + 1 : number]
        sums = sum("fmla" in inner for inner in body)
        if sums:
            found.append([sums, [i for i in body if "[sp" in i or re.match(r"\\s+(b|b\\.\\w+|cbn?z|tbn?z|bl)\\s", i)]])
print(json.dumps(dict(rows=gemm_tile.TILE_ROWS, bytes=gemm_tile.VECTOR_BYTES, loops=found)))
"""

# For sizes with ragged edges in every direction, the tests of the products themselves, and of what rides in their tiles.
RESULTS = """
import sys
sys.path.insert(0, {folder!r})
from hybridml.kernels import gemm_tile
from test_gemm import FORMS, check

assert gemm_tile.VECTOR_BYTES == {vector_bytes}
for dtype in ("float32", "float64"):
    for ta, tb in FORMS:
        for m, n, k in [(1, 1, 1), (7, 33, 1), (13, 45, 300), (65, 17, 33), (131, 100, 520)]:
            check(m, n, k, dtype, ta, tb, padding=3, accumulate=m % 2 == 0, provider="tiled")

import test_emit_tile as riding

for dtype in ("float32", "float64"):
    riding.test_nothing_around_the_tile_is_written(dtype)
riding.test_sums_over_rows_go_on_from_tile_to_tile(riding.width("float32") + 1)
for name in ("m_exp_f32", "m_erf_f32", "m_maximum_f64"):
    riding.test_scalar_functions_in_lanes(name)
riding.gemm_cost.library = lambda p, machine: float("inf")
for what in riding.IN_TILES:
    riding.test_where_an_epilogue_rides(what, True, 700, None)

import test_prologue as making

making.gemm_cost.saved_by_prologue = lambda *args: 1.0
for what in making.IN_PANELS:
    making.test_operand_b_is_made_in_panels(what, True, 9, 37, 300)
"""

# The rows of each tile, one after the other, for a block of `end` rows; word 0 is where a column of zeros lies, 1 where rows are noted.
TILES = """
from hybridml.kernels.gemm_tile import float32_fitting_tile
from hybridml.kernels.native import store

def tiles(args, begin, end):
    to = args[1]
    while begin < end:
        rows = float32_fitting_tile(end - begin, args[0], 0, 0, args[0], 0, args[0], 1, 0, 1, 0, 0, 0, 0, 0)
        store(to, rows)
        to += 8
        begin += rows
"""


def test_rows_are_shared_out_evenly():
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(
        jit.load(TILES, "tiles").address
    )
    zeros = np.zeros(64, np.float32)
    for rows in range(1, 65):
        found = np.zeros(65, np.int64)
        words = np.array([zeros.ctypes.data, found.ctypes.data], np.int64)
        call(words.ctypes.data, 0, rows)
        tiles = found[found > 0]
        assert tiles.sum() == rows
        assert len(tiles) == -(-rows // gemm_tile.TILE_ROWS)
        assert tiles.max() - tiles.min() <= 1


def run(program, cache):
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(p for p in sys.path if p), "HYBRIDML_CACHE_DIR": str(cache), "PATH": ""},
    )
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.mark.skipif(not X86, reason="LLVM has the code generator of this processor only")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "cpu, vector_bytes, rows, features",
    [
        ("znver4", 64, 8, ["sse2", "avx", "avx2", "fma", "avx512f", "avx512vl", "avx512dq", "avx512bw"]),
        ("haswell", 32, 6, ["sse2", "avx", "avx2", "fma"]),
        ("x86-64", 16, 6, ["sse2"]),
    ],
)
def test_the_sums_of_a_tile_stay_in_registers(cpu, vector_bytes, rows, features, dtype, tmp_path):
    program = ANOTHER.format(cpu=cpu, features=dict.fromkeys(features, True)) + LOOPS.format(dtype=dtype)
    found = json.loads(run(program, tmp_path))
    assert (found["rows"], found["bytes"]) == (rows, vector_bytes)
    whole = [stack for sums, stack in found["loops"] if sums == 2 * rows]
    assert whole, "no loop has as many multiply-adds as a whole tile"
    assert [] in whole, f"each loop of a whole tile keeps something on the stack: {whole}"
    assert {sums for sums, _ in found["loops"]} >= {2 * r for r in range(1, rows + 1)}


def has_arm():
    binding = llvm.binding()
    binding.initialize_all_targets()
    try:
        return bool(binding.Target.from_triple("aarch64-unknown-linux-gnu"))
    except RuntimeError:
        return False


@pytest.mark.skipif(not has_arm(), reason="LLVM was built without this processor")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_sums_of_a_tile_stay_in_registers_on_arm_and_no_lane_branches(dtype, tmp_path):
    found = json.loads(run(ARM.format(dtype=dtype), tmp_path))
    assert (found["rows"], found["bytes"]) == (8, 16)
    tiles = [(sums, odd) for sums, odd in found["loops"] if sums <= 16 and not odd]
    assert {sums for sums, _ in tiles} >= {2 * r for r in range(1, 9)} | {1, 3, 5, 7}
    assert [] in [odd for sums, odd in found["loops"] if sums == 16]


@pytest.mark.skipif(not X86, reason="narrower vectors of another architecture are not asked for")
@pytest.mark.parametrize("vector_bytes", [32, 16])
def test_results_with_narrower_vectors(vector_bytes, tmp_path):
    known = host.features()
    wider = ("avx512",) if vector_bytes == 32 else ("avx", "fma", "f16c", "vaes", "vpclmul", "xop")
    if vector_bytes == 32 and not known.get("avx2"):
        pytest.skip("this processor has no vectors of 32 bytes")
    features = {name: has and not name.startswith(wider) for name, has in known.items()}
    program = ANOTHER.format(cpu=llvm.binding().get_host_cpu_name(), features=features)
    run(program + RESULTS.format(folder=str(Path(__file__).parent), vector_bytes=vector_bytes), tmp_path)
