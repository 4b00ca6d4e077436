// mma.sync m16n8k16 of bfloat16 or float16 operands into float32 (sm_80): c += a b, by all lanes of a warp.
// Registers hold two 16-bit entries each, laid out as in fragments.cuh.
#pragma once

#include "fragments.cuh"
#include "number_types.cuh"

#if defined(GRADHESS_CUDA_EMULATOR)
#include "cuda_emulator/tensor_core.hpp"
#endif

namespace gradhess::cuda::device {

#if defined(GRADHESS_CUDA_EMULATOR)

template <class Number>
inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    struct Arguments {
        float* c;
        const std::uint32_t* a;
        const std::uint32_t* b;
    } arguments{c, a, b};
    cuda_emulator::emulator().collective(arguments, [](const auto& all) {
        float left[16][16];
        float right[8][16];
        const auto value = [](const std::uint32_t* registers, int i) {
            return to_float(Number{static_cast<std::uint16_t>(registers[i / 2] >> 16 * (i % 2))});
        };
        for (int lane = 0; lane < kWarp; ++lane) {
            for (int i = 0; i < 8; ++i) {
                const Entry at = a_entry_16x16(lane, i);
                left[at.row][at.column] = value(all[lane]->a, i);
            }
            for (int i = 0; i < 4; ++i) {
                const Entry at = b_entry_16x8(lane, i);
                right[at.column][at.row] = value(all[lane]->b, i);
            }
        }
        for (int lane = 0; lane < kWarp; ++lane)
            for (int i = 0; i < 4; ++i) {
                const Entry at = c_entry_16x8(lane, i);
                float& sum = all[lane]->c[i];
                sum = cuda_emulator::tensor_core_dot(sum, left[at.row], right[at.column], 16);
            }
    });
}

#else

template <class Number>
GRADHESS_DEVICE void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);

template <>
GRADHESS_DEVICE void multiply_add<BFloat16>(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
GRADHESS_DEVICE void multiply_add<Half>(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

}  // namespace gradhess::cuda::device
