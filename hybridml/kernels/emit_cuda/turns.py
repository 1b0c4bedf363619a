"""Which operands of a MAP kernel lie in memory along another axis than the kernel's innermost one: transposed reads.

Threads that are neighbours along the innermost axis would each read a sector of memory of their own for one element of such an operand.
It is read in tiles along its own axis instead, and turned in shared memory (`tiles`). The strides decide; no op is looked at.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence

from hybridml.kernels.emit_cuda.accesses import bodies, terms
from hybridml.kernels.emit_cuda.memory import in_memory
from hybridml.kernels.emit_cuda.tree import axes
from hybridml.kernels.launch import SHARED_BYTES, TILE, Turn
from hybridml.kernels.spec import KernelSpec, Load, Loop, Mode, Statement

BANK = 4  # bytes
LEAST = TILE // 2  # elements along both axes: less of a tile than half would leave most threads idle


def row_length(itemsize: int) -> int:
    """Elements of a tile's row: one more than the tile has, or a word more of narrow ones, so that a column's elements are in 32 banks."""
    return TILE + max(1, BANK // itemsize)


def tile_bytes(itemsize: int) -> int:
    """Shared memory of one operand's tile."""
    return TILE * row_length(itemsize) * itemsize


def turn(spec: KernelSpec, words: Sequence[int]) -> Turn | None:
    """The axis along which most bytes lie and the operands that are read along it, or None if the kernel has none or cannot be tiled."""
    kept, _ = axes(spec)
    if spec.mode is not Mode.MAP or len(kept) < 2 or any(s.running for s in _loops(spec.body)):
        return None
    value = dict(zip(spec.words, words, strict=True))
    names, inner = [a.name for a in kept], kept[-1]
    found: dict[str, dict[str, int]] = {a.name: {} for a in kept[:-1] if value[a.size] >= LEAST}
    if not found or value[inner.size] < LEAST:
        return None
    (body,) = bodies(spec)
    for s in body:
        if not isinstance(s, Load) or s.operand.written:
            continue
        steps = _steps(s.index, names, value)
        for axis, operands in found.items():
            if steps is not None and abs(steps[axis]) == 1 and abs(steps[inner.name]) > 1:
                operands[s.operand.name] = in_memory(s.operand.dtype).itemsize
    axis, operands = max(found.items(), key=lambda item: sum(item[1].values()))
    while sum(map(tile_bytes, operands.values())) > SHARED_BYTES:
        operands.popitem()
    return Turn(axis, tuple(operands)) if operands else None


def tiles(spec: KernelSpec, words: Sequence[int], axis: str) -> int:
    """How many tiles of this axis and the innermost one cover the kernel's space."""
    value = dict(zip(spec.words, words, strict=True))
    kept, _ = axes(spec)
    count = 1
    for a in kept:
        size = value[a.size]
        count *= -(-size // TILE) if a.name == axis or a is kept[-1] else size
    return count


def _steps(index: str, names: Sequence[str], value: Mapping[str, int]) -> dict[str, int] | None:
    """What a step along each axis adds to an index; None unless it is a sum of axes times words."""
    found = dict.fromkeys(names, 0)
    for term in terms(index):
        node = ast.parse(term, mode="eval").body
        factors = (
            [node.left, node.right]
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
            else [node]
        )
        if not all(isinstance(f, (ast.Name, ast.Constant)) for f in factors):
            return None
        step, axis = 1, None
        for f in factors:
            if isinstance(f, ast.Constant) and isinstance(f.value, int):
                step *= f.value
            elif isinstance(f, ast.Name) and f.id in found and axis is None:
                axis = f.id
            elif isinstance(f, ast.Name) and f.id in value:
                step *= value[f.id]
            else:
                return None
        if axis is not None:
            found[axis] += step
    return found


def _loops(body: Sequence[Statement]) -> Iterator[Loop]:
    for s in body:
        if isinstance(s, Loop):
            yield s
            yield from _loops(s.body)
