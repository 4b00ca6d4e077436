"""exp and log1p that the compiler can turn into vector code, which it cannot do with calls of the C library.

The formulas of csrc/cpu/vector_math.hpp: exp(x) = 2^n exp(r) with n = round(x / ln 2), |r| <= ln(2) / 2 by a two-part
ln 2, and exp(r) by its Taylor polynomial of degree 13 (truncation below 5e-18); log1p(t) = 2 atanh(t / (2 + t)) for
0 <= t <= 1 by its odd series (truncation below 1e-18). Both stay within 2 ulp; tests measure it. The polynomials are
written out, since a loop over their terms would keep the loop over numbers from becoming vector code.
"""

from __future__ import annotations

from typing import Final

from numba import njit

from gradhess._backends.numba.intrinsics import bits_of, from_bits

_inline = njit(forceinline=True, error_model="numpy", fastmath={"contract"})

_ROUND: Final = (
    6755399441055744.0  # 1.5 * 2^52: added to it, the integer part of a number lands in the low bits
)
_ROUND_BITS: Final = 0x4338000000000000
_LOG2_E: Final = float.fromhex("0x1.71547652b82fep+0")
_LN2_HIGH: Final = float.fromhex("0x1.62e42fefa3800p-1")
_LN2_LOW: Final = float.fromhex("0x1.ef35793c76730p-45")


@_inline
def exp(x: float) -> float:
    """Infinite above 709.78, 0 below -745.13; NaN passes through."""
    x = 720.0 if x > 720.0 else x
    x = -760.0 if x < -760.0 else x
    shifted = x * _LOG2_E + _ROUND
    exponent = bits_of(shifted) - _ROUND_BITS
    n = shifted - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    total = 1.0 / 6227020800.0
    total = total * r + 1.0 / 479001600.0
    total = total * r + 1.0 / 39916800.0
    total = total * r + 1.0 / 3628800.0
    total = total * r + 1.0 / 362880.0
    total = total * r + 1.0 / 40320.0
    total = total * r + 1.0 / 5040.0
    total = total * r + 1.0 / 720.0
    total = total * r + 1.0 / 120.0
    total = total * r + 1.0 / 24.0
    total = total * r + 1.0 / 6.0
    total = total * r + 1.0 / 2.0
    total = (total * r) * r + r
    # Two factors, so that results near the ends of the range overflow or go subnormal as they should.
    half = ((exponent + 2048) >> 1) - 1024
    power: float = ((1.0 + total) * from_bits((half + 1023) << 52)) * from_bits(
        (exponent - half + 1023) << 52
    )
    return power


@_inline
def log1p_of_unit(t: float) -> float:
    """log(1 + t) for 0 <= t <= 1."""
    s = t / (2.0 + t)
    q = s * s
    total = 1.0 / 35.0
    total = total * q + 1.0 / 33.0
    total = total * q + 1.0 / 31.0
    total = total * q + 1.0 / 29.0
    total = total * q + 1.0 / 27.0
    total = total * q + 1.0 / 25.0
    total = total * q + 1.0 / 23.0
    total = total * q + 1.0 / 21.0
    total = total * q + 1.0 / 19.0
    total = total * q + 1.0 / 17.0
    total = total * q + 1.0 / 15.0
    total = total * q + 1.0 / 13.0
    total = total * q + 1.0 / 11.0
    total = total * q + 1.0 / 9.0
    total = total * q + 1.0 / 7.0
    total = total * q + 1.0 / 5.0
    total = total * q + 1.0 / 3.0
    return 2.0 * s + 2.0 * s * (q * total)
