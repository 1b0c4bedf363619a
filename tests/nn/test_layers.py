"""Every layer against plain NumPy in float64; eager, interpreted and compiled; gradients to inputs and weights against differences."""

import contextlib
import inspect

import numpy as np
import pytest
from scipy import signal, special

import hybridml as hml
from hybridml.errors import IndexOutOfRangeError, ShapeError
from hybridml.testing import check_grads, check_traced

nn = hml.nn
RNG = np.random.default_rng(0)
F64 = {"dtype": hml.float64}


def normal(*shape):
    return RNG.normal(size=shape)


def sigmoid(x):
    return special.expit(x)


def normed(x, axis, epsilon=1e-3):
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + epsilon)


def rnn(w, x, step, states=1, reverse=False):
    """All outputs and the last state of a recurrence written as a loop."""
    n = w["recurrent_kernel"].shape[0]
    state, outs = [np.zeros((len(x), n)) for _ in range(states)], []
    for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
        state = step(w, state, x[:, t])
        outs.append(state[0])
    return np.stack(outs, 1), state


def simple_step(w, state, x):
    return [np.tanh(x @ w["kernel"] + state[0] @ w["recurrent_kernel"] + w["bias"])]


def gru_step(w, state, x):
    (h,) = state
    (xz, xr, xn), (hz, hr, hn) = (
        np.split(x @ w["kernel"] + w["bias"][0], 3, -1),
        np.split(h @ w["recurrent_kernel"] + w["bias"][1], 3, -1),
    )
    z, r = sigmoid(xz + hz), sigmoid(xr + hr)
    return [z * h + (1 - z) * np.tanh(xn + r * hn)]


def gru_before_step(w, state, x):
    (h,) = state
    n = h.shape[-1]
    a, u = x @ w["kernel"] + w["bias"], w["recurrent_kernel"]
    z, r = sigmoid(a[:, :n] + h @ u[:, :n]), sigmoid(a[:, n : 2 * n] + h @ u[:, n : 2 * n])
    return [z * h + (1 - z) * np.tanh(a[:, 2 * n :] + (r * h) @ u[:, 2 * n :])]


def lstm_step(w, state, x):
    h, c = state
    i, f, g, o = np.split(x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"], 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c]


def below(w, path):
    return {k.removeprefix(path + "."): v for k, v in w.items() if k.startswith(path + ".")}


def dense(w, x, path):
    return x @ w[f"{path}.kernel"] + w[f"{path}.bias"]


def heads(w, q, v, causal=False, mask=None, path=""):
    """Multi-head attention head by head."""
    w = below(w, path) if path else w
    depth = w["query.kernel"].shape[-1]
    outs, scores = [], []
    for h in range(w["query.kernel"].shape[1]):
        a, b, c = (
            x @ w[f"{n}.kernel"][:, h] + w[f"{n}.bias"][h]
            for n, x in (("query", q), ("key", v), ("value", v))
        )
        s = a @ np.swapaxes(b, -1, -2) / np.sqrt(depth)
        if causal:
            s = np.where(np.tril(np.ones(s.shape[-2:], bool)), s, -1e300)
        if mask is not None:
            s = np.where(mask, s, -1e300)
        scores.append(special.softmax(s, -1))
        outs.append(scores[-1] @ c)
    return dense(w, np.concatenate(outs, -1), "output"), np.stack(scores, 1)


def block(w, x, first):
    n = lambda x, path: normed(x, -1, 1e-5) * w[f"{path}.gamma"] + w[f"{path}.beta"]  # noqa: E731
    think = lambda x: dense(w, (lambda y: y * special.ndtr(y))(dense(w, x, "expand")), "contract")  # noqa: E731
    attend = lambda x: heads(w, x, x, causal=True, path="attention")[0]  # noqa: E731
    if first:
        x = x + attend(n(x, "attention_norm"))
        return x + think(n(x, "dense_norm"))
    x = n(x + attend(x), "attention_norm")
    return n(x + think(x), "dense_norm")


def convolved(x, k):
    """Valid correlation of [n, h, w, c] with [a, b, c, f]."""
    return np.stack([
        [sum(signal.correlate(image[..., c], k[..., c, f], "valid") for c in range(k.shape[2])) for f in range(k.shape[3])]
        for image in x
    ]).transpose(0, 2, 3, 1)  # fmt: skip


def pooled(x, how):
    return how(x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, x.shape[3]), axis=(2, 4))


X, S, I = normal(3, 4), normal(2, 5, 3), normal(2, 6, 6, 3)  # noqa: E741  (examples, sequences, images)
M = RNG.random((2, 5, 5)) < 0.6
M[..., 0] = True
LEARN = {"training": True}

