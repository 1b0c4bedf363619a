"""The commands as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybridml import cli, doctor


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_compare_writes_table_plots_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder"
    assert (
        cli.main(["compare", "--workload", "tiny_sgd", "--quick", "--calls", "2", "20", "--out", str(out)])
        == 0
    )
    shown = capsys.readouterr().out
    assert "tiny net, SGD step" in shown
    assert "20 calls, from cold caches" in shown
    found = json.loads((out / "compare.json").read_text())
    assert [r["name"] for r in found["results"]] == ["tiny_sgd"]
    assert found["results"][0]["eager"]["totals"].keys() == {"2", "20"}
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "compare.svg").read_text()


def test_compare_lists_its_workloads(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {
        "two_layer_forward",
        "two_layer_sgd",
        "two_layer_adam",
        "tiny_sgd",
        "elementwise",
        "digits",
    } <= set(names)


def test_an_unknown_workload_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "--workload", "nonsense"]) == 2
    message = capsys.readouterr().err
    assert "nonsense" in message
    assert "tiny_sgd" in message


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "below")
    assert cli.main(["compare", "--workload", "tiny_sgd", "--quick", "--calls", "1", "--out", out]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [[], ["compare", "--calls", "0"], ["cache", "burn"], ["compare", "--device", "tpu"]]
)
def test_wrong_arguments_exit_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main(argv)
    assert exit.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_cache_info_and_clear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hybridml import config
    from hybridml.kernels import jit

    with config.scope(cache_dir=tmp_path), jit.forgotten():
        jit.load("def nothing(args, begin, end):\n    pass\n", "nothing").address  # noqa: B018  # asking compiles it
        assert cli.main(["cache", "info"]) == 0
        assert f"{tmp_path / 'kernels'}: 1 kernels" in capsys.readouterr().out
        assert cli.main(["cache", "clear"]) == 0
        assert "1 kernels deleted" in capsys.readouterr().out
        assert cli.main(["cache", "info"]) == 0
        assert "0 kernels" in capsys.readouterr().out


def test_doctor_is_well_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in ("Python", "numpy", "numba", "kernel cache", "compiler", "GPU"):
        assert word in shown


def test_doctor_names_an_unwritable_cache_and_the_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hybridml import config

    (tmp_path / "file").write_text("")
    with config.scope(cache_dir=tmp_path / "file" / "cache"):
        found = {f.what: f for f in doctor.CHECKS["kernel cache"]()}
    assert found["kernel cache"].state == "note"
    assert "HYBRIDML_CACHE_DIR" in found["kernel cache"].cure


def test_doctor_fails_when_something_needed_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken():
        raise RuntimeError("the compiler fell over")

    monkeypatch.setitem(doctor.CHECKS, "compiler", broken)
    assert cli.main(["doctor"]) == 1
    assert "the compiler fell over" in capsys.readouterr().out


def test_doctor_asks_for_the_gpu_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDML_DEVICE", "gpu:0")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor.Path, "exists", lambda self: False)
    found = {f.what: f for f in doctor.CHECKS["GPU"]()}
    assert found["device"].state == "broken"
    assert found["device"].cure


def test_cache_warm_compiles_what_programs_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hybridml import config
    from hybridml.kernels import cache, jit

    monkeypatch.setattr(jit, "_by_text", {})
    with config.scope(cache_dir=tmp_path / "cache"):
        assert cli.main(["cache", "warm"]) == 0
        assert "10 kernels compiled" in capsys.readouterr().out and cache.info().kernels == 10
        monkeypatch.setattr(jit, "_by_text", {})
        assert cli.main(["cache", "warm"]) == 0
        assert "0 kernels compiled in 0.0 s, 10 were there" in capsys.readouterr().out
        monkeypatch.setattr(jit, "_by_text", {})
        with jit.forbid_compiling():
            from hybridml.kernels import gemm

            assert gemm.plan(8, 8, 8).kernel.origin == "disk"
