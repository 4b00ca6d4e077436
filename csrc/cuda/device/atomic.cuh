// The one atomic operation in use: the least row number. Integers only; sums of floats never go through atomics.
#pragma once

#include "platform.cuh"

namespace gradhess::cuda::device {

#if defined(GRADHESS_CUDA_EMULATOR)

inline void lower_to(std::int64_t* least, std::int64_t value) {
    if (value < *least) *least = value;
}

#else

GRADHESS_DEVICE void lower_to(std::int64_t* least, std::int64_t value) {
    atomicMin(reinterpret_cast<long long*>(least), static_cast<long long>(value));
}

#endif

}  // namespace gradhess::cuda::device
