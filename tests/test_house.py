"""Rules of the house that a person would forget to check."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hybridml as hml

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "hybridml").rglob("*.py"))
# The scalar functions are one text run three ways: `hybridml.kernels.targets` gives it the primitives it is written in.
TEXTS = re.compile(r"hybridml\.kernels\.scalar_math\..")
MODULES = sorted(m.name for m in pkgutil.walk_packages(hml.__path__, "hybridml.") if not TEXTS.match(m.name))


def test_importing_is_light(tmp_path: Path) -> None:
    """Nothing heavy is imported before it is needed: compilers, plots and GPU libraries cost seconds. Nothing is asked of them or kept."""
    code = "import sys, hybridml; print(*[m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["numba", "llvmlite", "scipy", "matplotlib", "rich", "cupy", "cuda", "sklearn"]
    run = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True, cwd=ROOT,
        env=os.environ | {"HYBRIDML_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert run.stdout.split() == []
    assert not list(tmp_path.iterdir())


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == hml.__version__
    assert f"## {hml.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert (ROOT / "hybridml" / "py.typed").exists()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "a module starts with what it is for"
    assert len(text.splitlines()) <= 600, "one idea a file; this one has become several"
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text), "open work does not live in comments"


class Finder(doctest.DocTestFinder):
    """Finds a decorated function in the module that defines it."""

    def _from_module(self, module, object):  # type: ignore[no-untyped-def]  # doctest's own signature
        return super()._from_module(module, inspect.unwrap(object) if inspect.isfunction(object) else object)


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_tell_the_truth(module: str) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in Finder().find(importlib.import_module(module)):
        runner.run(test)
    assert runner.failures == 0


def test_examples_of_composites_are_among_those_that_run() -> None:
    found = Finder().find(importlib.import_module("hybridml.ops.composite"))
    assert {"softmax", "layer_norm"} <= {t.name.rpartition(".")[2] for t in found if t.examples}


def test_the_readme_names_only_what_exists() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", readme))
    assert {"compare", "test"} <= named <= targets
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", readme) + re.findall(r'src="([^"]+)"', readme):
        assert (ROOT / link).exists(), f"README.md links to {link}"


def test_the_readme_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The first Python block is a complete program that trains."""
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    exec(compile(block.group(1), "README.md", "exec"), {"__name__": "__main__"})
    losses = [float(x) for x in re.findall(r"loss ([\d.e+-]+)", capsys.readouterr().out)]
    assert len(losses) > 2
    assert losses[-1] < losses[0] / 10
