// What the kernel of pairwise dependence is asked (Backend.pair_dependence in protocol.py), as plain data.
#pragma once

#include "job.hpp"

namespace gradhess::cpu {

// Inputs in a block: as many labels as the longest vector has bytes.
inline constexpr Index kPairLanes = 64;

// Targets of one group whose counts fit a byte.
inline constexpr Index kByteCounts = 255;

// Labels are bytes.
inline constexpr int kMostLabels = 256;

struct PairJob {
    const std::uint8_t* labels = nullptr;  // (blocks, targets, kPairLanes); lanes beyond the last input are 0
    Index targets = 0;
    Index inputs = 0;
    Index rows = 0;  // inputs x that are asked for, the first ones
    int q = 2;
    const double* input_weights = nullptr;   // (inputs,)
    const double* target_weights = nullptr;  // (targets,) of sum one, or null
};

// The targets grouped by their label at one input x.
struct PairRow {
    const std::uint32_t* order = nullptr;   // (targets,), in each group ascending
    const std::uint32_t* starts = nullptr;  // (q + 1,): group y is order[starts[y]] to order[starts[y + 1]]
};

}  // namespace gradhess::cpu
