// Sums of Kronecker products: who computes which.
#pragma once

#include "kernel_table.hpp"

namespace gradhess::cpu {

// Throws std::bad_alloc before anything is written.
void kronecker_sums(const KroneckerJob& job, int threads, const Isa& isa);

}  // namespace gradhess::cpu
