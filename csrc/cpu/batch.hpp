// The moments of one batch of rows, finished: what a call on little data asks for, in one go.
#pragma once

#include "accumulate.hpp"

namespace gradhess::cpu {

// Adds all rows to `moments`, which are zeros without an open block (but what the scatter holds does not matter),
// closes the last block, and where `scale` is not null multiplies a full scatter by it and mirrors it. Otherwise as
// `accumulate`.
Result sum_batch(const Rows& rows, const double* weights, Moments& moments, const double* scale, Options options,
                 const Isa& isa);

}  // namespace gradhess::cpu
