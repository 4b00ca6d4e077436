// Where things are: the places of 16-bit tiles in shared memory, the addresses that lanes give to ldmatrix, the
// entries of C that each register of an accumulator holds, and the matrix descriptors of wgmma.
// Plain functions of integers, tested exhaustively on the host.
//
// Tiles hold rows of planes as they are: row k of the sum, 128 columns of 2 bytes. Columns are contiguous, which makes
// both operands "transposed" for the tensor core: ldmatrix.trans turns them around, and wgmma reads them so
// ("MN-major"), which it can for 16-bit types only.
#pragma once

#include <cstdint>

#include "../planes.hpp"

namespace gradhess::cuda::tensor {

constexpr int kChunkBytes = 16;                              // what one lane copies, and one row of ldmatrix
constexpr int kChunkElements = kChunkBytes / 2;              // 8 columns
constexpr int kTileRowBytes = 2 * kTensorTile;               // 256
constexpr int kTileRowChunks = kTileRowBytes / kChunkBytes;  // 16
constexpr int kBankBytes = 128;                              // one pass over all 32 banks
constexpr int kBoxColumns = 64;                              // of one TMA box: 128 bytes, the swizzle's width
constexpr int kBoxes = kTensorTile / kBoxColumns;            // boxes side by side in a tile

// ---- mma.sync: rows of 256 bytes, chunks permuted within the row ----------------------------------------------------

// Byte of chunk `chunk` of row `row` of a tile. Eight rows of one chunk, which ldmatrix reads together, lie in eight
// different groups of four banks; without the permutation they would lie in one.
GRADHESS_HOST_DEVICE constexpr int tile_byte(int row, int chunk) {
    return row * kTileRowBytes + (chunk ^ (row & 7)) * kChunkBytes;
}

struct Place {
    int row;     // of the sum, in a group of 16
    int column;  // of the tile, relative to the fragment's first
};

// The row of 8 entries whose address lane `lane` gives to ldmatrix.x4.trans, so that the registers are a fragment of A
// (16 columns of the left tile; rows of C) of m16n8k16 ...
GRADHESS_HOST_DEVICE constexpr Place left_address(int lane) { return {lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8}; }

// ... or two fragments of B (8 columns each of the right tile): registers 0, 1 the first, 2, 3 the second.
GRADHESS_HOST_DEVICE constexpr Place right_address(int lane) { return {lane / 8 % 2 * 8 + lane % 8, lane / 16 * 8}; }

// ---- TMA and wgmma: boxes of 64 columns (128 bytes), swizzled by 128 bytes ------------------------------------------

// Byte of (row, column) in a box as CU_TENSOR_MAP_SWIZZLE_128B writes it: bits 4 to 6 of the address are combined with
// bits 7 to 9. The box starts at a multiple of 1024 bytes.
GRADHESS_HOST_DEVICE constexpr int box_byte(int row, int column) {
    const int plain = row * kBankBytes + 2 * column;
    return plain ^ ((plain >> 7 & 7) << 4);
}

// Matrix descriptor of wgmma (PTX ISA, "Matrix descriptor"), for an operand of 16 rows of the sum whose columns are
// contiguous, in boxes as above: bits 0-13 the start, 16-29 the distance between boxes of 64 columns, 32-45 the
// distance between groups of 8 rows, all in units of 16 bytes; 49-51 zero, as boxes are aligned to 1024 bytes;
// 62-63 = 1, swizzle by 128 bytes.
GRADHESS_HOST_DEVICE constexpr std::uint64_t matrix_descriptor(std::uint32_t start, int bytes_between_boxes) {
    const auto field = [](std::uint64_t bytes) { return (bytes & 0x3ffffu) >> 4; };
    return field(start) | field(static_cast<std::uint64_t>(bytes_between_boxes)) << 16 | field(8 * kBankBytes) << 32 |
           std::uint64_t{1} << 62;
}

struct DescriptorFields {
    std::uint32_t start;
    std::uint32_t leading;  // bytes
    std::uint32_t stride;   // bytes
    int base_offset;
    int swizzle;
};

GRADHESS_HOST_DEVICE constexpr DescriptorFields descriptor_fields(std::uint64_t descriptor) {
    const auto field = [descriptor](int bit) { return static_cast<std::uint32_t>(descriptor >> bit & 0x3fffu) << 4; };
    return {field(0), field(16), field(32), static_cast<int>(descriptor >> 49 & 7), static_cast<int>(descriptor >> 62)};
}

// Byte address at which wgmma finds entry (column, row) of an operand: columns (M or N) contiguous, rows (K) 0 to 15.
// The swizzle works on address bits, whatever the start is.
GRADHESS_HOST_DEVICE constexpr std::uint32_t operand_byte(std::uint64_t descriptor, int column, int row) {
    const DescriptorFields fields = descriptor_fields(descriptor);
    const std::uint32_t plain = fields.start + static_cast<std::uint32_t>(column / kBoxColumns) * fields.leading +
                                static_cast<std::uint32_t>(row / 8) * fields.stride +
                                static_cast<std::uint32_t>(row % 8 * kBankBytes + 2 * (column % kBoxColumns));
    return plain ^ ((plain >> 7 & 7) << 4);
}

struct Cell {
    int row;
    int column;
};

// Entry of the 64 x 128 result that register `i` (of 64) of thread `thread` (of 128) of a warpgroup holds.
GRADHESS_HOST_DEVICE constexpr Cell wgmma_cell(int thread, int i) {
    return {thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8, i / 4 * 8 + thread % 4 * 2 + i % 2};
}

}  // namespace gradhess::cuda::tensor
