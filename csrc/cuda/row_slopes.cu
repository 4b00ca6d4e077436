// Chooses and launches the kernel of slopes: see row_slopes.cuh.
#include "row_slopes.cuh"

#include "api.hpp"
#include "device/row_types.cuh"

namespace gradhess::cuda {

Status row_slopes(const Block& block, double* to_slopes, double* to_values, Stream stream,
                  const RunTimeLaunch& run_time) {
    if (block.samples == 0) return {};
    const slopes::Job job{block, to_slopes, to_values};
    device::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>((block.samples + slopes::kBlockRows - 1) / slopes::kBlockRows));
    shape.threads = slopes::kThreads;
    shape.stream = stream;
    return device::with_row_types(block.dtype, [&](auto types) {
        using Source = typename decltype(types)::Source;
        KernelCall call;
        call.function = "slopes::write_slopes<" + device::name_of_type<Source>();
        call.job = "slopes::Job";
        call.bounds = std::to_string(slopes::kThreads) + ", " + std::to_string(slopes::kBlocks);
        return device::launch_rows(shape, slopes::row_slopes_kernel<Source>, block.loss, run_time, call, job);
    });
}

}  // namespace gradhess::cuda
