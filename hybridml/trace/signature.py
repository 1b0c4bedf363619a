"""What makes two calls share a trace: the key of an argument, and the difference between two keys in words."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from hybridml import backends, pytree
from hybridml.eager.tensor import Tensor
from hybridml.eager.variable import Variable
from hybridml.errors import SignatureError
from hybridml.ops.spec import TensorSpec, spec


class ObjectKey:
    """An argument known by identity. The object is held weakly: when it dies, so does every trace that knew it."""

    __slots__ = ("_id", "_name", "ref")

    def __init__(self, obj: Any) -> None:
        self._id = id(obj)
        self._name = repr(obj) if isinstance(obj, Variable) else f"{type(obj).__name__} object"
        try:
            self.ref: Callable[[], Any] = weakref.ref(obj)
        except TypeError:
            self.ref = lambda: obj

    @property
    def dead(self) -> bool:
        return self.ref() is None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectKey) and self._id == other._id and self.ref() is other.ref()

    def __hash__(self) -> int:
        return self._id

    def __repr__(self) -> str:
        return self._name


def is_tensor(x: Any) -> bool:
    """True for an argument that enters a trace as a symbolic tensor."""
    return isinstance(x, (Tensor, np.ndarray, np.generic))


def spec_of(x: Any) -> TensorSpec:
    return x.spec if isinstance(x, (Tensor, Variable)) else spec(x.shape, x.dtype)


def placement(leaves: Sequence[Any]) -> backends.Backend:
    """The device that a call of these arguments runs on: that of its tensors and variables, else the current one.

    Raises DeviceError for tensors of two devices.
    """
    return backends.common([x._array for x in leaves if type(x) is Tensor or isinstance(x, Variable)])


def leaf_key(x: Any) -> Any:
    """A hashable stand-in: spec for tensors, type and value for Python values, identity for everything else."""
    if is_tensor(x):
        return spec_of(x)
    if (
        isinstance(x, (bool, int, float, complex, str, bytes, type(None), np.dtype, slice, range))
        or x is Ellipsis
    ):
        return (type(x).__name__, repr(x) if isinstance(x, (float, slice)) else x)
    return ObjectKey(x)


def leaf_keys(leaves: Sequence[Any], by_identity: bool = False) -> tuple[Any, ...]:
    """The keys of a call's leaves. A variable is known by dtype, shape and which of the arguments are that same variable."""
    first: dict[int, int] = {}
    return tuple(
        [
            ("variable", spec_of(x), x.trainable, first.setdefault(id(x), len(first)))
            if isinstance(x, Variable) and not by_identity
            else x
            if isinstance(x, TensorSpec)
            else leaf_key(x)
            for x in leaves
        ]
    )


Positional = Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, ...]]
"""Of a call's arguments by position and by name: all of them by position."""


def _positional(rest: list[tuple[str, Any]], names: Collection[str]) -> Positional:
    """As one expression, `(*args, kwargs['a'], defaults[1])`: it is run at each call by name."""
    items = [f"kwargs[{name!r}]" if name in names else f"defaults[{i}]" for i, (name, _) in enumerate(rest)]
    found: Positional = eval(
        f"lambda args, kwargs: (*args, {', '.join(items)})", {"defaults": [d for _, d in rest]}
    )
    return found


