"""Arithmetic on typed values, by Numba's rules: integers are computed in 64 bits, signed arithmetic is taken never to overflow,
division by zero gives 0, inf or NaN.

Lanes are computed as their elements are; where one of two numbers is lanes, the other one becomes lanes as well.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from hybridml.kernels.language import lanes, types
from hybridml.kernels.language.types import Type
from hybridml.kernels.translate.values import Unsupported, Value, constant

COMPARISONS: dict[type, tuple[str, Callable[[Any, Any], bool]]] = {
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
}
# What is computed here and now where both sides are known, as Python itself does with constants.
_FOLDED: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_PYTHONS = (types.int64, types.float64)  # the types of Python's own numbers
_FLOAT = {ast.Add: "fadd", ast.Sub: "fsub", ast.Mult: "fmul", ast.Div: "fdiv"}
_WRAPPING = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul"}
_BITWISE = {ast.BitAnd: "and_", ast.BitOr: "or_", ast.BitXor: "xor"}


def is_number(x: Any) -> bool:
    return isinstance(x, Value) and bool(x.type.kind)


def element(t: Type) -> Type:
    """The type of one lane's number."""
    return t.of if isinstance(t, types.Lanes) else types.int64 if isinstance(t, types.Along) else t


def varies(t: Type) -> bool:
    """True for a type that has a number in each lane."""
    return isinstance(t, (types.Lanes, types.Along))


def spread(t: Type, *beside: Type) -> Type:
    """A number type, or lanes of it if there are lanes beside it."""
    counts = {u.count for u in beside if isinstance(u, (types.Lanes, types.Along))}
    return types.lanes(t, counts.pop()) if counts else t


def common(a: Type, b: Type) -> Type:
    """The type in which two numbers meet."""
    if a is b and not isinstance(a, types.Along):
        return a
    if varies(a) or varies(b):
        return spread(common(element(a), element(b)), a, b)
    if a.kind == b.kind == "f":
        return types.float64
    if "f" in (a.kind, b.kind):
        if types.float64 in (a, b):
            return types.float64
        raise Unsupported(f"{a} with {b}: a cast is missing")
    return types.uint64 if a.kind == b.kind == "u" else types.int64


def cast(b: Any, v: Value, to: Type) -> Value:
    """`v` as another type; a narrower integer keeps the low bits."""
    t = v.type
    if t is to:
        return v
    if isinstance(to, types.Lanes) and not isinstance(t, types.Lanes):
        return cast(b, _spread(b, v, to.count), to)
    if varies(t) and not varies(to):
        raise Unsupported(f"lanes as one {to}")
    if v.literal is not None and t.kind == "i" and to is types.int64:
        return constant(v.literal)
    if to.kind == "b":
        return Value(to, truth(b, v).llvm)
    if not (t.kind and to.kind):
        raise Unsupported(f"a cast from {t} to {to}")
    if to.kind == "f":
        if t.kind == "f":
            return Value(to, (b.fpext if to.bits > t.bits else b.fptrunc)(v.llvm, to.value))
        return Value(to, (b.sitofp if t.kind == "i" else b.uitofp)(v.llvm, to.value))
    if t.kind == "f":
        return Value(to, (b.fptosi if to.kind == "i" else b.fptoui)(v.llvm, to.value))
    if to.bits == t.bits:
        return Value(to, v.llvm)
    if to.bits < t.bits:
        return Value(to, b.trunc(v.llvm, to.value))
    return Value(to, (b.sext if t.kind == "i" else b.zext)(v.llvm, to.value))


def _spread(b: Any, v: Value, count: int) -> Value:
    """One number as lanes of it, an index along elements as lanes of indices."""
    t = types.lanes(element(v.type), count)
    same = lanes.splat(b, v.llvm, count)
    return Value(t, b.add(same, lanes.numbered(count)) if isinstance(v.type, types.Along) else same)


def truth(b: Any, v: Value) -> Value:
    """Whether a number is not zero, as a bool."""
    if v.type.kind == "b":
        return v
    if isinstance(v.type, types.Along):
        v = _spread(b, v, v.type.count)
    boolean = spread(types.boolean, v.type)
    if v.literal is not None:
        return constant(bool(v.literal))
    if v.type.kind == "f":
        return Value(boolean, b.fcmp_unordered("!=", v.llvm, lanes.number(v.type.value, 0.0)))
    if not v.type.kind:
        raise Unsupported(f"the truth of a {v.type}")
    return Value(boolean, b.icmp_unsigned("!=", v.llvm, lanes.number(v.type.value, 0)))


