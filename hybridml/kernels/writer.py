"""LLVM code, written down line by line.

A `Builder` has the methods of llvmlite's `IRBuilder` that our emitters use, and takes its types and constants; so an emitter serves Numba's
compiler as well, which hands it that builder. But llvmlite makes an object of each instruction, and prints all of them in the end; here
an instruction is its line from the beginning. `explain()` shows under "translate" what a first call takes for it.

    module = Module()
    function = Function(module, ir.FunctionType(i64, [i64]), "twice")
    b = Builder(function.append_basic_block("entry"))
    b.ret(b.add(function.args[0], function.args[0]))
    str(module)                                        # https://llvm.org/docs/LangRef.html
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llvmlite import ir

_BIT = ir.IntType(1)
_ORDER = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}


class Value:
    """A number, by the name that it has in the text."""

    __slots__ = ("at", "block", "ref", "type")

    def __init__(self, kind: ir.Type, ref: str, block: Block | None = None, at: int = 0) -> None:
        self.type, self.ref = kind, ref
        self.block, self.at = block, at  # the line that makes it, or of an access that makes nothing

    def set_metadata(self, name: str, node: Node) -> None:
        assert self.block is not None
        self.block.lines[self.at] += f", !{name} {node.ref}"


class Node:
    """A node of metadata."""

    def __init__(self, ref: str) -> None:
        self.ref = ref


class Place(Value):
    """One on the stack."""

    __slots__ = ("_kind", "_size", "align")

    def __init__(self, kind: ir.Type, ref: str, size: Any) -> None:
        super().__init__(kind.as_pointer(), ref)
        self._kind, self._size = kind, size
        self.align: int | None = None

    def __str__(self) -> str:
        size = "" if self._size is None else f", {_typed(self._size)}"
        return f"{self.ref} = alloca {_type(self._kind)}{size}{_aligned(self.align)}"


class Phi(Value):
    """A value that depends on the block from which control came."""

    __slots__ = ("incoming",)

    def __init__(self, kind: ir.Type, ref: str) -> None:
        super().__init__(kind, ref)
        self.incoming: list[str] = []

    def add_incoming(self, value: Any, block: Block) -> None:
        self.incoming.append(f"[{_ref(value)}, %{block.name}]")

    def __str__(self) -> str:
        return f"{self.ref} = phi {_type(self.type)} {', '.join(self.incoming)}"


class Switch:
    """A jump to one of several blocks."""

    def __init__(self, value: Any, default: Block) -> None:
        self._begin = f"switch {_typed(value)}, label %{default.name}"
        self._cases: list[str] = []

    def add_case(self, value: Any, block: Block) -> None:
        self._cases.append(f"{_typed(value)}, label %{block.name}")

    def __str__(self) -> str:
        return f"{self._begin} [ {' '.join(self._cases)} ]"


class Block:
    """Lines that run one after the other; `terminator` is the last one once it is there."""

    def __init__(self, function: Function, name: str) -> None:
        self.function, self.name = function, name
        self.lines: list[Any] = []
        self.terminator: Value | None = None

    @property
    def module(self) -> Module:
        return self.function.module

    @property
    def is_terminated(self) -> bool:
        return self.terminator is not None


class Function(Value):
    """A function of the module; one without blocks is declared only."""

    __slots__ = (
        "_names",
        "allocas",
        "args",
        "attributes",
        "blocks",
        "calling_convention",
        "linkage",
        "module",
        "name",
        "shape",
    )

    def __init__(self, module: Module, shape: ir.FunctionType, name: str) -> None:
        super().__init__(shape.as_pointer(), f'@"{name}"')
        self.module, self.shape, self.name = module, shape, name
        self.args = [Value(t, f"%a{i}") for i, t in enumerate(shape.args)]
        self.blocks: list[Block] = []
        self.allocas: list[Place] = []
        self.attributes: set[str] = set()
        self.linkage = self.calling_convention = ""
        self._names = 0
        module.globals[name] = self

    def append_basic_block(self, name: str = "block") -> Block:
        block = Block(self, f"{name}.{self.number()}")
        self.blocks.append(block)
        return block

    def operations(self) -> int:
        return len(self.allocas) + sum(len(block.lines) for block in self.blocks)

    def number(self) -> int:
        """One that no other name in the function has."""
        self._names += 1
        return self._names

    def __str__(self) -> str:
        head = " ".join(filter(None, (self.linkage, self.calling_convention, _type(self.shape.return_type))))
        if not self.blocks:
            return f"declare {head} {self.ref}({', '.join(map(_type, self.shape.args))})"
        lines = [
            f"define {head} {self.ref}({', '.join(map(_typed, self.args))}) {' '.join(sorted(self.attributes))} {{"
        ]
        for k, block in enumerate(self.blocks):
            lines.append(f"{block.name}:")
            lines += map(str, self.allocas if k == 0 else ())
            lines += map(str, block.lines)
        return "\n".join([*lines, "}"])


class Module:
    """Functions and metadata."""

    def __init__(self) -> None:
        self.globals: dict[str, Function] = {}
        self._nodes: dict[str, Node] = {}

    def get_unique_name(self, name: str) -> str:
        return f"{name}.{len(self.globals)}"

    def declare_intrinsic(self, name: str, types: Sequence[ir.Type], shape: ir.FunctionType) -> Function:
        """LLVM's own function of this name, for these types."""
        full = ".".join([name, *map(_suffix, types)])
        return self.globals.get(full) or Function(self, shape, full)

    def add_metadata(self, content: Sequence[Any]) -> Node:
        """A node of strings, constants and other nodes; the same for equal ones."""
        text = f"!{{{', '.join(map(_content, content))}}}"
        if text not in self._nodes:
            self._nodes[text] = Node(f"!{len(self._nodes)}")
        return self._nodes[text]

    def add_own_metadata(self, content: Sequence[Any]) -> Node:
        """A node that is equal to no other: it begins with itself."""
        ref = f"!{len(self._nodes)}"
        node = self._nodes[f"distinct !{{{', '.join([ref, *map(_content, content)])}}}"] = Node(ref)
        return node

    def __str__(self) -> str:
        return "\n".join(
            [*map(str, self.globals.values()), *[f"{n.ref} = {text}" for text, n in self._nodes.items()], ""]
        )


