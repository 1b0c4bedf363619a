"""What a call in converted code calls: users' functions converted, a few built-ins that meet tensors, everything else as it is."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

from hybridml import pytree
from hybridml.ops.elementwise import maximum, minimum
from hybridml.ops.reductions import all as all_
from hybridml.ops.reductions import any as any_
from hybridml.trace.autograph import iterables, source
from hybridml.trace.autograph.conditions import symbolic
from hybridml.trace.autograph.convert import twin
from hybridml.trace.autograph.touched import store, touch


def _fold(python: Callable[..., Any], op: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """`max` and `min`: of several values, element by element where one is a tensor."""

    @functools.wraps(python)
    def fold(*args: Any, **kwargs: Any) -> Any:
        if len(args) < 2 or kwargs or all(symbolic(a) is None for a in args):
            return python(*args, **kwargs)
        return functools.reduce(op, args)

    return fold


def _whole(python: Callable[..., Any], op: Callable[[Any], Any]) -> Callable[..., Any]:
    """`any` and `all` over a tensor's rows."""

    @functools.wraps(python)
    def whole(x: Any) -> Any:
        t = symbolic(x)
        return python(x) if t is None else op(t)

    return whole


_BUILTINS: dict[Any, Any] = {
    range: iterables.range_, enumerate: iterables.enumerate_, zip: iterables.zip_, reversed: iterables.reversed_,
    max: _fold(max, maximum), min: _fold(min, minimum), any: _whole(any, any_), all: _whole(all, all_),
}  # fmt: skip


def _storing(python: Callable[..., Any]) -> Callable[..., Any]:
    """`setattr` and `delattr`: the object is about to change."""

    @functools.wraps(python)
    def storing(x: Any, *args: Any) -> Any:
        store(x, type(x).__name__)
        return python(x, *args)

    return storing


_BUILTINS |= {setattr: _storing(setattr), delattr: _storing(delattr)}
_CACHED = type(functools.lru_cache(None)(lambda: None))
_TAKE_FUNCTIONS = (map, filter, sorted, functools.reduce, functools.partial)


def callee(f: Any) -> Any:
    """The converted form of what is about to be called."""
    kind = type(f)
    if kind is types.FunctionType:
        if source.is_users(f.__code__):
            touch(f)
            return twin(f)
        return _dispatched(f) if hasattr(f, "dispatch") and hasattr(f, "registry") else _handing_on(f)
    if kind is types.MethodType:
        inner = callee(f.__func__)
        if isinstance(inner, types.FunctionType):
            touch(inner, f.__self__)
        return f if inner is f.__func__ else types.MethodType(inner, f.__self__)
    if kind is types.BuiltinFunctionType or isinstance(f, type):
        found = _BUILTINS.get(f)
        return found if found is not None else _converting(f) if f in _TAKE_FUNCTIONS else f
    if kind is functools.partial:
        return functools.partial(callee(f.func), *f.args, **f.keywords)
    if kind is _CACHED:
        return _cached(f)
    call = inspect.getattr_static(kind, "__call__", None)
    if isinstance(call, types.FunctionType) and source.is_users(call.__code__):
        touch(call, f)
        return types.MethodType(twin(call), f)
    return f


def converted(x: Any) -> Any:
    """A user's function converted; any other value as it is."""
    if isinstance(x, types.FunctionType):
        return twin(x) if source.is_users(x.__code__) else x
    return callee(x) if isinstance(x, (types.MethodType, functools.partial)) else x


def _converting(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` with the functions among its arguments converted."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return f(*[converted(a) for a in args], **{k: converted(v) for k, v in kwargs.items()})

    return call


def _cached(f: Any) -> Callable[..., Any]:
    """`functools.lru_cache` of a user's function: what was computed of a trace's tensors is of no use to another trace."""

    def call(*args: Any, **kwargs: Any) -> Any:
        mentions = any(symbolic(x) is not None for x in pytree.leaves((args, kwargs)))
        return (callee(f.__wrapped__) if mentions else f)(*args, **kwargs)

    return call


def _dispatched(f: Any) -> Callable[..., Any]:
    """`functools.singledispatch`: the function for the type of the first argument, converted."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return callee(f.dispatch(type(args[0])) if args else f)(*args, **kwargs)

    return call


def _handing_on(f: types.FunctionType) -> Any:
    """Functions of this package run users' functions (`hml.grad(loss)`, `hml.scan(step, ...)`), which then belong to the trace."""
    return _converting(f) if f.__code__.co_filename.startswith(source.PACKAGE) else f
