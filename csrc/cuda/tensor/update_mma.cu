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

bool has_mma() {
#if defined(GRADHESS_CUDA_EMULATOR)
    return true;
#else
    int device = 0;
    int bytes = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    int needed = 0;
    first_true<0, kSchemes>([&](auto number) {
        constexpr int scheme_bytes = MmaTuning<decltype(number)::value>::shared_bytes;
        if (needed < scheme_bytes) needed = scheme_bytes;
        return false;
    });
    return bytes >= needed;  // an A100 and an H100 have it; chips for graphics have 99 KiB
#endif
}

Status launch_mma(Scheme scheme, const UpdateJob& job, Index grid, Stream stream) {
    device::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(grid));
    shape.threads = kMmaThreads;
    shape.stream = stream;
    Status status;
    first_true<0, kSchemes>([&](auto number) {
        constexpr int value = decltype(number)::value;
        if (static_cast<int>(scheme) != value) return false;
        status = launch_scheme<value>(job, shape);
        return true;
    });
    return status;
}

}  // namespace gradhess::cuda::tensor
