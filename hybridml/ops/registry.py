"""One row per op: everything that is ever known about an operation stands in its `Op`.

The public function, the method on `Tensor`, the traced node, the gradient, the shape rule, the kernel text for both targets and
the tests are all derived from the row. When another file would need to know an op's name, a field is missing here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hybridml.ops.spec import Scalar, TensorSpec


class Kind(enum.Enum):
    """What the compiler may do with an op."""

    ELEMENTWISE = "elementwise"  # one scalar text, applied under broadcasting
    REDUCTION = "reduction"  # identity and combine over axes
    VIEW = "view"  # no arithmetic: another way to index the same buffer
    INDEX = "index"  # moves data: gather, scatter, concatenate, pad
    EXTERN = "extern"  # a provider's routine: matrix product, sort
    RANDOM = "random"  # elementwise over a counter
    CONTROL = "control"  # sub-graphs are attributes
    EFFECT = "effect"  # must run, in program order


class Saves(enum.Flag):
    """What a gradient rule reads besides shapes, so that the tape can let go of the rest."""

    NOTHING = 0
    INPUTS = enum.auto()
    OUTPUT = enum.auto()
    BOTH = INPUTS | OUTPUT


class Promote(enum.Enum):
    """How operands of different dtypes meet, before the op sees them."""

    NO = "no"
    SAME = "same"  # to their common dtype
    FLOAT = "float"  # to their common dtype, integers to the default float


@dataclass(frozen=True)
class Reduce:
    """A reduction's algebra.

    `identity(dtype)` is the value of an empty reduction, or None where there is none (max of nothing). `combine` is scalar text
    over {0} (accumulator) and {1} (element). `reassociate` lets the compiler split a float sum into lanes.
    """

    identity: Callable[[np.dtype], Scalar | None]
    combine: str
    reassociate: bool = True


@dataclass(frozen=True)
class Layout:
    """Where the elements of a view lie in its buffer, in elements: `offset + sum(index * stride)`."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @staticmethod
    def contiguous(shape: tuple[int, ...]) -> Layout:
        strides, step = [], 1
        for d in reversed(shape):
            strides.append(step)
            step *= max(d, 1)
        return Layout(tuple(shape), tuple(reversed(strides)))

    @property
    def is_contiguous(self) -> bool:
        """True when the elements lie densely in row-major order (axes of size 1 may have any stride)."""
        step = 1
        for d, s in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if d != 1 and s != step:
                return 0 in self.shape
            step *= d
        return True


@dataclass(frozen=True)
class Sample:
    """One way to call an op in tests. Float arrays are recast to each dtype under test; `kwargs` go to the public function."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    differentiable: bool = True
    label: str = ""


SampleMaker = Callable[[np.random.Generator], Iterable[Sample]]
SpecOrScalar = TensorSpec | Scalar


@dataclass(frozen=True, eq=False)
class Op:
    """One row of the registry.

    infer     specs (or weak scalars) and attributes -> spec, or a tuple of specs; raises ShapeError or DTypeError
    eager     (xp, *arrays, **attrs) -> array or tuple; xp is numpy or cupy
    vjps      one rule a positional operand, `(g, out, *operands, **attrs) -> gradient of that operand`, written in public ops;
              None for an operand without gradient. A gradient of the operand's broadcast shape is summed back by the caller.
    saves     what the vjps read besides shapes and dtypes
    promote   how operands of different dtypes meet
    fixed     how many leading operands keep their own dtype in that (a condition, indices)
    scalar    kernel text of one element over {0}, {1}...; {out} is the output dtype's constructor. A function
              (operand dtypes, output dtype, attrs) -> text where the text depends on them
    reduce    the algebra of a reduction
    view      (Layout, **attrs) -> Layout, or None where only a copy can do it
    expand    the op written in simpler public ops, for the compiler only
    neutral   {operand number: scalar} that leaves the other operand as it is (x + 0, x * 1)
    involution  True if applying the op twice gives the operand back
    flags     names of the attributes that say "operand i is transposed": the compiler turns transposes into them
    ufunc     the NumPy ufunc that is the whole of `eager`, where there is one: the fast path of operators
    operator  the Python operator's name ("add" for __add__ and __radd__)
    method    True if tensors have a method of this name
    samples   calls for the tests
    """

    name: str
    kind: Kind
    infer: Callable[..., Any]
    eager: Callable[..., Any]
    vjps: tuple[Callable[..., Any] | None, ...] | None = None
    saves: Saves = Saves.NOTHING
    promote: Promote = Promote.SAME
    fixed: int = 0
    scalar: str | Callable[..., str] | None = None
    reduce: Reduce | None = None
    view: Callable[..., Layout | None] | None = None
    expand: Callable[..., Any] | None = None
    neutral: dict[int, Scalar] = field(default_factory=dict)
    involution: bool = False
    flags: tuple[str, ...] = ()
    ufunc: Any = None
    operator: str | None = None
    method: bool = False
    samples: SampleMaker | None = None
    doc: str = ""

    def __repr__(self) -> str:
        return f"<op {self.name}>"


OPS: dict[str, Op] = {}
PUBLIC: dict[str, Callable[..., Any]] = {}
METHODS: dict[str, Callable[..., Any]] = {}


def register(op: Op) -> Op:
    """Add a row; its name must be new."""
    if op.name in OPS:
        raise ValueError(f"op {op.name!r} is registered twice")
    OPS[op.name] = op
    return op


def public(op: Op) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: this function is how people call `op`."""

    def attach(f: Callable[..., Any]) -> Callable[..., Any]:
        f.op = op  # type: ignore[attr-defined]
        f.__doc__ = f.__doc__ or op.doc
        PUBLIC[f.__name__] = f
        if op.method:
            METHODS[f.__name__] = f
        return f

    return attach


def composite(*, method: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: a public function written in other public ops. It has no row, and the compiler makes it fast by fusing it."""

    def attach(f: Callable[..., Any]) -> Callable[..., Any]:
        PUBLIC[f.__name__] = f
        if method:
            METHODS[f.__name__] = f
        return f

    return attach
