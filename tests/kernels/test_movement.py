"""Rows that move data, as native kernels: against the interpreter, with faulty indices and values, on several threads."""

import functools
import linecache
import math
import threading

import numpy as np
import pytest

import hybridml as hml
from hybridml import config, pytree
from hybridml.errors import IndexOutOfRangeError, NonFiniteError
from hybridml.kernels.emit import emit
from hybridml.kernels.lower import Lowered
from hybridml.kernels.movement import PROVIDERS
from hybridml.kernels.movement.boxes import margins
from hybridml.kernels.movement.frame import Frame, bits
from hybridml.kernels.steps import EmptyStep, KernelStep
from hybridml.ops.registry import OPS, Layout
from hybridml.ops.spec import TensorSpec
from hybridml.testing import assert_close, public_functions, recast, samples_of, widened
from hybridml.trace.graph import Value
from hybridml.trace.interpret import interpret

ROWS = [op for op in OPS.values() if op.provider in PROVIDERS]


def compiled(f, *args):
    """The program of f, which must have no steps in Python, and its results as arrays, equal to the interpreter's."""
    arrays = [np.asarray(a) for a in args]
    concrete = hml.function(f).get_concrete_function(*arrays)
    assert concrete.program.python_steps == []
    want, _ = interpret(concrete.graph, arrays)
    for _ in range(2):
        got = concrete.run([np.ascontiguousarray(a) for a in arrays])
        for a, b in zip(got, want, strict=True):
            assert_close(a, b, label=str(concrete.graph))
    return concrete, got


def as_call(sample, dtype):
    """(f, arrays): the sample as a function of its arrays alone."""
    op_function = public_functions()[sample[0].name]
    leaves, structure = pytree.flatten(recast(sample[1].args, dtype))
    places = [i for i, x in enumerate(leaves) if isinstance(x, np.ndarray)]

    def f(*given):
        full = list(leaves)
        for i, t in zip(places, given, strict=True):
            full[i] = t
        return op_function(*pytree.unflatten(structure, full), **sample[1].kwargs)

    return f, [leaves[i] for i in places]


def sample_calls(op, dtype):
    return [as_call((op, sample), dtype) for sample in samples_of(op)]


@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int32", "uint8", "bool"])
def test_every_sample_is_native(op, dtype, threads):
    with config.scope(num_threads=threads):
        for f, arrays in sample_calls(op, dtype):
            compiled(f, *arrays)


def test_every_provider_has_its_row():
    assert {op.provider for op in ROWS} == set(PROVIDERS)


# operands that are views, so that layouts are folded into the loads

RNG = np.random.default_rng(7)
CUBE = RNG.normal(size=(4, 5, 6)).astype(np.float32)


def views(x):
    yield x
    yield hml.permute_dims(x, (2, 0, 1))
    yield x[::-1, 1:, ::2]
    yield hml.broadcast_to(x[:, :1], (4, 3, 6))


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_take_and_scatter_of_views(axis, shape):
    indices = RNG.integers(-3, 3, shape)

    def f(x, i):
        for v in views(x):
            rows = hml.take(v, i, axis=axis)
            yield rows
            yield hml.scatter_add(v, i, rows, axis=axis)
            yield hml.scatter_add(v, i[..., ::-1] if i.ndim else i, rows * 2, axis=axis)

    compiled(lambda x, i: tuple(f(x, i)), CUBE, indices)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_along_an_axis_of_views(axis):
    def f(x, i):
        for v in views(x):
            shape = [d if a != axis else 4 for a, d in enumerate(v.shape)]
            line = hml.reshape(i, [4 if a == axis else 1 for a in range(3)])
            for k in (hml.broadcast_to(line, shape), hml.broadcast_to(line[:1, :1, :1], shape)):
                part = hml.take_along_axis(v, k, axis=axis)
                yield part
                yield hml.scatter_add_along_axis(v, k, part, axis=axis)
            yield hml.cumsum(v, axis=axis)
            yield hml.cumsum(v, axis=axis, reverse=True)

    compiled(lambda x, i: tuple(f(x, i)), CUBE, [-2, 1, -2, 0])


