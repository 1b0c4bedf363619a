"""The benchmarks' runner on a GPU: what a script fails, hangs or crashes at is one row, and the others are measured all the same."""

from __future__ import annotations

import importlib.util
import json
import runpy
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import json, os, subprocess, sys, time
names = ["good", "fails", "hangs", "crashes", "last"]
asked = names[int(sys.argv[1]):] if sys.argv[1:] == [a for a in sys.argv[1:] if a.isdecimal()] else sys.argv[1:]
for name in asked:
    print(json.dumps({"begin": name}), flush=True)
    if name == "hangs":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])  # holds the output open
        time.sleep(1000)
    if name == "crashes":
        print("a last word", file=sys.stderr, flush=True)
        os.abort()
    if name == "fails":
        print(json.dumps({"what": name, "workload": name, "error": "ValueError: no"}), flush=True)
        sys.exit(9)
    print("noise", flush=True)
    print(json.dumps({"what": name, "workload": name, "seconds": 1.0}), flush=True)
"""


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("gpu_run", ROOT / "benchmarks" / "gpu" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "LIMIT", 3)
    return module


@pytest.mark.parametrize(
    "names", [None, ["good", "fails", "hangs", "crashes", "last"]], ids=["counted", "named"]
)
def test_every_row_is_measured_or_told(names: Any, runner: Any, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    found = {r["what"]: r for r in runner.rows([str(script)], names, time.monotonic() + 60)}
    assert list(found) == ["good", "fails", "hangs", "crashes", "last"]
    assert found["good"]["seconds"] == found["last"]["seconds"] == 1.0
    assert found["fails"]["error"] == "ValueError: no"
    assert "too long" in found["hangs"]["error"]
    assert "code -6" in found["crashes"]["error"]


def test_a_script_that_says_nothing_is_given_up(runner: Any, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise ImportError('no numba')")
    assert list(runner.rows([str(script)], None, time.monotonic() + 60)) == []
    assert "no numba" in runner.complaint()


def test_the_deadline_ends_a_row(runner: Any, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    begin = time.monotonic()
    (row,) = runner.rows([str(script)], ["hangs", "good"], begin + 2)
    assert row["workload"] == "hangs"
    assert time.monotonic() - begin < 10


def test_the_table_tells_errors_and_results_that_differ(runner: Any) -> None:
    steps = [
        {
            "library": library,
            "variant": variant,
            "workload": "layer_norm",
            "seconds": 1e-3,
            "losses": [1.0, value],
        }
        for library, variant, value in (
            ("hybridml", "traced", 0.5),
            ("jax", "jit", 0.501),
            ("torch", "eager", 0.9),
        )
    ]
    kernels = [
        {"what": "x + 1", "seconds": 1e-3, "bytes_per_second": 4e12, "of_copy": 1.0},
        {"what": "y", "error": "a\nb"},
    ]
    found = {
        "machine": {"date": "today", "gpu": "H200", "versions": {}}, "kernels": kernels, "steps": steps,
        "failed": {"torch torch.compile": ""},
    }  # fmt: skip
    text = runner.table(found)
    assert "| layer_norm | 1000.0 | 1000.0 | 1000.0 |" in text
    assert "| y |  | a b |" in text
    assert "Results differ: layer_norm, torch eager" in text
    assert "jax jit:" not in text


WORKER = """
import json, sys
library, variant, *names = sys.argv[1:]
for name in names:
    print(json.dumps({"begin": name}), flush=True)
    if name == "gru_adam":
        sys.exit("out of luck")
    row = {"workload": name, "library": library, "variant": variant, "seconds": 1e-3, "issued": 1e-5, "losses": [1.0, 2.0]}
    print(json.dumps(row), flush=True)
"""


def test_all_parts_end_up_in_the_results(
    runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "bandwidth.py").write_text(SCRIPT.replace('"hangs", ', ""))
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr(runner, "HERE", tmp_path)
    monkeypatch.setattr(runner, "describe", lambda: {"gpu": "NVIDIA Some", "date": "today", "versions": {}})
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda name: None if name == "jax" else object())
    assert runner.main() == 0
    found = json.loads((tmp_path / "gpu-some.json").read_text())
    assert [row["what"] for row in found["kernels"]] == ["good", "fails", "crashes", "last"]
    assert {(row["library"], row["variant"]) for row in found["steps"]} >= {
        ("hybridml", "traced"),
        ("torch", "torch.compile"),
    }
    (failed,) = [row for row in found["steps"] if "error" in row and row["library"] == "hybridml"]
    assert failed["workload"] == "gru_adam"
    assert "out of luck" in failed["error"]
    assert found["failed"] == {"jax jit": "not installed"}
    assert "| tiny_adam | 1000.0 |" in capsys.readouterr().out


def test_nothing_outlives_a_part_whose_time_is_up(tmp_path: Path) -> None:
    everything: Any = runpy.run_path(str(ROOT / "benchmarks" / "gpu" / "all.py"))
    pid = tmp_path / "pid"
    child = (
        f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(1000)"
    )
    starts = f"subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)"
    parent = f"import subprocess, sys; print('begun', flush=True); {starts}"
    told = everything["timed"](["-c", parent], 3, tmp_path / "part.log")
    assert "its time was up" in told
    assert "begun" in told
    stat = Path(f"/proc/{pid.read_text()}/stat")
    for _ in range(50):
        if not stat.exists() or " Z " in stat.read_text():
            return
        time.sleep(0.1)
    pytest.fail("it is still there")
