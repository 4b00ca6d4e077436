// From rows of X to packed rows of gradients: eta = X w + b, the loss and its slope r, and r x~ rounded to the
// compute type, while the rows are in cache.
//
// Cost per row: 2 d multiply-adds in float64 for eta, d products, one read of X, one write of the panel.
// A row's bits depend on that row alone, and not on the vector length.
#pragma once

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
template <class T>
inline void loss_terms(const Rows& rows, const RowView<T>& x, Index first, Index count, RowScratch<T>& scratch,
                       Index later = 0) {
    predict(x, count, rows.features, rows.coef, rows.intercept, rows.outputs, scratch.eta, later);
    slopes(rows, first, count, scratch);
    const Index n = count * rows.row_outputs();
    for (Index i = 0; i < n; ++i) scratch.factor[i] = static_cast<T>(scratch.slope[i]);
}

// `count` rows from `first` on: their factors in the scratch, their losses and weights in the slab, of which they are
// rows `row0` and so on.
template <class T>
inline RowView<T> read_group(const Rows& rows, const double* weights, Index first, Index count, Slab<T>& slab,
                             Index row0, RowScratch<T>& scratch) {
    const RowView<T> x = view_rows(rows, first, count, scratch);
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
    return x;
}

// Packs rows [begin, end) of the slab whose first row is `first`; their weights and losses go into the slab, and sums
// of eight rows into slab.trees where it is given. `shift` (padded) is subtracted where it is given.
template <class T>
void prepare(const Rows& rows, const double* weights, Index first, Index begin, Index end, const double* shift,
             Slab<T>& slab, RowScratch<T>& scratch) {
    const Index k = rows.row_outputs();
    constexpr int panel = kPanel<T>;
    const Index padded = slab.n_panels * panel;
    for (Index c = 0; shift && c < padded; ++c) scratch.shift[c] = static_cast<T>(shift[c]);
    if (k > 1)  // outer rows are padded like the panels
        for (Index r = 0; r < kTreeRows; ++r)
            for (Index c = rows.parameters(); c < padded; ++c) scratch.outer[r * padded + c] = 0;
    for (Index i = begin; i < end; i += scratch.group) {
        const Index count = end - i < scratch.group ? end - i : scratch.group;
        const RowView<T> x = read_group(rows, weights, first + i, count, slab, i, scratch);
        const bool outer = k > 1;
        Packing<T> packing;
        packing.x = outer ? scratch.outer : x.data;
        packing.stride = outer ? padded : x.stride;
        packing.features = outer ? padded : rows.features;
        packing.unit = !outer && rows.unit_column;
        packing.factor = !outer && rows.kind == RowKind::gradient ? scratch.factor : nullptr;
        packing.shift = shift ? scratch.shift : nullptr;
        const Index step = outer ? kTreeRows : count;
        for (Index r = 0; r < count; r += step) {
            const Index n = count - r < step ? count - r : step;
            for (Index s = 0; outer && s < n; ++s)
                outer_row(x.data + (r + s) * x.stride, rows.features, rows.unit_column, scratch.factor + (r + s) * k, k,
                          scratch.outer + s * padded);
            packing.readable = (n - 1) * packing.stride + packing.features;
            packing.weight = slab.weighted ? slab.weight + i + r : nullptr;
            pack_rows(packing, n, slab, i + r);
        }
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
