"""What a traced function returns is put together as Python code would."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest

import hybridml as hml
from hybridml import pytree
from hybridml.trace.outputs import OutputPlan

Pair = namedtuple("Pair", "first second")


@pytest.mark.parametrize(
    "nest",
    [
        (), [], {}, None, "a", ("a",), ["a", "b"], ("a", ("b", ()), []), {"x": "a", 1: ("b", None), (2, "y"): ["c"]}, Pair("a", {"k": "b"}),
        [Pair("a", "b"), Pair("c", Pair("d", "e"))], {"o": OrderedDict(z="a", y="b")}, {"quote'\"\\": "a"},
    ],
    ids=str,
)  # fmt: skip
def test_any_nest(nest):
    leaves, structure = pytree.flatten(nest)
    plan = OutputPlan(structure, tuple(range(len(leaves))), (None,) * len(leaves))
    found = plan.filled(tuple(leaves))
    assert found == nest and type(found) is type(nest)
    assert plan.flat == (type(nest) is tuple and all(type(x) is str for x in nest))
    assert plan.single == (nest == "a")


def test_constants_and_results_in_any_order():
    thing = object()
    structure = pytree.flatten({"a": 0, "b": [0, 0], "c": 0})[1]
    plan = OutputPlan(structure, (1, None, 0, 1), (None, thing, None, None))
    assert plan.filled(["zero", "one"]) == {"a": "one", "b": [thing, "zero"], "c": "one"}


def test_new_containers_at_each_call():
    f = hml.function(lambda x: {"all": [x, x + 1], "none": None, "text": "t"})
    x = hml.ones(2)
    found = [f(x) for _ in range(4)]
    found[2]["all"].append(1)
    del found[3]["text"]
    assert f(x)["all"][1].tolist() == [2, 2] and len(f(x)["all"]) == 2 and f(x)["text"] == "t"


@dataclass
class Record:
    loss: object
    name: str


def test_dataclasses():
    f = hml.function(lambda x: (Record(x * 2, "double"), x))
    for _ in range(3):
        record, x = f(hml.ones(2))
        assert record.loss.tolist() == [2, 2] and record.name == "double" and x.tolist() == [1, 1]


def test_a_nest_too_deep_for_pythons_parser():
    nest = "a"
    for _ in range(150):
        nest = [nest, ("b",)]
    leaves, structure = pytree.flatten(nest)
    assert OutputPlan(structure, tuple(range(len(leaves))), (None,) * len(leaves)).filled(leaves) == nest
