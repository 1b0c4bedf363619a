"""The whole program: what it compiles and when, where its memory lies, what runs in Python, and the cache on disk."""

import threading
import warnings

import numpy as np
import pytest

import hybridml as hml
from hybridml import config
from hybridml.errors import CacheWarning
from hybridml.kernels import jit
from hybridml.testing import check_traced

rng = np.random.default_rng(0)


def array(*shape, dtype=np.float32):
    return hml.asarray(rng.uniform(-1, 1, shape).astype(dtype))


def step_of(optimizer, width=30):
    w, b = hml.Variable(array(50, width)), hml.Variable(array(width))

    def step(x, y):
        with hml.GradientTape() as tape:
            loss = ((hml.tanh(x @ w + b) - y) ** 2).mean()
        optimizer.apply_gradients(zip(tape.gradient(loss, [w, b]), [w, b], strict=True))
        return loss

    return step, (array(16, 50), array(16, width)), [w, b]


# compiling


def test_a_second_call_compiles_nothing():
    step, args, _ = step_of(hml.optim.Adam(0.01))
    f = hml.function(step)
    f(*args)
    with jit.forbid_compiling():
        before = jit.stats()
        f(*args)
        assert jit.stats() == before, "a call looked a kernel up"


def test_other_sizes_compile_nothing(empty_cache):
    def f(x, y):
        return hml.nn.softmax(x * y), (x + y).sum(axis=0), x.T * 2

    hml.function(f)(array(6, 5), array(6, 5))
    with jit.forbid_compiling():
        hml.function(f)(array(60, 50), array(60, 50))


def test_equal_kernels_are_compiled_once(empty_cache):
    before = jit.stats()
    hml.function(lambda x: hml.exp(hml.tanh(x) @ hml.tanh(x).T) * 0.5)(array(4, 4))
    hml.function(lambda y: hml.tanh(y))(array(9))
    first = jit.stats().compiled - before.compiled
    hml.function(lambda z: hml.tanh(z))(array(3, 5))
    assert jit.stats().compiled - before.compiled == first


def test_stats_tell_compiled_from_loaded(empty_cache):
    def f(x):
        return hml.sin(x) * 0.125

    cold = hml.function(f).get_concrete_function(array(7)).stats
    assert (cold.compiled, cold.loaded_from_disk) == (1, 0) and cold.compile_seconds > 0
    with jit.forgotten():
        warm = hml.function(f).get_concrete_function(array(7)).stats
    assert (warm.compiled, warm.loaded_from_disk) == (0, 1) and warm.compile_seconds == 0


PROGRAM = """
import sys
import numpy as np
import hybridml as hml
from hybridml.kernels import jit

w = hml.Variable(np.ones((5, 3), np.float32))
optimizer = hml.optim.SGD(0.1)

@hml.function
def step(x):
    with hml.GradientTape() as tape:
        loss = (hml.nn.softmax(x @ w) ** 2).sum()
    optimizer.apply_gradients([(tape.gradient(loss, w), w)])
    return loss

for _ in range(3):
    loss = step(np.arange(20, dtype=np.float32).reshape(4, 5))
print(jit.stats().compiled, "numba" in sys.modules, float(loss))
"""


def test_a_second_process_compiles_nothing_and_none_imports_numba(fresh_process):
    compiled, numba, loss = fresh_process(PROGRAM).split()
    assert int(compiled) > 0 and numba == "False"
    assert fresh_process(PROGRAM).split() == ["0", "False", loss]


