// Instances of update_wgmma.cuh, and whether the current device can run them.
#include "update_wgmma.cuh"

#include "../device/launch.cuh"
#include "kernels.hpp"

namespace gradhess::cuda::tensor {
namespace {

template <int SCHEME>
Status launch_scheme_wgmma(const TensorMap& left, const TensorMap& right, const UpdateJob& job,
                           device::LaunchShape shape) {
    shape.shared_bytes = WgmmaTuning<SCHEME>::shared_bytes;
    return device::launch(shape, update_wgmma_kernel<SCHEME>, left, right, job);
}

#if defined(GRADHESS_CUDA_EMULATOR)
Index multiprocessors() { return 132; }
#else
int attribute_of_device(cudaDeviceAttr attribute) {
    int device = 0;
    int value = 0;
    if (cudaGetDevice(&device) != cudaSuccess || cudaDeviceGetAttribute(&value, attribute, device) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    return value;
}

Index multiprocessors() { return attribute_of_device(cudaDevAttrMultiProcessorCount); }
#endif

}  // namespace

bool has_wgmma() {
#if defined(GRADHESS_CUDA_EMULATOR)
    return true;
#else
    if (attribute_of_device(cudaDevAttrComputeCapabilityMajor) != 9 ||
        attribute_of_device(cudaDevAttrComputeCapabilityMinor) != 0) {
        return false;
    }
    // Compiled for 9.0a? Code for plain 9.0, which a driver may have made from PTX, is empty: it needs few registers.
    cudaFuncAttributes attributes = {};
    if (cudaFuncGetAttributes(&attributes, update_wgmma_kernel<static_cast<int>(Scheme::bf16x6)>) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    return attributes.numRegs > 64;
#endif
}

Status launch_wgmma(Scheme scheme, const UpdateJob& job, Index grid, Stream stream) {
    const SchemeTable& table = kSchemeTable[static_cast<int>(scheme)];
    TensorMap left;
    TensorMap right;
    Status status =
        encode_planes(left, job.left.data, job.left.pitch, job.rows, table.left_planes, job.left.plane_stride);
    if (!status.ok()) return status;
    status =
        encode_planes(right, job.right.data, job.right.pitch, job.rows, table.right_planes, job.right.plane_stride);
    if (!status.ok()) return status;

    const Index resident = multiprocessors();  // one block on each; blocks walk over the items
    device::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(resident > 0 && resident < grid ? resident : grid));
    shape.threads = kWgmmaThreads;
    shape.stream = stream;
    first_true<0, kSchemes>([&](auto number) {
        constexpr int value = decltype(number)::value;
        if (static_cast<int>(scheme) != value) return false;
        status = launch_scheme_wgmma<value>(left, right, job, shape);
        return true;
    });
    return status;
}

}  // namespace gradhess::cuda::tensor
