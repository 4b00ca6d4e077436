// Squares of vectors, transposed or summed across their lanes, by shuffles that one instruction does: inside pieces of
// 128 bits first, of whole pieces after that (transposed), or the other way round (summed).
#pragma once

#include <utility>

#include "simd.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

template <class T>
inline constexpr int kPieceLanes = 16 / static_cast<int>(sizeof(T));  // of 128 bits
template <class T>
inline constexpr int kPieces = Simd<T>::lanes / kPieceLanes<T>;
template <class T>
inline constexpr int kLineEntries = 64 / static_cast<int>(sizeof(T));
template <class T>
using LaneNumbers = std::make_integer_sequence<int, Simd<T>::lanes>;

// In every piece the P-tuples of `a` and `b` in turns: those of its first half, or of its second where HIGH.
template <int P, bool HIGH, class T, int... I>
GRADHESS_INLINE Vector<T> in_turns(Vector<T> a, Vector<T> b, std::integer_sequence<int, I...>) {
    constexpr int lanes = Simd<T>::lanes;
    constexpr int piece = kPieceLanes<T>;
    return __builtin_shufflevector(
        a, b,
        (I / piece * piece + (I % piece / (2 * P) * P + (HIGH ? piece / 2 : 0)) + I % P + (I / P % 2) * lanes)...);
}

// In blocks of SPAN lanes every second P-tuple, from the first or, where ODD, from the second on: those of `a`, then
// those of `b`.
template <int P, int SPAN, bool ODD, class T, int... I>
GRADHESS_INLINE Vector<T> every_second(Vector<T> a, Vector<T> b, std::integer_sequence<int, I...>) {
    constexpr int lanes = Simd<T>::lanes;
    constexpr int half = SPAN / 2;
    return __builtin_shufflevector(
        a, b, (I / SPAN * SPAN + (I % half / P * 2 + (ODD ? 1 : 0)) * P + I % P + (I % SPAN < half ? 0 : lanes))...);
}

template <int P, class T>
GRADHESS_INLINE void turn_pair(Vector<T>& a, Vector<T>& b) {
    const Vector<T> low = in_turns<P, false, T>(a, b, LaneNumbers<T>{});
    b = in_turns<P, true, T>(a, b, LaneNumbers<T>{});
    a = low;
}

template <class T>
GRADHESS_INLINE void split_pieces(Vector<T>& a, Vector<T>& b) {
    constexpr int lanes = Simd<T>::lanes;
    const Vector<T> even = every_second<kPieceLanes<T>, lanes, false, T>(a, b, LaneNumbers<T>{});
    b = every_second<kPieceLanes<T>, lanes, true, T>(a, b, LaneNumbers<T>{});
    a = even;
}

// Squares of kPieceLanes x kPieceLanes entries, one in each piece of so many vectors.
template <int VECTORS, class T>
GRADHESS_INLINE void transpose_pieces(Vector<T> (&v)[VECTORS]) {
#pragma GCC unroll 16
    for (int i = 0; i < VECTORS; i += 2) turn_pair<1, T>(v[i], v[i + 1]);
    if constexpr (kPieceLanes<T> == 4) {
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i += 4) {
            turn_pair<2, T>(v[i], v[i + 2]);
            turn_pair<2, T>(v[i + 1], v[i + 3]);
            std::swap(v[i + 1], v[i + 2]);
        }
    }
}

// Rows into columns: entry j of v[i] becomes entry i of v[j].
template <class T>
GRADHESS_INLINE void transpose(Vector<T> (&v)[Simd<T>::lanes]) {
    constexpr int piece = kPieceLanes<T>;
    transpose_pieces<Simd<T>::lanes, T>(v);
    // Piece k of v[g * piece + j] belongs to column k * piece + j, and to the g-th rows of it.
#pragma GCC unroll 4
    for (int j = 0; j < piece; ++j) {
        if constexpr (kPieces<T> == 4) {
            split_pieces<T>(v[j], v[piece + j]);
            split_pieces<T>(v[2 * piece + j], v[3 * piece + j]);
            split_pieces<T>(v[j], v[2 * piece + j]);
            split_pieces<T>(v[piece + j], v[3 * piece + j]);
        } else if constexpr (kPieces<T> == 2) {
            split_pieces<T>(v[j], v[piece + j]);
        }
    }
}

