// Rows into the panels of a slab (slab.hpp): scaled, shifted, and summed by trees of eight rows on the way.
//
// Cost per entry: one load, a product, a difference and half an addition where they are wanted, one store; and where
// columns are contiguous, the shuffles that turn squares of them (log2 of the lanes for a vector).
#pragma once

#include "slab.hpp"
#include "transpose.hpp"
#include "views.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

template <class T>
inline constexpr int kPanel = Simd<T>::lanes < 4 ? 4 : Simd<T>::lanes;

// Rows that are turned together: whole trees, and whole squares of lanes.
template <class T>
inline constexpr int kTurnedRows = Simd<T>::lanes > kTreeRows ? Simd<T>::lanes : static_cast<int>(kTreeRows);
static_assert(kColumnRows<float> % kTurnedRows<float> == 0 && kColumnRows<double> % kTurnedRows<double> == 0);

// So many rows of a vector of columns, turned in registers. FEWER as in load_square.
template <bool FEWER, class T>
GRADHESS_INLINE void load_rows(const ColumnView<T>& x, Index i, Index j, Index columns,
                               Vector<T> (&row)[kTurnedRows<T>]) {
    constexpr int lanes = Simd<T>::lanes;
#pragma GCC unroll 4
    for (int first = 0; first < kTurnedRows<T>; first += lanes) {
        Vector<T> square[lanes];
        load_square<FEWER, T>(x, i + first, j, columns, square);
        transpose<T>(square);
#pragma GCC unroll 16
        for (int r = 0; r < lanes; ++r) row[first + r] = square[r];
    }
}

// Of kTreeRows entries.
template <class V>
GRADHESS_INLINE V sum_of_tree(const V* entry) {
    return ((entry[0] + entry[1]) + (entry[2] + entry[3])) + ((entry[4] + entry[5]) + (entry[6] + entry[7]));
}

// Where the sums of the eight rows go to which `row` belongs.
template <class T>
GRADHESS_INLINE T* tree_at(const Slab<T>& slab, Index row) {
    return slab.trees + row / kTreeRows * slab.n_panels * kPanel<T>;
}

// What becomes of a row on its way into the slab: (x_i, 1 where `unit`) * factor[i] - shift; no factor and no shift
// where they are null.
template <class T, class View = RowView<T>>
struct Packing {
    View x = {};
    Index features = 0;
    bool unit = false;
    const T* factor = nullptr;
    const T* shift = nullptr;
    const double* weight = nullptr;  // of each row in the tree sums; null for one

    // Ones in the column after the last, of a vector that begins at `column`.
    GRADHESS_INLINE Vector<T> unit_column(Index column) const {
        Vector<T> ones = {};
        if (unit && features >= column) ones[features - column] = T(1);
        return ones;
    }
};

// A vector of columns of eight rows, of which the first `left` where not WHOLE and zeros: scaled, shifted, into their
// panel from row `row` on, and their weighted sums where slab.trees is given: a tree in T. The first is row i of the
// group.
template <bool WHOLE, bool SCALED, bool SHIFTED, class T, class View>
GRADHESS_INLINE void put_eight(Vector<T>* entry, const Packing<T, View>& packing, Index i, Index left, Index column,
                               Slab<T>& slab, Index row) {
    using V = Vector<T>;
    constexpr int panel = kPanel<T>;
    const V by = SHIFTED ? load<V>(packing.shift + column) : V{};
    T* out = slab.panels + column / panel * slab.panel_stride + row * panel + column % panel;
#pragma GCC unroll 8
    for (int r = 0; r < kTreeRows; ++r) {
        if (!WHOLE && r >= left) break;
        if (SCALED) entry[r] *= broadcast(packing.factor[i + r]);
        if (SHIFTED) entry[r] = rounded(entry[r]) - by;
        store(out + r * panel, entry[r]);
    }
    if (!slab.trees) return;
    if (packing.weight) {
#pragma GCC unroll 8
        for (int r = 0; r < kTreeRows; ++r)
            if (WHOLE || r < left) entry[r] = rounded(entry[r] * broadcast(static_cast<T>(packing.weight[i + r])));
    }
    store(tree_at(slab, row) + column, sum_of_tree(entry));
}

