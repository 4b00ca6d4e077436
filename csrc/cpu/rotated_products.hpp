// C += Z^T diag(w) Z over the rows of one slab, lower triangle only, for rows that nearly fill a line of 64 bytes
// (float32) or two (float64).
//
// A line is four pieces of 128 bits. One product multiplies all entries of a line, each piece rotated by `within`
// entries, by a line rotated by `pieces` pieces: a line of entries of C, whose chains over the rows stay in registers.
// All distances within and between pieces, up to half way around, are all entries of C; what is met from both sides is
// taken once.
//
// Cost per row: 9 multiply-adds of vectors of 64 bytes and 5 shuffles (float32), 18 and 10 (float64); nothing is
// transposed. Each entry of C is one chain over the rows of the slab, in T, from zero; the sum joins C once. So its
// bits do not depend on the vector length or on threads, and are those that wider rows have.
#pragma once

#include <array>
#include <type_traits>
#include <utility>

#include "pack.hpp"
#include "transpose.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// Vectors of 16 bytes would need twelve passes over the rows, and are faster by lanes.
inline constexpr bool kRotates = GRADHESS_VECTOR_BYTES > 16;

template <class T>
constexpr bool sums_by_rotation(Index parameters) {
    return kRotates && parameters >= kRotatedParametersMin<T> && parameters <= kRotatedParameters;
}

template <class T>
inline constexpr int kLines = static_cast<int>(kRotatedParameters) / kLineEntries<T>;
template <class T>
inline constexpr int kLineParts = kLineEntries<T> / Simd<T>::lanes;
inline constexpr int kLinePieces = 4;

// A row, in vectors.
template <class T>
inline constexpr int kRowParts = kLines<T> * kLineParts<T>;
template <class T>
struct Lines {
    Vector<T> part[kRowParts<T>];
};

struct Rotation {
    int left, right;  // lines; the left one is weighted
    int pieces;       // that the right one is rotated by
    int within;       // entries that the pieces of the left one are rotated by
    bool half;        // the first half of the left one, the second half of the right one
};

template <class T>
constexpr auto make_rotations() {
    constexpr int piece = kPieceLanes<T>;
    constexpr int own = piece / 2 + 1 + 2 * piece;
    std::array<Rotation, kLines<T> * own + (kLines<T> > 1 ? kLinePieces * piece : 0)> all{};
    std::size_t n = 0;
    for (int line = 0; line < kLines<T>; ++line) {
        for (int j = 0; j <= piece / 2; ++j) all[n++] = {line, line, 0, j, false};
        for (int j = 0; j < piece; ++j) all[n++] = {line, line, 1, j, false};
        for (int j = 0; j < piece; ++j) all[n++] = {line, line, 2, j, true};
    }
    for (int r = 0; kLines<T> > 1 && r < kLinePieces; ++r)
        for (int j = 0; j < piece; ++j) all[n++] = {1, 0, r, j, false};
    return all;
}

template <class T>
inline constexpr auto kRotations = make_rotations<T>();
template <class T>
inline constexpr int kRotationCount = static_cast<int>(kRotations<T>.size());
static_assert(kRotationCount<float> * kLineEntries<float> <= kRotatedSums);
static_assert(kRotationCount<double> * kLineEntries<double> <= kRotatedSums);

// Where the sum of entry (row, column) of C is found among those of all rotations.
template <class T>
constexpr auto make_places() {
    constexpr int piece = kPieceLanes<T>;
    std::array<std::array<std::uint8_t, kRotatedParameters>, kRotatedParameters> places{};
    for (int n = 0; n < kRotationCount<T>; ++n) {
        const Rotation& by = kRotations<T>[static_cast<std::size_t>(n)];
        for (int c = 0; c < kLineEntries<T> / (by.half ? 2 : 1); ++c) {
            const bool twice = by.left == by.right && by.pieces == 0 && 2 * by.within == piece;
            if (twice && c % piece >= by.within) continue;
            const auto left = static_cast<std::size_t>(by.left * kLineEntries<T> + c / piece * piece +
                                                       (c % piece + by.within) % piece);
            const auto right = static_cast<std::size_t>(by.right * kLineEntries<T> +
                                                        (c / piece + by.pieces) % kLinePieces * piece + c % piece);
            (left > right ? places[left][right] : places[right][left]) =
                static_cast<std::uint8_t>(n * kLineEntries<T> + c);
        }
    }
    return places;
}

