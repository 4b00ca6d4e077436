// What every kernel includes: qualifiers, indices, and where shared memory is.
//
// The headers of this folder wrap single instructions. Each has two bodies: PTX, and plain C++ for the emulator in
// tests/cuda_emulator (GRADHESS_CUDA_EMULATOR), which runs the same kernels without a GPU.
#pragma once

#include "../portable.hpp"

#if defined(GRADHESS_CUDA_EMULATOR)
#include "cuda_emulator/emulator.hpp"
#elif !defined(__CUDACC_RTC__)
#include <cuda_runtime.h>
#endif

#define GRADHESS_DEVICE __device__ __forceinline__
#define GRADHESS_HOST_DEVICE_INLINE __host__ __device__ __forceinline__

// The architecture that the code is compiled for, as __CUDA_ARCH__; 0 in nvcc's pass over host code.
#if defined(__CUDA_ARCH__)
#define GRADHESS_ARCH __CUDA_ARCH__
#elif defined(GRADHESS_CUDA_EMULATOR)
#if !defined(GRADHESS_EMULATED_ARCH)
#define GRADHESS_EMULATED_ARCH 900
#endif
#define GRADHESS_ARCH GRADHESS_EMULATED_ARCH
#else
#define GRADHESS_ARCH 0
#endif

namespace gradhess::cuda::device {

constexpr int kWarp = 32;

#if defined(GRADHESS_CUDA_EMULATOR)

// Start of the dynamic shared memory of the block, aligned to 1024 bytes. Kernels use no other shared memory.
inline unsigned char* dynamic_shared() { return cuda_emulator::emulator().block().shared; }

// The 32-bit address of shared memory that PTX instructions and descriptors take, and back.
inline std::uint32_t shared_address(const void* pointer) {
    auto& emulator = cuda_emulator::emulator();
    emulator.require(emulator.block().holds(pointer, 0), "a pointer does not point to shared memory");
    return static_cast<std::uint32_t>(static_cast<const unsigned char*>(pointer) - emulator.block().shared);
}
inline void* shared_pointer(std::uint32_t address) { return cuda_emulator::emulator().block().shared + address; }

#else

GRADHESS_DEVICE unsigned char* dynamic_shared() {
    extern __shared__ __align__(1024) unsigned char gradhess_dynamic_shared[];
    return gradhess_dynamic_shared;
}

GRADHESS_DEVICE std::uint32_t shared_address(const void* pointer) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

#endif

// Whether the instructions of sm_90 are there; the emulator decides it at run time.
#if defined(GRADHESS_CUDA_EMULATOR)
inline bool has_sm_90() { return cuda_emulator::emulator().settings.architecture >= 900; }
#else
GRADHESS_DEVICE constexpr bool has_sm_90() { return GRADHESS_ARCH >= 900; }
#endif

GRADHESS_DEVICE int thread_number() { return static_cast<int>(threadIdx.x); }  // blocks have one dimension
GRADHESS_DEVICE int lane_number() { return static_cast<int>(threadIdx.x) % kWarp; }
GRADHESS_DEVICE int warp_number() { return static_cast<int>(threadIdx.x) / kWarp; }

}  // namespace gradhess::cuda::device
