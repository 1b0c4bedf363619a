"""print and py_function: Python that runs at each call of a traced function, in the order it was written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hybridml import backends, dtypes, pytree
from hybridml.eager.dispatch import lift, run
from hybridml.eager.state import init_scope, state
from hybridml.eager.tape import GradientTape
from hybridml.eager.tensor import Tensor, wrap
from hybridml.eager.variable import Variable
from hybridml.errors import DTypeError, ShapeError, TraceError
from hybridml.ops.registry import Kind, Op, Promote, register
from hybridml.ops.spec import TensorSpec


def perform(op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> Any:
    """Run an effect now, or write it into the open trace, even where none of its operands belongs to the trace."""
    if state.now.traces and not any(x.priority for x in operands):
        return state.now.traces[-1].append(op, list(operands), attrs)
    return run(op, tuple(operands), attrs)


# print


def _eager_print(xp: Any, *arrays: Any, text: _Text) -> tuple[()]:
    sys.stdout.write(text.filled(arrays))
    return ()


class _Text:
    """What is printed: words that are known, and nests whose tensors come at each call."""

    def __init__(self, parts: Sequence[Any], sep: str, end: str) -> None:
        self.sep, self.end = sep, end
        self.parts: list[tuple[pytree.Structure, list[Any]] | str] = []  # a leaf of None is the next tensor
        self.tensors: list[Any] = []
        for part in parts:
            leaves, structure = pytree.flatten(part)
            if not any(isinstance(x, (Tensor, Variable)) for x in leaves):
                self.parts.append(str(part))
                continue
            self.tensors += [lift(x) for x in leaves if isinstance(x, (Tensor, Variable))]
            self.parts.append((structure, [None if isinstance(x, (Tensor, Variable)) else x for x in leaves]))

    def filled(self, arrays: Sequence[np.ndarray]) -> str:
        values = iter(arrays)
        words = []
        for part in self.parts:
            if isinstance(part, str):
                words.append(part)
                continue
            structure, leaves = part
            words.append(
                str(pytree.unflatten(structure, [_Shown(next(values)) if x is None else x for x in leaves]))
            )
        return self.sep.join(words) + self.end


class _Shown:
    """An array whose text is its elements, inside lists and dicts too."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __repr__(self) -> str:
        array = (
            np.asarray(self.array)
            if isinstance(self.array, np.generic)
            else backends.of(self.array).get(self.array)
        )
        return np.array2string(array, separator=" ") if array.ndim else str(array.item())


PRINT = register(Op(
    "print", Kind.EFFECT, infer=lambda *specs, text: (), eager=_eager_print, promote=Promote.NO,
))  # fmt: skip


def print(*values: Any, sep: str = " ", end: str = "\n") -> None:
    """Print at each call of a traced function, where Python's `print` prints once a trace; eagerly, at once.

    Values are tensors, variables, nests of them, and anything with a `str`, which is taken while tracing. What is printed goes to
    `sys.stdout` in the order of the program, a variable as it is at that point.

    >>> import hybridml as hml
    >>> @hml.function
    ... def f(x):
    ...     hml.print("x is", x)
    ...     return x * 2
    >>> y = f(hml.asarray([1., 2.]))
    x is [1. 2.]
    """
    text = _Text(values, sep, end)
    perform(PRINT, text.tensors, {"text": text})


# py_function


