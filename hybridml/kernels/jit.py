"""From kernel source to a native address: in memory, else from disk, else compiled.

The object code of a kernel is self-contained, so the cache stores that and a later process only links
it: a fraction of a millisecond, and no compiler is even imported. `explain_key` lists everything the object code
depends on.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hybridml.kernels import cache, jobs, llvm
from hybridml.kernels.host import host, version_of

if TYPE_CHECKING:
    from hybridml.kernels.compiler import Code, Compiled

ABI_VERSION = 1

KERNEL = "void(CPointer(int64), int64, int64)"
"""The signature of every kernel: ``(args, begin, end)``."""

_PACKAGE = Path(__file__).resolve().parent.parent
_IMPORTS = re.compile(r"^\s*(?:from|import)\s+hybridml\.([\w.]+)", re.MULTILINE)
# What kernels depend on without a line that imports it.
_ALWAYS_HASHED = (
    "kernels.compiler",
    "kernels.llvm",
    "kernels.numba_compiler",
    "kernels.numba_language",
    "kernels.scalar_math",
    "kernels.targets",
    "kernels.translate",
)
# Settings of Numba that change the code it generates.
_NUMBA_SETTINGS = (
    "CPU_NAME",
    "CPU_FEATURES",
    "ENABLE_AVX",
    "OPT",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "BOUNDSCHECK",
)


class CompileForbidden(RuntimeError):
    """A kernel had to be compiled inside `forbid_compiling`."""


class Kernel:
    """Native code of one kernel, which may be on its way still.

    ``address`` is that of the C function, waited for if need be; ``path`` that of its source file, which is missing where the cache
    cannot be written; ``origin`` is ``"compiled"``, ``"disk"`` or ``"memory"``; ``by`` names the compiler, ``"translator"`` or
    ``"numba"`` (whose own LLVM is part of its front end).
    """

    def __init__(self, name: str, path: Path, origin: str, native: Native, found_seconds: float) -> None:
        self.name, self.path, self.origin = name, path, origin
        self._native, self._found_seconds = native, found_seconds

    @property
    def address(self) -> int:
        return self._native.address()

    @property
    def by(self) -> str:
        return self._native.by if self.origin == "compiled" else ""

    @property
    def front_seconds(self) -> float:
        """What a compiler's front end took."""
        return self._native.front_seconds if self.origin == "compiled" else 0.0

    @property
    def llvm_seconds(self) -> float:
        """What LLVM took, in whichever thread; 0 as long as nobody has asked for the address."""
        return self._native.llvm_seconds if self.origin == "compiled" else 0.0

    @property
    def waited_seconds(self) -> float:
        """What of LLVM's time the thread that asked first for the address waited, or worked itself."""
        return self._native.waited_seconds if self.origin == "compiled" else 0.0

    @property
    def seconds(self) -> float:
        """What this load took of the threads that asked for it: looking, the front end, waiting, linking."""
        later = self._native.waited_seconds + self._native.link_seconds if self.origin == "compiled" else 0.0
        return self._found_seconds + later


class Native:
    """The code behind kernels of one text: at an address, or in the making. `store` puts its object code into the cache."""

    def __init__(
        self,
        address: int | None,
        made: Compiled | None = None,
        store: Callable[[cache.Entry], object] = lambda entry: None,
    ) -> None:
        self._address, self._made, self._store = address, made, store
        self.by, self.front_seconds = ("", 0.0) if made is None else (made.by, made.front_seconds)
        self.llvm_seconds = self.waited_seconds = self.link_seconds = 0.0

    def address(self) -> int:
        made = self._made
        if self._address is None and made is not None:
            started = time.perf_counter()
            code = made.code()
            waited = time.perf_counter() - started
            with _lock:
                if self._address is None:
                    started = time.perf_counter()
                    self._address = self._stored_and_linked(made.symbol, code)
                    self._made = None  # and with it the object code
                    self.llvm_seconds, self.waited_seconds = code.llvm_seconds, waited
                    self.link_seconds = time.perf_counter() - started
                    _stats.seconds += waited + self.link_seconds
        assert self._address is not None
        return self._address

    def _stored_and_linked(self, symbol: str, code: Code) -> int:
        entry = cache.Entry(symbol, tuple(sorted(code.needs)), code.code)
        if code.needs <= _C_LIBRARY:
            self._store(entry)
        address = llvm.link(entry.symbol, entry.needs, entry.code)
        if address is None:
            raise RuntimeError(
                f"kernel {symbol!r} calls functions that are not to be found: {', '.join(entry.needs)}"
            )
        return address


