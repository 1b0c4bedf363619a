"""Collects the rows of the run, prints the table at the end and writes it to benchmarks/results/."""

from __future__ import annotations

import pytest
from record import Record

RECORD = Record()


@pytest.fixture
def record() -> Record:
    """Where a benchmark puts what it measured."""
    return RECORD


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not RECORD.rows:
        return
    RECORD.write()
    terminalreporter.section("targets")
    terminalreporter.write_line(RECORD.table())
