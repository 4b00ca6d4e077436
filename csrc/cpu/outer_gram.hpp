// The Gram matrix of outer rows, all blocks: who computes which, and where they go.
#pragma once

#include "kernel_table.hpp"

namespace gradhess::cpu {

// A piece of the rows (Backend.outer_gram in protocol.py). `rows` is (samples, features) of float or double,
// contiguous.
struct OuterPiece {
    const void* rows = nullptr;
    bool single = false;  // float rows
    Index samples = 0;
    Index features = 0;
    bool unit_column = false;
    const double* errors = nullptr;      // (samples, outputs)
    const double* row_weight = nullptr;  // (samples,) or null
    bool curvature = false;
    Index outputs = 0;
    Index slab_rows = 256;

    Index width() const { return features + (unit_column ? 1 : 0); }
};

// The (outputs * width)^2 result. Between pieces it holds the lower triangles of its lower blocks.
struct OuterResult {
    void* data = nullptr;
    bool single = false;  // float sums, for float rows alone
    bool begin = false;
    bool end = false;
};

// Throws std::bad_alloc before anything is written.
void outer_gram(const OuterPiece& piece, const OuterResult& result, int threads, const Isa& isa);

}  // namespace gradhess::cpu