# layer, arguments, keywords of the call, NumPy's answer from (weights by name, *arguments)
CASES = {
    "dense": (lambda: nn.Dense(5, "tanh", **F64), (X,), {}, lambda w, x: np.tanh(x @ w["kernel"] + w["bias"])),
    "dense, no bias, of a sequence": (lambda: nn.Dense(5, use_bias=False, **F64), (S,), {}, lambda w, x: x @ w["kernel"]),
    "dense, of one vector": (lambda: nn.Dense(5, **F64), (X[0],), {}, lambda w, x: x @ w["kernel"] + w["bias"]),
    "sequential": (lambda: nn.Sequential([nn.Dense(5, **F64), hml.tanh, nn.Dense(2, **F64)]), (X,), {},
                   lambda w, x: dense(w, np.tanh(dense(w, x, "layers.0")), "layers.2")),
    "embedding": (lambda: nn.Embedding(7, 3, **F64), (np.array([[0, 6], [3, 3]]),), {}, lambda w, i: w["embeddings"][i]),
    "flatten": (nn.Flatten, (I,), {}, lambda w, x: x.reshape(2, -1)),
    "flatten, no axes": (nn.Flatten, (X[0],), {}, lambda w, x: x[:, None]),
    "reshape": (lambda: nn.Reshape((2, -1, 9)), (I,), {}, lambda w, x: x.reshape(2, 2, 6, 9)),
    "dropout, not training": (lambda: nn.Dropout(0.5), (X,), {}, lambda w, x: x),
    "dropout, rate 0": (lambda: nn.Dropout(0.0), (X,), LEARN, lambda w, x: x),
    "dropout, rate 1": (lambda: nn.Dropout(1.0), (X,), LEARN, lambda w, x: 0 * x),
    "activation": (lambda: nn.Activation("silu"), (X,), {}, lambda w, x: x * sigmoid(x)),
    "lambda": (lambda: nn.Lambda(lambda x: x if hml.sum(x) > 1e3 else x * 3), (X,), {}, lambda w, x: 3 * x),
    "add": (nn.Add, ([X, X[0], 2 * X],), {}, lambda w, a: a[0] + a[1] + a[2]),
    "multiply": (nn.Multiply, ([X, X + 1],), {}, lambda w, a: a[0] * a[1]),
    "concatenate": (lambda: nn.Concatenate(0), ([X, X[:1]],), {}, lambda w, a: np.concatenate(a)),
    "batch_norm, training": (lambda: nn.BatchNorm(**F64), (I,), LEARN,
                             lambda w, x: normed(x, (0, 1, 2)) * w["gamma"] + w["beta"]),
    "batch_norm, axis 1": (lambda: nn.BatchNorm(axis=1, center=False, **F64), (I,), LEARN,
                           lambda w, x: normed(x, (0, 2, 3)) * w["gamma"][:, None, None]),
    "batch_norm": (lambda: nn.BatchNorm(**F64), (X,), {},
                   lambda w, x: (x - w["moving_mean"]) / np.sqrt(w["moving_variance"] + 1e-3) * w["gamma"] + w["beta"]),
    "layer_norm": (lambda: nn.LayerNorm(**F64), (S,), {}, lambda w, x: normed(x, -1) * w["gamma"] + w["beta"]),
    "layer_norm, two axes": (lambda: nn.LayerNorm(axis=(1, -2), scale=False, **F64), (I,), {},
                             lambda w, x: normed(x, (1, 2)) + w["beta"][..., None]),
    "group_norm": (lambda: nn.GroupNorm(2, **F64), (normal(2, 3, 4),), {},
                   lambda w, x: normed(x.reshape(2, 3, 2, 2), (1, 3)).reshape(2, 3, 4) * w["gamma"] + w["beta"]),
    "rms_norm": (lambda: nn.RMSNorm(**F64), (S,), {},
                 lambda w, x: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w["scale"]),
    "rms_norm, axis 1": (lambda: nn.RMSNorm(axis=1, **F64), (S,), {},
                         lambda w, x: x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-6) * w["scale"][:, None]),
    "simple_rnn": (lambda: nn.SimpleRNN(4, **F64), (S,), {}, lambda w, x: rnn(w, x, simple_step)[1][0]),
    "simple_rnn, sequences": (lambda: nn.SimpleRNN(4, return_sequences=True, return_state=True, **F64), (S,), {},
                              lambda w, x: (rnn(w, x, simple_step)[0], *rnn(w, x, simple_step)[1])),
    "simple_rnn, backwards": (lambda: nn.SimpleRNN(4, return_sequences=True, go_backwards=True, **F64), (S,), {},
                              lambda w, x: rnn(w, x, simple_step, reverse=True)[0]),
    "gru": (lambda: nn.GRU(4, bias_initializer="random_normal", **F64), (S,), {}, lambda w, x: rnn(w, x, gru_step)[1][0]),
    "gru, reset before": (lambda: nn.GRU(4, reset_after=False, return_sequences=True, **F64), (S,), {},
                          lambda w, x: rnn(w, x, gru_before_step)[0]),
    "lstm": (lambda: nn.LSTM(4, return_sequences=True, return_state=True, **F64), (S,), {},
             lambda w, x: (rnn(w, x, lstm_step, 2)[0], *rnn(w, x, lstm_step, 2)[1])),
    "bidirectional": (lambda: nn.Bidirectional(nn.LSTM(2, return_sequences=True, return_state=True, **F64)), (S,), {},
                      lambda w, x: (lambda f, b: (np.concatenate([f[0], b[0][:, ::-1]], -1), *f[1], *b[1]))(
                          rnn(below(w, "forward_layer"), x, lstm_step, 2),
                          rnn(below(w, "backward_layer"), x, lstm_step, 2, reverse=True))),
    "bidirectional, summed": (lambda: nn.Bidirectional(nn.SimpleRNN(2, **F64), "sum"), (S,), {},
                              lambda w, x: rnn(below(w, "forward_layer"), x, simple_step)[1][0]
                              + rnn(below(w, "backward_layer"), x, simple_step, reverse=True)[1][0]),
    "attention": (lambda: nn.MultiHeadAttention(2, 3, value_dim=4, **F64), (S, normal(2, 4, 3)),
                  {"return_attention_scores": True}, lambda w, q, v: heads(w, q, v)),
    "attention, causal": (lambda: nn.MultiHeadAttention(2, 3, output_shape=5, **F64), (S,), {"use_causal_mask": True},
                          lambda w, q: heads(w, q, q, causal=True)[0]),
    "attention, masked": (lambda: nn.MultiHeadAttention(2, 3, dropout=0.5, **F64), (S,), {"attention_mask": M},
                          lambda w, q: heads(w, q, q, mask=M)[0]),
    "transformer block": (lambda: nn.TransformerBlock(2, 7, causal=True, **F64), (normal(2, 3, 4),), {},
                          lambda w, x: block(w, x, True)),
    "transformer block, norms last": (lambda: nn.TransformerBlock(2, 7, causal=True, norm_first=False, **F64),
                                      (normal(2, 3, 4),), {}, lambda w, x: block(w, x, False)),
    "conv2d": (lambda: nn.Conv2D(4, (3, 2), activation="tanh", **F64), (I,), {},
               lambda w, x: np.tanh(convolved(x, w["kernel"]) + w["bias"])),
    "conv2d, strides": (lambda: nn.Conv2D(4, 3, strides=2, use_bias=False, **F64), (I,), {},
                        lambda w, x: convolved(x, w["kernel"])[:, ::2, ::2]),
    "conv2d, groups": (lambda: nn.Conv2D(6, 1, groups=3, **F64), (I,), {},
                       lambda w, x: np.concatenate([x[..., [g]] @ w["kernel"][0, 0, :, 2 * g : 2 * g + 2] for g in range(3)], -1)
                       + w["bias"]),
    "conv1d": (lambda: nn.Conv1D(4, 3, padding="causal", **F64), (S,), {},
               lambda w, x: convolved(np.pad(x, ((0, 0), (2, 0), (0, 0)))[:, None], w["kernel"][None])[:, 0] + w["bias"]),
    "conv2d_transpose": (lambda: nn.Conv2DTranspose(4, 3, **F64), (I,), {},
                         lambda w, x: convolved(np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))),
                                                w["kernel"][::-1, ::-1].transpose(0, 1, 3, 2)) + w["bias"]),
    "depthwise_conv2d": (lambda: nn.DepthwiseConv2D(3, **F64), (I,), {},
                         lambda w, x: np.concatenate([convolved(x[..., [c]], w["kernel"][:, :, [c]]) for c in range(3)], -1)
                         + w["bias"]),
    "max_pool2d": (nn.MaxPool2D, (I,), {}, lambda w, x: pooled(x, np.max)),
    "avg_pool2d": (nn.AvgPool2D, (I,), {}, lambda w, x: pooled(x, np.mean)),
    "global_avg_pool2d": (nn.GlobalAvgPool2D, (I,), {}, lambda w, x: x.mean((1, 2))),
    "global_max_pool2d": (nn.GlobalMaxPool2D, (I,), {}, lambda w, x: x.max((1, 2))),
}  # fmt: skip


