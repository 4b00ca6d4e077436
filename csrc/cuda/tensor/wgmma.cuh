// wgmma: a warpgroup (128 threads) multiplies two operands in shared memory into registers, asynchronously (sm_90a).
//
// sums (64 x 128, laid out as wgmma_cell says) = left^T right over 16 rows, plus the sums before if `keep`; operands by
// the descriptors of maps.hpp. Before the first wgmma after ordinary code touched the sums: wgmma_fence. The sums may
// be read, and the operands overwritten, after wgmma_commit, wgmma_wait and wgmma_hold.
#pragma once

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

template <class Number>
GRADHESS_DEVICE void wgmma(float (&sums)[64], std::uint64_t left, std::uint64_t right, bool keep);

// clang-format off
template <>
GRADHESS_DEVICE void wgmma<device::BFloat16>(float (&sums)[64], std::uint64_t left, std::uint64_t right, bool keep) {
    asm volatile(
        "{.reg .pred keep; setp.ne.b32 keep, %66, 0; "
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, "
        "%40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, "
        "%56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, keep, 1, 1, 1, 1;}"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]), "+f"(sums[6]), "+f"(sums[7]), "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]), "+f"(sums[11]), "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15]), "+f"(sums[16]), "+f"(sums[17]), "+f"(sums[18]), "+f"(sums[19]), "+f"(sums[20]), "+f"(sums[21]), "+f"(sums[22]), "+f"(sums[23]), "+f"(sums[24]), "+f"(sums[25]), "+f"(sums[26]), "+f"(sums[27]), "+f"(sums[28]), "+f"(sums[29]), "+f"(sums[30]), "+f"(sums[31]), "+f"(sums[32]), "+f"(sums[33]), "+f"(sums[34]), "+f"(sums[35]), "+f"(sums[36]), "+f"(sums[37]), "+f"(sums[38]), "+f"(sums[39]), "+f"(sums[40]), "+f"(sums[41]), "+f"(sums[42]), "+f"(sums[43]), "+f"(sums[44]), "+f"(sums[45]), "+f"(sums[46]), "+f"(sums[47]), "+f"(sums[48]), "+f"(sums[49]), "+f"(sums[50]), "+f"(sums[51]), "+f"(sums[52]), "+f"(sums[53]), "+f"(sums[54]), "+f"(sums[55]), "+f"(sums[56]), "+f"(sums[57]), "+f"(sums[58]), "+f"(sums[59]), "+f"(sums[60]), "+f"(sums[61]), "+f"(sums[62]), "+f"(sums[63])
        : "l"(left), "l"(right), "r"(static_cast<int>(keep)));
}

template <>
GRADHESS_DEVICE void wgmma<device::Half>(float (&sums)[64], std::uint64_t left, std::uint64_t right, bool keep) {
    asm volatile(
        "{.reg .pred keep; setp.ne.b32 keep, %66, 0; "
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, "
        "%40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, "
        "%56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, keep, 1, 1, 1, 1;}"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]), "+f"(sums[4]), "+f"(sums[5]), "+f"(sums[6]), "+f"(sums[7]), "+f"(sums[8]), "+f"(sums[9]), "+f"(sums[10]), "+f"(sums[11]), "+f"(sums[12]), "+f"(sums[13]), "+f"(sums[14]), "+f"(sums[15]), "+f"(sums[16]), "+f"(sums[17]), "+f"(sums[18]), "+f"(sums[19]), "+f"(sums[20]), "+f"(sums[21]), "+f"(sums[22]), "+f"(sums[23]), "+f"(sums[24]), "+f"(sums[25]), "+f"(sums[26]), "+f"(sums[27]), "+f"(sums[28]), "+f"(sums[29]), "+f"(sums[30]), "+f"(sums[31]), "+f"(sums[32]), "+f"(sums[33]), "+f"(sums[34]), "+f"(sums[35]), "+f"(sums[36]), "+f"(sums[37]), "+f"(sums[38]), "+f"(sums[39]), "+f"(sums[40]), "+f"(sums[41]), "+f"(sums[42]), "+f"(sums[43]), "+f"(sums[44]), "+f"(sums[45]), "+f"(sums[46]), "+f"(sums[47]), "+f"(sums[48]), "+f"(sums[49]), "+f"(sums[50]), "+f"(sums[51]), "+f"(sums[52]), "+f"(sums[53]), "+f"(sums[54]), "+f"(sums[55]), "+f"(sums[56]), "+f"(sums[57]), "+f"(sums[58]), "+f"(sums[59]), "+f"(sums[60]), "+f"(sums[61]), "+f"(sums[62]), "+f"(sums[63])
        : "l"(left), "l"(right), "r"(static_cast<int>(keep)));
}
// clang-format on

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
