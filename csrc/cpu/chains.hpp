// Sums in eight chains that do not wait for each other.
#pragma once

#include "job.hpp"

namespace gradhess::cpu {

// Sum of f over `count` values; the order is fixed.
template <class Function>
double sum_of(const double* values, Index count, Function f) {
    double chain[8] = {};
    Index r = 0;
    for (; r + 8 <= count; r += 8)
        for (int c = 0; c < 8; ++c) chain[c] += f(values[r + c]);
    for (int c = 0; r < count; ++r, ++c) chain[c] += f(values[r]);
    return ((chain[0] + chain[4]) + (chain[2] + chain[6])) + ((chain[1] + chain[5]) + (chain[3] + chain[7]));
}

// Whether all are finite: a sum of zeros, unless one of them makes it NaN.
inline bool all_finite(const double* values, Index count) {
    return sum_of(values, count, [](double value) { return value * 0.0; }) == 0.0;
}

}  // namespace gradhess::cpu
