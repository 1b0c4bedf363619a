"""The way into a program without Python: native code recognises a call's arguments and finds the arrays in them.

What PyTorch and JAX do in C++ on each call of a compiled function: look at the nest of arguments and at every tensor's dtype and sizes,
and only if all is as it was when the function was traced, run. Here the questions are rows of a table that `recognise_loops` walks.

    rows = Rows(TensorClass, slot_of_its_array)
    first = rows.items(args, rows.root)          # args is a tuple: one place for each of its items
    rows.array(first, dtype, (3, 4), index=0)    # the first item is a tensor, array number 0 of the program
    call = rows.finish(program)
    call([None, out], args)                      # 0, or why it did not run
"""

from __future__ import annotations

import struct
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hybridml.kernels import layout
from hybridml.kernels.driver import Program, call_block, entry
from hybridml.kernels.layout import Check


class _Block(np.ndarray):
    """A call's block, which owns what its addresses lead to."""

    keeps: list[Any]


class Rows:
    """The rows of one call under construction. Every object that one asks about has a place; the arguments' tuple has place `root`."""

    root = 0

    def __init__(self, tensor: type, slot: int) -> None:
        self._tensor, self._slot = tensor, slot
        self._rows: list[list[int]] = []
        self._found = [0]  # the object in each place: what the rows find, or one that is there for good
        self._keep: list[Any] = [tensor]

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
        self._add(Check.ARRAY, place, id(dtype), len(shape), self._words(shape), index)

    def number(self, cls: type, place: int, index: int) -> None:
        """The object is an int or a float of any value, which goes into array `index`: one of no axes, int64 or float64."""
        self._add(Check.INT if cls is int else Check.FLOAT, place, id(cls), 0, 0, index)

    def state(self, x: Any, slot: int, index: int, is_written: bool) -> None:
        """Array `index` is that of the object `x`; nobody else may hold it if the program writes it."""
        self._keep.append(x)
        self._add(Check.STATE, self.root, id(x), slot, int(is_written), index)

    def finish(self, program: Program) -> Callable[[list[Any], tuple[Any, ...]], int]:
        """A function of a list with a place for each of the program's arrays, None where a row fills it in, and of a call's arguments."""
        rows = np.array(self._rows, np.int64).reshape(-1, layout.CHECK_WORDS)
        found = np.array(self._found, np.int64)
        block = call_block(program.address).view(_Block)
        block[layout.CHECKS // 8], block[layout.CHECK_COUNT // 8] = rows.ctypes.data, len(rows)
        block[layout.FOUND // 8] = found.ctypes.data
        block[layout.TENSOR_TYPE // 8], block[layout.TENSOR_SLOT // 8] = id(self._tensor), self._slot
        block[layout.ARRAY_TYPE // 8], block[layout.TUPLE_ITEMS // 8] = id(np.ndarray), tuple.__basicsize__
        block.keeps = [rows, found, program, *self._keep]
        return entry(block)

    def _add(self, kind: Check, source: int, *words: int) -> None:
        row = [int(kind), source, *words]
        self._rows.append(row + [0] * (layout.CHECK_WORDS - len(row)))

    def _words(self, content: Sequence[int]) -> int:
        words = np.array([*content, 0], np.int64)
        self._keep.append(words)
        return int(words.ctypes.data)
