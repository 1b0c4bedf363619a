"""Fusion: how many kernels a function becomes, what they read and write, and why more did not fuse.

These counts do not depend on the machine. They may get smaller.
"""

import numpy as np
import pytest

import hybridml as hml
from hybridml.kernels.fuser import MAX_OPERANDS, Fuser, fused
from hybridml.kernels.group import can_fuse
from hybridml.kernels.views import places
from hybridml.testing import check_traced
from hybridml.trace.passes import optimize

rng = np.random.default_rng(0)


def array(*shape, dtype=np.float32):
    return hml.asarray(rng.uniform(-1, 1, shape).astype(dtype))


def groups_of(f, *args):
    """(members of each group by op name, reasons of refusals)."""
    graph = optimize(hml.function(f).get_concrete_function(*args).graph)
    fuser = Fuser(graph, places(graph))
    groups = [[graph.nodes[i].op.name for i in g.nodes] for g in fuser.fuse()]
    return groups, [r.reason for r in fuser.refusals.values()]


N, D = 64, 100
ROW = 4 * D  # bytes
X = array(N, D)
LABELS = hml.asarray(np.eye(D, dtype=np.float32)[rng.integers(0, D, N)])


def cross_entropy(x):
    return -(hml.nn.log_softmax(x) * LABELS).sum(axis=-1).mean()


