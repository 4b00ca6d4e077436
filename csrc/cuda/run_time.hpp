// Kernels over a loss of the caller's: the same templates, compiled at run time by somebody else (NVRTC, through CuPy),
// who is told here what to compile and to launch.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "status.hpp"

namespace gradhess::cuda {

struct KernelCall {
    std::string function;  // a template of this namespace with its arguments, all but the last: the loss
    std::string job;       // the type of its one argument, which is passed by value
    std::string bounds;    // threads, and blocks of a multiprocessor
    unsigned grid = 0;
    int threads = 0;
    std::size_t shared_bytes = 0;
    const void* job_data = nullptr;
    std::size_t job_bytes = 0;
};

// Empty: the kernels of this module, over the losses that they know.
using RunTimeLaunch = std::function<Status(const KernelCall&)>;

}  // namespace gradhess::cuda
