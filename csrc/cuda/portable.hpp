// What headers need that three compilers read: that of the host, nvcc, and NVRTC, which compiles kernels while the
// program runs and has no standard headers.
#pragma once

#if defined(__CUDACC_RTC__)
namespace std {
using int32_t = int;
using int64_t = long long;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long long;
using uintptr_t = unsigned long long;
}  // namespace std
#else
#include <cmath>
#include <cstddef>
#include <cstdint>
#endif

#if defined(__CUDACC__)
#define GRADHESS_HOST_DEVICE __host__ __device__
#else
#define GRADHESS_HOST_DEVICE
#endif
