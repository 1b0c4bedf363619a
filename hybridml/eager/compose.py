"""Composites without the cost of their parts: a call on tensors of known shapes and dtypes plays what an earlier one recorded.

A composite function is written in public ops, each of which normalises its attributes, looks at its operands and makes a tensor. For
operands of the same shapes and dtypes all of that comes out the same. So the second call of a kind is recorded (`recorder`), and those
that follow run its steps on bare arrays (`player`). On a tape, such a call is one step (`composed`). Whatever is unusual runs the
function as it is written: symbols and examples, arrays of other devices, arguments that make no key, and every failure, so that errors
are told in the function's own words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hybridml import backends
from hybridml.eager import quiet
from hybridml.eager.composed import Composed
from hybridml.eager.recorder import Slot, Unrecordable, record
from hybridml.eager.recordings import LONGEST, Odd, Recordings, key_of
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor, wrap
from hybridml.eager.variable import Variable
from hybridml.ops.registry import composer
from hybridml.ops.spec import spec

_recordings = Recordings()
_known = _recordings.known
_enter, _leave, _QUIET = quiet.enter_with, quiet.leave, quiet.QUIET


def run(f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`f(*args, **kwargs)`, played if a call like it was recorded."""
    key: list[Any] = [f]
    tensors: list[Tensor] = []
    arrays: list[Any] = []
    try:
        for x in args:
            if type(x) is Tensor:
                a = x._array
                key.append(a.shape)
                key.append(a.dtype)
                arrays.append(a)
                tensors.append(x)
            else:
                _describe(x, key, tensors, arrays)
        for name, x in kwargs.items():
            key.append(name)
            _describe(x, key, tensors, arrays)
    except Odd:
        return f(*args, **kwargs)
    kind = tuple(key)
    composed = _known.get(kind)
    if not composed:
        _recordings.note(kind, lambda: _recorded(f, args, kwargs, arrays))
        return f(*args, **kwargs)
    if backends.elsewhere and not all([type(a) is np.ndarray for a in arrays]):
        return f(*args, **kwargs)
    tapes = state.now.tapes
    if tapes and not any([x._id for x in tensors]):
        tapes = []
    token = _enter(_QUIET)
    try:
        out = composed.play_kept(*arrays) if tapes else composed.play(*arrays)
    except Exception:  # whatever it is, the function itself tells it better
        out = None
    finally:
        _leave(token)
    if out is None:
        return f(*args, **kwargs)
    if tapes:
        return composed.recorded(tapes, tensors, [wrap(a) for a in out])
    return wrap(out) if composed.single else tuple([wrap(a) for a in out])


def _describe(x: Any, key: list[Any], tensors: list[Tensor], arrays: list[Any]) -> None:
    """Add to the key what of an argument decides the steps; and its tensors and their arrays to theirs."""
    cls = type(x)
    if cls is Variable and not state.now.traces:
        x, cls = x.value(), Tensor
    if cls is Tensor:
        a = x._array
        key += (a.shape, a.dtype)
        arrays.append(a)
        tensors.append(x)
    elif (cls is tuple or cls is list) and len(x) <= LONGEST:
        key += (cls, len(x))
        for part in x:
            _describe(part, key, tensors, arrays)
    else:
        key.append(key_of(x))


def _recorded(f: Callable[..., Any], args: Any, kwargs: Any, arrays: list[Any]) -> Composed:
    if not all([type(a) is np.ndarray for a in arrays]):
        raise Unrecordable("an array of another device")

    def on(slots: list[Slot]) -> Any:
        rest = iter(slots)
        return f(*[_bound(x, rest) for x in args], **{k: _bound(x, rest) for k, x in kwargs.items()})

    inputs, steps, out = record(on, [spec(a.shape, a.dtype) for a in arrays])
    single = type(out) is not tuple
    return Composed(f.__name__, inputs, steps, [_result(x) for x in ((out,) if single else out)], single)


def _bound(x: Any, slots: Iterator[Slot]) -> Any:
    """An argument with slots for its tensors, in the order in which `_describe` found them."""
    cls = type(x)
    if cls is Tensor or cls is Variable:
        return next(slots)
    return cls([_bound(part, slots) for part in x]) if cls is tuple or cls is list else x


def _result(x: Any) -> Any:
    if type(x) is Slot:
        return x
    if type(x) is Tensor and type(x._array) is np.ndarray:
        return x._array
    raise Unrecordable(f"a result of type {type(x).__name__}")


def run_direct(
    direct: Callable[..., Any], f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`f(*args)` by what the array library has for it, where that is one call; else as it is written."""
    if kwargs:
        return f(*args, **kwargs)
    taped = state.now.tapes
    try:
        out = direct(*[x._array if type(x) is Tensor and not (taped and x._id) else _bare(x) for x in args])
    except (
        Exception
    ):  # an argument that it does not know, or an error, which the function itself tells better
        return f(*args)
    return f(*args) if out is NotImplemented else wrap(out)


_PLAIN = frozenset((int, slice, bool, type(None), type(Ellipsis)))


def _bare(x: Any) -> Any:
    cls = type(x)
    if cls in _PLAIN:
        return x
    if cls is tuple:
        return tuple([_bare(part) for part in x])
    if (cls is Tensor or (cls is Variable and not state.now.traces)) and not (state.now.tapes and x._id):
        return x._array
    raise Odd


composer.run, composer.run_direct = run, run_direct
