// From rows of X to packed rows of gradients: eta = X w + b, the loss and its slope r, and r x~ rounded to the
// compute type, while the rows are in cache.
//
// Cost per row: 2 d multiply-adds in float64 for eta, d products, one read of X, one write of the panel.
// A row's bits depend on that row alone, and not on the vector length.
#pragma once

#include <type_traits>

#include "column_products.hpp"
#include "losses.hpp"
#include "pack.hpp"
#include "predict.hpp"
#include "read_rows.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// The labels of a group as float64: in place where they are that already.
template <class T>
inline const double* labels(const Rows& rows, Index first, Index count, RowScratch<T>& scratch) {
    if (rows.y_dtype == DType::f64) return static_cast<const double*>(rows.y) + first;
    const float* y = static_cast<const float*>(rows.y) + first;
    for (Index i = 0; i < count; ++i) scratch.target[i] = static_cast<double>(y[i]);
    return scratch.target;
}

// scratch.value and scratch.slope of a group, from scratch.eta.
template <class T>
inline void slopes(const Rows& rows, Index first, Index count, RowScratch<T>& scratch) {
    const double* y = labels(rows, first, count, scratch);
    evaluate_loss(rows, first, count, scratch.eta, y, scratch.value, scratch.slope);
}

// Loss terms of a group: scratch.value, scratch.slope, and scratch.factor for gradient rows.
template <class T, class View>
inline void loss_terms(const Rows& rows, const View& x, Index first, Index count, RowScratch<T>& scratch,
                       Index later = 0) {
    predict(x, count, rows.features, rows.coef, rows.intercept, rows.outputs, scratch.eta, later);
    slopes(rows, first, count, scratch);
    const Index n = count * rows.row_outputs();
    for (Index i = 0; i < n; ++i) scratch.factor[i] = static_cast<T>(scratch.slope[i]);
}

// What the slab is to know of a group of rows, of which `first` becomes its row `row0`: losses and weights. Their
// factors are left in the scratch.
template <class T, class View>
inline void describe_group(const Rows& rows, const double* weights, const View& x, Index first, Index count,
                           Slab<T>& slab, Index row0, RowScratch<T>& scratch) {
    if (rows.kind != RowKind::dense) {
        loss_terms(rows, x, first, count, scratch);
        for (Index r = 0; r < count; ++r) slab.value[row0 + r] = scratch.value[r];
    }
    if (slab.weighted) {
        const double* from = weights ? weights + first : scratch.slope;
        double* to = slab.weight + row0;
        if (weights && rows.kind == RowKind::hessian) {
            for (Index r = 0; r < count; ++r) to[r] = weights[first + r] * scratch.slope[r];
        } else {
            for (Index r = 0; r < count; ++r) to[r] = from[r];
        }
    }
}

// How a group of rows goes into the slab, of which the first becomes row `row0`.
template <class T, class View>
inline Packing<T, View> packing_of(const Rows& rows, const View& x, const T* shift, const Slab<T>& slab, Index row0,
                                   const RowScratch<T>& scratch) {
    Packing<T, View> packing;
    packing.x = x;
    packing.features = rows.features;
    packing.unit = rows.unit_column;
    packing.factor = rows.kind == RowKind::gradient ? scratch.factor : nullptr;
    packing.shift = shift;
    packing.weight = slab.weighted ? slab.weight + row0 : nullptr;
    return packing;
}

// The outer products of a group of rows with their errors, a tree of rows at a time.
template <class T>
inline void pack_outer_rows(const Rows& rows, const RowView<T>& x, Index count, const T* shift, Slab<T>& slab,
                            Index row0, RowScratch<T>& scratch) {
    const Index k = rows.row_outputs();
    const Index padded = slab.n_panels * kPanel<T>;
    Packing<T> packing;
    packing.x = {scratch.outer, padded};
    packing.features = padded;
    packing.shift = shift;
    for (Index r = 0; r < count; r += kTreeRows) {
        const Index n = count - r < kTreeRows ? count - r : kTreeRows;
        for (Index s = 0; s < n; ++s) {
            T* row = scratch.outer + s * padded;
            outer_row(x.data + (r + s) * x.stride, rows.features, rows.unit_column, scratch.factor + (r + s) * k, k,
                      row);
            for (Index c = rows.parameters(); c < padded; ++c) row[c] = 0;
        }
        packing.weight = slab.weighted ? slab.weight + row0 + r : nullptr;
        pack_rows(packing, n, slab, row0 + r);
    }
}

// Packs rows [begin, end) of the slab whose first row is `first`; their weights and losses go into the slab, and sums
// of eight rows into slab.trees where it is given. `shift` (padded) is subtracted where it is given.
template <class T>
void prepare(const Rows& rows, const double* weights, Index first, Index begin, Index end, const double* shift,
             Slab<T>& slab, RowScratch<T>& scratch) {
    const Index padded = slab.n_panels * kPanel<T>;
    for (Index c = 0; shift && c < padded; ++c) scratch.shift[c] = static_cast<T>(shift[c]);
    const T* narrow_shift = shift ? scratch.shift : nullptr;
    const auto pack = [&]<class View>(const View& x, Index i, Index n) {
        const Index row = begin + i;
        describe_group(rows, weights, x, first + row, n, slab, row, scratch);
        if constexpr (std::is_same_v<View, RowView<T>>) {
            if (rows.row_outputs() > 1) return pack_outer_rows(rows, x, n, narrow_shift, slab, row, scratch);
        }
        pack_rows(packing_of(rows, x, narrow_shift, slab, row, scratch), n, slab, row);
    };
    const bool columns = rows.row_outputs() == 1 && columns_in_place<T>(rows);
    visit_groups(rows, columns, first + begin, end - begin, scratch, pack);
}

}  // namespace gradhess::cpu::GRADHESS_ISA
