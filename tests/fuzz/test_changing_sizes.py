"""Random programs with a changing number of rows: traced for the first, as a symbol for the second, bound to the others; against eager."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from test_programs import examples

import hybridml as hml
from hybridml.testing import assert_close

W = hml.Variable(np.linspace(-1, 1, 9).reshape(3, 3).astype(np.float32))

# Each takes n rows of 3 and gives n rows of 3; k is a small number.
STEPS = {
    "tanh": lambda x, k: hml.tanh(x * (k + 1)),
    "product": lambda x, k: x @ W,
    "both sides": lambda x, k: hml.tanh(x @ x.T) @ x / x.shape[0],
    "centre": lambda x, k: x - hml.mean(x, axis=k % 2, keepdims=True),
    "normalise": lambda x, k: hml.nn.softmax(x, axis=k % 2),
    "sums": lambda x, k: hml.cumsum(x, axis=0, reverse=bool(k % 2)) / x.shape[0],
    "neighbours": lambda x, k: hml.concat([x[:1], x[1:] - x[:-1]]),
    "reverse": lambda x, k: hml.flip(x, axis=0) * 0.5,
    "double": lambda x, k: hml.concat([x, x * 2])[k % 2 :: 2],
    "frame": lambda x, k: hml.pad(x, ((k, 1), (0, 0)), value=0.5)[k:-1],
    "merge": lambda x, k: hml.tanh(hml.reshape(x, (-1,))).reshape((-1, 3)),
    "transpose": lambda x, k: (hml.sin(x.T) * (k + 1)).T,
    "position": lambda x, k: x + hml.arange(x.shape[0])[:, None] / x.shape[0],
    "repeat": lambda x, k: hml.reshape(hml.repeat(x, 2, axis=0), (-1, 2, 3)).sum(axis=1),
    "pick": lambda x, k: hml.take(x, hml.asarray([0, -1]), axis=0).sum(axis=0) * x,
    "largest": lambda x, k: x * hml.astype(x == hml.max(x, axis=1, keepdims=True), hml.float32) + 0.1 * x,
    "scan": lambda x, k: hml.scan(lambda c, row: (0.5 * c + row, c * row), hml.ones(3), x)[1],
    "branch": lambda x, k: hml.cond(x.sum() > k + 0.4, lambda: x * 2, lambda: x[::-1]),  # softmax sums up to whole numbers, nearly
    "map": lambda x, k: hml.vmap(lambda row: row * row.sum())(x),
    "size": lambda x, k: x * (x.shape[0] + k) / (x.shape[0] * 2 - 1),
    "limit": lambda x, k: x[: x.shape[0] // 2 + 1].sum(axis=0) + x if x.shape[0] > k + 3 else x - 1,
}  # fmt: skip


@examples(40)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 3)), min_size=1, max_size=5),
    st.lists(st.integers(1, 12), min_size=4, max_size=5, unique=True),
)
def test_any_number_of_rows_is_eager(steps, sizes):
    def f(x):
        with hml.GradientTape() as tape:
            tape.watch(x)
            y = x
            for name, k in steps:
                y = STEPS[name](y, k)
            total = hml.sum(hml.tanh(y))
        return y, tape.gradient(total, x)

    traced = hml.function(f)
    rng = np.random.default_rng(0)
    for n in sizes:
        x = hml.asarray(rng.uniform(-1, 1, (n, 3)).astype(np.float32))
        for k, (a, b) in enumerate(zip(traced(x), f(x), strict=True)):
            scale = max(1.0, float(np.abs(b.numpy()).max(initial=0)))
            assert_close(a.numpy(), b.numpy(), ops=400, scale=scale, label=f"{steps} at {n} of {sizes}, {k}")
    assert traced.cache_info().traces <= len(sizes)
