// Going on with a stream of rows: those that do not fill a slab wait, formed, for the ones that will.
#pragma once

#include "accumulate.hpp"

namespace gradhess::cpu {

// Room for two slabs, of which the first holds the rows that wait. Where a slab gets full, the rows that wait in the
// end are in the second: what waited before is left as it was.
struct Waiting {
    void* rows[2] = {};       // (slab_rows, parameters) of the compute type
    double* weights[2] = {};  // (slab_rows,), or null where all are one
    Index count = 0;
};

// Adds the slabs that are full to the moments, and leaves the other rows in `waiting` (Backend.extend in protocol.py).
// Unless the outcome is `done`, the moments are undefined.
Result extend(const Rows& rows, const double* weights, Moments& moments, const Waiting& waiting, const Options& options,
              const Isa& isa);

}  // namespace gradhess::cpu