def test_a_corrupt_cache_is_compiled_anew(fresh_process, tmp_path):
    *_, loss = fresh_process(PROGRAM).split()
    spoilt = [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".py"]
    assert spoilt
    for k, p in enumerate(spoilt):
        p.write_bytes(b"" if k % 2 else p.read_bytes()[: p.stat().st_size // 2])
    compiled, _, again = fresh_process(PROGRAM).split()
    assert int(compiled) > 0 and again == loss
    assert fresh_process(PROGRAM).split()[0] == "0"


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setattr(jit, "_by_text", {})
    with config.scope(cache_dir=tmp_path / "file" / "cache"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", CacheWarning)
        got = hml.function(lambda x: hml.cos(x) * 0.375)(array(3) * 0)
    np.testing.assert_allclose(got.numpy(), 0.375)
    assert len(caught) <= 1  # once a process: another test may have been the first


# memory


def test_an_sgd_update_is_in_place():
    w = hml.Variable(array(40, 30))

    @hml.function
    def f(g):
        w.assign_sub(g * 0.1)

    concrete = f.get_concrete_function(array(40, 30))
    assert concrete.stats.kernels == 1 and concrete.stats.arena_bytes == 0
    place = w._array.ctypes.data
    f(array(40, 30))
    assert w._array.ctypes.data == place


@pytest.mark.parametrize("make", [hml.optim.SGD, hml.optim.Adam], ids=lambda c: c.__name__)
def test_optimisers_overwrite_their_variables(make):
    step, args, variables = step_of(make(0.01))
    f = hml.function(step)
    f(*args)
    places = [v._array.ctypes.data for v in variables]
    f(*args)
    assert [v._array.ctypes.data for v in variables] == places


def test_a_chain_of_products_reuses_memory():
    def f(x):
        for _ in range(12):
            x = x @ x
        return x

    x = array(32, 32) * 0.1
    assert hml.function(f).get_concrete_function(x).stats.arena_bytes <= 3 * 32 * 32 * 4
    check_traced(f, (x,), ops=1000, scale=1.0)


def test_a_swap_needs_copies_and_gets_them():
    a, b = hml.Variable(array(5)), hml.Variable(array(5))

    def swap():
        old = a.value()
        a.assign(b)
        b.assign(old)

    check_traced(swap, (), variables=[a, b])


def test_variables_that_depend_on_each_other():
    a, b, c = [hml.Variable(array(6)) for _ in range(3)]

    def f(x):
        va, vb, vc = a.value(), b.value(), c.value()
        a.assign(vb * 2 - vc)
        b.assign(vc + x)
        c.assign(va * vb)
        return va + b.value()

    check_traced(f, (array(6),), variables=[a, b, c])


def test_equal_updates_that_read_each_others_variables():
    vs = [hml.Variable(array(6)) for _ in range(4)]

    def f():
        old = [v.value() for v in vs]
        for k, v in enumerate(vs):
            v.assign(old[k] - 0.5 * old[(k + 1) % 4])

    check_traced(f, (), variables=vs)


def test_a_variable_assigned_from_a_view_of_itself():
    v = hml.Variable(array(4, 4))
    for change in (
        lambda x: x.T,
        lambda x: x[::-1] + x,
        lambda x: x - x.mean(axis=0),
        lambda x: hml.nn.softmax(x.T),
    ):
        check_traced(lambda change=change: v.assign(change(v.value())), (), variables=[v], ops=20)


def test_results_do_not_share_memory_with_anything():
    x = array(4)
    f = hml.function(lambda x: (x, x * 2, (x * 2)[1:]))
    first = f(x)
    kept = [t.numpy().copy() for t in first]
    f(x + 100)
    assert [t.tolist() for t in first] == [k.tolist() for k in kept]
    assert not any(np.shares_memory(a._array, b._array) for a in first for b in (*first, x) if a is not b)


# Python between native segments


def test_ops_without_a_kernel_split_the_program():
    def f(x):
        y = hml.sort(hml.tanh(x), axis=1)
        return (y * 2).sum(axis=1), y

    concrete = check_traced(f, (array(4, 5),), ops=20)
    assert [s.node.op.name for s in concrete.program.python_steps] == ["sort"]
    assert concrete.stats.python_steps == 1 and concrete.stats.kernels == 2


def test_a_python_step_reads_views_and_writes_variables():
    v = hml.Variable(array(5, 4))

    def f(x):
        v.assign(hml.sort(x.T[::-1] + 0, axis=0))
        return hml.argsort(v.value()[:, ::2], axis=0)

    check_traced(f, (array(4, 5),), variables=[v])


# threads and sizes


def test_large_work_is_split_and_stays_the_same():
    x = array(513, 1027)
    f = lambda x: (hml.tanh(x) * 2, x.sum(axis=0), x.sum(axis=1), x.sum(), hml.nn.softmax(x), x.max())  # noqa: E731
    results = []
    for threads in (1, 2, 3):
        with config.scope(num_threads=threads):
            results.append([t.numpy() for t in hml.function(f)(x)])
    for more in results[1:]:
        for a, b in zip(results[0], more, strict=True):
            np.testing.assert_array_equal(a, b)


def test_many_threads_run_one_program_with_an_arena():
    f = hml.function(lambda x, w: hml.nn.softmax(hml.tanh(x @ w) @ w.T).sum(axis=0))
    w = array(30, 20)
    calls = [array(40, 30) for _ in range(6)]
    wanted = [f(x, w).numpy() for x in calls]
    errors = []

    def work(k):
        try:
            for _ in range(40):
                np.testing.assert_array_equal(f(calls[k], w).numpy(), wanted[k])
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors[0]


def test_facts_add_up():
    step, args, _ = step_of(hml.optim.SGD(0.1))
    stats = hml.function(step).get_concrete_function(*args).stats
    assert stats.bytes_traced < stats.bytes_eager
    assert stats.trace_seconds > 0 and stats.passes_seconds > 0 and stats.emit_seconds > 0
    assert stats.python_steps == 0 and stats.compiled + stats.loaded_from_disk <= stats.kernels
