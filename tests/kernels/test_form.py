"""Groups of one form are lowered once, and groups of different forms are told apart."""

import numpy as np
import pytest

import hybridml as hml
from hybridml.kernels import form
from hybridml.kernels.form import Forms
from hybridml.kernels.fuser import fused
from hybridml.trace.passes import optimize


def array(*shape):
    return hml.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


def net(depth, layer):
    def f(x, *weights):
        for w in weights:
            x = layer(x) @ w
        return x

    return f, [array(8, 16), *[array(16, 16) for _ in range(depth)]]


def lowerings(monkeypatch, depth, layer):
    """(groups that were asked for, groups that were lowered)."""
    count = {"asked": 0, "lowered": 0}
    real, asked = form.lower, Forms.lowered

    def lower(*args):
        count["lowered"] += 1
        return real(*args)

    def lowered(self, *args):
        count["asked"] += 1
        return asked(self, *args)

    with monkeypatch.context() as m:
        m.setattr(form, "lower", lower)
        m.setattr(Forms, "lowered", lowered)
        f, args = net(depth, layer)
        hml.function(f)(*args)
    return count["asked"], count["lowered"]


def test_layers_of_one_form_are_lowered_once(monkeypatch):
    asked, lowered = lowerings(monkeypatch, 20, lambda x: hml.nn.softmax(x * 2.0))
    assert asked == 20
    assert lowered <= 2  # the first one reads an input of the function


def described(low):
    """What a program takes of a kernel, its values by their order."""
    numbers = {}
    number = lambda v: numbers.setdefault(v, len(numbers))  # noqa: E731
    return (
        [(number(v), offset) for v, offset in low.operands], low.words, low.scalars, low.extent, low.work,
        [number(v) for v in low.temporaries], [(number(a), number(b)) for a, b in low.in_place],
        [(number(w.value), w.written, w.outer, w.inner, w.offset) for w in low.walks], low.spec,
    )  # fmt: skip


def test_a_kernel_of_a_known_form_is_what_lowering_makes():
    f, args = net(6, lambda x: hml.nn.layer_norm(x + 1.0))
    fuser = fused(optimize(hml.function(f).get_concrete_function(*args).graph))
    forms = Forms(fuser.graph, fuser.places)
    groups = [g for g in fuser.groups if g.fusible]
    assert len(groups) == 6
    for g in groups:
        outputs = fuser.outputs(g)
        found, wanted = forms.lowered(g, outputs), form.lower(fuser.graph, g, fuser.places, outputs)
        assert [v for v, _ in found.operands] == [v for v, _ in wanted.operands]
        assert described(found) == described(wanted)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: hml.where(x > 0.0, x, 0.0), lambda x: hml.where(x > 0.0, x, -0.0)),
        (lambda x: hml.sum(hml.abs(x), axis=0), lambda x: hml.sum(hml.abs(x), axis=1)),
        (lambda x: x * hml.abs(x), lambda x: x * hml.abs(x.mT)),
        (lambda x: hml.astype(x, "float64") * 2, lambda x: hml.astype(x, "int32") * 2),
    ],
    ids=["literals", "axes", "layouts", "dtypes"],
)
def test_what_differs_in_one_thing_is_of_another_form(one, other):
    x, y = array(8, 8), array(8, 8)
    for found, wanted in zip(
        hml.function(lambda x, y: (one(x), other(y)))(x, y), (one(x), other(y)), strict=True
    ):
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-6)
        np.testing.assert_array_equal(np.signbit(found.numpy()), np.signbit(wanted.numpy()))
