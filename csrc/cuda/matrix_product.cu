// Chooses and launches products of two matrices: see matrix_product.cuh.
#include "matrix_product.cuh"

#include <utility>

#include "device/launch.cuh"

namespace gradhess::cuda {
namespace {

using namespace products;

// Of partial sums; beyond it a thread block takes all segments of its tile, however few tiles there are.
constexpr Index kMostWorkspace = Index{256} << 20;

Index tiles_of(Index entries) { return (entries + kTile - 1) / kTile; }

template <bool LEFT_APART, bool RIGHT_APART>
Status launch_product(const Job& job, device::LaunchShape& shape) {
    shape.shared_bytes =
        kStages * sizeof(double) * (PanelLayout<LEFT_APART>::kNumbers + PanelLayout<RIGHT_APART>::kNumbers);
    return device::launch(shape, matrix_product_kernel<LEFT_APART, RIGHT_APART>, job);
}

Status launch_as(const Job& job, device::LaunchShape& shape) {
    if (job.left.terms_apart)
        return job.right.terms_apart ? launch_product<true, true>(job, shape) : launch_product<true, false>(job, shape);
    return job.right.terms_apart ? launch_product<false, true>(job, shape) : launch_product<false, false>(job, shape);
}

}  // namespace

Index matrix_product_workspace(Index rows, Index columns, Index terms) {
    const Index segments = (terms + kSegmentTerms - 1) / kSegmentTerms;
    const Index bytes = segments * rows * columns * static_cast<Index>(sizeof(double));
    return segments > 1 && tiles_of(rows) * tiles_of(columns) < kTargetBlocks && bytes <= kMostWorkspace ? bytes : 0;
}

Status matrix_product(MatrixProduct product, void* workspace, Stream stream) {
    if (product.left.entries == 0 || product.right.entries == 0) return {};
    // Fewer rows than columns: the warps of a tile with few rows still lie on all parts of a multiprocessor.
    if (product.left.entries > product.right.entries) {
        std::swap(product.left, product.right);
        std::swap(product.row_stride, product.column_stride);
    }
    Job job{};
    job.left = product.left;
    job.right = product.right;
    job.terms = product.terms;
    job.out = product.out;
    job.row_stride = product.row_stride;
    job.column_stride = product.column_stride;
    job.tile_rows = tiles_of(job.left.entries);
    job.tile_columns = tiles_of(job.right.entries);
    job.segments = product.terms > 0 ? (product.terms + kSegmentTerms - 1) / kSegmentTerms : 1;
    job.partial = job.segments > 1 ? static_cast<double*>(workspace) : nullptr;
    job.add = product.add;
    const Index tiles = job.tile_rows * job.tile_columns;
    const Index units = job.partial ? tiles * job.segments : tiles;
    const Index most = product.blocks > 0 ? product.blocks : Index{1} << 30;
    device::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(units < most ? units : most));
    shape.threads = kThreads;
    shape.stream = stream;
    const Status status = launch_as(job, shape);
    if (!status.ok() || !job.partial) return status;
    shape.grid = dim3(static_cast<unsigned>((job.left.entries * job.right.entries + kFoldThreads - 1) / kFoldThreads));
    shape.threads = kFoldThreads;
    shape.shared_bytes = 0;
    return device::launch(shape, add_segments_kernel, job);
}

}  // namespace gradhess::cuda
