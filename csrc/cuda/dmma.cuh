// Doubles on tensor cores: a warp multiplies 64 x 16 by 16 x 32 of a stage with mma.m16n8k16 (sm_90), or with eight
// m8n8k4 each (sm_80), whose fragments are the same numbers in the same lanes.
//
// Registers: 4 x 4 tiles of 4 doubles: 128 of 32 bits. Operands: 16 doubles of the right, 8 of the left at a time.
// Banks:     lane l reads row l % 4 (+4 i), column l / 4: with a pitch of 132 doubles the 16 lanes of a half warp read
//            words 4 (l % 4) + l / 4 mod 16, all different.
// Rounding:  every product is a fused multiply-add in float64; nothing is promoted.
#pragma once

#include "device/mma_f64.cuh"
#include "rank_update.cuh"

namespace gradhess::cuda::rank {

// c += a b for 16 x 16 by 16 x 8.
GRADHESS_DEVICE void multiply_add_f64(double (&c)[4], const double (&a)[8], const double (&b)[4]) {
    if (device::has_sm_90()) {
        device::multiply_add_16x8x16(c, a, b);
        return;
    }
    double (&upper)[2] = *reinterpret_cast<double (*)[2]>(&c[0]);
    double (&lower)[2] = *reinterpret_cast<double (*)[2]>(&c[2]);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        device::multiply_add_8x8x4(upper, a[2 * k], b[k]);
        device::multiply_add_8x8x4(lower, a[2 * k + 1], b[k]);
    }
}

struct Dmma {
    using Number = double;
    static constexpr int kSlabSteps = 1 << 30;
    static constexpr int kRowTiles = kWarpRows / 16;
    static constexpr int kColumnTiles = kWarpColumns / 8;

    double sum[kRowTiles][kColumnTiles][4] = {};

    static GRADHESS_DEVICE int warp_row() { return device::warp_number() / (kTile / kWarpColumns) * kWarpRows; }
    static GRADHESS_DEVICE int warp_column() { return device::warp_number() % (kTile / kWarpColumns) * kWarpColumns; }

    template <bool WEIGHTED>
    GRADHESS_DEVICE void step(const double* left, const double* right, const double* weights) {
        constexpr int pitch = StageLayout<double>::kPitch;
        add_products<false>(
            [&](int row, int column) {
                const double z = left[row * pitch + column];
                return WEIGHTED ? z * weights[row] : z;
            },
            [&](int row, int column) { return right[row * pitch + column]; });
    }

    // `left(k, i)` and `right(k, j)` are numbers of a stage. With CUT only the first `rows` x `columns` entries of the
    // tile are wanted: fragments beyond them are left out, which is the same decision for all lanes of a warp.
    template <bool CUT, class Left, class Right>
    GRADHESS_DEVICE void add_products(const Left& left, const Right& right, int rows = kTile, int columns = kTile) {
        const int lane = device::lane_number();
        double b[kColumnTiles][4];
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
            if (CUT && warp_column() + 8 * n >= columns) continue;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const device::Entry at = device::b_entry_16x8_f64(lane, i);
                b[n][i] = right(at.row, warp_column() + 8 * n + at.column);
            }
        }
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
            if (CUT && warp_row() + 16 * m >= rows) continue;
            double a[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const device::Entry at = device::a_entry_16x16_f64(lane, i);
                a[i] = left(at.column, warp_row() + 16 * m + at.row);
            }
#pragma unroll
            for (int n = 0; n < kColumnTiles; ++n) {
                if (CUT && warp_column() + 8 * n >= columns) continue;
                multiply_add_f64(sum[m][n], a, b[n]);
            }
        }
    }

    GRADHESS_DEVICE void end_slab() {}

    template <class Store>
    GRADHESS_DEVICE void each(Store store) const {
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
            for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const device::Entry at = device::c_entry_16x8(device::lane_number(), i);
                    store(warp_row() + 16 * m + at.row, warp_column() + 8 * n + at.column, sum[m][n][i]);
                }
            }
        }
    }
};

}  // namespace gradhess::cuda::rank