def leaves(x):
    return list(x) if isinstance(x, (tuple, list)) else [x]


def place(module, path):
    """(the object, how its part of this path is set)."""
    *way, last = path.split(".")
    for name in way:
        module = module[int(name)] if isinstance(module, list) else getattr(module, name)
    return module, last


@contextlib.contextmanager
def put(module, values):
    """The module with tensors in place of its variables."""
    kept = {path: getattr(*place(module, path)) for path in values}
    try:
        for path, x in values.items():
            setattr(*place(module, path), x)
        yield
    finally:
        for path, v in kept.items():
            setattr(*place(module, path), v)


@pytest.mark.parametrize("case", CASES)
def test_layer(case):
    make, args, options, reference = CASES[case]
    hml.random.seed(1)
    layer = make()
    layer(*args, **options)
    for v in layer.variables:  # no weights of zeros and ones, which hide mistakes
        v.assign(v.numpy() + RNG.normal(size=v.shape) * 0.1 if "variance" not in v.name else v.numpy() + 0.1)
    weights = layer.state_dict()
    want = leaves(reference(weights, *args))
    for got, expected in zip(leaves(layer(*args, **options)), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)
    check_traced(lambda *a: layer(*a, **options), args, variables=layer.variables, ops=50, label=case)
    trained = {path: v.numpy() for path, v in layer.named_variables.items() if v.trainable}
    if any(np.asarray(a).dtype.kind == "f" for a in leaves(args[0])) or trained:

        def functional(args, values):
            with put(layer, values):
                return layer(*args, **options)

        check_grads(functional, (args, trained), rtol=1e-4, atol=1e-5)


