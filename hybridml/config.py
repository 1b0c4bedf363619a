"""Settings: from the environment once, overridden inside ``with scope(...)``.

======================== =============== =============================================================
environment variable     field           meaning
======================== =============== =============================================================
``HYBRIDML_CACHE_DIR``   ``cache_dir``   where compiled kernels are kept between processes
``HYBRIDML_NUM_THREADS`` ``num_threads`` threads a program may use; default: the CPUs of this process
``HYBRIDML_DEVICE``      ``device``      ``cpu``, ``cpu:0``, ``gpu``, ``gpu:N``; empty: chosen at use
``HYBRIDML_MATMUL_PRECISION`` ``matmul_precision`` on a GPU, what float32 matrix products are computed
                                         in: ``float32`` (default), ``tf32``, ``bfloat16``; sums are float32
``HYBRIDML_FAST_MATH``   ``fast_math``   ``1``: generated kernels of a GPU take the hardware's approximations of
                                         exp, log, tanh and the like, and of quotients, and libraries may apply
                                         relu, which makes 0 of NaN; ``0`` (default)
======================== =============== =============================================================
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

_DEVICE = re.compile(r"cpu(:0)?|gpu(:\d+)?")


@dataclass(frozen=True)
class Config:
    """One consistent set of settings.

    Raises:
        ValueError: a field's value is not accepted; the message names the field and its environment variable.
    """

    cache_dir: Path
    num_threads: int
    device: str = ""
    matmul_precision: str = "float32"
    fast_math: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.cache_dir, Path):
            object.__setattr__(self, "cache_dir", Path(self.cache_dir).expanduser())
        threads = self.num_threads
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
            raise ValueError(_refusal("num_threads", threads, "a whole number from 1 to 1024"))
        if self.matmul_precision not in ("float32", "tf32", "bfloat16"):
            raise ValueError(_refusal("matmul_precision", self.matmul_precision, "float32, tf32 or bfloat16"))
        if not isinstance(self.fast_math, bool):
            raise ValueError(_refusal("fast_math", self.fast_math, "0 or 1 (in Python True or False)"))
        if self.device and not (isinstance(self.device, str) and _DEVICE.fullmatch(self.device)):
            raise ValueError(
                _refusal("device", self.device, "cpu, cpu:0, gpu, or gpu:N with N a device number")
            )


def _refusal(field: str, value: object, accepted: str) -> str:
    return f"{field}={value!r} (environment variable HYBRIDML_{field.upper()}): expected {accepted}"


def from_environment(environ: Mapping[str, str] | None = None) -> Config:
    """The settings that environment variables ask for; empty variables count as unset.

    Raises:
        ValueError: a variable holds a value that is not accepted.
    """
    environ = os.environ if environ is None else environ
    threads: object = environ.get("HYBRIDML_NUM_THREADS", "").strip() or available_cpus()
    if isinstance(threads, str) and threads.isdecimal():
        threads = int(threads)
    fast = environ.get("HYBRIDML_FAST_MATH", "").strip()
    directory = environ.get("HYBRIDML_CACHE_DIR", "").strip()
    return Config(
        cache_dir=Path(directory).expanduser() if directory else default_cache_dir(environ),
        num_threads=threads,  # type: ignore[arg-type]  # Config refuses what is not an int, naming the variable
        device=environ.get("HYBRIDML_DEVICE", "").strip(),
        matmul_precision=environ.get("HYBRIDML_MATMUL_PRECISION", "").strip() or "float32",
        fast_math={"": False, "0": False, "1": True}.get(fast, fast),  # type: ignore[arg-type]  # likewise
    )


def available_cpus() -> int:
    """CPUs this process may run on: its affinity mask where the system has one, else all of them."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """``hybridml`` under the user's cache directory, by the custom of each system."""
    if sys.platform == "win32":
        base = environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "hybridml"


_process_wide = functools.cache(from_environment)
_scoped: contextvars.ContextVar[Config | None] = contextvars.ContextVar("hybridml.config", default=None)


def get() -> Config:
    """The settings in force here: the innermost ``scope``'s, else the environment's (read at first use)."""
    return _scoped.get() or _process_wide()


@contextlib.contextmanager
def scope(**changes: object) -> Iterator[Config]:
    """Other settings inside a ``with`` block, for this thread or task only.

    Raises:
        TypeError: a name is not a field of `Config`.
        ValueError: a value is not accepted.

    Example:
        >>> with scope(num_threads=1) as settings:
        ...     settings.num_threads
        1
    """
    token = _scoped.set(replace(get(), **changes))  # type: ignore[arg-type]
    try:
        yield get()
    finally:
        _scoped.reset(token)
