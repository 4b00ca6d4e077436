// One rank-k update from planes: what is added to which entries of C, and which tile and rows a thread block takes.
//
// C is a lower triangle of `blocks` x `blocks` blocks of `columns` x `columns` entries. A plain update has one block.
// Outer rows (delta_p a) have one for each pair of outputs p >= q, and every block A^T diag(delta_p delta_q) A is
// itself symmetric: only tiles on or below the diagonal of each block are computed, a quarter of the square.
#pragma once

#include <cstdint>

#include "../planes.hpp"
#include "../schedule.hpp"

namespace gradhess::cuda::tensor {

using Index = std::int64_t;

struct Operand {
    const std::uint16_t* data;
    Index pitch;
    Index plane_stride;
    const std::int32_t* exponents;  // by column of the planes; null: zeros
};

struct UpdateJob {
    Operand left;
    Operand right;
    bool same;          // left and right are the same planes
    Index rows;         // of this call
    Index first_row;    // global number of the first of them
    Index columns;      // of a block of C
    Index block_pitch;  // columns of the planes from block to block
    Index blocks;       // 1, or the outputs of outer rows
    void* gram;         // (blocks * columns, gram_pitch) of float64, or of float32
    bool gram_is_float;
    Index gram_pitch;  // entries
    float* partial;    // (segments, tiles, 128, 128) of sums to be added later; null: added to gram at once
    Index tiles;       // of the whole update
    Index segments;    // of kFlushRows global rows
};

struct TileWork {
    Index left_column;  // first column, of the planes
    Index right_column;
    Index gram_row;
    Index gram_column;
    int valid_rows;  // entries of the tile that exist
    int valid_columns;
    bool diagonal;  // entries above its diagonal belong to others
    bool shared;    // left and right columns are the same data
    Index tile;
    Index segment;  // where sums are kept for later; -1 where all segments are added at once
    Index begin;    // rows of this call
    Index end;
};

GRADHESS_HOST_DEVICE inline Index tiles_of_block(Index columns) {
    return triangle_tiles((columns + kTensorTile - 1) / kTensorTile);
}

GRADHESS_HOST_DEVICE inline Index tiles_of_update(Index columns, Index blocks) {
    return triangle_tiles(blocks) * tiles_of_block(columns);
}

// Segments end at global multiples of kFlushRows, whatever row the call begins with.
GRADHESS_HOST_DEVICE inline Index segments_of(Index first_row, Index rows) {
    return rows == 0 ? 0 : (first_row + rows - 1) / kFlushRows - first_row / kFlushRows + 1;
}

GRADHESS_HOST_DEVICE inline Index segment_begin(const UpdateJob& job, Index segment) {
    if (segment == 0) return 0;
    return (job.first_row / kFlushRows + segment) * kFlushRows - job.first_row;
}

GRADHESS_HOST_DEVICE inline Index segment_end(const UpdateJob& job, Index segment) {
    const Index end = segment_begin(job, segment + 1);
    return end < job.rows ? end : job.rows;
}

GRADHESS_HOST_DEVICE inline Index items_of(const UpdateJob& job) {
    return job.partial ? job.tiles * job.segments : job.tiles;
}

GRADHESS_HOST_DEVICE inline TileWork work_of(const UpdateJob& job, Index item) {
    TileWork work;
    work.tile = item % job.tiles;
    work.segment = job.partial ? item / job.tiles : -1;
    const Index tiles = tiles_of_block(job.columns);
    const TilePosition pair = tile_position(work.tile / tiles);  // outputs p >= q
    const TilePosition position = super_block_tile(work.tile % tiles, (job.columns + kTensorTile - 1) / kTensorTile);
    const Index row = position.row * kTensorTile;
    const Index column = position.column * kTensorTile;
    work.left_column = pair.row * job.block_pitch + row;
    work.right_column = pair.column * job.block_pitch + column;
    work.gram_row = pair.row * job.columns + row;
    work.gram_column = pair.column * job.columns + column;
    const auto clipped = [&](Index first) {
        return static_cast<int>(job.columns - first < kTensorTile ? job.columns - first : kTensorTile);
    };
    work.valid_rows = clipped(row);
    work.valid_columns = clipped(column);
    work.diagonal = position.row == position.column;
    work.shared = job.same && work.left_column == work.right_column;
    work.begin = job.partial ? segment_begin(job, work.segment) : 0;
    work.end = job.partial ? segment_end(job, work.segment) : job.rows;
    return work;
}

}  // namespace gradhess::cuda::tensor