def test_every_layer_has_a_case():
    classes = {c for _, c in inspect.getmembers(nn, inspect.isclass)} - {nn.Module}
    assert {type(make()) for make, *_ in CASES.values()} == classes


# what only some layers do


def test_dropout_is_fresh_at_each_call_and_follows_its_seed():
    x = hml.ones((4, 50))
    for layer in (nn.Dropout(0.25), nn.Dropout(0.25, seed=3)):
        f = hml.function(lambda x, layer=layer: layer(x, training=True))
        first, second = f(x).numpy(), f(x).numpy()
        assert (first != second).any() and set(np.unique(first)) == {0, np.float32(4 / 3)}
        assert f.cache_info().traces == 1
    a, b = nn.Dropout(0.5, seed=7), nn.Dropout(0.5, seed=7)
    traced = hml.function(lambda x: b(x, training=True))
    for _ in range(3):
        np.testing.assert_array_equal(a(x, training=True), traced(x))
    many = nn.Dropout(0.3)(hml.ones((100_000,)), training=True).numpy()
    assert abs((many == 0).mean() - 0.3) < 0.01 and abs(many.mean() - 1) < 0.01
    shared = nn.Dropout(0.5, noise_shape=(4, 1))(x, training=True).numpy()
    assert (shared == shared[:, :1]).all()
    inf = nn.Dropout(1.0)(hml.asarray([np.inf, np.nan]), training=True)
    assert inf.tolist() == [0, 0]


def test_training_may_be_a_tensor_that_decides_when_it_runs():
    norm, drop = nn.BatchNorm(momentum=0.5, **F64), nn.Dropout(1.0)
    norm(X)
    f = hml.function(lambda x, t: drop(norm(x, training=t), training=t))
    moved = norm.moving_mean.numpy()
    np.testing.assert_allclose(f(X, hml.asarray(False)), norm(X), rtol=1e-9)
    np.testing.assert_array_equal(norm.moving_mean, moved)
    assert not f(X, hml.asarray(True)).numpy().any()
    np.testing.assert_allclose(norm.moving_mean, X.mean(0) * 0.5, rtol=1e-9)
    assert f.cache_info().traces == 1


@pytest.mark.parametrize("wrap", [lambda f: f, hml.function], ids=["eager", "traced"])
def test_batch_norm_moves_its_statistics_and_not_when_it_is_frozen(wrap):
    norm = nn.BatchNorm(momentum=0.9, **F64)
    f = wrap(lambda x: norm(x, training=True))
    mean, variance = np.zeros(4), np.ones(4)
    for k in range(3):
        x = X + k
        f(x)
        mean, variance = mean * 0.9 + x.mean(0) * 0.1, variance * 0.9 + x.var(0) * 0.1
        np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-9)
        np.testing.assert_allclose(norm.moving_variance, variance, rtol=1e-9)
    norm.trainable = False
    frozen = wrap(lambda x: norm(x, training=True))
    np.testing.assert_allclose(frozen(X), (X - mean) / np.sqrt(variance + 1e-3), rtol=1e-9)
    np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-9)


