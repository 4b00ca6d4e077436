// Chooses and launches the kernel of narrow rows: see narrow.cuh.
#include "narrow.cuh"

#include "api.hpp"
#include "device/launch.cuh"
#include "device/row_types.cuh"

namespace gradhess::cuda {
namespace {

using namespace narrow;

template <class Source, class T, int SIDE, int SHARE>
Status launch_rows(const Job& job, Stream stream, const RunTimeLaunch& run_time) {
    constexpr Index squares_bytes = Index{SIDE} * (SIDE + 1) / 2 * kSquareEntries * 8;
    const Index tiles = kStages * job.rows.tile_rows * job.rows.staged_pitch * static_cast<Index>(sizeof(Source));
    device::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(segments(job.rows.block.samples)));
    shape.threads = kThreads;
    shape.shared_bytes =
        static_cast<std::size_t>((tiles > squares_bytes ? tiles : squares_bytes) + 8 * (kMostTileRows + kThreads) +
                                 static_cast<Index>(sizeof(T)) * (kMostTileRows + SIDE * kSquare));
    shape.stream = stream;
    KernelCall call;
    call.function = "narrow::update_rows<" + device::name_of_type<Source>() + ", " + device::name_of_type<T>() + ", " +
                    std::to_string(SIDE) + ", " + std::to_string(SHARE);
    call.job = "narrow::Job";
    call.bounds = std::to_string(kThreads) + ", 1";
    return device::launch_rows(shape, narrow_kernel<Source, T, SIDE, SHARE>, job.rows.block.loss, run_time, call, job);
}

template <class Source, class T>
Status launch_as(Job& job, Stream stream, const RunTimeLaunch& run_time) {
    const Block& block = job.rows.block;
    constexpr Index item = sizeof(Source);
    job.rows.tile_rows = narrow::tile_rows(block.features, item);
    job.rows.staged_pitch = tile_pitch(block.features, item);
    switch (squares(job.rows.parameters)) {
        case 4: return launch_rows<Source, T, 4, 1>(job, stream, run_time);
        case 8: return launch_rows<Source, T, 8, 1>(job, stream, run_time);
        default: return launch_rows<Source, T, 16, 4>(job, stream, run_time);
    }
}

}  // namespace

Index narrow_workspace(Index samples, Index parameters) {
    return static_cast<Index>(sizeof(double)) * segments(samples) * part_doubles(squares(parameters));
}

Status narrow_update(const Block& block, const Panel& panel, void* scatter, bool scatter_is_float, void* workspace,
                     Stream stream, const RunTimeLaunch& run_time) {
    Job job{};
    job.rows.block = block;
    job.rows.panel = panel;
    job.rows.parameters = block.parameters();
    job.rows.width = block.width();
    job.scatter = scatter;
    job.segment_rows = segment_rows(block.samples);
    job.parts = static_cast<double*>(workspace);
    if (block.samples > 0) {
        const Status status = device::with_row_types(block.dtype, [&](auto types) {
            using Types = decltype(types);
            return launch_as<typename Types::Source, typename Types::Number>(job, stream, run_time);
        });
        if (!status.ok()) return status;
    }
    const int side = squares(job.rows.parameters);
    device::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>((part_doubles(side) + device::kWarp - 1) / device::kWarp));
    shape.threads = kThreads;
    shape.shared_bytes = sizeof(double) * kThreads;
    shape.stream = stream;
    const Index count = segments(block.samples);
    return scatter_is_float ? device::launch(shape, add_parts_kernel<float>, job, count, side)
                            : device::launch(shape, add_parts_kernel<double>, job, count, side);
}

}  // namespace gradhess::cuda
