// mma.sync of doubles: c += a b by all lanes of a warp; m8n8k4 from sm_80 on, m16n8k16 from sm_90 on. Entries are laid
// out as in fragments.cuh. Sums are fused multiply-adds, correctly rounded.
#pragma once

#include "fragments.cuh"

namespace gradhess::cuda::device {

#if defined(GRADHESS_CUDA_EMULATOR)

// The emulator adds the products of one instruction in the order of k. The order in hardware is not documented; it is
// the same in every run.
inline void multiply_add_8x8x4(double (&c)[2], double a, double b) {
    struct Arguments {
        double* c;
        double a, b;
    } arguments{c, a, b};
    cuda_emulator::emulator().collective(arguments, [](const auto& all) {
        for (int lane = 0; lane < kWarp; ++lane)
            for (int i = 0; i < 2; ++i) {
                const Entry at = c_entry_8x8(lane, i);
                for (int k = 0; k < 4; ++k)
                    all[lane]->c[i] = std::fma(all[4 * at.row + k]->a, all[4 * at.column + k]->b, all[lane]->c[i]);
            }
    });
}

inline void multiply_add_16x8x16(double (&c)[4], const double (&a)[8], const double (&b)[4]) {
    struct Arguments {
        double* c;
        const double* a;
        const double* b;
    } arguments{c, a, b};
    cuda_emulator::emulator().require(has_sm_90(), "mma.m16n8k16 of doubles needs sm_90");
    cuda_emulator::emulator().collective(arguments, [](const auto& all) {
        double left[16][16];
        double right[8][16];
        for (int lane = 0; lane < kWarp; ++lane) {
            for (int i = 0; i < 8; ++i) {
                const Entry at = a_entry_16x16_f64(lane, i);
                left[at.row][at.column] = all[lane]->a[i];
            }
            for (int i = 0; i < 4; ++i) {
                const Entry at = b_entry_16x8_f64(lane, i);
                right[at.column][at.row] = all[lane]->b[i];
            }
        }
        for (int lane = 0; lane < kWarp; ++lane)
            for (int i = 0; i < 4; ++i) {
                const Entry at = c_entry_16x8(lane, i);
                for (int k = 0; k < 16; ++k)
                    all[lane]->c[i] = std::fma(left[at.row][k], right[at.column][k], all[lane]->c[i]);
            }
    });
}

#else

GRADHESS_DEVICE void multiply_add_8x8x4(double (&c)[2], double a, double b) {
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+d"(c[0]), "+d"(c[1])
        : "d"(a), "d"(b));
}

GRADHESS_DEVICE void multiply_add_16x8x16(double (&c)[4], const double (&a)[8], const double (&b)[4]) {
#if GRADHESS_ARCH >= 900
    asm("mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5, %6, %7, %8, %9, %10, %11}, "
        "{%12, %13, %14, %15}, {%0, %1, %2, %3};"
        : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
        : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(a[4]), "d"(a[5]), "d"(a[6]), "d"(a[7]), "d"(b[0]), "d"(b[1]),
          "d"(b[2]), "d"(b[3]));
#endif
}

#endif

}  // namespace gradhess::cuda::device
