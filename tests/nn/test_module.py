"""Module: what it finds in its attributes, when it is built, what `training` it sees, and how values go in and out."""

import copy
import gc
import pickle
import sys
import threading
import weakref

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import DeviceError, ShapeError, WeightsError
from hybridml.nn import weights

X = hml.ones((3, 4))


class Scale(hml.nn.Module):
    """A user's layer with a weight, a moving value and control flow on a tensor."""

    def __init__(self, start=2.0):
        super().__init__()
        self.start = start

    def build(self, shape):
        self.by = hml.Variable(np.full(shape[-1:], self.start, np.float32), name="by")
        self.seen = hml.Variable(0.0, trainable=False, name="seen")

    def call(self, x, training=False):
        if training:
            self.seen.assign_add(1.0)
        if hml.sum(x) > 0:
            return x * self.by
        return x - self.by


class Net(hml.nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.a = hml.nn.Dense(width, activation="tanh")
        self.rest = {"scale": Scale(), "list": [hml.nn.Dense(2), (hml.nn.Dropout(0.5),)]}

    def call(self, x):
        dense, (drop,) = self.rest["list"]
        return drop(dense(self.rest["scale"](self.a(x))))


NAMES = [
    "a.kernel", "a.bias", "rest.scale.by", "rest.scale.seen", "rest.list.0.kernel", "rest.list.0.bias",
]  # fmt: skip


def test_variables_are_found_in_attributes_modules_lists_tuples_and_dicts():
    net = Net()
    assert net.variables == [] and not net.built
    net(X)
    assert list(net.named_variables) == NAMES
    assert [v.shape for v in net.variables] == [(4, 8), (8,), (8,), (), (8, 2), (2,)]
    assert [v.name for v in net.trainable_variables] == [
        "dense/kernel", "dense/bias", "by", "dense/kernel", "dense/bias",
    ]  # fmt: skip
    assert [v.name for v in net.non_trainable_variables] == ["seen"]
    assert list(net.named_submodules) == ["a", "rest.scale", "rest.list.0", "rest.list.1.0"]
    assert net.submodules[1] is net.rest["scale"]
    assert net.count_params() == 4 * 8 + 8 + 8 + 1 + 16 + 2


def test_a_part_that_is_met_twice_counts_once_and_cycles_end():
    net = Net()
    net(X)
    net.again, net.rest["me"], net.tied = net.a, net, net.a.kernel
    assert list(net.named_variables) == NAMES
    assert len(net.submodules) == 4
    hml.function(lambda m, x: m(x))(net, X)


def test_attributes_may_be_replaced_and_lists_may_grow():
    net = hml.nn.Sequential([hml.nn.Dense(3)])
    net(X)
    net.add(hml.nn.Dense(2, use_bias=False))
    assert net(X).shape == (3, 2) and list(net.named_variables)[-1] == "layers.1.kernel"
    net.pop()
    assert net(X).shape == (3, 3) and len(net.variables) == 2


CHANGES = {
    "attribute replaced": (lambda n: setattr(n, "a", hml.nn.Dense(3)), {"a.kernel", "a.bias"}),
    "attribute renamed": (lambda n: n.__dict__.__setitem__("z", n.__dict__.pop("a")), {"a.kernel", "a.bias"}),
    "attribute of a part": (lambda n: setattr(n.rest["scale"], "by", None), {"rest.scale.by"}),
    "item of a list": (lambda n: n.rest["list"].__setitem__(0, 3), {"rest.list.0.kernel", "rest.list.0.bias"}),
    "item taken": (lambda n: n.rest["list"].pop(0), {"rest.list.0.kernel", "rest.list.0.bias"}),
    "key of a dict": (lambda n: n.rest.pop("scale"), {"rest.scale.by", "rest.scale.seen"}),
    "key of a dict renamed": (lambda n: n.rest.__setitem__("s", n.rest.pop("scale")), {"rest.scale.by", "rest.scale.seen"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_every_change_shows_at_once(case):
    change, gone = CHANGES[case]
    net = Net()
    net(X)
    before = net.named_variables
    assert list(before) == list(net.named_variables) == NAMES
    change(net)
    assert set(before) - set(net.named_variables) == gone


def test_weights_are_made_once_at_the_first_call_or_by_build():
    made = []

    class Layer(hml.nn.Module):
        def build(self, shape):
            made.append(shape)
            self.w = self.add_weight(shape[-1:], "ones", "w")

        def call(self, x):
            return x * self.w

    layer = Layer()
    layer(X), layer(hml.ones((5, 4)))
    assert made == [(3, 4)] and layer.w.name == "layer/w"
    other = Layer(name="other")
    other.build((None, 4))
    assert other.built and other.w.name == "other/w"
    other(X)
    assert made == [(3, 4), (None, 4)]


def test_build_gets_the_shapes_of_as_many_arguments_as_it_takes():
    found = []

    class Two(hml.nn.Module):
        def build(self, first, second):
            found.extend([first, second])

        def call(self, first, second, third=None):
            return third

    class Every(hml.nn.Module):
        def build(self, *shapes):
            found.append(shapes)

        def call(self, *args):
            return args

    Two()([X, {"k": hml.ones(2)}], None, X)
    Every()(X, 3.0)
    assert found == [[(3, 4), {"k": (2,)}], None, ((3, 4), None)]


def test_weights_made_under_a_tape_and_in_a_trace_are_the_modules_own():
    net, other = Net(), Net()
    with hml.GradientTape() as tape:
        y = hml.sum(net(X))
    assert all(g is not None for g in tape.gradient(y, net.trainable_variables))
    f = hml.function(lambda x: other(x))
    f(X)
    assert list(other.named_variables) == NAMES
    np.testing.assert_allclose(f(X), other(X), rtol=1e-5, atol=1e-6)


def test_two_threads_build_once():
    layer = hml.nn.Dense(4)
    start = threading.Barrier(8)
    seen = []

    def run():
        start.wait()
        layer(X)
        seen.append(layer.kernel)

    threads = [threading.Thread(target=run) for _ in range(8)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert len({id(k) for k in seen}) == 1 and len(seen) == 8


def test_control_flow_on_tensors_in_call_is_converted():
    for layer in (Scale(), hml.nn.Sequential([Scale()]), hml.nn.Lambda(Scale(3.0))):
        f = hml.function(lambda x, layer=layer: layer(x))
        for x in (X, -X):
            np.testing.assert_array_equal(f(x), layer(x))
        assert f.cache_info().traces == 1


# training


class Asked(hml.nn.Module):
    def __init__(self, default=False):
        super().__init__()
        self.seen = []

    def call(self, x, training="default"):
        self.seen.append(training)
        return x


class Around(hml.nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.inner = how, Asked()

    def call(self, x, training=False):
        return self.how(self.inner, x, training)


@pytest.mark.parametrize(
    ("how", "given", "expected"),
    [
        (lambda inner, x, t: inner(x), {}, "default"),
        (lambda inner, x, t: inner(x), {"training": True}, True),
        (lambda inner, x, t: inner(x, training=not t), {"training": True}, False),
        (lambda inner, x, t: inner(x, "mine"), {"training": True}, "mine"),
    ],
    ids=["nobody says", "from the module around", "by keyword", "by position"],
)
def test_training_comes_from_the_caller_else_from_around_else_from_the_default(how, given, expected):
    outer = Around(how)
    outer(X, **given)
    assert outer.inner.seen == [expected]
    hml.nn.Sequential([outer])(X, **given)  # whose call does not take it
    assert outer.inner.seen == [expected] * 2
    outer.inner(X)
    assert outer.inner.seen[-1] == "default"


def test_training_is_forgotten_after_an_error():
    def fail(inner, x, training):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Around(fail)(X, training=True)
    asked = Asked()
    asked(X)
    assert asked.seen == ["default"]


def test_trainable_switches_everything_below_and_remembers_what_was_trained():
    net = Net()
    net(X)
    net.a.trainable = False
    assert [v.trainable for v in net.variables] == [False, False, True, False, True, True]
    net.trainable = False
    assert net.trainable_variables == [] and not net.rest["scale"].trainable
    with hml.GradientTape() as tape:
        net(X)
    assert not tape.watched_variables()
    net.trainable = True
    assert [v.trainable for v in net.variables] == [True, True, True, False, True, True]
    late = hml.nn.Dense(2)
    late.trainable = False
    late(X)
    assert late.trainable_variables == []


def test_errors_name_the_layers_they_went_through():
    net = hml.nn.Sequential([hml.nn.Dense(3), hml.nn.Reshape((2, 2))], name="model")
    for call in (net, hml.function(lambda x: net(x))):
        with pytest.raises(ShapeError) as e:
            call(X)
        assert e.value.__notes__[0].startswith("  in reshape (Reshape) called on float32[3, 3]")
        assert "in model (Sequential) called on float32[3, 4]" in e.value.__notes__[1]
    with pytest.raises(NotImplementedError, match="Empty must define call"):
        type("Empty", (hml.nn.Module,), {})()(X)


# values


def test_state_goes_out_and_in_by_path_all_or_nothing():
    a, b = Net(), Net()
    a(X), b(X)
    state = a.state_dict()
    assert list(state) == NAMES
    b.load_state_dict(state)
    np.testing.assert_array_equal(a(X), b(X))
    before = b.get_weights()
    wrong = {k: v + 1 for k, v in state.items() if k != "a.bias"} | {
        "a.kernel": np.zeros((4, 9)),
        "more": 1.0,
    }
    with pytest.raises(WeightsError) as e:
        b.load_state_dict(wrong)
    assert "missing: a.bias" in str(e.value) and "not expected: more" in str(e.value)
    assert "of another shape: a.kernel ((4, 9), the variable is (4, 8))" in str(e.value)
    for was, now in zip(before, b.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
    del wrong["a.kernel"]
    b.load_state_dict(wrong, strict=False)
    np.testing.assert_array_equal(b.rest["scale"].by, a.rest["scale"].by.numpy() + 1)
    with pytest.raises(WeightsError, match="Not built yet"):
        Net().load_state_dict(state)
    b.set_weights(a.get_weights())
    np.testing.assert_array_equal(a(X), b(X))
    with pytest.raises(WeightsError, match="has 6 variables"):
        b.set_weights([1])


def test_weights_go_to_a_safetensors_file_and_back(tmp_path):
    from safetensors.numpy import load_file

    a, b = Net(), Net()
    a(X), b(X)
    path = tmp_path / "model.safetensors"
    a.save_weights(path)
    a.save_weights(str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    assert {k: v.shape for k, v in load_file(path).items()} == {
        k: v.shape for k, v in a.named_variables.items()
    }
    b.load_weights(path)
    np.testing.assert_array_equal(a(X), b(X))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(WeightsError, match=r"model.safetensors cannot be read"):
        b.load_weights(path)
    with pytest.raises(FileNotFoundError):
        b.load_weights(tmp_path / "nothing")


@pytest.mark.parametrize("dtype", [hml.float16, hml.bfloat16, hml.float64], ids=str)
def test_weights_keep_their_dtype_in_a_file(tmp_path, dtype):
    a, b = hml.nn.Dense(3, dtype=dtype), hml.nn.Dense(3, dtype=dtype)
    x = hml.ones((2, 4), dtype=dtype)
    a(x), b(x)
    a.save_weights(tmp_path / "w")
    assert {v.dtype for v in weights.read(tmp_path / "w").values()} == {dtype}
    b.load_weights(tmp_path / "w")
    assert a(x).tolist() == b(x).tolist()


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    net = hml.nn.Dense(2)
    net(X)
    path = tmp_path / "w"
    net.save_weights(path)
    old = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        net.save_weights(path)
    assert path.read_bytes() == old and len(list(tmp_path.iterdir())) == 1


def test_without_safetensors_the_error_names_the_cure(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    net = hml.nn.Dense(2)
    net(X)
    with pytest.raises(ImportError, match=r'pip install "hybridml\[safetensors\]"'):
        net.save_weights(tmp_path / "w")


@pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_independent(way):
    net = Scale()
    net(X)
    other = way(net)
    net.by.assign_add(hml.ones(4))
    np.testing.assert_array_equal(other.by, [2, 2, 2, 2])
    assert other.built and not other.seen.trainable and other.by.name == "by"
    assert other.variables[0] is other.by is not net.by
    f = hml.function(lambda m, x: m(x))
    for m in (net, other):
        np.testing.assert_array_equal(f(m, X), m(X))
    assert f.cache_info().traces == 1


def test_a_module_moves_to_a_device_with_all_its_variables():
    net = Net()
    net(X)
    assert net.to("cpu:0") is net and {v.device for v in net.variables} == {"cpu:0"}
    with pytest.raises(DeviceError):
        net.to("gpu:99")


def test_summary_shows_paths_classes_shapes_and_counts(capsys):
    net = Net()
    lines = []
    net.summary(print_fn=lines.append)
    assert "not built" in lines[0] and lines[0].endswith(
        "0 parameters (0 bytes), 0 trainable, 0 not trainable"
    )
    net(X)
    net.summary(print_fn=lines.append)
    table = [line.split() for line in lines[1].splitlines()]
    assert ["a", "Dense", "(3,", "8)", "40"] in table and ["rest.scale", "Scale", "(3,", "8)", "9"] in table
    assert lines[1].endswith("67 parameters (268 bytes), 66 trainable, 1 not trainable")
    net.summary()
    assert "rest.list.0" in capsys.readouterr().out


def test_a_module_is_freed_with_its_variables():
    net = Net()
    net(X)
    alive = [weakref.ref(net), weakref.ref(net.a.kernel)]
    del net
    gc.collect()
    assert [a() for a in alive] == [None, None]
