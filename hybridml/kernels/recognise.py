"""The way into a program without Python: native code recognises a call's arguments and finds the arrays in them.

What PyTorch and JAX do in C++ on each call of a compiled function: look at the nest of arguments and at every tensor's dtype and sizes,
and only if all is as it was when the function was traced, run. Here the questions are rows of a table that `recognise_loops` walks. The
results are made there, too (`answer_loops`).

    rows = Rows(Form(TensorClass, slot_of_its_array, its_other_slot))
    first = rows.items(args, rows.root)          # args is a tuple: one place for each of its items
    rows.array(first, dtype, (3, 4), index=0)    # the first item is a tensor, array number 0 of the program
    rows.result(dtype, (3, 4), index=1)          # array number 1 is new
    call = rows.finish(program, single=True)
    call(args)                                   # a tensor, or NO_ANSWER
    rows.hits[0]                                 # how many calls were answered
"""

from __future__ import annotations

import math
import struct
import weakref
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybridml import buffers
from hybridml.kernels import layout
from hybridml.kernels.driver import Program, call_block, entry
from hybridml.kernels.layout import Check

_NUMBERS = {int: np.dtype(np.int64), float: np.dtype(np.float64)}
_BYTE = np.dtype(np.uint8)

NO_ANSWER: Any = object()  # what a call returns where its arguments are others than the rows know


@dataclass(frozen=True)
class Form:
    """What native code knows of a class of tensors: bytes from the beginning of an object to the slot of its array, and to the other one,
    which in a new object holds None."""

    cls: type
    array: int
    none: int


class _Block(np.ndarray):
    """A call's block, which owns what its addresses lead to."""

    keeps: list[Any]


class Rows:
    """The rows of one call under construction. Every object that one asks about has a place; the arguments' tuple has place `root`.

    The program's arrays are those that rows find or make, and then the results, in order.
    """

    root = 0

    def __init__(self, form: Form, hits: array[int] | None = None) -> None:
        self._form = form
        self.hits = array("q", [0]) if hits is None else hits  # other calls may count there, too
        self._made: list[list[int]] = []
        self._arrays = self._results = 0  # how many
        self._rows: list[list[int]] = []
        self._found = [0]  # the object in each place: what the rows find, or one that is there for good
        self._keep: list[Any] = [form.cls]

    def items(self, x: tuple[Any, ...] | list[Any] | dict[Any, Any], place: int) -> int:
        """The object is of the type of `x` and of its length, if a dictionary with the same keys in the same order; the first place of
        its items."""
        first = len(self._found)
        self._found += [0] * len(x)
        kind = Check.DICT if isinstance(x, dict) else Check.LIST if isinstance(x, list) else Check.TUPLE
        keys = self._words(list(map(id, x))) if isinstance(x, dict) else 0
        self._keep += [type(x), list(x) if isinstance(x, dict) else None]
        self._add(kind, place, id(type(x)), len(x), first, keys)
        return first

    def known(self, x: Any) -> int:
        """A place for an object that is not among the arguments; it is kept alive."""
        self._keep.append(x)
        self._found.append(id(x))
        return len(self._found) - 1

    def the(self, x: Any, place: int) -> None:
        """The object is `x`, which is kept alive."""
        self._keep.append(x)
        self._add(Check.IS, place, id(x))

    def alive(self, ref: weakref.ref[Any], place: int) -> None:
        """The object is the one that is referred to."""
        self._keep.append(ref)
        self._add(Check.IS_ALIVE, place, id(ref), id(None))

    def equals(self, x: float, place: int) -> None:
        """The object is an int or a float of this value, to the last bit."""
        if type(x) is int:
            self._add(Check.IS_INT, place, id(int), x)
        else:
            self._add(Check.IS_FLOAT, place, id(float), struct.unpack("q", struct.pack("d", x))[0])

    def array(self, place: int, dtype: np.dtype, shape: Sequence[int], index: int) -> None:
        """The object is a tensor or an array of this dtype and shape, C-contiguous: number `index` of the program's arrays."""
        self._keep.append(dtype)
        self._add(Check.ARRAY, place, id(dtype), len(shape), self._words(shape), self._array(index))

    def number(self, cls: type, place: int, index: int) -> None:
        """The object is an int or a float of any value, which goes into array `index`: a new one of no axes, int64 or float64."""
        self._make(_NUMBERS[cls], (), index)
        self._add(Check.INT if cls is int else Check.FLOAT, place, id(cls), 0, 0, index)

    def state(self, x: Any, slot: int, index: int, is_written: bool) -> None:
        """Array `index` is that of the object `x`; nobody else may hold it if the program writes it."""
        self._keep.append(x)
        self._add(Check.STATE, self.root, id(x), slot, int(is_written), self._array(index))

    def result(self, dtype: np.dtype, shape: Sequence[int], index: int) -> None:
        """Array `index` is a new one, which the call returns."""
        self._make(dtype, shape, index)
        self._results += 1

    def finish(self, program: Program, single: bool) -> Callable[[tuple[Any, ...]], Any]:
        """A function of a call's arguments: it returns the result as a tensor if there is a `single` one, else a tuple of them."""
        rows = np.array(self._rows, np.int64).reshape(-1, layout.CHECK_WORDS)
        found = np.array(self._found, np.int64)
        made = np.array(self._made, np.int64).reshape(-1, layout.MADE_WORDS)
        words = {
            layout.CHECKS: rows.ctypes.data, layout.CHECK_COUNT: len(rows), layout.FOUND: found.ctypes.data,
            layout.TENSOR_TYPE: id(self._form.cls), layout.TENSOR_SLOT: self._form.array, layout.TENSOR_NONE: self._form.none,
            layout.NONE: id(None), layout.ARRAY_TYPE: id(np.ndarray), layout.TUPLE_ITEMS: tuple.__basicsize__,
            layout.HITS: self.hits.buffer_info()[0], layout.NO_ANSWER: id(NO_ANSWER), layout.ARRAY_COUNT: self._arrays,
            layout.ANSWER_COUNT: self._results, layout.IS_TUPLE: not single, layout.MADE: made.ctypes.data,
            layout.MADE_COUNT: len(made), layout.MEMORY_TYPE: id(buffers.Memory), layout.BYTE_DTYPE: id(_BYTE),
            layout.TURN: buffers.turns.buffer_info()[0],
        }  # fmt: skip
        block = call_block(program.address).view(_Block)
        for word, value in words.items():
            block[word // 8] = value
        block.keeps = [rows, found, made, program, self.hits, *self._keep]
        return entry(block)

    def _make(self, dtype: np.dtype, shape: Sequence[int], index: int) -> None:
        nbytes = math.prod(shape) * dtype.itemsize
        self._keep.append(dtype)
        self._made.append(
            [self._array(index), id(dtype), len(shape), self._words(shape), buffers.spread_bytes(nbytes)]
        )

    def _array(self, index: int) -> int:
        self._arrays = max(self._arrays, index + 1)
        return index

    def _add(self, kind: Check, source: int, *words: int) -> None:
        row = [int(kind), source, *words]
        self._rows.append(row + [0] * (layout.CHECK_WORDS - len(row)))

    def _words(self, content: Sequence[int]) -> int:
        words = np.array([*content, 0], np.int64)
        self._keep.append(words)
        return int(words.ctypes.data)
