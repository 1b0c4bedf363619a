"""Rows of the table of targets: what was measured, what had to be reached."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hybridml.compare.machine import describe
from hybridml.compare.table import seconds

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One target. `unit` is "s" for seconds, "x" for a ratio of two times measured in turns, or a unit to show."""

    what: str
    measured: float
    target: float
    unit: str
    note: str = ""

    @property
    def reached(self) -> bool:
        return self.measured <= self.target

    def show(self, value: float) -> str:
        return seconds(value) if self.unit == "s" else f"{value:.2f} {self.unit}"

    def cells(self) -> tuple[str, str, str, str, str]:
        reached = "yes" if self.reached else "no"
        return self.what, self.show(self.measured), self.show(self.target), reached, self.note


@dataclass
class Record:
    """All rows of one run."""

    rows: list[Row] = field(default_factory=list)

    def add(self, what: str, measured: float, *, at_most: float, unit: str, note: str = "") -> None:
        self.rows.append(Row(what, float(measured), at_most, unit, note))

    def table(self) -> str:
        """GitHub-flavoured Markdown, with columns padded so that it also reads well in a terminal."""
        head = ("row", "measured", "at most", "reached", "beside")
        body = [r.cells() for r in self.rows]
        widths = [max(len(line[k]) for line in [head, *body]) for k in range(len(head))]

        def line(cells: tuple[str, ...]) -> str:
            return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

        return "\n".join([line(head), line(tuple("-" * w for w in widths)), *map(line, body)])

    def write(self, folder: Path = RESULTS) -> None:
        """cpu.json and cpu.md."""
        folder.mkdir(parents=True, exist_ok=True)
        machine = describe()
        rows = [asdict(r) | {"reached": r.reached} for r in self.rows]
        (folder / "cpu.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
        told = ", ".join(f"{k} {v}" for k, v in machine.items() if v)
        text = f"Measured by `make bench`: medians; ratios from rounds taken in turns. {told}.\n\n{self.table()}\n"
        (folder / "cpu.md").write_text(text)
