// Slabs of rows of two strips, where these fit the registers and are not summed by lanes: all three stages in one loop,
// while the lower triangle of Z^T Z sits in registers.
//
// A piece of the slab is packed, in a place that never leaves the L1 cache, summed, and multiplied into the sums. The
// same operations in the same order as prepare, centre_and_sum and rank_update, so the same bits.
#pragma once

#include "rank_update.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// Rows of up to so many parameters; 0 for none.
template <class T>
inline constexpr Index kNarrowParameters = 2 * kStripRows<T> > kLaneParameters<T> ? 2 * kStripRows<T> : 0;

template <class T>
struct NarrowSums {
    static constexpr int strip = kStripRows<T>;
    static constexpr int lanes = Simd<T>::lanes;
    TileSums<strip, strip / lanes, kHalves<T>, T, kShortRows<T>> first;
    TileSums<strip, 2 * strip / lanes, false, T, kShortRows<T>> second;

    GRADHESS_INLINE void add_products(const T* const* column, Index offset) {
        first.add_products(column[0] + offset, column, offset);
        second.add_products(entry(column, strip) + offset, column, offset);
    }

    // Where entry c of a row is, by the addresses of its vectors.
    GRADHESS_INLINE static const T* entry(const T* const* column, int c) { return column[c / lanes] + c % lanes; }

    template <class Scatter>
    GRADHESS_INLINE void add(const Target<Scatter>& target) const {
        first.add(target, 0, 0);
        second.add(target, strip, 0);
    }
};

// Where a piece of the slab is packed, and the address of each vector of its first row.
template <class T>
struct Piece {
    static constexpr int panel = kPanel<T>;
    static constexpr int lanes = Simd<T>::lanes;
    static constexpr int n_panels = (2 * kStripRows<T> + panel - 1) / panel;
    static constexpr int n_vectors = n_panels * panel / lanes;
    static constexpr Index rows = 2 * kTreeRows;

    alignas(64) T entries[n_panels * rows * panel];

    GRADHESS_INLINE T* vector(int v) { return entries + v * lanes / panel * rows * panel + v * lanes % panel; }
};

// Adds rows of a group, scaled and shifted, to the sums. A function of its own, so that these stay in registers.
template <bool SCALED, bool SHIFTED, class T>
__attribute__((noinline)) void add_group(const Rows& rows, const RowView<T>& x, Index count, const T* factor,
                                         const T* shift, NarrowSums<T>& sums, double* total, const char* ahead) {
    using Packed = Piece<T>;
    constexpr int parts = Packed::lanes / kDoubleLanes;
    constexpr int lines = (2 * kStripRows<T> * static_cast<int>(sizeof(T)) + kCacheLine - 1) / kCacheLine;
    Packed packed;
    alignas(64) T trees[Packed::rows / kTreeRows * Packed::n_panels * Packed::panel];
    Slab<T> piece;
    piece.panels = packed.entries;
    piece.panel_stride = Packed::rows * Packed::panel;
    piece.n_panels = Packed::n_panels;
    piece.trees = trees;
    const T* column[Packed::n_vectors];
    for (int v = 0; v < Packed::n_vectors; ++v) column[v] = packed.vector(v);
    NarrowSums<T> local = sums;
    Packing<T> packing;
    packing.x = x.data;
    packing.stride = x.stride;
    packing.readable = (count - 1) * x.stride + rows.features;
    packing.features = rows.features;
    packing.unit = rows.unit_column;
    packing.factor = factor;
    packing.shift = shift;
    for (Index i = 0; i < count; i += Packed::rows) {
        const Index n = count - i < Packed::rows ? count - i : Packed::rows;
        pack_as<SCALED, SHIFTED>(packing, n, piece, 0);
        packing.x += Packed::rows * x.stride;
        packing.readable -= Packed::rows * x.stride;
        packing.factor += SCALED ? Packed::rows : 0;
        for (int v = 0; v < Packed::n_vectors; ++v) {
            Doubles part[parts];
            for (int k = 0; k < parts; ++k) part[k] = load_doubles(total + (v * parts + k) * kDoubleLanes);
            for (Index r = 0; r < n; r += kTreeRows)
                add_doubles(part, load<Vector<T>>(trees + r / kTreeRows * Packed::n_panels * Packed::panel +
                                                  v * Packed::lanes));
            for (int k = 0; k < parts; ++k) store(total + (v * parts + k) * kDoubleLanes, part[k]);
        }
        for (Index r = 0; r < n; ++r) {
            for (int line = 0; line < lines; ++line, ahead += kCacheLine) __builtin_prefetch(ahead, 0, 2);
            local.add_products(column, r * Packed::panel);
        }
    }
    sums = local;
}

template <bool SCALED, class T, class Scatter>
inline void narrow_strips(const Rows& rows, Index begin, Index count, const T* shift, Slab<T>& slab, double* sum,
                          const Target<Scatter>& target, RowScratch<T>& scratch) {
    NarrowSums<T> sums;
    for (int c = 0; c < Piece<T>::n_panels * kPanel<T>; ++c) sum[c] = 0.0;
    for (Index i = 0; i < count; i += scratch.group) {
        const Index n = count - i < scratch.group ? count - i : scratch.group;
        const RowView<T> x = view_rows(rows, begin + i, n, scratch);
        if (SCALED) {
            loss_terms(rows, x, begin + i, n, scratch);
            for (Index r = 0; r < n; ++r) slab.value[i + r] = scratch.value[r];
        }
        // Where nothing is to be fetched, rows that are in cache.
        const char* ahead = scratch.ahead ? scratch.ahead + i * rows.row_stride : reinterpret_cast<const char*>(x.data);
        shift ? add_group<SCALED, true>(rows, x, n, scratch.factor, shift, sums, sum, ahead)
              : add_group<SCALED, false>(rows, x, n, scratch.factor, shift, sums, sum, ahead);
    }
    sums.add(target);
}

// Rows [begin, begin + count), which are a slab: their column sums into `sum`, their products onto `target` (padded),
// their losses into slab.value. `shift` (padded) is subtracted where it is given.
template <class T, class Scatter>
void narrow_slab(const Rows& rows, Index begin, Index count, const double* shift, Slab<T>& slab, double* sum,
                 const Target<Scatter>& target, RowScratch<T>& scratch) {
    alignas(64) T narrow[2 * kPanel<T> + kNarrowParameters<T>];
    if (shift)
        for (Index c = 0; c < slab.n_panels * kPanel<T>; ++c) narrow[c] = static_cast<T>(shift[c]);
    const T* by = shift ? narrow : nullptr;
    const bool scaled = rows.kind == RowKind::gradient;
    scaled ? narrow_strips<true>(rows, begin, count, by, slab, sum, target, scratch)
           : narrow_strips<false>(rows, begin, count, by, slab, sum, target, scratch);
}

}  // namespace gradhess::cpu::GRADHESS_ISA
