// Rows into the panels of a slab (slab.hpp): scaled, shifted, and summed by trees of eight rows on the way.
//
// Cost per entry: one load, a product, a difference and half an addition where they are wanted, one store.
#pragma once

#include "simd.hpp"
#include "slab.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

template <class T>
inline constexpr int kPanel = Simd<T>::lanes < 4 ? 4 : Simd<T>::lanes;

// The first `valid` entries of a row times `scale`, then `scale` itself where there is a unit column, then zeros.
template <class V, class T>
GRADHESS_INLINE V cut_row(V row, T scale, Index valid, bool unit) {
    constexpr int lanes = sizeof(V) / sizeof(T);
    V lane;
    for (int v = 0; v < lanes; ++v) lane[v] = static_cast<T>(v);
    const V end = broadcast(static_cast<T>(valid));
    const V after = lane == end ? broadcast(unit ? scale : T(0)) : V{};
    return lane < end ? row * broadcast(scale) : after;
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
template <class T>
struct Packing {
    const T* x = nullptr;
    Index stride = 0;
    Index readable = 0;  // entries that may be read from x on
    Index features = 0;
    bool unit = false;
    const T* factor = nullptr;
    const T* shift = nullptr;
    const double* weight = nullptr;  // of each row in the tree sums; null for one
};

// Eight rows, and their weighted sums where slab.trees is given: a tree in T, fewer than eight rows filled up with
// zeros.
template <bool SCALED, bool SHIFTED, class T>
GRADHESS_INLINE void pack_eight(const Packing<T>& packing, Index i, Slab<T>& slab, Index row) {
    using V = Vector<T>;
    constexpr int panel = kPanel<T>;
    constexpr int lanes = Simd<T>::lanes;
    const T* first = packing.x + i * packing.stride;
    // A vector of columns from `column` on; where PART, fewer than a vector has, and the ones after them.
    const auto pack = [&]<bool PART>(Index column) {
        const Index valid = packing.features - column;
        V ones = {};
        if (PART && packing.unit && valid >= 0) ones[valid] = T(1);
        const V by = SHIFTED ? load<V>(packing.shift + column) : V{};
        T* out = slab.panels + column / panel * slab.panel_stride + row * panel + column % panel;
        V entry[kTreeRows];
#pragma GCC unroll 8
        for (int r = 0; r < kTreeRows; ++r) {
            const T* in = first + r * packing.stride + column;
            entry[r] = PART ? (valid > 0 ? load_first(in, valid) : V{}) + ones : load<V>(in);
            if (SCALED) entry[r] *= broadcast(packing.factor[i + r]);
            if (SHIFTED) entry[r] = rounded(entry[r]) - by;
            store(out + r * panel, entry[r]);
        }
        if (!slab.trees) return;
        if (packing.weight) {
#pragma GCC unroll 8
            for (int r = 0; r < kTreeRows; ++r)
                entry[r] = rounded(entry[r] * broadcast(static_cast<T>(packing.weight[i + r])));
        }
        store(tree_at(slab, row) + column, sum_of_tree(entry));
    };
    const Index end = slab.n_panels * panel;
    Index column = 0;
    for (; column + lanes <= packing.features; column += lanes) pack.template operator()<false>(column);
    for (; column < end; column += lanes) pack.template operator()<true>(column);
}

// The same for fewer rows, entry by entry where a vector would pass the end of the rows.
template <bool SCALED, bool SHIFTED, class T>
inline void pack_rest(const Packing<T>& packing, Index i, Index count, Slab<T>& slab, Index row) {
    using V = Vector<T>;
    constexpr int panel = kPanel<T>;
    constexpr int lanes = Simd<T>::lanes;
    const Index d = packing.features;
    for (Index p = 0; p < slab.n_panels; ++p) {
        T* out = slab.panels + p * slab.panel_stride + row * panel;
        for (Index r = 0; r < count; ++r) {
            const Index at = (i + r) * packing.stride + p * panel;
            const T scale = SCALED ? packing.factor[i + r] : T(1);
            if (packing.stride > 0 && at + panel <= packing.readable) {
                for (int v = 0; v < panel; v += lanes)
                    store(out + r * panel + v,
                          cut_row(load<V>(packing.x + at + v), scale, d - p * panel - v, packing.unit));
            } else {
                for (int v = 0; v < panel; ++v) {
                    const Index j = p * panel + v;
                    out[r * panel + v] = j < d ? packing.x[at + v] * scale : (j == d && packing.unit ? scale : T(0));
                }
            }
        }
        for (int v = 0; v < panel; v += lanes) {
            if (SHIFTED) {
                const V by = load<V>(packing.shift + p * panel + v);
                for (Index r = 0; r < count; ++r) store(out + r * panel + v, load<V>(out + r * panel + v) - by);
            }
            if (!slab.trees) continue;
            V entry[kTreeRows] = {};
            for (Index r = 0; r < count; ++r) {
                entry[r] = load<V>(out + r * panel + v);
                if (packing.weight) entry[r] = rounded(entry[r] * broadcast(static_cast<T>(packing.weight[i + r])));
            }
            store(tree_at(slab, row) + p * panel + v, sum_of_tree(entry));
        }
    }
}

// Packs `count` rows; the first becomes row `row0` of the slab, a multiple of kTreeRows where trees are wanted.
template <bool SCALED, bool SHIFTED, class T>
GRADHESS_INLINE void pack_as(const Packing<T>& packing, Index count, Slab<T>& slab, Index row0) {
    Index i = 0;
    for (; i + kTreeRows <= count; i += kTreeRows) pack_eight<SCALED, SHIFTED>(packing, i, slab, row0 + i);
    if (i < count) pack_rest<SCALED, SHIFTED>(packing, i, count - i, slab, row0 + i);
}

template <class T>
inline void pack_rows(const Packing<T>& packing, Index count, Slab<T>& slab, Index row0) {
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
