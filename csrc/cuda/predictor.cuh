// eta_i = coef . x_i + intercept in float64, the same bits in every kernel, so that a row that waits is the row that is
// computed at once.
//
// Order:    entry j joins partial sum j % 32 by a fused multiply-add; partial sums join in pairs at distance 16, 8, 4,
//           2, 1; then the intercept. LANES neighbouring lanes, 8 or 32, take a row: each holds 32 / LANES partial
//           sums.
#pragma once

#include "block.hpp"
#include "device/number_types.cuh"
#include "device/warp.cuh"

namespace gradhess::cuda {

// `entry(row, j)` is entry j of row `row` of ROWS, which share the coefficients that are read. All lanes take part;
// those of a row that does not exist (`inside` false) read nothing.
template <int LANES, int ROWS, class Entry>
GRADHESS_DEVICE void predict_rows(const Block& block, bool inside, const Entry& entry, double (&eta)[ROWS]) {
    constexpr int each = device::kWarp / LANES;
    double sums[ROWS][each] = {};
    const Index d = inside ? block.features : 0;
    const int lane = device::lane_number() % LANES;
    for (Index first = lane; first < d; first += device::kWarp) {
#pragma unroll
        for (int part = 0; part < each; ++part) {
            const Index j = first + part * LANES;
            if (j >= d) continue;
            const double w = block.coef[j];
#pragma unroll
            for (int row = 0; row < ROWS; ++row) sums[row][part] = fma(entry(row, j), w, sums[row][part]);
        }
    }
    const double start = block.intercept ? block.intercept[0] : 0.0;
#pragma unroll
    for (int row = 0; row < ROWS; ++row) {
#pragma unroll
        for (int half = each / 2; half > 0; half /= 2) {
#pragma unroll
            for (int part = 0; part < half; ++part) sums[row][part] += sums[row][part + half];
        }
        eta[row] = device::sum_lanes<LANES>(sums[row][0]) + start;
    }
}

}  // namespace gradhess::cuda
