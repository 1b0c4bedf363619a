"""The cost model of matrix products: what it must rank right whatever the machine."""

import pytest

from hybridml.kernels import gemm_cost
from hybridml.kernels.gemm_cost import Machine, Product, Split

WIDE = Machine(lanes=16, library_share=0.5)
NARROW = Machine(lanes=8, library_share=0.9, tile_rows=6)


@pytest.mark.parametrize("machine", [WIDE, NARROW])
def test_more_work_costs_more(machine):
    small, large = Product(64, 64, 64), Product(64, 64, 128)
    assert gemm_cost.tiled(small, machine) < gemm_cost.tiled(large, machine)
    assert gemm_cost.library(small, machine) < gemm_cost.library(large, machine)


def test_large_products_reach_the_peak_of_two_multiply_adds_a_cycle():
    p = Product(1024, 1024, 1024)
    ideal = p.m * p.n * p.k / (2 * WIDE.lanes)
    assert ideal <= gemm_cost.tiled(p, WIDE) < 1.1 * ideal


@pytest.mark.parametrize("machine", [WIDE, NARROW])
def test_any_number_of_rows_costs_what_its_size_says(machine):
    a_row = gemm_cost.tiled(Product(48, 64, 250), machine) / 48
    for m in range(12, 100):
        assert gemm_cost.tiled(Product(m, 64, 250), machine) <= 1.2 * m * a_row


def test_small_products_are_tiles_and_a_library_near_the_peak_takes_the_large():
    assert gemm_cost.tiled(Product(32, 32, 32), NARROW) < gemm_cost.library(Product(32, 32, 32), NARROW)
    assert gemm_cost.tiled(Product(1000, 1001, 999), WIDE) < gemm_cost.library(Product(1000, 1001, 999), WIDE)


@pytest.mark.parametrize(
    "product, axis",
    [
        (Product(64, 64, 64, batch=64), Split.BATCH),
        (Product(4096, 8, 512), Split.ROWS),
        (Product(8, 4096, 512), Split.COLUMNS),
        (Product(64, 100, 1000), Split.ROWS),  # 100 columns are three panels and a bit: halves would be padded to four
        (Product(64, 1000, 100, transb=True), Split.COLUMNS),  # by rows each thread would transpose all of B
    ],
)  # fmt: skip
def test_the_axis_that_is_split(product, axis):
    assert gemm_cost.best_split(product, 2, WIDE) is axis


def test_pieces_cover_a_product_once_and_begin_at_tiles():
    for size, chunks in [(1, 1), (7, 2), (63, 2), (64, 3), (1000, 7), (5, 16)]:
        p = Product(size, 32, 16)
        sizes = sorted(q.m for q in p.pieces(Split.ROWS, chunks, WIDE))
        assert max(sizes) <= size
        assert max(sizes) >= -(-size // chunks)


def test_an_operand_is_made_where_it_is_packed_if_that_is_cheap_and_happens_once():
    elements = 1 << 20
    assert gemm_cost.saved_by_prologue(elements, 0.8 * elements, 1, NARROW) > 0, "a mask"
    assert gemm_cost.saved_by_prologue(elements, 2.0 * elements, 1, NARROW) < 0, "gelu"
    assert gemm_cost.saved_by_prologue(elements, 0.8 * elements, 2, NARROW) < 0, "a mask, twice"
    assert gemm_cost.saved_by_prologue(100, 80.0, 8, NARROW) > 0, (
        "a launch is more than a few elements eight times"
    )


def test_products_too_small_to_hand_over_are_not():
    assert gemm_cost.worthwhile_chunks(Product(16, 32, 32), 8, WIDE) == 1
    assert gemm_cost.worthwhile_chunks(Product(512, 512, 512), 8, WIDE) == 8
