"""Small functions whose graphs the passes are tested on, and the one check that each pass has to stand."""

import numpy as np

import hybridml as hml
from hybridml.testing import assert_close
from hybridml.trace.function import Function
from hybridml.trace.graph import verify
from hybridml.trace.interpret import interpret

rng = np.random.default_rng(0)


def array(*shape):
    return rng.uniform(0.5, 2.0, shape).astype(np.float32)


def stretched(number, *shape):
    return hml.broadcast_to(hml.asarray(number), shape)


def _sgd(w, x, y):
    def loss(w):
        return ((hml.tanh(x @ w) - y) ** 2).mean()

    value, grad = hml.value_and_grad(loss)(w)
    return value, w - 0.1 * grad


def _pooled(x, b):
    """The gradient of pooled ReLUs by the image and the bias."""

    def f(x, b):
        return (hml.nn.max_pool2d(hml.nn.relu(x + b), 2) ** 2).sum()

    return hml.grad(f, argnums=(0, 1))(x, b)


def _counter():
    v = hml.Variable(array(3))

    def f(x):
        old = v.value()
        v.assign(old * 2 + x)
        return old, v.value() - x

    return f


GRAPHS = {
    "elementwise": (lambda x, y: hml.exp(x * y + 1.5) * hml.sigmoid(x) - y, (array(3, 4), array(3, 4))),
    "dead code": (lambda x: (x * 2, hml.exp(x), hml.zeros((3,)) + 1)[0], (array(3),)),
    "common subexpressions": (lambda x, y: hml.tanh(x + y) * hml.tanh(x + y), (array(3), array(3))),
    "neutral elements": (lambda x: ((x + 0) * 1 - 0) / 1, (array(2, 3),)),
    "neutral tensors": (lambda x: x * stretched(1.0, 2, 3) + stretched(0.0, 2, 3), (array(2, 3),)),
    "not neutral: it broadcasts": (lambda x: x + hml.zeros((2, 3)), (array(3),)),
    "not neutral: it changes the dtype": (lambda x: x + hml.zeros((3,)), (np.arange(3),)),
    "involutions": (lambda x: hml.negative(hml.negative(x)), (array(4),)),
    "a large constant broadcast": (lambda x: x * stretched(2.0, 200, 50), (array(200, 50),)),
    "positions": (
        lambda labels, x: (hml.one_hot(labels, 3), hml.where(hml.iota((3,)) == labels[:, None], x, 0.0).sum(axis=1)),
        (np.array([2, -1, 0, 3, 2**31, 2**32 + 1, -(2**63)]), array(7, 3)),
    ),
    "positions beside another axis": (lambda line: hml.iota((3,)) == line, (np.array([2, 1, 0]),)),
    "transposes": (lambda x, y: x.T @ y.T, (array(4, 3), array(5, 4))),
    "transposes twice": (lambda x, y: x.T.T @ y, (array(3, 4), array(4, 5))),
    "batched transposes": (lambda x, y: hml.swapaxes(x, -1, -2) @ y, (array(2, 4, 3), array(2, 4, 5))),
    "softmax": (hml.nn.softmax, (array(3, 5),)),
    "log_softmax": (hml.nn.log_softmax, (array(3, 5),)),
    "layer_norm": (hml.nn.layer_norm, (array(3, 5), array(5), array(5))),
    "logsumexp": (lambda x: hml.logsumexp(x, axis=0), (array(3, 5),)),
    "argmax": (lambda x: hml.argmax(x, axis=1), (array(3, 5),)),
    "reductions of nothing": (lambda x: x.sum(axis=1, keepdims=True) + x.max(axis=1, keepdims=True), (array(3, 1),)),
    "long reductions": (lambda x: (x.sum(), x.max()), (array(256, 256),)),
    "views": (lambda x: (x[::2, 1:].T, x.reshape((2, 6)), x.T.reshape((12,)), x[1]), (array(4, 3),)),
    "an input returned twice": (lambda x: (x, x, x.T), (array(2, 3),)),
    "one value, three results": (lambda x: (lambda y: (y, y, y[1:]))(x * 2), (array(4),)),
    "a training step": (_sgd, (array(4, 2), array(3, 4), array(3, 2))),
    "a variable": (_counter(), (array(3),)),
    "pooled relu": (_pooled, (array(2, 4, 6, 3) - 1, array(3) - 1.5)),
    "pooled relu, windows overlap": (
        lambda x: hml.grad(lambda x: (hml.nn.max_pool2d(hml.nn.relu(x), 3, 2, "same") ** 2).sum())(x), (array(1, 5, 6, 2) - 1,)),
    "slices that make up the whole": (lambda x, y: (lambda a: a[::2] * a[1::2])(hml.exp(x) * y), (array(4, 3), array(3))),
    "slices that overlap": (lambda x: (lambda a: a[:3] * a[1:])(hml.exp(x)), (array(4, 3),)),
    "empty": (lambda x: (x + 1, x.sum()), (array(0, 3),)),
    "0-d": (lambda x: hml.tanh(x) + x, (array(),)),
    "scalars only": (lambda: hml.ones((3,)) + 2, ()),
}  # fmt: skip


def with_constant(graph, array):
    """The graph with its last input known."""
    *inputs, last = graph.inputs
    return graph.replace(inputs=tuple(inputs), constants=graph.constants | {last: array})


def traced(name):
    """(graph, inputs, values of its variables)."""
    f, inputs = GRAPHS[name]
    concrete = Function(f).get_concrete_function(*inputs)
    return concrete.graph, list(inputs), [v.numpy() for v in concrete.variables]


def check_pass(change, graph, inputs, variables):
    """The changed graph: well-formed, of the same results, and the old one untouched."""
    key, want = graph.key(), interpret(graph, inputs, variables)
    new = verify(change(graph))
    assert graph.key() == key, "the pass changed its argument"
    got = interpret(new, inputs, variables)
    for a, b in zip(got[0] + got[1], want[0] + want[1], strict=True):
        assert_close(a, b, ops=10, label=f"{graph}\n{new}")
    assert [i for i, _ in new.updates] == [i for i, _ in graph.updates]
    assert [v.spec for v in new.inputs + new.variables] == [v.spec for v in graph.inputs + graph.variables]
    return new


def count(graph, *names):
    """How many nodes are of these ops."""
    return sum(n.op.name in names for n in graph.nodes)


def ops(graph):
    return [n.op.name for n in graph.nodes]


def trace_of(f, *inputs):
    return hml.function(f).get_concrete_function(*inputs).graph