@dataclass
class Stats:
    """Loads of this process since it started; ``seconds`` were spent compiling and linking."""

    compiled: int = 0
    loaded_from_disk: int = 0
    memory_hits: int = 0
    seconds: float = 0.0


_lock = threading.RLock()
# `load` takes this lock, then that of the line of jobs. Hooks of a fork, and of the interpreter's end, run the last registered one first:
# `jobs` must have been imported by now, so that they take the two in the same order.
assert jobs
if hasattr(os, "register_at_fork"):
    # A child must not inherit a compiler, or LLVM's linker, in the middle of another thread's work.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_by_text: dict[tuple[str, str, str], Kernel] = {}
_stats = Stats()
_forbidden = 0


def load(source: str, name: str, signature: str = KERNEL) -> Kernel:
    """Native code for the function ``name`` that ``source`` defines.

    Args:
        source: Python text that Numba can compile; imports allowed at its top.
        name: the function, an ASCII identifier.
        signature: its Numba signature, with the names of `numba.types`.

    Raises:
        CompileForbidden: neither memory nor disk has it, and `forbid_compiling` is in force.
        numba.core.errors.NumbaError: Numba refuses the source; the message names the source file where one is
        kept.

    Example:
        >>> kernel = load("def nothing(args, begin, end):\\n    pass", "nothing")
        >>> kernel.address != 0
        True
    """
    start = time.perf_counter()
    with _lock:
        known = _by_text.get((source, name, signature))
        if known is not None:
            _stats.memory_hits += 1
            return Kernel(name, known.path, "memory", known._native, time.perf_counter() - start)
        parts = explain_key(source, name, signature)
        key = hashlib.sha256(
            "\n".join(f"{part}={value}" for part, value in parts.items()).encode()
        ).hexdigest()
        entry = cache.read(name, key)
        address = llvm.link(entry.symbol, entry.needs, entry.code) if entry is not None else None
        if address is not None:
            origin, native = "disk", Native(address)
            _stats.loaded_from_disk += 1
        else:
            origin, native = "compiled", _begin_to_compile(source, name, signature, key)
            _stats.compiled += 1
        seconds = time.perf_counter() - start
        _stats.seconds += seconds
        kernel = Kernel(name, cache.path_of(name, key, ".py"), origin, native, seconds)
        _by_text[source, name, signature] = kernel
        for loads in _recording.lists:
            loads.append(kernel)
        return kernel


class _Recording(threading.local):
    def __init__(self) -> None:
        self.lists: list[list[Kernel]] = []


_recording = _Recording()


@contextlib.contextmanager
def recorded() -> Iterator[list[Kernel]]:
    """The kernels that this thread loads while the block runs, those apart that were in memory."""
    loads: list[Kernel] = []
    _recording.lists.append(loads)
    try:
        yield loads
    finally:
        _recording.lists.remove(loads)


def finish(kernels: Iterable[Kernel]) -> None:
    """Wait for kernels in the making: also one that nobody calls in the end is compiled once and kept."""
    for k in kernels:
        k._native.address()


def close() -> None:
    """Wait for the kernel that is being loaded, and let no other thread load any more: the interpreter is about to end."""
    _lock.acquire()


def stats() -> Stats:
    """A copy of the counters: take it before and after, and subtract."""
    with _lock:
        return Stats(_stats.compiled, _stats.loaded_from_disk, _stats.memory_hits, _stats.seconds)


