"""KernelSpec to Python source for Numba on CUDA: the same tree of statements as `emit` prints for the CPU, for many threads.

A row-wise softmax whose rows are shared by 256 threads, for example, begins

    def exp_max_subtract_sum_divide(x0, o0, n_i, n_j, x0_i, o0_i, c0, c1):
        s0 = cuda.shared.array(8, f32)
        lane = ix(cuda.threadIdx.x)
        rows = n_i
        row = ix(cuda.blockIdx.x)
        while row < rows:
            i = row
            a0 = c0
            for j in range(lane, n_j, LANES):
                v0 = x0[i * x0_i + j]
                a0 = m_maximum_f32(a0, v0)
            a0 = m_maximum_f32(a0, shuffle_xor(a0, 16))     # 8, 4, 2, 1: the largest of the warp
            ...
            if lane & 31 == 0:
                s0[lane >> 5] = a0
            cuda.syncthreads()
            a0 = s0[0]
            for w in range(1, 8):
                a0 = m_maximum_f32(a0, s0[w])               # the same order in every thread: the same bits
            ...

Element j of a row belongs to the same thread in every pass, so what one pass stores the next one reads back without a barrier.
Threads beyond the last row repeat that row and store nothing, so all threads of a block meet at every barrier. Nothing depends on
the order in which blocks or threads run: equal inputs give equal bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hybridml.kernels.launch import WARP, Shape
from hybridml.kernels.spec import (
    Accumulate,
    Axis,
    Flag,
    KernelSpec,
    Let,
    Load,
    Loop,
    Mode,
    Operand,
    Statement,
    Store,
    suffix,
)
from hybridml.kernels.text import CALL, Lines, typed

Phase = Literal["whole", "partial", "finish"]


@dataclass(frozen=True)
class Parameter:
    """One argument of a printed kernel: a pointer to `dtype` (bools lie in memory as uint8), or a value of it."""

    name: str
    dtype: np.dtype
    pointer: bool = False


@dataclass(frozen=True)
class _Reduction:
    """One accumulator of a pass: the variable that holds it, and the step that fills it."""

    name: str
    step: Accumulate


def parameters(spec: KernelSpec, shape: Shape, phase: Phase = "whole") -> list[Parameter]:
    """The arguments, in order: operands, sizes and strides, scalars, and for a reduction in parts their buffers and number.

    A pointer is the address of the operand's first element, its offset included: strides may be negative.
    """
    index = np.dtype(f"i{shape.index // 8}")
    found = [Parameter(o.name, _in_memory(o.dtype), pointer=True) for o in spec.operands]
    found += [Parameter(name, index) for name in spec.words]
    found += [Parameter(s.name, s.dtype) for s in spec.scalars]
    if phase != "whole":
        found += [
            Parameter(f"w{k}", _in_memory(r.step.dtype), pointer=True) for k, r in enumerate(reductions(spec))
        ]
        found.append(Parameter("parts", index))
    return found


def reductions(spec: KernelSpec) -> list[_Reduction]:
    """Every accumulator of the kernel, pass by pass."""
    return [r for s in spec.body if isinstance(s, Loop) for r in _reductions_of(_innermost(s))]


def is_splittable(spec: KernelSpec) -> bool:
    """True if the kernel is one pass of reductions, with nothing stored an element: it can run in two phases."""
    passes = [s for s in spec.body if isinstance(s, Loop) and not _is_kept(spec, s)]
    if spec.mode is Mode.MAP or len(passes) != 1:
        return False
    inner = _innermost(passes[0])
    found = _reductions_of(inner)
    stored = {_register(s.operand.name) for s in inner if isinstance(s, Store)}
    return bool(found) and stored <= {r.name for r in found}  # a COLUMN kernel's text stores its accumulators


def space(spec: KernelSpec) -> tuple[list[str], list[str]]:
    """The names of the sizes that are kept (MAP: all but those that run in order) and of those that are reduced."""
    kept, reduced = _axes(spec)
    return [a.size for a in kept], [a.size for a in reduced]


def emit(
    spec: KernelSpec, shape: Shape, phase: Phase = "whole", scratch: Collection[str] = ()
) -> tuple[str, str]:
    """(name, source) of the kernel for blocks of this shape; equal structures give equal text.

    Args:
        phase: "partial" reduces part `blockIdx.y` of the reduced axes into the buffers `w0`, `w1`...; "finish" combines them.
        scratch: operands that nobody reads afterwards. Threads keep such values in registers.
    """
    return _Printer(spec, shape, phase, scratch).print()


# the tree


def _innermost(loop: Loop) -> list[Statement]:
    body = loop.body
    while len(body) == 1 and isinstance(body[0], Loop):
        body = body[0].body
    return body


def _nest(loop: Loop) -> list[Axis]:
    axes = [loop.axis]
    body = loop.body
    while len(body) == 1 and isinstance(body[0], Loop):
        axes.append(body[0].axis)
        body = body[0].body
    return axes


def _reductions_of(body: list[Statement]) -> list[_Reduction]:
    """Accumulators in registers (ROW) or in memory (COLUMN, where a register named after the operand stands for it)."""
    found = [_Reduction(s.name, s) for s in body if isinstance(s, Accumulate)]
    loaded = {s.name: s.operand for s in body if isinstance(s, Load)}
    steps = [s.step for s in body if isinstance(s, Let) and s.step is not None]
    return found + [_Reduction(_register(loaded[s.name].name), s) for s in steps]


def _register(operand: str) -> str:
    return f"r_{operand}"


def _is_kept(spec: KernelSpec, loop: Loop) -> bool:
    """True for a COLUMN kernel's loop over the columns alone: its statements run once a column."""
    return spec.mode is Mode.COLUMN and not isinstance(loop.body[0], Loop)


