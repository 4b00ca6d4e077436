// Native vectors of the instruction set that a kernel file is compiled for, through the vector extensions of GCC and
// Clang. A kernel file defines GRADHESS_ISA (the namespace, so that no two files share a symbol) and
// GRADHESS_VECTOR_BYTES before it includes kernels.inl.
#pragma once

#include <cstdint>
#include <utility>

#include "job.hpp"

#define GRADHESS_INLINE inline __attribute__((always_inline))

namespace gradhess::cpu::GRADHESS_ISA {

template <class T>
struct Simd;

template <>
struct Simd<double> {
    typedef double Vector __attribute__((vector_size(GRADHESS_VECTOR_BYTES)));
    static constexpr int lanes = GRADHESS_VECTOR_BYTES / 8;
};

template <>
struct Simd<float> {
    typedef float Vector __attribute__((vector_size(GRADHESS_VECTOR_BYTES)));
    // As many floats as a vector of doubles has lanes.
    typedef float HalfVector __attribute__((vector_size(GRADHESS_VECTOR_BYTES / 2)));
    static constexpr int lanes = GRADHESS_VECTOR_BYTES / 4;
};

template <class T>
using Vector = typename Simd<T>::Vector;
using Doubles = Vector<double>;
inline constexpr int kDoubleLanes = Simd<double>::lanes;

template <class V, class T>
GRADHESS_INLINE V load(const T* from) {
    V v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
}

template <class V, class T>
GRADHESS_INLINE void store(T* to, V v) {
    __builtin_memcpy(to, &v, sizeof v);
}

GRADHESS_INLINE Doubles load_doubles(const double* from) { return load<Doubles>(from); }

GRADHESS_INLINE Doubles load_doubles(const float* from) {
    return __builtin_convertvector(load<Simd<float>::HalfVector>(from), Doubles);
}

// The two halves of a vector of floats, as doubles.
struct DoublesPair {
    Doubles low, high;
};

template <int... LANE>
GRADHESS_INLINE DoublesPair widen_halves(Vector<float> v, std::integer_sequence<int, LANE...>) {
    return {__builtin_convertvector(__builtin_shufflevector(v, v, LANE...), Doubles),
            __builtin_convertvector(__builtin_shufflevector(v, v, (kDoubleLanes + LANE)...), Doubles)};
}

GRADHESS_INLINE DoublesPair widen(Vector<float> v) {
    return widen_halves(v, std::make_integer_sequence<int, kDoubleLanes>{});
}

template <class T>
GRADHESS_INLINE Vector<T> broadcast(T value) {
    return value - Vector<T>{};
}

}  // namespace gradhess::cpu::GRADHESS_ISA
