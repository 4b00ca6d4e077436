// One block (p, q) of the Gram matrix of outer rows e_i (x) a_i: A~^T diag(s) A~ over the rows of a packed slab, with
// s_i = e_ip e_iq. It is symmetric, so only tiles on and below its diagonal are computed.
//
// Layout: A~ in panels (slab.hpp), packed once for all blocks. The broadcast operand of the multiply kernel is a copy
// of a panel, scaled by s while it is made; the vector operand is the panels as they are. Tile: that of
// rank_update.hpp, whose register kernel this is. Cost per block and row: w^2 / 2 multiply-adds, and w products for the
// scaled copies. s is float64. Where one lies far out in the range of T, the product of s with an entry of A~ is
// float64, too, before it is rounded: the square of a small error may underflow where the product of two gradients does
// not.
#pragma once

#include <cmath>

#include "rank_update.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// Rows of A, contiguous, into a slab.
template <class T>
void pack_plain(const T* rows, Index count, Index features, bool unit_column, Slab<T>& slab, Index row0) {
    Packing<T> packing;
    packing.x = {rows, features};
    packing.features = features;
    packing.unit = unit_column;
    pack_rows(packing, count, slab, row0);
}

GRADHESS_INLINE void store_narrow(double* to, Doubles values) { store(to, values); }

GRADHESS_INLINE void store_narrow(float* to, Doubles values) {
    store(to, __builtin_convertvector(values, Simd<float>::HalfVector));
}

// Whether every scale, and what it is multiplied with, keeps its digits in T.
template <class T>
GRADHESS_INLINE bool fits(const double* scale, Index rows) {
    if constexpr (sizeof(T) == 8) return true;
    bool all = true;
    for (Index r = 0; r < rows; ++r) {
        const double size = std::fabs(scale[r]);
        all &= size == 0.0 || (size > 1e-30 && size < 1e30);
    }
    return all;
}

// A panel, scaled.
template <class T>
GRADHESS_INLINE void scale_panel(const T* plain, Index rows, const double* scale, const T* scale_as_t, bool fit,
                                 T* scaled) {
    using V = Vector<T>;
    constexpr int panel = kPanel<T>;
    if (fit) {
        for (Index r = 0; r < rows; ++r)
            for (int m = 0; m < panel; m += Simd<T>::lanes)
                store(scaled + r * panel + m, load<V>(plain + r * panel + m) * broadcast(scale_as_t[r]));
        return;
    }
    for (Index r = 0; r < rows; ++r)
        for (int m = 0; m < panel; m += kDoubleLanes)
            store_narrow(scaled + r * panel + m, load_doubles(plain + r * panel + m) * broadcast(scale[r]));
}

// Adds the part of `tile` on and below the block's diagonal to `target`, which is padded. `scaled` has room for
// slab.rows rows of a panel, and for as many numbers more. Tiles begin at panels.
template <class T, class Scatter>
void outer_update(const Slab<T>& slab, const double* scale, const Tile& tile, const Target<Scatter>& target,
                  T* scaled) {
    constexpr int panel = kPanel<T>;
    constexpr int strip_rows = kStripRows<T>;
    T* scale_as_t = scaled + slab.rows * panel;
    for (Index r = 0; r < slab.rows; ++r) scale_as_t[r] = static_cast<T>(scale[r]);
    const bool fit = fits<T>(scale, slab.rows);
    MemoryAhead next_panel;  // asked for while this one is multiplied, for the next to be scaled from cache
    for (Index row = tile.row_begin; row < tile.row_end; row += strip_rows) {
        if (row % panel == 0) {
            const T* plain = slab.panels + row / panel * slab.panel_stride;
            scale_panel(plain, slab.rows, scale, scale_as_t, fit, scaled);
            next_panel = {};
            if (row + panel < tile.row_end) next_panel = {plain + slab.panel_stride, panel_bytes(slab)};
        }
        multiply_strip(slab, scaled + row % panel, tile, target, row,
                       [&]() -> MemoryAhead* { return next_panel.any() ? &next_panel : nullptr; });
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
