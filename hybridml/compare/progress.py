"""A progress bar on a terminal, plain lines elsewhere, at most ten updates a second either way."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

PER_SECOND = 10


class Progress:
    """Shows what is being measured. `stage` names it, `advance` counts within it.

    >>> with Progress(enabled=False) as p:
    ...     p.stage("eager", 10)
    ...     p.advance(10)
    """

    def __init__(self, *, enabled: bool = True, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._enabled = enabled
        self._bar: Any = None
        self._task: Any = None
        self._last = float("-inf")
        self._pending: str | None = None
        self._waiting = 0

    def __enter__(self) -> Progress:
        if self._enabled and self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=Console(file=self._stream),
                refresh_per_second=PER_SECOND,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._pending is not None:
            self._write(self._pending)

    def stage(self, description: str, total: int) -> None:
        """Begin something that takes `total` steps."""
        self._waiting = 0
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(description, total=total)
        elif self._enabled:
            now = time.monotonic()
            if now - self._last < 1 / PER_SECOND:
                self._pending = description  # shown only if nothing newer comes soon
            else:
                self._last, self._pending = now, None
                self._write(description)

    def advance(self, steps: int = 1) -> None:
        """`steps` more are done; cheap enough to call between measurements, never inside one."""
        if self._bar is None:
            return
        self._waiting += steps
        now = time.monotonic()
        if now - self._last >= 1 / PER_SECOND:
            self._bar.advance(self._task, self._waiting)
            self._last, self._waiting = now, 0

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()
