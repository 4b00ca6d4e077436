// Products of a group of rows with vectors, eta = X w + b among them, and with themselves, in float64 whatever the rows
// are.
//
// Cost per row: d multiply-adds for each vector; a row is loaded, and widened, once for kProductsAtOnce of them. The
// bits of a product depend on that row and that vector alone, and not on the vector length: eight lanes on every
// instruction set, added in one order.
#pragma once

#include "simd.hpp"
#include "tuning.hpp"
#include "views.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// Eight float64 lanes, the same on every instruction set: feature j adds to lane j % 8, and the last d % 8 features to
// the last lanes. They are summed as ((0+4)+(2+6)) + ((1+5)+(3+7)).
struct Lanes8 {
    static constexpr int parts = 8 / kDoubleLanes;
    Doubles part[parts] = {};
};

// Sums the lanes of as many rows as a vector has doubles, all rows at once.
#if GRADHESS_VECTOR_BYTES == 64
GRADHESS_INLINE Doubles sum_lanes(const Lanes8 (&row)[8]) {
    Doubles pairs[2];  // of the even rows, and of the odd ones
    for (int odd = 0; odd < 2; ++odd) {
        Doubles fours[2];
        for (int k = 0; k < 2; ++k) {
            const Doubles a = row[4 * k + odd].part[0];
            const Doubles b = row[4 * k + 2 + odd].part[0];
            fours[k] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
                       __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
        }
        pairs[odd] = __builtin_shufflevector(fours[0], fours[1], 0, 1, 4, 5, 8, 9, 12, 13) +
                     __builtin_shufflevector(fours[0], fours[1], 2, 3, 6, 7, 10, 11, 14, 15);
    }
    return __builtin_shufflevector(pairs[0], pairs[1], 0, 8, 2, 10, 4, 12, 6, 14) +
           __builtin_shufflevector(pairs[0], pairs[1], 1, 9, 3, 11, 5, 13, 7, 15);
}
#elif GRADHESS_VECTOR_BYTES == 32
GRADHESS_INLINE Doubles sum_lanes(const Lanes8 (&row)[4]) {
    Doubles fours[4];
    for (int r = 0; r < 4; ++r) fours[r] = row[r].part[0] + row[r].part[1];
    Doubles pairs[2];
    for (int r = 0; r < 2; ++r)
        pairs[r] = __builtin_shufflevector(fours[r], fours[r + 2], 0, 1, 4, 5) +
                   __builtin_shufflevector(fours[r], fours[r + 2], 2, 3, 6, 7);
    return __builtin_shufflevector(pairs[0], pairs[1], 0, 4, 2, 6) +
           __builtin_shufflevector(pairs[0], pairs[1], 1, 5, 3, 7);
}
#else
GRADHESS_INLINE Doubles sum_lanes(const Lanes8 (&row)[2]) {
    Doubles pairs[2];
    for (int r = 0; r < 2; ++r) pairs[r] = (row[r].part[0] + row[r].part[2]) + (row[r].part[1] + row[r].part[3]);
    return __builtin_shufflevector(pairs[0], pairs[1], 0, 2) + __builtin_shufflevector(pairs[0], pairs[1], 1, 3);
}
#endif

// out[i * stride] = x_i . w + start, or x_i . x_i + start where w is null.
struct Product {
    const double* w;
    double start;
    double* out;
    Index stride;
};

// Writes the products of as many rows as a vector has doubles, those from row i on and before `count`.
GRADHESS_INLINE void put_products(const Product& product, Index i, Index count, Doubles sums) {
    sums += broadcast(product.start);
    if (product.stride == 1 && count - i >= kDoubleLanes) {
        store(product.out + i, sums);
        return;
    }
    alignas(64) double line[kDoubleLanes];
    store(line, sums);
    const Index valid = count - i < kDoubleLanes ? count - i : kDoubleLanes;
    for (Index r = 0; r < valid; ++r) product.out[(i + r) * product.stride] = line[r];
}

// How far ahead of a group of rows, `row_bytes` apart, memory is asked for: those that are read side by side, at least.
GRADHESS_INLINE Index bytes_ahead(Index row_bytes) {
    const Index together = kDoubleLanes * row_bytes;
    return together > tuning::kPrefetchBytes ? together : tuning::kPrefetchBytes;
}

// What one of several passes over a group of rows asks for: its share of as many bytes as the group has, so that the
// memory delivers during all of them.
struct AskedAhead {
    const char* from;
    Index pace;  // bytes for each line of 64 that is read

