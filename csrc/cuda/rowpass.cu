// Chooses and launches the row pass: see rowpass.cuh.
#include "rowpass.cuh"

#include "api.hpp"
#include "device/launch.cuh"
#include "device/row_types.cuh"

namespace gradhess::cuda {
namespace {

using namespace rowpass;

template <class Source, class T, bool STAGED>
Status launch_rows(const Job& job, const device::LaunchShape& shape, const RunTimeLaunch& run_time) {
    KernelCall call;
    call.function = "rowpass::pass_rows<" + device::name_of_type<Source>() + ", " + device::name_of_type<T>() +
                    (STAGED ? ", true" : ", false");
    call.job = "rowpass::Job";
    call.bounds = std::to_string(kThreads) + ", " + std::to_string(kBlocks);
    return device::launch_rows(shape, rowpass_kernel<Source, T, STAGED>, job.block.loss, run_time, call, job);
}

template <class Source, class T>
Status launch_as(Job& job, Stream stream, const RunTimeLaunch& run_time) {
    constexpr Index item = sizeof(Source);
    const Block& block = job.block;
    job.tile_rows = rowpass::tile_rows(block.features, item);
    job.staged_pitch = rowpass::staged_pitch(block.features, item);
    const bool in_shared = staged(block.features, item);
    device::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(segments(block.samples)));
    shape.threads = kThreads;
    shape.shared_bytes = static_cast<std::size_t>(shared_bytes(job, item, in_shared));
    shape.stream = stream;
    return in_shared ? launch_rows<Source, T, true>(job, shape, run_time)
                     : launch_rows<Source, T, false>(job, shape, run_time);
}

}  // namespace

Index row_pass_workspace(Index samples, Index parameters) {
    return static_cast<Index>(sizeof(double)) * workspace_doubles(samples, parameters);
}

Status row_pass(const Block& block, const Panel& panel, void* workspace, Stream stream, const RunTimeLaunch& run_time) {
    const Index count = segments(block.samples);
    Job job{};
    job.block = block;
    job.panel = panel;
    job.parameters = block.parameters();
    job.width = block.width();
    job.column_threads = column_threads(panel.pitch);
    job.partial_sums = static_cast<double*>(workspace);
    job.partial_squares = job.partial_sums + count * job.parameters;
    job.partial_totals = job.partial_squares + count * job.parameters;
    if (count > 0) {
        const Status status = device::with_row_types(block.dtype, [&](auto types) {
            using Types = decltype(types);
            return launch_as<typename Types::Source, typename Types::Number>(job, stream, run_time);
        });
        if (!status.ok()) return status;
    }
    device::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>((job.parameters + 3 + device::kWarp - 1) / device::kWarp));
    shape.threads = kThreads;
    shape.shared_bytes = sizeof(double) * kThreads;
    shape.stream = stream;
    return device::launch(shape, add_segments_kernel<double>, job, count);
}

}  // namespace gradhess::cuda
