// Sums of Kronecker products (L^T R) (x) a a^T over rows, for several L and R.
#pragma once

#include <vector>

#include "job.hpp"

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

    Index n_factors() const { return static_cast<Index>(factors.size()); }
    Index pairs() const { return features * (features + 1) / 2; }
    Index weights() const { return outputs * (outputs + 1) / 2; }
};

}  // namespace gradhess::cpu