template <class T>
inline constexpr auto kPlaces = make_places<T>();

template <int BY, class T, int... I>
GRADHESS_INLINE Vector<T> rotate_within(Vector<T> v, std::integer_sequence<int, I...>) {
    constexpr int piece = kPieceLanes<T>;
    return __builtin_shufflevector(v, v, (I / piece * piece + (I % piece + BY) % piece)...);
}

// Lanes of two vectors, one after the other, from lane BY on.
template <int BY, class T, int... I>
GRADHESS_INLINE Vector<T> lanes_from(Vector<T> a, Vector<T> b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (I + BY)...);
}

// Part `part` of a line that is rotated by whole pieces.
template <int PIECES, class T>
GRADHESS_INLINE Vector<T> rotated_part(const Vector<T>* line, int part) {
    constexpr int parts = kLineParts<T>;
    constexpr int whole = PIECES / kPieces<T>;
    constexpr int rest = PIECES % kPieces<T>;
    const Vector<T> first = line[(part + whole) % parts];
    if constexpr (rest == 0) {
        return first;
    } else {
        return lanes_from<rest * kPieceLanes<T>, T>(first, line[(part + whole + 1) % parts], LaneNumbers<T>{});
    }
}

template <class T>
struct HalfPart {
    typedef std::conditional_t<kLineParts<T> == 1, HalfVector<T>, Vector<T>> type;
};
template <class T>
inline constexpr int kHalfParts = kLineParts<T> == 1 ? 1 : kLineParts<T> / 2;

// Part `part` of the first or second half of a line.
template <class T>
GRADHESS_INLINE typename HalfPart<T>::type half_part(const Vector<T>* line, int part, bool second) {
    if constexpr (kLineParts<T> == 1) {
        HalfVector<T> half[2];
        __builtin_memcpy(half, line, sizeof half);
        return half[second ? 1 : 0];
    } else {
        return line[part + (second ? kHalfParts<T> : 0)];
    }
}

// Rotations that are summed in one pass over the rows: as many as there are registers for.
#if GRADHESS_VECTOR_BYTES == 64
inline constexpr int kSumRegisters = 20;
#else
inline constexpr int kSumRegisters = 10;
#endif

template <class T>
constexpr int last_of_pass(int first) {
    int registers = 0;
    int n = first;
    for (; n < kRotationCount<T>; ++n) {
        registers += kRotations<T>[static_cast<std::size_t>(n)].half ? kHalfParts<T> : kLineParts<T>;
        if (registers > kSumRegisters) break;
    }
    return n;
}

template <int FIRST, int LAST, class T>
struct RotatedSums {
    Vector<T> whole[LAST - FIRST][kLineParts<T>] = {};
    typename HalfPart<T>::type half[LAST - FIRST][kHalfParts<T>] = {};

    template <int N>
    GRADHESS_INLINE auto& of() {
        if constexpr (kRotations<T>[N].half) {
            return half[N - FIRST];
        } else {
            return whole[N - FIRST];
        }
    }

    template <int N>
    GRADHESS_INLINE void add(const Lines<T>& left, const Lines<T>& right) {
        constexpr Rotation by = kRotations<T>[N];
        const Vector<T>* from = left.part + by.left * kLineParts<T>;
        const Vector<T>* to = right.part + by.right * kLineParts<T>;
        Vector<T> turned[kLineParts<T>];
#pragma GCC unroll 4
        for (int k = 0; k < kLineParts<T>; ++k) turned[k] = rotate_within<by.within, T>(from[k], LaneNumbers<T>{});
        if constexpr (by.half) {
#pragma GCC unroll 4
            for (int k = 0; k < kHalfParts<T>; ++k)
                of<N>()[k] += half_part<T>(turned, k, false) * half_part<T>(to, k, true);
        } else {
#pragma GCC unroll 4
            for (int k = 0; k < kLineParts<T>; ++k) of<N>()[k] += turned[k] * rotated_part<by.pieces, T>(to, k);
        }
    }
};

