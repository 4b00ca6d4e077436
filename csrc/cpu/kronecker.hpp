// One slab of C += W^T U, with U the products a_i a_l, l >= i, of the activations of a row, and W the entries (q, r),
// r >= q, of symmetric matrices L^T R of that row: what differs in sums of (L^T R) (x) a a^T. All entries of W share U.
//
// Layout: W and U in panels (slab.hpp), W as the broadcast operand of the multiply kernel, U as its vector operand.
// Both are formed while they are packed, some columns at a time, and are never stored as matrices. Pairs in the order
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

// Rows of `columns` entries, with zeros up to one that a vector can be read from anywhere in it.
inline void copy_padded(const double* from, Index rows, Index columns, Index stride, double* to) {
    for (Index i = 0; i < rows; ++i)
        for (Index c = 0; c < stride; ++c) to[i * stride + c] = c < columns ? from[i * columns + c] : 0.0;
}

// Products of activations into rows [row0, row0 + count) of a slab. `line` has room for a row of the slab and a vector,
// `copy` for a row of activations and a vector.
inline void pack_products(const double* rows, Index row0, Index count, Index features, Index first, Index n,
                          Slab<double>& slab, double* line, double* copy) {
    for (Index r = row0; r < row0 + count; ++r) {
        copy_padded(rows + r * features, 1, features, features + kDoubleLanes, copy);
        form_line(features, first, n, line, slab.n_panels * kPanel<double>,
                  [&](Index i, Index l, Index take, double* to) {
                      const Doubles factor = broadcast(copy[i]);
                      for (Index c = 0; c < take; c += kDoubleLanes)
                          store(to + c, rounded(factor * load_doubles(copy + l + c)));
                  });
        store_line(line, slab, r);
    }
}

// Entries of L^T R into rows [row0, row0 + count) of a slab; of R where L is null. `copy` has room for R of a row, each
// of its rows with a vector more.
inline void pack_weights(const double* left, const double* right, Index rank, Index outputs, Index row0, Index count,
                         Index first, Index n, Slab<double>& slab, double* line, double* copy) {
    const Index stride = outputs + kDoubleLanes, size = rank * outputs;
    for (Index r = row0; r < row0 + count; ++r) {
        copy_padded(right + r * size, rank, outputs, stride, copy);
        const double* L = left ? left + r * size : nullptr;
        form_line(outputs, first, n, line, slab.n_panels * kPanel<double>,
                  [&](Index q, Index l, Index take, double* to) {
                      for (Index c = 0; c < take; c += kDoubleLanes) {
                          Doubles sum = {};
                          if (!L) {
                              sum = load_doubles(copy + q * stride + l + c);
                          } else {
                              for (Index a = 0; a < rank; ++a)
                                  sum += broadcast(L[a * outputs + q]) * load_doubles(copy + a * stride + l + c);
                          }
                          store(to + c, sum);
                      }
                  });
        store_line(line, slab, r);
    }
}

// What is asked for during a tile, a little at a time, so that it does not hold up the loads of the loop: what the next
// tile is added to, and a part of the next strip.
struct Ahead {
    const double* sums;
    Index stride;
    const char* strip;
    Index strip_lines;
};

// Adds ROWS entries of W by VECTORS vectors of products, of which `rows` and `columns` are there, to `out`.
template <int ROWS, int VECTORS>
inline void cross_tile(const double* strip, const Slab<double>& right, Index column, double* out, Index stride,
                       Index rows, Index columns, const Ahead& ahead) {
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
            __builtin_prefetch(ahead.sums + m * ahead.stride + c, 1, 2);
        for (Index line = 0; line < lines; ++line)
            __builtin_prefetch(ahead.strip + (m * lines + line) * kCacheLine, 0, 2);
        const Index end = (m + 1) * chunk < right.rows ? (m + 1) * chunk : right.rows;
        for (Index r = m * chunk; r < end; ++r) sum.add_products(strip + r * panel, vectors, r * panel);
    }
    if (rows >= ROWS && columns >= Sums::columns) {
        sum.add(Target<double>{out, stride, 0, true}, 0, 0);
        return;
    }
    alignas(64) double copy[ROWS * Sums::columns] = {};
    sum.add(Target<double>{copy, Sums::columns, 0, true}, 0, 0);
    for (Index m = 0; m < ROWS && m < rows; ++m)
        for (Index c = 0; c < Sums::columns && c < columns; ++c) out[m * stride + c] += copy[m * Sums::columns + c];
}

template <int ROWS>
GRADHESS_INLINE void cross_columns(int vectors, const double* strip, const Slab<double>& right, Index column,
                                   double* out, Index stride, Index rows, Index columns, const Ahead& ahead) {
    switch (vectors) {
        case 1: return cross_tile<ROWS, 1>(strip, right, column, out, stride, rows, columns, ahead);
        case 2: return cross_tile<ROWS, 2>(strip, right, column, out, stride, rows, columns, ahead);
        case 3:
            if constexpr (kTileVectors >= 3)
                return cross_tile<ROWS, 3>(strip, right, column, out, stride, rows, columns, ahead);
            break;
        default: return cross_tile<ROWS, kTileVectors>(strip, right, column, out, stride, rows, columns, ahead);
    }
}

// Adds the products of the columns [begin, end) of `left` with the n columns of `right`; out[0] is that of the first
// with the first. `begin` is a multiple of a panel.
inline void cross_update(const Slab<double>& left, Index begin, Index end, const Slab<double>& right, Index n,
                         double* out, Index stride) {
    constexpr int panel = kPanel<double>;
    constexpr Index strip_rows = kStripRows<double>;
    const Index units = (n + kDoubleLanes - 1) / kDoubleLanes, tiles = (units + kTileVectors - 1) / kTileVectors;
    const Index lines = right.rows * panel * static_cast<Index>(sizeof(double)) / kCacheLine;
    const auto strip_at = [&](Index row) { return left.panels + row / panel * left.panel_stride + row % panel; };
    for (Index row = begin; row < end; row += strip_rows) {
        const double* strip = strip_at(row);
        const Index rows = end - row;
        const char* next_strip = reinterpret_cast<const char*>(rows > strip_rows ? strip_at(row + strip_rows) : strip);
        double* at = out + (row - begin) * stride;
        for (Index column = 0, left_over = units, tile = 0; left_over > 0; ++tile) {
            const Index take = next_take<double>(left_over);
            left_over -= take;
            const Index next = column + take * kDoubleLanes;
            const Ahead ahead{left_over > 0 ? at + next : at + strip_rows * stride, stride,
                              next_strip + tile * lines / tiles * kCacheLine, lines / tiles + 1};
            const int vectors = static_cast<int>(take);
            rows > strip_rows / 2
                ? cross_columns<strip_rows>(vectors, strip, right, column, at + column, stride, rows, n - column, ahead)
                : cross_columns<strip_rows / 2>(vectors, strip, right, column, at + column, stride, rows, n - column,
                                                ahead);
            column = next;
        }
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