class Binder:
    """Puts a call's arguments into the order of the function's parameters, so that `f(x, k=2)` and `f(x, 2)` are one call."""

    def __init__(self, python_function: Callable[..., Any]) -> None:
        try:
            self._signature: inspect.Signature | None = inspect.signature(python_function)
        except (TypeError, ValueError):
            self._signature = None
        self._put: dict[tuple[Any, ...], Positional | None] = {}
        self.simple = -1  # how many positional arguments a call may have that needs no binding
        if self._signature is not None:
            kinds = [p.kind for p in self._signature.parameters.values()]
            if all(
                k in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
                for k in kinds
            ):
                self.simple = len(kinds)

    def positional(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
        """The arguments by position alone, defaults put in, as `bind` gives them; None where there is more to it.

        What to do is worked out once for each number of positional arguments and set of keywords.
        """
        put = self.positional_of(len(args), kwargs)
        return None if put is None else put(args, kwargs)

    def positional_of(self, given: int, names: Collection[str]) -> Positional | None:
        """What `positional` does to calls with so many arguments by position and these by name. It raises KeyError for other names."""
        form = (given, *names)
        if form not in self._put:
            rest = self._rest_of(given, names)
            self._put[form] = None if rest is None else _positional(rest, names)
        return self._put[form]

    def _rest_of(self, given: int, names: Collection[str]) -> list[tuple[str, Any]] | None:
        """Names and defaults of the parameters behind those that are given by position; None for a call that is not of this kind."""
        if self._signature is None or self.simple < 0:
            return None if names else []
        rest = list(self._signature.parameters.values())[given:]
        required = {p.name for p in rest if p.default is p.empty}
        by_name = {p.name for p in rest if p.kind is p.POSITIONAL_OR_KEYWORD}
        fits = given <= self.simple and required <= set(names) <= by_name
        return [(p.name, p.default) for p in rest] if fits else None

    def bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._signature is None or (not kwargs and len(args) == self.simple):
            return tuple(args), kwargs
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as e:
            raise SignatureError(f"{e}; the function's signature is {self._signature}") from None
        bound.apply_defaults()
        return bound.args, bound.kwargs

    def name(self, position: int) -> str:
        if self._signature is None:
            return f"argument {position}"
        for i, p in enumerate(self._signature.parameters.values()):
            if p.kind is inspect.Parameter.VAR_POSITIONAL:
                return f"{p.name}[{position - i}]"
            if i == position:
                return p.name
        return f"argument {position}"


def _is_number(key: Any) -> bool:
    return isinstance(key, tuple) and key[0] in ("int", "float")


Place = tuple[
    int, int
]  # an axis of the tensor at a position among the leaves; a number at a position has the axis -1
Places = frozenset[Place]


def _opened(i: int, key: Any, places: Places | None) -> Any:
    if isinstance(key, TensorSpec):
        shape = [None if places is None or (i, a) in places else d for a, d in enumerate(key.shape)]
        return TensorSpec(shape, key.dtype)
    return (key[0], Ellipsis) if _is_number(key) and (places is None or (i, -1) in places) else key


class CallKey:
    """The key of one call: structure and leaf keys of all its arguments."""

    __slots__ = ("_hash", "device", "keys", "structure")

    def __init__(self, structure: pytree.Structure, keys: tuple[Any, ...], device: str = "cpu:0") -> None:
        self.structure, self.keys, self.device = structure, keys, device
        self._hash = hash((structure, keys, device))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, CallKey)
            and self._hash == other._hash
            and self.structure == other.structure
            and self.keys == other.keys
            and self.device == other.device
        )

    def __hash__(self) -> int:
        return self._hash

    def opened(self, places: Places | None) -> CallKey:
        """The key with what is at these places left open (None: everything that can be): numbers known by their type only, sizes not
        at all."""
        return CallKey(
            self.structure, tuple([_opened(i, k, places) for i, k in enumerate(self.keys)]), self.device
        )

    def differences(self, other: CallKey) -> Places:
        """Where two keys of one form differ."""
        found: set[Place] = set()
        for i, (a, b) in enumerate(zip(self.keys, other.keys, strict=True)):
            if isinstance(a, TensorSpec):
                found |= {
                    (i, axis) for axis, (d, e) in enumerate(zip(a.shape, b.shape, strict=True)) if d != e
                }
            elif a != b:
                found.add((i, -1))
        return frozenset(found)

    def sizes(self, places: Sequence[Place]) -> list[Any]:
        """The sizes at these axes."""
        return [self.keys[i].shape[a] for i, a in places]

    @property
    def dead(self) -> bool:
        return any(isinstance(k, ObjectKey) and k.dead for k in self.keys)


