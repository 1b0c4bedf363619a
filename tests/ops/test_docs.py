"""Every public function has an example, and every example runs."""

import doctest

import pytest

import hybridml as hml
from hybridml.ops.registry import NAMESPACES, PUBLIC

FUNCTIONS = {**PUBLIC, **{f"{space}.{n}": f for space, names in NAMESPACES.items() for n, f in names.items()}}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_example(name):
    f = FUNCTIONS[name]
    tests = [t for t in doctest.DocTestFinder(recurse=False).find(f, name, globs={"hml": hml}) if t.examples]
    assert tests, f"{name} has no example"
    runner = doctest.DocTestRunner()
    for t in tests:
        runner.run(t)
    assert runner.summarize(verbose=False).failed == 0
