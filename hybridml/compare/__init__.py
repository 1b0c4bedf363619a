"""The experiment: the same function eager and traced, timed with everything that tracing costs.

Importing this package is cheap: measuring, drawing and printing are imported when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridml.compare.report import Report

__all__ = ["compare"]


def compare(
    f: Callable[..., Any],
    *args: Any,
    calls: Sequence[int] = (10, 1000),
    name: str | None = None,
    rounds: int = 15,
    progress: bool = True,
) -> Report:
    """Run `f(*args)` eagerly and traced, and report what tracing cost and what it bought.

    f: a plain function of tensors (a function made by `hml.function` is unwrapped). It may read and assign variables: each
        run starts from the values they have now, and they have them again afterwards.
    calls: numbers of calls whose total time is measured, tracing and compiling included.
    rounds: how often the time of one call is measured, eager and traced in turns.

    The report prints as a table, shows itself in notebooks, and has `.plot(path)` and `.to_json(path)`.

    >>> import hybridml as hml
    >>> x = hml.ones((32, 32))
    >>> report = hml.compare(lambda x: hml.tanh(x) * x + 1.0, x, calls=(2, 20), progress=False)
    >>> sorted(report.results[0].eager.totals)
    [2, 20]
    """
    from hybridml.compare.measure import measure
    from hybridml.compare.progress import Progress
    from hybridml.compare.report import Report
    from hybridml.compare.users import workload_of

    with Progress(enabled=progress) as shown:
        workload = workload_of(f, args, name)
        try:
            return Report([measure(workload, calls=calls, rounds=rounds, progress=shown)])
        finally:
            workload.build()  # puts the variables back
