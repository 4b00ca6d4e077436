// Row-wise operations, shared out among threads by fixed jobs of rows.
#pragma once

#include "kernel_table.hpp"

namespace gradhess::cpu {

// out (samples, outputs): the factors of gradient rows, before they are rounded to the compute type.
void errors(const Rows& rows, double* out, int threads, const Isa& isa);

// Each as the method of the same name in protocol.py. `out` belongs to the caller.
void materialize(const Rows& rows, void* out, const Isa& isa);
Index first_nonfinite(const Rows& rows, const double* weights, int threads, const Isa& isa);
// Whether all entries of a result are finite.
bool all_finite(const double* values, Index count, int threads);
void norms(const Rows& rows, double* out, int threads, const Isa& isa);
// `vectors` (m, outputs, features) and `units` (m, outputs), or null without a unit column.
void multiply(const Rows& rows, const double* vectors, const double* units, Index m, double* out, int threads,
              const Isa& isa);

// out (m, outputs, width) = G^T u for u (n, m); or, where u is null, G^T G V for V given as in `multiply`. Sums of
// fixed ranges of rows are added in order, so the bits do not depend on the threads.
void multiply_transposed(const Rows& rows, const double* u, const double* vectors, const double* units, Index m,
                         double* out, int threads, const Isa& isa);

// Ceilings, for the benchmarks: GFLOP/s of multiply-adds on registers, GB/s of reading memory.
double probe_fma_peak(bool single, int threads, double seconds, const Isa& isa);
double probe_read_bandwidth(std::size_t bytes, int threads, double seconds);

}  // namespace gradhess::cpu
