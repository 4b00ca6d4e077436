// Numbers the tiles of a lower triangle, diagonal included: 0 is (0, 0), 1 is (1, 0), 2 is (1, 1), 3 is (2, 0), ...
#pragma once

#include "portable.hpp"

namespace gradhess::cuda {

struct TilePosition {
    std::int64_t row;
    std::int64_t column;
};

GRADHESS_HOST_DEVICE inline std::int64_t triangle_tiles(std::int64_t tile_rows) {
    return tile_rows * (tile_rows + 1) / 2;
}

GRADHESS_HOST_DEVICE inline TilePosition tile_position(std::int64_t number) {
    // The root of row (row + 1) / 2 = number, in float64, can be off by one where it is nearly whole.
    auto row = static_cast<std::int64_t>((sqrt(8.0 * static_cast<double>(number) + 1.0) - 1.0) / 2.0);
    if (triangle_tiles(row) > number) --row;
    if (triangle_tiles(row + 1) <= number) ++row;
    return {row, number - triangle_tiles(row)};
}

}  // namespace gradhess::cuda