// The weighted sum, by a tree, of ROWS rows from row i on, once their products are in `sums`. read(i, weighted) is
// row i, and the same times its weight. Where not WHOLE, rows from `count` on are zero.
template <int ROWS, bool WHOLE, int FIRST, int LAST, class T, class Read, int... N>
GRADHESS_INLINE Lines<T> multiply_tree(const Read& read, Index i, Index count, RotatedSums<FIRST, LAST, T>& sums,
                                       std::integer_sequence<int, N...> all) {
    Lines<T> weighted = {};
    if (!WHOLE && i >= count) return weighted;
    if constexpr (ROWS == 1) {
        const Lines<T> row = read(i, weighted);
        (sums.template add<FIRST + N>(weighted, row), ...);
    } else {
        weighted = multiply_tree<ROWS / 2, WHOLE>(read, i, count, sums, all);
        const Lines<T> second = multiply_tree<ROWS / 2, WHOLE>(read, i + ROWS / 2, count, sums, all);
#pragma GCC unroll 8
        for (int k = 0; k < kRowParts<T>; ++k) weighted.part[k] += second.part[k];
    }
    return weighted;
}

// Rotations [FIRST, LAST) over `count` rows; where FIRST is 0, their weighted sums into `total`, too, if it is given.
template <int FIRST, class T, class Read>
GRADHESS_INLINE void multiply_pass(const Read& read, Index count, T* sums, double* total, const char* next) {
    constexpr int last = last_of_pass<T>(FIRST);
    constexpr std::make_integer_sequence<int, last - FIRST> all;
    RotatedSums<FIRST, last, T> own;
    const auto each = [&]<int... N>(std::integer_sequence<int, N...>, auto move) {
        (move.template operator()<FIRST + N>(), ...);
    };
    each(all, [&]<int N>() {
        __builtin_memcpy(own.template of<N>(), sums + N * kLineEntries<T>, sizeof own.template of<N>());
    });
    const auto add_tree = [&](const Lines<T>& tree) {
        if (FIRST == 0 && next) {
#pragma GCC unroll 16
            for (Index line = 0; line < kTreeRows * kLines<T>; ++line) __builtin_prefetch(next + 64 * line, 0, 2);
            next += 64 * kTreeRows * kLines<T>;
        }
        if (FIRST > 0 || !total) return;
        constexpr int parts = Simd<T>::lanes / kDoubleLanes;
#pragma GCC unroll 8
        for (int k = 0; k < kRowParts<T>; ++k) {
            Doubles at[parts];
            double* to = total + k * Simd<T>::lanes;
            for (int s = 0; s < parts; ++s) at[s] = load_doubles(to + s * kDoubleLanes);
            add_doubles(at, tree.part[k]);
            for (int s = 0; s < parts; ++s) store(to + s * kDoubleLanes, at[s]);
        }
    };
    Index i = 0;
    for (; i + kTreeRows <= count; i += kTreeRows) add_tree(multiply_tree<kTreeRows, true>(read, i, count, own, all));
    if (i < count) add_tree(multiply_tree<kTreeRows, false>(read, i, count, own, all));
    each(all, [&]<int N>() {
        __builtin_memcpy(sums + N * kLineEntries<T>, own.template of<N>(), sizeof own.template of<N>());
    });
    if constexpr (last < kRotationCount<T>) multiply_pass<last>(read, count, sums, nullptr, nullptr);
}

template <int ROW, class T, class Scatter, int... C>
GRADHESS_INLINE void add_rotated_row(const T* sums, Scatter* to, std::integer_sequence<int, C...>) {
    ((to[C] += static_cast<Scatter>(sums[kPlaces<T>[ROW][C]])), ...);
}

template <class T, class Scatter, int... ROW>
GRADHESS_INLINE void add_rotated_rows(const T* sums, const Target<Scatter>& target,
                                      std::integer_sequence<int, ROW...>) {
    ((ROW < target.parameters
          ? add_rotated_row<ROW>(sums, target.data + ROW * target.stride, std::make_integer_sequence<int, ROW + 1>{})
          : void()),
     ...);
}

