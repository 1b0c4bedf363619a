"""What all printers for CUDA share: arguments, the header of a text, flat indices, and statements that stand alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hybridml.kernels.emit_cuda.element import Element
from hybridml.kernels.emit_cuda.memory import in_memory, load, store
from hybridml.kernels.emit_cuda.tree import axes, is_splittable, reductions
from hybridml.kernels.launch import Shape
from hybridml.kernels.spec import Axis, Flag, KernelSpec, Let, Load, Mode, Statement, Store
from hybridml.kernels.targets import Target
from hybridml.kernels.text import CALL, Lines

Phase = Literal["whole", "partial", "finish"]

_WIDE = re.compile(r"\b((?:aligned|load|store)(?:_[a-z]\w*?)?_\d+)(?=\()")
_SHARED = re.compile(r"shared\.array\(.+, (\w+)\)")
_HALF = re.compile(r"\b((?:from|to)_b?f16)(?=\()")


@dataclass(frozen=True)
class Parameter:
    """One argument of a printed kernel: a pointer to `dtype` (bools lie in memory as uint8), or a value of it."""

    name: str
    dtype: np.dtype
    pointer: bool = False


def parameters(spec: KernelSpec, shape: Shape, phase: Phase = "whole") -> list[Parameter]:
    """The arguments, in order: operands, sizes and strides, scalars, and for a reduction in parts their buffers and number.

    A pointer is the address of the operand's first element, its offset included: strides may be negative.
    """
    index = np.dtype(f"i{shape.index // 8}")
    found = [Parameter(o.name, in_memory(o.dtype), pointer=True) for o in spec.operands]
    found += [Parameter(name, index) for name in spec.words]
    found += [Parameter(s.name, s.dtype) for s in spec.scalars]
    if phase != "whole":
        found += [
            Parameter(f"w{k}", in_memory(r.step.dtype), pointer=True) for k, r in enumerate(reductions(spec))
        ]
        found.append(Parameter("parts", index))
    return found


class Printer:
    """A kernel's text under construction; `body` is written by each mode's printer."""

    def __init__(self, spec: KernelSpec, shape: Shape, phase: Phase, scratch: Collection[str]) -> None:
        if phase != "whole" and not is_splittable(spec):
            raise ValueError(f"kernel {spec.title} has several passes: it runs in one phase")
        if spec.crossed:
            raise ValueError(
                f"kernel {spec.title} adds up across its rows: on a GPU, fuse without, and let a COLUMN kernel do it in parts"
            )
        self.spec, self.shape, self.phase, self.scratch = spec, shape, phase, scratch
        self.out = Lines()
        self.out.depth = 1
        self.kept, self.reduced = axes(spec)
        self.along_x = spec.mode is not Mode.COLUMN  # which threads share a row
        self.lanes, self.tile = (shape.x, shape.y) if self.along_x else (shape.y, shape.x)
        self.elements: list[Element] = []

    def body(self) -> None:
        """Print the kernel's statements."""
        raise NotImplementedError

    def arguments(self) -> list[Parameter]:
        """What the kernel is given."""
        return parameters(self.spec, self.shape, self.phase)

    def print(self, target: Target) -> tuple[str, str]:
        """(name, source), with the scalar functions of a target."""
        self.body()
        body = "\n".join(self.out.text)
        functions = "".join(f"\n\n{e.definition()}" for e in self.elements if e.lines)
        header = self._header(body, functions, target)
        digest = hashlib.sha256(f"{header}{functions}{body}".encode()).hexdigest()[:12]
        name = f"{self.spec.title[:60]}_{digest}"
        arguments = ", ".join(p.name for p in self.arguments())
        return name, f"{header}{functions}\n\ndef {name}({arguments}):\n{body}\n"

    def _header(self, body: str, functions: str, target: Target) -> str:
        bits = self.shape.index
        lines = ["import numpy as np", "from numba import cuda", ""]
        if "shuffle_xor(" in body:
            lines.append("from hybridml.kernels.block import shuffle_xor")
        halves = sorted(set(_HALF.findall(body + functions)))
        if halves:
            lines.append(f"from hybridml.kernels.half import {', '.join(halves)}")
        lines += ["from hybridml.kernels.targets import scalar_functions"]
        wide = sorted(set(_WIDE.findall(body)))
        if wide:
            lines.append(f"from hybridml.kernels.wide import {', '.join(wide)}")
        lines += ["", f'm = scalar_functions("{target}")']
        used = {*CALL.findall(body + functions), *_SHARED.findall(body)}
        lines += [f"{f} = m.{f}" for f in sorted(used)]
        lines += [f"ix, ux = np.int{bits}, np.uint{bits}  # of sizes, strides and loop variables"]
        if "LANES" in body:
            lines.append(
                f"LANES = ix({self.lanes})  # threads that share a {'row' if self.along_x else 'column'}"
            )
        return "\n".join(lines) + "\n"

    def product(self, over: list[Axis]) -> str:
        """The text of the number of elements over these axes."""
        if len(over) == 1:
            return over[0].size
        return f"ix({' * '.join(a.size for a in over) or '1'})"

    def unflatten(self, flat: str, over: list[Axis]) -> None:
        """The loop variables of row-major axes; unsigned division has no sign to correct, and narrows to 32 bits."""
        rest = flat
        for position, axis in reversed(list(enumerate(over))):
            if position == 0:
                if axis.name != rest:
                    self.out(f"{axis.name} = {rest}")
            else:
                self.out(f"{flat}{position} = ix(ux({rest}) // ux({axis.size}))")
                self.out(f"{axis.name} = ix({rest} - {flat}{position} * {axis.size})")
                rest = f"{flat}{position}"

    def plain(self, s: Statement) -> None:
        """A statement that stands alone."""
        match s:
            case Load(name, operand, index):
                self.out(f"{name} = {load(f'{operand.name}[{index}]', operand.dtype)}")
            case Let(name, text, _, note):
                self.out(f"{name} = {text}" + (f"  # {note}" if note else ""))
            case Store(operand, index, value):
                self.out(store(operand, index, value))
            case Flag(operand, when):
                self.out.open(f"if {when}:")
                self.out(f"{operand.name}[0] = u8(1)")  # from any thread: it is never unset
                self.out.close()
            case _:
                raise TypeError(f"{type(s).__name__} has no place outside a pass over a row")
