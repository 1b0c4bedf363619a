"""Matrix products: rates, and what sizes that fit no tile lose."""

from __future__ import annotations

from typing import Any

import pytest
from products import Shape, program
from record import Record
from turns import in_turns, median

PAIRS = [
    (Shape(64, 1000, 100), Shape(63, 999, 101)),
    (Shape(64, 100, 1000), Shape(63, 101, 999)),
    (Shape(1024, 1024, 256), Shape(1023, 1025, 257)),
]


@pytest.mark.parametrize("even, odd", PAIRS, ids=str)
def test_sizes_one_off(benchmark: Any, record: Record, even: Shape, odd: Shape) -> None:
    """The time of a multiplication in a product one off, over that in one of round sizes."""
    programs = program(even), program(odd)
    round_times, odd_times = in_turns(*[lambda p=p: p.run([]) for p in programs])
    record.add(
        f"a multiplication in {odd} / in {even}",
        median(odd_times) / odd.flops * even.flops / median(round_times),
        at_most=1.25,
        unit="x",
        note=f"{odd.flops / median(odd_times) / 1e9:.0f} GFLOP/s",
    )
    benchmark(programs[1].run, [])
