#include "totals.hpp"

#include <algorithm>
#include <vector>

namespace gradhess::cpu {

template <class Scatter>
static void join(Moments& moments, const BlockMoments<Scatter>& block) {
    std::vector<double> delta(static_cast<std::size_t>(moments.parameters));
    find_delta(moments, block, delta.data());
    const Correction by = correction_for(moments, block);
    add_scatter(moments, block, by, delta.data(), 0, 1);
    add_scalars(moments, block, by, delta.data());
}

template <class Scatter>
static void close_block_as(Moments& moments) {
    BlockMoments<Scatter> block;
    block.scatter = static_cast<Scatter*>(moments.block_scatter);
    block.stride = moments.parameters;
    block.shift = moments.block_shift;
    block.sum = moments.block_sum;
    block.weight = moments.scalars[kBlockWeight];
    block.weight_squares = moments.scalars[kBlockWeightSquares];
    block.loss = moments.scalars[kBlockLoss];
    block.rows = moments.counts[kBlockRows];
    join(moments, block);
    const Index p = moments.parameters;
    if (block.scatter) {
        const Index entries = moments.structure == Structure::diagonal ? p : p * p;
        std::fill_n(block.scatter, entries, Scatter(0));
    }
    std::fill_n(moments.block_shift, p, 0.0);
    std::fill_n(moments.block_sum, p, 0.0);
    std::fill_n(moments.scalars + kBlockWeight, 3, 0.0);
    moments.counts[kBlockRows] = 0;
}

void close_block(Moments& moments) {
    if (moments.counts[kBlockRows] == 0) return;
    moments.scatter_f32 ? close_block_as<float>(moments) : close_block_as<double>(moments);
}

template <class Scatter>
static void merge_as(Moments& moments, const Moments& other) {
    const std::vector<double> zero(static_cast<std::size_t>(moments.parameters), 0.0);
    BlockMoments<Scatter> block;
    block.scatter = static_cast<Scatter*>(other.scatter);
    block.stride = other.parameters;
    block.shift = moments.centred ? other.location : const_cast<double*>(zero.data());
    block.sum = moments.centred ? const_cast<double*>(zero.data()) : other.location;
    block.weight = other.scalars[kWeight];
    block.weight_squares = other.scalars[kWeightSquares];
    block.loss = other.scalars[kLoss];
    block.rows = other.counts[kRows];
    join(moments, block);
}

void merge(Moments& moments, const Moments& other) {
    moments.scatter_f32 ? merge_as<float>(moments, other) : merge_as<double>(moments, other);
}

template <class Scatter>
void symmetrize(const Scatter* lower, Index n, double scale, Scatter* out, int threads) {
    constexpr Index tile = 64;  // a tile and its mirror image stay in the L1 cache
    const Index tiles = (n + tile - 1) / tile;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1 && n > 512)
    for (Index bi = 0; bi < tiles; ++bi) {
        for (Index bj = 0; bj <= bi; ++bj) {
            for (Index i = bi * tile; i < std::min(n, (bi + 1) * tile); ++i) {
                for (Index j = bj * tile; j < std::min(i + 1, (bj + 1) * tile); ++j) {
                    const Scatter value = static_cast<Scatter>(lower[i * n + j] * scale);
                    out[i * n + j] = value;
                    out[j * n + i] = value;
                }
            }
        }
    }
}

template void symmetrize(const double*, Index, double, double*, int);
template void symmetrize(const float*, Index, double, float*, int);

}  // namespace gradhess::cpu