def _binary(operation: str) -> Callable[..., Value]:
    def write(self: Builder, x: Any, y: Any, flags: Sequence[str] = ()) -> Value:
        kind = x.type
        return self._make(kind, f"{' '.join((operation, *flags))} {_type(kind)} {_ref(x)}, {_ref(y)}")

    return write


def _cast(operation: str) -> Callable[..., Value]:
    def write(self: Builder, x: Any, kind: ir.Type) -> Any:
        if x.type == kind:
            return x
        return self._make(kind, f"{operation} {_typed(x)} to {_type(kind)}")

    return write


def _compare(operation: str, prefix: str, same: str = "") -> Callable[..., Value]:
    """Comparisons of one kind; `same` stands before what needs no sign."""

    def write(self: Builder, sign: str, x: Any, y: Any) -> Value:
        order = _ORDER.get(sign)
        how = sign if order is None else (same if sign in ("==", "!=") else prefix) + order
        kind = ir.VectorType(_BIT, x.type.count) if isinstance(x.type, ir.VectorType) else _BIT
        return self._make(kind, f"{operation} {how} {_typed(x)}, {_ref(y)}")

    return write


class Builder:
    """Writes at the end of a block."""

    def __init__(self, block: Block) -> None:
        self.block, self.function, self.module = block, block.function, block.function.module

    def position_at_end(self, block: Block) -> None:
        self.block, self.function = block, block.function

    def append_basic_block(self, name: str = "block") -> Block:
        return self.function.append_basic_block(name)

    def _make(self, kind: ir.Type, text: str) -> Value:
        block, function = self.block, self.function
        function._names = n = function._names + 1
        ref = f"%v{n}"
        lines = block.lines
        lines.append(f"{ref} = {text}")
        return Value(kind, ref, block, len(lines) - 1)

    def _do(self, text: Any) -> Value:
        lines = self.block.lines
        lines.append(text)
        return Value(None, "", self.block, len(lines) - 1)

    def _end(self, text: Any) -> Value:
        self.block.terminator = done = self._do(text)
        return done

    # arithmetic

    add, sub, mul = _binary("add"), _binary("sub"), _binary("mul")
    sdiv, udiv, srem, urem = _binary("sdiv"), _binary("udiv"), _binary("srem"), _binary("urem")
    and_, or_, xor = _binary("and"), _binary("or"), _binary("xor")
    shl, lshr, ashr = _binary("shl"), _binary("lshr"), _binary("ashr")
    fadd, fsub, fmul = _binary("fadd"), _binary("fsub"), _binary("fmul")
    fdiv, frem = _binary("fdiv"), _binary("frem")
    icmp_signed, icmp_unsigned = _compare("icmp", "s"), _compare("icmp", "u")
    fcmp_ordered, fcmp_unordered = _compare("fcmp", "o", "o"), _compare("fcmp", "u", "u")
    zext, sext, trunc, bitcast = _cast("zext"), _cast("sext"), _cast("trunc"), _cast("bitcast")
    inttoptr, ptrtoint = _cast("inttoptr"), _cast("ptrtoint")
    fpext, fptrunc, sitofp, uitofp = _cast("fpext"), _cast("fptrunc"), _cast("sitofp"), _cast("uitofp")
    fptosi, fptoui = _cast("fptosi"), _cast("fptoui")

    def fneg(self, x: Any) -> Value:
        return self._make(x.type, f"fneg {_typed(x)}")

    def not_(self, x: Any) -> Value:
        ones = (-1,) * x.type.count if isinstance(x.type, ir.VectorType) else -1
        return self.xor(x, ir.Constant(x.type, ones))

    def select(self, condition: Any, x: Any, y: Any) -> Value:
        return self._make(x.type, f"select {_typed(condition)}, {_typed(x)}, {_typed(y)}")

    # vectors and structs

    def extract_element(self, vector: Any, at: Any) -> Value:
        return self._make(vector.type.element, f"extractelement {_typed(vector)}, {_typed(at)}")

    def insert_element(self, vector: Any, x: Any, at: Any) -> Value:
        return self._make(vector.type, f"insertelement {_typed(vector)}, {_typed(x)}, {_typed(at)}")

    def shuffle_vector(self, x: Any, y: Any, mask: Any) -> Value:
        kind = ir.VectorType(x.type.element, mask.type.count)
        return self._make(kind, f"shufflevector {_typed(x)}, {_typed(y)}, {_typed(mask)}")

    def extract_value(self, x: Any, at: int) -> Value:
        return self._make(x.type.elements[at], f"extractvalue {_typed(x)}, {at}")

    def insert_value(self, into: Any, x: Any, at: int) -> Value:
        return self._make(into.type, f"insertvalue {_typed(into)}, {_typed(x)}, {at}")

    # memory

    def alloca(self, kind: ir.Type, size: Any = None) -> Value:
        """At the function's entry, wherever the builder is: LLVM keeps it in a register if it can."""
        found = Place(kind, f"%v{self.function.number()}", size)
        self.function.allocas.append(found)
        return found

    @contextlib.contextmanager
    def goto_entry_block(self) -> Iterator[None]:
        """For `alloca`, which is there already."""
        yield

    def load(self, place: Any, align: int | None = None) -> Value:
        kind = place.type.pointee
        return self._make(kind, f"load {_type(kind)}, ptr {_ref(place)}{_aligned(align)}")

    def store(self, x: Any, place: Any, align: int | None = None) -> Value:
        return self._do(f"store {_typed(x)}, ptr {_ref(place)}{_aligned(align)}")

    def gep(self, place: Any, indices: Sequence[Any], inbounds: bool = False) -> Value:
        source, kind = place.type.pointee, place.type
        for i in indices:
            kind = kind.gep(i)
        rest = ", ".join(map(_typed, indices))
        return self._make(
            kind.as_pointer(), f"getelementptr {'inbounds ' if inbounds else ''}{_type(source)}, ptr {_ref(place)}, {rest}"
        )  # fmt: skip

    def load_atomic(self, place: Any, ordering: str, align: int) -> Value:
        kind = place.type.pointee
        return self._make(kind, f"load atomic {_type(kind)}, ptr {_ref(place)} {ordering}, align {align}")

    def store_atomic(self, x: Any, place: Any, ordering: str, align: int) -> Value:
        return self._do(f"store atomic {_typed(x)}, ptr {_ref(place)} {ordering}, align {align}")

    def atomic_rmw(self, operation: str, place: Any, x: Any, ordering: str) -> Value:
        return self._make(x.type, f"atomicrmw {operation} ptr {_ref(place)}, {_typed(x)} {ordering}")

    def cmpxchg(self, place: Any, expected: Any, new: Any, ordering: str, failing: str) -> Value:
        kind = ir.LiteralStructType([new.type, _BIT])
        return self._make(
            kind, f"cmpxchg ptr {_ref(place)}, {_typed(expected)}, {_typed(new)} {ordering} {failing}"
        )

    def fence(self, ordering: str) -> Value:
        return self._do(f"fence {ordering}")

    # control

    def phi(self, kind: ir.Type) -> Phi:
        found = Phi(kind, f"%v{self.function.number()}")
        self.block.lines.append(found)
        return found

    def call(
        self, function: Any, args: Sequence[Any], cconv: str | None = None, fastmath: Sequence[str] = ()
    ) -> Value:
        result = function.type.pointee.return_type
        how = " ".join(filter(None, ("call", *fastmath, cconv, _type(result))))
        text = f"{how} {_ref(function)}({', '.join(map(_typed, args))})"
        return self._do(text) if isinstance(result, ir.VoidType) else self._make(result, text)

    def branch(self, to: Block) -> Value:
        return self._end(f"br label %{to.name}")

    def cbranch(self, condition: Any, then: Block, otherwise: Block) -> Value:
        return self._end(f"br i1 {_ref(condition)}, label %{then.name}, label %{otherwise.name}")

    def switch(self, x: Any, default: Block) -> Switch:
        found = Switch(x, default)
        self._end(found)
        return found

    def ret(self, x: Any) -> Value:
        return self._end(f"ret {_typed(x)}")

    def ret_void(self) -> Value:
        return self._end("ret void")

    def unreachable(self) -> Value:
        return self._end("unreachable")

    @contextlib.contextmanager
    def if_then(self, condition: Any) -> Iterator[Block]:
        """The builder is where the condition holds; in the end, after it."""
        then, end = self.append_basic_block("if"), self.append_basic_block("endif")
        self.cbranch(condition, then, end)
        with self._inside(then, end):
            yield end
        self.position_at_end(end)

    @contextlib.contextmanager
    def if_else(self, condition: Any) -> Iterator[tuple[Any, Any]]:
        """Two contexts, for where the condition holds and where it does not; the builder is after both in the end."""
        then, otherwise, end = [self.append_basic_block(name) for name in ("if", "else", "endif")]
        self.cbranch(condition, then, otherwise)
        yield self._inside(then, end), self._inside(otherwise, end)
        self.position_at_end(end)

    @contextlib.contextmanager
    def _inside(self, block: Block, end: Block) -> Iterator[None]:
        self.position_at_end(block)
        yield
        if not self.block.is_terminated:
            self.branch(end)


def _ref(x: Any) -> str:
    return x.ref if isinstance(x, Value) else x.get_reference()  # type: ignore[no-any-return]  # of llvmlite's constants


def _type(kind: Any) -> str:
    return "ptr" if kind.is_pointer else kind.__str__()  # which llvmlite keeps


def _typed(x: Any) -> str:
    return f"{_type(x.type)} {_ref(x)}"


def _aligned(align: int | None) -> str:
    return "" if align is None else f", align {align}"


def _content(x: Any) -> str:
    """An element of a node."""
    return x.ref if isinstance(x, Node) else f'!"{x}"' if isinstance(x, str) else _typed(x)


def _suffix(kind: ir.Type) -> str:
    """How a type is written in an intrinsic's name."""
    return "p0" if kind.is_pointer else str(kind.intrinsic_name)
