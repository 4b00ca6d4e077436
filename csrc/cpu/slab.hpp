// A slab in packed form, and the memory that one thread or one team works in.
//
// Packed: columns in panels of `panel` (one vector, or a few), each panel contiguous, row after row:
//   panels[(column / panel) * panel_stride + row * panel + column % panel]
// Columns beyond the last parameter are zero. One panel serves the multiply kernel both as its vector operand (a row
// of the panel is one load) and as its broadcast operand.
#pragma once

#include "job.hpp"

namespace gradhess::cpu {

// Rows whose sums are added as one tree: part of the order of summation (gradhess/_backends/layout.py).
inline constexpr Index kTreeRows = 8;

// Rows of so few parameters are summed by lanes: the rows of a line of 64 bytes apart (lane_products.hpp). Part of the
// order of summation, too.
template <class T>
inline constexpr Index kLaneParameters = sizeof(T) == 8 ? 40 : 64;

// But rows of so many, up to kRotatedParameters, by rotation where vectors have at least 32 bytes
// (rotated_products.hpp): each entry is one chain over the rows of a slab, as it is for wider rows.
inline constexpr Index kRotatedParameters = 16;
template <class T>
inline constexpr Index kRotatedParametersMin = sizeof(T) == 8 ? 13 : 12;
// Numbers in which these chains are kept: the 136 entries, and some twice.
inline constexpr Index kRotatedSums = 176;

template <class T>
struct Slab {
    T* panels = nullptr;
    Index panel_stride = 0;
    Index n_panels = 0;
    Index rows = 0;
    T* trees = nullptr;  // (rows / kTreeRows, n_panels * panel): sums of so many rows each, or null
    bool weighted = false;
    double* weight = nullptr;  // (rows,) moment weight of each row, where weighted
    double* value = nullptr;   // (rows,) loss of each row, where there is one
};

// Memory that will be read, in pieces of so many lines of 64 bytes: what is asked for next, and where the last piece
// ends.
struct MemoryAhead {
    const char* at = nullptr;
    const char* end = nullptr;
    Index lines = 0;       // of a piece
    Index lines_left = 0;  // of this piece
    Index to_next = 0;     // bytes from the end of a piece to the next

    MemoryAhead() = default;

    // One piece.
    MemoryAhead(const void* from, Index bytes)
        : at(static_cast<const char*>(from)), end(at + bytes), lines((bytes + 63) / 64), lines_left(lines) {}

    // A piece of each of so many columns. The line in which one begins is asked for with the rows before it.
    MemoryAhead(const void* from, Index bytes, Index columns, Index column_stride) : MemoryAhead(from, bytes) {
        at += -reinterpret_cast<std::uintptr_t>(from) & 63;
        end = at + columns * column_stride;
        to_next = column_stride - lines * 64;
    }

    bool any() const { return at < end; }
    bool in_one_piece() const { return any() && to_next == 0; }

    // In all, before the first step.
    Index lines_in_all() const {
        const Index step = lines * 64 + to_next;
        return any() ? (end - at + step - 1) / step * lines : 0;
    }

    // Steps over a line.
    [[gnu::always_inline]] void step() {
        at += 64;
        lines_left -= 1;
        const bool done = lines_left == 0;
        at += done ? to_next : 0;
        lines_left = done ? lines : lines_left;
    }

    // Steps over so many, if the piece has them; else to the next piece.
    void skip(Index count) {
        at += count * 64;
        lines_left -= count;
        if (lines_left > 0) return;
        at += lines_left * 64 + to_next;
        lines_left = lines;
    }
};

// Memory of one thread for the stages that touch rows and strips.
template <class T>
struct RowScratch {
    T* gathered = nullptr;     // (group, features): rows of another dtype or stride
    T* outer = nullptr;        // (kTreeRows, parameters rounded up to a panel): rows of an outer product
    double* target = nullptr;  // (group,): labels of another dtype than double
    double* eta = nullptr;     // (group, outputs)
    double* slope = nullptr;   // (group, outputs)
    T* factor = nullptr;       // (group, outputs): slope in the compute type
    double* value = nullptr;   // (group,)
    T* shift = nullptr;        // (parameters rounded up to a panel,): a provisional shift
    T* strip = nullptr;        // one panel: a weighted copy of the broadcast operand
    // Where rows are summed by lanes: a slab of them, transposed, (parameters, column_stride); and where they have
    // weights, these, and the same columns times these.
    T* columns = nullptr;
    T* lane_weights = nullptr;
    T* weighted_columns = nullptr;
    Index column_stride = 0;
    T* rotated = nullptr;  // (kRotatedSums,): the sums of a slab whose rows are summed by rotation
    Index group = 0;
    MemoryAhead ahead;  // rows that will be read next, asked for while the multiply kernel runs
};

// A rectangle of the scatter matrix; column_end may pass the diagonal, the update then stops at it.
struct Tile {
    Index row_begin, row_end, column_begin, column_end;
};

// Where a rank update goes: row-major, `stride` entries from row to row.
template <class Scatter>
struct Target {
    Scatter* data;
    Index stride;
    Index parameters;
    bool padded;  // whole tiles may be written: room to the right and below, rubbish allowed above the diagonal
};

}  // namespace gradhess::cpu
