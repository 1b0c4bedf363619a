"""The kernel language for Numba: its functions, operations and operands as Numba knows such things.

Importing this module teaches Numba; `numba_compiler` does.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

from numba.core import types
from numba.core.datamodel import PrimitiveModel, register_default
from numba.core.errors import TypingError
from numba.core.registry import cpu_target
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.core.typing.typeof import typeof_impl
from numba.extending import intrinsic, lower_builtin, register_jitable

from hybridml.kernels import pointer
from hybridml.kernels.language import types as language
from hybridml.kernels.language.functions import Device, Intrinsic, KernelTypeError, context


class Pointer(types.Type):
    """An operand of a kernel."""

    def __init__(self, kind: language.Pointer) -> None:
        self.kind = kind
        self.dtype = to_numba(kind.dtype)
        super().__init__(name=str(kind))


@register_default(Pointer)
class _PointerModel(PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Pointer) -> None:
        super().__init__(dmm, fe_type, fe_type.kind.value)


def to_numba(t: language.Type) -> types.Type:
    """A type of the language as Numba's."""
    if isinstance(t, language.Pointer):
        return Pointer(t)
    if isinstance(t, language.CPointer):
        return types.CPointer(to_numba(t.dtype))
    if isinstance(t, language.IntegerLiteral):
        return types.literal(t.literal_value)
    found: types.Type = getattr(types, "boolean" if t is language.boolean else t.name)
    return found


def from_numba(t: types.Type) -> language.Type:
    """Numba's type as one of the language; one that the language lacks is none of its numbers."""
    if isinstance(t, Pointer):
        return t.kind
    if isinstance(t, types.CPointer):
        return language.CPointer(from_numba(t.dtype))
    if isinstance(t, types.IntegerLiteral):
        return language.IntegerLiteral(t.literal_value)
    if t == types.none:
        return language.none
    return language.NUMBERS.get(t.name) or language.Type(t.name, None)


# -- functions and operations ------------------------------------------------------------------------------

_DEVICE = {
    "error_model": "numpy",
    "forceinline": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


@typeof_impl.register(Device)
def _type_of_device(value: Device, _: Any) -> Any:
    return _global_type(_jitable(value))


@typeof_impl.register(Intrinsic)
def _type_of_intrinsic(value: Intrinsic, _: Any) -> Any:
    return _global_type(_numba_intrinsic(value))


def _global_type(value: Any) -> Any:
    typing = cpu_target.typing_context
    typing.refresh()
    return typing._lookup_global(value)


@functools.cache
def _jitable(value: Device) -> Any:
    from hybridml.kernels.numba_compiler import KernelPipeline

    return register_jitable(pipeline_class=KernelPipeline, **_DEVICE)(value.function)


@functools.cache
def _numba_intrinsic(value: Intrinsic) -> Any:
    @functools.wraps(value.typing)
    def typing(typingctx: Any, *args: types.Type) -> Any:
        given = map(from_numba, args if value.prefer_literal else map(types.unliteral, args))
        try:
            found = value.typing(context, *given)
        except KernelTypeError as error:
            raise TypingError(str(error)) from error
        if found is None:
            return None
        kind, emit = found

        def codegen(numba_context: Any, builder: Any, _: Any, values: Any) -> Any:
            result = emit(context, builder, kind, values)
            return numba_context.get_dummy_value() if kind.return_type is language.none else result

        return to_numba(kind.return_type)(*map(to_numba, kind.args)), codegen

    return intrinsic(prefer_literal=value.prefer_literal)(typing)


# -- p[i] --------------------------------------------------------------------------------------------------


@infer_global(operator.getitem)
class _TypeLoad(AbstractTemplate):
    def generic(self, args: tuple[types.Type, ...], kws: dict[str, Any]) -> Any:
        if len(args) == 2 and isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            return signature(args[0].dtype, args[0], types.int64)
        return None


@infer_global(operator.setitem)
class _TypeStore(AbstractTemplate):
    def generic(self, args: tuple[types.Type, ...], kws: dict[str, Any]) -> Any:
        if len(args) == 3 and isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            try:
                pointer.check_written(args[0].kind)
            except KernelTypeError as error:
                raise TypingError(str(error)) from error
            return signature(types.none, args[0], types.int64, args[0].dtype)
        return None


@lower_builtin(operator.getitem, Pointer, types.Integer)
def _lower_load(numba_context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return pointer.load(builder, sig.args[0].kind, *args)


@lower_builtin(operator.setitem, Pointer, types.Integer, types.Any)
def _lower_store(numba_context: Any, builder: Any, sig: Any, args: Any) -> Any:
    pointer.store(builder, sig.args[0].kind, *args)
    return numba_context.get_dummy_value()