# function, arguments, kernels, bytes read and written (None: not bounded here)
FUSED = {
    "a gelu chain": (
        lambda x, y: hml.nn.gelu(x * y + 1.5, approximate=True) * hml.sigmoid(x) - y, (X, array(N, D)), 1, 3 * N * ROW),
    "relu of a sum with a bias": (lambda x, b: hml.nn.relu(x + b), (X, array(D)), 1, 2 * N * ROW + ROW),
    "softmax": (hml.nn.softmax, (X,), 1, 2 * N * ROW),
    "log_softmax": (hml.nn.log_softmax, (X,), 1, 2 * N * ROW),
    "softmax down the columns": (lambda x: hml.nn.softmax(x, axis=0), (X,), 1, 2 * N * ROW),
    "layer_norm": (hml.nn.layer_norm, (X, array(D), array(D)), 1, 2 * N * ROW + 2 * ROW),
    "softmax's gradient": (lambda x, w: hml.grad(lambda x: (hml.nn.softmax(x) * w).sum())(x), (X, array(N, D)), 1, 3 * N * ROW),
    "a sum of products": (lambda x, y: (x * y).sum(), (X, array(N, D)), 1, 2 * N * ROW + 4),
    "mean and variance of columns": (lambda x: (x.mean(axis=0), hml.var(x, axis=0)), (X,), 1, N * ROW + 2 * ROW),
    "two results of one chain": (lambda x: (lambda y: (y, y.sum(axis=1)))(hml.tanh(x)), (X,), 1, 2 * N * ROW + 4 * N),
    "cross-entropy": (cross_entropy, (X,), 2, None),
    "cross-entropy and its gradient": (hml.value_and_grad(cross_entropy), (X,), 2, None),
    "a transpose read in place": (lambda x, y: x.T + y, (X, array(D, N)), 1, 3 * N * ROW),
    "slices": (lambda x: x[:, ::2] * x[:, 1::2], (X,), 1, None),
    "a flip": (lambda x: hml.flip(x, axis=1) + x, (X,), 1, 2 * N * ROW),
    "reshapes between": (lambda x: hml.exp(x.reshape((N * 4, D // 4)) * 2).reshape((N, D)) + x, (X,), 1, 2 * N * ROW),
}  # fmt: skip


@pytest.mark.parametrize("case", FUSED)
def test_kernels_and_bytes(case):
    f, args, kernels, nbytes = FUSED[case]
    concrete = check_traced(f, args, ops=50, label=case)
    stats = concrete.stats
    assert stats.kernels <= kernels and stats.python_steps == 0, [k.kernel.name for k in concrete.kernels]
    assert nbytes is None or stats.bytes_traced == nbytes
    assert stats.bytes_traced <= stats.bytes_eager


def test_a_kernel_alone_needs_no_arena():
    for case in ("a gelu chain", "softmax", "layer_norm"):
        f, args, *_ = FUSED[case]
        assert hml.function(f).get_concrete_function(*args).stats.arena_bytes == 0


def training_step(optimizer):
    w1, b1 = hml.Variable(array(50, 30)), hml.Variable(array(30))
    w2, b2 = hml.Variable(array(30, 10)), hml.Variable(array(10))
    variables = [w1, b1, w2, b2]

    def step(x, y):
        with hml.GradientTape() as tape:
            loss = ((hml.nn.relu(x @ w1 + b1) @ w2 + b2 - y) ** 2).mean()
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return step, (array(64, 50), array(64, 10)), variables


STEPS = {"SGD": (hml.optim.SGD, 12), "Adam": (hml.optim.Adam, 12)}  # 5 of them are products


@pytest.mark.parametrize("name", STEPS)
def test_a_two_layer_training_step(name):
    make, most = STEPS[name]
    step, args, _ = training_step(make(0.01))
    concrete = hml.function(step).get_concrete_function(*args)
    assert concrete.stats.kernels <= most and concrete.stats.python_steps == 0
    assert sum(n.op.name == "matmul" for n in concrete.optimized.nodes) == 5
    assert not any(n.op.name == "permute_dims" for n in concrete.optimized.nodes)


@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_is_that_of_eager(name):
    make, _ = STEPS[name]
    losses, weights = [], []
    for wrap in (lambda f: f, hml.function):
        global rng
        rng = np.random.default_rng(7)
        step, args, variables = training_step(make(0.01))
        step = wrap(step)
        losses.append([float(step(*args)) for _ in range(20)])
        weights.append([v.numpy() for v in variables])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-3, atol=2e-4)


# what stays apart, and why

REFUSED = {
    "a product": (lambda x, y: hml.tanh(x @ y), (array(8, 8), array(8, 8)), "runs in a routine of its own"),
    "two spaces": (lambda x: x.sum(axis=1).sum() * 2, (X,), "their iteration spaces differ"),
    "a path through another kernel": (
        lambda x, y: (lambda h: (h @ y) + h)(hml.tanh(x)), (array(8, 8), array(8, 8)), "another kernel lies between them"),
    "a transpose of what the kernel computes": (
        lambda x: (lambda h: h.T + h)(hml.tanh(x)), (array(8, 8),), "read in another order"),
    "too many operands": (
        lambda *xs: sum(xs[1:], xs[0]), tuple(array(8) for _ in range(MAX_OPERANDS + 8)), f"more than {MAX_OPERANDS} operands"),
    "a row too long to be read twice": (
        lambda x: x - x.max(axis=1, keepdims=True), (array(2, (1 << 17) - 1),), "too long to be read twice"),
    "columns too long to be read twice": (
        lambda x: x - x.max(axis=0, keepdims=True), (array(1 << 12, 128),), "too long to be read twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case):
    f, args, reason = REFUSED[case]
    groups, reasons = groups_of(f, *args)
    assert len(groups) > 1
    assert any(reason in r for r in reasons), reasons
    check_traced(f, args, ops=50, label=case)


def test_refusals_name_the_users_lines():
    concrete = hml.function(REFUSED["a product"][0]).get_concrete_function(array(8, 8), array(8, 1))
    refusal, *_ = concrete.program.refusals
    assert refusal.producer.startswith("matmul") and refusal.consumer.startswith("tanh")
    assert "test_fuser.py" in refusal.producer


def test_every_node_is_in_one_group_and_producers_come_first():
    for f, args, *_ in FUSED.values():
        graph = optimize(hml.function(f).get_concrete_function(*args).graph)
        fuser = Fuser(graph, places(graph))
        groups = fuser.fuse()
        at = {i: k for k, g in enumerate(groups) for i in g.nodes}
        assert len(at) == sum(len(g.nodes) for g in groups) == sum(n.op.view is None for n in graph.nodes)
        made = {places(graph)[v][0]: k for i, k in at.items() for v in graph.nodes[i].outputs}
        for i, k in at.items():
            assert all(made.get(places(graph)[v][0], -1) <= k for v in graph.nodes[i].values)


def test_fusing_is_deterministic():
    f, args, *_ = FUSED["layer_norm"]
    assert groups_of(f, *args) == groups_of(f, *args)


def test_empty_arrays_have_no_kernels():
    graph = optimize(hml.function(lambda x: x + 1).get_concrete_function(array(0, 3)).graph)
    assert not any(map(can_fuse, graph.nodes))
    check_traced(lambda x: x + 1, (array(0, 3),))


@pytest.mark.parametrize("half", [hml.float16, hml.bfloat16], ids=str)
def test_half_precision_is_fused_and_never_stored_wider(half):
    def f(x):
        return hml.nn.softmax(x * 2), hml.sum(x, axis=0), hml.max(hml.exp(x))

    concrete = check_traced(f, (hml.asarray(rng.normal(size=(9, 70))).astype(half),), ops=8)
    written = [v for s in concrete.program.steps for v in s.writes]
    assert {v.dtype for v in written if v.spec.size > 70} == {half}


def at_sizes(f, *shapes):
    return [hml.function(f).get_concrete_function(hml.ones(s)).optimized for s in shapes]


def described(fuser):
    return [(g.nodes, g.space, g.reduced, g.kept, g.crossing, g.crossed) for g in fuser.groups]


def normalised(x):
    y = hml.nn.layer_norm(hml.tanh(x) * 2)
    return y, y.sum(axis=0), (y * y).mean()


def test_what_was_decided_for_one_size_is_repeated_for_another(monkeypatch):
    small, large = at_sizes(normalised, (6, 8), (50, 12))
    known = {}
    fused(small, known)
    want = described(fused(large))
    monkeypatch.setattr(Fuser, "fuse", None)  # no search
    again = fused(large, known)
    assert described(again) == want and again.refusals.keys() == fused(small, known).refusals.keys()


def test_what_is_not_legal_for_another_size_is_searched_anew():
    short, long = at_sizes(
        normalised, (3, 8), (3, 100_000)
    )  # rows that are too long to be read twice from cache
    known = {}
    a, b = fused(short, known), fused(long, known)
    assert described(b) == described(fused(long)) != described(a)


def residual(depth):
    """A training step of so many equal layers."""
    weights = [hml.Variable(np.full((8, 8), 0.1, np.float32)) for _ in range(depth)]

    def step(x):
        with hml.GradientTape() as tape:
            for w in weights:
                x = x + hml.nn.gelu(hml.nn.layer_norm(x) @ w)
            loss = hml.mean(x * x)
        return tape.gradient(loss, weights)

    return step


class Counting(dict):
    """Ranks that count how often they are looked at: once for each group that a search for paths meets."""

    looks = 0

    def __getitem__(self, key):
        Counting.looks += 1
        return super().__getitem__(key)


def effort(monkeypatch, depth):
    """(groups, pairs examined, groups met while looking for paths) of one search."""
    graph = optimize(hml.function(residual(depth)).get_concrete_function(array(4, 8)).graph)
    fuser = Fuser(graph, places(graph), across=True)
    examined = []
    real = fuser._tried
    monkeypatch.setattr(fuser, "_tried", lambda a, b: examined.append((id(a), id(b))) or real(a, b))
    fuser._rank = Counting(fuser._rank)
    Counting.looks = 0
    return len(fuser.fuse()), len(examined), Counting.looks


def test_the_search_grows_with_the_graph_and_no_faster(monkeypatch):
    few, many = effort(monkeypatch, 8), effort(monkeypatch, 32)
    assert all(m <= 4.5 * f for f, m in zip(few, many, strict=True)), (few, many)
