// The products of predict.hpp and row_products.hpp for rows whose columns are contiguous (Fortran order), without
// gathering them: the same operations in the same order on every entry, so the same bits. Groups have whole lines of
// rows (kColumnRows).
//
// Products of rows with vectors go down the columns, sixteen at a time: the eight chains of a row are vectors of rows
// that lie side by side, in the L1 cache between two passes. Sums over rows turn squares of entries in registers.
// Cost per entry: a load and a multiply-add for each product, and half a load and half a store of a chain where there
// are more than sixteen columns; log2 of the lanes shuffles for sums, for every four of them.
#pragma once

#include "column_sums.hpp"
#include "predict.hpp"
#include "transpose.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// Columns that are read at a time, and rows of them: the chains of two products take 16 KiB (with twice as many rows,
// 5 to 20% slower).
inline constexpr Index kChainColumns = 16;
inline constexpr Index kChainRows = 128;

// The columns of a group of rows that one pass goes down.
template <class T>
struct ColumnPass {
    const T* x;  // the first row in the first of all columns
    Index stride;
    Index rows;
    Index column;
    Index ahead;     // how far from here, in entries, the ones lie that are asked for
    double* chains;  // those of a vector of rows after the other: eight for each product
};

// Adds COLUMNS columns to the chains, the first of them to chain FIRST.
template <int PRODUCTS, bool SQUARES, int COLUMNS, int FIRST, class T>
inline void add_to_chains(const ColumnPass<T>& pass, const Product* product) {
    constexpr int lanes = kDoubleLanes;
    constexpr int factors = PRODUCTS - (SQUARES ? 1 : 0);
    for (Index i = 0; i < pass.rows; i += lanes) {
        double* at = pass.chains + i * 8 * PRODUCTS;
        Doubles chain[8 * PRODUCTS];
#pragma GCC unroll 24
        for (int c = 0; c < 8 * PRODUCTS; ++c) chain[c] = pass.column == 0 ? Doubles{} : load_doubles(at + c * lanes);
        const T* from = pass.x + pass.column * pass.stride + i;
#pragma GCC unroll 16
        for (int c = 0; c < COLUMNS; ++c, from += pass.stride) {
            asm("" : "+r"(from));  // one register: GCC would keep an address for every column, on the stack
            __builtin_prefetch(from + pass.ahead, 0, 2);
            const Doubles entry = load_doubles(from);
#pragma GCC unroll 3
            for (int q = 0; q < PRODUCTS; ++q)
                chain[8 * q + (FIRST + c) % 8] +=
                    entry * (q < factors ? broadcast(product[q].w[pass.column + c]) : entry);
        }
#pragma GCC unroll 24
        for (int c = 0; c < 8 * PRODUCTS; ++c) store(at + c * lanes, chain[c]);
    }
}

// The next columns of d, and how many they were. As the lanes of Lanes8: the last d % 8 columns go to the last chains.
template <int PRODUCTS, bool SQUARES, class T>
inline Index add_next_columns(const ColumnPass<T>& pass, Index d, const Product* product) {
    const auto add = [&]<int COLUMNS, int FIRST>() {
        add_to_chains<PRODUCTS, SQUARES, COLUMNS, FIRST>(pass, product);
        return Index{COLUMNS};
    };
    const Index left = d - pass.column;
    if (left >= kChainColumns) return add.template operator()<kChainColumns, 0>();
    switch (left) {
        case 1: return add.template operator()<1, 7>();
        case 2: return add.template operator()<2, 6>();
        case 3: return add.template operator()<3, 5>();
        case 4: return add.template operator()<4, 4>();
        case 5: return add.template operator()<5, 3>();
        case 6: return add.template operator()<6, 2>();
        case 7: return add.template operator()<7, 1>();
        default: return add.template operator()<8, 0>();
    }
}

// The products of rows [begin, end) from their chains, every `step`-th vector of rows from `chains` on.
GRADHESS_INLINE void sum_chains(const double* chains, Index step, Index begin, Index end, const Product& product) {
    for (Index i = begin; i < end; i += kDoubleLanes, chains += step) {
        const auto s = [&](int c) { return load_doubles(chains + c * kDoubleLanes); };
        put_products(product, i, end, ((s(0) + s(4)) + (s(2) + s(6))) + ((s(1) + s(5)) + (s(3) + s(7))));
    }
}

