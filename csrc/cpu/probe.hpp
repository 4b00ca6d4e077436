// The ceiling of arithmetic: independent fused multiply-adds on registers.
#pragma once

#include "simd.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// Does `rounds` rounds of 12 vector multiply-adds; returns the FLOP, counted as two for each lane.
template <class T>
double spin(Index rounds) {
    constexpr int chains = 12;
    Vector<T> sum[chains];
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sum[c] = broadcast(T(c));
    const Vector<T> factor = broadcast(T(0.999));
    for (Index i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
        for (int c = 0; c < chains; ++c) {
            sum[c] = sum[c] * factor + factor;
            asm volatile("" : GRADHESS_VECTOR_REGISTER(sum[c]));  // keep every operation of every round
        }
    }
    return 2.0 * chains * Simd<T>::lanes * static_cast<double>(rounds);
}

}  // namespace gradhess::cpu::GRADHESS_ISA
