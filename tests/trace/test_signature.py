"""Keys of calls, and the difference between two of them in words."""

import gc

import numpy as np
import pytest

import hybridml as hml
from hybridml import pytree
from hybridml.errors import SignatureError
from hybridml.trace.signature import Binder, CallKey, ObjectKey, difference, leaf_key, leaf_names


def key(binder, *args, **kwargs):
    leaves, structure = pytree.flatten(binder.bind(args, kwargs))
    return CallKey(structure, tuple([leaf_key(x) for x in leaves]))


def sample(image, rate=0.1, *more, options=None, **rest):
    return image


X = np.zeros((2, 3), np.float32)
EQUAL = {
    "defaults": (((X,), {}), ((X, 0.1), {})),
    "keywords": (((X, 0.2), {}), ((), {"rate": 0.2, "image": X})),
    "tensors by spec": (((X,), {}), ((hml.asarray(X + 1),), {})),
    "strings": (((X,), {"options": "a"}), ((X,), {"options": "a"})),
}
DIFFERENT = {
    "a shape": ((X,), (X[:1],), "argument `image`", "float32[2, 3]", "float32[1, 3]", "batches of one shape"),
    "a dtype": ((X,), (X.astype("f8"),), "argument `image`", "float32[2, 3]", "float64[2, 3]", "dtype=hml.float32"),
    "a number": ((X, 1), (X, 2), "argument `rate`", "1", "2", "hml.asarray(rate)"),
    "its type": ((X, 1), (X, 1.0), "argument `rate`", "1", "1.0", "hml.asarray(rate)"),
    "a string": ((X, "a"), (X, "b"), "argument `rate`", "'a'", "'b'", "one function for each value"),
    "one of *more": ((X, 1, 2, 3), (X, 1, 2, 4), "argument `more[1]`", "3", "4", "hml.asarray"),
    "in a list": (([X, X],), ([X, X[0]],), "argument `image[1]`", "float32[2, 3]", "float32[3]", "batches"),
    "in a dict": (({"a": X},), ({"a": X[0]},), "argument `image['a']`", "float32[2, 3]", "float32[3]", "batches"),
    "the structure": (([X],), ([X, X],), "the nesting of the arguments", "list(*)", "list(*, *)", "same structure"),
}  # fmt: skip


@pytest.mark.parametrize("case", EQUAL)
def test_equal_calls(case):
    binder = Binder(sample)
    a, b = [key(binder, *args, **kwargs) for args, kwargs in EQUAL[case]]
    assert a == b and hash(a) == hash(b) and difference(a, b, binder) is None


@pytest.mark.parametrize("case", DIFFERENT)
def test_differences_in_words(case):
    first, second, what, old, new, cure = DIFFERENT[case]
    binder = Binder(sample)
    a, b = key(binder, *first), key(binder, *second)
    assert a != b
    found = difference(a, b, binder)
    assert found[0] == what
    assert old in found[1] and new in found[2] and cure in found[3]


def test_new_objects_are_told_to_be_made_once():
    class Model:
        pass

    binder = Binder(sample)
    keep = [Model(), Model()]
    found = difference(key(binder, X, keep[0]), key(binder, X, keep[1]), binder)
    assert found[0] == "argument `rate`" and "outside the loop" in found[3]


def test_object_keys_die_with_their_objects():
    class Thing:
        pass

    a = Thing()
    k = ObjectKey(a)
    assert k == ObjectKey(a) and not k.dead
    del a
    gc.collect()
    assert k.dead


@pytest.mark.parametrize(
    "x", [0.0, -0.0, 1, 1.0, True, "1", b"1", None, 1j, Ellipsis, slice(1), np.dtype("f4")], ids=repr
)
def test_python_values_key_by_type_and_value(x):
    others = [0.0, -0.0, 1, 1.0, True, "1", b"1", None, 1j, Ellipsis, slice(1), np.dtype("f4")]
    assert [repr(o) for o in others if leaf_key(o) == leaf_key(x)] == [repr(x)]


def test_nan_is_one_value():
    assert leaf_key(float("nan")) == leaf_key(float("nan"))


def test_leaf_names_follow_the_nesting():
    binder = Binder(sample)
    _, structure = pytree.flatten(binder.bind(([X, (X,)], 0.5, 7), {"options": {"a": X}, "extra": X}))
    assert leaf_names(structure, binder) == [
        "image[0]",
        "image[1][0]",
        "rate",
        "more[0]",
        "extra",
        "options['a']",
    ]


def test_too_few_arguments():
    with pytest.raises(SignatureError, match=r"missing a required argument: 'image'.*\(image, rate=0.1"):
        Binder(sample).bind((), {})


def test_callables_without_a_signature_take_anything():
    class Callable:
        __signature__ = "unknown"

        def __call__(self, *args, **kwargs): ...

    binder = Binder(Callable())
    assert binder.bind((1, 2), {"k": 3}) == ((1, 2), {"k": 3})
