// What comes after updates: sums of segments into C, and the entries that are equal by symmetry.
// Cost: one read of the sums, one read and write of C. Not yet run on hardware.
#include "../device/launch.cuh"
#include "flush.cuh"
#include "kernels.hpp"

namespace gradhess::cuda::tensor {
namespace {

// C += the sums of all segments, in the order of their rows: what one thread block would have added one by one.
// One block of 256 threads for each tile.
constexpr int kAddThreads = 256;

__global__ void __launch_bounds__(kAddThreads) add_partial_sums_kernel(UpdateJob job) {
    UpdateJob direct = job;
    direct.partial = nullptr;
    const TileWork work = work_of(direct, static_cast<Index>(blockIdx.x));
    // As a warp holds them: four neighbours of a row, 8 lanes for each row.
    for (int item = device::thread_number(); item < kTensorTile * kTensorTile / 8; item += kAddThreads) {
        const int row = item / (kTensorTile / 8);
        const int column = item % (kTensorTile / 8) / 4 * 32 + item % 4 * 2;
        for (Index segment = 0; segment < job.segments; ++segment) {
            const float* kept =
                job.partial + (segment * job.tiles + work.tile) * kTileEntries + row * kTensorTile + column;
            float sums[kFlushPairs][2];
#pragma unroll
            for (int i = 0; i < kFlushPairs; ++i) {
                sums[i][0] = kept[8 * i];
                sums[i][1] = kept[8 * i + 1];
            }
            flush_row(direct, work, row, column, sums);
        }
    }
}

// Copies what the updates computed to the entries that are equal by symmetry: inside each block of `columns` columns,
// and from blocks below the diagonal to those above it. One thread for each entry on or above the diagonal of a block,
// 32 x 8 entries in a thread block of 256.
constexpr int kMirrorRows = 8;
constexpr int kMirrorColumns = 32;

template <class Scatter>
__global__ void __launch_bounds__(kMirrorRows* kMirrorColumns)
    mirror_kernel(Scatter* gram, Index gram_pitch, Index columns, Index blocks) {
    const Index across = (columns + kMirrorColumns - 1) / kMirrorColumns;
    const Index down = (columns + kMirrorRows - 1) / kMirrorRows;
    const Index items = across * down * triangle_tiles(blocks);
    for (Index item = blockIdx.x; item < items; item += gridDim.x) {
        const TilePosition pair = tile_position(item / (across * down));
        const Index place = item % (across * down);
        const Index i = place / across * kMirrorRows + device::thread_number() / kMirrorColumns;
        const Index j = place % across * kMirrorColumns + device::thread_number() % kMirrorColumns;
        if (i >= columns || j > i) continue;
        const Index p = pair.row * columns;
        const Index q = pair.column * columns;
        const Scatter value = gram[(p + i) * gram_pitch + q + j];
        gram[(p + j) * gram_pitch + q + i] = value;
        gram[(q + j) * gram_pitch + p + i] = value;
        gram[(q + i) * gram_pitch + p + j] = value;
    }
}

}  // namespace

Status launch_add_partial_sums(const UpdateJob& job, Stream stream) {
    device::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(job.tiles));
    shape.threads = kAddThreads;
    shape.stream = stream;
    return device::launch(shape, add_partial_sums_kernel, job);
}

Status launch_mirror(void* gram, bool gram_is_float, Index gram_pitch, Index columns, Index blocks, Index grid,
                     Stream stream) {
    device::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(grid));
    shape.threads = kMirrorRows * kMirrorColumns;
    shape.stream = stream;
    if (gram_is_float)
        return device::launch(shape, mirror_kernel<float>, static_cast<float*>(gram), gram_pitch, columns, blocks);
    return device::launch(shape, mirror_kernel<double>, static_cast<double*>(gram), gram_pitch, columns, blocks);
}

}  // namespace gradhess::cuda::tensor
