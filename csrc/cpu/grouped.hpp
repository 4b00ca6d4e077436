// Sums of rows in groups: mini-batches, clusters, sequences. Mirrors gradhess/_backends/groups.py.
#pragma once

#include "tuning.hpp"

namespace gradhess::cpu {

struct Isa;

// Group j holds the draws offsets[j] to offsets[j + 1]; draw t takes row indices[t], or row t where that is null.
struct Groups {
    const Index* offsets = nullptr;   // (count + 1,)
    const Index* indices = nullptr;   // or null: every row once, in order
    const double* slopes = nullptr;   // (samples, outputs), or null for ones
    const double* factors = nullptr;  // one each draw, or null for ones
    const double* shifts = nullptr;   // one each draw, or null for zeros
    const double* scale = nullptr;    // (count,), or null for ones
    Index count = 0;
    Index outputs = 1;
};

// Draws that are summed in float32, where the rows compute in it, before the sum is added in float64: SHORT_CHAIN of
// gradhess/_backends/layout.py.
inline constexpr Index kShortChain = 16;

template <class T>
struct GroupScratch {
    const Index* index = nullptr;  // of the chunk at hand: the caller's, or own_index
    Index* own_index = nullptr;    // (tuning::kDrawChunk + tuning::kDrawsAhead,)
    Index* counting = nullptr;     // 0, 1, ..., tuning::kDrawChunk - 1, then zeros: rows that were gathered in order
    T* gathered = nullptr;         // (tuning::kDrawChunk, features), where rows are not read in place
    T* f = nullptr;                // (tuning::kDrawChunk, outputs)
    double* sums = nullptr;        // (outputs, slots), then the sums of the unit column (outputs,)
    Index slots = 0;               // whole vectors, and one more
};

// The method of the same name in protocol.py: out (count, parameters), float or double as the rows compute. Returns
// the first group that names a row that is not there, or -1.
Index group_sums(const Rows& rows, const Groups& groups, void* out, int threads, const Isa& isa);

}  // namespace gradhess::cpu