def test_boxes_of_views():
    def f(x):
        for v in views(x):
            yield hml.pad(v, ((1, 0), (0, 2), (3, 1)), value=2.5)
            yield hml.concat([v, v[1:], hml.zeros((0, *v.shape[1:])), v], axis=0)
            yield hml.stack([v, v[..., ::-1]], axis=-1)
            starts, stops, steps = (0, 1, 9), (v.shape[0], 1 + 2 * v.shape[1], None), (1, 2, -1)
            g = v[..., :3]
            yield hml.slice_scatter(g, (v.shape[0], 2 * v.shape[1] + 1, 10), starts, (*stops[:2], 6), steps)

    compiled(lambda x: tuple(f(x)), CUBE)


def test_margins_and_box_make_up_the_shape():
    for shape, starts, sizes in (
        ((4, 5), (1, 0), (2, 5)),
        ((3, 4, 5), (0, 1, 2), (2, 2, 2)),
        ((6,), (6,), (0,)),
        ((), (), ()),
    ):
        count = np.zeros(shape, int)
        for at, box in [*margins(shape, starts, sizes), (starts, sizes)]:
            count[tuple([slice(a, a + d) for a, d in zip(at, box, strict=True)])] += 1
        assert (count == 1).all()


def test_gradient_of_an_embedding_is_native():
    table, ids = RNG.normal(size=(11, 3)).astype(np.float32), RNG.integers(-11, 11, (4, 6))

    def f(w, i):
        with hml.GradientTape() as tape:
            tape.watch(w)
            loss = (hml.take(w, i, axis=0) ** 2).sum()
        return tape.gradient(loss, w)

    _, (got,) = compiled(f, table, ids)
    want = np.zeros((11, 3))
    np.add.at(want, ids, 2 * table[ids].astype(np.float64))
    np.testing.assert_allclose(got, want, rtol=1e-5)


# nothing to do


def test_results_without_elements_take_no_kernel():
    def f(x, i):
        empty = hml.tanh(x[:0]) @ hml.ones((3, 2))
        return (
            hml.take(x, i, axis=0),
            hml.concat([empty, empty * 2]),
            hml.pad(x[:0], ((0, 0), (1, 1))),
            hml.sum(x[:0], axis=1),
        )

    concrete, got = compiled(f, np.ones((4, 3), np.float32), np.zeros((0, 2), np.int64))
    assert [a.shape for a in got] == [(0, 2, 3), (0, 2), (0, 5), (0,)]
    assert concrete.kernels == [] and any(isinstance(s, EmptyStep) for s in concrete.program.steps)


def test_reductions_of_nothing_are_identities():
    def f(x):
        return hml.sum(x, axis=0), hml.prod(x, axis=0) + hml.sum(hml.exp(x)), hml.all(x > 0), hml.any(x > 0)

    _, got = compiled(f, np.ones((0, 3), np.float32))
    assert [a.tolist() for a in got] == [[0, 0, 0], [1, 1, 1], True, False]


def test_explain_tells_of_moves_and_of_nothing():
    f = hml.function(lambda x, i: (hml.take(x, i, axis=0), hml.tanh(x[:0])))
    text = str(f.explain(np.ones((4, 3), np.float32), np.zeros(2, np.int64)))
    assert "take: 1 operation in one map kernel, 6 elements" in text
    assert "tanh: no elements, nothing to do" in text


# faults


def message(run):
    with pytest.raises((IndexOutOfRangeError, NonFiniteError)) as caught:
        run()
    return str(caught.value)


