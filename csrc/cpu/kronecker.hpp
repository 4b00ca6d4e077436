// One slab of C += W^T U, with U the products a_i a_l, l >= i, of the activations of a row, and W the entries (q, r),
// r >= q, of symmetric matrices L^T R of that row: what differs in sums of (L^T R) (x) a a^T. All entries of W share U.
//
// Layout: W and U in panels (slab.hpp), W as the broadcast operand of the multiply kernel, U as its vector operand.
// Both are formed while they are packed, some columns at a time, and are never stored as matrices. Of W the columns of
// all factors lie side by side; U has those rows of W in which its own columns are not zero. Pairs in the order
// (0, 0), (0, 1), ..., (0, m - 1), (1, 1), ...: those of one i lie next to each other, and are one run of vectors.
// Tile: that of rank_update.hpp, whose register kernel this is. Cost per row: a multiply-add for each entry of W and
// each of U; rank(L) multiply-adds for an entry of W, a product for one of U.
#pragma once

#include "rank_update.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// Pairs first, ..., first + n - 1 of the upper triangle of a (size, size) matrix, run by run: `run(i, l, count, to)`
// writes the products of (i, l), (i, l + 1), ... to `to`, and may write a vector too much.
template <class Run>
GRADHESS_INLINE void form_line(Index size, Index first, Index n, double* line, Index padded, const Run& run) {
    Index i = 0, start = 0;  // of the row of the triangle in which the first pair is
    while (start + size - i <= first) start += size - i++;
    double* to = line;
    for (Index l = i + first - start, left = n; left > 0; l = ++i) {
        const Index take = size - l < left ? size - l : left;
        run(i, l, take, to);
        to += take;
        left -= take;
    }
    for (Index c = n; c < padded; ++c) line[c] = 0.0;
}

GRADHESS_INLINE void store_line(const double* line, Slab<double>& slab, Index row) {
    constexpr int panel = kPanel<double>;
    for (Index p = 0; p < slab.n_panels; ++p)
        for (int c = 0; c < panel; c += kDoubleLanes)
            store(slab.panels + p * slab.panel_stride + row * panel + c, load_doubles(line + p * panel + c));
}

// Rows of a matrix of which vectors may be read that end behind it: the matrix itself, or where that ends too, a copy.
struct PaddedRows {
    const double* rows;
    Index stride;

    PaddedRows(const double* from, Index count, Index columns, const double* end, double* copy)
        : rows(from), stride(columns) {
        if (end - (from + count * columns) >= kDoubleLanes) return;
        rows = copy;
        stride = columns + kDoubleLanes;
        for (Index i = 0; i < count; ++i)
            for (Index c = 0; c < stride; ++c) copy[i * stride + c] = c < columns ? from[i * columns + c] : 0.0;
    }
};

// Products of the activations of samples[0, count) into the first rows of a slab. `line` has room for a row of the slab
// and a vector, `copy` for a row of activations and a vector.
inline void pack_products(const KroneckerJob& job, const Index* samples, Index count, Index first, Index n,
                          Slab<double>& slab, double* line, double* copy) {
    const double* end = job.activations + job.samples * job.features;
    for (Index r = 0; r < count; ++r) {
        const PaddedRows a(job.activations + samples[r] * job.features, 1, job.features, end, copy);
        form_line(job.features, first, n, line, slab.n_panels * kPanel<double>,
                  [&](Index i, Index l, Index take, double* to) {
                      const Doubles factor = broadcast(a.rows[i]);
                      for (Index c = 0; c < take; c += kDoubleLanes)
                          store(to + c, rounded(factor * load_doubles(a.rows + l + c)));
                  });
        store_line(line, slab, r);
    }
}

