"""Eager's interpreter behind the door: lift operands, promote dtypes, run, record.

The order of the cheap tests matters: this is the path of every op that is not covered by the operators' own fast path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hybridml import backends, dtypes, errors
from hybridml.eager import quiet
from hybridml.eager.creation import asarray, beside
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor, wrap
from hybridml.eager.variable import Variable
from hybridml.ops import door
from hybridml.ops.elementwise import CAST
from hybridml.ops.registry import Op, Promote
from hybridml.symbolic import Sized, has_dims

_enter, _leave, _QUIET = quiet.enter_with, quiet.leave, quiet.QUIET
_new: Any = Tensor.__new__


def lift(x: Any, like: Any = None) -> Tensor:
    """`x` as a tensor: variables are read, anything else goes through `asarray`, on the device of `like` if it has one."""
    if isinstance(x, Tensor):
        return asarray(x) if x.weak else x
    if isinstance(x, Variable):
        return x.value()
    if like is None:
        return asarray(x)
    with beside(like):
        return asarray(x)


def lift_operands(op: Op, operands: tuple[Any, ...]) -> list[Any]:
    """Tensors and weak Python scalars, promoted as the op's row says."""
    lifted: list[Any] = []
    common: np.dtype | None = None
    uniform = True  # tensors of one dtype, which needs no promotion
    for x in operands:
        cls = type(x)
        if cls is not Tensor:
            uniform = False
            if (
                cls is not float
                and cls is not int
                and cls is not bool
                and not issubclass(cls, (Sized, Tensor))
            ):
                x = lift(x, _placed(operands))
        elif x._array.dtype is not common:
            uniform = uniform and common is None
            common = x._array.dtype
        lifted.append(x)
    if op.promote is Promote.NO or (
        uniform and common is not None and (op.promote is Promote.SAME or dtypes.is_float(common))
    ):
        return lifted
    return _promote(op, lifted)


def _promote(op: Op, operands: list[Any]) -> list[Any]:
    head, part = operands[: op.fixed], operands[op.fixed :]
    tensors = [x for x in part if isinstance(x, Tensor)]
    scalars = [x for x in part if not isinstance(x, Tensor)]
    scalars += [_STAND_IN[t.dtype.kind] for t in tensors if t.weak]
    common = dtypes.promote([t.dtype for t in tensors if not t.weak], scalars)
    if op.promote is Promote.FLOAT and not dtypes.is_float(common):
        common = dtypes.default_float
    elif op.promote is Promote.NUMBER and common.kind == "b":
        common = dtypes.default_int
    if not tensors:
        with beside(_placed(tuple(head))):
            return [*head, *[asarray(x, dtype=common) for x in part]]
    return [*head, *[_cast(x, common) for x in part]]


def _placed(operands: tuple[Any, ...]) -> Any:
    """The operand beside which others are put that have no place yet."""
    return next((x for x in operands if isinstance(x, (Tensor, Variable))), None)


_STAND_IN: dict[str, float | int] = {"f": 0.0, "i": 0}  # for a traced number: only its category counts


def _cast(x: Any, dtype: np.dtype) -> Any:
    if not isinstance(x, Tensor):
        return x
    return x if x.dtype is dtype else run(CAST, (x,), {"dtype": dtype})


_RANK = {
    bool: 0,
    int: 1,
    float: 2,
}  # of weak scalars; they give way to tensors of their own category or a higher one
_CATEGORY = {"b": 0, "i": 1, "u": 1, "f": 2, "V": 2}


