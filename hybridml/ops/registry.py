"""One row per op: everything that is ever known about an operation stands in its `Op`.

The public function, the method on `Tensor`, the traced node, the gradient, the shape rule, the kernel text for both targets and
the tests are all derived from the row. When another file would need to know an op's name, a field is missing here.
"""

from __future__ import annotations

import enum
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    NUMBER = "number"  # to their common dtype, bools to the default integer
    FLOAT = "float"  # to their common dtype, integers to the default float


@dataclass(frozen=True)
class Reduce:
    """A reduction's algebra.

    `identity(dtype)` is the value of an empty reduction, or None where there is none (max of nothing). `combine` is scalar text
    over {0} (accumulator) and {1} (element). `lanes` names the form that a compiler may spread over vector lanes for floats:
    "add", "multiply", "maximum" or "minimum".
    """

    identity: Callable[[np.dtype], Scalar | None]
    combine: str
    lanes: str | None = None


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
    def matrix(self) -> tuple[bool, int] | None:
        """(stored transposed, leading dimension) if the last two axes are a matrix that a GEMM can read, else None."""
        (m, n), (row, column) = self.shape[-2:], self.strides[-2:]
        if (column == 1 or n == 1) and (row >= n or m == 1):
            return False, max(row, n, 1) if m != 1 else max(n, 1)
        if (row == 1 or m == 1) and (column >= m or n == 1):
            return True, max(column, m, 1) if n != 1 else max(m, 1)
        return None

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


class EachOperand:
    """The `vjps` of an op that takes any number of operands: one rule, told which operand it is asked for.

    `rule(i, g, out, *operands, **attrs)` is the gradient of operand i. Indexing and iteration work as on a tuple without end.
    """

    def __init__(self, rule: Callable[..., Any]) -> None:
        self._rule = rule

    def __getitem__(self, i: int) -> Callable[..., Any]:
        return functools.partial(self._rule, i)

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return map(self.__getitem__, itertools.count())


@dataclass(frozen=True, eq=False)
class Op:
    """One row of the registry.

    infer     specs (or weak scalars) and attributes -> spec, or a tuple of specs; raises ShapeError or DTypeError
    eager     (xp, *arrays, **attrs) -> array or tuple; xp is numpy or cupy
    vjps      one rule a positional operand, `(g, out, *operands, **attrs) -> gradient of that operand`, written in public ops;
              None for an operand without gradient. A gradient of the operand's broadcast shape is summed back by the caller.
    pullback  in place of `vjps` where the gradients of all operands are one computation: (attrs, operands, results) -> rule, where
              rule(gradients of the results, which operands want one) -> gradients of the operands
    saves     what the vjps read besides shapes and dtypes
    promote   how operands of different dtypes meet
    fixed     how many leading operands keep their own dtype in that (a condition, indices)
    scalar    kernel text of one element over {0}, {1}...; {out} is the output dtype's constructor, {index} the element's index
              along the attribute `axis`, or its number in row-major order where there is none. A function m_name is the one for
              the dtype of the operands after `fixed`. A RANDOM row's text is over {seed} and {counter}, the two words of its
              operand, and says all names in full. A callable (operand dtypes, output dtype, **attrs) -> text where the text
              depends on them
    reduce    the algebra of a reduction
    view      (Layout, **attrs) -> Layout, or None where only a copy can do it
    expand    the op written in simpler public ops, for the compiler only; None from it where the op had better stay
    neutral   {operand number: scalar} that leaves the other operand as it is (x + 0, x * 1)
    involution  True if applying the op twice gives the operand back
    provider  the name of the native routine that the compiler keeps for the op ("gemm", "take")
    reads     what layouts the native routine takes its operands in; others are copied before. None: any
    batch     what `hml.vmap` does, where the kind's rule (ops/batching.py) does not fit: (operands, which of them have the examples along
              a first axis, number of examples, attrs) -> results with the examples along their first axis, in public ops
    indexes   (operand specs, attrs) -> (operand number, axis, size) of each operand that holds indices into an axis: those that are
              constants of a trace are looked at while tracing, whether or not anybody uses the result
    flags     names of the attributes that say "operand i is transposed": the compiler turns transposes into them
    ufunc     the NumPy ufunc that is the whole of `eager`, where there is one: the fast path of operators
    operator  the Python operator's name ("add" for __add__ and __radd__)
    method    True if tensors have a method of this name
    samples   calls for the tests
    reference the public function again in NumPy, written independently of `eager`, for the tests; the ufunc where there is one
    """

    name: str
    kind: Kind
    infer: Callable[..., Any]
    eager: Callable[..., Any]
    vjps: tuple[Callable[..., Any] | None, ...] | EachOperand | None = None
    pullback: Callable[..., Any] | None = None
    saves: Saves = Saves.NOTHING
    promote: Promote = Promote.SAME
    fixed: int = 0
    scalar: str | Callable[..., str] | None = None
    reduce: Reduce | None = None
    view: Callable[..., Layout | None] | None = None
    expand: Callable[..., Any] | None = None
    neutral: dict[int, Scalar] = field(default_factory=dict)
    involution: bool = False
    provider: str | None = None
    reads: Callable[[Layout], bool] | None = None
    batch: Callable[..., Any] | None = None
    indexes: Callable[[Sequence[Any], dict[str, Any]], Iterable[tuple[int, int, int]]] | None = None
    flags: tuple[str, ...] = ()
    ufunc: Any = None
    operator: str | None = None
    method: bool = False
    samples: SampleMaker | None = None
    reference: Callable[..., Any] | None = None
    doc: str = ""

    @functools.cached_property
    def kept(self) -> str:
        """The NumPy kinds of dtypes that operands which share one keep; "" where each operand keeps its own."""
        return {Promote.NO: "", Promote.SAME: "biuf", Promote.NUMBER: "iuf", Promote.FLOAT: "f"}[self.promote]

    @functools.cached_property
    def widened(self) -> tuple[np.dtype, ...]:
        """The dtypes of half precision for which `eager` computes in float32 and rounds once (`ops.halves.in_single`)."""
        return getattr(self.eager, "widened", ())

    @functools.cached_property
    def direct(self) -> Callable[..., Any]:
        """`eager` for operands of which none is of half precision: without the call that looks for one."""
        found: Callable[..., Any] = getattr(self.eager, "direct", self.eager)
        return found

    @functools.cached_property
    def reads_inputs(self) -> bool:
        return Saves.INPUTS in self.saves

    @functools.cached_property
    def reads_output(self) -> bool:
        return Saves.OUTPUT in self.saves

    def __repr__(self) -> str:
        return f"<op {self.name}>"


