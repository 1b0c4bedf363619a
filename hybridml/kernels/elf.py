"""Linking a kernel's object code without LLVM: a second process then needs no compiler's library at all.

Loading llvmlite's library and making an engine of it for each kernel was most of what a first call from the cache took. A kernel's
object is a simple one: code, constants, and absolute addresses that wait to be filled in. Whatever else an object holds is refused,
and LLVM's linker takes it; so it does all for other formats than ELF, and for other processors than x86-64.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import struct
from dataclasses import dataclass
from typing import Any

_HEADER, _SECTION, _SYMBOL, _RELOCATION = "<16xHHIQQQIHHHHHH", "<IIQQQQIIQQ", "<IBBHQQ", "<QQq"
_IDENTITY = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian
_RELOCATABLE, _X86_64 = 1, 62
_PROGBITS, _SYMBOLS, _RELA, _REL = 1, 2, 4, 9
_WRITE, _ALLOCATED = 1, 2
_UNDEFINED, _FIRST_RESERVED = 0, 0xFF00
_ABSOLUTE_64, _RELATIVE_32, _CALL_32 = 1, 2, 4

_images: list[mmap.mmap] = []  # for ever: a thread of the pool may be inside when the interpreter ends


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int

    @property
    def is_loaded(self) -> bool:
        """True for code and constants. Tables for unwinding the stack are left out: nothing is thrown through a kernel."""
        return bool(self.flags & _ALLOCATED) and self.kind == _PROGBITS and self.name != ".eh_frame"


class _Unknown(Exception):
    """Something that only a full linker understands."""


def link(symbol: str, code: bytes) -> int | None:
    """The address of a symbol of object code, ready to be called; None if the object is not of the simple kind."""
    process = _process()
    if process is None or code[:7] != _IDENTITY:
        return None
    try:
        return _load(symbol, code, process)
    except (_Unknown, struct.error, UnicodeDecodeError, IndexError, ValueError, OSError):
        return None


@functools.cache
def _process() -> Any:
    """The process's own symbols, or None where this is no Linux."""
    import sys

    return ctypes.CDLL(None) if sys.platform == "linux" else None


def _load(symbol: str, code: bytes, process: Any) -> int | None:
    kind, machine, _, _, _, table, _, _, _, _, size, count, names = struct.unpack_from(_HEADER, code)
    if kind != _RELOCATABLE or machine != _X86_64 or size != struct.calcsize(_SECTION):
        raise _Unknown
    sections = _sections(code, table, count, names)
    places, end = _laid_out(sections)
    if not end:
        raise _Unknown
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    image = mmap.mmap(-1, end, flags=private, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(image))
    for k, at in places.items():
        s = sections[k]
        image[at : at + s.size] = code[s.offset : s.offset + s.size]
    found: int | None = None
    for s in sections:
        if s.kind == _SYMBOLS:
            symbols = _symbols(code, s, sections[s.link], places, base)
            found = next((a for name, a in symbols if name == symbol and a is not None), found)
            for r in sections:
                if r.kind == _RELA and r.info in places:
                    _relocate(image, code, r, base, places[r.info], symbols, process)
                elif r.kind == _REL:
                    raise _Unknown
    process.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if found is None or process.mprotect(base, end, mmap.PROT_READ | mmap.PROT_EXEC):
        raise _Unknown
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(image))
    _images.append(image)
    return found


def _sections(code: bytes, table: int, count: int, names: int) -> list[_Section]:
    found = [struct.unpack_from(_SECTION, code, table + k * struct.calcsize(_SECTION)) for k in range(count)]
    text = found[names][4]
    return [
        _Section(_text(code, text + name), kind, flags, offset, size, link, info, align)
        for name, kind, flags, _, offset, size, link, info, align, _ in found
    ]


def _text(code: bytes, at: int) -> str:
    return code[at : code.index(b"\0", at)].decode("ascii")


def _laid_out(sections: list[_Section]) -> tuple[dict[int, int], int]:
    """Where in the image each section goes, by its number, and the image's size."""
    places: dict[int, int] = {}
    end = 0
    for k, s in enumerate(sections):
        if s.is_loaded:
            if s.flags & _WRITE and not s.name.startswith(".data.rel.ro"):
                raise _Unknown  # the image cannot be written when it runs
            align = max(s.align, 1)
            if align > mmap.PAGESIZE:
                raise _Unknown
            places[k] = -(-end // align) * align
            end = places[k] + s.size
        elif s.flags & _ALLOCATED and s.size and s.name != ".eh_frame":
            raise _Unknown
    return places, end


def _symbols(
    code: bytes, table: _Section, names: _Section, places: dict[int, int], base: int
) -> list[tuple[str, int | None]]:
    """Name and address of each symbol; no address for those of others, and of sections that are not loaded."""
    found: list[tuple[str, int | None]] = []
    for name, _, _, section, value, _ in struct.iter_unpack(
        _SYMBOL, code[table.offset : table.offset + table.size]
    ):
        at = places.get(section)
        inside = section != _UNDEFINED and section < _FIRST_RESERVED and at is not None
        found.append((_text(code, names.offset + name), base + (at or 0) + value if inside else None))
    return found


def _relocate(
    image: mmap.mmap, code: bytes, table: _Section, base: int, start: int, symbols: list[tuple[str, int | None]], process: Any
) -> None:  # fmt: skip
    """Fill in the addresses that one section waits for."""
    for offset, info, addend in struct.iter_unpack(
        _RELOCATION, code[table.offset : table.offset + table.size]
    ):
        name, address = symbols[info >> 32]
        target = (address if address is not None else _outside(name, process)) + addend
        at = start + offset
        kind = info & 0xFFFFFFFF
        if kind == _ABSOLUTE_64:
            struct.pack_into("<Q", image, at, target & 0xFFFFFFFFFFFFFFFF)
        elif kind in (_RELATIVE_32, _CALL_32):  # a library may be too far away for it: then LLVM makes a stub
            struct.pack_into("<i", image, at, target - (base + at))
        else:
            raise _Unknown


def _outside(name: str, process: Any) -> int:
    """A library function's address."""
    if not name:
        raise _Unknown
    try:
        function = getattr(process, name)
    except AttributeError:
        raise _Unknown from None
    return ctypes.cast(function, ctypes.c_void_p).value or 0
