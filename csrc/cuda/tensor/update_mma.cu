// Instances of update_mma.cuh.
#include "update_mma.cuh"

#include "../device/launch.cuh"
#include "kernels.hpp"

namespace gradhess::cuda::tensor {
namespace {

template <int SCHEME>
Status launch_scheme(const UpdateJob& job, device::LaunchShape shape) {
    shape.shared_bytes = MmaTuning<SCHEME>::shared_bytes;
    return device::launch(shape, update_mma_kernel<SCHEME>, job);
}

}  // namespace

Status launch_mma(Scheme scheme, const UpdateJob& job, Index grid, void* stream) {
    device::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(grid));
    shape.threads = kMmaThreads;
    shape.stream = stream;
    Status status;
    unrolled<0, kSchemes>([&](auto number) {
        constexpr int value = decltype(number)::value;
        if (static_cast<int>(scheme) == value) status = launch_scheme<value>(job, shape);
    });
    return status;
}

Status launch_add_partial_sums(const UpdateJob& job, void* stream) {
    device::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(job.tiles));
    shape.threads = kAddThreads;
    shape.stream = stream;
    return device::launch(shape, add_partial_sums, job);
}

Status launch_mirror(double* gram, Index gram_pitch, Index columns, Index blocks, Index grid, void* stream) {
    device::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(grid));
    shape.threads = kMirrorRows * kMirrorColumns;
    shape.stream = stream;
    return device::launch(shape, mirror_kernel, gram, gram_pitch, columns, blocks);
}

}  // namespace gradhess::cuda::tensor
