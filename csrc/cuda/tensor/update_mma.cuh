// C += left^T right from 16-bit planes by mma.sync m16n8k16 (sm_80 and newer).
//
// Formula:  ../planes.hpp, with the order of summation.
// Layout:   one block of 8 warps computes 128 x 128 entries of C, each warp 64 x 32 of them: 4 x 4 accumulators of
//           m16n8, and as many float32 sums beside them, 128 registers in all. A stage is a number of rows of all
//           planes, left then right, each plane rows x 128 columns (maps.hpp); fragments come by ldmatrix.trans,
//           because rows of planes are contiguous in the columns of C.
// Blocking: stages of 32 to 64 rows by cp.async, as many as fit into the 163 KiB of an A100, so one block per
//           multiprocessor. Low-order products need all planes of 16 rows at once; hi hi runs over the stage again, and
//           its fragments are read a second time: 4/3 of the least traffic, for a bias five times smaller.
// Cost:     2 * products * 128^2 FLOP per row and tile; a tile reads (left + right) * 256 bytes per row from L2. The
//           additions of a promotion are a sixth of the issue slots of bf16x6 at most, beside the tensor core's work.
// Source:   the multi-stage pipeline of any sm_80 GEMM; the two passes over a stage are this kernel's own.
// Not yet run on hardware.
#pragma once

#include "../device/async_copy.cuh"
#include "../device/ldmatrix.cuh"
#include "../device/mma.cuh"
#include "flush.cuh"
#include "maps.hpp"
#include "unrolled.cuh"

