"""Nested structures: flatten, rebuild, and the quick walk that traced calls take."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import pytest

from hybridml import pytree

Pair = namedtuple("Pair", "left right")


@dataclass
class Setting:
    rate: float
    sizes: list


NESTS = [
    1, None, [], (), {}, [1, 2], (1, [2, (3,)]), {"b": 1, "a": {"c": [2]}}, Pair(1, [2]), Setting(0.5, [1, 2]),
    [None, {"x": ()}], {1: "one", 2: ("two", None)},
]  # fmt: skip


@pytest.mark.parametrize("nest", NESTS, ids=repr)
def test_there_and_back(nest):
    leaves, structure = pytree.flatten(nest)
    assert pytree.unflatten(structure, leaves) == nest
    assert structure.n_leaves == len(leaves)
    assert pytree.leaves_of(nest, structure) == leaves


def test_leaves_are_given_for_the_same_structure_only():
    for x in NESTS:
        for y in NESTS:
            structure = pytree.flatten(y)[1]
            expected = pytree.leaves(x) if pytree.flatten(x)[1] == structure else None
            assert pytree.leaves_of(x, structure) == expected, (x, y)


def test_a_class_that_joins_later_is_a_leaf_no_more():
    class Box:
        def __init__(self, inside):
            self.inside = inside

    box = Box(3)
    assert pytree.leaves_of(box, pytree.LEAF) == [box]
    pytree.register(Box, lambda b: ([b.inside], None), lambda _, children: Box(*children))
    assert pytree.leaves_of(box, pytree.LEAF) is None
    assert pytree.leaves(box) == [3]
