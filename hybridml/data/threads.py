"""Work ahead of the consumer, in threads that end with it. An exception in a thread is raised where its element would have come."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_END = object()


def ahead(source: Iterator[Any], n: int) -> Iterator[Any]:
    """The elements of `source`, up to `n` of them made before they are asked for, by one thread."""
    made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(n)
    stop = threading.Event()

    def offer(item: tuple[Any, BaseException | None]) -> bool:
        while not stop.is_set():
            try:
                made.put(item, timeout=0.1)
                return not stop.is_set()
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for element in source:
                if not offer((element, None)):
                    break
            else:
                offer((_END, None))
        except BaseException as e:  # handed on, whatever it is
            offer((None, e))
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, name="hybridml-prefetch", daemon=True)

    def consume() -> Iterator[Any]:
        thread.start()
        try:
            while True:
                element, error = made.get()
                if error is not None:
                    raise error
                if element is _END:
                    return
                yield element
        finally:
            stop.set()
            while not made.empty():
                made.get_nowait()
            thread.join()

    return consume()


def in_order(f: Callable[[Any], Any], items: Iterator[Any], workers: int, waiting: int) -> Iterator[Any]:
    """`f` of each item, by `workers` threads, the results in the order of the items; at most `waiting` of them unasked for."""
    with ThreadPoolExecutor(workers, thread_name_prefix="hybridml-data") as pool:
        pending: deque[Future[Any]] = deque()
        failed: Exception | None = None
        try:
            while True:
                try:
                    item = next(items)
                except StopIteration:
                    break
                except Exception as e:  # raised after the elements before it
                    failed = e
                    break
                pending.append(pool.submit(f, item))
                if len(pending) > waiting:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
            if failed is not None:
                raise failed
        finally:
            for future in pending:
                future.cancel()
