// 16-bit planes: rows y of float32 or float64 written as a short sum of 16-bit floats, so that tensor cores can
// multiply them.
//
// Formula:  y_j 2^(e_j) = plane_0 + plane_1 + ... (largest first), each the remainder so far, rounded to nearest even.
//           C_ij += 2^(-e_i - e_j) sum over rows of sum over products (a, b) of left plane_a,i  right plane_b,j
// Layout:   plane p of row k, column j is data[p * plane_stride + k * pitch + j]; pitch and plane_stride are multiples
//           of 8 elements and data is aligned to 16 bytes (TMA and 16-byte copies need that). Columns from `columns`
//           up to the pitch are zero. Rows beyond `rows` are never read.
// Order:    of summation, for one entry of C: blocks of `promote_rows` global rows; inside a block first the low-order
//           products, 16 rows at a time, all but the last of `products` in their order for each 16 rows, then the last
//           (hi hi), 16 rows at a time, all in the tensor core's float32 accumulator, which truncates. Blocks join a
//           float32 sum, rounded to nearest; the sum joins float64 C at every kFlushRows global rows and at the end.
//           tests/tensor_core_model.py reads these constants and tables from this file.
// Source:   Henry, Tang and Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision
//           computations" (2019); Ootomo and Yokota, "Recovering single precision accuracy from Tensor Cores" (2022).
#pragma once

#include "portable.hpp"

namespace gradhess::cuda {

enum class Scheme : int {
    bf16,        // one plane, one product: rows that are bfloat16 already; exact products
    fp16,        // the same for float16
    bf16x3,      // two planes of 8 bits, without lo lo: errors of about 3e-6 of C_ii; for those who want speed
    bf16x6,      // three planes of 8 bits, 24 together: as accurate as float32, and the default
    fp16x3,      // two planes of 11 bits, 22 together, columns scaled by powers of two: half the work of bf16x6
    bf16_left2,  // exact bfloat16 rows on the right, rows times a weight in two planes on the left
    bf16_left3,  // the same in three planes
};
constexpr int kSchemes = 7;

struct Product {
    int left;   // plane of the operand that gives the rows of C
    int right;  // plane of the operand that gives its columns
};

struct SchemeTable {
    int left_planes;
    int right_planes;
    bool half;  // float16 instead of bfloat16
    int product_count;
    Product products[6];   // smallest first, hi hi last
    int mma_promote_rows;  // by mma.sync (one stage of its pipeline; its shared memory holds no more)
    int wgmma_promote_rows;
};

constexpr std::int64_t kFlushRows = 16384;  // global rows between additions of float32 sums to float64 C
constexpr int kInstructionRows = 16;        // rows that one mma or wgmma of 16-bit operands multiplies and adds
constexpr int kPlaneAlign = 8;              // elements; 16 bytes
constexpr int kTensorTile = 128;            // columns of C, and rows, that one thread block computes

// clang-format off
constexpr SchemeTable kSchemeTable[kSchemes] = {
    /* bf16       */ {1, 1, false, 1, {{0, 0}}, 128, 128},
    /* fp16       */ {1, 1, true, 1, {{0, 0}}, 128, 128},
    /* bf16x3     */ {2, 2, false, 3, {{0, 1}, {1, 0}, {0, 0}}, 64, 64},
    /* bf16x6     */ {3, 3, false, 6, {{0, 2}, {1, 1}, {2, 0}, {0, 1}, {1, 0}, {0, 0}}, 32, 64},
    /* fp16x3     */ {2, 2, true, 3, {{0, 1}, {1, 0}, {0, 0}}, 64, 64},
    /* bf16_left2 */ {2, 1, false, 2, {{1, 0}, {0, 0}}, 64, 64},
    /* bf16_left3 */ {3, 1, false, 3, {{2, 0}, {1, 0}, {0, 0}}, 64, 64},
};
// clang-format on

GRADHESS_HOST_DEVICE constexpr std::int64_t plane_pitch(std::int64_t columns) {
    return (columns + kPlaneAlign - 1) / kPlaneAlign * kPlaneAlign;
}

struct Planes {
    std::uint16_t* data = nullptr;
    int count = 0;  // planes
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    std::int64_t pitch = 0;         // elements from row to row
    std::int64_t plane_stride = 0;  // elements from plane to plane
    // e_j, (columns,), in device memory; null for zeros. Only float16 planes need them.
    const std::int32_t* exponents = nullptr;
};

// The bytes of planes of this many rows and columns.
GRADHESS_HOST_DEVICE constexpr std::int64_t plane_bytes(int count, std::int64_t rows, std::int64_t columns) {
    return 2 * count * rows * plane_pitch(columns);
}

}  // namespace gradhess::cuda
