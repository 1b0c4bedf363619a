"""The text of players, and how it scales."""

import numpy as np

import hybridml as hml
from hybridml.eager import player
from hybridml.eager.recorder import record
from hybridml.ops.spec import spec

SPEC = spec((4, 4), np.dtype("float32"))


def test_the_docstring_shows_what_is_generated():
    inputs, steps, out = record(lambda slots: hml.nn.softmax(slots[0]), [SPEC])
    text, _ = player.source(inputs, steps, [out], single=True)
    shown = player.__doc__.split("becomes\n\n")[1].split("\n\nwhere")[0]
    assert "\n".join(line[4:] for line in shown.splitlines()) == text.rstrip()


def test_a_buffer_is_not_written_to_while_a_view_of_it_is_read():
    def f(slots):
        e = hml.exp(slots[0])
        turned = e.T  # shares the memory of e, which nobody else reads
        squared = turned * turned
        return squared - turned

    inputs, steps, out = record(f, [SPEC])
    x = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    e = np.exp(x).T
    np.testing.assert_array_equal(player.player(inputs, steps, [out], single=True)(x), e * e - e)


def test_results_and_operands_are_left_alone():
    def f(slots):
        a = slots[0] * 2
        b = a + 1
        return a, b, b - a

    inputs, steps, out = record(f, [SPEC])
    x = np.ones((4, 4), np.float32)
    a, b, c = player.player(inputs, steps, out, single=False)(x)
    assert (x == 1).all()
    assert (a == 2).all()
    assert (b == 3).all()
    assert (c == 1).all()


def test_long_recordings_are_written_in_linear_time():
    """Counted in characters: names and deletions do not pile up."""

    def f(slots):
        x = slots[0]
        for _ in range(400):
            x = hml.where(x > 0, x, -x) * 0.5
        return x

    inputs, steps, out = record(f, [SPEC])
    text, objects = player.source(inputs, steps, [out], single=True)
    assert len(steps) == 1600
    assert len(text) < 60 * len(steps)
    assert len(objects) < 4 * len(steps)
