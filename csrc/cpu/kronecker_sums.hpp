// Sums of Kronecker products (L^T R) (x) a a^T over rows, for several L and R: who computes which.
#pragma once

#include <vector>

#include "kernel_table.hpp"

namespace gradhess::cpu {

// One symmetric (outputs, outputs) matrix for each row: L^T R, or R where left is null (then rank == outputs).
struct KroneckerFactor {
    const double* left = nullptr;   // (samples, rank, outputs)
    const double* right = nullptr;  // (samples, rank, outputs)
    Index rank = 0;
};

// Backend.kronecker_sums in protocol.py; everything contiguous.
struct KroneckerJob {
    const double* activations = nullptr;  // (samples, features)
    std::vector<KroneckerFactor> factors;
    double* out = nullptr;  // (factors, weights(), pairs())
    Index samples = 0;
    Index features = 0;
    Index outputs = 0;
    Index slab_rows = 256;

    Index pairs() const { return features * (features + 1) / 2; }
    Index weights() const { return outputs * (outputs + 1) / 2; }
};

// Throws std::bad_alloc before anything is written.
void kronecker_sums(const KroneckerJob& job, int threads, const Isa& isa);

}  // namespace gradhess::cpu