X = np.arange(12, dtype=np.float32).reshape(4, 3)
FAULTS = {
    "take": (lambda x, i: hml.take(x, i, axis=0), [X, [1, -5]], [X, [1, -4]], "index -5 is out of range for axis 0 of size 4"),
    "take_along_axis": (
        lambda x, i: hml.take_along_axis(x, i, axis=1), [X, [[0], [3], [4], [0]]], [X, [[0], [2], [-3], [0]]],
        "index 3 is out of range for axis 1 of size 3",
    ),
    "scatter_add": (
        lambda x, i: hml.scatter_add(x, i, x[:2]), [X, [4, 9]], [X, [3, 3]], "index 4 is out of range for axis 0 of size 4"
    ),
    "scatter_add_along_axis": (
        lambda x, i: hml.scatter_add_along_axis(x, i, x[:, :1], axis=1), [X, [[0], [0], [-4], [0]]], [X, [[0]] * 4],
        "index -4 is out of range for axis 1 of size 3",
    ),
    "ravel_index": (
        lambda i, j: hml.ravel_index((i, j), (3, 4)), [[0, 1], [4, 0]], [[2, -3], [3, -4]], "index 4 is out of range for axis 1 of size 4"
    ),
    "check_finite": (
        lambda x: hml.check_finite(x, "the loss"), [[[1.0, np.inf], [np.nan, 2.0]]], [[[1.0, 3e38], [-1.0, 2.0]]],
        "the loss: 2 of 4 elements are not finite, the first at (0, 1) is inf",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_raises_what_eager_raises_at_the_users_line(name):
    f, bad, good, text = FAULTS[name]
    bad, good = [[hml.asarray(np.array(a)) for a in args] for args in (bad, good)]
    traced = hml.function(f)
    for _ in range(2):
        said = message(lambda: traced(*bad))
        assert said.startswith(f"{name}: {text}\n  at {__file__}:")
        line = int(said.removeprefix(f"{name}: {text}\n  at {__file__}:").split(" in ")[0])
        assert f"hml.{name}(" in linecache.getline(__file__, line)
        assert said.split("\n")[0] == message(lambda: f(*bad)).split("\n")[0]
        np.testing.assert_array_equal(traced(*good).numpy(), f(*good).numpy())  # the flag was taken down


@pytest.mark.parametrize("where", [0, 63, 64, 99_999])
def test_a_fault_is_found_wherever_it_is(where):
    x = np.arange(100_000, dtype=np.float32)
    with config.scope(num_threads=2):
        check, take = hml.function(hml.check_finite), hml.function(lambda x, i: hml.take(x, i))
        index = np.arange(100_000)
        check(x), take(x, index)
        x[where], index[where] = np.nan, 100_000
        assert f"the first at ({where},) is nan" in message(lambda: check(x))
        assert "index 100000" in message(lambda: take(x, index))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_largest_number_is_finite(dtype):
    check, limits = hml.function(hml.check_finite), hml.finfo(dtype)
    x = np.array([limits.max, -limits.max, limits.smallest_subnormal, -0.0], dtype)
    np.testing.assert_array_equal(widened(check(x).numpy()), widened(x))
    for bad in (np.inf, -np.inf, np.nan, -np.nan):
        x[2] = bad
        message(lambda: check(x))


def test_the_first_check_that_fails_is_the_one_named():
    @hml.function
    def f(x, i):
        y = hml.check_finite(x, "before")
        z = hml.take(y, i, axis=0)
        return hml.check_finite(hml.log(z), "after")

    ones = np.ones((3, 2), np.float32)
    f(ones, np.array([0]))
    assert "before" in message(lambda: f(ones * np.inf, np.array([7])))
    assert "index 7" in message(lambda: f(ones, np.array([7])))
    assert "after" in message(lambda: f(ones * 0, np.array([2])))


def test_an_index_into_an_axis_without_elements():
    f = hml.function(lambda x, i: hml.take(x, i, axis=0))
    assert "index 0 is out of range for axis 0 of size 0" in message(
        lambda: f(np.ones((0, 3), np.float32), np.array([0]))
    )
    g = hml.function(lambda x, i: hml.scatter_add(x, i, hml.ones((1, 3))))
    assert "index 0 is out of range for axis 0 of size 0" in message(
        lambda: g(np.ones((0, 3), np.float32), np.array([0]))
    )


def test_a_call_that_raises_leaves_variables_as_they_were():
    v, w = hml.Variable(np.zeros(300, np.float32)), hml.Variable(np.zeros((), np.float32))

    @hml.function
    def step(x):
        v.assign(v + x)
        w.assign(w + 1)
        total = hml.check_finite(x.sum())
        v.assign(v * total)
        return total

    x = np.ones(300, np.float32)
    step(x)
    before = v.numpy().copy(), w.numpy().copy()
    message(lambda: step(x * np.nan))
    np.testing.assert_array_equal(v.numpy(), before[0])
    np.testing.assert_array_equal(w.numpy(), before[1])
    step(x)
    assert float(w) == 2


def test_threads_hear_of_their_own_faults_only():
    f = hml.function(lambda x, i: hml.check_finite(hml.take(x, i, axis=0)) * 2)
    x = np.ones((50, 8), np.float32)
    f(x, np.arange(50))
    heard = {}

    def work(k):
        bad = k % 2 == 1
        indices = np.full(50, 50 if bad else k)
        raised = 0
        for _ in range(100):
            try:
                f(x, indices)
            except IndexOutOfRangeError:
                raised += 1
        heard[k] = raised == (100 if bad else 0)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert heard == dict.fromkeys(range(4), True)


# sharing out


@functools.cache
def heavy():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 700)).astype(np.float32)
    return x, rng.integers(-200, 200, 5000), rng.normal(size=(5000, 700)).astype(np.float32)