def leaf_names(structure: pytree.Structure, binder: Binder) -> list[str]:
    """A name for each leaf of (args, kwargs): the parameter's, with a path into nested structures."""
    args, kwargs = structure.children
    names: list[str] = []
    for i, child in enumerate(args.children):
        names += [binder.name(i) + path for path in leaf_paths(child)]
    for k, child in zip(kwargs.aux or (), kwargs.children, strict=True):  # type: ignore[call-overload]
        names += [f"{k}{path}" for path in leaf_paths(child)]
    return names


def leaf_paths(s: pytree.Structure) -> list[str]:
    if s.node is None:
        return [""]
    return [
        label + rest
        for label, child in zip(pytree.labels(s), s.children, strict=True)
        for rest in leaf_paths(child)
    ]


def describe(key: Any) -> str:
    return f"{key[1]!r}" if isinstance(key, tuple) else repr(key)


def difference(old: CallKey, new: CallKey, binder: Binder) -> tuple[str, str, str, str] | None:
    """(argument, old, new, cure) of the first argument that made `new` another call than `old`."""
    if old.device != new.device:
        return "the device", old.device, new.device, "keep a function's arguments on one device"
    if old.structure != new.structure:
        form = pytree.difference(old.structure.children[0], new.structure.children[0])
        if form is not None:
            position, _, path = form[0].removeprefix("[").partition("]")
            name = binder.name(int(position)) + path
            return (
                f"argument `{name}`",
                *form[1:],
                "keep what changes in an hml.Variable, or use one function for each value",
            )
        return (
            "the nesting of the arguments",
            str(old.structure),
            str(new.structure),
            "pass the same structure at every call",
        )
    for name, a, b in zip(leaf_names(new.structure, binder), old.keys, new.keys, strict=True):
        if a == b:
            continue
        return (f"argument `{name}`", describe(a), describe(b), _cure(name, a, b))
    return None


def _cure(name: str, old: Any, new: Any) -> str:
    if isinstance(old, TensorSpec) and isinstance(new, TensorSpec):
        if old.dtype != new.dtype:
            return f"pass one dtype, e.g. hml.asarray({name}, dtype=hml.{old.dtype.name})"
        return "pass batches of one shape (batch(n, drop_remainder=True), or pad them)"
    if isinstance(new, tuple) and new[0] in ("int", "float"):
        return (
            f"if it is only computed with, pass it as a tensor, hml.asarray({name}), or keep it in an hml.Variable; "
            "if it is a size, take it from the shape of an argument"
        )
    if isinstance(new, tuple) and new[0] == "variable":
        return "pass variables of one shape and dtype, all different or all the same ones"
    if isinstance(new, ObjectKey):
        return f"make `{name}` once, outside the loop, and pass the same object"
    return "pass the same value, or use one function for each value"


def check_signature(given: Sequence[Any], expected: Sequence[TensorSpec], binder: Binder) -> None:
    """Raise SignatureError, naming the argument, where tensors do not fit an `input_signature`."""
    if len(given) != len(expected):
        raise SignatureError(f"the input_signature has {len(expected)} tensors, the call has {len(given)}")
    for i, (x, want) in enumerate(zip(given, expected, strict=True)):
        if not is_tensor(x):
            raise SignatureError(
                f"argument `{binder.name(i)}`: expected {want}, got {type(x).__name__} {x!r}"
            )
        got = spec_of(x)
        fits = len(got.shape) == len(want.shape) and all(
            w is None or w == g for g, w in zip(got.shape, want.shape, strict=True)
        )
        if got.dtype != want.dtype or not fits:
            raise SignatureError(f"argument `{binder.name(i)}`: expected {want}, got {got}")
