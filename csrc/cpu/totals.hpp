// Folding a block of rows into the totals, and the operations on finished totals. Arithmetic of order p^2 per block,
// in float64, for any type of scatter.
#pragma once

#include <algorithm>

#include "kernel_table.hpp"

namespace gradhess::cpu {

// The moments of one block, about its own shift. `scatter` is null where the block's products are in the total already.
template <class Scatter>
struct BlockMoments {
    Scatter* scatter = nullptr;
    Scatter* slabs = nullptr;  // (slabs, padded): diagonals that go into the total one by one, before the block
    Index stride = 0;
    double* shift = nullptr;
    double* sum = nullptr;
    double weight = 0.0;
    double weight_squares = 0.0;
    double loss = 0.0;
    Index rows = 0;
    bool part_of_block = false;  // a slab, which has the shift of its block
};

// The two rank-one corrections that Chan's formula asks for when a block (W_b, shift + S / W_b) joins a total
// (W_a, mean_a): alpha delta delta^T - beta S S^T, alpha = W_a W_b / (W_a + W_b), beta = 1 / W_b. All zero where the
// moments are not centred or the block has no weight.
struct Correction {
    double alpha = 0.0;
    double beta = 0.0;
    double share = 0.0;  // W_b / (W_a + W_b): how far the mean moves along delta
};

template <class Scatter>
Correction correction_for(const Moments& moments, const BlockMoments<Scatter>& block) {
    if (!moments.centred || block.weight == 0.0) return {};
    const double before = moments.scalars[kWeight];
    const double after = before + block.weight;
    return {before * (block.weight / after), 1.0 / block.weight, block.weight / after};
}

template <class Scatter>
void find_delta(const Moments& moments, const BlockMoments<Scatter>& block, double* delta) {
    for (Index j = 0; j < moments.parameters; ++j) {
        const double within = block.weight == 0.0 ? 0.0 : block.sum[j] / block.weight;
        delta[j] = (block.shift[j] - moments.location[j]) + within;
    }
}

// Rows rank, rank + size, ... of the total scatter. Where `first`, the total is zero, but its memory may hold anything.
template <class Scatter>
void add_scatter(Moments& moments, const BlockMoments<Scatter>& block, const Correction& by, const double* delta,
                 Index rank, Index size, bool first = false) {
    Scatter* total = static_cast<Scatter*>(moments.scatter);
    if (moments.structure == Structure::sum || (!block.scatter && by.beta == 0.0)) return;
    const bool diagonal = moments.structure == Structure::diagonal;
    for (Index i = rank; i < moments.parameters; i += size) {
        const double delta_i = by.alpha * delta[i];
        const double sum_i = by.beta * block.sum[i];
        Scatter* to = diagonal ? total : total + i * moments.parameters;
        const Scatter* from = !block.scatter ? nullptr : (diagonal ? block.scatter : block.scatter + i * block.stride);
        const Index begin = diagonal ? i : 0;
        if (first) std::fill(to + begin, to + i + 1, Scatter(0));
        if (by.beta == 0.0) {
            for (Index j = begin; j <= i; ++j) to[j] += from[j];
        } else if (from) {
            for (Index j = begin; j <= i; ++j)
                to[j] = static_cast<Scatter>(to[j] + ((from[j] - sum_i * block.sum[j]) + delta_i * delta[j]));
        } else {
            for (Index j = begin; j <= i; ++j)
                to[j] = static_cast<Scatter>(to[j] + (delta_i * delta[j] - sum_i * block.sum[j]));
        }
    }
}

// Everything but the scatter.
template <class Scatter>
void add_scalars(Moments& moments, const BlockMoments<Scatter>& block, const Correction& by, const double* delta) {
    for (Index j = 0; j < moments.parameters; ++j)
        moments.location[j] += moments.centred ? by.share * delta[j] : block.sum[j];
    moments.scalars[kWeight] += block.weight;
    moments.scalars[kWeightSquares] += block.weight_squares;
    moments.scalars[kLoss] += block.loss;
    moments.counts[kRows] += block.rows;
}

// Empties the open block.
template <class Scatter>
void clear_open_block(Moments& moments) {
    const Index p = moments.parameters;
    if (moments.block_scatter) {
        const Index entries = moments.structure == Structure::diagonal ? p : p * p;
        std::fill_n(static_cast<Scatter*>(moments.block_scatter), entries, Scatter(0));
    }
    std::fill_n(moments.block_shift, p, 0.0);
    std::fill_n(moments.block_sum, p, 0.0);
    std::fill_n(moments.scalars + kBlockWeight, 3, 0.0);
    moments.counts[kBlockRows] = 0;
}

void close_block(Moments& moments);
void merge(Moments& moments, const Moments& other);

// out[i, j] = out[j, i] = lower[i, j] * scale: out is (n, n), and may be lower, which has `stride` entries in a row.
template <class Scatter>
void symmetrize(const Scatter* lower, Index stride, Index n, double scale, Scatter* out, int threads, const Isa& isa);

}  // namespace gradhess::cpu
