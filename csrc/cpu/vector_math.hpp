// exp and log1p of vectors of float64, and of single ones in loops that the compiler turns into vector code.
//
// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2)/2 by a two-part ln 2, exp(r) = 1 + r + r^2 P(r).
// log1p(t) = 2 atanh(s), s = t / (2 + t) <= 1/3 for 0 <= t <= 1, atanh(s) = s + s q Q(q) with q = s^2.
// P and Q are Chebyshev fits (mpmath.chebyfit; 11 terms on |r| <= 0.347, 10 on 0 <= q <= 1/9) with relative errors of
// exp and log1p below 1e-17. Both stay within 2 ulp, log1p of the s it is given; tests measure it.
// V is Doubles or double: each lane has the bits that it has alone.
#pragma once

#include "simd.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

template <class V>
struct BitsOf;
template <>
struct BitsOf<double> {
    typedef std::uint64_t Bits;
};
template <>
struct BitsOf<Doubles> {
    typedef std::uint64_t Bits __attribute__((vector_size(GRADHESS_VECTOR_BYTES)));
};

template <class V>
using Bits = typename BitsOf<V>::Bits;

template <class V>
GRADHESS_INLINE V from_bits(Bits<V> bits) {
    V value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

template <class V>
GRADHESS_INLINE Bits<V> to_bits(V value) {
    Bits<V> bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
}

// Of which every lane is `value`.
template <class V>
GRADHESS_INLINE V every(double value) {
    return value - V{};
}

// sum_k c[k] x^k: even and odd powers in chains of their own, which do not wait for each other.
template <class V, int TERMS>
GRADHESS_INLINE V polynomial(const double (&c)[TERMS], V x) {
    const V square = x * x;
    V last = every<V>(c[TERMS - 1]);
    V other = every<V>(c[TERMS - 2]);
#pragma GCC unroll 16
    for (int k = TERMS - 3; k >= 0; k -= 2) {
        last = last * square + c[k];
        if (k > 0) other = other * square + c[k - 1];
    }
    return TERMS % 2 ? other * x + last : last * x + other;
}

// Saturates to inf above 709.78 and to 0 below -745.13; NaN passes through.
template <class V>
GRADHESS_INLINE V exp_any(V x) {
    constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: the integer lands in the low bits
    constexpr double kLn2High = 0x1.62e42fefa3800p-1;
    constexpr double kLn2Low = 0x1.ef35793c76730p-45;
    constexpr double kTail[] = {0x1.0000000000000p-1,  0x1.5555555555557p-3,  0x1.5555555555556p-5,
                                0x1.11111111100bep-7,  0x1.6c16c16c162c3p-10, 0x1.a01a01abf85abp-13,
                                0x1.a01a01a6e1e2ap-16, 0x1.71de01fdbf9cap-19, 0x1.27e4db46cddd1p-22,
                                0x1.af4e554377204p-26, 0x1.1f7340dbc337ep-29};
    x = x > 720.0 ? every<V>(720.0) : x;
    x = x < -760.0 ? every<V>(-760.0) : x;
    const V shifted = x * 0x1.71547652b82fep+0 + kRound;
    const V n = shifted - kRound;
    const V r = (x - n * kLn2High) - n * kLn2Low;
    const V sum = (polynomial(kTail, r) * r) * r + r;
    // Two factors, so that results near the ends of the range overflow or go subnormal as they should. The exponent
    // is halved by a shift of a number made positive, since 64-bit arithmetic shifts are slow before AVX-512.
    const Bits<V> exponent = to_bits(shifted) - to_bits(every<V>(kRound));
    const Bits<V> half = ((exponent + 2048) >> 1) - 1024;
    const V first = from_bits<V>((half + 1023) << 52);
    const V second = from_bits<V>((exponent - half + 1023) << 52);
    return ((1.0 + sum) * first) * second;
}

// log(1 + t) for 0 <= t <= 1, from s = t / (2 + t).
template <class V>
GRADHESS_INLINE V log1p_unit(V s) {
    constexpr double kTail[] = {0x1.5555555555555p-2, 0x1.999999999a3ddp-3, 0x1.24924923d44c6p-3, 0x1.c71c727143318p-4,
                                0x1.745cf0b0e03bdp-4, 0x1.3b18b294bebf9p-4, 0x1.10ac75dc602b1p-4, 0x1.eb905e8575054p-5,
                                0x1.687a6e7c95176p-5, 0x1.4b0a26c5f2aefp-4};
    const V q = s * s;
    const V twice = 2.0 * s;
    return twice * (q * polynomial(kTail, q)) + twice;
}

// log(x) for x >= 1, by x = 2^n (1 + t); NaN passes through.
template <class V>
GRADHESS_INLINE V log_from_one(V x) {
    constexpr std::uint64_t kMantissa = (std::uint64_t{1} << 52) - 1;
    constexpr double kLarge = 4503599627370496.0;  // 2^52: below it an integer lies in the low bits
    const Bits<V> bits = to_bits(x);
    const V n = from_bits<V>((bits >> 52) | to_bits(every<V>(kLarge))) - (kLarge + 1023.0);
    const V t = from_bits<V>((bits & kMantissa) | to_bits(every<V>(1.0))) - 1.0;
    return (n * 0x1.62e42fefa39efp-1 + log1p_unit(t / (2.0 + t))) + (x - x);
}

}  // namespace gradhess::cpu::GRADHESS_ISA