    template <class T>
    static AskedAhead in_pass(Index pass, Index passes, const RowView<T>& x, Index count) {
        if (x.gathered) return {reinterpret_cast<const char*>(x.data), 0};
        const Index row_bytes = x.stride * static_cast<Index>(sizeof(T));
        return {reinterpret_cast<const char*>(x.data) + bytes_ahead(row_bytes) + pass * count * row_bytes / passes,
                (64 + passes - 1) / passes};
    }

    // Columns that are contiguous are asked for otherwise (column_products.hpp).
    template <class T>
    static AskedAhead in_pass(Index, Index, const ColumnView<T>& x, Index) {
        return {reinterpret_cast<const char*>(x.data), 0};
    }
};

// As many as there are registers for their sums, over as many rows as a vector has doubles.
inline constexpr int kProductsAtOnce = GRADHESS_VECTOR_BYTES == 64 ? 3 : 1;

// Rows of at least eight features; of the products the last is that of rows with themselves where SQUARES.
// EIGHTS is d / 8 where that is known at compile time, else 0.
template <int EIGHTS, int PRODUCTS, bool SQUARES, class T>
__attribute__((noinline)) void multiply_wide(const T* x, Index stride, Index count, Index d, const Product* product,
                                             const AskedAhead& asked) {
    constexpr int batch = kDoubleLanes;
    constexpr int vectors = PRODUCTS - (SQUARES ? 1 : 0);
    constexpr Index line_entries = 64 / sizeof(T);
    const Index whole = EIGHTS > 0 ? 8 * EIGHTS : d & ~Index{7};
    // The last eight coefficients, zero where the whole eights cover them; ones for the squares.
    alignas(64) double tail[PRODUCTS][8] = {};
    const double* w[PRODUCTS];
    for (int q = 0; q < PRODUCTS; ++q) {
        w[q] = product[q].w;
        for (Index j = 8 - d % 8; j < 8; ++j) tail[q][j] = q < vectors ? w[q][d - 8 + j] : 1.0;
    }
    const Index row_bytes = stride * static_cast<Index>(sizeof(T));
    const Index pace = asked.pace;
    const auto multiply_batch = [&](const T* const(&row)[batch], Index i) {
        Lanes8 sums[PRODUCTS][batch];
        const char* ahead = asked.from + i * row_bytes * pace / 64;
        const auto add_eight = [&](Index j) {
#pragma GCC unroll 8
            for (int r = 0; r < batch; ++r) {
                if (j % line_entries == 0) {  // line after line, whatever row it belongs to
                    __builtin_prefetch(ahead, 0, 2);
                    ahead += pace;
                }
#pragma GCC unroll 4
                for (int k = 0; k < Lanes8::parts; ++k) {
                    Doubles entry = load_doubles(row[r] + j + k * kDoubleLanes);
                    if (PRODUCTS > 1) entry = rounded(entry);  // in a register: GCC would load it for every product
#pragma GCC unroll 3
                    for (int q = 0; q < PRODUCTS; ++q)
                        sums[q][r].part[k] += entry * (q < vectors ? load_doubles(w[q] + j + k * kDoubleLanes) : entry);
                }
            }
        };
        if constexpr (EIGHTS > 0) {
#pragma GCC unroll 4
            for (Index j = 0; j < 8 * EIGHTS; j += 8) add_eight(j);
        } else {
            for (Index j = 0; j < whole; j += 8) add_eight(j);
        }
        if (whole < d) {
#pragma GCC unroll 8
            for (int r = 0; r < batch; ++r)
#pragma GCC unroll 4
                for (int k = 0; k < Lanes8::parts; ++k) {
                    const Doubles entry = load_doubles(row[r] + d - 8 + k * kDoubleLanes);
#pragma GCC unroll 3
                    for (int q = 0; q < PRODUCTS; ++q) {
                        const Doubles by = load_doubles(tail[q] + k * kDoubleLanes);
                        sums[q][r].part[k] += entry * (q < vectors ? by : entry * by);
                    }
                }
        }
#pragma GCC unroll 3
        for (int q = 0; q < PRODUCTS; ++q) {
            put_products(product[q], i, count, sum_lanes(sums[q]));
        }
    };
    const T* row[batch];
    Index i = 0;
    for (; i + batch <= count; i += batch) {
        // Addresses of four rows each from one register: GCC would keep one for every row and line, on the stack.
        const T* four = x + i * stride;
        for (int r = 0; r < batch; ++r) {
            if (r % 4 == 0) asm("" : "+r"(four));
            row[r] = four + r % 4 * stride;
            if (r % 4 == 3) four += 4 * stride;
        }
        multiply_batch(row, i);
    }
    if (i == count) return;
    for (int r = 0; r < batch; ++r) row[r] = x + (i + r < count ? i + r : count - 1) * stride;  // the last one again
    multiply_batch(row, i);
}

