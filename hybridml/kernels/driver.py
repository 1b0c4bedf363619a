"""A program is a table, and one compiled loop runs it.

`Table` collects instructions, argument blocks and patches; `Table.finish` freezes them into a `Program`,
whose run is one call into native code: fill the slots that name this call's arrays, then walk the rows.

    table = Table()
    block = table.block([0, out.ctypes.data, n])     # word 0 is filled in at each call
    table.patch(0, block, 0)                         # ... with the data address of externals[0]
    table.run(kernel.address, block, extent=n, chunks=4)
    program = table.finish()
    program.run([x])
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from hybridml import config
from hybridml.kernels import jit, layout, objects, pool
from hybridml.kernels.halves import literal
from hybridml.kernels.layout import Opcode

SIGNATURE = "int64(int64, int64, int64)"
FILLED_SIGNATURE = "int64(int64, int64)"
_BLOCK_WORDS = 1024


class Table:
    """A program under construction. Methods that add an instruction return its row, for jumps."""

    def __init__(self) -> None:
        self._rows: list[list[int]] = []
        self._patches: list[tuple[int, int, int]] = []
        self._storage: list[np.ndarray] = []
        self._free = 0
        self._keep: list[Any] = []

    # -- memory --------------------------------------------------------------------------------------------

    def block(self, words: Sequence[int]) -> int:
        """The address of a new block of int64 words, which lives as long as the program.

        Words above the signed range are taken as bit patterns.
        """
        if not self._storage or self._free + len(words) > self._storage[-1].size:
            self._storage.append(np.zeros(max(_BLOCK_WORDS, len(words)), np.int64))
            self._free = 0
        part = self._storage[-1][self._free : self._free + len(words)]
        part[:] = [_signed(int(word)) for word in words]
        self._free += len(words)
        return int(part.ctypes.data)

    def keep(self, *objects: Any) -> None:
        """Keep the owners of addresses used in this table alive with the program."""
        self._keep.extend(objects)

    def patch(self, index: int, block: int, word: int, byte_offset: int = 0) -> None:
        """At each run, set ``block[word]`` to the data address of ``externals[index]`` plus
        ``byte_offset``."""
        if index < 0:
            raise ValueError(f"an external's index counts from 0, got {index}")
        self._patches.append((index, block + 8 * word, byte_offset))

    # -- instructions --------------------------------------------------------------------------------------

    @property
    def next_row(self) -> int:
        """The row the next instruction will take."""
        return len(self._rows)

    def run(self, function: int, args: int, extent: int, chunks: int = 1, grain: int = 1) -> int:
        """Call a kernel over [0, extent): at once, or as ``chunks`` pieces that threads share.

        The pieces are equal but for rounding, their inner bounds multiples of ``grain``. Results must not
        depend on the order in which pieces run.

        Raises:
            ValueError: a count is out of range.
        """
        if extent < 0 or grain < 1 or not 1 <= chunks <= layout.MAX_CHUNKS:
            raise ValueError(
                f"extent={extent} >= 0, grain={grain} >= 1, 1 <= chunks={chunks} < 65536 do not all hold"
            )
        return self._add(Opcode.RUN, function, args, extent, chunks, a=grain)

    def jump(self, target: int = 0) -> int:
        """Go on at row ``target``, which may be set later by `aim`."""
        return self._add(Opcode.JUMP, a=target)

    def jump_if_false(self, address: int, target: int = 0) -> int:
        """Go on at row ``target`` if the bool at ``address`` is false."""
        return self._add(Opcode.JUMP_IF_FALSE, a=target, b=address)

    def count_jump(self, counter: int, limit: int, target: int = 0) -> int:
        """Add 1 to the int64 at address ``counter``; while it is less than the one at ``limit``, go to
        ``target``."""
        return self._add(Opcode.COUNT_JUMP, a=target, b=counter, c=limit)

    def set(self, address: int, value: int) -> int:
        """Store an int64 ``value`` at ``address``."""
        return self._add(Opcode.SET, b=address, c=value)

    def copy(self, destination: int, source: int, nbytes: int) -> int:
        """Copy ``nbytes`` between two addresses; the ranges may overlap."""
        return self._add(Opcode.COPY, a=destination, b=source, c=nbytes)

    def move(self, destination: int, source: int, offset: int = 0) -> int:
        """Store the int64 at address ``source``, plus ``offset``, at address ``destination``."""
        return self._add(Opcode.MOVE, a=offset, b=destination, c=source)

    def stop(self, code: int = 0) -> int:
        """Leave the program; `Program.run` returns ``code``."""
        if not 0 <= code < 2**31:
            raise ValueError(f"a stop code is from 0 to 2**31 - 1, got {code}")
        return self._add(Opcode.STOP, a=code)

    def aim(self, row: int, target: int) -> None:
        """Let the jump at ``row`` go to ``target``."""
        if self._rows[row][0] not in (Opcode.JUMP, Opcode.JUMP_IF_FALSE, Opcode.COUNT_JUMP):
            raise ValueError(f"row {row} is not a jump")
        self._rows[row][5] = target

    def _add(
        self,
        opcode: Opcode,
        function: int = 0,
        args: int = 0,
        extent: int = 0,
        chunks: int = 0,
        a: int = 0,
        b: int = 0,
        c: int = 0,
    ) -> int:
        self._rows.append([int(opcode), function, args, extent, chunks, a, b, c])
        return len(self._rows) - 1

    def finish(self, release_gil: bool = True) -> Program:
        """Freeze the table.

        Args:
            release_gil: let other Python threads run meanwhile; worth it for programs of more than some
                microseconds.

        Raises:
            ValueError: a jump leaves the table.
        """
        jumps = (Opcode.JUMP, Opcode.JUMP_IF_FALSE, Opcode.COUNT_JUMP)
        for number, row in enumerate(self._rows):
            if row[0] in jumps and not 0 <= row[5] <= len(self._rows):
                raise ValueError(f"row {number} jumps to row {row[5]} of a table of {len(self._rows)} rows")
        return Program(self._rows, self._patches, [self._storage, self._keep], release_gil)


class Program:
    """A finished table. Runs from several threads at once take turns, for they share argument blocks and
    buffers."""

    def __init__(
        self, rows: list[list[int]], patches: list[tuple[int, int, int]], keep: list[Any], release_gil: bool
    ) -> None:
        self._keep = keep
        self._rows = np.array([[_signed(word) for word in row] for row in rows], np.int64)
        self._patches = np.array(patches, np.int64).reshape(-1, 3)
        self.instructions = len(rows)
        self.externals = max((index + 1 for index, _, _ in patches), default=0)
        self.max_chunks = max((row[4] for row in rows if row[0] == Opcode.RUN), default=1)
        header = self._header = np.zeros(layout.HEADER_WORDS, np.int64)
        header[layout.INSTRUCTION_COUNT // 8] = len(rows)
        header[layout.INSTRUCTIONS // 8] = self._rows.ctypes.data
        header[layout.PATCHES // 8] = self._patches.ctypes.data
        header[layout.POOL // 8] = pool.address
        header[layout.WANTS_WORKERS // 8] = self.max_chunks > 1
        self.address = int(header.ctypes.data)
        self._call: Callable[[list[np.ndarray]], int]
        if objects.known():
            header[layout.PATCH_COUNT // 8] = len(patches)
            if release_gil:
                header[layout.SAVE_THREAD // 8], header[layout.RESTORE_THREAD // 8] = _thread_functions()
            self._call = entry(call_block(self.address))
        else:
            self._python_patches, self._python_lock = patches, threading.Lock()
            self._filled = filled_entry(release_gil)
            self._call = self._fill_and_run
        if self.max_chunks > 1:
            pool.ensure_started()

    def run(self, arrays: list[np.ndarray]) -> int:
        """Run once on this call's arrays; returns the code of the `Table.stop` it met, or 0.

        The program reads and writes the arrays' memory at their first element; that their layout is the one
        it was built for is for the caller to see to.

        Raises:
            ValueError: there are fewer arrays than the program patches in.
        """
        if len(arrays) < self.externals:
            raise ValueError(f"the program takes {self.externals} arrays, got {len(arrays)}")
        result = self._call(arrays)
        return self.after(result, arrays) if result else 0

    def after(self, result: int, arrays: list[np.ndarray]) -> int:
        """The uncommon results: another thread is inside, or there were no workers yet, or a stop code."""
        wait = 0.0
        while result == layout.PROGRAM_BUSY:
            time.sleep(wait)
            wait = min(wait + 5e-6, 1e-3)
            result = self._call(arrays)
        if result & layout.POOL_WANTED:
            pool.ensure_started()  # in a fork's child, or after the settings allowed no thread before
        return result >> 1

    def _fill_and_run(self, arrays: list[np.ndarray]) -> int:
        with self._python_lock:
            for index, slot, offset in self._python_patches:
                ctypes.c_int64.from_address(slot).value = arrays[index].ctypes.data + offset
            return self._filled(self.address, 0)


def call_block(program: int) -> np.ndarray:
    """A new block of a call of the program with this header."""
    block = np.zeros(layout.CALL_WORDS, np.int64)
    block[layout.PROGRAM // 8] = program
    for word, function in _object_functions():
        block[word // 8] = function
    return block


def entry(block: np.ndarray) -> Callable[..., Any]:
    """The native loop as a function of Python, `loops.run`: of a list of arrays, or of arguments that the block's rows recognise. It keeps
    the block alive."""
    return objects.builtin(_native_address(), "run", block)


def expect() -> None:
    """Begin to compile what every program needs, where no cache has it."""
    if objects.known():
        jit.load(pool.native_source(), "run", SIGNATURE)
    if config.get().num_threads > 1:
        jit.load(pool.native_source(), "work", pool.SIGNATURE)


@functools.cache
def _native_address() -> int:
    return jit.load(pool.native_source(), "run", SIGNATURE).address


@functools.cache
def filled_entry(release_gil: bool) -> Callable[[int, int], int]:
    """The native loop where Python fills the argument blocks, as ``run(header_address, 0)``."""
    kernel = jit.load(pool.native_source(), "run_filled", FILLED_SIGNATURE)
    prototype = ctypes.CFUNCTYPE if release_gil else ctypes.PYFUNCTYPE
    return prototype(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(kernel.address)


@functools.cache
def _thread_functions() -> list[int]:
    """Addresses of what gives up the interpreter lock and takes it again."""
    api = ctypes.pythonapi
    return [objects.function_address(f) for f in (api.PyEval_SaveThread, api.PyEval_RestoreThread)]


@functools.cache
def _object_functions() -> list[tuple[int, int]]:
    """(word of a call's block, address of the C function that belongs there)."""
    api = ctypes.pythonapi
    functions = {
        layout.FROM_INT: api.PyLong_FromLongLong,
        layout.INCREF: api.Py_IncRef,
        layout.DECREF: api.Py_DecRef,
        layout.DICT_NEXT: api.PyDict_Next,
        layout.TO_INT: api.PyLong_AsLongLongAndOverflow,
        layout.NEW_LIST: api.PyList_New,
        layout.NEW_TUPLE: api.PyTuple_New,
        layout.NEW_OBJECT: api.PyType_GenericAlloc,
    }
    numpys = {layout.NEW_ARRAY: layout.NEW_FROM_DESCR, layout.SET_BASE: layout.SET_BASE_OBJECT}
    return [
        *[(word, objects.function_address(f)) for word, f in functions.items()],
        *[(word, objects.numpy_function(number)) for word, number in numpys.items()],
    ]


def scalar_word(value: Any, dtype: Any) -> int:
    """The argument word that ``pointer.<dtype>_scalar`` reads back as ``value``.

    Example:
        >>> hex(scalar_word(1.0, "float32"))
        '0x3f800000'
    """
    content = literal(value, np.dtype(dtype)).tobytes()
    return int.from_bytes(content.ljust(8, b"\0"), sys.byteorder, signed=True)


def addresses(arrays: Iterable[np.ndarray]) -> list[int]:
    """The data addresses of arrays, for argument blocks; `Table.keep` the arrays."""
    return [int(array.ctypes.data) for array in arrays]


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
