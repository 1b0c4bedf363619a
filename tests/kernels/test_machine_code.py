"""What LLVM makes of generated kernels for AVX2 and AVX-512, read as text: these counts do not depend on the machine that counts."""

from __future__ import annotations

import platform
import re
from typing import Any

import numpy as np
import pytest

import hybridml as hml
from hybridml.kernels.translate import module
from hybridml.testing import kernels as written

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="LLVM is asked for x86 code"
)
WIDTH = {"znver3": ("ymm", 8), "znver4": ("zmm", 16)}
rng = np.random.default_rng(0)


def loops(assembly: str) -> list[list[str]]:
    """The instructions of each innermost loop: from a label to the jump back to it, with no such pair in between."""
    lines = assembly.splitlines()
    place = {m[1]: k for k, line in enumerate(lines) if (m := re.match(r"(\.L\w+):", line))}
    jumps = [(k, m[1]) for k, line in enumerate(lines) if (m := re.match(r"\s+j\w+\s+(\.L\w+)", line))]
    spans = [(place[label], k) for k, label in jumps if place.get(label, k) < k]
    inner = [s for s in spans if not any(t != s and s[0] <= t[0] and t[1] <= s[1] for t in spans)]
    return [[line.strip() for line in lines[a + 1 : z + 1] if re.match(r"\s+[a-z]", line)] for a, z in inner]


def vector_loops(assembly: str, register: str) -> list[list[str]]:
    """The loops over whole vectors that store or add up: those for what remains use other registers."""
    found = [body for body in loops(assembly) if any(f"%{register}" in line for line in body)]
    assert found, "nothing was vectorised"
    return found


def elements(body: list[str]) -> int:
    """How many elements a turn of the loop takes: what its counter goes up by."""
    (step,) = {int(m[1]) for line in body if (m := re.match(r"(?:addq|subq)\s+\$-?(\d+), %r", line))}
    return step


def kernel(f: Any, *args: Any) -> Any:
    """The one traced kernel that has most to do."""
    return max(hml.function(f).get_concrete_function(*args).kernels, key=lambda s: s.nanoseconds)


def chain(x: Any, y: Any) -> Any:
    return hml.nn.gelu(x * y + 1.5) * hml.sigmoid(x) - y


def cross_entropy(x: Any, labels: Any) -> Any:
    return hml.value_and_grad(lambda x: hml.mean(hml.nn.softmax_cross_entropy(x, labels)))(x)


def array(*shape: int) -> Any:
    return hml.asarray(rng.normal(size=shape).astype(np.float32))


@pytest.mark.parametrize(("cpu", "turns", "most", "spilled"), [("znver3", 2, 172, 8), ("znver4", 4, 302, 12)])
def test_a_chain_is_one_loop_of_whole_vectors(
    cpu: str, turns: int, most: int, spilled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IN_TURNS", {16: turns, 32: turns})
    step = kernel(chain, array(64, 64), array(64, 64))
    register, lanes = WIDTH[cpu]
    (body,) = vector_loops(written.assembly_of(step.source, step.kernel.name, cpu), register)
    assert elements(body) == turns * lanes  # a long body takes some vectors in turns
    assert not any("call" in line for line in body)
    assert len(body) <= most
    stored = [line for line in body if re.match(rf"vmovu?a?ps\s+%{register}\d+, .*\(%rsp\)", line)]
    assert len(stored) <= spilled


@pytest.mark.parametrize("cpu", WIDTH)
def test_cross_entropy_goes_by_vectors_of_float32_and_takes_one_exponential(cpu: str) -> None:
    step = kernel(cross_entropy, array(32, 1000), hml.asarray(rng.integers(0, 1000, 32)))
    assert step.source.count("m_exp_f32(") == 1
    register, lanes = WIDTH[cpu]
    bodies = vector_loops(written.assembly_of(step.source, step.kernel.name, cpu), register)
    assert len(bodies) == 3  # the largest and the label's, the exponentials and their sum, the gradient
    for body in bodies:
        assert elements(body) % lanes == 0 and not any("call" in line for line in body)
    shares = sorted(len(body) / elements(body) * lanes for body in bodies)
    assert shares[0] < 8 and shares[1] < 12 and shares[2] < 36  # instructions a vector