// Rows of D entries, one after the other in memory.
template <int D, class T>
GRADHESS_INLINE void multiply_dense(const T* __restrict x, Index count, const Product& product) {
    double w[D];
    for (int j = 0; j < D; ++j) w[j] = product.w[j];
    const double start = product.start;
    double* __restrict out = product.out;
    for (Index i = 0; i < count; ++i) {
        double sum = 0.0;
#pragma GCC unroll 8
        for (int j = 0; j < D; ++j) sum = multiply_add(static_cast<double>(x[i * D + j]), w[j], sum);
        out[i] = sum + start;
    }
}

// Rows of fewer than eight features: one chain each.
template <class T>
inline void multiply_narrow(const T* x, Index stride, Index count, Index d, const Product& product) {
    if (product.w && product.stride == 1 && stride == d) {
        switch (d) {
            case 1: return multiply_dense<1>(x, count, product);
            case 2: return multiply_dense<2>(x, count, product);
            case 3: return multiply_dense<3>(x, count, product);
            case 4: return multiply_dense<4>(x, count, product);
            case 5: return multiply_dense<5>(x, count, product);
            case 6: return multiply_dense<6>(x, count, product);
            case 7: return multiply_dense<7>(x, count, product);
            default: break;
        }
    }
    for (Index i = 0; i < count; ++i) {
        double sum = 0.0;
        for (Index j = 0; j < d; ++j) {
            const double entry = static_cast<double>(x[i * stride + j]);
            sum = multiply_add(entry, product.w ? product.w[j] : entry, sum);
        }
        product.out[i * product.stride] = sum + product.start;
    }
}

template <int PRODUCTS, bool SQUARES, class T>
inline void multiply_some(const T* x, Index stride, Index count, Index d, const Product* product,
                          const AskedAhead& ahead) {
    switch (d / 8) {
        case 1: multiply_wide<1, PRODUCTS, SQUARES>(x, stride, count, d, product, ahead); break;
        case 2: multiply_wide<2, PRODUCTS, SQUARES>(x, stride, count, d, product, ahead); break;
        default: multiply_wide<0, PRODUCTS, SQUARES>(x, stride, count, d, product, ahead); break;
    }
}

// Passes over a group of rows for so many products.
inline Index passes_for(Index products) { return (products + kProductsAtOnce - 1) / kProductsAtOnce; }

// Calls multiply<products, squares>(pass, product) for `total` products, of which at(q) is the q-th, as many at a time
// as kProductsAtOnce; only the last may be that of rows with themselves.
template <class At, class Multiply>
GRADHESS_INLINE void for_products(Index total, At at, Multiply multiply) {
    Index pass = 0;
    for (Index q = 0; q < total; ++pass) {
        Product product[kProductsAtOnce];
        int n = 0;
        while (n < kProductsAtOnce && q < total) product[n++] = at(q++);
        const auto some = [&]<int PRODUCTS>() {
            product[n - 1].w ? multiply.template operator()<PRODUCTS, false>(pass, product)
                             : multiply.template operator()<PRODUCTS, true>(pass, product);
        };
        if (n == 1) some.template operator()<1>();
        if constexpr (kProductsAtOnce == 3) {
            if (n == 2) some.template operator()<2>();
            if (n == 3) some.template operator()<3>();
        }
    }
}

// All `total` products of a group of rows. After them the caller makes `later` passes over the rows that ask for memory
// as well.
template <class T, class At>
inline void multiply_rows(const RowView<T>& x, Index count, Index d, Index total, At at, Index later = 0) {
    const Index passes = passes_for(total) + later;
    for_products(total, at, [&]<int PRODUCTS, bool SQUARES>(Index pass, const Product* product) {
        const AskedAhead ahead = AskedAhead::in_pass(pass, passes, x, count);
        if (d >= 8) return multiply_some<PRODUCTS, SQUARES>(x.data, x.stride, count, d, product, ahead);
        for (int p = 0; p < PRODUCTS; ++p) multiply_narrow(x.data, x.stride, count, d, product[p]);
    });
}

// eta[i * k + q] = x_i . coef_q + intercept_q
template <class View>
inline void predict(const View& x, Index count, Index d, const double* coef, const double* intercept, Index k,
                    double* eta, Index later = 0) {
    const auto at = [&](Index q) { return Product{coef + q * d, intercept ? intercept[q] : 0.0, eta + q, k}; };
    multiply_rows(x, count, d, k, at, later);
}

}  // namespace gradhess::cpu::GRADHESS_ISA
