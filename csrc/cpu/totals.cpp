#include "totals.hpp"

#include <algorithm>
#include <vector>

#include "team.hpp"
#include "tuning.hpp"

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
    clear_open_block<Scatter>(moments);
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
void symmetrize(const Scatter* lower, Index stride, Index n, double scale, Scatter* out, int threads, const Isa& isa) {
    constexpr Index height = tuning::kMirrorBytes / static_cast<Index>(sizeof(Scatter));
    const Index strips = (n + height - 1) / height;
    share_out(n > 512 ? threads : 1, strips, [&](Index job, std::size_t) {
        const Index begin = (strips - 1 - job) * height;  // the longest first
        kernels_of<Scatter>(isa).mirror(lower, stride, n, scale, out, begin, std::min(n, begin + height));
    });
}

template void symmetrize(const double*, Index, Index, double, double*, int, const Isa&);
template void symmetrize(const float*, Index, Index, double, float*, int, const Isa&);

}  // namespace gradhess::cpu
