#include "totals.hpp"

#include <algorithm>
#include <vector>

#include "team.hpp"

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

// Entries on the sides of a tile that symmetrize turns: 128 bytes by 1 KiB.
template <class Scatter>
constexpr Index kTurnedWidth = 128 / sizeof(Scatter);
template <class Scatter>
constexpr Index kTurnedHeight = 1024 / sizeof(Scatter);

template <class Scatter>
void symmetrize(const Scatter* lower, Index n, double scale, Scatter* out, int threads) {
    // A tile is read row by row and turned around in a buffer, so that its mirror image is written in long rows: every
    // one of them is on another page, and at a row length that is a power of two single lines of many rows would fall
    // into one cache set. Pieces of rows no processor foresees, so those of the tiles to come are asked for.
    constexpr Index width = kTurnedWidth<Scatter>;
    constexpr Index height = kTurnedHeight<Scatter>;
    constexpr Index line = 64 / sizeof(Scatter);
    const Index strips = (n + height - 1) / height;
    const bool keep = out == lower && scale == 1.0;  // the lower triangle is there already
    share_out(n > 512 ? threads : 1, strips, [&](Index job, std::size_t) {
        const Index i_begin = (strips - 1 - job) * height;  // the longest first
        const Index i_end = std::min(n, i_begin + height);
        for (Index j_begin = 0; j_begin < i_end; j_begin += width) {
            // One entry more, so that a column of the buffer is not in one cache set either.
            Scatter turned[kTurnedWidth<Scatter>][kTurnedHeight<Scatter> + 1];
            for (Index i = std::max(i_begin, j_begin); i < i_end; ++i) {
                const Scatter* from = lower + i * n;
                for (Index c = 0; c < width; c += line) __builtin_prefetch(from + j_begin + 2 * width + c, 0, 2);
                for (Index j = j_begin; j < std::min(i + 1, j_begin + width); ++j) {
                    const Scatter value = static_cast<Scatter>(from[j] * scale);
                    if (!keep) out[i * n + j] = value;
                    turned[j - j_begin][i - i_begin] = value;
                }
            }
            for (Index j = j_begin; j < std::min(i_end, j_begin + width); ++j) {
                Scatter* to = out + j * n;
                for (Index c = i_begin; c < i_end; c += line) __builtin_prefetch(to + width * n + c, 1, 2);
                for (Index i = std::max(i_begin, j + 1); i < i_end; ++i) to[i] = turned[j - j_begin][i - i_begin];
            }
        }
    });
}

template void symmetrize(const double*, Index, double, double*, int);
template void symmetrize(const float*, Index, double, float*, int);

}  // namespace gradhess::cpu
