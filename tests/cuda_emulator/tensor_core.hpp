// The arithmetic of one 16-bit tensor core product, as tests/tensor_core_model.py has it: products are exact; they and
// the accumulator are cut toward zero at one place, two bits below the last of a float32 of the size of the largest of
// them (Hopper); their sum is cut toward zero to a float32.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace cuda_emulator {

constexpr int kExtraBits = 2;

// Exponent of a finite float64 that is not subnormal; far below any other for zero.
inline int exponent_of(double value) {
    std::uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<int>(bits >> 52 & 0x7ff) - 1023;
}

inline double power_of_two(int exponent) {
    const std::uint64_t bits = static_cast<std::uint64_t>(exponent + 1023) << 52;
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// accumulator + sum of a[k] * b[k], count <= 32 terms with products of at most 24 bits.
inline float tensor_core_dot(float accumulator, const float* a, const float* b, int count) {
    double products[32];
    double plain = static_cast<double>(accumulator);
    int largest = std::max(exponent_of(plain), -900);
    for (int k = 0; k < count; ++k) {
        products[k] = static_cast<double>(a[k]) * static_cast<double>(b[k]);
        largest = std::max(largest, exponent_of(products[k]));
        plain += products[k];
    }
    if (!std::isfinite(plain)) return static_cast<float>(plain);
    const double to_integer = power_of_two(23 + kExtraBits - largest);
    auto sum = static_cast<std::int64_t>(static_cast<double>(accumulator) * to_integer);
    for (int k = 0; k < count; ++k) sum += static_cast<std::int64_t>(products[k] * to_integer);
    const std::uint64_t size = sum < 0 ? static_cast<std::uint64_t>(-sum) : static_cast<std::uint64_t>(sum);
    int dropped = 0;
    while (size >> dropped >= 1u << 24) ++dropped;
    const double cut = static_cast<double>(size >> dropped << dropped) / to_integer;
    return static_cast<float>(sum < 0 ? -cut : cut);
}

}  // namespace cuda_emulator
