"""Programs: patches, chunks, every opcode, calls from many threads, and a second process."""

import ctypes
import threading

import numpy as np
import pytest

from hybridml.kernels import driver, jit, objects
from hybridml.kernels.driver import Table, scalar_word

SCALE = """
from hybridml.kernels.pointer import float32_in, float32_out, float32_scalar
def scale(args, begin, end):
    x0 = float32_in(args, 0, 0)
    o0 = float32_out(args, 1, 1)
    factor = float32_scalar(args, 2)
    for i in range(begin, end):
        o0[i] = x0[i] * factor
"""

# Counts calls, and records the bounds of each, in order of arrival.
TRACE = """
from hybridml.kernels.native import atomic_add, store
def trace(args, begin, end):
    call = atomic_add(args[0], 1)
    store(args[0] + 8 + 16 * call, begin)
    store(args[0] + 16 + 16 * call, end)
"""


def scale_program(n, factor, chunks=1, release_gil=True):
    kernel = jit.load(SCALE, "scale")
    table = Table()
    block = table.block([0, 0, scalar_word(factor, "float32")])
    table.patch(0, block, 0)
    table.patch(1, block, 1)
    table.run(kernel.address, block, n, chunks)
    return table.finish(release_gil)


class Tracer:
    """A kernel that records the slices it is called with."""

    def __init__(self, table):
        self.record = np.zeros(4096, np.int64)
        self.args = table.block([self.record.ctypes.data])
        self.function = jit.load(TRACE, "trace").address
        table.keep(self.record)

    def slices(self):
        count = int(self.record[0])
        return [tuple(pair) for pair in self.record[1 : 1 + 2 * count].reshape(-1, 2).tolist()]


@pytest.mark.parametrize("release_gil", [True, False])
def test_patches_name_this_call_s_arrays(release_gil):
    program = scale_program(5, 3.0, release_gil=release_gil)
    for _ in range(3):
        x, out = np.random.default_rng(1).random(5, np.float32), np.zeros(5, np.float32)
        assert program.run([x, out]) == 0
        np.testing.assert_array_equal(out, x * np.float32(3))


def test_a_patch_may_point_into_an_array():
    kernel = jit.load(SCALE, "scale")
    base = np.arange(10, dtype=np.float32)
    out = np.zeros(3, np.float32)
    table = Table()
    block = table.block([0, out.ctypes.data, scalar_word(1, "float32")])
    table.keep(out)
    table.patch(0, block, 0, byte_offset=8)
    table.run(kernel.address, block, 3)
    program = table.finish()
    program.run([base])
    assert out.tolist() == [2, 3, 4]
    program.run([base[4:]])
    assert out.tolist() == [6, 7, 8]


def test_the_python_path_fills_the_same_slots(monkeypatch):
    monkeypatch.setattr(driver.objects, "known", lambda: False)
    program = scale_program(4, 2.0)
    assert program._call == program._fill_and_run
    x, out = np.arange(4, dtype=np.float32), np.zeros(4, np.float32)
    program.run([x, out])
    np.testing.assert_array_equal(out, 2 * x)


def test_the_layout_of_lists_and_arrays_is_what_the_native_path_needs():
    assert objects.known()


def test_too_few_arrays_are_refused():
    with pytest.raises(ValueError, match="takes 2 arrays, got 1"):
        scale_program(4, 2.0).run([np.zeros(4, np.float32)])


