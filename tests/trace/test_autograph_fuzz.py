"""Random programs of nested ifs, loops, breaks, continues and returns: traced, they compute what Python computes."""

from __future__ import annotations

import linecache
import random
from typing import Any

import numpy as np
import pytest

import hybridml as hml


class Program:
    """Text of a function of a tensor `x`, a vector `v` and an int tensor `n` that always ends."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._loops = 0
        self._names = 0
        self.lines = ["def f(x, v, n):", "    a, b, k = x, x * 0.5, n * 1"]
        self._block(1, 4, False)
        self.lines.append("    return a, b, k")

    def _say(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def _number(self) -> str:
        return self._random.choice(["a", "b", "x", "a + b", "a * 0.5", "b - 1.0", "1.5", "a - x"])

    def _test(self) -> str:
        r = self._random
        simple = [
            f"{self._number()} > b", "k % 3 == 1", "k > 2", "0.0 < a < 2.5", "not a < b", "v[0] < a", "n > 2",
            "a > 1.0 and k < 4", "b < 0.0 or k == 2", "True", "x.ndim == 0",
        ]  # fmt: skip
        return r.choice(simple)

    def _block(self, depth: int, room: int, in_loop: bool) -> None:
        r = self._random
        for _ in range(r.randint(3, 5) if depth == 1 else r.randint(1, 3)):
            choice = r.random()
            if room == 0 or choice < 0.3:
                name = r.choice("ab")
                value = self._number()
                self._say(
                    depth,
                    r.choice(
                        [f"{name} = {value} + 0.0 * x", f"{name} = a if {self._test()} else b", "k = k + 1"]
                    ),
                )
            elif choice < 0.6:
                self._say(depth, f"if {self._test()}:")
                self._block(depth + 1, room - 1, in_loop)
                if r.random() < 0.3:
                    self._say(depth, f"elif {self._test()}:")
                    self._block(depth + 1, room - 1, in_loop)
                if r.random() < 0.6:
                    self._say(depth, "else:")
                    self._block(depth + 1, room - 1, in_loop)
            elif choice < 0.8 and room > 1:
                self._loop(depth, room)
            elif in_loop and choice < 0.92:
                self._say(depth, r.choice(["break", "continue"]))
                return
            elif depth > 1:
                self._say(depth, r.choice(["return a, b, k", "return b, a + b, k + 1"]))
                return

    def _loop(self, depth: int, room: int) -> None:
        r = self._random
        self._names += 1
        c = f"c{self._names}"
        kind = r.choice(["rows", "range", "while", "python"])
        if kind == "rows":
            self._say(depth, f"for {c} in v:")
            self._say(depth + 1, f"a = a + {c} * 0.25")
        elif kind == "range":
            self._say(depth, f"for {c} in range(n):")
            self._say(depth + 1, f"k = k + {c}")
        elif kind == "python":
            self._say(depth, f"for {c} in (1, 2):")
            self._say(depth + 1, f"b = b + {c}")
        else:
            self._say(depth, f"{c} = 0")
            self._say(depth, f"while {c} < n and a < 50.0:")
            self._say(depth + 1, f"{c} += 1")
        self._block(depth + 1, room - 2, True)
        if r.random() < 0.3:
            self._say(depth, "else:")
            self._block(depth + 1, 0, False)


def function_of(seed: int) -> Any:
    text = "\n".join(Program(seed).lines) + "\n"
    name = f"<program {seed}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    scope: dict[str, Any] = {"hml": hml}
    exec(compile(text, name, "exec"), scope)
    return scope["f"], text


@pytest.mark.parametrize("seed", range(24))
def test_program(seed: int) -> None:
    f, text = function_of(seed)
    traced = hml.function(f)
    for x, n in ((0.5, 0), (1.75, 3), (-2.0, 5)):
        args = hml.asarray(x), hml.asarray([0.5, -1.0, 2.0]), hml.asarray(n)
        for want, got in zip(f(*args), traced(*args), strict=True):
            np.testing.assert_allclose(np.asarray(want), np.asarray(got), rtol=1e-5, err_msg=text)
