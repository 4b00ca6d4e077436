// Pairwise dependence of the labels of a class, shared out among threads by tiles of inputs.
#pragma once

#include "kernel_table.hpp"

namespace gradhess::cpu {

// sums[x] = sum_{x' > x} mu(x') eps(x, x')^2 for the first job.rows inputs x, added in the order of x'
// (Backend.pair_dependence in protocol.py).
// `labels` is (targets, inputs). False if it was interrupted; the sums are then undefined.
bool pair_dependence(const std::uint8_t* labels, const PairJob& job, double* sums, int threads, Interrupt interrupt,
                     const Isa& isa);

}  // namespace gradhess::cpu
