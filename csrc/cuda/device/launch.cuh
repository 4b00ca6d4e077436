// Puts a kernel into a stream, and the few other calls of the CUDA runtime. Nothing here waits for the device.
#pragma once

#include <exception>
#include <string>

#include "../status.hpp"
#include "../stream.hpp"
#include "platform.cuh"

namespace gradhess::cuda::device {

struct LaunchShape {
    dim3 grid;
    int threads = 0;  // of a block
    std::size_t shared_bytes = 0;
    Stream stream;
    unsigned cluster = 1;  // blocks along x; more than 1 from sm_90 on
    const char* file;      // where the launch was written
    int line;

    // As default arguments these are the place of the declaration.
    explicit LaunchShape(const char* at_file = __builtin_FILE(), int at_line = __builtin_LINE())
        : file(at_file), line(at_line) {}
};

constexpr int kLaunchFailure = 719;  // cudaErrorLaunchFailure

#if defined(GRADHESS_CUDA_EMULATOR)

template <class... Parameters, class... Arguments>
Status launch(const LaunchShape& shape, void (*kernel)(Parameters...), const Arguments&... arguments) {
    auto& emulator = cuda_emulator::emulator();
    const cuda_emulator::Shape emulated{shape.grid, dim3(static_cast<unsigned>(shape.threads)), shape.shared_bytes,
                                        shape.cluster, reinterpret_cast<const void*>(kernel)};
    try {
        if (shape.stream.validate_only) {
            emulator.require_legal(emulated);
        } else {
            emulator.launch(emulated, [&] { kernel(arguments...); });
        }
    } catch (const std::exception& error) {
        return {kLaunchFailure, error.what(), shape.file, shape.line};
    }
    return {};
}

#else

inline Status status_of(cudaError_t error, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (error == cudaSuccess) return {};
    return {static_cast<int>(error), cudaGetErrorString(error), file, line};
}

// All that the current device refuses a launch for, without the launch: a kernel that does not load, a grid or a block
// beyond its limits, registers or shared memory for less than one block.
inline cudaError_t validate(const void* kernel, const cudaLaunchConfig_t& config, bool clustered) {
    cudaFuncAttributes attributes = {};
    cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);  // loads it
    int device = 0;
    if (error == cudaSuccess) error = cudaGetDevice(&device);
    const unsigned grid[3] = {config.gridDim.x, config.gridDim.y, config.gridDim.z};
    const cudaDeviceAttr limits[3] = {cudaDevAttrMaxGridDimX, cudaDevAttrMaxGridDimY, cudaDevAttrMaxGridDimZ};
    for (int i = 0; error == cudaSuccess && i < 3; ++i) {
        int most = 0;
        error = cudaDeviceGetAttribute(&most, limits[i], device);
        if (grid[i] < 1 || grid[i] > static_cast<unsigned>(most)) return cudaErrorInvalidConfiguration;
    }
    const int threads = static_cast<int>(config.blockDim.x);
    if (error != cudaSuccess) return error;
    if (threads < 1 || threads > attributes.maxThreadsPerBlock) return cudaErrorInvalidConfiguration;
    int resident = 0;
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, config.dynamicSmemBytes);
    if (error == cudaSuccess && resident > 0 && clustered) {
        error = cudaOccupancyMaxActiveClusters(&resident, kernel, &config);
    }
    return error == cudaSuccess && resident < 1 ? cudaErrorLaunchOutOfResources : error;
}

template <class... Parameters, class... Arguments>
Status launch(const LaunchShape& shape, void (*kernel)(Parameters...), const Arguments&... arguments) {
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = static_cast<cudaStream_t>(shape.stream.handle);
    cudaLaunchAttribute attribute = {};
    if (shape.cluster > 1) {
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim.x = shape.cluster;
        attribute.val.clusterDim.y = 1;
        attribute.val.clusterDim.z = 1;
        config.attrs = &attribute;
        config.numAttrs = 1;
    }
    cudaError_t error = cudaSuccess;
    if (shape.shared_bytes > (48u << 10)) {
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(shape.shared_bytes));
    }
    if (error == cudaSuccess) {
        error = shape.stream.validate_only ? validate(reinterpret_cast<const void*>(kernel), config, shape.cluster > 1)
                                           : cudaLaunchKernelEx(&config, kernel, arguments...);
    }
    if (error != cudaSuccess) cudaGetLastError();  // taken here, so nobody else meets it
    return status_of(error, shape.file, shape.line);
}

#endif

}  // namespace gradhess::cuda::device
