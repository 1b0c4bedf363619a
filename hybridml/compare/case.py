"""What can be compared: a workload makes fresh, equal instances of one function with its arguments and state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """One instance.

    f: the plain function.
    args: the arguments of call number i, counted from 0; the same shapes and dtypes for every i.
    variables: the state whose values must agree in the end, and, together with the optimiser's, is made new by each build.
    score: a figure of merit at the end, such as the accuracy on a test set.
    """

    f: Callable[..., Any]
    args: Callable[[int], tuple[Any, ...]]
    variables: tuple[Any, ...] = ()
    score: Callable[[], float] | None = None


@dataclass(frozen=True)
class Workload:
    """A named experiment. `build` makes an instance; two instances start with the same numbers."""

    name: str
    title: str
    build: Callable[[], Case]
    required_score: float | None = None  # after at least `required_calls` calls
    required_calls: int = 1000
