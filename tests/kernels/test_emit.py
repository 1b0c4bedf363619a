"""The text of kernels: for people, always the same, and the same for every size.

The expected texts are in tests/kernels/text. After a change on purpose, delete them and run the tests once: missing ones are written.
"""

import ast
from pathlib import Path

import numpy as np
import pytest

import hybridml as hml
from hybridml.kernels.emit import emit

TEXTS = Path(__file__).parent / "text"
rng = np.random.default_rng(0)


def array(*shape, dtype=np.float32):
    return hml.asarray(rng.uniform(0.5, 2, shape).astype(dtype))


KERNELS = {
    "gelu_chain": (
        lambda x, y: hml.nn.gelu(x * y + 1.5, approximate=True) * hml.sigmoid(x) - y,
        lambda: (array(6, 5), array(6, 5)),
    ),
    "softmax": (hml.nn.softmax, lambda: (array(6, 5),)),
    "column_mean": (lambda x: x - x.mean(axis=0), lambda: (array(6, 5),)),
}


def kernel(name, args=None):
    f, make = KERNELS[name]
    (step,) = hml.function(f).get_concrete_function(*(args or make())).kernels
    return step


@pytest.mark.parametrize("name", KERNELS)
def test_text(name):
    path = TEXTS / f"{name}.txt"
    source = kernel(name).source
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        pytest.fail(f"wrote {path.name}: read it, and add it to the repository")
    assert source == path.read_text()


@pytest.mark.parametrize("name", KERNELS)
def test_text_does_not_depend_on_sizes_or_constants(name):
    args = KERNELS[name][1]()
    larger = tuple([array(60, 50) for _ in args])
    assert kernel(name).source == kernel(name, larger).source


def test_literals_are_arguments():
    a, b = [
        hml.function(lambda x, k=k: x * k + k).get_concrete_function(array(4)).kernels[0]
        for k in (0.25, 0.75)
    ]
    assert a.source == b.source and a.kernel.address == b.kernel.address


@pytest.mark.parametrize("name", KERNELS)
def test_emitting_twice_gives_the_same(name):
    spec = kernel(name).lowered.spec
    assert emit(spec) == emit(spec)


@pytest.mark.parametrize("name", KERNELS)
def test_the_text_is_python_that_says_what_it_does(name):
    step = kernel(name)
    tree = ast.parse(step.source)
    (function,) = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    assert function.name == step.kernel.name
    assert [a.arg for a in function.args.args] == ["args", "begin", "end"]
    assert "  # " in step.source
    read = {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
    assigned = {
        t.id
        for n in ast.walk(function)
        if isinstance(n, ast.Assign)
        for t in n.targets
        if isinstance(t, ast.Name)
    }
    assert assigned <= read


def test_dtypes_are_part_of_the_text():
    texts = {kernel("softmax", (array(6, 5, dtype=d),)).source for d in (np.float32, np.float64)}
    assert len(texts) == 2