def test_recurrent_layers_start_from_a_given_state():
    lstm = nn.LSTM(4, return_state=True, **F64)
    out = lstm(S)[0]
    first = lstm(S[:, :2])
    np.testing.assert_allclose(lstm(S[:, 2:], initial_state=first[1:])[0], out, rtol=1e-9)
    gru = nn.GRU(4, **F64)
    np.testing.assert_allclose(gru(S[:, 2:], gru(S[:, :2])), gru(S), rtol=1e-9)
    both = nn.Bidirectional(nn.GRU(4, return_state=True, **F64), None)
    (a, b), *states = both(S, initial_state=[np.ones((2, 4))] * 2)
    assert a.shape == b.shape == states[0].shape == (2, 4) and len(states) == 2
    with pytest.raises(ShapeError, match=r"state of 2 tensors of shape \(2, units 4\)"):
        lstm(S, initial_state=np.ones((2, 4)))


def test_starts_of_weights():
    lstm = nn.LSTM(3)
    lstm(S)
    assert lstm.bias.numpy().tolist() == [0] * 3 + [1] * 3 + [0] * 6
    plain = nn.LSTM(3, unit_forget_bias=False)
    plain(S)
    assert not plain.bias.numpy().any()
    u = nn.SimpleRNN(3)
    u(S)
    np.testing.assert_allclose(
        u.recurrent_kernel.numpy() @ u.recurrent_kernel.numpy().T, np.eye(3), atol=1e-6
    )
    attention = nn.MultiHeadAttention(4, 16)
    attention(normal(1, 2, 64))
    limit = np.sqrt(6 / 128)
    assert 0.9 * limit < abs(attention.query.kernel.numpy()).max() <= limit


@pytest.mark.parametrize("half", [hml.float16, hml.bfloat16], ids=str)
def test_types(half):
    x = hml.ones((2, 3), dtype=half)
    for layer in (nn.Dense(4, dtype=half), nn.LayerNorm(dtype=half), nn.RMSNorm(dtype=half)):
        assert layer(x).dtype == half
    assert nn.Dense(4)(np.float32(X)).dtype == np.float32


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: nn.Dense(0), ValueError, "units must be a positive int, got 0"),
        (lambda: nn.Dense(2.5), ValueError, "units must be a positive int"),
        (lambda: nn.Dense(2, activation="rellu"), ValueError, "no activation is called 'rellu'; there are elu"),
        (lambda: nn.Dense(2, kernel_initializer="glorot"), ValueError, "no initializer is called 'glorot'"),
        (lambda: nn.Dropout(1.5), ValueError, r"a dropout rate is in \[0, 1\], got 1.5"),
        (lambda: nn.Flatten()(1.0), ShapeError, "no dimensions"),
        (lambda: nn.Reshape((5,))(X), ShapeError, r"\(4,\) cannot be reshaped to \(5,\)"),
        (lambda: nn.Reshape((-1, -1)), ValueError, "at most one -1"),
        (lambda: nn.Embedding(3, 2)([5]), IndexOutOfRangeError, "out of range|out of bounds"),
        (lambda: nn.Add()(X), TypeError, r"add takes a list of tensors.*layer\(\[x, y\]\)"),
        (lambda: nn.Sequential([nn.Dense]), TypeError, "make an object of the class"),
        (lambda: nn.GRU(3)(X), ShapeError, r"gru takes \(batch, time, inputs\)"),
        (lambda: nn.Bidirectional((lambda g: (g(S), g)[1])(nn.GRU(2))), ValueError, "give Bidirectional a new layer"),
        (lambda: nn.Bidirectional(nn.GRU(2), "add"), ValueError, "merge_mode must be"),
        (lambda: nn.TransformerBlock(3, 4)(normal(1, 2, 4)), ValueError, "no multiple of num_heads 3"),
        (lambda: nn.GroupNorm(5)(X), ShapeError, "a multiple of 5"),
        (lambda: nn.LayerNorm(axis=3)(X), ShapeError, "has 2 dimensions"),
        (lambda: nn.Conv2D(2, 3)(X), ShapeError, "takes 4 dimensions"),
        (lambda: nn.Conv2D(3, 3, groups=2)(I), ShapeError, "cannot both be split in 2 groups"),
        (lambda: nn.Conv2D(3, (1, 2, 3)), ValueError, "kernel_size takes an int or 2 ints"),
        (lambda: nn.Lambda(3), TypeError, "Lambda takes a function"),
    ],
)  # fmt: skip
def test_mistakes_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()
