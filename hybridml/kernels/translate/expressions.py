"""Expressions of kernel text."""

from __future__ import annotations

import ast
from typing import Any

from hybridml.kernels import pointer
from hybridml.kernels.language import types
from hybridml.kernels.language.functions import Device, Intrinsic, KernelTypeError, context
from hybridml.kernels.translate import numbers
from hybridml.kernels.translate.frame import Frame
from hybridml.kernels.translate.numbers import cast, common, is_number, truth
from hybridml.kernels.translate.values import CASTS, Unsupported, Value, constant

# What computing needs neither memory nor much time, so that both sides of a choice may be computed: LLVM vectorises a select.
_CHEAP = (
    ast.Name, ast.Constant, ast.Compare, ast.BinOp, ast.UnaryOp, ast.Load,
    ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip
_MAY_TRAP = (ast.Div, ast.FloorDiv, ast.Mod)


def _is_cheap(node: ast.expr) -> bool:
    return all(
        isinstance(n, _CHEAP) or _is_cast(n) for n in ast.walk(node) if not isinstance(n, _MAY_TRAP)
    ) and not any(isinstance(n, _MAY_TRAP) for n in ast.walk(node))


def _is_harmless(node: ast.expr) -> bool:
    """Whether an expression may be computed also in lanes that do not want it: no memory, no integers that a division may trap on."""
    return not any(isinstance(n, (ast.Subscript, ast.FloorDiv, ast.Mod)) for n in ast.walk(node))


def _harmless(node: ast.expr) -> ast.expr:
    if not _is_harmless(node):
        raise Unsupported(f"{ast.unparse(node)}, which some lanes must not compute")
    return node


def _is_cast(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CAST_NAMES


_CAST_NAMES = {f"{kind}{bits}" for kind in "iuf" for bits in (8, 16, 32, 64)} | {"cast"}


def one(condition: Value) -> Value:
    """A condition that decides where to go on."""
    if numbers.varies(condition.type):
        raise Unsupported("a branch that some lanes take and others do not")
    return condition


class Expressions:
    """Computes expressions where the builder stands. In lanes, those apart where `mask` is false touch no memory."""

    builder: Any
    has_operands = False
    in_lanes = False
    mask: Any = None

    def value(self, frame: Frame, node: ast.expr) -> Value:
        """The number (or operand) that an expression is."""
        found = self.expression(frame, node)
        if not isinstance(found, Value):
            raise Unsupported(f"{ast.unparse(node)} as a number")
        return found

    def number(self, frame: Frame, node: ast.expr) -> Value:
        found = self.value(frame, node)
        if not is_number(found):
            raise Unsupported(f"{ast.unparse(node)} as a number")
        return found

    def condition(self, frame: Frame, node: ast.expr) -> Value:
        """Whether an expression is true."""
        if isinstance(node, ast.BoolOp):
            return self._either(frame, node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return numbers.unary(self.builder, node.op, self.condition(frame, node.operand))
        return truth(self.builder, self.number(frame, node))

    def expression(self, frame: Frame, node: ast.expr) -> Any:
        b = self.builder
        match node:
            case ast.Name(id=name):
                return frame.lookup(b, name)
            case ast.Constant(value=value):
                return constant(value)
            case ast.BinOp(left=left, op=op, right=right):
                return numbers.binary(b, op, self.number(frame, left), self.number(frame, right))
            case ast.UnaryOp(op=ast.Not()):
                return self.condition(frame, node)
            case ast.UnaryOp(op=op, operand=operand):
                return numbers.unary(b, op, self.number(frame, operand))
            case ast.Compare(left=left, ops=ops, comparators=rights):
                return self._comparison(frame, left, ops, rights)
            case ast.BoolOp(op=op, values=[first, *others]):
                if all(isinstance(v, ast.Compare) for v in (first, *others)):
                    return self._either(frame, node)
                rest = ast.BoolOp(op, others) if len(others) > 1 else others[0]
                return self._value_of_either(frame, op, first, rest)
            case ast.IfExp(test=test, body=body, orelse=other):
                return self._choice(frame, test, body, other)
            case ast.Subscript(value=base, slice=index):
                return self._element(frame, base, index)
            case ast.Tuple(elts=elements):
                return tuple([self.expression(frame, e) for e in elements])
            case ast.Attribute(value=base, attr=name):
                owner = self.expression(frame, base)
                if isinstance(owner, (Value, tuple)):
                    raise Unsupported(f".{name}")
                return constant(getattr(owner, name))
            case ast.Call(func=function, args=args, keywords=[]):
                return self._call(frame, self.expression(frame, function), args)
        raise Unsupported(type(node).__name__)

    def _comparison(
        self, frame: Frame, left: ast.expr, ops: list[ast.cmpop], rights: list[ast.expr]
    ) -> Value:
        x, found = self.number(frame, left), None
        for op, right in zip(ops, rights, strict=True):
            y = self.number(frame, right)
            one = numbers.compare(self.builder, op, x, y)
            found = one if found is None else numbers.binary(self.builder, ast.BitAnd(), found, one)
            x = y
        assert found is not None
        return found

    def _either(self, frame: Frame, node: ast.BoolOp) -> Value:
        """`and`, `or`: the right side is computed only if it decides."""
        b = self.builder
        first, *rest = node.values
        found = self.condition(frame, first)
        stops_at = isinstance(node.op, ast.Or)
        for other in rest:
            if found.literal is not None:
                found = found if bool(found.literal) is stops_at else self.condition(frame, other)
                continue
            if self.in_lanes:
                both: ast.operator = ast.BitOr() if stops_at else ast.BitAnd()
                found = numbers.binary(b, both, found, self.condition(frame, _harmless(other)))
                continue
            before = b.block
            more, after = b.append_basic_block("more"), b.append_basic_block("decided")
            b.cbranch(found.llvm, *((after, more) if stops_at else (more, after)))
            b.position_at_end(more)
            second = self.condition(frame, other)
            end = b.block
            b.branch(after)
            b.position_at_end(after)
            phi = b.phi(types.boolean.value)
            phi.add_incoming(types.boolean.value(int(stops_at)), before)
            phi.add_incoming(second.llvm, end)
            found = Value(types.boolean, phi)
        return found

    def _choice(self, frame: Frame, test: ast.expr, body: ast.expr, other: ast.expr) -> Value:
        b = self.builder
        condition = self.condition(frame, test)
        if condition.literal is not None:
            return self.value(frame, body if condition.literal else other)
        if numbers.varies(condition.type):
            body, other = _harmless(body), _harmless(other)
        if numbers.varies(condition.type) or (_is_cheap(body) and _is_cheap(other)):
            x, y = self.number(frame, body), self.number(frame, other)
            t = numbers.spread(numbers.element(common(x.type, y.type)), x.type, y.type, condition.type)
            return Value(t, b.select(condition.llvm, cast(b, x, t).llvm, cast(b, y, t).llvm))
        yes, no = b.append_basic_block("yes"), b.append_basic_block("no")
        b.cbranch(condition.llvm, yes, no)
        b.position_at_end(yes)
        x, yes = self.number(frame, body), b.block
        b.position_at_end(no)
        y, no = self.number(frame, other), b.block
        return self._meet((x, yes), (y, no))

    def _value_of_either(self, frame: Frame, op: ast.boolop, first: ast.expr, rest: ast.expr) -> Value:
        """What `first or rest`, `first and rest` is: one of the two numbers."""
        b = self.builder
        x = self.number(frame, first)
        condition = one(truth(b, x))
        keeps = isinstance(op, ast.Or)
        if condition.literal is not None:
            return x if bool(condition.literal) is keeps else self.number(frame, rest)
        kept, more = b.append_basic_block("kept"), b.append_basic_block("more")
        b.cbranch(condition.llvm, *((kept, more) if keeps else (more, kept)))
        b.position_at_end(more)
        y, more = self.number(frame, rest), b.block
        return self._meet((x, kept), (y, more))

    def _meet(self, *sides: tuple[Value, Any]) -> Value:
        """The number that comes out of either of two open blocks."""
        b = self.builder
        t = common(sides[0][0].type, sides[1][0].type)
        after = b.append_basic_block("chosen")
        arrived = []
        for v, block in sides:
            b.position_at_end(block)
            arrived.append((cast(b, v, t).llvm, block))
            b.branch(after)
        b.position_at_end(after)
        phi = b.phi(t.value)
        for llvm_value, block in arrived:
            phi.add_incoming(llvm_value, block)
        return Value(t, phi)

    # memory

    def _index(self, frame: Frame, node: ast.expr) -> Value:
        index = self.number(frame, node)
        if index.type.kind not in "iu":
            raise Unsupported(f"an index of type {index.type}")
        return index if isinstance(index.type, types.Along) else cast(self.builder, index, types.int64)

    def _element(self, frame: Frame, base: ast.expr, index: ast.expr) -> Any:
        owner = self.expression(frame, base)
        at = self._index(frame, index)
        if isinstance(owner, tuple):
            if not isinstance(at.literal, int):
                raise Unsupported("a tuple's element by a number that is not known")
            return constant(owner[at.literal])
        if not isinstance(owner, Value):
            raise Unsupported(f"an element of {ast.unparse(base)}")
        if isinstance(owner.type, types.Pointer):
            if isinstance(at.type, types.Along):
                t = types.lanes(owner.type.dtype, at.type.count)
                return Value(
                    t, pointer.load_lanes(self.builder, owner.type, owner.llvm, at.llvm, t, self.mask)
                )
            return Value(owner.type.dtype, pointer.load(self.builder, owner.type, owner.llvm, at.llvm))
        if isinstance(owner.type, types.CPointer):
            place = self.builder.gep(owner.llvm, [at.llvm], inbounds=True)
            return Value(owner.type.dtype, self.builder.load(place))
        raise Unsupported(f"an element of a {owner.type}")

    def store_element(self, frame: Frame, target: ast.Subscript, v: Value) -> None:
        owner = self.value(frame, target.value)
        at = self._index(frame, target.slice)
        if isinstance(owner.type, types.Pointer) and isinstance(at.type, types.Along):
            t = types.lanes(owner.type.dtype, at.type.count)
            v = cast(self.builder, v, t)
            pointer.store_lanes(self.builder, owner.type, owner.llvm, at.llvm, v.llvm, t, self.mask)
        elif isinstance(owner.type, types.Pointer):
            v = cast(self.builder, v, owner.type.dtype)
            pointer.store(self.builder, owner.type, owner.llvm, at.llvm, v.llvm)
        elif isinstance(owner.type, types.CPointer):
            place = self.builder.gep(owner.llvm, [at.llvm], inbounds=True)
            self.builder.store(cast(self.builder, v, owner.type.dtype).llvm, place)
        else:
            raise Unsupported(f"an element of a {owner.type}")

    # calls

    def _call(self, frame: Frame, function: Any, nodes: list[ast.expr]) -> Any:
        if function in (min, max):
            op: ast.cmpop = ast.Lt() if function is min else ast.Gt()
            return numbers.extremum(self.builder, op, [self.number(frame, a) for a in nodes])
        if isinstance(function, Device):
            return self.inline(function, [self.value(frame, a) for a in nodes])
        if isinstance(function, Intrinsic):
            return self._intrinsic(function, [self.value(frame, a) for a in nodes])
        try:
            to = CASTS.get(function)
        except TypeError:  # not hashable
            to = None
        if to is None or len(nodes) != 1:
            raise Unsupported(f"a call of {function}")
        v = self.number(frame, nodes[0])
        return cast(self.builder, v, numbers.spread(to, v.type))

    def _intrinsic(self, function: Intrinsic, given: list[Value]) -> Value:
        beside = [v.type for v in given]
        kinds = [
            types.IntegerLiteral(v.literal)
            if function.prefer_literal and v.type is types.int64 and isinstance(v.literal, int)
            else numbers.element(v.type)
            for v in given
        ]
        if any(map(numbers.varies, beside)) and not function.lanewise:
            raise Unsupported(f"{function.__name__} of lanes")
        try:
            found = function.typing(context, *kinds)
        except KernelTypeError as error:
            raise Unsupported(str(error)) from error
        if found is None:
            raise Unsupported(f"{function.__name__} of {', '.join(map(str, kinds))}")
        signature, emit = found
        if function.lanewise:
            spread_over = [numbers.spread(t, *beside) for t in (signature.return_type, *signature.args)]
            signature = types.Signature(spread_over[0], tuple(spread_over[1:]))
        self.has_operands |= isinstance(signature.return_type, types.Pointer)
        values = [
            v.llvm if v.type is t or not v.type.kind else cast(self.builder, v, _plain(t)).llvm
            for v, t in zip(given, signature.args, strict=True)
        ]
        return Value(signature.return_type, emit(context, self.builder, signature, values))

    def inline(self, function: Device, given: list[Value]) -> Any:
        raise NotImplementedError


def _plain(t: types.Type) -> types.Type:
    return types.int64 if isinstance(t, types.IntegerLiteral) else t