@pytest.mark.parametrize("extent", [0, 1, 5, 64, 1000])
@pytest.mark.parametrize("chunks, grain", [(1, 1), (2, 1), (7, 1), (3, 16), (64, 8)])
def test_chunks_cover_the_extent_once_in_whole_grains(extent, chunks, grain):
    table = Table()
    tracer = Tracer(table)
    table.run(tracer.function, tracer.args, extent, chunks, grain)
    table.finish().run([])
    slices = sorted(tracer.slices())
    assert [i for begin, end in slices for i in range(begin, end)] == list(range(extent))
    assert len(slices) <= chunks
    if chunks > 1:
        assert all(begin % grain == 0 for begin, _ in slices)
        units = [-(-(end - begin) // grain) for begin, end in slices]
        assert max(units, default=0) - min(units, default=0) <= 1


def test_instructions_run_in_order():
    table = Table()
    tracer = Tracer(table)
    for extent in (3, 0, 5, 4):
        table.run(tracer.function, tracer.args, extent)
    table.finish().run([])
    assert tracer.slices() == [(0, 3), (0, 5), (0, 4)]


def test_a_loop_counts_to_its_limit():
    for limit in (1, 2, 10):
        table = Table()
        tracer = Tracer(table)
        words = table.block([99, limit])
        table.set(words, 0)
        body = table.run(tracer.function, tracer.args, 7)
        table.count_jump(words, words + 8, body)
        program = table.finish()
        program.run([])
        assert len(tracer.slices()) == limit
        program.run([])
        assert len(tracer.slices()) == 2 * limit


def test_a_branch_takes_the_side_its_condition_says():
    condition = np.zeros(1, np.bool_)
    table = Table()
    tracer = Tracer(table)
    to_else = table.jump_if_false(condition.ctypes.data)
    table.run(tracer.function, tracer.args, 1)
    to_end = table.jump()
    table.aim(to_else, table.next_row)
    table.run(tracer.function, tracer.args, 2)
    table.aim(to_end, table.next_row)
    program = table.finish()
    for value in (True, False, True):
        condition[0] = value
        program.run([])
    assert tracer.slices() == [(0, 1), (0, 2), (0, 1)]


def test_copies_and_stop_codes():
    source, target = np.arange(10.0), np.zeros(10)
    table = Table()
    tracer = Tracer(table)
    table.copy(target.ctypes.data, source.ctypes.data, 24)
    table.copy(source.ctypes.data + 8, source.ctypes.data, 72)  # overlapping
    table.stop(1234)
    table.run(tracer.function, tracer.args, 1)
    assert table.finish().run([]) == 1234
    assert target.tolist() == [0, 1, 2, 0, 0, 0, 0, 0, 0, 0]
    assert source.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert tracer.slices() == []


@pytest.mark.parametrize(
    "mistake",
    [
        lambda table: table.run(1, 1, -1),
        lambda table: table.run(1, 1, 1, chunks=0),
        lambda table: table.run(1, 1, 1, chunks=2**16),
        lambda table: table.run(1, 1, 1, grain=0),
        lambda table: table.patch(-1, 0, 0),
        lambda table: table.stop(-1),
        lambda table: table.aim(table.set(0, 0), 0),
        lambda table: (table.jump(5), table.finish()),
    ],
)
def test_mistakes_in_a_table_are_refused(mistake):
    with pytest.raises(ValueError):
        mistake(Table())


def test_blocks_keep_their_addresses():
    table = Table()
    blocks = [table.block([number, 2**64 - 1]) for number in range(2000)]
    for number, address in enumerate(blocks):
        assert list((ctypes.c_int64 * 2).from_address(address)) == [number, -1]
    big = table.block(range(5000))
    assert (ctypes.c_int64 * 5000).from_address(big)[4999] == 4999


@pytest.mark.parametrize(
    "value, dtype", [(1.5, "float32"), (-2.25, "float64"), (-3, "int8"), (200, "uint8"), (True, "bool")]
)
def test_scalar_words_hold_the_bytes_of_their_dtype(value, dtype):
    word = np.array([scalar_word(value, dtype)], np.int64)
    assert word.view(dtype)[0] == value


def together(count, work):
    """Run ``work(number)`` in ``count`` threads that start at once; raise what any of them raised."""
    barrier, errors = threading.Barrier(count), []

    def run(number):
        barrier.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


@pytest.mark.parametrize("chunks", [1, 2, 5])
@pytest.mark.parametrize("release_gil", [True, False])
def test_eight_threads_run_their_own_programs(chunks, release_gil):
    def work(number):
        program = scale_program(3000, float(number), chunks, release_gil)
        for step in range(50):
            x, out = np.full(3000, step, np.float32), np.zeros(3000, np.float32)
            program.run([x, out])
            assert (out == step * number).all()

    together(8, work)


@pytest.mark.parametrize("chunks", [1, 5])
@pytest.mark.parametrize("release_gil", [True, False])
def test_eight_threads_run_one_program_in_turn(chunks, release_gil):
    program = scale_program(20_000, 3.0, chunks, release_gil)

    def work(number):
        for step in range(20):
            x, out = np.full(20_000, number * 100 + step, np.float32), np.zeros(20_000, np.float32)
            program.run([x, out])
            assert (out == x * 3).all()

    together(8, work)


def test_a_second_process_compiles_nothing_and_none_imports_numba(fresh_process):
    program = (
        "import sys, numpy as np\n"
        "from hybridml.kernels import gemm, jit\nfrom hybridml.kernels.driver import Table\n"
        f"kernel = jit.load({SCALE!r}, 'scale')\n"
        "x, out = np.arange(300000, dtype=np.float32), np.zeros(300000, np.float32)\n"
        "table = Table()\nblock = table.block([0, out.ctypes.data, 0x40000000])\ntable.patch(0, block, 0)\n"
        "table.run(kernel.address, block, x.size, chunks=4)\n"
        "a = np.eye(20); c = np.zeros((20, 20)); product = gemm.plan(20, 20, 20, 'float64')\n"
        "words = table.block(product.words(a.ctypes.data, a.ctypes.data, c.ctypes.data))\n"
        "table.run(product.kernel.address, words, product.extent)\n"
        "table.finish().run([x])\n"
        "assert (out == 2 * x).all() and (c == a).all()\n"
        "stats = jit.stats()\n"
        "print(stats.compiled, stats.loaded_from_disk, 'numba' in sys.modules)\n"
    )
    environment = {"HYBRIDML_NUM_THREADS": "3"}
    assert fresh_process(program, **environment) == "4 0 False\n"
    assert fresh_process(program, **environment) == "0 4 False\n"


def test_an_elementwise_kernel_may_run_in_place():
    program = scale_program(1001, 3.0)
    x = np.arange(1001, dtype=np.float32)
    program.run([x, x])
    np.testing.assert_array_equal(x, np.arange(1001, dtype=np.float32) * 3)


def test_a_moving_word_walks_over_rows():
    """What a scan does: a word points at this iteration's row, and the kernel's argument is made from it."""
    kernel = jit.load(SCALE, "scale")
    rows, out = np.arange(12, dtype=np.float32).reshape(4, 3), np.zeros((4, 3), np.float32)
    table = Table()
    at, to, counter, limit = [table.block([word]) for word in (rows.ctypes.data, out.ctypes.data + 36, 0, 4)]
    block = table.block([0, 0, scalar_word(2, "float32")])
    top = table.move(block, at)
    table.move(block + 8, to)
    table.run(kernel.address, block, 3)
    table.move(at, at, 12)
    table.move(to, to, -12)
    table.count_jump(counter, limit, top)
    table.keep(rows, out)
    assert table.finish().run([]) == 0
    np.testing.assert_array_equal(out, rows[::-1] * 2)
