"""The table that `Module.summary()` prints."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import hybridml as hml


class Row(NamedTuple):
    """One module: where it hangs, what it is, what came out of its last call, and what its own variables hold."""

    path: str
    kind: str
    output: str
    parameters: str


HEADINGS = Row("path", "class", "output", "parameters")


def _own(module: Any, path: str, all_variables: dict[str, Any], paths: list[str]) -> int:
    """Parameters of the variables that hang on this module and on none below it."""
    inner = [p + "." for p in paths if p != path and (not path or p.startswith(path + "."))]
    prefix = path + "." if path else ""
    return sum(
        int(np.prod(v.shape))
        for name, v in all_variables.items()
        if name.startswith(prefix) and not any(name.startswith(p) for p in inner)
    )


def rows(module: Any) -> list[Row]:
    modules = {"": module, **module.named_submodules}
    variables, paths = module.named_variables, [p for p in modules if p]
    return [
        Row(
            path or module.name,
            type(m).__name__,
            "?" if m._module.output_shape is None else str(tuple(m._module.output_shape)),
            f"{_own(m, path, variables, paths):,}"
            if m.built or any(s.built for s in m.submodules)
            else "not built",
        )
        for path, m in modules.items()
    ]


def totals(module: Any) -> str:
    def count(variables: list[hml.Variable]) -> int:
        return sum(int(np.prod(v.shape)) for v in variables)

    all_, trained = count(module.variables), count(module.trainable_variables)
    size = sum(int(np.prod(v.shape)) * v.dtype.itemsize for v in module.variables)
    return f"{all_:,} parameters ({size:,} bytes), {trained:,} trainable, {all_ - trained:,} not trainable"


def text(module: Any) -> str:
    """The table in plain characters."""
    table = [HEADINGS, *rows(module)]
    widths = [max(len(r[i]) for r in table) for i in range(len(HEADINGS))]
    lines = [
        "  ".join(
            [c.rjust(w) if i == 3 else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))]
        ).rstrip()
        for r in table
    ]
    lines.insert(1, "  ".join(["-" * w for w in widths]))
    return "\n".join([*lines, totals(module)])


def show(module: Any, print_fn: Callable[[str], Any] | None) -> None:
    if print_fn is not None:
        print_fn(text(module))
        return
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        sys.stdout.write(text(module) + "\n")
        return
    table = Table(title=f"{module.name} ({type(module).__name__})")
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading == HEADINGS.parameters else "left")
    for row in rows(module):
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(totals(module))
