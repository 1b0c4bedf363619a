"""MAP kernels that read some operands transposed: tile by tile, through shared memory.

A block takes a square of the innermost axis and the axis along which those operands lie. Its threads load them along the latter, meet,
and go on along the former, so that every access to memory is to neighbouring elements:

    x0_tile = cuda.shared.array((32, 33), f32)
    ...
    while tile < tiles:
        ...
        i = ix(i_first + tx)
        j_0 = ix(j_first + ty)
        inside_0 = i < n_i and j_0 < n_j
        (x0_0,) = load_1(x0, i * x0_i + j_0 * x0_j, True, inside_0)
        ...                                                 # all loads, then what was loaded
        x0_tile[ux(ty), ux(tx)] = x0_0
        ...
        cuda.syncthreads()
        j = ix(j_first + tx)
        for k in range(0, 32, 8):
            i = ix(i_first + ty + k)
            if i < n_i and j < n_j:
                v0 = x0_tile[ux(tx), ux(ty + k)]
                v1 = m_exp_f32(v0)  # exp
                o0[i * o0_i + j] = v1
        cuda.syncthreads()
        tile = ix(tile + cuda.gridDim.x)

A row of a tile is longer than the tile, so that the elements of a column lie in different banks.
"""

from __future__ import annotations

import re

from hybridml.kernels.emit_cuda import memory
from hybridml.kernels.emit_cuda.accesses import bodies
from hybridml.kernels.emit_cuda.printer import Printer
from hybridml.kernels.emit_cuda.turns import row_length
from hybridml.kernels.launch import TILE
from hybridml.kernels.spec import Axis, Load, Statement, suffix


class TilePrinter(Printer):
    """The space in tiles, shared out among the blocks."""

    def body(self) -> None:
        assert self.shape.turn is not None
        out, turn = self.out, self.shape.turn
        (axis,) = [a for a in self.kept if a.name == turn.axis]
        inner = self.kept[-1]
        (statements,) = bodies(self.spec)
        loads = {
            s.operand.name: s for s in statements if isinstance(s, Load) and s.operand.name in turn.operands
        }
        for name, s in loads.items():
            dtype = memory.in_memory(s.operand.dtype)
            out(f"{name}_tile = cuda.shared.array(({TILE}, {row_length(dtype.itemsize)}), {suffix(dtype)})")
        out("tx, ty = ix(cuda.threadIdx.x), ix(cuda.threadIdx.y)")
        squares = {a: Axis(f"{a.name}_tile", f"{a.name}_tiles") for a in (axis, inner)}
        for a, square in squares.items():
            out(f"{square.size} = ix(ux({a.size} + {TILE - 1}) // ux({TILE}))")
        over = [squares.get(a, a) for a in self.kept]
        out(f"tiles = {self.product(over)}")
        out("tile = ix(cuda.blockIdx.x)")
        out.open("while tile < tiles:")
        self.unflatten("tile", over)
        for a, square in squares.items():
            out(f"{a.name}_first = ix({square.name} * {TILE})")
        self._load(list(loads.values()), axis, inner)
        out("cuda.syncthreads()")
        out(f"{inner.name} = ix({inner.name}_first + tx)")
        out.open(f"for k in range(0, {TILE}, {self.shape.y}):")
        out(f"{axis.name} = ix({axis.name}_first + ty + k)")
        out.open(f"if {inner.name} < {inner.size} and {axis.name} < {axis.size}:")
        for t in statements:
            self._statement(t)
        out.close()
        out.close()
        out("cuda.syncthreads()")
        out("tile = ix(tile + cuda.gridDim.x)")
        out.close()

    def _load(self, loads: list[Load], axis: Axis, inner: Axis) -> None:
        """The thread's elements of the operands, as memory has them, into the tiles."""
        out, steps = self.out, range(TILE // self.shape.y)
        out(f"{axis.name} = ix({axis.name}_first + tx)")
        for u in steps:
            at = f"{inner.name}_{u}"
            out(f"{at} = ix({inner.name}_first + ty{f' + {u * self.shape.y}' if u else ''})")
            out(f"inside_{u} = {axis.name} < {axis.size} and {at} < {inner.size}")
        for s in loads:
            for u in steps:
                index = re.sub(rf"\b{inner.name}\b", f"{inner.name}_{u}", s.index)
                out(f"({s.operand.name}_{u},) = load_1({s.operand.name}, {index}, True, inside_{u})")
        for s in loads:
            for u in steps:
                row = f"ty + {u * self.shape.y}" if u else "ty"
                out(f"{s.operand.name}_tile[ux({row}), ux(tx)] = {s.operand.name}_{u}")

    def _statement(self, s: Statement) -> None:
        assert self.shape.turn is not None
        if isinstance(s, Load) and s.operand.name in self.shape.turn.operands:
            place = f"{s.operand.name}_tile[ux(tx), ux(ty + k)]"
            self.out(f"{s.name} = {memory.load(place, s.operand.dtype)}")
        else:
            self.plain(s)
