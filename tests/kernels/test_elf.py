"""Linking without LLVM: the same functions as by LLVM's linker, refusals, and a second process that loads no LLVM."""

import ctypes
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from hybridml.kernels import elf, jit, llvm
from hybridml.kernels.translate import translate
from hybridml.testing.kernels import elementwise

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="links objects of Linux on x86-64"
)

EXPRESSIONS = {
    "arithmetic": "x0 * x0 + x1",
    "constants": "m.m_exp_f32(x0) + m.m_tanh_f32(x1)",
    "tables": "m.m_sin_f32(x0 * x1)",
}


def code_of(expression):
    text = elementwise(expression, ["float32", "float32"], "float32")
    translated = translate(text, "written", jit.KERNEL, "written", "written.py")
    return llvm.compile_module(translated.text, translated.loops)


def called(address, x, y):
    out = np.zeros_like(x)
    words = np.array([a.ctypes.data for a in (x, y, out)], np.int64)
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(address)(words.ctypes.data, 0, x.size)
    return out


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_same_bits_as_by_llvms_linker(name):
    code = code_of(EXPRESSIONS[name])
    own, theirs = elf.link("written", code), llvm.link_by_engine("written", (), code)
    assert own and theirs and own != theirs
    x = np.linspace(-9, 9, 1003, dtype=np.float32)
    y = x[::-1].copy()
    np.testing.assert_array_equal(called(own, x, y), called(theirs, x, y))


def test_a_library_function_is_found():
    text = "declare double @sin(double)\ndefine double @f(double %x) {\n %y = call double @sin(double %x)\n ret double %y\n}"
    address = elf.link("f", llvm.compile_module(text))
    assert address
    function = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(address)
    assert function(0.5) == pytest.approx(np.sin(0.5), rel=1e-15)


def test_what_only_a_full_linker_understands_is_left_to_llvm():
    missing = (
        "declare double @nobody_has_this(double)\n"
        "define double @f(double %x) {\n %y = call double @nobody_has_this(double %x)\n ret double %y\n}"
    )
    assert elf.link("f", llvm.compile_module(missing)) is None
    writable = "@counter = global i64 0\ndefine void @f() {\n store i64 1, ptr @counter\n ret void\n}"
    code = llvm.compile_module(writable)
    assert elf.link("f", code) is None
    address = llvm.link("f", (), code)
    assert address
    ctypes.CFUNCTYPE(None)(address)()


def test_damaged_objects_and_other_formats_are_refused():
    code = code_of(EXPRESSIONS["arithmetic"])
    assert elf.link("another", code) is None
    assert elf.link("written", b"\xcf\xfa\xed\xfe" + code[4:]) is None  # Mach-O
    assert elf.link("written", code[:18] + b"\xb7\x00" + code[20:]) is None  # for AArch64
    for length in range(0, len(code) - 64, 97):
        assert elf.link("written", code[:length]) is None


SECOND = """
import sys
import numpy as np
import hybridml as hml

w = hml.Variable(np.ones((40, 30), np.float32))

@hml.function
def step(x):
    with hml.GradientTape() as tape:
        loss = hml.mean(hml.tanh(x @ w) ** 2)
    hml.optim.SGD(0.1).apply_gradients([(tape.gradient(loss, w), w)])
    return loss

x = hml.ones((50, 40))
step(x)
stats = step.get_concrete_function(x).stats
print(stats.compiled, stats.loaded_from_disk > 0, sorted({"llvmlite", "numba"} & set(sys.modules)))
"""


def test_a_second_process_loads_neither_llvm_nor_numba(tmp_path):
    script = tmp_path / "second.py"
    script.write_text(SECOND)
    env = os.environ | {"HYBRIDML_CACHE_DIR": str(tmp_path / "cache")}
    for expected in (None, "0 True []"):
        done = subprocess.run(
            [sys.executable, str(script)], env=env, capture_output=True, text=True, check=True
        )
        assert expected is None or done.stdout.strip() == expected