// out[c] = sum_a left[a * left_stride] * right[a * right_stride + c], for VECTORS vectors of columns.
template <int VECTORS>
GRADHESS_INLINE void form_entries(const double* left, Index left_stride, const double* right, Index right_stride,
                                  Index rank, double* out) {
    Doubles sum[VECTORS] = {};
    for (Index a = 0; a < rank; ++a) {
        const Doubles factor = broadcast(left[a * left_stride]);
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) sum[v] += factor * load_doubles(right + a * right_stride + v * kDoubleLanes);
    }
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) store(out + v * kDoubleLanes, sum[v]);
}

// The same for n columns, and what fills the last vector.
GRADHESS_INLINE void form_run(const double* left, Index left_stride, const double* right, Index right_stride,
                              Index rank, Index n, double* out) {
    for (Index c = 0; c < n; c += 4 * kDoubleLanes) {
        const double* columns = right + c;
        switch ((n - c + kDoubleLanes - 1) / kDoubleLanes) {
            case 1: form_entries<1>(left, left_stride, columns, right_stride, rank, out + c); break;
            case 2: form_entries<2>(left, left_stride, columns, right_stride, rank, out + c); break;
            case 3: form_entries<3>(left, left_stride, columns, right_stride, rank, out + c); break;
            default: form_entries<4>(left, left_stride, columns, right_stride, rank, out + c);
        }
    }
}

// Entries first, ..., first + n - 1 of the matrices of samples[0, count), those of all factors side by side, into the
// rows from row0 on of a slab. `copy` has room for a right side, each of its rows with a vector more.
inline void pack_weights(const KroneckerJob& job, const Index* samples, Index count, Index first, Index n,
                         Slab<double>& slab, Index row0, double* line, double* copy) {
    const Index padded = slab.n_panels * kPanel<double>, outputs = job.outputs;
    for (Index r = 0; r < count; ++r) {
        Index column = 0;
        for (const KroneckerFactor& factor : job.factors) {
            const Index rank = factor.rank, at = samples[r] * rank * outputs;
            const double* end = factor.right + job.samples * rank * outputs;
            const PaddedRows right(factor.right + at, rank, outputs, end, copy);
            const double* left = factor.left ? factor.left + at : nullptr;
            form_line(outputs, first, n, line + column, padded - column, [&](Index q, Index l, Index take, double* to) {
                if (left) {
                    form_run(left + q, outputs, right.rows + l, right.stride, rank, take, to);
                } else {
                    for (Index c = 0; c < take; c += kDoubleLanes)
                        store(to + c, load_doubles(right.rows + q * right.stride + l + c));
                }
            });
            column += n;
        }
        store_line(line, slab, row0 + r);
    }
}

// What is asked for during a tile, a little at a time, so that it does not hold up the loads of the loop: what the next
// tile is added to, and a part of the next strip.
struct Ahead {
    double* const* sums;
    Index column;
    const char* strip;
    Index strip_lines;
};

// Adds ROWS entries of W by VECTORS vectors of products, of which `rows` and `columns` are there, to the rows out[0],
// out[1], ... of C. Row r of the products belongs to row left_rows[r] of the strip.
template <int ROWS, int VECTORS>
inline void cross_tile(const double* strip, const Index* left_rows, const Slab<double>& right, Index column,
                       double* const* out, Index rows, Index columns, const Ahead& ahead) {
    using Sums = TileSums<ROWS, VECTORS, false, double>;
    constexpr int panel = kPanel<double>;
    constexpr Index line_entries = kCacheLine / sizeof(double);
    const double* vectors[VECTORS + 1];
    for (int v = 0; v < VECTORS; ++v) {
        const Index c = column + v * kDoubleLanes;
        vectors[v] = right.panels + c / panel * right.panel_stride + c % panel;
    }
    const Index chunk = (right.rows + ROWS - 1) / ROWS, lines = (ahead.strip_lines + ROWS - 1) / ROWS;
    Sums sum;
    for (Index m = 0; m < ROWS; ++m) {
        for (Index c = 0; c <= Sums::columns; c += line_entries)  // rows of C are not aligned
            __builtin_prefetch(ahead.sums[m] + ahead.column + c, 1, 2);
        for (Index line = 0; line < lines; ++line)
            __builtin_prefetch(ahead.strip + (m * lines + line) * kCacheLine, 0, 2);
        const Index end = (m + 1) * chunk < right.rows ? (m + 1) * chunk : right.rows;
        for (Index r = m * chunk; r < end; ++r) sum.add_products(strip + left_rows[r] * panel, vectors, r * panel);
    }
    if (rows >= ROWS && columns >= Sums::columns) {
#pragma GCC unroll 8
        for (int m = 0; m < ROWS; ++m) sum.add_row(m, out[m] + column);
        return;
    }
    alignas(64) double copy[ROWS][Sums::columns] = {};
#pragma GCC unroll 8
    for (int m = 0; m < ROWS; ++m) sum.add_row(m, copy[m]);
    for (Index m = 0; m < ROWS && m < rows; ++m)
        for (Index c = 0; c < Sums::columns && c < columns; ++c) out[m][column + c] += copy[m][c];
}

