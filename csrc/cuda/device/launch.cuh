// Puts a kernel into a stream, and the few other calls of the CUDA runtime. Nothing here waits for the device.
#pragma once

#include <exception>
#include <string>

#include "../status.hpp"
#include "platform.cuh"

namespace gradhess::cuda::device {

struct LaunchShape {
    dim3 grid;
    int threads = 0;  // of a block
    std::size_t shared_bytes = 0;
    void* stream = nullptr;  // a cudaStream_t
    unsigned cluster = 1;    // blocks along x; more than 1 from sm_90 on
    const char* file;        // where the launch was written
    int line;

    // As default arguments these are the place of the declaration.
    explicit LaunchShape(const char* at_file = __builtin_FILE(), int at_line = __builtin_LINE())
        : file(at_file), line(at_line) {}
};

constexpr int kLaunchFailure = 719;  // cudaErrorLaunchFailure

#if defined(GRADHESS_CUDA_EMULATOR)

template <class... Parameters, class... Arguments>
Status launch(const LaunchShape& shape, void (*kernel)(Parameters...), const Arguments&... arguments) {
    try {
        cuda_emulator::emulator().launch(
            {shape.grid, dim3(static_cast<unsigned>(shape.threads)), shape.shared_bytes, shape.cluster},
            [&] { kernel(arguments...); });
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

template <class... Parameters, class... Arguments>
Status launch(const LaunchShape& shape, void (*kernel)(Parameters...), const Arguments&... arguments) {
    if (shape.shared_bytes > (48u << 10)) {
        const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                       static_cast<int>(shape.shared_bytes));
        if (error != cudaSuccess) {
            cudaGetLastError();  // taken here, so nobody else meets it
            return status_of(error, shape.file, shape.line);
        }
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = static_cast<cudaStream_t>(shape.stream);
    cudaLaunchAttribute attribute = {};
    if (shape.cluster > 1) {
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim.x = shape.cluster;
        attribute.val.clusterDim.y = 1;
        attribute.val.clusterDim.z = 1;
        config.attrs = &attribute;
        config.numAttrs = 1;
    }
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
    if (error != cudaSuccess) cudaGetLastError();
    return status_of(error, shape.file, shape.line);
}

#endif

}  // namespace gradhess::cuda::device
