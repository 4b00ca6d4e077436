// What the CUDA module offers, free of CUDA and Python headers (C++17, as nvcc compiles it).
#pragma once

#include <cstdint>
#include <string>

#include "block.hpp"
#include "run_time.hpp"
#include "status.hpp"
#include "stream.hpp"

namespace gradhess::cuda {

int runtime_version();  // as CUDART_VERSION: 13000 is 13.0
Status count_devices(int& count);
Status device_name(int device, std::string& name);

// Bytes of device memory that a row pass of this size writes its partial sums to.
Index row_pass_workspace(Index samples, Index parameters);

// The row pass: z and its sums into the panel (see rowpass.cuh). `workspace` is aligned to 8 bytes. A block of
// Loss::custom needs `run_time`, here and below.
Status row_pass(const Block& block, const Panel& panel, void* workspace, Stream stream,
                const RunTimeLaunch& run_time = {});

// Slopes (samples,) and values (samples,) of rows with a loss, as the row pass computes them: see row_slopes.cuh.
Status row_slopes(const Block& block, double* slopes, double* values, Stream stream,
                  const RunTimeLaunch& run_time = {});

// Bytes of device memory for the partial sums of a rank update of that many rows and columns; 0 where none are needed.
Index rank_update_workspace(DType dtype, Index samples, Index columns);

// scatter += sum_i w_i z_i z_i^T, the lower triangle of (columns, columns), C-contiguous, float64 or float32. `rows` is
// (samples, pitch) as a panel has them, of float64 or float32; row_weight is (samples,) or null for ones. `blocks` is
// the most thread blocks that run side by side, 0 for any number; the result does not depend on it.
struct RankUpdate {
    const void* rows = nullptr;
    DType dtype = DType::f64;
    Index samples = 0;
    Index columns = 0;
    Index pitch = 0;
    const double* row_weight = nullptr;
    void* scatter = nullptr;
    bool scatter_is_float = false;
    int blocks = 0;
};
Status rank_update(const RankUpdate& update, void* workspace, Stream stream);

// A float64 matrix of `entries` columns (or rows) of as many terms as the product sums: number (term, entry) lies at
// data[term * pitch + entry] where terms lie apart, else at data[entry * pitch + term].
struct Factor {
    const double* data = nullptr;
    Index entries = 0;
    Index pitch = 0;
    bool terms_apart = true;
};

// Bytes of device memory with which segments of terms are summed side by side; 0 where there are tiles enough.
Index matrix_product_workspace(Index rows, Index columns, Index terms);

// out[i * row_stride + j * column_stride] (+)= sum_t left(t, i) right(t, j): see matrix_product.cuh. The bits depend on
// neither the workspace (null: none) nor `blocks`, the most thread blocks that run side by side (0: any number).
struct MatrixProduct {
    Factor left;
    Factor right;
    Index terms = 0;
    double* out = nullptr;
    Index row_stride = 0;
    Index column_stride = 0;
    bool add = false;  // to what is there; else it is overwritten
    int blocks = 0;
};
Status matrix_product(MatrixProduct product, void* workspace, Stream stream);

// Bytes of device memory for the partial sums of narrow_update.
Index narrow_workspace(Index samples, Index parameters);

// row_pass and rank_update at once, for at most kMostNarrow parameters and one output; the panel's rows, row_weight and
// squares are not written.
constexpr Index kMostNarrow = 128;
Status narrow_update(const Block& block, const Panel& panel, void* scatter, bool scatter_is_float, void* workspace,
                     Stream stream, const RunTimeLaunch& run_time = {});

// Runs one small kernel on the current device and says whether it did: code 0 and *result == kSelfTest afterwards.
constexpr int kSelfTest = 496;
Status self_test(int* result, Stream stream);

}  // namespace gradhess::cuda
