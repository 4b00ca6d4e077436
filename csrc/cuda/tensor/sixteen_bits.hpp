// bfloat16 and float16 as bits: conversions that round to nearest even, the same on host and device, and the split of
// a number into planes (see ../planes.hpp).
#pragma once

#include <cstdint>
#include <cstring>

#include "../planes.hpp"

namespace gradhess::cuda::tensor {

GRADHESS_HOST_DEVICE inline std::uint32_t bits_of(float value) {
#if defined(__CUDA_ARCH__)
    return __float_as_uint(value);
#else
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

GRADHESS_HOST_DEVICE inline float float_of(std::uint32_t bits) {
#if defined(__CUDA_ARCH__)
    return __uint_as_float(bits);
#else
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

GRADHESS_HOST_DEVICE inline float from_bfloat16(std::uint16_t bits) {
    return float_of(static_cast<std::uint32_t>(bits) << 16);
}

GRADHESS_HOST_DEVICE inline std::uint16_t to_bfloat16(float value) {
#if defined(__CUDA_ARCH__)
    std::uint16_t result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result) : "f"(value));
    return result;
#else
    const std::uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // as the device writes any NaN
    return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#endif
}

GRADHESS_HOST_DEVICE inline float from_float16(std::uint16_t bits) {
#if defined(__CUDA_ARCH__)
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(bits));
    return result;
#else
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    const std::uint32_t magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return float_of(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
    if (magnitude >= 0x400u) return float_of(sign | ((magnitude << 13) + 0x38000000u));
    const float subnormal = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // 2^-24, exact
    return float_of(sign | bits_of(subnormal));
#endif
}

GRADHESS_HOST_DEVICE inline std::uint16_t to_float16(float value) {
#if defined(__CUDA_ARCH__)
    std::uint16_t result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(value));
    return result;
#else
    const std::uint32_t bits = bits_of(value);
    const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fff;
    if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // 65520 and above round up
    if (magnitude < 0x38800000u) {                         // below 2^-14: a multiple of 2^-24, rounded by an addition
        const float shifted = float_of(magnitude) + 0.5f;  // the last bit of a float32 in [1/2, 1) is 2^-24
        return static_cast<std::uint16_t>(sign | (bits_of(shifted) - 0x3f000000u));
    }
    const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
#endif
}

template <bool kHalf>
GRADHESS_HOST_DEVICE inline std::uint16_t narrow(float value) {
    return kHalf ? to_float16(value) : to_bfloat16(value);
}

template <bool kHalf>
GRADHESS_HOST_DEVICE inline float widen(std::uint16_t bits) {
    return kHalf ? from_float16(bits) : from_bfloat16(bits);
}

// Writes `value` as kCount planes, the largest first. Differences are exact in float32: a plane has the leading bits
// of what it is subtracted from. float64 values must have been rounded to float32 by the caller.
// False where the value cannot be written: infinite, NaN, or beyond the range of the type.
template <bool kHalf, int kCount>
GRADHESS_HOST_DEVICE inline bool split(float value, std::uint16_t (&planes)[kCount]) {
    constexpr float largest = kHalf ? 65504.0f : 3.3895313892515355e38f;
    const bool fits = value <= largest && value >= -largest;
#pragma unroll
    for (int plane = 0; plane < kCount; ++plane) {
        planes[plane] = narrow<kHalf>(value);
        value -= widen<kHalf>(planes[plane]);
    }
    return fits;
}

}  // namespace gradhess::cuda::tensor
