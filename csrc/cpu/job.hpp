// What the kernels are asked to do, as plain data: rows of per-sample gradients in, moments out.
// Mirrors gradhess/_backends/protocol.py, which gives the formulas. No Python, no instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gradhess::cpu {

using Index = std::int64_t;

enum class DType : int { f64, f32, f16, bf16, i8, i16, i32, i64, u8, u16, u32, u64, boolean };

inline std::size_t size_of(DType dtype) {
    switch (dtype) {
        case DType::f64:
        case DType::i64:
        case DType::u64: return 8;
        case DType::f32:
        case DType::i32:
        case DType::u32: return 4;
        case DType::f16:
        case DType::bf16:
        case DType::i16:
        case DType::u16: return 2;
        default: return 1;
    }
}

// Floats of at most 32 bits are computed with in float32, everything else in float64.
inline bool computes_in_float(DType dtype) {
    return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

// Codes in the order of loss_formulas.SCALAR_LOSSES.
enum class Loss : int { none = -1, squared, logistic, poisson, huber, softmax, custom };

enum class RowKind : int { dense, gradient, hessian };

enum class Structure : int { full, diagonal, sum };

// A loss compiled elsewhere: out[i] = f(eta[i], y[i]) for i < n.
using LossFunction = void (*)(const double* eta, const double* y, double* out, Index n);

struct CustomLoss {
    LossFunction value = nullptr;
    LossFunction first = nullptr;
    LossFunction second = nullptr;
};

// The rows g_i, never formed as a matrix. Strides count bytes and may be negative.
struct Rows {
    const void* data = nullptr;
    DType dtype = DType::f64;
    bool swapped = false;  // bytes in the other order
    Index samples = 0;
    Index features = 0;  // d, without the unit column
    Index row_stride = 0;
    Index column_stride = 0;
    RowKind kind = RowKind::dense;
    bool unit_column = false;
    Loss loss = Loss::none;
    double parameter = 0.0;
    CustomLoss custom;
    const void* y = nullptr;  // (samples,) of y_dtype: f64 or f32
    DType y_dtype = DType::f64;
    const double* coef = nullptr;       // (outputs, features)
    const double* intercept = nullptr;  // (outputs,) or null
    const double* loss_weight = nullptr;
    Index outputs = 1;

    [[gnu::always_inline]] Index width() const { return features + (unit_column ? 1 : 0); }
    [[gnu::always_inline]] Index row_outputs() const { return kind == RowKind::gradient ? outputs : 1; }
    [[gnu::always_inline]] Index parameters() const { return width() * row_outputs(); }
};

// Rows [first, first + count).
inline Rows part_of(Rows rows, Index first, Index count) {
    rows.data = static_cast<const char*>(rows.data) + first * rows.row_stride;
    rows.samples = count;
    if (rows.y) rows.y = static_cast<const char*>(rows.y) + first * static_cast<Index>(size_of(rows.y_dtype));
    if (rows.loss_weight) rows.loss_weight += first;
    return rows;
}

// The order of summation (gradhess/_backends/layout.py).
struct Layout {
    Index slab_rows = 256;
    Index block_rows = 4096;
};

// Positions in the scalar and count arrays of a state, as in protocol.py.
enum Scalar : int { kWeight, kWeightSquares, kLoss, kBlockWeight, kBlockWeightSquares, kBlockLoss };
enum Count : int { kRows, kBlockRows };

// Arrays of a MomentState, owned by the caller. Scatter is (p, p) with only the lower triangle used, or (p,).
struct Moments {
    Structure structure = Structure::full;
    bool centred = false;
    bool scatter_f32 = false;  // the accumulator type; double otherwise
    Index parameters = 0;
    void* scatter = nullptr;
    void* block_scatter = nullptr;
    double* location = nullptr;
    double* block_shift = nullptr;
    double* block_sum = nullptr;
    double* scalars = nullptr;
    Index* counts = nullptr;
};

// Asked now and then, on the calling thread, during long work; true means stop.
struct Interrupt {
    bool (*requested)(void* context) = nullptr;
    void* context = nullptr;
};

enum class Outcome : int { done, nonfinite, interrupted };

struct Result {
    Outcome outcome = Outcome::done;
    Index row = -1;  // of the first row that is not finite
};

}  // namespace gradhess::cpu
