// What the tensor-core kernels offer, free of CUDA and Python headers. Everything is put into `stream`
// of the current device; nothing waits. Shapes and alignments are checked by the caller.
#pragma once

#include <cstdint>

#include "../planes.hpp"
#include "../status.hpp"
#include "../stream.hpp"

namespace gradhess::cuda::tensor {

using Index = std::int64_t;

// Rows of float32 or float64 (is_double) in device memory, row i at data + i * row_stride elements.
struct SplitRows {
    const void* data = nullptr;
    bool is_double = false;
    Index rows = 0;
    Index columns = 0;
    Index row_stride = 0;
    // Row i of block p of the planes is row i of the data times factors[i * factor_stride + p]; null: ones.
    const double* factors = nullptr;
    Index factor_stride = 1;
    Index blocks = 1;       // outputs of outer rows; the planes have blocks * block_pitch columns
    Index block_pitch = 0;  // a multiple of 8; unused for one block
};

// Bytes of workspace of column_exponents.
Index column_exponents_workspace(Index rows, Index columns);

// exponents[j] such that max |y_j| 2^exponents[j] lies in [2^largest, 2^(largest + 1)). float16 planes hold numbers up
// to 65504: with largest = 15 - h, rows to come may be 2^h times larger before they overflow.
Status column_exponents(const SplitRows& rows, std::int32_t* exponents, int largest, void* workspace, Stream stream);

// Writes planes.count planes, of planes.rows rows and planes.pitch columns, of float16 (half) or bfloat16. *overflow,
// if not null, becomes 1 where a number is beyond the range or not finite, and is left alone otherwise: then the result
// is to be thrown away and bf16x6 used.
Status split_rows(const SplitRows& rows, const Planes& planes, bool half, std::int32_t* overflow, Stream stream);

enum class Kernel : int { automatic, mma, wgmma };

// What `automatic` is on the current device: wgmma, mma, or automatic itself where updates cannot run.
Kernel best_kernel();

// C += 2^(-e_i - e_j) left^T right: entries on and below the diagonal, inside each block if there are several.
struct Update {
    Scheme scheme = Scheme::bf16x6;
    Planes left;            // the same data and pitch as `right` for a plain square
    Planes right;           // rows as left
    Index first_row = 0;    // global number of the first row; a multiple of kUpdateRowAlign
    Index columns = 0;      // of a block of C
    Index blocks = 1;       // outputs of outer rows: C has blocks * columns rows
    Index block_pitch = 0;  // columns of the planes from block to block, a multiple of 8; unused for one block
    void* gram = nullptr;   // float64, or float32
    bool gram_is_float = false;
    Index gram_pitch = 0;
    Kernel kernel = Kernel::automatic;
    int grid = 0;  // the most thread blocks that run side by side; 0: what the device takes. Results do not change.
};

constexpr Index kUpdateRowAlign = 128;  // every promotion interval divides it

// Bytes of workspace: 0 where there are tiles enough for the device. Results are the same bits without it (null).
Index update_workspace(Index first_row, Index rows, Index columns, Index blocks);

Status update(const Update& update, void* workspace, Stream stream);

// Writes the entries of C that updates leave out because they are equal by symmetry.
Status mirror(void* gram, bool gram_is_float, Index gram_pitch, Index columns, Index blocks, Stream stream);

}  // namespace gradhess::cuda::tensor
