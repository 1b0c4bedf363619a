"""What is derived from measured numbers, on numbers chosen here."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from hybridml.compare.plot import crossing
from hybridml.compare.report import Compiled, Report, Result, Run, Steady, break_even, distance
from hybridml.compare.table import rows, seconds, size


def run(first: float, per_call: float, calls: tuple[int, ...] = (10, 1000), **fields) -> Run:
    """A run whose every later call takes exactly `per_call` seconds."""
    curve = [(n, first + (n - 1) * per_call) for n in (1, 3, 10, 30, 100, 300, 1000)]
    totals = {n: first + (n - 1) * per_call for n in calls}
    return Run(first, totals, curve, Steady(per_call, per_call, per_call), **fields)


def result(eager: Run, traced: Run, **fields) -> Result:
    known = {"name": "w", "title": "work", "device": "cpu:0", "calls": (10, 1000), "warm": traced}
    known |= {
        "compiled": Compiled(kernels=3, bytes_eager=4000, bytes_traced=1000),
        "largest_difference": 1e-7,
    }
    return Result(eager=eager, traced=traced, **(known | fields))


@pytest.mark.parametrize(
    ("first_eager", "eager", "first_traced", "traced", "expected"),
    [
        (1.0, 1.0, 101.0, 0.5, 201),  # 100 s lost, half a second won back by each call
        (1.0, 1.0, 101.2, 0.5, 202),  # rounded up to a whole call
        (1.0, 1.0, 0.9, 0.5, 1),
        (1.0, 1.0, 101.0, 1.0, None),
        (1.0, 1.0, 101.0, 2.0, None),
    ],
)
def test_break_even(first_eager, eager, first_traced, traced, expected) -> None:
    a, b = run(first_eager, eager), run(first_traced, traced)
    found = break_even(a, b)
    assert found == expected
    if found is not None and found > 1:
        lead = [first_eager + (n - 1) * eager - first_traced - (n - 1) * traced for n in (found - 1, found)]
        assert lead[0] < 0 <= lead[1] or math.isclose(lead[1], 0, abs_tol=1e-9)


def test_crossing_lies_where_the_straight_lines_meet() -> None:
    assert crossing(run(1.0, 1.0), run(101.0, 0.5)) == pytest.approx(201)
    assert crossing(run(1.0, 1.0), run(0.5, 0.5)) is None
    assert crossing(run(1.0, 1.0), run(10_000.0, 0.5)) is None


def test_the_table_shows_who_is_ahead() -> None:
    r = result(run(1.0, 1.0), run(101.0, 0.5))
    shown = {what: (eager, traced) for what, eager, traced in rows(r)}
    assert shown["10 calls, from cold caches"] == (("10.0 s", True), ("106 s", False))
    assert shown["1,000 calls, from cold caches"] == (("1000 s", False), ("600 s", True))
    assert shown["times faster"][1] == ("2.00", True)
    assert shown["pays off after"][1][0] == "201 calls"
    assert shown["bytes moved a call"] == (("4.00 kB", False), ("1.00 kB", True))


def test_unknown_figures_are_dashes() -> None:
    r = result(run(1.0, 1.0), run(2.0, 0.5), compiled=Compiled())
    shown = {what: (eager, traced) for what, eager, traced in rows(r)}
    assert shown["kernels"][1] == ("-", False)
    assert shown["bytes moved a call"] == (("-", False), ("-", False))


def test_every_form_of_a_report(tmp_path: Path) -> None:
    losses = {"losses": [3.0, 2.0, 1.0]}
    report = Report(
        [result(run(1.0, 1.0, **losses), run(101.0, 0.5, **losses)), result(run(1, 1), run(2, 2))]
    )
    assert "201 calls" in str(report)
    assert "never" in str(report)
    assert "<table>" in report._repr_html_()
    found = json.loads(report.to_json(tmp_path / "r.json"))
    assert found == json.loads((tmp_path / "r.json").read_text())
    assert Report.from_json((tmp_path / "r.json").read_text()) == report
    assert [r["break_even"] for r in found["results"]] == [201, None]
    assert found["results"][0]["largest_loss_difference"] == 0.0
    report.plot(tmp_path / "drawn")
    assert {p.name for p in tmp_path.iterdir()} == {"r.json", "drawn.png", "drawn.svg"}
    for name in ("first.svg", "second.svg"):
        report.plot(tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("first.svg", "second.svg"))
    assert first == second, "the same report draws the same file"


def test_a_score_that_is_too_low_is_told() -> None:
    good, bad = run(1, 1, score=0.99), run(1, 1, score=0.5)
    report = Report([result(good, bad, required_score=0.97)])
    assert len(report.problems()) == 1
    assert "0.5" in report.problems()[0]
    assert report.problems()[0] in str(report)
    assert Report([result(good, good, required_score=0.97)]).problems() == []


def test_distance_is_relative_to_what_is_large_and_absolute_for_what_is_small() -> None:
    inf, nan = np.inf, np.nan
    for a, b, expected in (
        ([1.0, 0.5], [1.0, 0.25], 0.25),
        ([100.0, 0.5], [100.0, 0.25], 0.0025),
        ([inf, nan], [inf, nan], 0.0),
        ([inf], [1.0], inf),
        ([1.0, 2.0], [1.0], inf),
        ([True], [False], 1.0),
        ([], [], 0.0),
    ):
        assert distance(np.array(a), np.array(b)) == expected
    assert not distance(np.array([nan, 1.0]), np.array([1.0, 1.0])) < inf


def test_units() -> None:
    shown = [seconds(x) for x in (2.0, 0.25, 1.5e-5, 3e-9, None)]
    assert shown == ["2.00 s", "250 ms", "15.0 us", "3.00 ns", "-"]
    assert [size(x) for x in (0, 1500, 2.5e7, None)] == ["0 B", "1.50 kB", "25.0 MB", "-"]
