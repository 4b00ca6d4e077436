// Row-wise operations on rows [first, first + count): no packing, one read of X.
#pragma once

#include "prepare.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// Runs visit(x, i, count) on groups of rows, with the loss terms of gradient rows in scratch.factor.
template <class T, class Visit>
GRADHESS_INLINE void for_groups(const Rows& rows, Index first, Index count, RowScratch<T>& scratch, Visit visit) {
    for (Index i = 0; i < count; i += scratch.group) {
        const Index n = count - i < scratch.group ? count - i : scratch.group;
        const RowView<T> x = view_rows(rows, first + i, n, scratch);
        if (rows.kind != RowKind::dense) loss_terms(rows, x, first + i, n, scratch);
        visit(x, i, n);
    }
}

// out (count, parameters): the rows, rounded to T.
template <class T>
void materialize(const Rows& rows, Index first, Index count, T* out, RowScratch<T>& scratch) {
    const Index p = rows.parameters();
    const Index k = rows.row_outputs();
    const T one = 1;
    for_groups(rows, first, count, scratch, [&](const RowView<T>& x, Index i, Index n) {
        for (Index r = 0; r < n; ++r) {
            const T* factor = rows.kind == RowKind::gradient ? scratch.factor + r * k : &one;
            outer_row(x.data + r * x.stride, rows.features, rows.unit_column, factor, k, out + (i + r) * p);
        }
    });
}

// out (count, outputs): what each row of x~ is multiplied with, in float64, for gradient rows.
template <class T>
void errors(const Rows& rows, Index first, Index count, double* out, RowScratch<T>& scratch) {
    const Index k = rows.row_outputs();
    for_groups(rows, first, count, scratch, [&](const RowView<T>&, Index i, Index n) {
        for (Index r = 0; r < n * k; ++r) out[i * k + r] = scratch.slope[r];
    });
}

// out (count,): Euclidean norms in float64.
template <class T>
void norms(const Rows& rows, Index first, Index count, double* out, RowScratch<T>& scratch) {
    const Index k = rows.row_outputs();
    for_groups(rows, first, count, scratch, [&](const RowView<T>& x, Index i, Index n) {
        for (Index r = 0; r < n; ++r) {
            const T* row = x.data + r * x.stride;
            Doubles part[8 / kDoubleLanes] = {};
            const Index whole = rows.features & ~Index{7};
            for (Index j = 0; j < whole; j += 8)
                for (int v = 0; v < 8 / kDoubleLanes; ++v) {
                    const Doubles value = load_doubles(row + j + v * kDoubleLanes);
                    part[v] += value * value;
                }
            alignas(64) double lane[8];
            for (int v = 0; v < 8 / kDoubleLanes; ++v) store(lane + v * kDoubleLanes, part[v]);
            for (Index j = whole; j < rows.features; ++j)
                lane[j - whole] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
            const double within =
                ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
            const double squares = within + (rows.unit_column ? 1.0 : 0.0);
            double size = 1.0;
            if (rows.kind == RowKind::gradient && k == 1) {
                size = std::fabs(scratch.slope[r]);  // not by a square, which underflows for a tiny slope
            } else if (rows.kind == RowKind::gradient) {
                double sum = 0.0;
                for (Index q = 0; q < k; ++q) sum += scratch.slope[r * k + q] * scratch.slope[r * k + q];
                size = std::sqrt(sum);
            }
            out[i + r] = size * std::sqrt(squares);
        }
    });
}

// out (count, m) = G V with V given as `vectors` (m, outputs, features) and `units` (m, outputs) or null.
// `products` holds (group, m * outputs).
template <class T>
void multiply(const Rows& rows, Index first, Index count, const double* vectors, const double* units, Index m,
              double* products, double* out, RowScratch<T>& scratch) {
    const Index k = rows.row_outputs();
    for_groups(rows, first, count, scratch, [&](const RowView<T>& x, Index i, Index n) {
        predict(x.data, x.stride, n, rows.features, vectors, units, m * k, products);
        for (Index r = 0; r < n; ++r)
            for (Index c = 0; c < m; ++c) {
                const double* product = products + (r * m + c) * k;
                double total = rows.kind == RowKind::gradient ? 0.0 : product[0];
                if (rows.kind == RowKind::gradient)
                    for (Index q = 0; q < k; ++q) total += scratch.slope[r * k + q] * product[q];
                out[(i + r) * m + c] = total;
            }
    });
}