@pytest.mark.parametrize(
    "f",
    [
        lambda x, i, u: hml.scatter_add(x, i, u),
        lambda x, i, u: hml.scatter_add(hml.transpose(x), i, hml.transpose(u), axis=1),
        lambda x, i, u: hml.scatter_add(hml.reshape(x, (-1,)), i, u[:, 0]),
        lambda x, i, u: hml.scatter_add_along_axis(x, hml.broadcast_to(i[:, None], u.shape), u, axis=0),
        lambda x, i, u: hml.cumsum(u, axis=0),
        lambda x, i, u: hml.cumsum(u, axis=1, reverse=True),
        lambda x, i, u: hml.take(u, i, axis=0),
        lambda x, i, u: hml.concat([u, u], axis=1),
    ],
    ids=["rows", "columns", "elements", "along", "down", "across", "take", "concat"],
)
def test_bits_do_not_depend_on_the_number_of_threads(f):
    results = []
    for threads in (1, 2, 7):
        with config.scope(num_threads=threads):
            concrete = hml.function(lambda *a: f(*a)).get_concrete_function(*heavy())
            results.append(concrete.run(list(heavy()))[0])
            steps = [s for s in concrete.program.steps if isinstance(s, KernelStep)]
    for r in results[1:]:
        np.testing.assert_array_equal(r, results[0])
    assert (steps[-1].chunks(7)[0] == 1) == (results[0].ndim == 1), (
        "only what meets in one axis is added by one thread"
    )


# the frame itself


def test_an_index_is_loaded_once_a_row():
    x, i, o = Value(TensorSpec((9, 4))), Value(TensorSpec((5,), "int64")), Value(TensorSpec((5, 4)))
    frame = Frame("rows", (5, 4))
    source = frame.read((x, Layout.contiguous(x.shape)), (0, 1))
    index = frame.read((i, Layout.contiguous(i.shape)), (1, 0), i.dtype)
    target = frame.write(o, (4, 1))
    k = frame.load(index)
    frame.store(target, frame.load(source, f"{k} * {frame.stride('x0_row', 4)}"))
    low = frame.lowered()
    assert (low.extent, low.work) == (5, 20)
    assert emit(low.spec)[1].split("for i")[1] == (
        " in range(begin, end):\n"
        "        v0 = x1[i * x1_i]\n"
        "        for j in range(n_j):\n"
        "            v1 = x0[j + v0 * x0_row]\n"
        "            o0[i * o0_i + j] = v1\n"
    )