def unary(b: Any, op: ast.unaryop, v: Value) -> Value:
    if isinstance(op, ast.Not):
        t = truth(b, v)
        return constant(not t.literal) if t.literal is not None else Value(t.type, b.not_(t.llvm))
    if isinstance(op, ast.UAdd):
        return v if v.type.kind == "f" else cast(b, v, _wide(v.type, v.type))
    if isinstance(op, ast.USub) and v.type.kind == "f":
        return Value(v.type, b.fneg(v.llvm))
    if v.type.kind in "fb":
        raise Unsupported(f"{type(op).__name__} of a {v.type}")
    if isinstance(op, ast.USub):
        if v.literal is not None and v.type is types.int64:
            return constant(-v.literal)
        v = cast(b, v, _wide(v.type, v.type))
        return Value(v.type, b.sub(lanes.number(v.type.value, 0), v.llvm, flags=_flags(v.type)))
    v = cast(b, v, _wide(v.type, v.type))
    return Value(v.type, b.not_(v.llvm))


def binary(b: Any, op: ast.operator, x: Value, y: Value) -> Value:
    kind = type(op)
    if kind in _FOLDED and _both_known(x, y):
        try:
            return constant(_FOLDED[kind](x.literal, y.literal))
        except ArithmeticError as error:
            raise Unsupported(str(error)) from error
    along = _along(b, kind, x, y)
    if along is not None:
        return along
    if x.type.kind == "f" or y.type.kind == "f":
        t = common(x.type, y.type)
        if kind not in _FLOAT:
            raise Unsupported(f"{kind.__name__} of floats")
        return Value(t, getattr(b, _FLOAT[kind])(cast(b, x, t).llvm, cast(b, y, t).llvm))
    if kind in _BITWISE:
        t = common(x.type, y.type) if x.type.kind == y.type.kind == "b" else _wide(x.type, y.type)
        return Value(t, getattr(b, _BITWISE[kind])(cast(b, x, t).llvm, cast(b, y, t).llvm))
    if kind in (ast.LShift, ast.RShift):
        t = spread(_wide(element(x.type), element(x.type)), x.type, y.type)
        by = cast(b, y, spread(_wide(element(y.type), element(y.type)), x.type, y.type)).llvm
        x = cast(b, x, t)
        if kind is ast.LShift:
            return Value(t, b.shl(x.llvm, by))
        return Value(t, (b.lshr if t.kind == "u" else b.ashr)(x.llvm, by))
    t = _wide(x.type, y.type)
    x, y = cast(b, x, t), cast(b, y, t)
    if kind in _WRAPPING:
        return Value(t, getattr(b, _WRAPPING[kind])(x.llvm, y.llvm, flags=_flags(t)))
    if varies(t):
        raise Unsupported(f"{kind.__name__} of lanes of integers")
    if kind is ast.FloorDiv:
        return Value(t, _floor_divide(b, t, x, y)[0])
    if kind is ast.Mod:
        return Value(t, _floor_divide(b, t, x, y)[1])
    raise Unsupported(f"{kind.__name__} of integers")


def _along(b: Any, kind: type, x: Value, y: Value) -> Value | None:
    """An index along elements that is moved by one number, which is again such an index; None for everything else."""
    if kind is ast.Add and isinstance(y.type, types.Along):
        x, y = y, x
    if kind not in (ast.Add, ast.Sub) or not isinstance(x.type, types.Along):
        return None
    if varies(y.type) or y.type.kind not in ("i", "u"):
        return None
    moved = getattr(b, _WRAPPING[kind])(x.llvm, cast(b, y, types.int64).llvm, flags=("nsw",))
    return Value(x.type, moved)


def _both_known(x: Value, y: Value) -> bool:
    return x.literal is not None and y.literal is not None and x.type in _PYTHONS and y.type in _PYTHONS


def _wide(a: Type, b: Type) -> Type:
    """The 64-bit type that Numba computes integers in: signed as soon as one of them is (or is a bool)."""
    return spread(types.uint64 if a.kind == b.kind == "u" else types.int64, a, b)


