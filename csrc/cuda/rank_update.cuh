// The symmetric rank update C += sum_i w_i z_i z_i^T, lower triangle, by thread blocks of 128 x 128 entries.
//
// Layout:   256 threads compute a tile of C in registers. Rows of z arrive in stages of kStageRows rows of the tile's
//           128 row columns and its 128 column columns (once on the diagonal), by 16-byte cp.async, kStages deep. The
//           pitch of a stage is padded so that what a half warp reads lies in different banks.
//           `Engine` is the arithmetic on a stage: dmma.cuh for doubles, ffma.cuh for floats.
// Blocking: units of (split, tile) as schedule.hpp numbers them; a thread block takes every gridDim-th unit. A tile is
//           added to C, or stored in the workspace of its split, which add_splits_kernel adds in order.
// Order:    rows in order within a split, splits in order. The same bits for any number of thread blocks.
// Weights:  multiply the left operand as it leaves shared memory, so they may have any sign.
// Cost:     n p (p + 128) FLOP. Shared memory: 4 stages of 33.8 KiB (doubles). Not yet run on hardware.
#pragma once

#include "api.hpp"
#include "device/async_copy.cuh"
#include "schedule.hpp"

namespace gradhess::cuda::rank {

constexpr int kTile = 128;
constexpr int kThreads = 256;
constexpr int kStages = 4;
constexpr int kStageRows = 16;
constexpr int kWarpRows = 64;  // of a tile, per warp: 2 x 4 warps
constexpr int kWarpColumns = 32;

struct Job {
    const void* rows;
    const double* row_weight;
    void* scatter;
    double* workspace;  // (splits, tiles, kTile, kTile)
    Index samples;
    Index columns;
    Index pitch;
    Index tile_rows;
    Index tiles;
    Index splits;
    Index split_rows;
};

// Shared memory of a stage: the left panel, the right panel, and the weights of its rows.
template <class T>
struct StageLayout {
    static constexpr int kPitch = kTile + 16 / static_cast<int>(sizeof(T)) * (sizeof(T) == 8 ? 2 : 1);  // 132
    static constexpr int kPanel = kStageRows * kPitch;
    static constexpr int kBytes = 2 * kPanel * static_cast<int>(sizeof(T)) + kStageRows * 8;
};

template <class T>
GRADHESS_DEVICE void load_panel(const Job& job, Index first_row, Index row_end, Index first_column, T* panel) {
    constexpr int per_piece = 16 / static_cast<int>(sizeof(T));
    constexpr int pieces = kTile / per_piece;
    const T* rows = static_cast<const T*>(job.rows);
#pragma unroll
    for (int load = 0; load < kStageRows * pieces / kThreads; ++load) {
        const int position = device::thread_number() + load * kThreads;
        const int row = position / pieces;
        const int column = position % pieces * per_piece;
        // Outside: zeros, from an address that may be read.
        const bool inside = first_row + row < row_end && first_column + column < job.pitch;
        const T* from = inside ? rows + (first_row + row) * job.pitch + first_column + column : rows;
        device::copy_async<16>(panel + row * StageLayout<T>::kPitch + column, from, inside ? 16 : 0);
    }
}

template <class T, bool WEIGHTED>
GRADHESS_DEVICE void load_stage(const Job& job, Index first_row, Index row_end, TilePosition tile,
                                unsigned char* stage) {
    if (first_row < row_end) {
        T* left = reinterpret_cast<T*>(stage);
        load_panel(job, first_row, row_end, tile.row * kTile, left);
        if (tile.row != tile.column)
            load_panel(job, first_row, row_end, tile.column * kTile, left + StageLayout<T>::kPanel);
        if (WEIGHTED && device::thread_number() < kStageRows) {
            const int row = device::thread_number();
            const bool inside = first_row + row < row_end;
            auto* weights = reinterpret_cast<double*>(left + 2 * StageLayout<T>::kPanel);
            device::copy_async<8>(weights + row, job.row_weight + (inside ? first_row + row : 0), inside ? 8 : 0);
        }
    }
    device::commit_copies();  // an empty group too: groups are counted
}

// A ring of kStages buffers: `load(step)` queues the copies of a step and commits them, an empty group beyond the last
// step too, since groups are counted; `multiply(step)` reads them. Afterwards all buffers are free.
template <class Load, class Multiply>
GRADHESS_DEVICE void run_stages(int steps, const Load& load, const Multiply& multiply) {
#pragma unroll
    for (int step = 0; step < kStages - 1; ++step) load(step);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        device::wait_copies<kStages - 2>();
        __syncthreads();  // everybody's copies are there, and nobody still reads the stage that is loaded next
        load(step + kStages - 1);
        multiply(step);
    }
    device::wait_copies<0>();
    __syncthreads();  // before anybody loads into stages that a slower warp reads
}

