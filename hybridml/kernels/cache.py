"""Compiled kernels on disk: one readable source file and one object file per kernel.

    <cache directory>/kernels/<name>_<hash>.py      the kernel's source, for people and for tracebacks
    <cache directory>/kernels/<name>_<hash>.o       one line of header, then the object code
    <cache directory>/kernels/host_<hash>.note      what LLVM said about a machine's processor

The header holds the full key, a checksum, and the entry symbol, so that a truncated, overwritten or foreign
file is recognised and simply counts as absent. Files appear whole or not at all: written beside their place,
then moved onto it, which is atomic also when several processes store the same kernel. A cache that cannot be
written never stops a program.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

from hybridml import config

MAGIC = "hybridml-object-1"

_warned: set[Path] = set()


@dataclass(frozen=True)
class Entry:
    """Object code and what it takes to link it: its entry symbol, and the library functions it calls."""

    symbol: str
    needs: tuple[str, ...]
    code: bytes


@dataclass(frozen=True)
class Info:
    """What `info` reports: where the cache is, how many kernels it holds, and their size in bytes with
    sources."""

    directory: Path
    kernels: int
    bytes: int


def directory() -> Path:
    """The folder of kernel files; it need not exist."""
    return config.get().cache_dir / "kernels"


def path_of(name: str, key: str, suffix: str) -> Path:
    """Where the file of a kernel lies, for ``suffix`` ``.py`` or ``.o``."""
    return directory() / f"{name}_{key[:16]}{suffix}"


def read(name: str, key: str) -> Entry | None:
    """The stored object code, or None if there is none that is whole and belongs to ``key``."""
    try:
        header, _, code = path_of(name, key, ".o").read_bytes().partition(b"\n")
        magic, stored_key, checksum, symbol, *needs = header.decode("ascii").split(" ")
    except (OSError, ValueError):
        return None
    if magic != MAGIC or stored_key != key or checksum != _checksum(symbol, needs, code):
        return None
    return Entry(symbol, tuple(needs), code)


def write(name: str, key: str, source: str, entry: Entry) -> bool:
    """Store source and object code; False, after one warning for each directory, if that is not possible."""
    header = " ".join(
        [MAGIC, key, _checksum(entry.symbol, entry.needs, entry.code), entry.symbol, *entry.needs]
    )
    try:
        directory().mkdir(parents=True, exist_ok=True)
        _replace(path_of(name, key, ".py"), source.encode())
        _replace(path_of(name, key, ".o"), header.encode("ascii") + b"\n" + entry.code)
    except OSError as error:
        _warn_once(error)
        return False
    return True


def read_note(name: str, key: str) -> str | None:
    """A short text that was kept under this key, or None if there is none that is whole."""
    try:
        checksum, _, text = path_of(name, key, ".note").read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return None
    return text if checksum == _checksum(name, (key,), text.encode()) else None


def write_note(name: str, key: str, text: str) -> None:
    """Keep a short text, if the directory can be written."""
    with contextlib.suppress(OSError):
        directory().mkdir(parents=True, exist_ok=True)
        _replace(path_of(name, key, ".note"), f"{_checksum(name, (key,), text.encode())}\n{text}".encode())


def info() -> Info:
    """Count the stored kernels and their bytes."""
    kernels = total = 0
    for file in _files():
        with contextlib.suppress(OSError):  # another process may clear the cache meanwhile
            total += file.stat().st_size
            kernels += file.suffix == ".o"
    return Info(directory(), kernels, total)


def clear() -> int:
    """Delete all stored kernels and say how many; running programs keep theirs.

    Raises:
        OSError: a file could not be deleted.
    """
    files = _files()
    for file in files:
        file.unlink(missing_ok=True)
    return sum(file.suffix == ".o" for file in files)


def _files() -> list[Path]:
    try:
        return [file for file in directory().iterdir() if file.suffix in (".py", ".o", ".tmp", ".note")]
    except OSError:
        return []


def _checksum(symbol: str, needs: tuple[str, ...] | list[str], code: bytes) -> str:
    return hashlib.sha256(" ".join([symbol, *needs]).encode() + b"\n" + code).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem + "_", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too: leave nothing half-written behind
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _warn_once(error: OSError) -> None:
    if directory() in _warned:
        return
    _warned.add(directory())
    warnings.warn(
        f"cannot keep compiled kernels in {directory()} ({error.strerror or error}), so each process compiles"
        " them again. Set HYBRIDML_CACHE_DIR to a directory that can be written.",
        RuntimeWarning,
        stacklevel=3,
    )
