// Chooses and launches the rank update: see rank_update.cuh.
#include "rank_update.cuh"

#include "device/launch.cuh"
#include "dmma.cuh"
#include "ffma.cuh"

namespace gradhess::cuda {
namespace {

using namespace rank;

// Floats are never summed over more than kMostSplitRows rows; below that number of rows a split is never cut.
Split split_of(DType dtype, Index samples, Index columns) {
    const Index tiles = triangle_tiles((columns + kTile - 1) / kTile);
    if (dtype == DType::f64) return split_rows(samples, tiles, kStageRows, 512);
    const Split cut = split_rows(samples, tiles, Ffma::kMostSplitRows / 8, 512);
    if (cut.split_rows <= Ffma::kMostSplitRows) return cut;
    return {(samples + Ffma::kMostSplitRows - 1) / Ffma::kMostSplitRows, Ffma::kMostSplitRows};
}

template <class Engine, class Scatter>
Status launch_update(const Job& job, const device::LaunchShape& shape) {
    return job.row_weight ? device::launch(shape, rank_update_kernel<Engine, Scatter, true>, job)
                          : device::launch(shape, rank_update_kernel<Engine, Scatter, false>, job);
}

template <class Engine, class Scatter>
Status launch_all(const RankUpdate& update, Job& job, Stream stream) {
    const Index units = job.splits * job.tiles;
    device::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(update.blocks > 0 && update.blocks < units ? update.blocks : units));
    shape.threads = kThreads;
    shape.shared_bytes = kStages * StageLayout<typename Engine::Number>::kBytes;
    shape.stream = stream;
    const Status status = launch_update<Engine, Scatter>(job, shape);
    if (!status.ok() || job.splits == 1) return status;
    shape.grid = dim3(static_cast<unsigned>(job.tiles));
    shape.shared_bytes = 0;
    return device::launch(shape, add_splits_kernel<Scatter>, job);
}

}  // namespace

Index rank_update_workspace(DType dtype, Index samples, Index columns) {
    const Index tiles = triangle_tiles((columns + kTile - 1) / kTile);
    const Split split = split_of(dtype, samples, columns);
    return split.splits > 1 ? split.splits * tiles * kTile * kTile * static_cast<Index>(sizeof(double)) : 0;
}

Status rank_update(const RankUpdate& update, void* workspace, Stream stream) {
    if (update.samples == 0 || update.columns == 0) return {};
    const Split split = split_of(update.dtype, update.samples, update.columns);
    Job job{};
    job.rows = update.rows;
    job.row_weight = update.row_weight;
    job.scatter = update.scatter;
    job.workspace = static_cast<double*>(workspace);
    job.samples = update.samples;
    job.columns = update.columns;
    job.pitch = update.pitch;
    job.tile_rows = (update.columns + kTile - 1) / kTile;
    job.tiles = triangle_tiles(job.tile_rows);
    job.splits = split.splits;
    job.split_rows = split.split_rows;
    if (update.dtype == DType::f64) {
        return update.scatter_is_float ? launch_all<Dmma, float>(update, job, stream)
                                       : launch_all<Dmma, double>(update, job, stream);
    }
    return update.scatter_is_float ? launch_all<Ffma, float>(update, job, stream)
                                   : launch_all<Ffma, double>(update, job, stream);
}

}  // namespace gradhess::cuda
