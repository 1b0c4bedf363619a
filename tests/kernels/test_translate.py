"""The translator against Numba: the same text, the same bits."""

from __future__ import annotations

import ctypes
import re
import textwrap

import numpy as np
import pytest

from hybridml.kernels import jit, llvm, numba_compiler
from hybridml.kernels.targets import scalar_functions
from hybridml.kernels.translate import Unsupported, translate
from hybridml.testing import kernels

INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float32", "float64"]


def numbers(dtype: str, n: int = 257, seed: int = 0) -> np.ndarray:
    """Ordinary numbers and the awkward ones of a dtype, in an order of their own for each seed."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.random(n) < 0.5
    if dtype.startswith("f"):
        special = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, 3e38, 0.1], dtype)
        return rng.permutation(np.concatenate([special, (rng.standard_normal(n) * 50).astype(dtype)]))
    info = np.iinfo(dtype)
    special = np.array([0, 1, 2, 3, info.max, info.max - 1, info.min, info.min + 1], dtype)
    small = rng.integers(max(info.min, -100), 100, n).astype(dtype)
    return rng.permutation(np.concatenate([special, small]))


def check(expression: str, inputs: list[str], output: str) -> None:
    """Both compilers fill the same array, bit by bit."""
    with np.errstate(all="ignore"):
        arrays = [numbers(d, seed=k)[:257] for k, d in enumerate(inputs)]  # floats have more awkward ones
    got, expected = [kernels.apply(expression, *arrays, out=output, by=by) for by in ("translator", "numba")]
    assert got.tobytes() == expected.tobytes(), expression


ARITHMETIC = [
    ("x0 + x1 * x0 - x1", FLOATS),
    ("-x0 / x1", FLOATS),
    ("x0 if x0 < x1 else x1 + x1", FLOATS),
    ("(x0 & x1) | (x0 ^ ~x1)", INTEGERS),
    ("(x0 // x1) ^ (x0 % x1)", ["int8", "int32", "uint8", "uint32", "uint64"]),
    ("x0 // 7 + x0 % -3 if x1 > 5 else x0 // 2", ["int8", "int16", "int32"]),
    ("(x0 >> 3) + (x1 << 2)", ["int8", "int32", "uint8", "uint64"]),
    ("min(x0, x1, 5) + max(x0, 3)", ["int8", "int32"]),
    ("x0 if (x0 < x1) != (x1 <= 3) and not x0 == 4 or x1 > 90 else x1", INTEGERS),
    ("m.i64(-3 < x0 < x1)", ["int8", "int64", "float32"]),
    ("m.u8(x0) + m.i16(x1)", INTEGERS),
    ("m.f32(x0) * m.f32(0.5) + m.f32(x1)", INTEGERS),
    ("m.f64(x0) + 2.0**-3 * (1 << 4)", INTEGERS),
    ("x0 + x1", INTEGERS[:3] + INTEGERS[4:7]),
    ("-x0 - x1", INTEGERS[:3]),
    ("i % 5 * x0", ["int32"]),
]


@pytest.mark.parametrize(("expression", "dtypes"), ARITHMETIC, ids=[e for e, _ in ARITHMETIC])
def test_arithmetic(expression: str, dtypes: list[str]) -> None:
    for dtype in dtypes:
        check(expression, [dtype, dtype], dtype if dtype in FLOATS or "." not in expression else "float64")


MIXED = [
    ("x0 < x1", ["int64", "uint64"], "bool"),
    ("x0 >= x1", ["uint64", "int32"], "bool"),
    ("x0 == x1", ["int8", "uint64"], "bool"),
    ("x0 != x1", ["uint32", "int64"], "bool"),
    ("x0 + x1", ["int64", "uint64"], "int64"),
    ("x0 * x1", ["float32", "float64"], "float64"),
    ("x0 < x1", ["float32", "float64"], "bool"),
    ("x0 + x1", ["float64", "int64"], "float64"),
    ("x0 != 0", ["float32"], "bool"),
    ("x0 & x1", ["bool", "bool"], "bool"),
    ("x0 + x1", ["bool", "bool"], "int64"),
    ("(x0 + x1) != 0", ["bool", "int8"], "bool"),
    ("x0 if x1 else not x0", ["bool", "float32"], "bool"),
    ("m.u16(m.i8(x0) >> 1)", ["int64"], "uint16"),
]


@pytest.mark.parametrize(("expression", "inputs", "output"), MIXED)
def test_numbers_of_different_types(expression: str, inputs: list[str], output: str) -> None:
    check(expression, inputs, output)


SCALAR_FUNCTIONS = sorted(
    name
    for name in vars(scalar_functions("cpu"))
    if re.fullmatch(r"m_\w+_(f32|f64|i32|u8|i64)", name) and "random" not in name and "normal" not in name
)


@pytest.mark.parametrize("family", sorted({name.rsplit("_", 1)[0] for name in SCALAR_FUNCTIONS}))
def test_scalar_functions(family: str) -> None:
    for name in SCALAR_FUNCTIONS:
        if name.rsplit("_", 1)[0] != family:
            continue
        kind = {"f": "float", "i": "int", "u": "uint"}[name[-3:].strip("_")[0]] + re.findall(r"\d+$", name)[0]
        count = getattr(scalar_functions("cpu"), name).function.__code__.co_argcount
        arguments = ", ".join(f"x{k}" for k in range(count))
        given = "uint" + kind[-2:] if family == "m_uniform" else kind
        check(f"m.{name}({arguments})", [given] * count, kind)


# -- statements --------------------------------------------------------------------------------------------

STATEMENTS = {
    "a loop that stops, and one that skips": """
        total = 0
        for i in range(begin, end):
            if i % 3 == 0:
                continue
            if total > 40:
                break
            total += i
        args[0] = total
    """,
    "loops with steps, one of them downwards": """
        total = 1
        for i in range(end, begin, -2):
            for j in range(0, i, 3):
                total = total * 3 % 1000003 + j
        for i in range(end, begin, -1 - end // 20):
            total += 7 * i
        for i in range(begin, end, 3 + end // 20):
            total += 11 * i
        args[0] = total
    """,
    "while, with two ways out": """
        low, high = begin, end
        while True:
            middle = (low + high) // 2
            if middle * middle > end:
                high = middle
            elif low == middle:
                break
            else:
                low = middle
        while low > 3:
            low -= 4
        args[0] = low * 100 + high
    """,
    "both sides of a condition assign": """
        if end > 10 and begin == 0:
            found = end
        else:
            found = -1
        pair = found, end - found
        first, second = pair
        args[0] = first * 7 + second
        args[1] += found
    """,
    "functions that return early, and several numbers": """
        a, b = divided(end, 7)
        args[0] = a * 100 + b + clipped(end) + clipped(-5)
    """,
    "a condition that must not be computed": """
        found = 0
        for i in range(begin, end):
            if i < 2 and args[i] == 0 or i == 90:
                found += 1
        args[0] = found
    """,
    "a name that changes its type": """
        x = end
        x = f32(x) / f32(3.0)
        x = i64(x * f32(10.0))
        args[0] = x
    """,
    "the value of or": """
        kept = args[1] or (begin >= 0 and end > 3)
        kept = kept and args[2] - 1
        if kept:
            args[0] = 5
        else:
            args[0] = 6
    """,
}
HEADER = """
from hybridml.kernels.language.functions import device
from hybridml.kernels.targets import scalar_functions

m = scalar_functions("cpu")
f32 = m.f32
i64 = m.i64

@device
def divided(x, y):
    return x // y, x % y

@device
def clipped(x):
    if x < 0:
        return 0
    for k in range(10):
        if k * k > x:
            return k
    return 10

def statements(args, begin, end):
"""


@pytest.mark.parametrize("what", STATEMENTS)
def test_statements(what: str) -> None:
    text = HEADER + textwrap.indent(textwrap.dedent(STATEMENTS[what]), "    ")
    code = translate(text, "statements", jit.KERNEL, "statements", "a.py").text
    one = llvm.link("statements", (), llvm.compile_module(code))
    symbol, other, _ = numba_compiler.compile_object(text, "statements", jit.KERNEL, "a.py", "b")
    two = llvm.link(symbol, (), other)
    for end in (0, 1, 13, 100):
        results = []
        for address in (one, two):
            words = np.zeros(128, np.int64)
            assert address
            call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)
            call(words.ctypes.data, 0, end)
            results.append(words.tolist())
        assert results[0] == results[1], (what, end)


@pytest.mark.parametrize(
    "body",
    [
        "args[0] = sum([1, 2])",
        "args[0] = undefined",
        "x = 1\n    for i in range(3):\n        x = f32(2.0)\n    args[0] = x",
        "args[0] = args[0] ** begin",
        "with begin:\n        pass",
        "args[0] = forever(begin)",
        "if begin:\n        inside = 1\n    args[0] = inside",
        "for i in [1, 2]:\n        args[0] = i",
    ],
)
def test_what_is_outside_of_the_language_is_left_to_numba(body: str) -> None:
    text = (
        "import numpy as np\nfrom hybridml.kernels.language.functions import device\nf32 = np.float32\n"
        "@device\ndef forever(x):\n    return forever(x)\n\n"
        f"def kernel(args, begin, end):\n    {body}\n"
    )
    with pytest.raises(Unsupported):
        translate(text, "kernel", jit.KERNEL, "kernel", "kernel.py")
