// Chooses the kernel and the shape of a launch of the rank-k update from planes.
#include "../device/platform.cuh"
#include "api.hpp"
#include "kernels.hpp"

namespace gradhess::cuda::tensor {
namespace {

// Below this many waves of thread blocks on the device that the kernels are written for (132 multiprocessors, one
// block on each), segments of the rows are summed side by side. Results do not depend on it.
constexpr Index kFewTiles = 4 * 132;
constexpr Index kMostGrid = Index{1} << 30;  // more loop
constexpr int kNotSupported = 801;           // cudaErrorNotSupported
constexpr Index kMostMirrorGrid = Index{1} << 20;

Operand operand_of(const Planes& planes) { return {planes.data, planes.pitch, planes.plane_stride, planes.exponents}; }

Index at_most(Index number, Index limit) { return number < limit ? number : limit; }

}  // namespace

Index update_workspace(Index first_row, Index rows, Index columns, Index blocks) {
    const Index tiles = tiles_of_update(columns, blocks);
    const Index segments = segments_of(first_row, rows);
    if (segments < 2 || tiles >= kFewTiles) return 0;
    return segments * tiles * Index{kTensorTile} * kTensorTile * static_cast<Index>(sizeof(float));
}

Kernel best_kernel() {
    if (has_wgmma()) return Kernel::wgmma;
    return has_mma() ? Kernel::mma : Kernel::automatic;
}

Status update(const Update& update, void* workspace, Stream stream) {
    const Index rows = update.right.rows;
    if (rows == 0 || update.columns == 0 || update.blocks == 0) return {};
    UpdateJob job{};
    job.left = operand_of(update.left);
    job.right = operand_of(update.right);
    job.same = update.left.data == update.right.data && update.left.pitch == update.right.pitch &&
               update.left.plane_stride == update.right.plane_stride;
    job.rows = rows;
    job.first_row = update.first_row;
    job.columns = update.columns;
    job.blocks = update.blocks;
    job.block_pitch = update.block_pitch;
    job.gram = update.gram;
    job.gram_is_float = update.gram_is_float;
    job.gram_pitch = update.gram_pitch;
    job.tiles = tiles_of_update(update.columns, update.blocks);
    job.segments = segments_of(update.first_row, rows);
    const bool few = update_workspace(update.first_row, rows, update.columns, update.blocks) > 0;
    job.partial = few ? static_cast<float*>(workspace) : nullptr;

    const Index most = update.grid > 0 ? update.grid : kMostGrid;
    const Index grid = at_most(items_of(job), most);
    const Kernel kernel = update.kernel == Kernel::automatic ? best_kernel() : update.kernel;
    // An empty kernel would be launched without a complaint.
    if (kernel == Kernel::automatic || (kernel == Kernel::wgmma && !has_wgmma())) {
        return {kNotSupported, "this device cannot run the tensor-core kernel that was asked for", __FILE__, __LINE__};
    }
    const Status status = kernel == Kernel::wgmma ? launch_wgmma(update.scheme, job, grid, stream)
                                                  : launch_mma(update.scheme, job, grid, stream);
    if (!status.ok() || !job.partial) return status;
    return launch_add_partial_sums(job, stream);
}

Status mirror(void* gram, bool gram_is_float, Index gram_pitch, Index columns, Index blocks, Stream stream) {
    if (columns == 0 || blocks == 0) return {};
    // One thread block for each 32 x 8 entries; see mirror_kernel.
    const Index items = (columns + 31) / 32 * ((columns + 7) / 8) * triangle_tiles(blocks);
    return launch_mirror(gram, gram_is_float, gram_pitch, columns, blocks, at_most(items, kMostMirrorGrid), stream);
}

}  // namespace gradhess::cuda::tensor
