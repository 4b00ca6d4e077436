// One block of rows of per-sample gradients in device memory, as plain data: what the row pass reads and writes.
// Mirrors Block and Panel of gradhess/_backends/cupy/engine.py, which give the formulas. No CUDA, no Python.
#pragma once

#include "portable.hpp"

namespace gradhess::cuda {

using Index = std::int64_t;

enum class DType : int { f64, f32, f16, bf16 };

// Codes in the order of loss_formulas.SCALAR_LOSSES; `custom` is known to kernels that are compiled at run time.
enum class Loss : int { none = -1, squared, logistic, poisson, huber, custom };

enum class RowKind : int { dense, gradient, hessian };

// Row i of X starts at data + i row_stride, its entry j is column_stride further each; both count elements.
struct Block {
    const void* data = nullptr;
    DType dtype = DType::f64;
    Index samples = 0;
    Index features = 0;  // d, without the unit column
    Index row_stride = 0;
    Index column_stride = 1;
    RowKind kind = RowKind::dense;
    bool unit_column = false;
    Loss loss = Loss::none;
    double parameter = 0.0;
    const void* y = nullptr;  // (samples,) of float32 or float64
    bool y_is_float = false;
    const double* coef = nullptr;         // (features,)
    const double* intercept = nullptr;    // (1,) or null
    const double* loss_weight = nullptr;  // c, (samples,) or null
    // Instead of a loss: c l' of gradient rows, (samples, outputs), or c l'' of Hessian rows; and c l, (samples,), of
    // dense rows, too.
    const double* slopes = nullptr;
    const double* values = nullptr;
    Index outputs = 1;                // k; more than 1 only with slopes
    const double* weights = nullptr;  // (samples,) of any sign, or null
    const void* shift = nullptr;      // (parameters,) of the compute type, or null
    const Index* gate = nullptr;      // (1,); a number >= 0 makes all rows zero
    Index first_row = 0;              // added to the index of a row in `bad`

    GRADHESS_HOST_DEVICE Index width() const { return features + (unit_column ? 1 : 0); }
    GRADHESS_HOST_DEVICE Index parameters() const { return width() * (kind == RowKind::gradient ? outputs : 1); }
    // Whether the kernel evaluates a loss.
    GRADHESS_HOST_DEVICE bool predicted() const { return loss != Loss::none && !slopes; }
    GRADHESS_HOST_DEVICE bool weighted() const { return weights != nullptr || kind == RowKind::hessian; }
};

// Where the row pass writes. Pointers that are null are not written.
struct Panel {
    // (samples, pitch) of the compute type: z_i = g_i - shift; entries from `parameters` to `pitch` are zero. The
    // pitch is a multiple of 8 and the address one of 16 bytes.
    void* rows = nullptr;
    Index pitch = 0;
    // The same as 16-bit planes: see planes.hpp.
    std::uint16_t* planes = nullptr;
    int plane_count = 0;
    bool half = false;  // float16, else bfloat16
    Index plane_stride = 0;
    const std::int32_t* exponents = nullptr;
    std::int32_t* overflow = nullptr;  // set to 1 where a number is beyond the range of float16

    double* row_weight = nullptr;  // (samples,): w_i, the product of both weights
    double* sums = nullptr;        // (parameters,): sum_i w_i z_i
    double* squares = nullptr;     // (parameters,): sum_i w_i z_i^2
    double* totals = nullptr;      // (3,): sum w, sum w^2, sum c l
    Index* bad = nullptr;          // (1,): lowered to the first row that is not finite
};

GRADHESS_HOST_DEVICE inline bool computes_in_float(DType dtype) { return dtype != DType::f64; }

}  // namespace gradhess::cuda
