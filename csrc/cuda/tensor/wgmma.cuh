// wgmma: a warpgroup (128 threads) multiplies two operands in shared memory into registers, asynchronously (sm_90a).
//
// sums (64 x 128, laid out as wgmma_cell says) = left^T right over 16 rows, plus the sums before if `keep`; operands by
// the descriptors of maps.hpp. Before the first wgmma after ordinary code touched the sums: wgmma_fence. The sums may
// be read, and the operands overwritten, after wgmma_commit, wgmma_wait and wgmma_hold.
#pragma once

#include <type_traits>

#include "../device/number_types.cuh"
#include "maps.hpp"

#if defined(GRADHESS_CUDA_EMULATOR)
#include "cuda_emulator/hopper.hpp"
#endif

#if defined(GRADHESS_CUDA_EMULATOR) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define GRADHESS_HAS_WGMMA 1
#else
#define GRADHESS_HAS_WGMMA 0
#endif

namespace gradhess::cuda::tensor {

#if defined(GRADHESS_CUDA_EMULATOR)

inline void wgmma_fence() { cuda_emulator::wgmma_state().fenced = true; }

template <class Number>
inline void wgmma(float (&sums)[64], std::uint64_t left, std::uint64_t right, bool keep) {
    const auto value = [](std::uint64_t descriptor, int column, int row) {
        const auto* at =
            static_cast<const unsigned char*>(device::shared_pointer(0)) + operand_byte(descriptor, column, row);
        Number number;
        std::memcpy(&number.bits, at, sizeof number.bits);
        return device::to_float(number);
    };
    cuda_emulator::wgmma_issue([&sums, left, right, keep, value] {
        float a[2][16];
        const int thread = device::thread_number() % 128;
        for (int half = 0; half < 2; ++half)
            for (int k = 0; k < 16; ++k) a[half][k] = value(left, wgmma_cell(thread, 2 * half).row, k);
        for (int i = 0; i < 64; ++i) {
            float b[16];
            for (int k = 0; k < 16; ++k) b[k] = value(right, wgmma_cell(thread, i).column, k);
            sums[i] = cuda_emulator::tensor_core_dot(keep ? sums[i] : 0.0f, a[i / 2 % 2], b, 16);
        }
    });
}

inline void wgmma_commit() { cuda_emulator::wgmma_commit(); }

template <int PENDING>
inline void wgmma_wait() {
    cuda_emulator::wgmma_wait(PENDING);
}

inline void wgmma_hold(float (&)[64]) {}

template <int REGISTERS>
inline void take_registers() {
    cuda_emulator::wgmma_state() = {};
}
template <int REGISTERS>
inline void give_registers() {}

#elif GRADHESS_HAS_WGMMA

GRADHESS_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// clang-format off
// The sums are constraints 0 to 63, four a line.
#define GRADHESS_FOUR(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3])
#define GRADHESS_SIXTEEN(i) GRADHESS_FOUR(i), GRADHESS_FOUR(i + 4), GRADHESS_FOUR(i + 8), GRADHESS_FOUR(i + 12)
#define GRADHESS_WGMMA(TYPE)                                                       \
    asm volatile(                                                                  \
        "{.reg .pred keep; setp.ne.b32 keep, %66, 0; "                             \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " {"          \
        "%0, %1, %2, %3, %4, %5, %6, %7, "                                         \
        "%8, %9, %10, %11, %12, %13, %14, %15, "                                   \
        "%16, %17, %18, %19, %20, %21, %22, %23, "                                 \
        "%24, %25, %26, %27, %28, %29, %30, %31, "                                 \
        "%32, %33, %34, %35, %36, %37, %38, %39, "                                 \
        "%40, %41, %42, %43, %44, %45, %46, %47, "                                 \
        "%48, %49, %50, %51, %52, %53, %54, %55, "                                 \
        "%56, %57, %58, %59, %60, %61, %62, %63}, "                                \
        "%64, %65, keep, 1, 1, 1, 1;}"                                             \
        : GRADHESS_SIXTEEN(0), GRADHESS_SIXTEEN(16), GRADHESS_SIXTEEN(32), GRADHESS_SIXTEEN(48) \
        : "l"(left), "l"(right), "r"(static_cast<int>(keep)))
// clang-format on

template <class Number>
GRADHESS_DEVICE void wgmma(float (&sums)[64], std::uint64_t left, std::uint64_t right, bool keep) {
    if constexpr (std::is_same_v<Number, device::Half>) {
        GRADHESS_WGMMA("f16");
    } else {
        GRADHESS_WGMMA("bf16");
    }
}

#undef GRADHESS_WGMMA
#undef GRADHESS_SIXTEEN
#undef GRADHESS_FOUR

GRADHESS_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int PENDING>
GRADHESS_DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Nothing is computed from the sums before this that stands after it, or the other way round: the compiler does not
// know that registers change between wgmma and wgmma_wait.
GRADHESS_DEVICE void wgmma_hold(float (&sums)[64]) {
#pragma unroll
    for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

// Moves registers between the warpgroups of a block: all warps of a warpgroup, after a launch with bounds (n, 1).
template <int REGISTERS>
GRADHESS_DEVICE void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
GRADHESS_DEVICE void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

#endif

}  // namespace gradhess::cuda::tensor
