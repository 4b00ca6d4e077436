// Row-wise operations on rows [first, first + count): no packing, one read of X.
#pragma once

#include "column_products.hpp"
#include "prepare.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// Runs visit(x, i, count) on groups of rows, with the loss terms of gradient rows in scratch.factor.
template <class T, class Visit>
GRADHESS_INLINE void for_groups(const Rows& rows, Index first, Index count, RowScratch<T>& scratch, Visit visit) {
    in_groups(0, count, scratch.group, [&](Index i, Index n) {
        const RowView<T> x = view_rows(rows, first + i, n, scratch);
        if (rows.kind != RowKind::dense) loss_terms(rows, x, first + i, n, scratch);
        visit(x, i, n);
    });
}

// out (count, parameters): the rows, rounded to T.
template <class T>
void materialize(const Rows& rows, Index first, Index count, T* out, RowScratch<T>& scratch) {
    const Index p = rows.parameters();
    const Index k = rows.row_outputs();
    const T one = 1;
    for_groups(rows, first, count, scratch, [&](const RowView<T>& x, Index i, Index n) {
        if (rows.kind == RowKind::dense && !rows.unit_column && x.stride == p) {  // as they lie
            __builtin_memcpy(out + i * p, x.data, static_cast<std::size_t>(n * p) * sizeof(T));
            return;
        }
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

// Products of a group of rows, one read of it: scratch.eta of gradient rows, and at(0), ..., at(total - 1). `later` as
// in multiply_rows.
template <class T, class View, class At>
GRADHESS_INLINE void predict_and_multiply(const Rows& rows, const View& x, Index n, Index total, RowScratch<T>& scratch,
                                          At at, Index later = 0) {
    const Index k = rows.kind == RowKind::gradient ? rows.outputs : 0;
    const auto product = [&](Index q) {
        if (q >= k) return at(q - k);
        return Product{rows.coef + q * rows.features, rows.intercept ? rows.intercept[q] : 0.0, scratch.eta + q, k};
    };
    multiply_rows(x, n, rows.features, k + total, product, later);
}

// Products, predictions among them, for which columns that are contiguous are read as they lie; for more they are
// gathered once.
template <class T>
inline constexpr Index kColumnProducts = sizeof(T) / 2;

// Runs visit(x, i, count) on groups of rows, of which `products` are wanted besides predictions.
template <class T, class Visit>
GRADHESS_INLINE void for_plain_groups(const Rows& rows, Index first, Index count, Index products,
                                      RowScratch<T>& scratch, Visit visit) {
    const Index predictions = rows.kind == RowKind::gradient ? rows.outputs : 0;
    const bool columns = predictions + products <= kColumnProducts<T> && columns_in_place<T>(rows);
    visit_groups(rows, columns, first, count, scratch, visit);
}

// out (count,): Euclidean norms in float64, |delta| |x~|.
template <class T>
void norms(const Rows& rows, Index first, Index count, double* out, RowScratch<T>& scratch) {
    const Index k = rows.row_outputs();
    const bool scaled = rows.kind == RowKind::gradient;
    for_plain_groups(rows, first, count, 1, scratch, [&](const auto& x, Index i, Index n) {
        double* norm = out + i;
        predict_and_multiply(rows, x, n, 1, scratch,
                             [&](Index) { return Product{nullptr, rows.unit_column ? 1.0 : 0.0, norm, 1}; });
        Index r = 0;
        for (; r + kDoubleLanes <= n; r += kDoubleLanes) store(norm + r, square_root(load_doubles(norm + r)));
        for (; r < n; ++r) norm[r] = std::sqrt(norm[r]);
        if (!scaled) return;
        slopes(rows, first + i, n, scratch);
        if (k == 1) {  // not by a square, which underflows for a tiny slope
            for (r = 0; r < n; ++r) norm[r] *= std::fabs(scratch.slope[r]);
            return;
        }
        for (r = 0; r < n; ++r) {
            double sum = 0.0;
            for (Index q = 0; q < k; ++q) sum += scratch.slope[r * k + q] * scratch.slope[r * k + q];
            norm[r] *= std::sqrt(sum);
        }
    });
}

// out (count, m) = G V with V given as `vectors` (m, outputs, features) and `units` (m, outputs) or null.
// `products` holds (m * outputs, group).
template <class T>
void multiply(const Rows& rows, Index first, Index count, const double* vectors, const double* units, Index m,
              double* products, double* out, RowScratch<T>& scratch) {
    const Index k = rows.row_outputs();
    const Index step = scratch.group;
    const bool scaled = rows.kind == RowKind::gradient;
    const bool in_place = m * k == 1;
    for_plain_groups(rows, first, count, m * k, scratch, [&](const auto& x, Index i, Index n) {
        double* to = out + i * m;
        double* from = in_place ? to : products;
        predict_and_multiply(rows, x, n, m * k, scratch, [&](Index c) {
            return Product{vectors + c * rows.features, units ? units[c] : 0.0, from + c * step, 1};
        });
        if (scaled) slopes(rows, first + i, n, scratch);
        const double* slope = scratch.slope;
        if (in_place) {
            for (Index r = 0; scaled && r < n; ++r) to[r] = 0.0 + slope[r] * from[r];
            return;
        }
        for (Index c = 0; c < m; ++c) {
            const double* product = from + c * k * step;
            if (!scaled) {
                for (Index r = 0; r < n; ++r) to[r * m + c] = product[r];
            } else if (k == 1) {
                for (Index r = 0; r < n; ++r) to[r * m + c] = 0.0 + slope[r] * product[r];
            } else {
                for (Index r = 0; r < n; ++r) {
                    double total = 0.0;
                    for (Index q = 0; q < k; ++q) total += slope[r * k + q] * product[q * step + r];
                    to[r * m + c] = total;
                }
            }
        }
    });
}

// out_c[j] += sum over rows of coefficient_c * x_j, row after row, for COUNT coefficients c and the VECTORS vectors
// of columns from x on, or the `part` first columns of one vector where that is not zero. Asks for memory from
// ahead.from on.
template <int VECTORS, int COUNT, bool PART, class T>
GRADHESS_INLINE void add_tile(const T* x, Index stride, Index n, const double* coefficients, Index step, double* out,
                              Index width, Index part, AskedAhead& ahead) {
    constexpr int lanes = kDoubleLanes;
    // Lines asked for with each row; of a single coefficient none: the passes before ask for these.
    constexpr int bytes = VECTORS * lanes * static_cast<int>(sizeof(T));
    constexpr int asks = COUNT == 1 ? 0 : (bytes > 128 ? 2 : 1);
    const Index further = asks > 0 ? bytes * ahead.pace / (64 * asks) : 0;
    ColumnSums<VECTORS, COUNT, PART> sums(out, width, part);
    for (Index r = 0; r < n; ++r) {
        const T* row = x + r * stride;
        for (int line = 0; line < asks; ++line, ahead.from += further) __builtin_prefetch(ahead.from, 0, 2);
        Doubles entry[VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v)
            entry[v] = PART ? load_first_doubles(row, part) : load_doubles(row + v * lanes);
#pragma GCC unroll 4
        for (int c = 0; c < COUNT; ++c) {
            const Doubles coefficient = broadcast(coefficients[c * step + r]);
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; ++v) sums.sum[c][v] += entry[v] * coefficient;
        }
    }
    sums.put_back(out, width, part);
}

template <int COUNT, class T>
__attribute__((noinline)) void add_columns(const RowView<T>& x, Index n, Index d, const double* coefficients,
                                           Index step, double* out, Index width, AskedAhead ahead) {
    constexpr int lanes = kDoubleLanes;
    constexpr int most = COUNT == 1 ? 8 : (GRADHESS_VECTOR_BYTES == 64 ? 4 : 2);
    Index j = 0;
    for (; j + most * lanes <= d; j += most * lanes)
        add_tile<most, COUNT, false>(x.data + j, x.stride, n, coefficients, step, out + j, width, 0, ahead);
    if constexpr (most > 4) {
        if (j + 4 * lanes <= d) {
            add_tile<4, COUNT, false>(x.data + j, x.stride, n, coefficients, step, out + j, width, 0, ahead);
            j += 4 * lanes;
        }
    }
    if constexpr (most > 2) {
        if (j + 2 * lanes <= d) {
            add_tile<2, COUNT, false>(x.data + j, x.stride, n, coefficients, step, out + j, width, 0, ahead);
            j += 2 * lanes;
        }
    }
    if (j + lanes <= d) {
        add_tile<1, COUNT, false>(x.data + j, x.stride, n, coefficients, step, out + j, width, 0, ahead);
        j += lanes;
    }
    if (j < d) add_tile<1, COUNT, true>(x.data + j, x.stride, n, coefficients, step, out + j, width, d - j, ahead);
}

// out (m, outputs, width) += sum over rows of t_i g_i, with t (count, m) given as `u`, or t = G V with V given as in
// `multiply`: then it is G^T G V, from one read of X. `products` holds (m * outputs, group).
template <class T>
void multiply_transposed(const Rows& rows, Index first, Index count, const double* u, const double* vectors,
                         const double* units, Index m, double* products, double* out, RowScratch<T>& scratch) {
    const Index k = rows.row_outputs();
    const Index total = m * k;
    const Index step = scratch.group;
    const Index width = rows.width();
    const bool scaled = rows.kind == RowKind::gradient;
    constexpr Index together = 4;
    const Index n_products = vectors ? total : 0;
    const Index before = passes_for((scaled ? k : 0) + n_products);
    // Passes for several coefficients: one for a single one does not ask (add_tile).
    const Index later = (total + together - 2) / together;
    for_plain_groups(rows, first, count, total, scratch, [&](const auto& x, Index i, Index n) {
        const auto product_at = [&](Index c) {
            return Product{vectors + c * rows.features, units ? units[c] : 0.0, products + c * step, 1};
        };
        predict_and_multiply(rows, x, n, n_products, scratch, product_at, later);
        if (scaled) slopes(rows, first + i, n, scratch);
        const double* slope = scratch.slope;
        for (Index c = 0; c < m; ++c) {
            double* product = products + c * k * step;
            const double* given = u ? u + (first + i) * m + c : nullptr;
            if (!scaled) {
                for (Index r = 0; given && r < n; ++r) product[r] = given[r * m];
            } else if (k == 1) {
                if (given) {
                    for (Index r = 0; r < n; ++r) product[r] = given[r * m] * slope[r];
                } else {
                    for (Index r = 0; r < n; ++r) product[r] = (0.0 + slope[r] * product[r]) * slope[r];
                }
            } else {
                for (Index r = 0; r < n; ++r) {
                    double t = given ? given[r * m] : 0.0;
                    for (Index q = 0; !given && q < k; ++q) t += slope[r * k + q] * product[q * step + r];
                    for (Index q = 0; q < k; ++q) product[q * step + r] = t * slope[r * k + q];
                }
            }
        }
        const auto add = [&]<int COUNT>(Index c) {
            const AskedAhead ahead =
                AskedAhead::in_pass(before + c / together, before + std::max<Index>(later, 1), x, n);
            const double* coefficients = products + c * step;
            add_columns<COUNT>(x, n, rows.features, coefficients, step, out + c * width, width, ahead);
            if (!rows.unit_column) return;
            for (int q = 0; q < COUNT; ++q) {
                double& sum = out[(c + q) * width + rows.features];
                for (Index r = 0; r < n; ++r) sum += coefficients[q * step + r];
            }
        };
        Index c = 0;
        for (; c + together <= total; c += together) add.template operator()<together>(c);
        switch (total - c) {
            case 1: add.template operator()<1>(c); break;
            case 2: add.template operator()<2>(c); break;
            case 3: add.template operator()<3>(c); break;
            default: break;
        }
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