def run(op: Op, operands: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
    """Run `op` now, or append it to the trace that a symbolic operand belongs to."""
    kept, fixed, rank = op.kept, op.fixed, 0
    common: np.dtype | None = None
    arrays: list[Any] = []
    for x in operands:  # one walk finds whether nothing needs to be lifted or promoted
        if type(x) is Tensor:
            a = x._array
            arrays.append(a)
            if fixed:
                fixed -= 1
            elif (d := a.dtype) is not common:
                if kept and (common is not None or d.kind not in kept):
                    break
                common = d
        else:
            r = _RANK.get(type(x))
            if r is None or fixed:
                if type(x) is Variable:
                    return run(op, tuple([v.value() if type(v) is Variable else v for v in operands]), attrs)
                break
            rank = r if r > rank else rank
            arrays.append(x)
    else:
        plain = common is not None and (rank <= _CATEGORY[common.kind] or not kept)
        if plain and (not attrs or not state.now.traces or not has_dims(attrs)):
            whole = (
                common is not None and common.itemsize != 2 and (kept or len(arrays) == 1)
            )  # no operand is of half precision
            return compute(op, operands, arrays, attrs, op.ufunc, op.direct if whole else op.eager)
    lifted = lift_operands(op, operands)
    if any([isinstance(x, Tensor) and type(x) is not Tensor for x in lifted]):
        return _first(lifted)._append(op, lifted, attrs)
    traces = state.now.traces
    if traces and (not lifted or has_dims(lifted) or has_dims(attrs)):
        return traces[-1].append(op, lifted, attrs)  # made of nothing, or for an open size: part of it
    return compute(op, lifted, [x._array if isinstance(x, Tensor) else x for x in lifted], attrs)


def compute(
    op: Op,
    operands: Sequence[Any],
    arrays: list[Any],
    attrs: dict[str, Any],
    ufunc: Any = None,
    eager: Any = None,
) -> Any:
    """Run `op` on the operands' arrays, by its ufunc or a form of `eager` where these know their dtypes, and tell the tapes."""
    token = _enter(_QUIET)
    try:
        backend = backends.common(arrays) if backends.elsewhere else backends.CPU
        if backend.on_cpu:
            out = ufunc(*arrays) if ufunc is not None else (eager or op.eager)(np, *arrays, **attrs)
        else:
            with backend.scope():
                out = (eager or op.eager)(backend.xp, *arrays, **attrs)
    except errors.HybridMLError as e:
        raise type(e)(errors.located(f"{op.name}: {e}", errors.user_line())) from None
    except Exception as cause:
        raise explain_failure(op, operands, attrs, cause) from cause
    finally:
        _leave(token)
    if type(out) is np.ndarray:
        result = _new(Tensor)
        result._array = out
        result._id = None
    else:
        result = tuple([wrap(a) for a in out]) if type(out) is tuple else wrap(out)
    if state.now.tapes:
        record(op, attrs, operands, result)
    return result


def _first(operands: list[Any]) -> Any:
    """The operand that the op goes to: one that stands for several examples before one of a trace."""
    return max([x for x in operands if isinstance(x, Tensor)], key=lambda x: x.priority)


def record(op: Op, attrs: dict[str, Any], operands: Sequence[Any], result: Any) -> None:
    """Tell every active tape."""
    for tape in state.now.tapes:
        tape.record(op, attrs, operands, result)


def explain_failure(op: Op, operands: Sequence[Any], attrs: dict[str, Any], cause: Exception) -> Exception:
    """The shape rule's error if it has one, else the array library's own, both with the user's line."""
    specs = [x.spec if isinstance(x, Tensor) else x for x in operands]
    try:
        backends.common([x._array for x in operands if type(x) is Tensor])
        op.infer(*specs, **attrs)
    except errors.HybridMLError as better:
        return type(better)(errors.located(f"{op.name}: {better}", errors.user_line()))
    if type(cause).__name__ == "OutOfMemoryError":
        return errors.DeviceMemoryError(
            errors.located(
                f"{op.name}({', '.join(map(str, specs))}): {cause}. Free tensors that are no "
                "longer needed, or use smaller batches; the process can go on",
                errors.user_line(),
            )
        )
    kind = errors.DTypeError if isinstance(cause, (TypeError, OverflowError)) else errors.ShapeError
    if type(cause).__module__.partition(".")[0] in ("cupy", "cupy_backends"):
        kind = errors.DeviceError  # type: ignore[assignment]  # CUDA's own, not one of NumPy's that CuPy raises too
    if isinstance(cause, IndexError):
        kind = errors.IndexOutOfRangeError  # type: ignore[assignment]
    shown = ", ".join(map(str, specs))
    return kind(errors.located(f"{op.name}({shown}): {cause}", errors.user_line()))


door.interpreter.run = run
door.interpreter.lift = lift
door.interpreter.beside = beside
