// Floats by plain fused multiply-adds: a thread computes 8 x 8 entries, as 2 x 2 squares of 4 x 4 that lie 64 apart.
//
// Registers: 64 sums of the open slab, 64 of the finished slabs, 8 + 8 operands.
// Banks:     a warp is 4 x 8 threads; its 8 different 16-byte pieces of the right panel lie side by side, its 4 of the
//            left panel too, and equal addresses are one access.
// Rounding:  slabs of 256 rows are summed in float32 and added in float32; the sum of a split, of kMostSplitRows at the
//            most, goes to float64. Weighted rows round w, and w z.
#pragma once

#include "rank_update.cuh"

namespace gradhess::cuda::rank {

struct alignas(16) Float4 {
    float at[4];
};

struct Ffma {
    using Number = float;
    static constexpr int kSlabSteps = 256 / kStageRows;
    static constexpr Index kMostSplitRows = 2048;

    float slab[8][8] = {};
    float sum[8][8] = {};

    static GRADHESS_DEVICE int thread_row() {  // 0..15: warps are 4 x 2, threads of a warp 4 x 8
        return device::warp_number() / 2 * 4 + device::lane_number() / 8;
    }
    static GRADHESS_DEVICE int thread_column() {  // 0..15
        return device::warp_number() % 2 * 8 + device::lane_number() % 8;
    }

    template <bool WEIGHTED>
    GRADHESS_DEVICE void step(const float* left, const float* right, const double* weights) {
        constexpr int pitch = StageLayout<float>::kPitch;
#pragma unroll 4  // not 16: operands of all steps at once would not fit into the registers
        for (int k = 0; k < kStageRows; ++k) {
            const float weight = WEIGHTED ? static_cast<float>(weights[k]) : 1.0f;
            float a[8];
            float b[8];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const auto row = *reinterpret_cast<const Float4*>(left + k * pitch + 64 * half + 4 * thread_row());
                const auto column =
                    *reinterpret_cast<const Float4*>(right + k * pitch + 64 * half + 4 * thread_column());
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    a[4 * half + i] = WEIGHTED ? weight * row.at[i] : row.at[i];
                    b[4 * half + i] = column.at[i];
                }
            }
#pragma unroll
            for (int i = 0; i < 8; ++i) {
#pragma unroll
                for (int j = 0; j < 8; ++j) slab[i][j] += a[i] * b[j];
            }
        }
    }

    GRADHESS_DEVICE void end_slab() {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                sum[i][j] += slab[i][j];
                slab[i][j] = 0.0f;
            }
        }
    }

    template <class Store>
    GRADHESS_DEVICE void each(Store store) const {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
#pragma unroll
            for (int j = 0; j < 8; ++j)
                store(64 * (i / 4) + 4 * thread_row() + i % 4, 64 * (j / 4) + 4 * thread_column() + j % 4,
                      static_cast<double>(sum[i][j]));
        }
    }
};

}  // namespace gradhess::cuda::rank
