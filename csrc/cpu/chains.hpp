// Sums in eight chains that do not wait for each other.
#pragma once

#include "job.hpp"

namespace gradhess::cpu {

// Sum of f over `count` values; the order is fixed.
template <class T, class Function>
T sum_of(const T* values, Index count, Function f) {
    T chain[8] = {};
    Index r = 0;
    for (; r + 8 <= count; r += 8)
        for (int c = 0; c < 8; ++c) chain[c] += f(values[r + c]);
    for (int c = 0; r < count; ++r, ++c) chain[c] += f(values[r]);
    return ((chain[0] + chain[4]) + (chain[2] + chain[6])) + ((chain[1] + chain[5]) + (chain[3] + chain[7]));
}

// Whether all are finite: a sum of zeros, unless one of them makes it NaN.
template <class T>
bool all_finite(const T* values, Index count) {
    return sum_of(values, count, [](T value) { return value * T(0); }) == T(0);
}

}  // namespace gradhess::cpu
