// What the bindings of the CUDA module have in common: addresses that come as integers, and a call whose status becomes
// an exception.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/status.hpp"
#include "cuda/stream.hpp"

namespace gradhess::bindings {

// gradhess._cuda.CudaError, a DeviceError, and CudaMemoryError, a DeviceMemoryError.
struct CudaError : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct CudaMemoryError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

constexpr int kMemoryAllocation = 2;  // cudaErrorMemoryAllocation

template <class T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

inline cuda::Stream stream_at(std::uintptr_t address, bool validate) { return {pointer<void>(address), validate}; }

inline void require(const char* what, const cuda::Status& status) {
    if (status.ok()) return;
    const std::string message = std::string(what) + ": CUDA error " + std::to_string(status.code) + " (" +
                                status.reason + ") at " + status.file + ":" + std::to_string(status.line);
    if (status.code == kMemoryAllocation) throw CudaMemoryError(message);
    throw CudaError(message);
}

// Calls without the GIL, since a launch can wait for a full queue.
template <class Call>
void run(const char* what, Call call) {
    cuda::Status status;
    {
        pybind11::gil_scoped_release release;
        status = call();
    }
    require(what, status);
}

}  // namespace gradhess::bindings
