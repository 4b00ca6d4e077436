// The tiles of a scatter matrix, and how a team of threads shares them.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "slab.hpp"
#include "team.hpp"

namespace gradhess::cpu {

// The lower triangle, in blocks of columns one after the other, each in tiles from the diagonal down.
class Tiling {
 public:
    Tiling() = default;

    // `rows` of the matrix, in whole strips; `columns` of a block.
    Tiling(Index rows, Index height, Index columns) : rows_(rows), height_(height), columns_(columns) {
        for (Index column = 0; column < rows; column += columns) count_ += tiles_below(column);
    }

    Index count() const { return count_; }

    Tile tile(Index number) const {
        Index column = 0;
        for (; number >= tiles_below(column); column += columns_) number -= tiles_below(column);
        const Index row = column + number * height_;
        return {row, std::min(row + height_, rows_), column, column + columns_};
    }

 private:
    Index tiles_below(Index column) const { return (rows_ - column + height_ - 1) / height_; }

    Index rows_ = 0;
    Index height_ = 1;
    Index columns_ = 1;
    Index count_ = 0;
};

// Numbers of tiles, of which each thread has a run of its own: its columns stay in its cache, and nobody else reads
// them meanwhile. Who is done takes from the ends of the others' runs.
class TileQueue {
 public:
    void share_between(int threads) { runs_ = std::vector<Run>(static_cast<std::size_t>(threads)); }

    // By one thread, while nobody takes.
    void fill(Index tiles) {
        const auto threads = static_cast<Index>(runs_.size());
        Index t = 0;
        for (Run& run : runs_) {
            run.left = pack(tiles * t / threads, tiles * (t + 1) / threads);
            ++t;
        }
    }

    // The next tile for the thread `rank`, or -1.
    Index take(int rank) {
        for (std::size_t k = 0; k < runs_.size(); ++k) {
            const Index tile = take_from(runs_[(static_cast<std::size_t>(rank) + k) % runs_.size()], k == 0);
            if (tile >= 0) return tile;
        }
        return -1;
    }

 private:
    struct alignas(64) Run {
        std::atomic<std::uint64_t> left{0};  // [begin, end), packed
    };

    static std::uint64_t pack(Index begin, Index end) {
        return static_cast<std::uint64_t>(begin) << 32 | static_cast<std::uint64_t>(end);
    }
    static Index begin_of(std::uint64_t left) { return static_cast<Index>(left >> 32); }
    static Index end_of(std::uint64_t left) { return static_cast<Index>(left & 0xffffffffu); }

    // The first tile of a run, or the last one; -1 where none is left.
    static Index take_from(Run& run, bool first) {
        std::uint64_t left = run.left.load();
        while (begin_of(left) < end_of(left)) {
            const Index tile = first ? begin_of(left) : end_of(left) - 1;
            const std::uint64_t rest = first ? pack(tile + 1, end_of(left)) : pack(begin_of(left), tile);
            if (run.left.compare_exchange_weak(left, rest)) return tile;
        }
        return -1;
    }

    std::vector<Run> runs_;
};

}  // namespace gradhess::cpu
