"""Two branches, one state: what a variable is after a condition on a tensor.

Each variable's two values are nests. Leaves that are the same Python object either way stay Python values; tensors and numbers
become results of the condition; anything else cannot depend on a tensor, and the error names the variable.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from hybridml import dtypes, pytree
from hybridml.eager.creation import asarray, zeros
from hybridml.eager.dispatch import lift
from hybridml.eager.tensor import Tensor
from hybridml.eager.variable import Variable
from hybridml.errors import DTypeError, ShapeError, SourceLine, TraceError, located
from hybridml.trace.autograph.jumps import RESULT, RETURNED
from hybridml.trace.autograph.slots import UNDEFINED
from hybridml.trace.symbol import SymbolicTensor

Number = (bool, int, float)


def is_number(x: Any) -> bool:
    return type(x) in Number


def is_data(x: Any) -> bool:
    """True for what can be a tensor of the graph."""
    return isinstance(x, (Tensor, *Number)) or hasattr(x, "__array__")


def same(a: Any, b: Any) -> bool:
    """The same Python value: never true of two tensors."""
    if a is b:
        return True
    if type(a) is not type(b) or isinstance(a, Tensor) or hasattr(a, "__array__"):
        return False
    try:
        return bool(a == b)
    except Exception:  # whatever a user's __eq__ does
        return False


def leaves_of(value: Any) -> tuple[list[Any], pytree.Structure]:
    """Leaves, with variables read."""
    leaves, structure = pytree.flatten(value)
    return [x.value() if isinstance(x, Variable) else x for x in leaves], structure


def describe(x: Any) -> str:
    if x is UNDEFINED:
        return "not defined"
    if is_data(x) and not is_number(x):
        return str(lift(x).spec)
    text = repr(x)
    return f"{type(x).__name__} {text if len(text) < 40 else '...'}"


def shown(name: str) -> str:
    return "the returned value" if name == RESULT else f"`{name}`"


def paths(name: str, structure: pytree.Structure) -> list[str]:
    if structure.node is None:
        return [name]
    labels = zip(pytree.labels(structure), structure.children, strict=True)
    return [p for label, child in labels for p in paths(name + label, child)]


@dataclass
class Side:
    """One branch: what it is called in errors, and the state it left."""

    label: str
    values: dict[str, Any]

    @property
    def returned(self) -> bool:
        return self.values.get(RETURNED) is True

    @property
    def jumped(self) -> bool:
        """What follows in this block never runs after this branch."""
        return any(
            v is True
            for n, v in self.values.items()
            if n.startswith(("ag__return", "ag__break", "ag__continue"))
        )


@dataclass
class Joined:
    """A variable after the condition: its nest, with a pair of tensors, a Python value, or nothing at all."""

    structure: pytree.Structure | None = None
    leaves: list[Any] = field(default_factory=list)  # Pair, or a value
    undefined: bool = False


@dataclass
class Pair:
    a: Tensor
    b: Tensor


def join(name: str, a: Side, b: Side, source: SourceLine | None, filled: Collection[str] = ()) -> Joined:
    """The two values of one variable made one. Raises where they cannot be.

    Where one side has no value, anything does if nobody will look: what follows never runs after that side, or (`filled`) the
    variable is set again unless the other side's jump was taken."""
    x, y = a.values[name], b.values[name]
    if x is UNDEFINED or y is UNDEFINED:
        if x is y:
            return Joined(undefined=True)
        blank = a if x is UNDEFINED else b
        if name == RESULT or blank.jumped or name in filled:
            return _filled(y if x is UNDEFINED else x, x is UNDEFINED)
        return Joined(undefined=True)
    (xs, left), (ys, right) = leaves_of(x), leaves_of(y)
    if name != RESULT and a.returned != b.returned and not _agree(xs, left, ys, right):
        return _filled(y if a.returned else x, a.returned)
    if left != right:
        raise TraceError(located(_nest_differs(name, x, y, left, right, a, b), source))
    merged = [_leaf(path, p, q, a, b, source) for path, p, q in zip(paths(name, left), xs, ys, strict=True)]
    return Joined(left, merged)