OPS: dict[str, Op] = {}
PUBLIC: dict[str, Callable[..., Any]] = {}
METHODS: dict[str, Callable[..., Any]] = {}
ATTRIBUTES: dict[str, Callable[..., Any]] = {}
NAMESPACES: dict[str, dict[str, Callable[..., Any]]] = {}


def _names(namespace: str) -> dict[str, Callable[..., Any]]:
    return NAMESPACES.setdefault(namespace, {}) if namespace else PUBLIC


def register(op: Op) -> Op:
    """Add a row; its name must be new."""
    if op.name in OPS:
        raise ValueError(f"op {op.name!r} is registered twice")
    OPS[op.name] = op
    return op


def public(op: Op, *, namespace: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: this function is how people call `op`, in the package or in one of its namespaces."""

    def attach(f: Callable[..., Any]) -> Callable[..., Any]:
        f.op = op  # type: ignore[attr-defined]
        f.__doc__ = f.__doc__ or op.doc
        _names(namespace)[f.__name__] = f
        if op.method:
            METHODS[f.__name__] = f
        return f

    return attach


class _Composer:
    """How composites are called. The eager layer puts in what plays calls that came before."""

    run: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
    run_direct: Callable[[Callable[..., Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


composer = _Composer()


def composite(
    *,
    method: bool | str = False,
    attribute: str = "",
    namespace: str = "",
    direct: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: a public function written in other public ops. It has no row, and the compiler makes it fast by fusing it.

    What it does depends on nothing but its arguments, and on tensors only by shape and dtype: eager calls are recorded and played again.

    method     tensors have a method of this name (True: the function's own)
    attribute  tensors have a property of this name
    namespace  where people find it ("nn", "random"); "" is the package itself
    direct     the same on bare arrays, where the array library has it as one cheap call: arrays in the places of tensors -> array, or
               NotImplemented for arguments that it does not know
    """

    def attach(f: Callable[..., Any]) -> Callable[..., Any]:
        if direct is None:

            @functools.wraps(f)
            def composed(*args: Any, **kwargs: Any) -> Any:
                return composer.run(f, args, kwargs)
        else:

            @functools.wraps(f)
            def composed(*args: Any, **kwargs: Any) -> Any:
                return composer.run_direct(direct, f, args, kwargs)

        _names(namespace)[f.__name__] = composed
        if method:
            METHODS[method if isinstance(method, str) else f.__name__] = composed
        if attribute:
            ATTRIBUTES[attribute] = composed
        return composed

    return attach
