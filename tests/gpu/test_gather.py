"""What `make test KERNELS=...` gathers and `make sweep` says of it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import sweep
from assembler import assemble

import hybridml as hml
from hybridml.kernels.cuda.region import CudaRegion
from hybridml.kernels.region import Meter

SMALL = """
import numpy as np
from numba import cuda

ix, ux = np.int32, np.uint32


def small(x0, o0, n):
    i = cuda.grid(1)
    if i < n:
        o0[i] = x0[i] + x0[i]
"""
OF_TOO_MUCH = SMALL.replace("def small", "def large").replace(
    "        o0[i] = x0[i] + x0[i]",
    "        kept = cuda.local.array(64, np.float32)\n"
    "        for k in range(n):\n            kept[k % 64] = x0[k]\n"
    "        o0[i] = kept[i % 64]",
)


@pytest.fixture
def gather(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HYBRIDML_GATHER", str(tmp_path))
    return importlib.reload(importlib.import_module("gather"))


def put(folder: Path, name: str, source: str) -> Path:
    given = [("x0", "<f4", True), ("o0", "<f4", True), ("n", "<i4", False)]
    path = folder / f"{name}.kernel"
    path.write_text(json.dumps({"name": name, "parameters": given, "source": source}))
    return path


def test_kernels_of_a_graph_are_gathered_once_and_assemble(gather: Any, tmp_path: Path) -> None:
    f = hml.function(lambda x, w: hml.nn.softmax(hml.nn.gelu(x @ w, approximate=True)))
    graph = f.get_concrete_function(hml.ones((5, 4)), hml.ones((4, 3))).optimized
    for fuses in (True, False, False):
        CudaRegion(graph, gather.Gathering(fuses), Meter())
    names = sorted(json.loads(p.read_text())["name"].rpartition("_")[0] for p in tmp_path.glob("*.kernel"))
    assert len(names) == 2, "of the softmax alone, and with gelu"
    for path in tmp_path.glob("*.kernel"):
        most, wrong = sweep.verdict([90], path)
        assert 0 < most <= sweep.MOST_REGISTERS
        assert not wrong


def test_what_is_wrong_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main([str(tmp_path)]) == 1
    assert "make test KERNELS=" in capsys.readouterr().out
    good = put(tmp_path, "small", SMALL)
    large, broken = (
        put(tmp_path, "large", OF_TOO_MUCH),
        put(tmp_path, "small", SMALL.replace("x0[i] +", "nothing +")),
    )
    assert good == broken
    ((_, (said,)), (_, (of_broken,))) = [sweep.verdict([80], p) for p in (large, broken)]
    assert "large" in said and "bytes of stack" in said and not said.endswith(" 0 bytes of stack and spills")
    assert "nothing" in of_broken


def test_all_that_is_right_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assemble(b".version 7.0\n.target sm_80\n.address_size 64\n", "sm_80", tmp_path, "-c")  # or skip
    put(tmp_path, "small", SMALL)
    assert sweep.main([str(tmp_path), "--architectures", "80", "--jobs", "1"]) == 0
    assert "1 kernels for sm_80: at most" in capsys.readouterr().out
