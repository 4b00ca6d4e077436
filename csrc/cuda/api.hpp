// What the CUDA module offers, free of CUDA and Python headers (C++17, as nvcc compiles it).
#pragma once

#include <cstdint>
#include <string>

#include "status.hpp"

namespace gradhess::cuda {

using Index = std::int64_t;

enum class DType : int { f64, f32 };

// Rows of data in device memory: row i starts at data + i * row_stride, counted in elements.
struct Rows {
    const void* data = nullptr;
    DType dtype = DType::f64;
    Index samples = 0;
    Index features = 0;
    Index row_stride = 0;
};

int runtime_version();  // as CUDART_VERSION: 13000 is 13.0
Status count_devices(int& count);
Status device_name(int device, std::string& name);

// gram += X^T diag(weights) X on the current device, in `stream` (a cudaStream_t), without waiting for it.
// `gram` is (features, features), C-contiguous float64; both triangles are written. `weights` is (samples,) float64
// of any sign, or null for ones. Shapes are checked by the caller.
Status weighted_gram(const Rows& rows, const double* weights, double* gram, void* stream);

}  // namespace gradhess::cuda
