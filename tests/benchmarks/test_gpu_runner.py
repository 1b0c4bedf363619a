"""The benchmarks' runner on a GPU: what a script fails, hangs or crashes at is one row, and the others are measured all the same."""

from __future__ import annotations

import importlib.util
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
