// Products of two float64 matrices on tensor cores, C (+)= sum_t l_t r_t^T, by thread blocks of 128 x 128 entries.
//
// Formula:  C[i, j] = start + sum_t L(t, i) R(t, j); start is C[i, j], or zero. Entries of C lie at any two strides.
// Layout:   256 threads compute a tile of C in registers (dmma.cuh). Stages of 16 terms of the tile's rows of L and
//           columns of R arrive by 8-byte cp.async, so operands need no alignment and any pitch will do, in the ring of
//           rank_update.cuh. Where terms lie apart a panel is 16 x 128 numbers with a pitch of 132, where they lie side
//           by side 128 x 16 with a pitch of 20: what a half warp reads lies in different banks either way. Of a tile
//           at the edge, what is outside of C is not copied, and fragments outside of it are not multiplied.
// Order:    terms in order within a segment of kSegmentTerms, from zero; segments in order, onto start. A function of
//           `terms` alone: an entry has the same bits whatever lies beside it, and a sum may be cut into calls at
//           multiples of kSegmentTerms.
// Blocking: with few tiles a thread block takes one segment of one tile, and add_segments_kernel adds the sums, which
//           the workspace keeps, in order. With many it takes all segments of its tile, and adds each to C itself: the
//           same additions.
// Cost:     2 rows columns terms FLOP, rounded up to fragments of 16 x 8; with few rows or columns one read of the
//           larger operand. Shared memory: 4 stages of 33 to 40 KiB. Not yet run on hardware.
#pragma once

#include "api.hpp"
#include "dmma.cuh"

namespace gradhess::cuda::products {

using rank::kStageRows;
using rank::kStages;
using rank::kThreads;
using rank::kTile;

constexpr Index kSegmentTerms = 1024;
constexpr int kFoldThreads = 256;

struct Job {
    Factor left;
    Factor right;
    Index terms;
    double* out;
    Index row_stride;
    Index column_stride;
    double* partial;  // (segments, rows, columns), or null: no segments apart
    Index tile_rows;
    Index tile_columns;
    Index segments;  // at least one
    bool add;
};

// Where number (term, entry) of a panel lies in shared memory.
template <bool APART>
struct PanelLayout {
    static constexpr int kPitch = (APART ? kTile : kStageRows) + 4;
    static constexpr int kNumbers = (APART ? kStageRows : kTile) * kPitch;

