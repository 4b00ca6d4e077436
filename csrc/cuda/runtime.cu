// What is there: the runtime, the devices, and a kernel that shows that kernels run.
#include "api.hpp"
#include "device/launch.cuh"
#include "device/warp.cuh"

namespace gradhess::cuda {
namespace {

// The sum of the lane numbers of a warp: 0 + 1 + ... + 31.
__global__ void self_test_kernel(int* result) {
    const int sum = device::sum_lanes<device::kWarp>(device::lane_number());
    if (device::lane_number() == 0) *result = sum;
}

}  // namespace

#if defined(GRADHESS_CUDA_EMULATOR)

int runtime_version() { return 0; }

Status count_devices(int& count) {
    count = 1;
    return {};
}

Status device_name(int, std::string& name) {
    name = "emulator";
    return {};
}

#else

int runtime_version() { return CUDART_VERSION; }

Status count_devices(int& count) {
    count = 0;
    return device::status_of(cudaGetDeviceCount(&count));
}

Status device_name(int device, std::string& name) {
    cudaDeviceProp properties;
    const Status status = device::status_of(cudaGetDeviceProperties(&properties, device));
    if (status.ok()) name = properties.name;
    return status;
}

#endif

Status self_test(int* result, Stream stream) {
    device::LaunchShape shape;
    shape.threads = device::kWarp;
    shape.stream = stream;
    return device::launch(shape, self_test_kernel, result);
}

}  // namespace gradhess::cuda