// The sums of all rotations onto C.
template <class T, class Scatter>
__attribute__((noinline)) void add_rotated(const T* sums, const Target<Scatter>& target) {
    add_rotated_rows(sums, target, std::make_integer_sequence<int, static_cast<int>(kRotatedParameters)>{});
}

// ---- rows as they are read ----

template <class T>
GRADHESS_INLINE Lines<T> weigh(const Lines<T>& row, double weight) {
    Lines<T> weighted;
#pragma GCC unroll 8
    for (int k = 0; k < kRowParts<T>; ++k) weighted.part[k] = rounded(row.part[k] * broadcast(static_cast<T>(weight)));
    return weighted;
}

// Rows of X on their way: scaled, shifted. Where PART, the last vector has fewer columns, and the ones after them where
// there are any.
template <bool PART, bool SCALED, bool SHIFTED, bool WEIGHTED, class T>
struct ScaledRows {
    static constexpr int last = kRowParts<T> - 1;
    static_assert(kRotatedParametersMin<T> > last * Simd<T>::lanes);
    const Packing<T>& packing;
    Index valid;
    Vector<T> ones = {};

    explicit ScaledRows(const Packing<T>& of) : packing(of), valid(of.features - last * Simd<T>::lanes) {
        if (PART && of.unit) ones[valid] = T(1);
    }

    GRADHESS_INLINE Lines<T> operator()(Index i, Lines<T>& weighted) const {
        Lines<T> row;
        const T* from = packing.x.data + i * packing.x.stride;
#pragma GCC unroll 8
        for (int k = 0; k < kRowParts<T>; ++k) {
            const T* at = from + k * Simd<T>::lanes;
            Vector<T> z = PART && k == last ? load_first(at, valid) + ones : load<Vector<T>>(at);
            if (SCALED) z = rounded(z * broadcast(packing.factor[i]));
            if (SHIFTED) z -= load<Vector<T>>(packing.shift + k * Simd<T>::lanes);
            row.part[k] = z;
        }
        weighted = WEIGHTED ? weigh(row, packing.weight[i]) : row;
        return row;
    }
};

// Rows of a slab in panels.
template <bool WEIGHTED, class T>
struct PackedRows {
    const Slab<T>& slab;

    GRADHESS_INLINE Lines<T> operator()(Index i, Lines<T>& weighted) const {
        constexpr Index lanes = Simd<T>::lanes;
        constexpr int panel = kPanel<T>;
        static_assert(panel == lanes);
        Lines<T> row;
#pragma GCC unroll 8
        for (int k = 0; k < kRowParts<T>; ++k)
            row.part[k] = load<Vector<T>>(slab.panels + k * slab.panel_stride + i * panel);
        weighted = WEIGHTED ? weigh(row, slab.weight[i]) : row;
        return row;
    }
};

// The rows of a group, scaled and shifted: their products onto `products`, their sums onto `sum`.
template <bool SCALED, bool SHIFTED, class T>
__attribute__((noinline)) void rotate_rows(const Packing<T>& packing, Index count, T* products, double* sum,
                                           const char* next) {
    const auto multiply = [&]<bool PART, bool WEIGHTED>() {
        multiply_pass<0>(ScaledRows<PART, SCALED, SHIFTED, WEIGHTED, T>(packing), count, products, sum, next);
    };
    const bool part = packing.features < kRotatedParameters;
    if (packing.weight) {
        part ? multiply.template operator()<true, true>() : multiply.template operator()<false, true>();
    } else {
        part ? multiply.template operator()<true, false>() : multiply.template operator()<false, false>();
    }
}

// The products of a slab in panels onto C.
template <class T, class Scatter>
inline void rotate_panels(const Slab<T>& slab, const Target<Scatter>& target, T* products) {
    for (Index k = 0; k < kRotatedSums; ++k) products[k] = 0;
    slab.weighted ? multiply_pass<0>(PackedRows<true, T>{slab}, slab.rows, products, nullptr, nullptr)
                  : multiply_pass<0>(PackedRows<false, T>{slab}, slab.rows, products, nullptr, nullptr);
    add_rotated(products, target);
}

}  // namespace gradhess::cpu::GRADHESS_ISA