template <class Engine, class Scatter, bool WEIGHTED>
GRADHESS_DEVICE void sum_tile(const Job& job, Index unit) {
    using T = typename Engine::Number;
    const TilePosition tile = super_block_tile(unit % job.tiles, job.tile_rows);
    const Index split = unit / job.tiles;
    const Index row_begin = split * job.split_rows;
    const Index row_end = row_begin + job.split_rows < job.samples ? row_begin + job.split_rows : job.samples;
    unsigned char* memory = device::dynamic_shared();
    const auto stage_of = [&](int step) { return memory + step % kStages * StageLayout<T>::kBytes; };

    Engine engine;
    const auto load = [&](int step) {
        load_stage<T, WEIGHTED>(job, row_begin + step * kStageRows, row_end, tile, stage_of(step));
    };
    run_stages(static_cast<int>((row_end - row_begin + kStageRows - 1) / kStageRows), load, [&](int step) {
        const T* left = reinterpret_cast<const T*>(stage_of(step));
        const T* right = tile.row == tile.column ? left : left + StageLayout<T>::kPanel;
        const auto* weights = reinterpret_cast<const double*>(left + 2 * StageLayout<T>::kPanel);
        engine.template step<WEIGHTED>(left, right, weights);
        if ((step + 1) % Engine::kSlabSteps == 0) engine.end_slab();
    });
    engine.end_slab();

    if (job.splits > 1) {
        double* part = job.workspace + (split * job.tiles + unit % job.tiles) * kTile * kTile;
        engine.each([&](int i, int j, double value) { part[i * kTile + j] = value; });
        return;
    }
    auto* corner = static_cast<Scatter*>(job.scatter) + tile.row * kTile * job.columns + tile.column * kTile;
    const auto rows_left = static_cast<int>(job.columns - tile.row * kTile);
    const auto diagonal = static_cast<int>((tile.row - tile.column) * kTile);
    engine.each([&](int i, int j, double value) {
        if (i < rows_left && j <= i + diagonal) corner[i * job.columns + j] += static_cast<Scatter>(value);
    });
}

template <class Engine, class Scatter, bool WEIGHTED>
__global__ void __launch_bounds__(kThreads, 1) rank_update_kernel(const __grid_constant__ Job job) {
    const Index units = job.splits * job.tiles;
    for (Index unit = blockIdx.x; unit < units; unit += gridDim.x) sum_tile<Engine, Scatter, WEIGHTED>(job, unit);
}

// C += the parts of the splits, in order. A thread block per tile.
template <class Scatter>
__global__ void __launch_bounds__(kThreads) add_splits_kernel(const __grid_constant__ Job job) {
    const Index number = blockIdx.x;
    const TilePosition tile = super_block_tile(number, job.tile_rows);
    auto* scatter = static_cast<Scatter*>(job.scatter);
    for (int i = device::thread_number(); i < kTile * kTile; i += kThreads) {
        const Index row = tile.row * kTile + i / kTile;
        const Index column = tile.column * kTile + i % kTile;
        if (row >= job.columns || column > row) continue;
        double sum = 0.0;
        for (Index split = 0; split < job.splits; ++split)
            sum += job.workspace[(split * job.tiles + number) * kTile * kTile + i];
        scatter[row * job.columns + column] += static_cast<Scatter>(sum);
    }
}

}  // namespace gradhess::cuda::rank
