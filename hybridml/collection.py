"""Python's cycle collector, held while the compiler works."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def held() -> Iterator[None]:
    """No collection while the block runs; in the main thread alone, for elsewhere it would be others' garbage that waits.

    Tracing, planning and compiling make objects by the hundred thousand that live to the end: each walk over them finds nothing, and
    walks grow longer with the graph.
    """
    if threading.current_thread() is not threading.main_thread() or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if (
            gc.get_freeze_count() == 0
        ):  # what lives to the end is old: else the first thing to happen would be a walk over all of it
            gc.freeze()
            gc.unfreeze()
        gc.enable()