def _agree(xs: list[Any], left: Any, ys: list[Any], right: Any) -> bool:
    if left != right:
        return False
    for p, q in zip(xs, ys, strict=True):
        if not same(p, q):
            if not (is_data(p) and is_data(q)):
                return False
            p, q = meet(p, q)
            if p.spec != q.spec:
                return False
    return True


def _filled(value: Any, first: bool) -> Joined:
    """A value that is never read on the other side, where anything of its form will do."""
    leaves, structure = leaves_of(value)
    out: list[Any] = []
    for x in leaves:
        if not is_data(x) or is_number(x):
            out.append(x)
            continue
        x = lift(x)
        nothing = zeros(x.shape, dtype=x.dtype)
        out.append(Pair(nothing, x) if first else Pair(x, nothing))
    return Joined(structure, out)


def meet(a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Two leaves as tensors; a Python number takes the dtype of what it stands beside where that loses nothing."""
    if is_number(a) and is_number(b):
        dtype = dtypes.promote([], [a, b])
        return asarray(a, dtype=dtype), asarray(b, dtype=dtype)
    return weak(a, b), weak(b, a)


def weak(a: Any, beside: Any) -> Tensor:
    if is_number(a):
        other = lift(beside).dtype
        if dtypes.promote([other], [a]) == other:
            return asarray(a, dtype=other)
    return lift(a)


def _leaf(path: str, p: Any, q: Any, a: Side, b: Side, source: SourceLine | None) -> Any:
    if same(p, q):
        return p
    if not (is_data(p) and is_data(q)):
        raise TraceError(
            located(
                f"{shown(path)} is {describe(p)} after {a.label} and {describe(q)} after {b.label}. Which of them runs depends on a "
                "tensor, so only tensors and numbers can differ: compute both and choose with hml.where, or make the condition a "
                "Python value",
                source,
            )
        )
    s, t = meet(p, q)
    if s.shape != t.shape:
        raise ShapeError(
            located(
                f"{shown(path)} is {s.spec} after {a.label} and {t.spec} after {b.label}; both must have one shape: reshape one, or "
                f"stretch it with hml.broadcast_to({path if path.isidentifier() else 'x'}, {max(s.shape, t.shape, key=len)})",
                source,
            )
        )
    if s.dtype != t.dtype:
        raise _dtype_error(s, t)(
            located(
                f"{shown(path)} is {s.spec} after {a.label} and {t.spec} after {b.label}; both must have one dtype: cast one, e.g. "
                f".astype(hml.{dtypes.promote([s.dtype, t.dtype]).name})",
                source,
            )
        )
    return Pair(s, t)


class Rises(DTypeError):
    """A Python number, which a loop made a tensor, meets another dtype: the loop can start it as that. `value` is the symbol's."""

    value: Any
    dtype: Any


def _dtype_error(s: Tensor, t: Tensor) -> Any:
    for number, other in ((s, t), (t, s)):
        if number.weak and dtypes.category(number.dtype) <= dtypes.category(other.dtype):
            assert isinstance(number, SymbolicTensor)
            return functools.partial(_rises, number._value, other.dtype)
    return DTypeError


def _rises(value: Any, dtype: Any, message: str) -> Rises:
    error = Rises(message)
    error.value, error.dtype = value, dtype
    return error


def _nest_differs(name: str, x: Any, y: Any, left: Any, right: Any, a: Side, b: Side) -> str:
    if name == RESULT and (x is None or y is None):
        some, none = (b, a) if x is None else (a, b)
        return (
            f"the function returns a value in {some.label} and None in {none.label}. Which of them runs depends on a tensor, so both "
            "must return the same kind of value: return one there too, e.g. hml.zeros_like(...)"
        )
    said = [describe(v) if s.n_leaves == 1 and s.node is None else str(s) for v, s in ((x, left), (y, right))]
    where = (
        "A list cannot grow in one branch only: write into a tensor with hml.where, or use hml.scan"
        if list in (left.node, right.node)
        else "both must have one structure: give it a tensor in both"
    )
    return f"{shown(name)} is {said[0]} after {a.label} and {said[1]} after {b.label}. {where}"