@contextlib.contextmanager
def forbid_compiling() -> Iterator[None]:
    """Make every compilation an error, in all threads, while the block runs: to prove that a second call
    compiles nothing."""
    global _forbidden
    with _lock:
        _forbidden += 1
    try:
        yield
    finally:
        with _lock:
            _forbidden -= 1


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
    """Load kernels as a new process would, from disk or by compiling, while the block runs: to measure what that costs.

    Kernels loaded before stay valid, and are known again afterwards.
    """
    with _lock:
        remembered = dict(_by_text)
        _by_text.clear()
    try:
        yield
    finally:
        with _lock:
            _by_text.update(remembered)


# -- the key -----------------------------------------------------------------------------------------------


def explain_key(source: str, name: str, signature: str = KERNEL) -> dict[str, str]:
    """The named parts of a kernel's cache key; two kernels share object code if and only if all of them
    agree."""
    return {
        "source": hashlib.sha256(source.encode()).hexdigest(),
        "name": name,
        "signature": signature,
        "imports": _imports_digest(tuple(sorted({*_IMPORTS.findall(source), *_ALWAYS_HASHED}))),
        **_process_parts(),
        "numba_settings": " ".join(
            f"{name}={os.environ.get('NUMBA_' + name, '')}" for name in _NUMBA_SETTINGS
        ),
    }


@functools.cache
def _imports_digest(modules: tuple[str, ...]) -> str:
    """One digest of all hybridml modules that a kernel's text comes from, also those they import in turn."""
    digest = hashlib.sha256()
    seen: set[str] = set()
    queue = sorted(modules, reverse=True)
    while queue:
        module = queue.pop()
        if module not in seen:
            seen.add(module)
            own, imported = _module_digest(module)
            digest.update(own)
            queue += imported
    return digest.hexdigest()


@functools.cache
def _module_digest(module: str) -> tuple[bytes, list[str]]:
    """A module's digest, and what it imports in turn: kernels share most of their modules, and each file is read once."""
    digest, imported = hashlib.sha256(), []
    for file in _module_files(module):
        text = file.read_bytes()
        digest.update(f"{module} {file.name} {len(text)}\n".encode() + text)
        if module.startswith("kernels."):
            imported += sorted(set(_IMPORTS.findall(text.decode())), reverse=True)
    return digest.digest(), imported


def _module_files(module: str) -> list[Path]:
    path = _PACKAGE.joinpath(*module.split("."))
    return (
        sorted(path.glob("*.py"))
        if path.is_dir()
        else [file for file in [path.with_suffix(".py")] if file.is_file()]
    )


@functools.cache
def _process_parts() -> dict[str, str]:
    here = host()
    return {
        "abi": str(ABI_VERSION),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "numba": version_of("numba"),
        "llvmlite": version_of("llvmlite"),
        "cpu": here.cpu,
        "cpu_features": here.features,
        "triple": here.triple,
    }


# -- compiling ---------------------------------------------------------------------------------------------

_MATHEMATICS = (
    "acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1 fabs floor"
    " fma fmax fmin fmod frexp hypot ldexp lgamma llrint log log10 log1p log2 logb lrint modf nearbyint"
    " nextafter pow remainder rint round roundeven scalbn sin sincos sinh sqrt tan tanh tgamma trunc"
)
# What object code may call and still be stored: any process has these.
_C_LIBRARY = frozenset(["memcpy", "memmove", "memset", "memcmp", "bcmp"]) | {
    function + suffix for function in _MATHEMATICS.split() for suffix in ("", "f")
}


def _begin_to_compile(source: str, name: str, signature: str, key: str) -> Native:
    if _forbidden:
        raise CompileForbidden(
            f"kernel {name!r} ({key[:16]}) is neither in memory nor in {cache.directory()}"
        )
    from hybridml.kernels.compiler import compile_object

    made = compile_object(source, name, signature, str(cache.path_of(name, key, ".py")), key[:16])
    here = contextvars.copy_context()  # the cache directory in force

    def store(entry: cache.Entry) -> None:
        here.run(cache.write, name, key, source, entry)

    return Native(None, made, store)