// out[j] += sum over rows of coefficient * x_j, row after row, and for the unit column after the last feature. One
// coefficient each `step`.
template <class T>
GRADHESS_INLINE void add_rows(const RowView<T>& x, Index n, Index d, bool unit, const double* coefficients, Index step,
                              double* out) {
    constexpr int lanes = kDoubleLanes;
    constexpr int wide = 4 * lanes;  // columns at a time, each a chain of its own
    Index j = 0;
    for (; j + wide <= d; j += wide) {
        Doubles sum[4];
        for (int v = 0; v < 4; ++v) sum[v] = load_doubles(out + j + v * lanes);
        for (Index r = 0; r < n; ++r) {
            const Doubles coefficient = broadcast(coefficients[r * step]);
            const T* row = x.data + r * x.stride + j;
            for (int v = 0; v < 4; ++v) sum[v] += load_doubles(row + v * lanes) * coefficient;
        }
        for (int v = 0; v < 4; ++v) store(out + j + v * lanes, sum[v]);
    }
    for (Index r = 0; r < n; ++r) {
        const double coefficient = coefficients[r * step];
        const T* row = x.data + r * x.stride;
        for (Index c = j; c < d; ++c) out[c] += static_cast<double>(row[c]) * coefficient;
        if (unit) out[d] += coefficient;
    }
}

// out (m, outputs, width) += sum over rows of t_i g_i, with t (count, m) given as `u`, or t = G V with V given as in
// `multiply`: then it is G^T G V, from one read of X. `products` holds (group, m * outputs).
template <class T>
void multiply_transposed(const Rows& rows, Index first, Index count, const double* u, const double* vectors,
                         const double* units, Index m, double* products, double* out, RowScratch<T>& scratch) {
    const Index k = rows.row_outputs();
    const bool scaled = rows.kind == RowKind::gradient;
    for_groups(rows, first, count, scratch, [&](const RowView<T>& x, Index i, Index n) {
        if (vectors) predict(x.data, x.stride, n, rows.features, vectors, units, m * k, products);
        for (Index r = 0; r < n; ++r)
            for (Index c = 0; c < m; ++c) {
                double* product = products + (r * m + c) * k;
                const double* slope = scratch.slope + r * k;
                double t = vectors ? 0.0 : u[(first + i + r) * m + c];
                if (vectors)
                    for (Index q = 0; q < k; ++q) t += scaled ? slope[q] * product[q] : product[q];
                for (Index q = 0; q < k; ++q) product[q] = scaled ? t * slope[q] : t;
            }
        for (Index c = 0; c < m * k; ++c)
            add_rows(x, n, rows.features, rows.unit_column, products + c, m * k, out + c * rows.width());
    });
}

// 0 while all of scale * row is finite, for inf * 0 and NaN * 0 are NaN.
template <class T>
GRADHESS_INLINE bool is_finite(const T* row, Index d, T scale) {
    constexpr int lanes = Simd<T>::lanes;
    Vector<T> zeros = {};
    T zero = scale * T(0);
    Index j = 0;
    for (; j + lanes <= d; j += lanes) zeros += (load<Vector<T>>(row + j) * broadcast(scale)) * broadcast(T(0));
    for (; j < d; ++j) zero += (row[j] * scale) * T(0);
    for (int v = 0; v < lanes; ++v) zero += zeros[v];
    return zero == T(0);
}

// Index of the first row in the range that is not finite as a row of T (or whose weight is not), or -1.
template <class T>
Index first_nonfinite(const Rows& rows, const double* weights, Index first, Index count, RowScratch<T>& scratch) {
    Index found = -1;
    const Index k = rows.row_outputs();
    for_groups(rows, first, count, scratch, [&](const RowView<T>& x, Index i, Index n) {
        for (Index r = 0; r < n && found < 0; ++r) {
            const T* row = x.data + r * x.stride;
            bool finite = true;
            if (rows.kind == RowKind::gradient) {
                for (Index q = 0; q < k; ++q) finite &= is_finite(row, rows.features, scratch.factor[r * k + q]);
            } else {
                finite = is_finite(row, rows.features, T(1));
            }
            if (rows.kind == RowKind::hessian) finite &= scratch.slope[r] * 0.0 == 0.0;
            if (weights) finite &= weights[first + i + r] * 0.0 == 0.0;
            if (!finite) found = i + r;
        }
    });
    return found;
}

}  // namespace gradhess::cpu::GRADHESS_ISA
