// The way of a tile's float32 sums into float64 C, shared by the kernels that compute them.
#pragma once

#include <cstring>

#include "../device/platform.cuh"
#include "work.hpp"

namespace gradhess::cuda::tensor {

constexpr Index kTileEntries = Index{kTensorTile} * kTensorTile;

// 2^exponent, exactly, for -1022 <= exponent <= 1023: exponents of columns are those of float32 numbers.
GRADHESS_DEVICE double power_of_two(int exponent) {
    const auto bits = static_cast<long long>(exponent + 1023) << 52;
#if defined(__CUDA_ARCH__)
    return __longlong_as_double(bits);
#else
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

GRADHESS_DEVICE int exponent_at(const Operand& operand, Index column) {
    return operand.exponents ? operand.exponents[column] : 0;
}

// The same number, of which the compiler knows nothing: what is computed from it is computed where it is needed, and
// takes no registers in the loops before.
GRADHESS_DEVICE Index unknown(Index number) {
#if defined(__CUDA_ARCH__)
    asm volatile("" : "+l"(number));
#endif
    return number;
}

constexpr int kFlushPairs = 4;

// Entries up to `end` of a row of C; all loads come before all stores, so that a row waits for memory once.
template <class Scatter>
GRADHESS_DEVICE void add_row(const UpdateJob& job, const TileWork& work, Scatter* entries, int row, int column, int end,
                             const float (&sums)[kFlushPairs][2]) {
    const int exponent = exponent_at(job.left, work.left_column + row);
    Scatter before[kFlushPairs][2];
#pragma unroll
    for (int i = 0; i < 2 * kFlushPairs; ++i) {
        const int at = column + i / 2 * 8 + i % 2;
        before[i / 2][i % 2] = at < end ? entries[at] : Scatter(0);
    }
#pragma unroll
    for (int i = 0; i < 2 * kFlushPairs; ++i) {
        const int at = column + i / 2 * 8 + i % 2;
        if (at >= end) continue;
        const int e = exponent + exponent_at(job.right, work.right_column + at);
        const double sum = static_cast<double>(sums[i / 2][i % 2]) * power_of_two(-e);
        entries[at] = static_cast<Scatter>(static_cast<double>(before[i / 2][i % 2]) + sum);
    }
}

// Adds four pairs of sums of one row to C, or keeps them for add_partial_sums: pair i is of columns
// column + 8 i and column + 8 i + 1, as accumulators of tensor cores have them.
GRADHESS_DEVICE void flush_row(const UpdateJob& job, const TileWork& work, int row, int column,
                               const float (&sums)[kFlushPairs][2]) {
    if (work.segment >= 0) {
        float* kept = job.partial + (work.segment * job.tiles + work.tile) * kTileEntries + row * kTensorTile + column;
#pragma unroll
        for (int i = 0; i < kFlushPairs; ++i) {
            kept[8 * i] = sums[i][0];
            kept[8 * i + 1] = sums[i][1];
        }
        return;
    }
    if (row >= work.valid_rows) return;
    // Entries above the diagonal of C belong to others.
    const int end = work.diagonal && row + 1 < work.valid_columns ? row + 1 : work.valid_columns;
    const Index first = (work.gram_row + row) * job.gram_pitch + work.gram_column;
    if (job.gram_is_float)
        add_row(job, work, static_cast<float*>(job.gram) + first, row, column, end, sums);
    else
        add_row(job, work, static_cast<double*>(job.gram) + first, row, column, end, sums);
}

}  // namespace gradhess::cuda::tensor