def _axes(spec: KernelSpec) -> tuple[list[Axis], list[Axis]]:
    """(kept, reduced) axes; a MAP kernel keeps all but those that run in order."""
    loops = [s for s in spec.body if isinstance(s, Loop)]
    if spec.mode is Mode.MAP:
        return spec.parallel + _mapped(spec.body), []
    if spec.mode is Mode.ROW:
        return spec.parallel, _nest(loops[0])
    full = next(s for s in loops if not _is_kept(spec, s))
    *reduced, column = _nest(full)
    return [*spec.parallel, column], reduced


def _mapped(body: list[Statement]) -> list[Axis]:
    """The axes of a MAP kernel's loops whose steps are threads."""
    return [a for s in body if isinstance(s, Loop) for a in ([] if s.running else [s.axis]) + _mapped(s.body)]


# printing


class _Printer:
    def __init__(self, spec: KernelSpec, shape: Shape, phase: Phase, scratch: Collection[str]) -> None:
        if phase != "whole" and not is_splittable(spec):
            raise ValueError(
                f"kernel {spec.title} has several passes or stores every element: it runs in one phase"
            )
        if spec.crossed:
            raise ValueError(
                f"kernel {spec.title} adds up across its rows: on a GPU, fuse without, and let a COLUMN kernel do it in parts"
            )
        self.spec, self.shape, self.phase, self.scratch = spec, shape, phase, scratch
        self.out = Lines()
        self.out.depth = 1
        self.kept, self.reduced = _axes(spec)
        self.along_x = spec.mode is not Mode.COLUMN  # which threads share a row
        self.lanes, self.tile = (shape.x, shape.y) if self.along_x else (shape.y, shape.x)
        self.guarded = self.tile > 1  # the last block may have fewer rows than it has threads for
        self.numbers = {r.name: k for k, r in enumerate(reductions(spec))}
        self.stores: list[Store] = []  # one a row, by one thread, at the end
        self.barriers = 0
        self.loaded = False  # since the last barrier: an output may take over the memory of an input

    def print(self) -> tuple[str, str]:
        if self.spec.mode is Mode.MAP:
            self._map()
        else:
            self._rows()
        body = "\n".join(self.out.text)
        header = self._header(body)
        digest = hashlib.sha256(f"{header}{body}".encode()).hexdigest()[:12]
        name = f"{self.spec.title[:60]}_{digest}"
        arguments = ", ".join(p.name for p in parameters(self.spec, self.shape, self.phase))
        return name, f"{header}\n\ndef {name}({arguments}):\n{body}\n"

    def _header(self, body: str) -> str:
        bits = self.shape.index
        lines = ["import numpy as np", "from numba import cuda", ""]
        if "shuffle_xor(" in body:
            lines.append("from hybridml.kernels.block import shuffle_xor")
        lines += ["from hybridml.kernels.targets import scalar_functions", "", 'm = scalar_functions("cuda")']
        dtypes = {suffix(r.step.dtype) for r in reductions(self.spec)} if "shared.array" in body else set()
        used = set(CALL.findall(body)) | {_EXCHANGED.get(d, d) for d in dtypes}
        lines += [f"{f} = m.{f}" for f in sorted(used)]
        lines += [f"ix, ux = np.int{bits}, np.uint{bits}  # of sizes, strides and loop variables"]
        if "LANES" in body:
            lines.append(
                f"LANES = ix({self.lanes})  # threads that share a {'row' if self.along_x else 'column'}"
            )
        return "\n".join(lines) + "\n"

    def _product(self, axes: list[Axis]) -> str:
        if len(axes) == 1:
            return axes[0].size
        return f"ix({' * '.join(a.size for a in axes) or '1'})"

    def _unflatten(self, flat: str, axes: list[Axis]) -> None:
        """The loop variables of row-major axes; unsigned division has no sign to correct, and narrows to 32 bits."""
        rest = flat
        for position, axis in reversed(list(enumerate(axes))):
            if position == 0:
                if axis.name != rest:
                    self.out(f"{axis.name} = {rest}")
            else:
                self.out(f"{flat}{position} = ix(ux({rest}) // ux({axis.size}))")
                self.out(f"{axis.name} = ix({rest} - {flat}{position} * {axis.size})")
                rest = f"{flat}{position}"

    # element by element

    def _map(self) -> None:
        out = self.out
        out("row = ix(cuda.grid(1))")
        out("step = ix(cuda.gridsize(1))")
        out(f"rows = {self._product(self.kept)}")
        out.open("while row < rows:")
        self._unflatten("row", self.kept)
        self._flat(self.spec.body)
        out("row = ix(row + step)")
        out.close()

    def _flat(self, body: list[Statement]) -> None:
        """The body without the loops whose axes are spread over threads; those that run in order stay within one thread."""
        for s in body:
            if not isinstance(s, Loop):
                self._plain(s)
            elif s.running:
                self.out.open(f"for {s.axis.name} in range({s.axis.size}):")
                self._flat(s.body)
                self.out.close()
            else:
                self._flat(s.body)

    def _plain(self, s: Statement) -> None:
        match s:
            case Load(name, operand, index):
                self.out(f"{name} = {_load(f'{operand.name}[{index}]', operand.dtype)}")
            case Let(name, text, _, note):
                self.out(f"{name} = {text}" + (f"  # {note}" if note else ""))
            case Store(operand, index, value):
                self.out(_store(operand, index, value))
            case Flag(operand, when):
                self.out.open(f"if {when}:")
                self.out(
                    f"{operand.name}[0] = u8(1)"
                )  # from any thread, and whatever else they do: it is never unset
                self.out.close()
            case _:
                raise TypeError(f"{type(s).__name__} has no place outside a pass over a row")

    # rows and columns

    def _rows(self) -> None:
        out = self.out
        self._shared()
        row, lane = ("y", "x") if self.along_x else ("x", "y")
        if self.lanes > 1:
            out(f"lane = ix(cuda.threadIdx.{lane})")
        if self.phase == "partial":
            out("part = ix(cuda.blockIdx.y)")
        out(f"rows = {self._product(self.kept)}")
        if self.guarded:
            out(f"tile = ix(cuda.blockIdx.x * {self.tile})")
            out.open("while tile < rows:")
            out(f"row = ix(tile + cuda.threadIdx.{row})")
            out("own = row < rows")
            out("row = row if own else ix(rows - 1)")
        else:
            out("row = ix(cuda.blockIdx.x)")
            out.open("while row < rows:")
        self._unflatten("row", self.kept)
        for s in self.spec.body:
            if not isinstance(s, Loop):
                self._once(s)
            elif _is_kept(self.spec, s):
                for t in s.body:
                    self._once(t)
            else:
                self._pass(s)
                if self.phase == "partial":
                    break
        self._finish()
        if self.barriers == 1:
            out("cuda.syncthreads()")  # everybody has read what the next row overwrites
        if self.guarded:
            out(f"tile = ix(tile + cuda.gridDim.x * {self.tile})")
        else:
            out("row = ix(row + cuda.gridDim.x)")
        out.close()

    def _shared(self) -> None:
        if self.lanes == 1 or (self.along_x and self.lanes <= WARP):
            return
        size = str(self.lanes // WARP) if self.along_x else f"({self.lanes}, {self.tile})"
        for k, r in enumerate(reductions(self.spec)):
            self.out(f"s{k} = cuda.shared.array({size}, {_exchanged(r.step.dtype)})")

    def _once(self, s: Statement) -> None:
        """A statement that runs once a row: in every thread, except that one of them stores, at the end."""
        match s:
            case Store(operand, _, value) if self.spec.mode is Mode.COLUMN:
                if all(t.operand != operand for t in self.stores):
                    self.stores.append(Store(operand, s.index, _register(operand.name)))
                self.out(f"{_register(operand.name)} = {value}")
            case Store():
                self.stores.append(s)
            case Load(name, operand, _) if self._in_register(operand.name):
                self.out(f"{name} = {_register(operand.name)}")
            case _:
                self.loaded |= isinstance(s, Load)
                self._plain(s)

    def _in_register(self, operand: str) -> bool:
        return self.spec.mode is Mode.COLUMN and any(s.operand.name == operand for s in self.stores)

    def _pass(self, loop: Loop) -> None:
        """One walk over the row's elements, each by one of the threads that share it."""
        out = self.out
        inner = _innermost(loop)
        found = _reductions_of(inner)
        for a in loop.reduces:
            out(f"{a.name} = {a.identity}")
        if self.phase == "finish":
            self._range("q", "parts")
            for r in found:
                part = _load(f"w{self.numbers[r.name]}[q * rows + row]", r.step.dtype)
                out(f"{r.name} = {typed(r.step.combine.format(r.name, part), r.step)}")
        else:
            several = len(self.reduced) > 1
            self._range("q" if several else self.reduced[0].name, self._product(self.reduced))
            if several:
                self._unflatten("q", self.reduced)
            self._elements(inner, {r.step.name: r for r in found})
        out.close()
        if self.lanes > 1 and found:
            self._combine(found)
        if self.phase == "partial":
            places = [f"w{self.numbers[r.name]}[part * rows + row]" for r in found]
            self._guard(
                [f"{p} = {_memory(r.name, r.step.dtype)}" for p, r in zip(places, found, strict=True)]
            )

    def _range(self, name: str, size: str) -> None:
        if self.phase == "partial":
            lane = " + lane" if self.lanes > 1 else ""
            self.out.open(f"for {name} in range(ix(part * LANES{lane}), {size}, ix(parts * LANES)):")
        elif self.lanes > 1:
            self.out.open(f"for {name} in range(lane, {size}, LANES):")
        else:
            self.out.open(f"for {name} in range({size}):")

    def _elements(self, body: list[Statement], found: dict[str, _Reduction]) -> None:
        stores = []
        for s in body:
            match s:
                case Accumulate(name, value):
                    self._step(found[name], value)
                case Let(step=Accumulate(name, value)):
                    self._step(found[name], value)
                case Load(name, operand) if self._in_register(operand.name):
                    if name not in found:
                        self.out(f"{name} = {_register(operand.name)}")
                case Store(operand, index, value):
                    if not self._in_register(operand.name):
                        stores.append(_store(operand, index, value))
                case _:
                    self.loaded |= isinstance(s, Load) and not self.along_x
                    self._plain(s)
        if stores and self.guarded:
            self.out.open("if own:")
        for line in stores:
            self.out(line)
        if stores and self.guarded:
            self.out.close()

    def _step(self, r: _Reduction, value: str) -> None:
        self.out(f"{r.name} = {typed(r.step.combine.format(r.name, value), r.step)}")

    def _combine(self, found: list[_Reduction]) -> None:
        """Every thread of the row gets the combination of all its threads' accumulators."""
        out = self.out
        if self.along_x:
            distance = min(self.lanes, WARP) // 2
            while distance:
                for r in found:
                    self._step(
                        r, _back(f"shuffle_xor({_forth(r.name, r.step.dtype)}, {distance})", r.step.dtype)
                    )
                distance //= 2
            if self.lanes <= WARP:
                return
            out.open(f"if lane & {WARP - 1} == 0:")
            for r in found:
                out(f"s{self.numbers[r.name]}[lane >> 5] = {_forth(r.name, r.step.dtype)}")
            out.close()
        else:
            for r in found:
                out(f"s{self.numbers[r.name]}[lane, cuda.threadIdx.x] = {_forth(r.name, r.step.dtype)}")
        self._barrier()
        place = "{}" if self.along_x else "{}, cuda.threadIdx.x"
        for r in found:
            out(f"{r.name} = {_back(f's{self.numbers[r.name]}[{place.format(0)}]', r.step.dtype)}")
        out.open(f"for w in range(1, {self.lanes // WARP if self.along_x else self.lanes}):")
        for r in found:
            self._step(r, _back(f"s{self.numbers[r.name]}[{place.format('w')}]", r.step.dtype))
        out.close()

    def _barrier(self) -> None:
        self.out("cuda.syncthreads()")
        self.barriers += 1
        self.loaded = False

    def _finish(self) -> None:
        """The stores that happen once a row."""
        stores = [s for s in self.stores if s.operand.name not in self.scratch]
        if not stores or self.phase == "partial":
            return
        if self.loaded and self.lanes > 1:
            self._barrier()  # the store may overwrite what slower threads of the row have still to load
        self._guard([_store(s.operand, s.index, s.value) for s in stores])

    def _guard(self, lines: list[str]) -> None:
        """These lines run in one thread a row."""
        tests = ["own"] * self.guarded + ["lane == 0"] * (self.lanes > 1)
        if tests:
            self.out.open(f"if {' and '.join(tests)}:")
        for line in lines:
            self.out(line)
        if tests:
            self.out.close()


# Pointers to bool are beyond Numba, which keeps bools as bits in registers and as bytes in memory.
def _in_memory(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype


def _load(place: str, dtype: np.dtype) -> str:
    return f"({place} != 0)" if dtype.kind == "b" else place


def _memory(value: str, dtype: np.dtype) -> str:
    return f"u8({value})" if dtype.kind == "b" else value


def _store(operand: Operand, index: str, value: str) -> str:
    return f"{operand.name}[{index}] = {_memory(value, operand.dtype)}"


# Values travel between threads as one of four types; the others as the type of their bits.
_EXCHANGED = {"b1": "i32", "i8": "i32", "i16": "i32", "u8": "i32", "u16": "i32", "u32": "i32", "u64": "i64"}


def _exchanged(dtype: np.dtype) -> str:
    return _EXCHANGED.get(suffix(dtype), suffix(dtype))


def _forth(name: str, dtype: np.dtype) -> str:
    return f"{_exchanged(dtype)}({name})" if suffix(dtype) in _EXCHANGED else name


def _back(text: str, dtype: np.dtype) -> str:
    if dtype.kind == "b":
        return f"({text} != 0)"
    return f"{suffix(dtype)}({text})" if suffix(dtype) in _EXCHANGED else text