class _PythonCall:
    """A Python function over tensors, and what its result must be."""

    def __init__(
        self,
        f: Callable[..., Any],
        leaves: list[Any],
        structure: pytree.Structure,
        specs: Sequence[TensorSpec],
    ) -> None:
        self.f, self.leaves, self.structure = f, leaves, structure  # a leaf of None is the next tensor
        self.specs = tuple(specs)

    def __repr__(self) -> str:
        return getattr(self.f, "__name__", type(self.f).__name__)

    def __call__(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run it now; raises TraceError, ShapeError or DTypeError where the result is not what was promised."""
        given = iter(tensors)
        args = pytree.unflatten(self.structure, [next(given) if x is None else x for x in self.leaves])
        name = repr(self)
        found = [_result(x, s) for x, s in zip(*self._matched(self.f(*args), name), strict=True)]
        for i, (x, s) in enumerate(zip(found, self.specs, strict=True)):
            if x.shape != s.shape:
                raise ShapeError(f"py_function: result {i} of {name} was promised as {s} and is {x.spec}")
            if x.dtype != s.dtype:
                raise DTypeError(
                    f"py_function: result {i} of {name} was promised as {s} and is {x.spec}; cast it in {name}"
                )
        return tuple(found)

    def _matched(self, out: Any, name: str) -> tuple[list[Any], tuple[TensorSpec, ...]]:
        leaves = pytree.leaves(out)
        if len(leaves) != len(self.specs):
            raise TraceError(
                f"py_function: {name} was promised to return {len(self.specs)} tensors {list(self.specs)}, got {len(leaves)}"
            )
        return leaves, self.specs


def _result(x: Any, s: TensorSpec) -> Tensor:
    return (
        lift(x)
        if isinstance(x, (Tensor, Variable)) or hasattr(x, "__array__")
        else lift(np.asarray(x, s.dtype))
    )


def _eager_python(xp: Any, *arrays: Any, call: _PythonCall) -> tuple[Any, ...]:
    with init_scope():  # an operand may lie in memory that is soon used for something else
        return tuple([t._array for t in call([wrap(xp.array(a)) for a in arrays])])


def _python_pullback(attrs: dict[str, Any], operands: list[Any], results: tuple[Any, ...]) -> Any:
    call: _PythonCall = attrs["call"]
    floats = [k for k, r in enumerate(results) if dtypes.is_float(r.dtype)]

    def pull(grads: list[Any], wanted: list[bool]) -> list[Any]:
        asked = [
            i for i, (x, w) in enumerate(zip(operands, wanted, strict=True)) if w and dtypes.is_float(x.dtype)
        ]
        seeded = [k for k in floats if grads[k] is not None]

        def backward(*tensors: Tensor) -> list[Any]:
            inputs, seeds = list(tensors[: len(operands)]), list(tensors[len(operands) :])
            with GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([inputs[i] for i in asked])
                outputs = call(inputs)
            return tape.gradient(
                [outputs[k] for k in seeded],
                [inputs[i] for i in asked],
                output_gradients=seeds,
                unconnected_gradients="zero",
            )

        backward.__name__ = f"the gradient of {getattr(call.f, '__name__', 'a function')}"
        taken = [*operands, *[grads[k] for k in seeded]]
        leaves, structure = pytree.flatten(tuple(taken))
        again = _PythonCall(backward, [None] * len(leaves), structure, [operands[i].spec for i in asked])
        found: list[Any] = [None] * len(operands)
        for i, g in zip(asked, perform(PY_FUNCTION, taken, {"call": again}), strict=True):
            found[i] = g
        return found

    return pull


PY_FUNCTION = register(Op(
    "py_function", Kind.EFFECT, infer=lambda *specs, call: call.specs, eager=_eager_python, promote=Promote.NO,
    pullback=_python_pullback,
))  # fmt: skip


def py_function(f: Callable[..., Any], args: Any, spec: Any) -> Any:
    """`f(*args)` in Python, at each call of a traced function, with eager tensors; eagerly, at once.

    args: a list or tuple of tensors, nests of them, or anything else, which is handed on as it is. spec: a TensorSpec, or a nest of
    them, that says what `f` returns; the result has its structure. Runs in program order with other effects. Differentiable with
    respect to tensors among the arguments if `f` is made of hybridml operations: the gradient runs `f` again under a tape. Variables
    should be passed as arguments: those that `f` reads by itself are as the last call left them.

    Raises ShapeError, DTypeError or TraceError where `f` returns something else than `spec`.

    >>> import hybridml as hml
    >>> @hml.function
    ... def f(x):
    ...     return hml.py_function(lambda a: a.numpy().round(1), [x], hml.TensorSpec((2,), hml.float32)) * 2
    >>> f(hml.asarray([1.26, 2.0])).tolist()
    [2.5999999046325684, 4.0]
    """
    specs, form = pytree.flatten(spec)
    leaves, structure = pytree.flatten(tuple(args))
    tensors = [lift(x) for x in leaves if isinstance(x, (Tensor, Variable))]
    call = _PythonCall(
        f, [None if isinstance(x, (Tensor, Variable)) else x for x in leaves], structure, specs
    )
    if state.now.traces or any(x.priority for x in tensors):
        return pytree.unflatten(form, perform(PY_FUNCTION, tensors, {"call": call}))
    return pytree.unflatten(form, call(tensors))