def _flags(t: Type) -> tuple[str, ...]:
    return ("nsw",) if t.kind == "i" else ()


def _floor_divide(b: Any, t: Type, x: Value, y: Value) -> tuple[Any, Any]:
    """Quotient and remainder, rounded downwards; both are 0 where y is 0."""
    zero, one = t.value(0), t.value(1)
    if y.literal:
        divisor = y.llvm
    else:
        is_zero = b.icmp_unsigned("==", y.llvm, zero)
        divisor = b.select(is_zero, one, y.llvm)
    if t.kind == "u":
        quotient, rest = b.udiv(x.llvm, divisor), b.urem(x.llvm, divisor)
    else:
        quotient, rest = b.sdiv(x.llvm, divisor), b.srem(x.llvm, divisor)
        opposite = b.icmp_signed("<", b.xor(rest, divisor), zero)
        down = b.and_(b.icmp_signed("!=", rest, zero), opposite)
        quotient = b.select(down, b.sub(quotient, one), quotient)
        rest = b.select(down, b.add(rest, divisor), rest)
    if y.literal:
        return quotient, rest
    return b.select(is_zero, zero, quotient), b.select(is_zero, zero, rest)


def compare(b: Any, op: ast.cmpop, x: Value, y: Value) -> Value:
    if type(op) not in COMPARISONS:
        raise Unsupported(type(op).__name__)
    sign, fold = COMPARISONS[type(op)]
    if x.literal is not None and y.literal is not None:
        return constant(fold(x.literal, y.literal))
    boolean = spread(types.boolean, x.type, y.type)
    if x.type.kind == "f" or y.type.kind == "f":
        t = spread(_comparable(x, y), x.type, y.type)
        ordered = b.fcmp_unordered if sign == "!=" else b.fcmp_ordered
        return Value(boolean, ordered(sign, cast(b, x, t).llvm, cast(b, y, t).llvm))
    if x.type is y.type and not isinstance(x.type, types.Along):  # narrow ones need no widening
        way = b.icmp_signed if x.type.kind == "i" else b.icmp_unsigned
        return Value(boolean, way(sign, x.llvm, y.llvm))
    a, c = [cast(b, v, spread(_wide(element(v.type), element(v.type)), x.type, y.type)) for v in (x, y)]
    if a.type is c.type:
        way = b.icmp_signed if a.type.kind == "i" else b.icmp_unsigned
        return Value(boolean, way(sign, a.llvm, c.llvm))
    return _compare_signs(b, sign, a, c)


def _comparable(x: Value, y: Value) -> Type:
    """The type in which two numbers, one a float at least, are compared: that of the float if the other is known and small."""
    for number, known in ((x, y), (y, x)):
        if (
            number.type.kind == "f"
            and known.type.kind != "f"
            and known.literal is not None
            and abs(known.literal) < 2**24
        ):
            return element(number.type)
    return common(element(x.type), element(y.type))


def _compare_signs(b: Any, sign: str, x: Value, y: Value) -> Value:
    """A signed with an unsigned number: a negative one is less than any that is not."""
    if x.type.kind == "u":
        mirrored = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
        return _compare_signs(b, mirrored[sign], y, x)
    boolean = spread(types.boolean, x.type)
    negative = b.icmp_signed("<", x.llvm, lanes.number(x.type.value, 0))
    plain = b.icmp_unsigned(sign, x.llvm, y.llvm)
    if sign in ("<", "<=", "!="):
        return Value(boolean, b.or_(negative, plain))
    return Value(boolean, b.and_(b.not_(negative), plain))


def extremum(b: Any, op: ast.cmpop, numbers: list[Value]) -> Value:
    """`min` and `max` of integers: each number takes the first one's place if it compares so with it."""
    best, *others = numbers
    for v in others:
        t = common(best.type, v.type)
        if t.kind == "f":
            raise Unsupported("min or max of floats")
        best, v = cast(b, best, t), cast(b, v, t)
        if best.literal is not None and v.literal is not None:
            best = v if COMPARISONS[type(op)][1](v.literal, best.literal) else best
        else:
            best = Value(t, b.select(compare(b, op, v, best).llvm, v.llvm, best.llvm))
    return best