// Fewer than eight columns: one chain each.
template <class T>
inline void multiply_narrow(const ColumnView<T>& x, Index count, Index d, const Product& product) {
    for (Index i = 0; i < count; i += kDoubleLanes) {
        Doubles sum = {};
        for (Index j = 0; j < d; ++j) {
            const Doubles entry = load_doubles(x.data + j * x.stride + i);
            sum += entry * (product.w ? broadcast(product.w[j]) : entry);
        }
        put_products(product, i, count, sum);
    }
}

template <int PRODUCTS, bool SQUARES, class T>
__attribute__((noinline)) void multiply_down_columns(const ColumnView<T>& x, Index count, Index d,
                                                     const Product* product) {
    constexpr Index of_product = 8 * kDoubleLanes;
    alignas(64) double chains[8 * PRODUCTS * kChainRows];
    ColumnPass<T> pass{x.data, x.stride, 0, 0, 0, chains};
    for (Index i = 0; i < count; i += pass.rows) {
        pass.x = x.data + i;
        pass.rows = count - i < kChainRows ? count - i : kChainRows;
        for (pass.column = 0; pass.column < d;) {
            // The next columns; at the last ones, the first of the rows that follow.
            const bool last = d - pass.column <= kChainColumns;
            pass.ahead = last ? pass.rows - pass.column * pass.stride : kChainColumns * pass.stride;
            pass.column += add_next_columns<PRODUCTS, SQUARES>(pass, d, product);
        }
        for (Index q = 0; q < PRODUCTS; ++q)
            sum_chains(chains + q * of_product, PRODUCTS * of_product, i, i + pass.rows, product[q]);
    }
}

// As for rows that are contiguous; that other passes follow is of no interest.
template <class T, class At>
inline void multiply_rows(const ColumnView<T>& x, Index count, Index d, Index total, At at, Index /* later */ = 0) {
    for_products(total, at, [&]<int PRODUCTS, bool SQUARES>(Index, const Product* product) {
        if (d >= 8) return multiply_down_columns<PRODUCTS, SQUARES>(x, count, d, product);
        for (int p = 0; p < PRODUCTS; ++p) multiply_narrow(x, count, d, product[p]);
    });
}

// The sums of add_tile for rows whose columns are contiguous, from column j on. Asks for the next group of rows.
template <int VECTORS, int COUNT, bool PART, class T>
GRADHESS_INLINE void add_turned_tile(const ColumnView<T>& x, Index j, Index d, Index n, const double* coefficients,
                                     Index step, double* out, Index width) {
    constexpr int lanes = kDoubleLanes;
    ColumnSums<VECTORS, COUNT, PART> sums(out + j, width, d - j);
    for (Index i = 0; i < n; i += lanes) {
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) {
            Doubles square[lanes];
            load_square<PART, double>(x, i, j + v * lanes, d, square);
            if (i % kColumnRows<T> == 0) ask_for_square<PART, lanes>(x, i, j + v * lanes, d, n);
            transpose<double>(square);
#pragma GCC unroll 8
            for (int r = 0; r < lanes; ++r) {
#pragma GCC unroll 4
                for (int c = 0; c < COUNT; ++c) sums.sum[c][v] += square[r] * broadcast(coefficients[c * step + i + r]);
            }
        }
    }
    sums.put_back(out + j, width, d - j);
}

template <int COUNT, class T>
__attribute__((noinline)) void add_columns(const ColumnView<T>& x, Index n, Index d, const double* coefficients,
                                           Index step, double* out, Index width, const AskedAhead&) {
    constexpr int lanes = kDoubleLanes;
    const auto add = [&]<int VECTORS, bool PART>(Index j) {
        add_turned_tile<VECTORS, COUNT, PART>(x, j, d, n, coefficients, step, out, width);
    };
    Index j = 0;
    for (; j + 2 * lanes <= d; j += 2 * lanes) add.template operator()<2, false>(j);
    if (j + lanes <= d) {
        add.template operator()<1, false>(j);
        j += lanes;
    }
    if (j < d) add.template operator()<1, true>(j);
}

}  // namespace gradhess::cpu::GRADHESS_ISA
