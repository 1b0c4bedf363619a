"""Statements of kernel text, and the LLVM module that a kernel becomes."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from hybridml.kernels.language import build, types
from hybridml.kernels.language.functions import Device, KernelTypeError
from hybridml.kernels.translate.expressions import Expressions, one
from hybridml.kernels.translate.frame import Frame, LoopEnds, Slot
from hybridml.kernels.translate.numbers import cast
from hybridml.kernels.translate.source import Trees, assigned_often, functions_of, outer_names, tree_of
from hybridml.kernels.translate.values import Unsupported, Value, constant
from hybridml.kernels.vectors import vectors
from hybridml.kernels.writer import Builder, Function, Module

MAX_INLINED = 64  # functions inside functions: more is a recursion
# A body of so many operations in one long chain fills the processor's window before the chain of the next vector begins: some vectors are
# then taken in turns. LLVM takes one, for fear that registers run out; spilled constants cost less than waiting.
LONG_BODY = 40
IN_TURNS = {16: 2, 32: 4}  # by the number of registers


def translate(source: str, name: str, signature: str, symbol: str, path: str) -> Translated:
    """A kernel as LLVM code: its text as the C function `symbol`.

    Args:
        source: the kernel's text, which defines `name`.
        signature: as in ``"void(CPointer(int64), int64, int64)"``, or that of a tile or a panel (see `tile`).
        path: where the text is, or would be.

    Raises:
        Unsupported: the text is outside of the language, or wrong; Numba compiles it or says what is wrong.
    """
    try:
        tree = ast.parse(source)
        namespace: dict[str, Any] = {"__name__": symbol}
        exec(compile(tree, path, "exec"), namespace)
        kind = types.parse_signature(signature)
        if isinstance(kind, (types.Tile, types.Panel)):
            from hybridml.kernels.translate.tile import TileTranslator  # which is a translator itself

            in_lanes = TileTranslator(functions_of(tree, path))
            if isinstance(kind, types.Panel):
                module = in_lanes.panel(namespace[name], symbol, kind)
            else:
                module = in_lanes.tile(namespace[name], namespace.get(f"{name}_sums"), symbol, kind)
            return Translated(str(module), loops=False)
        translator = Translator(functions_of(tree, path))
        module = translator.kernel(namespace[name], symbol, kind)
        return Translated(str(module), translator.has_operands)
    except (KernelTypeError, SyntaxError, NameError, TypeError, AttributeError, KeyError) as error:
        raise Unsupported(str(error)) from error


@dataclass(frozen=True)
class Translated:
    """The LLVM module of a kernel; `loops` is true if LLVM should vectorise its loops, which those over operands are written for."""

    text: str
    loops: bool


class Translator(Expressions):
    def __init__(self, trees: Trees) -> None:
        self.trees = trees
        self.inlined = 0

    def kernel(self, function: Any, symbol: str, kind: types.Signature) -> Module:
        module = Module()
        shape = ir.FunctionType(kind.return_type.value, [t.value for t in kind.args])
        outer = Function(module, shape, symbol)
        self.builder = Builder(outer.append_basic_block("entry"))
        given = [Value(t, x) for t, x in zip(kind.args, outer.args, strict=True)]
        result = self._body(function, given)
        if kind.return_type is types.none:
            self.builder.ret_void()
        elif isinstance(result, Value):
            self.builder.ret(cast(self.builder, result, kind.return_type).llvm)
        else:
            raise Unsupported(f"{symbol} does not return a {kind.return_type}")
        return module

    def inline(self, function: Device, given: list[Value]) -> Any:
        if self.inlined >= MAX_INLINED:
            raise Unsupported(f"{function.function.__name__} calls itself")
        self.inlined += 1
        result = self._body(function.function, given)
        self.inlined -= 1
        return result

    def _body(self, function: Any, given: list[Value]) -> Any:
        """A function's statements on these arguments, and what it returns."""
        tree = tree_of(function, self.trees)
        names = [a.arg for a in tree.args.args]
        if len(names) != len(given):
            raise Unsupported(f"{tree.name} takes {len(names)} arguments, not {len(given)}")
        frame = Frame(outer_names(function), assigned_often(tree))
        for name, v in zip(names, given, strict=True):
            frame.assign(self.builder, name, v)
        last = tree.body[-1]
        for s in tree.body:
            if self.builder.block.is_terminated:
                break
            if s is last and isinstance(s, ast.Return) and frame.end is None:
                return None if s.value is None else self.expression(frame, s.value)
            self.statement(frame, s)
        return self._results(frame)

    # returning from several places

    def _return(self, frame: Frame, node: ast.expr | None) -> None:
        if frame.end is None:
            frame.end = self.builder.append_basic_block("returned")
        found = None if node is None else self.expression(frame, node)
        values = found if isinstance(found, tuple) else () if found is None else (found,)
        if not all(isinstance(v, Value) for v in values):
            raise Unsupported("returning what is no number")
        if frame.slots is None:
            frame.is_tuple = isinstance(found, tuple)
            frame.slots = [Slot(v.type, build.alloca_once(self.builder, v.type.value)) for v in values]
        if [v.type for v in values] != [s.type for s in frame.slots]:
            raise Unsupported("returning several types")
        for v, slot in zip(values, frame.slots, strict=True):
            self.builder.store(v.llvm, slot.place)
        self.builder.branch(frame.end)

    def _results(self, frame: Frame) -> Any:
        if frame.end is None:
            return None
        b = self.builder
        if not b.block.is_terminated:
            if frame.slots:
                raise Unsupported("a function that may end without a result")
            b.branch(frame.end)
        b.position_at_end(frame.end)
        found = tuple([Value(s.type, b.load(s.place)) for s in frame.slots or ()])
        return found if frame.is_tuple else found[0] if found else None

    # statements

    def suite(self, frame: Frame, body: list[ast.stmt]) -> None:
        """Statements of a branch or a loop; names that only they assign end with them."""
        frame.suites.append({})
        frame.depth += 1
        for s in body:
            if self.builder.block.is_terminated:
                break
            self.statement(frame, s)
        frame.depth -= 1
        frame.suites.pop()

    def statement(self, frame: Frame, node: ast.stmt) -> None:
        match node:
            case ast.Assign(targets=[target], value=value):
                self._assign(frame, target, self.expression(frame, value))
            case ast.AugAssign(target=target, op=op, value=value):
                self._assign(frame, target, self.expression(frame, ast.BinOp(target, op, value)))
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case ast.Expr(value=value):
                self.expression(frame, value)
            case ast.If(test=test, body=body, orelse=other):
                self._if(frame, test, body, other)
            case ast.For(target=ast.Name(id=name), iter=ast.Call() as call, body=body, orelse=[]):
                self._for(frame, name, call, body)
            case ast.While(test=test, body=body, orelse=[]):
                self._while(frame, test, body)
            case ast.Return(value=result):
                self._return(frame, result)
            case ast.Break() if frame.loops:
                self.builder.branch(frame.loops[-1].after)
            case ast.Continue() if frame.loops:
                self.builder.branch(frame.loops[-1].step)
            case _:
                raise Unsupported(type(node).__name__)

    def _assign(self, frame: Frame, target: ast.expr, v: Any) -> None:
        match target:
            case ast.Name(id=name):
                frame.assign(self.builder, name, v)
            case ast.Subscript() if isinstance(v, Value):
                self.store_element(frame, target, v)
            case ast.Tuple(elts=elements) if isinstance(v, tuple) and len(elements) == len(v):
                for element, part in zip(elements, v, strict=True):
                    self._assign(frame, element, part)
            case _:
                raise Unsupported(f"an assignment to {ast.unparse(target)}")

    def _if(self, frame: Frame, test: ast.expr, body: list[ast.stmt], other: list[ast.stmt]) -> None:
        b = self.builder
        condition = one(self.condition(frame, test))
        if condition.literal is not None:
            self.suite(frame, body if condition.literal else other)
            return
        yes, no, after = [b.append_basic_block(name) for name in ("then", "else", "endif")]
        b.cbranch(condition.llvm, yes, no)
        for block, statements in ((yes, body), (no, other)):
            b.position_at_end(block)
            self.suite(frame, statements)
            if not b.block.is_terminated:
                b.branch(after)
        b.position_at_end(after)

    def _for(self, frame: Frame, name: str, call: ast.Call, body: list[ast.stmt]) -> None:
        if self.expression(frame, call.func) is not range or call.keywords:
            raise Unsupported("a loop over something else than a range")
        bounds = [cast(self.builder, self.number(frame, a), types.int64) for a in call.args]
        if len(bounds) == 3 and bounds[2].literal == 0:
            raise Unsupported("a range with step 0")
        step = bounds[2] if len(bounds) == 3 else constant(1)
        start, stop = bounds[:2] if len(bounds) > 1 else (None, bounds[0])
        by = step.llvm if step.literal is None else int(step.literal)
        blocks, operations = len(self.builder.function.blocks), self.builder.function.operations()
        with build.for_range(self.builder, stop.llvm, start and start.llvm, by) as loop:
            frame.loops.append(LoopEnds(loop.do_break, loop.do_continue))
            frame.suites.append({})
            frame.depth += 1
            frame.assign(self.builder, name, Value(types.int64, loop.index))
            self.suite(frame, body)
            frame.depth -= 1
            frame.suites.pop()
            frame.loops.pop()
        is_straight = len(self.builder.function.blocks) == blocks + build.LOOP_BLOCKS
        is_own = (
            not frame.loops and not self.inlined
        )  # rows' loops are short: what is left over would cost more
        if is_own and is_straight and self.builder.function.operations() - operations >= LONG_BODY:
            build.interleave(loop, IN_TURNS[vectors().registers])

    def _while(self, frame: Frame, test: ast.expr, body: list[ast.stmt]) -> None:
        b = self.builder
        header, inside, after = [b.append_basic_block(name) for name in ("while", "do", "done")]
        b.branch(header)
        b.position_at_end(header)
        condition = one(self.condition(frame, test))
        if condition.literal is None:
            b.cbranch(condition.llvm, inside, after)
        else:
            b.branch(inside if condition.literal else after)
        b.position_at_end(inside)
        frame.loops.append(LoopEnds(after, header))
        self.suite(frame, body)
        frame.loops.pop()
        if not b.block.is_terminated:
            b.branch(header)
        b.position_at_end(after)
