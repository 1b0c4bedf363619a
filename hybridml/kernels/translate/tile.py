"""A kernel for one element of a matrix product's result, as the function that takes a whole register tile of them; or one for an element of
its operand B, as the function that makes panels of it.

The first gets the tile's vectors as its arguments, in registers. The text is translated once, for the lanes of one vector, as a
function that LLVM then puts in sixteen times; what it reads of the argument block is read once. See `emit_tile` for the text,
`gemm_tile` for the caller.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from hybridml.kernels.language import build, lanes, types
from hybridml.kernels.language.types import Type
from hybridml.kernels.translate.frame import Frame
from hybridml.kernels.translate.module import Translator
from hybridml.kernels.translate.numbers import cast
from hybridml.kernels.translate.source import assigned_often, outer_names, tree_of
from hybridml.kernels.translate.values import Unsupported, Value
from hybridml.kernels.vectors import TILE_VECTORS, vectors
from hybridml.kernels.writer import Builder, Function, Module

_I64 = ir.IntType(64)
_BLOCK = types.CPointer(types.int64)

FEW_OPERATIONS = 24  # of a text that is put in also for each vector of a tile whose columns are not all there

NUMBERS = 5
"""Arguments before the vectors: the argument block, the first row, how many there are, the first column, how many there are."""


class TileTranslator(Translator):
    in_lanes = True

    def tile(self, element: Any, sums: Any, symbol: str, kind: types.Tile) -> Module:
        """The module of `symbol`. `element` and `sums` are functions of kernel text; the second one is None where there are no sums."""
        module = Module()
        shape = [_I64] * NUMBERS + [kind.lanes.value] * (kind.rows * TILE_VECTORS)
        outer = Function(module, ir.FunctionType(ir.VoidType(), shape), symbol)
        outer.calling_convention = vectors().arguments
        b = self.builder = Builder(outer.append_basic_block("entry"))
        args = Value(_BLOCK, b.inttoptr(outer.args[0], _BLOCK.value))
        _, row, rows, column, columns, *given = outer.args
        tile = _Tile(element, sums, args, kind, row, rows, column, columns, given)
        self._masked_where_needed(tile.columns, kind.lanes, lambda masks: self._rows(tile, masks))
        return module

    def panel(self, element: Any, symbol: str, kind: types.Panel) -> Module:
        """The module of `symbol`, which is called as a kernel over blocks is (`emit_block.BLOCKS`)."""
        module = Module()
        shape = [_BLOCK.value, *[_I64] * 6]
        outer = Function(module, ir.FunctionType(ir.VoidType(), shape), symbol)
        b = self.builder = Builder(outer.append_basic_block("entry"))
        block, to, to_row, begin, end, first, last = outer.args
        args, t = Value(_BLOCK, block), kind.lanes
        item = _I64(t.bits // 8)

        def rows(masks: Sequence[Any]) -> None:
            one = self._part(element, args, [types.int64, types.along(t.count)], [t], masks[0])
            with build.for_range(b, end, begin) as loop:
                line = b.add(to, b.mul(b.mul(b.sub(loop.index, begin), to_row), item))
                for v, mask in enumerate(masks):
                    (made,) = one.call(b, [loop.index, b.add(first, _I64(v * t.count))], mask)
                    place = b.add(line, b.mul(_I64(v * t.count), item))
                    lanes.store(b, made, b.inttoptr(place, t.value.as_pointer()), t.bits // 8, None)

        self._masked_where_needed(b.sub(last, first), t, rows)
        return module

    def _masked_where_needed(
        self, columns: Any, t: types.Lanes, write: Callable[[Sequence[Any]], None]
    ) -> None:
        """The rest of a function, for whole vectors without masks where those cost time."""
        b = self.builder
        masks = [lanes.first(b, b.sub(columns, _I64(v * t.count)), t.count) for v in range(TILE_VECTORS)]
        if vectors().free_masks:
            write(masks)
        else:
            with b.if_else(b.icmp_signed(">=", columns, _I64(TILE_VECTORS * t.count))) as (whole, part):
                with whole:
                    write([None] * TILE_VECTORS)
                with part:
                    write(masks)
        b.ret_void()

    def _rows(self, t: _Tile, masks: Sequence[Any]) -> None:
        one, all_rows = self._parts(t, masks[0])
        seldom = masks[0] is not None and not vectors().free_masks
        way = self._one_by_one if seldom and one.operations > FEW_OPERATIONS else self._at_once
        way(t, masks, one, all_rows)

    def _at_once(self, t: _Tile, masks: Sequence[Any], one: _Part, all_rows: _Part | None) -> None:
        """Every row of the first vector, then what is added up of them, then the same for the second one; code for each of them."""
        b = self.builder
        end = b.append_basic_block("end")
        for v in range(TILE_VECTORS):
            first = _I64(v * t.kind.lanes.count)
            if v:
                wide = b.append_basic_block("wide")
                b.cbranch(b.icmp_signed(">", t.columns, first), wide, end)
                b.position_at_end(wide)
            at, done = b.add(t.column, first), b.append_basic_block("done")
            so_far: list[Any] = []
            ends: list[tuple[Any, list[Any]]] = []
            for r in range(t.kind.rows):
                if r:
                    ends.append((b.block, so_far))
                    more = b.append_basic_block("row")
                    b.cbranch(b.icmp_signed(">", t.rows, _I64(r)), more, done)
                    b.position_at_end(more)
                values = one.call(b, [t.vectors[r * TILE_VECTORS + v], b.add(t.row, _I64(r)), at], masks[v])
                so_far = [b.fadd(x, y) for x, y in zip(so_far, values, strict=True)] if r else values
            ends.append((b.block, so_far))
            b.branch(done)
            b.position_at_end(done)
            if all_rows is not None:
                summed = build.meeting(b, ends)
                all_rows.call(b, [t.row, b.add(t.row, t.rows), at, *summed], masks[v])
        b.branch(end)
        b.position_at_end(end)

    def _one_by_one(self, t: _Tile, masks: Sequence[Any], one: _Part, all_rows: _Part | None) -> None:
        """The same by a loop over the rows, which takes the vectors from the stack: little code for tiles that are seldom met."""
        b, kind = self.builder, t.kind.lanes.value
        tile = build.alloca_once(b, ir.ArrayType(kind, len(t.vectors)))
        for k, x in enumerate(t.vectors):
            b.store(x, b.gep(tile, [_I64(0), _I64(k)]))
        for v, mask in enumerate(masks):
            first = _I64(v * t.kind.lanes.count)
            at = b.add(t.column, first)
            totals = [build.alloca_once(b, kind) for _ in range(t.kind.sums)]
            for place in totals:
                b.store(lanes.number(kind, -0.0), place)
            rows = b.select(b.icmp_signed(">", t.columns, first), t.rows, _I64(0))
            with build.for_range(b, rows) as loop:
                k = b.add(b.mul(loop.index, _I64(TILE_VECTORS)), _I64(v))
                x = b.load(b.gep(tile, [_I64(0), k]))
                values = one.call(b, [x, b.add(t.row, loop.index), at], mask)
                for place, y in zip(totals, values, strict=True):
                    b.store(b.fadd(b.load(place), y), place)
            if all_rows is not None:
                all_rows.call(b, [t.row, b.add(t.row, t.rows), at, *map(b.load, totals)], mask)

    def _parts(self, t: _Tile, mask: Any) -> tuple[_Part, _Part | None]:
        """The text for an element, and that for the sums."""
        along = types.along(t.kind.lanes.count)
        totals: list[Type] = [t.kind.lanes] * t.kind.sums
        one = self._part(t.element, t.args, [t.kind.lanes, types.int64, along], totals, mask)
        if t.sums is None:
            return one, None
        return one, self._part(t.sums, t.args, [types.int64, types.int64, along, *totals], [], mask)

    def _part(
        self, function: Any, args: Value, kinds: Sequence[Type], results: Sequence[Type], mask: Any
    ) -> _Part:
        """A text for one vector, as a function on values of these kinds. What its first statements read of the argument block is read
        where the builder stands, and handed over."""
        b, tree = self.builder, tree_of(function, self.trees)
        block, *names = [a.arg for a in tree.args.args]
        if len(names) != len(kinds):
            raise Unsupported(f"{tree.name} takes {len(names)} arguments beside its block, not {len(kinds)}")
        reading = Frame(outer_names(function), assigned_often(tree))
        reading.assign(b, block, args)
        count = next((k for k, s in enumerate(tree.body) if not _reads(s, block)), len(tree.body))
        for s in tree.body[:count]:
            self.statement(reading, s)
        read = {name: v for name, v in reading.suites[0].items() if name != block}
        given = [*kinds, *[v.type for v in read.values()]]
        shape = [t.value for t in given] + ([] if mask is None else [mask.type])
        result = ir.LiteralStructType([t.value for t in results])
        made = Function(b.module, ir.FunctionType(result, shape), b.module.get_unique_name(tree.name))
        made.linkage = "internal"
        made.attributes.add("alwaysinline")
        before = b.block
        b.position_at_end(made.append_basic_block("entry"))
        frame = Frame(outer_names(function), assigned_often(tree))
        for name, t, x in zip([*names, *read], given, made.args, strict=False):
            frame.assign(b, name, Value(t, x))
        self.mask = None if mask is None else made.args[-1]
        found: Any = None
        for s in tree.body[count:]:
            if isinstance(s, ast.Return) and s.value is not None:
                found = self.expression(frame, s.value)
            else:
                self.statement(frame, s)
        returned = ir.Constant(result, ir.Undefined)
        for k, (v, t) in enumerate(zip(found or (), results, strict=True)):
            returned = b.insert_value(returned, cast(b, v, t).llvm, k)
        b.ret(returned)
        b.position_at_end(before)
        operations = made.operations()
        return _Part(made, [v.llvm for v in read.values()], len(results), operations)


@dataclass(frozen=True)
class _Tile:
    """What a tile's function is given, and the functions of its text."""

    element: Any
    sums: Any
    args: Value
    kind: types.Tile
    row: Any
    rows: Any
    column: Any
    columns: Any
    vectors: Sequence[Any]


@dataclass(frozen=True)
class _Part:
    """A function for one vector, the values of its block that it is given, how many it returns, and the length of its code."""

    function: Any
    read: list[Any]
    results: int
    operations: int

    def call(self, b: Any, given: Sequence[Any], mask: Any) -> list[Any]:
        found = b.call(self.function, [*given, *self.read, *([] if mask is None else [mask])])
        return [b.extract_value(found, k) for k in range(self.results)]


def _reads(s: ast.stmt, block: str) -> bool:
    """True for a statement that names what it reads of the argument block."""
    match s:
        case ast.Assign(targets=[ast.Name()], value=ast.Call(args=[ast.Name(id=first), *_])):
            return first == block
    return False
