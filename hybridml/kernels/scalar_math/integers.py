"""Integer functions, one per dtype from one text: NumPy's results, wrap-around included, and never a trap."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import device, i8, i16, i32, i64, u8, u16, u32, u64


def signed_functions(cast):
    """abs, sign, floor_divide, remainder for a signed type."""
    zero = cast(0)
    one = cast(1)
    minus_one = cast(-1)

    @device
    def absolute(x):
        return cast(-x) if x < zero else x

    @device
    def sign(x):
        positive = one if x > zero else zero
        return minus_one if x < zero else positive

    @device
    def floor_divide(x, y):
        """floor(x / y); 0 where y is 0, and the smallest integer divided by -1 is itself."""
        ordinary = (y != zero) & (y != minus_one)
        d = y if ordinary else one
        q = cast(x // d)
        q = q if ordinary else cast(-x)
        return zero if y == zero else q

    @device
    def remainder(x, y):
        """x - floor(x / y) * y, with the sign of y; 0 where y is 0."""
        ordinary = (y != zero) & (y != minus_one)
        d = y if ordinary else one
        return cast(x % d)

    return absolute, sign, floor_divide, remainder


def unsigned_functions(cast):
    """abs, sign, floor_divide, remainder for an unsigned type."""
    zero = cast(0)
    one = cast(1)

    @device
    def absolute(x):
        return x

    @device
    def sign(x):
        return one if x > zero else zero

    @device
    def floor_divide(x, y):
        """x // y; 0 where y is 0."""
        d = y if y != zero else one
        q = cast(x // d)
        return q if y != zero else zero

    @device
    def remainder(x, y):
        """x % y; 0 where y is 0."""
        d = y if y != zero else one
        return cast(x % d)

    return absolute, sign, floor_divide, remainder


def integer_functions(cast, last, wrap):
    """maximum, minimum, pow for any integer type; `last` is -1, or 1 in an unsigned type; `wrap` is a type that may overflow."""
    zero = cast(0)
    one = cast(1)
    minus_one = cast(last)

    @device
    def maximum(x, y):
        return x if x >= y else y

    @device
    def minimum(x, y):
        return x if x <= y else y

    @device
    def power(x, y):
        """x ** y modulo 2**bits; a negative exponent gives the quotient cut to an integer: 0, 1 or -1.

        The loop ends after as many rounds as the exponent has bits, so it is no vector code.
        """
        result = one
        base = x
        left = y
        while left > zero:
            if left & one:
                result = cast(wrap(result) * wrap(base))
            base = cast(wrap(base) * wrap(base))
            left = cast(left >> one)
        odd = (y & one) != zero
        unit = minus_one if odd else one
        inverse = unit if x == minus_one else zero
        inverse = one if x == one else inverse
        return inverse if y < zero else result

    return maximum, minimum, power


@device
def m_maximum_b1(x, y):
    return x | y


@device
def m_minimum_b1(x, y):
    return x & y


m_abs_i8, m_sign_i8, m_floor_divide_i8, m_remainder_i8 = signed_functions(i8)
m_abs_i16, m_sign_i16, m_floor_divide_i16, m_remainder_i16 = signed_functions(i16)
m_abs_i32, m_sign_i32, m_floor_divide_i32, m_remainder_i32 = signed_functions(i32)
m_abs_i64, m_sign_i64, m_floor_divide_i64, m_remainder_i64 = signed_functions(i64)
m_abs_u8, m_sign_u8, m_floor_divide_u8, m_remainder_u8 = unsigned_functions(u8)
m_abs_u16, m_sign_u16, m_floor_divide_u16, m_remainder_u16 = unsigned_functions(u16)
m_abs_u32, m_sign_u32, m_floor_divide_u32, m_remainder_u32 = unsigned_functions(u32)
m_abs_u64, m_sign_u64, m_floor_divide_u64, m_remainder_u64 = unsigned_functions(u64)
m_maximum_i8, m_minimum_i8, m_pow_i8 = integer_functions(i8, -1, i8)
m_maximum_i16, m_minimum_i16, m_pow_i16 = integer_functions(i16, -1, i16)
m_maximum_i32, m_minimum_i32, m_pow_i32 = integer_functions(i32, -1, i32)
m_maximum_i64, m_minimum_i64, m_pow_i64 = integer_functions(i64, -1, u64)
m_maximum_u8, m_minimum_u8, m_pow_u8 = integer_functions(u8, 1, u8)
m_maximum_u16, m_minimum_u16, m_pow_u16 = integer_functions(u16, 1, u16)
m_maximum_u32, m_minimum_u32, m_pow_u32 = integer_functions(u32, 1, u32)
m_maximum_u64, m_minimum_u64, m_pow_u64 = integer_functions(u64, 1, u64)
