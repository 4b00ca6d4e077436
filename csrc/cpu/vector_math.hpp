// exp and log1p for arrays, written so that the compiler turns the loops around them into vector code.
//
// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2)/2 by a two-part ln 2, exp(r) by its Taylor polynomial of
// degree 13 (truncation below 5e-18). log1p(t) = 2 atanh(t / (2 + t)) for 0 <= t <= 1 by its odd series in
// s = t / (2 + t) <= 1/3 (truncation below 1e-18). Both stay within 2 ulp; tests measure it.
#pragma once

#include "simd.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

GRADHESS_INLINE double from_bits(std::int64_t bits) {
    double value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

GRADHESS_INLINE std::int64_t to_bits(double value) {
    std::int64_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
}

// Saturates to inf above 709.78 and to 0 below -745.13; NaN passes through.
GRADHESS_INLINE double exp_any(double x) {
    constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: the integer lands in the low bits
    constexpr double kLn2High = 0x1.62e42fefa3800p-1;
    constexpr double kLn2Low = 0x1.ef35793c76730p-45;
    x = x > 720.0 ? 720.0 : x;
    x = x < -760.0 ? -760.0 : x;
    const double shifted = x * 0x1.71547652b82fep+0 + kRound;
    const std::int64_t exponent = to_bits(shifted) - to_bits(kRound);
    const double n = shifted - kRound;
    const double r = (x - n * kLn2High) - n * kLn2Low;
    double sum = 1.0 / 6227020800.0;
    sum = sum * r + 1.0 / 479001600.0;
    sum = sum * r + 1.0 / 39916800.0;
    sum = sum * r + 1.0 / 3628800.0;
    sum = sum * r + 1.0 / 362880.0;
    sum = sum * r + 1.0 / 40320.0;
    sum = sum * r + 1.0 / 5040.0;
    sum = sum * r + 1.0 / 720.0;
    sum = sum * r + 1.0 / 120.0;
    sum = sum * r + 1.0 / 24.0;
    sum = sum * r + 1.0 / 6.0;
    sum = sum * r + 0.5;
    sum = (sum * r) * r + r;
    // Two factors, so that results near the ends of the range overflow or go subnormal as they should. The exponent
    // is halved by a shift of a number made positive, since 64-bit arithmetic shifts are slow before AVX-512.
    const std::int64_t half = ((exponent + 2048) >> 1) - 1024;
    const double first = from_bits((half + 1023) << 52);
    const double second = from_bits((exponent - half + 1023) << 52);
    return ((1.0 + sum) * first) * second;
}

// log(1 + t) for 0 <= t <= 1.
GRADHESS_INLINE double log1p_unit(double t) {
    const double s = t / (2.0 + t);
    const double q = s * s;
    double sum = 1.0 / 35.0;
    for (int k = 33; k >= 3; k -= 2) sum = sum * q + 1.0 / k;
    return 2.0 * s + 2.0 * s * (q * sum);
}

}  // namespace gradhess::cpu::GRADHESS_ISA
