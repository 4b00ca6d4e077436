// The moments of one batch of rows, finished: what a call on little data asks for, in one go.
#pragma once

#include "accumulate.hpp"

namespace gradhess::cpu {

// Adds all rows to `moments`, which are zeros without an open block (but what the scatter holds does not matter), and
// closes the last block. Otherwise as `accumulate`.
Result sum_batch(const Rows& rows, const double* weights, Moments& moments, Options options, const Isa& isa);

}  // namespace gradhess::cpu