    static GRADHESS_HOST_DEVICE_INLINE constexpr int place(int term, int entry) {
        return APART ? term * kPitch + entry : entry * kPitch + term;
    }
};

// Tile `number`, column by column in strips of kSuperBlock rows of tiles, so that blocks that run at the same time
// share panels in the L2 cache.
GRADHESS_HOST_DEVICE inline TilePosition strip_tile(Index number, Index tile_rows, Index tile_columns) {
    const Index first_row = number / (kSuperBlock * tile_columns) * kSuperBlock;
    const Index height = tile_rows - first_row < kSuperBlock ? tile_rows - first_row : kSuperBlock;
    const Index inside = number - first_row * tile_columns;
    return {first_row + inside % height, inside / height};
}

// The `count` entries of the tile's rows or columns; terms behind the last are zero. What lies beside the entries is
// left as it is: it is multiplied into entries that are not stored. A thread copies every second term of one entry
// where terms lie apart, else one term of every 16th entry.
template <bool APART>
GRADHESS_DEVICE void load_panel(const Factor& from, Index first_term, Index term_end, Index first_entry, int count,
                                double* panel) {
    constexpr int kAcross = APART ? kTile : kStageRows;
    constexpr int kStep = kThreads / kAcross;
    constexpr int kPitch = PanelLayout<APART>::kPitch;
    const Index terms_left = term_end - first_term;
    const int terms = terms_left < kStageRows ? static_cast<int>(terms_left) : kStageRows;
    const int fixed = device::thread_number() % kAcross;
    int moving = device::thread_number() / kAcross;
    if (APART && fixed >= count) return;
    const Index corner = APART ? first_term * from.pitch + first_entry : first_entry * from.pitch + first_term;
    const double* at = from.data + corner + moving * from.pitch + fixed;
    double* to = panel + moving * kPitch + fixed;
#pragma unroll 2
    for (; moving < (APART ? kStageRows : count); moving += kStep) {
        const bool inside = (APART ? moving : fixed) < terms;
        device::copy_async<8>(to, inside ? at : from.data, inside ? 8 : 0);
        at += kStep * from.pitch;
        to += kStep * kPitch;
    }
}

GRADHESS_DEVICE int within_tile(Index entries, Index tile) {
    const Index left = entries - tile * kTile;
    return left < kTile ? static_cast<int>(left) : kTile;
}

// Where a thread block stores a tile: entry (i, j) of C at data[i row_stride + j column_stride].
struct Target {
    double* data;
    Index row_stride;
    Index column_stride;
    bool add;
};

template <bool LEFT_APART, bool RIGHT_APART>
GRADHESS_DEVICE void sum_segment(const Job& job, TilePosition tile, Index segment, const Target& target) {
    using Left = PanelLayout<LEFT_APART>;
    using Right = PanelLayout<RIGHT_APART>;
    const Index begin = segment * kSegmentTerms;
    const Index end = begin + kSegmentTerms < job.terms ? begin + kSegmentTerms : job.terms;
    const int rows = within_tile(job.left.entries, tile.row);
    const int columns = within_tile(job.right.entries, tile.column);
    auto* memory = reinterpret_cast<double*>(device::dynamic_shared());
    const auto stage_of = [&](int step) { return memory + step % kStages * (Left::kNumbers + Right::kNumbers); };

    rank::Dmma engine;
    const auto load = [&](int step) {
        const Index first = begin + step * kStageRows;
        if (first < end) {
            double* stage = stage_of(step);
            load_panel<LEFT_APART>(job.left, first, end, tile.row * kTile, rows, stage);
            load_panel<RIGHT_APART>(job.right, first, end, tile.column * kTile, columns, stage + Left::kNumbers);
        }
        device::commit_copies();
    };
    rank::run_stages(static_cast<int>((end - begin + kStageRows - 1) / kStageRows), load, [&](int step) {
        const double* left = stage_of(step);
        const double* right = left + Left::kNumbers;
        engine.template add_products<true>([&](int k, int i) { return left[Left::place(k, i)]; },
                                           [&](int k, int j) { return right[Right::place(k, j)]; }, rows, columns);
    });
    // Through shared memory, whose addresses are constants: those of C at any strides would not fit into the registers.
    static_assert(kStages * (Left::kNumbers + Right::kNumbers) >= kTile * kTile, "the ring holds a tile");
    engine.each([&](int i, int j, double sum) { memory[i * kTile + j] = sum; });
    __syncthreads();
    double* corner = target.data + tile.row * kTile * target.row_stride + tile.column * kTile * target.column_stride;
    for (int item = device::thread_number(); item < rows * kTile; item += kThreads) {
        const int i = item / kTile;
        const int j = item % kTile;
        if (j >= columns) continue;
        double* at = corner + i * target.row_stride + j * target.column_stride;
        *at = (target.add ? *at : 0.0) + memory[item];
    }
    __syncthreads();  // before the next stages come
}

template <bool LEFT_APART, bool RIGHT_APART>
__global__ void __launch_bounds__(kThreads, 1) matrix_product_kernel(const __grid_constant__ Job job) {
    const Index tiles = job.tile_rows * job.tile_columns;
    const Index units = job.partial ? tiles * job.segments : tiles;
    for (Index unit = blockIdx.x; unit < units; unit += gridDim.x) {
        const TilePosition tile = strip_tile(unit % tiles, job.tile_rows, job.tile_columns);
        const Index first = unit / tiles;
        const Index last = job.partial ? first + 1 : job.segments;
        Target target{job.out, job.row_stride, job.column_stride, job.add};
        if (job.partial) {
            const Index columns = job.right.entries;
            target = {job.partial + first * job.left.entries * columns, columns, 1, false};
        }
#pragma unroll 1
        for (Index segment = first; segment < last; ++segment) {
            sum_segment<LEFT_APART, RIGHT_APART>(job, tile, segment, target);
            target.add = true;
        }
    }
}

// A thread for each entry of C.
__global__ void __launch_bounds__(kFoldThreads) add_segments_kernel(const __grid_constant__ Job job) {
    const Index columns = job.right.entries;
    const Index count = job.left.entries * columns;
    const Index entry = static_cast<Index>(blockIdx.x) * kFoldThreads + device::thread_number();
    if (entry >= count) return;
    double* at = job.out + entry / columns * job.row_stride + entry % columns * job.column_stride;
    double sum = job.add ? *at : 0.0;
#pragma unroll 8
    for (Index segment = 0; segment < job.segments; ++segment) sum += job.partial[segment * count + entry];
    *at = sum;
}

}  // namespace gradhess::cuda::products
