// The arithmetic of one 16-bit tensor core product: products are exact, sums of `count` terms and the accumulator are
// formed at once, and the result is truncated to float32.
#pragma once

#include <cmath>

namespace cuda_emulator {

inline float tensor_core_dot(float accumulator, const float* a, const float* b, int count) {
    double sum = static_cast<double>(accumulator);
    for (int k = 0; k < count; ++k) sum += static_cast<double>(a[k]) * static_cast<double>(b[k]);
    const float nearest = static_cast<float>(sum);
    return std::fabs(static_cast<double>(nearest)) > std::fabs(sum) && std::isfinite(nearest)
               ? std::nextafter(nearest, 0.0f)
               : nearest;
}

}  // namespace cuda_emulator
