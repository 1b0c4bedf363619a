"""Truth and bits: logical and bitwise operations, and tests on floats."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.ops import infer
from hybridml.ops.door import call
from hybridml.ops.elementwise import astype, documented, elementwise
from hybridml.ops.registry import Kind, Op, Promote, Sample, SampleMaker, public, register
from hybridml.ops.samples import unary_samples

# Logical: whatever is not zero is true


def _truth_samples(n: int) -> SampleMaker:
    def make(rng: np.random.Generator) -> Any:
        for shape in ((3, 5), (7,), (), (0, 3)):
            yield Sample(
                tuple([np.round(rng.uniform(-1, 1, shape)) for _ in range(n)]),
                differentiable=False,
                label=f"{shape}",
            )
        if n == 2:
            yield Sample(
                (np.array([[True], [False]]), np.array([True, False])),
                differentiable=False,
                label="truth table",
            )

    return make


def _logical(name: str, text: str, ufunc: Any, doc: str, example: str) -> Any:
    doc = documented(name, doc, example)
    op = register(Op(
        name, Kind.ELEMENTWISE, infer=infer.only("b"), eager=lambda xp, *xs: getattr(xp, ufunc.__name__)(*xs), scalar=text,
        ufunc=ufunc, doc=doc, samples=_truth_samples(ufunc.nin),
    ))  # fmt: skip
    if ufunc.nin == 1:

        def f(x: Any, /) -> Any:
            return call(op, astype(x, dtypes.bool_))
    else:

        def f(x: Any, y: Any, /) -> Any:  # type: ignore[misc]
            return call(op, astype(x, dtypes.bool_), astype(y, dtypes.bool_))

    f.__name__ = f.__qualname__ = name
    f.__module__, f.__doc__ = __name__, doc
    return public(op)(f)


logical_and = _logical(
    "logical_and",
    "{0} & {1}",
    np.logical_and,
    "True where x and y both are.",
    "[True, True], [True, False] -> [True, False]",
)
logical_or = _logical(
    "logical_or",
    "{0} | {1}",
    np.logical_or,
    "True where x or y is.",
    "[True, False], [False, False] -> [True, False]",
)
logical_xor = _logical(
    "logical_xor",
    "{0} ^ {1}",
    np.logical_xor,
    "True where exactly one of x and y is.",
    "[True, True], [True, False] -> [False, True]",
)
logical_not = _logical(
    "logical_not", "not {0}", np.logical_not, "True where x is not.", "[True, False] -> [False, True]"
)

# Bits


def _bit_samples(n: int, high: int = 100) -> SampleMaker:
    def make(rng: np.random.Generator) -> Any:
        for shape in ((3, 5), (7,), (), (0, 3)):
            args = [rng.integers(0, 100, shape), *[rng.integers(0, high, shape) for _ in range(n - 1)]]
            yield Sample(tuple(args), differentiable=False, label=f"{shape}")
        if n == 2:
            yield Sample(
                (rng.integers(0, 100, (3, 1)), rng.integers(0, high, 4)),
                differentiable=False,
                label="broadcast",
            )
            yield Sample((rng.integers(0, 100, 4), 3), differentiable=False, label="Python int")

    return make


BITS = infer.only("iub")

bitwise_and = elementwise(
    "bitwise_and", "{0} & {1}", np.bitwise_and, "The bits set in both integers (or bools).", "[6, 3], 5 -> [4, 1]", infer=BITS,
    operator="and", samples=_bit_samples(2),
)  # fmt: skip
bitwise_or = elementwise(
    "bitwise_or", "{0} | {1}", np.bitwise_or, "The bits set in either integer (or bool).", "[6, 3], 5 -> [7, 7]", infer=BITS,
    operator="or", samples=_bit_samples(2),
)  # fmt: skip
bitwise_xor = elementwise(
    "bitwise_xor", "{0} ^ {1}", np.bitwise_xor, "The bits set in exactly one integer (or bool).", "[6, 3], 5 -> [3, 6]",
    infer=BITS, operator="xor", samples=_bit_samples(2),
)  # fmt: skip
bitwise_invert = elementwise(
    "bitwise_invert", lambda operands, out, **_: "not {0}" if out == dtypes.bool_ else "~{0}", np.invert,
    "Every bit of the integer (or bool) flipped.", "[0, 5] -> [-1, -6]", infer=BITS, operator="invert", samples=_bit_samples(1),
)  # fmt: skip
bitwise_left_shift = elementwise(
    "bitwise_left_shift", "{0} << {1}", np.left_shift, "The bits of x moved up by y places.", "[1, 3], 2 -> [4, 12]",
    infer=infer.only("iu"), operator="lshift", samples=_bit_samples(2, 8),
)  # fmt: skip
bitwise_right_shift = elementwise(
    "bitwise_right_shift", "{0} >> {1}", np.right_shift, "The bits of x moved down by y places; the sign stays.",
    "[12, -8], 2 -> [3, -2]", infer=infer.only("iu"), operator="rshift", samples=_bit_samples(2, 8),
)  # fmt: skip

# Tests on floats. The texts need no constants: inf - inf and NaN are the only values that differ from themselves


def _test(name: str, text: str, ufunc: Any, doc: str, example: str) -> Any:
    return elementwise(
        name,
        text,
        ufunc,
        doc,
        example,
        infer=infer.predicate,
        promote=Promote.NO,
        samples=unary_samples(-3, 3, special=True),
    )


isnan = _test("isnan", "{0} != {0}", np.isnan, "True where x is NaN.", "[float('nan'), 1.] -> [True, False]")
isinf = _test(
    "isinf",
    "({0} == {0}) & ({0} - {0} != {0} - {0})",
    np.isinf,
    "True where x is an infinity.",
    "[float('-inf'), 1.] -> [True, False]",
)
isfinite = _test(
    "isfinite",
    "{0} - {0} == {0} - {0}",
    np.isfinite,
    "True where x is neither NaN nor an infinity.",
    "[float('nan'), 1.] -> [False, True]",
)
