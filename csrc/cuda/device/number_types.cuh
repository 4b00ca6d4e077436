// float16 and bfloat16 as their bits, with the conversions that kernels need: exact to float32, and to the nearest from
// float32 (ties to even; overflow goes to infinity, as in IEEE 754).
#pragma once

#include "platform.cuh"

#if defined(GRADHESS_CUDA_EMULATOR)
#include <cstring>
#endif

namespace gradhess::cuda::device {

struct Half {
    std::uint16_t bits;
};

struct BFloat16 {
    std::uint16_t bits;
};

#if defined(GRADHESS_CUDA_EMULATOR)

inline std::uint32_t float_bits(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float float_of_bits(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float to_float(BFloat16 value) { return float_of_bits(std::uint32_t{value.bits} << 16); }

inline float to_float(Half value) {
    const std::uint32_t sign = std::uint32_t{value.bits & 0x8000u} << 16;
    const std::uint32_t rest = value.bits & 0x7fffu;
    if (rest >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    if (rest >= 0x400u) return float_of_bits(sign | ((rest << 13) + 0x38000000u));
    const float size = static_cast<float>(rest) * 0x1p-24f;  // subnormal
    return sign ? -size : size;
}

template <class Number>
Number round_to(float value);

template <>
inline BFloat16 round_to<BFloat16>(float value) {
    const std::uint32_t bits = float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>(bits >> 16 | 0x40u)};  // NaN
    return {static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

template <>
inline Half round_to<Half>(float value) {
    const std::uint32_t bits = float_bits(value);
    const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
    const std::uint32_t rest = bits & 0x7fffffffu;
    const auto with_sign = [&](std::uint32_t size) { return Half{static_cast<std::uint16_t>(sign | size)}; };
    if (rest > 0x7f800000u) return with_sign(0x7fffu);
    if (rest >= 0x477ff000u) return with_sign(0x7c00u);  // from 65520 on the nearest is infinity
    if (rest >= 0x38800000u) return with_sign((rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13);
    // Below 2^-14: a multiple of 2^-24, found by letting float32 round at that place.
    const float shifted = float_of_bits(rest) + 0.5f;
    return with_sign(float_bits(shifted) - 0x3f000000u);
}

#else

GRADHESS_DEVICE float to_float(BFloat16 value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }

GRADHESS_DEVICE float to_float(Half value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
}

template <class Number>
GRADHESS_DEVICE Number round_to(float value);

template <>
GRADHESS_DEVICE BFloat16 round_to<BFloat16>(float value) {
    BFloat16 result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
}

template <>
GRADHESS_DEVICE Half round_to<Half>(float value) {
    Half result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
}

#endif

// Arithmetic in float32 that is not contracted, and keeps numbers below 2^-126: CuPy compiles kernels with -ftz=true,
// which makes zeros of them, so for NVRTC the instructions are written out.
#if defined(GRADHESS_CUDA_EMULATOR)
inline float rounded_product(float a, float b) { return a * b; }
inline double rounded_product(double a, double b) { return a * b; }
inline float difference(float a, float b) { return a - b; }
inline double to_double(float value) { return value; }
inline float rounded_to_float(double value) { return static_cast<float>(value); }
#elif defined(__CUDACC_RTC__)
GRADHESS_DEVICE float rounded_product(float a, float b) {
    float result;
    asm("mul.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}
GRADHESS_DEVICE double rounded_product(double a, double b) { return __dmul_rn(a, b); }
GRADHESS_DEVICE float difference(float a, float b) {
    float result;
    asm("sub.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}
GRADHESS_DEVICE double to_double(float value) {
    double result;
    asm("cvt.f64.f32 %0, %1;" : "=d"(result) : "f"(value));
    return result;
}
GRADHESS_DEVICE float rounded_to_float(double value) {
    float result;
    asm("cvt.rn.f32.f64 %0, %1;" : "=f"(result) : "d"(value));
    return result;
}
#else
GRADHESS_DEVICE float rounded_product(float a, float b) { return __fmul_rn(a, b); }
GRADHESS_DEVICE double rounded_product(double a, double b) { return __dmul_rn(a, b); }
GRADHESS_DEVICE float difference(float a, float b) { return a - b; }
GRADHESS_DEVICE double to_double(float value) { return value; }
GRADHESS_DEVICE float rounded_to_float(double value) { return static_cast<float>(value); }
#endif

GRADHESS_DEVICE double difference(double a, double b) { return a - b; }
GRADHESS_DEVICE float to_float(float value) { return value; }
GRADHESS_DEVICE double to_double(double value) { return value; }
GRADHESS_DEVICE double to_double(Half value) { return to_double(to_float(value)); }
GRADHESS_DEVICE double to_double(BFloat16 value) { return to_double(to_float(value)); }

// From float64 to the type in which rows are computed.
template <class T>
GRADHESS_DEVICE T narrowed(double value) {
    if constexpr (sizeof(T) == 8) {
        return value;
    } else {
        return rounded_to_float(value);
    }
}

template <class T, class Source>
GRADHESS_DEVICE T convert(Source value) {
    if constexpr (sizeof(T) == 8) {
        return to_double(value);
    } else {
        return to_float(value);
    }
}

}  // namespace gradhess::cuda::device
