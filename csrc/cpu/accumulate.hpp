// The scheduler: which thread does what, and in which order sums are committed.
#pragma once

#include "kernel_table.hpp"

namespace gradhess::cpu {

struct Options {
    Layout layout;
    int threads = 1;
    Interrupt interrupt;
    // The last block is closed as well, whatever its length: the moments are empty before, need no arrays of an open
    // block, and every block has a scatter of its own. What theirs holds does not matter.
    bool close = false;
    // And with `close`: a full scatter is multiplied by this number and mirrored, where it is not null.
    const double* scale = nullptr;
};

// What a row costs, in multiply-adds.
inline Index work_of_row(Index parameters, Structure structure) {
    return parameters * (structure == Structure::full ? parameters / 2 + 4 : 4);
}

// Adds the rows to the moments (Backend.accumulate in protocol.py). Unless the outcome is `done`, the moments are
// undefined. Throws std::bad_alloc, before anything is touched.
Result accumulate(const Rows& rows, const double* weights, Moments& moments, const Options& options, const Isa& isa);

}  // namespace gradhess::cpu
