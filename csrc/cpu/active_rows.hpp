// Which rows matter: runs of entries of the upper triangle of a symmetric matrix per row, each with a bit for every row
// in which one of them may differ from zero. Behind a ReLU, half of all entries are zero, and of their products most.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

#include "job.hpp"

namespace gradhess::cpu {

using RowBits = std::uint64_t;
inline constexpr Index kBits = 64;

// Entries first, ..., first + count - 1 of the triangle, in the order (0, 0), (0, 1), ..., (1, 1), ...
struct Run {
    Index first = 0;
    Index count = 0;
    RowBits* rows = nullptr;
};

inline Index count_rows(const RowBits* rows, Index words) {
    Index count = 0;
    for (Index w = 0; w < words; ++w) count += std::popcount(rows[w]);
    return count;
}

// Calls visit(row) for every row whose bit is set, in order; that of the lowest bit is `row`.
template <class Visit>
inline void each_row(RowBits bits, Index row, const Visit& visit) {
    for (; bits != 0; bits &= bits - 1) visit(row + std::countr_zero(bits));
}

// ORs the bits of `values` but for the sign into `seen`, so that what stays zero was zero throughout.
inline void look_at(const double* values, Index n, RowBits* seen) {
    for (Index c = 0; c < n; ++c) {
        RowBits bits;
        std::memcpy(&bits, values + c, sizeof(bits));
        seen[c] |= bits << 1;
    }
}

// Joins neighbours where cost(rows, entries) says that it saves work, up to `most` entries, and leaves out runs that
// are zero in all rows.
template <class Cost>
void join_runs(std::vector<Run>& runs, Index words, Index most, const Cost& cost) {
    std::size_t kept = 0;
    Run current = runs[0];
    Index rows = count_rows(current.rows, words);
    const auto keep = [&] {
        if (rows > 0) runs[kept++] = current;
    };
    for (std::size_t i = 1; i < runs.size(); ++i) {
        const Run next = runs[i];
        Index next_rows = 0, both = 0;
        for (Index w = 0; w < words; ++w) {
            next_rows += std::popcount(next.rows[w]);
            both += std::popcount(current.rows[w] | next.rows[w]);
        }
        const Index count = current.count + next.count;
        if (count <= most && cost(both, count) <= cost(rows, current.count) + cost(next_rows, next.count)) {
            for (Index w = 0; w < words; ++w) current.rows[w] |= next.rows[w];
            current.count = count;
            rows = both;
        } else {
            keep();
            current = next;
            rows = next_rows;
        }
    }
    keep();
    runs.resize(kept);
}

}  // namespace gradhess::cpu