// The same for rows of half a vector, two in each: v[g * piece + r] holds rows 2 g piece + r and (2 g + 1) piece + r.
template <class T>
GRADHESS_INLINE void transpose_halves(Vector<T> (&v)[Simd<T>::lanes / 2]) {
    static_assert(kPieces<T> > 1);
    constexpr int piece = kPieceLanes<T>;
    transpose_pieces<Simd<T>::lanes / 2, T>(v);
    if constexpr (kPieces<T> == 4) {
#pragma GCC unroll 4
        for (int j = 0; j < piece; ++j) split_pieces<T>(v[j], v[piece + j]);
    }
}

template <class T, int... I>
GRADHESS_INLINE Vector<T> join_halves(HalfVector<T> low, HalfVector<T> high, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(low, high, I...);
}

template <class T>
GRADHESS_INLINE Vector<T> join_halves(HalfVector<T> low, HalfVector<T> high) {
    return join_halves<T>(low, high, LaneNumbers<T>{});
}

template <class T>
GRADHESS_INLINE HalfVector<T> sum_of_halves(Vector<T> v) {
    HalfVector<T> half[2];
    __builtin_memcpy(half, &v, sizeof v);
    return half[0] + half[1];
}

// The sum over the lanes of each of `v`, by halves: lane l and lane l + n / 2, and so on. Lane
// kPieceLanes * (i % kPieces) + i / kPieces is that of v[i].
template <class T, int P = Simd<T>::lanes / 2>
GRADHESS_INLINE Vector<T> sums_over_lanes(Vector<T> (&v)[Simd<T>::lanes]) {
    if constexpr (P == 0) {
        return v[0];
    } else {
        constexpr int span = 2 * P > kPieceLanes<T> ? Simd<T>::lanes : kPieceLanes<T>;
#pragma GCC unroll 16
        for (int i = 0; i < P; ++i) {
            const Vector<T> a = v[2 * i];
            const Vector<T> b = v[2 * i + 1];
            v[i] = every_second<P, span, false, T>(a, b, LaneNumbers<T>{}) +
                   every_second<P, span, true, T>(a, b, LaneNumbers<T>{});
        }
        return sums_over_lanes<T, P / 2>(v);
    }
}

// The same by trees of eight neighbours, ((0+1)+(2+3)) + ((4+5)+(6+7)), or of all lanes where they are fewer: lane i of
// v[t] is that of lanes 8 t to 8 t + 7 of v[i].
template <class T, int SUMMED = 1>
GRADHESS_INLINE void sum_neighbours(Vector<T> (&v)[Simd<T>::lanes]) {
    constexpr int lanes = Simd<T>::lanes;
    constexpr int piece = kPieceLanes<T>;
    if constexpr (SUMMED < lanes && SUMMED < 8) {
        constexpr int p = SUMMED < piece ? 1 : piece;
        constexpr int span = SUMMED < piece ? piece : lanes;
#pragma GCC unroll 16
        for (int i = 0; i < lanes / SUMMED / 2; ++i) {
            const Vector<T> a = v[2 * i];
            const Vector<T> b = v[2 * i + 1];
            v[i] = every_second<p, span, false, T>(a, b, LaneNumbers<T>{}) +
                   every_second<p, span, true, T>(a, b, LaneNumbers<T>{});
        }
        sum_neighbours<T, 2 * SUMMED>(v);
    } else if constexpr (SUMMED < lanes) {
        static_assert(lanes == 2 * SUMMED);
        split_pieces<T>(v[0], v[1]);
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
