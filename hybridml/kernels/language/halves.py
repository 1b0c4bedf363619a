"""LLVM code for half precision, which lies in memory as 16 bits and in registers as a float32.

float16 is LLVM's own type, which a processor converts in one instruction; one of the x86 family without F16C gets integer arithmetic, since
LLVM would call a library that may not be there. LLVM's type for bfloat16 is younger than some of the versions that we compile with, and its
bits are the upper half of a float32's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir

from hybridml.kernels import host

_I16, _I32, _F16, _F32 = ir.IntType(16), ir.IntType(32), ir.HalfType(), ir.FloatType()

Emit = Callable[[Any, Any], Any]


class Half(NamedTuple):
    """Bits to a float32; a number of the type to its bits; a float32 to the nearest such number, the even one of two, NaN to NaN."""

    widened: Emit
    narrowed: Emit
    nearest: Emit


def on_cpu(name: str) -> Half:
    """The code of "float16" or "bfloat16" for this processor."""
    if name == "bfloat16":
        return BFLOAT16
    is_x86 = host.host().triple.startswith(("x86", "i686", "i386"))
    return FLOAT16_BY_INTEGERS if is_x86 and not host.features().get("f16c") else FLOAT16


def _widened_float16(b: Any, bits: Any) -> Any:
    return b.fpext(b.bitcast(bits, _F16), _F32)


def _narrowed_float16(b: Any, x: Any) -> Any:
    return b.bitcast(b.fptrunc(x, _F16), _I16)


def _nearest_float16(b: Any, x: Any) -> Any:
    return b.fpext(b.fptrunc(x, _F16), _F32)


FLOAT16 = Half(_widened_float16, _narrowed_float16, _nearest_float16)


def _widened_by_integers(b: Any, bits: Any) -> Any:
    """Exponent and mantissa in their places, as a number that is 2**112 times too small; the largest exponent is that of inf and NaN."""
    word = b.zext(bits, _I32)
    small = b.shl(b.and_(word, _I32(0x7FFF)), _I32(13))
    scaled = b.bitcast(b.fmul(b.bitcast(small, _F32), _F32(2.0**112)), _I32)
    is_last = b.icmp_unsigned(">=", small, _I32(0x1F << 23))
    number = b.select(is_last, b.or_(small, _I32(0xFF << 23)), scaled)
    return b.bitcast(b.or_(number, b.shl(b.and_(word, _I32(0x8000)), _I32(16))), _F32)


def _narrowed_by_integers(b: Any, x: Any) -> Any:
    """Normal numbers by an addition that rounds at bit 13. Small ones by one to 0.5, whose last bit is the smallest subnormal."""
    word = b.bitcast(x, _I32)
    number = b.and_(word, _I32(0x7FFF_FFFF))
    odd = b.and_(b.lshr(number, _I32(13)), _I32(1))
    normal = b.lshr(b.add(b.sub(number, _I32((112 << 23) - 0xFFF)), odd), _I32(13))
    shifted = b.fadd(b.bitcast(number, _F32), _F32(0.5))
    small = b.sub(b.bitcast(shifted, _I32), _I32(126 << 23))
    found = b.select(b.icmp_unsigned("<", number, _I32(113 << 23)), small, normal)
    nan = b.icmp_unsigned(">", number, _I32(0xFF << 23))
    beyond = b.select(nan, _I32(0x7E00), _I32(0x7C00))
    found = b.select(b.icmp_unsigned(">=", number, _I32(143 << 23)), beyond, found)
    return b.trunc(b.or_(found, b.lshr(b.and_(word, _I32(0x8000_0000)), _I32(16))), _I16)


def _nearest_by_integers(b: Any, x: Any) -> Any:
    return _widened_by_integers(b, _narrowed_by_integers(b, x))


FLOAT16_BY_INTEGERS = Half(_widened_by_integers, _narrowed_by_integers, _nearest_by_integers)


def _widened_bfloat16(b: Any, bits: Any) -> Any:
    return b.bitcast(b.shl(b.zext(bits, _I32), _I32(16)), _F32)


def _narrowed_bfloat16(b: Any, x: Any) -> Any:
    return b.trunc(b.lshr(b.bitcast(x, _I32), _I32(16)), _I16)


def _nearest_bfloat16(b: Any, x: Any) -> Any:
    """A half is added, or just less where the number below is even; what is carried over rounds up. NaN becomes a quiet one."""
    word = b.bitcast(x, _I32)
    odd = b.and_(b.lshr(word, _I32(16)), _I32(1))
    rounded = b.add(word, b.add(odd, _I32(0x7FFF)))
    nan = b.or_(word, _I32(0x0040_0000))
    found = b.select(b.fcmp_unordered("uno", x, x), nan, rounded)
    return b.bitcast(b.and_(found, _I32(0xFFFF_0000)), _F32)


BFLOAT16 = Half(_widened_bfloat16, _narrowed_bfloat16, _nearest_bfloat16)
