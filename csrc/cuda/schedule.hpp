// Which tile of the lower triangle, and which rows, a thread block takes in a symmetric rank update. Functions of the
// shape alone, so that results do not depend on the device; tested exhaustively on the host.
//
// Order:    tiles are walked in super-blocks of kSuperBlock x kSuperBlock tiles, from the top left: blocks that run at
//           the same time read at most 2 kSuperBlock panels of columns, which stay in the L2 cache. All tiles of one
//           split of the rows come before the next split.
// Splitting: with few tiles the rows are cut into splits of a fixed length, each summed into a workspace of its own,
//           and a second kernel adds them in index order.
#pragma once

#include <cstdint>

#include "triangle.hpp"

namespace gradhess::cuda {

using Index = std::int64_t;

constexpr Index kSuperBlock = 12;
constexpr Index kMostSplits = 32;
// The multiprocessors that splits are cut for (an H200 has them). A device with another number runs the same splits.
constexpr Index kTargetBlocks = 132;
constexpr Index kMostWaves = 4;  // from here on rows are not split

// Tile `number` of `tile_rows` rows of tiles.
GRADHESS_HOST_DEVICE inline TilePosition super_block_tile(Index number, Index tile_rows) {
    // A whole row of super-blocks has as many tiles as its rows would have in row order.
    const Index super_row = tile_position(number).row / kSuperBlock;
    const Index first_row = super_row * kSuperBlock;
    const Index offset = number - triangle_tiles(first_row);
    const Index height = tile_rows - first_row < kSuperBlock ? tile_rows - first_row : kSuperBlock;
    const Index super_column = offset / (height * kSuperBlock);
    if (super_column < super_row) {
        const Index inside = offset - super_column * height * kSuperBlock;
        return {first_row + inside % height, super_column * kSuperBlock + inside / height};
    }
    const TilePosition inside = tile_position(offset - first_row * height);
    return {first_row + inside.row, first_row + inside.column};
}

// What writing a tile to the workspace and reading it again costs, in rows: 131 kB each way at the 32 GB/s that one of
// 132 multiprocessors has, against 73 ns for a row at 0.45 TFLOP/s. An estimate, not a measurement.
constexpr Index kSplitCost = 128;

// A cut of `samples` rows into `splits` of `split_rows` rows, the last shorter.
struct Split {
    Index splits;
    Index split_rows;  // a multiple of `granule`
};

// Of the numbers of splits that keep every split at least `least_rows` long, the one that is estimated to end first,
// the smallest of equals: waves of kTargetBlocks thread blocks, each as long as its rows and kSplitCost.
GRADHESS_HOST_DEVICE inline Split split_rows(Index samples, Index tiles, Index granule, Index least_rows) {
    Split best{1, (samples + granule - 1) / granule * granule};
    if (tiles >= kMostWaves * kTargetBlocks) return best;
    Index best_cost = 0;
    for (Index splits = 1; splits <= kMostSplits; ++splits) {
        const Index rows = ((samples + splits - 1) / splits + granule - 1) / granule * granule;
        if (splits > 1 && rows < least_rows) break;
        const Index units = tiles * ((samples + rows - 1) / rows);
        const Index waves = (units + kTargetBlocks - 1) / kTargetBlocks;
        const Index cost = waves * (rows + (splits > 1 ? kSplitCost : 0));
        if (splits == 1 || cost < best_cost) {
            best = {(samples + rows - 1) / rows, rows};
            best_cost = cost;
        }
    }
    return best;
}

}  // namespace gradhess::cuda
