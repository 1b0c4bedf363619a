"""The argument block of a kernel under construction: operands, sizes, strides and scalars, each with its name in the text."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml.kernels.geometry import Geometry, Strides
from hybridml.kernels.spec import Axis, Operand, Scalar
from hybridml.trace.graph import Value

Access = tuple[Operand, str]  # an operand and the text of its index


class Arguments:
    """Names are given in the order of first use, so kernels of one structure have one text."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self.operands: list[Operand] = []
        self.bases: list[tuple[Value, int]] = []  # base and byte offset of each operand
        self.strides: list[Strides] = []  # of each operand, over the axes
        self.words: list[str] = []
        self.word_values: list[int] = []
        self.scalars: list[Scalar] = []
        self.scalar_values: list[tuple[Any, np.dtype]] = []
        self._reads: dict[tuple[Value, Strides, int], Access] = {}
        self._writes: dict[Value, Access] = {}
        self._indices: dict[int, str] = {}
        self._scalar_names: dict[tuple[str, np.dtype], str] = {}
        self.axes = [Axis("", "")] * len(geometry.sizes)
        self._name_axes()
        if geometry.product is not None:
            self._add_block(geometry.product, self._reads, (geometry.product, (geometry.sizes[1], 1), 0))
        elif geometry.packed is not None:
            self._add_block(geometry.packed, self._writes, geometry.packed)

    def _name_axes(self) -> None:
        geometry = self._geometry
        for letter, members in (("i", geometry.outer), ("r", geometry.crossed), ("j", geometry.inner)):
            for position, k in enumerate(members):
                name = f"{letter}{position}" if len(members) > 1 else letter
                self.axes[k] = Axis(name, self._word(f"n_{name}", geometry.sizes[k]))

    def _add_block(self, v: Value, accesses: dict[Any, Access], key: Any) -> None:
        """What is visited in blocks comes first: a matrix product, or what it packs. A block's own address and row length are at hand."""
        block = self._operand(accesses is self._writes, v, 0, (self._geometry.sizes[1], 1))
        rows, columns = self.axes
        accesses[key] = block, f"({rows.name} - begin) * block_row + {columns.name} - first"

    def _word(self, name: str, value: int) -> str:
        self.words.append(name)
        self.word_values.append(value)
        return name

    def _affine(self, name: str, strides: Strides) -> str:
        """The index text `i * x0_i + j`: a stride of 1 along the innermost axis is part of the structure, others are words."""
        terms = []
        for k, axis in enumerate(self.axes):
            if strides[k] == 1 and k == len(self.axes) - 1:
                terms.append(axis.name)
            elif strides[k] != 0:
                terms.append(f"{axis.name} * {self._word(f'{name}_{axis.name}', strides[k])}")
        return " + ".join(terms) or "0"

    def _operand(self, written: bool, base: Value, offset: int, strides: Strides) -> Operand:
        number = sum(o.written == written for o in self.operands)
        operand = Operand(f"{'o' if written else 'x'}{number}", base.dtype, written)
        self.operands.append(operand)
        self.bases.append((base, offset * base.dtype.itemsize))
        self.strides.append(strides)
        return operand

    def read(self, base: Value, strides: Strides, offset: int) -> Access:
        """A value from outside, walked with these strides."""
        key = (base, strides, offset)
        if key not in self._reads:
            operand = self._operand(False, base, offset, strides)
            self._reads[key] = operand, self._affine(operand.name, strides)
        return self._reads[key]

    def write(self, i: int) -> Access:
        """The result of node i, which this kernel writes, and may read back."""
        v = self._geometry.nodes[i].out
        if v not in self._writes:
            strides = self._geometry.own_strides(i)
            operand = self._operand(True, v, 0, strides)
            self._writes[v] = operand, self._affine(operand.name, strides)
        return self._writes[v]

    def index(self, i: int) -> str:
        """The text that {index} of node i stands for."""
        if i not in self._indices:
            name = f"k{len(self._indices)}"
            self._indices[i] = f"({self._affine(name, self._geometry.index_strides(i))})"
        return self._indices[i]

    def scalar(self, value: Any, dtype: np.dtype) -> str:
        """The name of a literal."""
        key = (repr(value), dtype)
        if key not in self._scalar_names:
            self._scalar_names[key] = f"c{len(self.scalars)}"
            self.scalars.append(Scalar(self._scalar_names[key], dtype))
            self.scalar_values.append((value, dtype))
        return self._scalar_names[key]