template <int ROWS>
GRADHESS_INLINE void cross_columns(int vectors, const double* strip, const Index* left_rows, const Slab<double>& right,
                                   Index column, double* const* out, Index rows, Index columns, const Ahead& ahead) {
    switch (vectors) {
        case 1: return cross_tile<ROWS, 1>(strip, left_rows, right, column, out, rows, columns, ahead);
        case 2: return cross_tile<ROWS, 2>(strip, left_rows, right, column, out, rows, columns, ahead);
        case 3:
            if constexpr (kTileVectors >= 3)
                return cross_tile<ROWS, 3>(strip, left_rows, right, column, out, rows, columns, ahead);
            break;
        default: return cross_tile<ROWS, kTileVectors>(strip, left_rows, right, column, out, rows, columns, ahead);
    }
}

// Adds the products of the n_left columns of `left` with the n_right columns of `right` to C, row j of which begins at
// out[j]; behind the last there are pointers for a strip more, to somewhere. Row r of `right` belongs to row
// left_rows[r] of `left`.
inline void cross_update(const Slab<double>& left, const Index* left_rows, Index n_left, const Slab<double>& right,
                         Index n_right, double* const* out) {
    constexpr int panel = kPanel<double>;
    constexpr Index strip_rows = kStripRows<double>;
    const Index units = (n_right + kDoubleLanes - 1) / kDoubleLanes, tiles = (units + kTileVectors - 1) / kTileVectors;
    const Index lines = left.rows * panel * static_cast<Index>(sizeof(double)) / kCacheLine;
    const auto strip_at = [&](Index row) { return left.panels + row / panel * left.panel_stride + row % panel; };
    for (Index row = 0; row < n_left; row += strip_rows) {
        const double* strip = strip_at(row);
        const Index rows = n_left - row;
        const Index step = rows > strip_rows ? strip_rows : 0;  // to the next strip, or where there is none, to this
        const char* next_strip = reinterpret_cast<const char*>(strip_at(row + step));
        double* const* at = out + row;
        for (Index column = 0, left_over = units, tile = 0; left_over > 0; ++tile) {
            const Index take = next_take<double>(left_over);
            left_over -= take;
            const Index next = column + take * kDoubleLanes;
            const Ahead ahead{left_over > 0 ? at : at + step, left_over > 0 ? next : 0,
                              next_strip + tile * lines / tiles * kCacheLine, lines / tiles + 1};
            const int vectors = static_cast<int>(take);
            rows > strip_rows / 2
                ? cross_columns<strip_rows>(vectors, strip, left_rows, right, column, at, rows, n_right - column, ahead)
                : cross_columns<strip_rows / 2>(vectors, strip, left_rows, right, column, at, rows, n_right - column,
                                                ahead);
            column = next;
        }
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