def test_axes_that_all_operands_walk_as_one_are_merged():
    x, o = Value(TensorSpec((3, 1, 4, 5))), Value(TensorSpec((3, 1, 4, 5)))
    frame = Frame("copy", (3, 1, 4, 5))
    source, target = (
        frame.read((x, Layout.contiguous(x.shape)), (20, 7, 5, 1)),
        frame.write(o, (20, 20, 5, 1)),
    )
    frame.store(target, frame.load(source))
    low = frame.lowered()
    assert isinstance(low, Lowered) and low.extent == math.prod(x.shape) and len(low.spec.parallel) == 1


def test_elements_that_no_kernel_moves_are_named():
    assert bits(np.dtype("float16")) == bits(hml.bfloat16) == np.dtype("uint16")
    with pytest.raises(TypeError, match="complex128"):
        bits(np.dtype("complex128"))


# the same specs, printed for CUDA, run by Python as the only thread of a grid


class Pointer:
    """An address with elements before and after it; what is read and written lies inside the buffer."""

    def __init__(self, buffer, dtype, nbytes):
        self.flat, self.start = buffer.reshape(-1).view(dtype), nbytes // np.dtype(dtype).itemsize

    def __getitem__(self, i):
        assert 0 <= self.start + i < self.flat.size
        return self.flat[self.start + i]

    def __setitem__(self, i, value):
        assert 0 <= self.start + i < self.flat.size
        self.flat[self.start + i] = value


class OneThread:
    grid = staticmethod(lambda axes: 0)
    gridsize = staticmethod(lambda axes: 1)


def run_as_cuda(concrete, arrays):
    from hybridml.kernels import emit_cuda
    from hybridml.kernels.launch import Shape
    from hybridml.kernels.targets import scalar_functions

    program = concrete.program
    memory = dict(zip(concrete.optimized.inputs, arrays, strict=True)) | program.region.constants
    names = {**vars(scalar_functions("python")), "cuda": OneThread, "ix": np.int64, "ux": np.uint64}
    for s in program.steps:
        low = s.lowered
        name, source = emit_cuda.emit(low.spec, Shape(32))
        for v, _ in low.operands:
            memory.setdefault(v, np.zeros(v.shape, v.dtype))
        pointers = [
            Pointer(memory[v], o.dtype, at)
            for o, (v, at) in zip(low.spec.operands, low.operands, strict=True)
        ]
        exec(source[source.index("def ") :], names)
        names[name](*pointers, *map(np.int64, low.words), *[np.dtype(d).type(x) for x, d in low.scalars])
    return [memory[v] for v in concrete.optimized.outputs], [
        bool(program.region.constants[s.lowered.check.flag][0]) for s in program.steps if s.lowered.check
    ]


@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
def test_the_cuda_text_does_the_same(op):
    for f, arrays in sample_calls(op, "float32"):
        concrete, want = compiled(f, *arrays)
        if concrete.kernels:
            got, flags = run_as_cuda(concrete, arrays)
            for a, b in zip(got, want, strict=True):
                assert_close(a, b)
            assert not any(flags)


@pytest.mark.parametrize("name", FAULTS)
def test_the_cuda_text_flags_faults(name):
    f, bad, _, _ = FAULTS[name]
    arrays = [np.array(a) for a in bad]
    _, flags = run_as_cuda(hml.function(f).get_concrete_function(*arrays), arrays)
    assert flags == [True]