// Packs `count` rows; the first becomes row `row0` of the slab, a multiple of kTreeRows where trees are wanted.
template <bool SCALED, bool SHIFTED, class T>
GRADHESS_INLINE void pack_as(const Packing<T>& packing, Index count, Slab<T>& slab, Index row0) {
    constexpr Index lanes = Simd<T>::lanes;
    const Index end = slab.n_panels * kPanel<T>;
    const auto pack_eight = [&]<bool WHOLE>(Index i) {
        const T* first = packing.x.data + i * packing.x.stride;
        // A vector of columns; where PART, fewer than a vector has, and the ones after them.
        const auto pack = [&]<bool PART>(Index column) {
            const Index valid = packing.features - column;
            const Vector<T> ones = PART ? packing.unit_column(column) : Vector<T>{};
            Vector<T> entry[kTreeRows] = {};
#pragma GCC unroll 8
            for (int r = 0; r < kTreeRows; ++r) {
                if (!WHOLE && r >= count - i) break;
                const T* in = first + r * packing.x.stride + column;
                entry[r] = PART ? (valid > 0 ? load_first(in, valid) : Vector<T>{}) + ones : load<Vector<T>>(in);
            }
            put_eight<WHOLE, SCALED, SHIFTED>(entry, packing, i, count - i, column, slab, row0 + i);
        };
        Index column = 0;
        for (; column + lanes <= packing.features; column += lanes) pack.template operator()<false>(column);
        for (; column < end; column += lanes) pack.template operator()<true>(column);
    };
    Index i = 0;
    for (; i + kTreeRows <= count; i += kTreeRows) pack_eight.template operator()<true>(i);
    if (i < count) pack_eight.template operator()<false>(i);
}

// The same for rows whose columns are contiguous, in squares that are turned in registers: panel after panel, so that
// columns and panels are long pieces of memory.
template <bool SCALED, bool SHIFTED, class T>
GRADHESS_INLINE void pack_as(const Packing<T, ColumnView<T>>& packing, Index count, Slab<T>& slab, Index row0) {
    constexpr Index lanes = Simd<T>::lanes;
    const Index end = slab.n_panels * kPanel<T>;
    const auto pack = [&]<bool PART>(Index column) {
        const Vector<T> ones = PART ? packing.unit_column(column) : Vector<T>{};
        for (Index i = 0; i < count; i += kTurnedRows<T>) {
            Vector<T> entry[kTurnedRows<T>];
            load_rows<PART>(packing.x, i, column, packing.features, entry);
#pragma GCC unroll 16
            for (Vector<T>& row : entry) row = PART ? row + ones : row;
#pragma GCC unroll 2
            for (int r = 0; r < kTurnedRows<T>; r += kTreeRows)
                put_eight<true, SCALED, SHIFTED>(entry + r, packing, i + r, kTreeRows, column, slab, row0 + i + r);
        }
    };
    Index column = 0;
    for (; column + lanes <= packing.features; column += lanes) pack.template operator()<false>(column);
    for (; column < end; column += lanes) pack.template operator()<true>(column);
}

template <class T, class View>
inline void pack_rows(const Packing<T, View>& packing, Index count, Slab<T>& slab, Index row0) {
    if (packing.factor) {
        packing.shift ? pack_as<true, true>(packing, count, slab, row0)
                      : pack_as<true, false>(packing, count, slab, row0);
    } else {
        packing.shift ? pack_as<false, true>(packing, count, slab, row0)
                      : pack_as<false, false>(packing, count, slab, row0);
    }
}

// delta_i (x) x~_i, row-major over (output, feature), into `out`.
template <class T>
inline void outer_row(const T* x, Index d, bool unit, const T* factor, Index k, T* out) {
    for (Index q = 0; q < k; ++q) {
        const T scale = factor[q];
        for (Index j = 0; j < d; ++j) *out++ = x[j] * scale;
        if (unit) *out++ = scale;
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
