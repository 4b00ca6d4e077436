// Slopes of rows by themselves, for rows that wait, or that are looked at: the bits that the row pass computes.
//
// Formula:  slopes_i = c_i l'(eta_i, y_i), of Hessian rows c_i l''; values_i = c_i l; NaN where the label is outside of
//           the domain or c is negative.
// Layout:   a warp computes eta of 32 rows, one after the other; then each lane evaluates the loss of one.
// Cost:     one read of X. Not yet run on hardware.
#pragma once

#include "rowpass.cuh"

namespace gradhess::cuda::slopes {

constexpr int kThreads = 256;
constexpr int kBlocks = 2;
constexpr Index kBlockRows = kThreads;

struct Job {
    Block block;
    double* slopes;  // (samples,)
    double* values;  // (samples,)
};

template <class Source, class Losses>
GRADHESS_DEVICE void write_slopes(const Job& job) {
    const Block& block = job.block;
    const int lane = device::lane_number();
    const Index first = blockIdx.x * kBlockRows + device::warp_number() * device::kWarp;
    const auto* data = static_cast<const Source*>(block.data);
    double eta = 0.0;
    for (Index row = first; row < first + device::kWarp && row < block.samples; ++row) {
        const Source* at = data + row * block.row_stride;
        double found[1];
        predict_rows<device::kWarp>(
            block, true, [&](int, Index j) { return device::to_double(at[j * block.column_stride]); }, found);
        if (row - first == lane) eta = found[0];
    }
    const Index row = first + lane;
    if (row >= block.samples) return;
    const rowpass::RowTerms terms = rowpass::row_terms<Losses>(block, row, eta);
    const double nothing = nan("");
    const double slope = block.kind == RowKind::hessian ? terms.second : terms.first;
    job.slopes[row] = terms.valid ? slope : nothing;
    job.values[row] = terms.valid ? terms.value : nothing;
}

template <class Source>
__global__ void __launch_bounds__(kThreads, kBlocks) row_slopes_kernel(const __grid_constant__ Job job) {
    write_slopes<Source, BuiltInLosses>(job);
}

}  // namespace gradhess::cuda::slopes