namespace gradhess::cuda::tensor {

template <int SCHEME>
struct MmaTuning {
    static constexpr SchemeTable scheme = kSchemeTable[SCHEME];
    static constexpr int planes = scheme.left_planes + scheme.right_planes;
    static constexpr int promote_rows = scheme.mma_promote_rows;
    // Where there are low-order products, one stage is one promotion: the second pass needs its rows again.
    static constexpr int stage_rows = scheme.product_count > 1 ? promote_rows : 64;
    static constexpr int stages_per_promotion = promote_rows / stage_rows;
    static constexpr int plane_bytes = stage_rows * kTileRowBytes;
    static constexpr int stage_bytes = planes * plane_bytes;
    static constexpr int stages_that_fit = (160 << 10) / stage_bytes;
    static constexpr int stages = stages_that_fit < 4 ? stages_that_fit : 4;
    static constexpr int shared_bytes = stages * stage_bytes;
    static_assert(stages >= 2 && promote_rows % stage_rows == 0 && stage_rows % 16 == 0);
};

constexpr int kMmaThreads = 256;
constexpr int kWarpRows = 64;
constexpr int kWarpColumns = 32;
constexpr int kRowFragments = kWarpRows / 16;
constexpr int kColumnFragments = kWarpColumns / 8;
static_assert(kColumnFragments == kFlushPairs);

// Starts the copies of one plane's rows [row, row + stage rows) and columns [column, column + 128) of a stage.
template <int STAGE_ROWS>
GRADHESS_DEVICE void copy_plane(unsigned char* to, const std::uint16_t* plane, Index pitch, Index column, Index row,
                                Index end) {
    const int chunk = device::thread_number() % kTileRowChunks;
    const Index first = column + chunk * kChunkElements;
    constexpr int rows_at_once = kMmaThreads / kTileRowChunks;
#pragma unroll
    for (int r = 0; r < STAGE_ROWS; r += rows_at_once) {
        const int stage_row = r + device::thread_number() / kTileRowChunks;
        // Beyond the planes: zeros. Rows of the next segment, too: they belong to the next sum.
        const bool exists = row + stage_row < end && first < pitch;
        device::copy_async<kChunkBytes>(to + tile_byte(stage_row, chunk),
                                        exists ? plane + (row + stage_row) * pitch + first : plane,
                                        exists ? kChunkBytes : 0);
    }
}

template <int SCHEME>
GRADHESS_DEVICE void copy_stage(unsigned char* to, const UpdateJob& job, const TileWork& work, Index row, Index end) {
    using Tuning = MmaTuning<SCHEME>;
#pragma unroll
    for (int p = 0; p < Tuning::scheme.left_planes; ++p)
        copy_plane<Tuning::stage_rows>(to + p * Tuning::plane_bytes, job.left.data + p * job.left.plane_stride,
                                       job.left.pitch, work.left_column, row, end);
    if (work.shared) return;
    to += Tuning::scheme.left_planes * Tuning::plane_bytes;
#pragma unroll
    for (int p = 0; p < Tuning::scheme.right_planes; ++p)
        copy_plane<Tuning::stage_rows>(to + p * Tuning::plane_bytes, job.right.data + p * job.right.plane_stride,
                                       job.right.pitch, work.right_column, row, end);
}

// Products FIRST to LAST - 1 of the table, of all rows of a stage, 16 at a time.
template <int SCHEME, int FIRST, int LAST>
GRADHESS_DEVICE void multiply_stage(float (&sums)[kRowFragments][kColumnFragments][4], const unsigned char* left,
                                    const unsigned char* right) {
    using Tuning = MmaTuning<SCHEME>;
    using Number = std::conditional_t<Tuning::scheme.half, device::Half, device::BFloat16>;
    const int warp_row = device::warp_number() / 4 * kWarpRows;
    const int warp_column = device::warp_number() % 4 * kWarpColumns;
    const Place left_place = left_address(device::lane_number());
    const Place right_place = right_address(device::lane_number());
    // Planes that these products use: the hi hi pass loads one of each.
    constexpr int left_planes = FIRST == Tuning::scheme.product_count - 1 ? 1 : Tuning::scheme.left_planes;
    constexpr int right_planes = FIRST == Tuning::scheme.product_count - 1 ? 1 : Tuning::scheme.right_planes;

#pragma unroll 1
    for (int row = 0; row < Tuning::stage_rows; row += kInstructionRows) {
        std::uint32_t b[right_planes][kColumnFragments][2];
#pragma unroll
        for (int p = 0; p < right_planes; ++p)
#pragma unroll
            for (int pair = 0; pair < kColumnFragments / 2; ++pair) {
                const int column = warp_column + pair * 16 + right_place.column;
                std::uint32_t registers[4];
                device::load_matrices<4, true>(
                    registers,
                    right + p * Tuning::plane_bytes + tile_byte(row + right_place.row, column / kChunkElements));
#pragma unroll
                for (int i = 0; i < 4; ++i) b[p][2 * pair + i / 2][i % 2] = registers[i];
            }
#pragma unroll
        for (int m = 0; m < kRowFragments; ++m) {
            const int column = warp_row + m * 16 + left_place.column;
            std::uint32_t a[left_planes][4];
#pragma unroll
            for (int p = 0; p < left_planes; ++p)
                device::load_matrices<4, true>(
                    a[p], left + p * Tuning::plane_bytes + tile_byte(row + left_place.row, column / kChunkElements));
            unrolled<FIRST, LAST>([&](auto number) {
                constexpr Product product = kSchemeTable[SCHEME].products[decltype(number)::value];
#pragma unroll
                for (int n = 0; n < kColumnFragments; ++n)
                    device::multiply_add<Number>(sums[m][n], a[product.left], b[product.right][n]);
            });
        }
    }
}

template <int SCHEME>
GRADHESS_DEVICE void update_tile(const UpdateJob& job, Index item, unsigned char* shared) {
    using Tuning = MmaTuning<SCHEME>;
    const TileWork work = work_of(job, item);
    float master[kRowFragments][kColumnFragments][4] = {};
    const int right_offset = work.shared ? 0 : Tuning::scheme.left_planes * Tuning::plane_bytes;

    const Index steps = (work.end - work.begin + Tuning::stage_rows - 1) / Tuning::stage_rows;
    const auto copy = [&](Index step) {
        if (step < steps) {
            unsigned char* stage = shared + static_cast<int>(step % Tuning::stages) * Tuning::stage_bytes;
            copy_stage<SCHEME>(stage, job, work, work.begin + step * Tuning::stage_rows, work.end);
        }
        device::commit_copies();  // empty groups keep the count
    };
    __syncthreads();  // stages may still be read for the tile before
    for (int step = 0; step < Tuning::stages - 1; ++step) copy(step);

    for (Index step = 0; step < steps;) {
        float sums[kRowFragments][kColumnFragments][4] = {};
#pragma unroll 1
        for (int part = 0; part < Tuning::stages_per_promotion && step < steps; ++part, ++step) {
            device::wait_copies<Tuning::stages - 2>();
            __syncthreads();  // everybody's copies of this step are there, and the stage before it is free again
            copy(step + Tuning::stages - 1);
            const unsigned char* stage = shared + static_cast<int>(step % Tuning::stages) * Tuning::stage_bytes;
            constexpr int last = Tuning::scheme.product_count - 1;
            if constexpr (last > 0) multiply_stage<SCHEME, 0, last>(sums, stage, stage + right_offset);
            multiply_stage<SCHEME, last, last + 1>(sums, stage, stage + right_offset);
        }
#pragma unroll
        for (int m = 0; m < kRowFragments; ++m)
#pragma unroll
            for (int n = 0; n < kColumnFragments; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) master[m][n][i] += sums[m][n][i];

        // Intervals count from the first row of a segment or a call, which are multiples of every interval.
        const Index next = job.first_row + work.begin + step * Tuning::stage_rows;
        if (next % kFlushRows != 0 && step < steps) continue;
        const TileWork target = work_of(job, unknown(item));
        const int lane = device::lane_number();
        const int row = device::warp_number() / 4 * kWarpRows + lane / 4;
        const int column = device::warp_number() % 4 * kWarpColumns + lane % 4 * 2;
#pragma unroll
        for (int m = 0; m < kRowFragments; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float values[kFlushPairs][2];
#pragma unroll
                for (int n = 0; n < kColumnFragments; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        values[n][i] = master[m][n][2 * half + i];
                        master[m][n][2 * half + i] = 0.0f;
                    }
                flush_row(job, target, row + m * 16 + half * 8, column, values);
            }
    }
}

template <int SCHEME>
__global__ void __launch_bounds__(kMmaThreads, 1) update_mma_kernel(UpdateJob job) {
    unsigned char* shared = device::dynamic_shared();
    const Index items = items_of(job);
    for (Index item = blockIdx.x; item < items; item += gridDim.x) update_tile<SCHEME>(job, item, shared);
}

}  // namespace gradhess::cuda::tensor
