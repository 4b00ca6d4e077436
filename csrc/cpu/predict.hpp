// eta = X w + b of a group of rows, in float64 whatever the rows are.
//
// Cost per row: d multiply-adds; a row is read once for each output. A row's bits depend on that row alone, and not on
// the vector length: eight lanes on every instruction set, added in one order.
#pragma once

#include "simd.hpp"
#include "tuning.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// Eight float64 lanes, the same on every instruction set: feature j adds to lane j % 8, and the last d % 8 features to
// the last lanes. They are summed as ((0+4)+(2+6)) + ((1+5)+(3+7)).
struct Lanes8 {
    static constexpr int parts = 8 / kDoubleLanes;
    Doubles part[parts] = {};

    template <class T>
    GRADHESS_INLINE void add(const T* x, const double* w) {
        for (int k = 0; k < parts; ++k)
            part[k] += load_doubles(x + k * kDoubleLanes) * load_doubles(w + k * kDoubleLanes);
    }
};

// Sums the lanes of as many rows as a vector has doubles, all rows at once.
#if GRADHESS_VECTOR_BYTES == 64
GRADHESS_INLINE Doubles sum_lanes(const Lanes8 (&row)[8]) {
    Doubles fours[4];
    for (int r = 0; r < 4; ++r) {
        const Doubles a = row[r].part[0];
        const Doubles b = row[r + 4].part[0];
        fours[r] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
                   __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    }
    Doubles pairs[2];
    for (int r = 0; r < 2; ++r)
        pairs[r] = __builtin_shufflevector(fours[r], fours[r + 2], 0, 1, 8, 9, 4, 5, 12, 13) +
                   __builtin_shufflevector(fours[r], fours[r + 2], 2, 3, 10, 11, 6, 7, 14, 15);
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

// Rows of at least eight features. `tail` holds the last eight coefficients, zero where the whole eights cover them.
// EIGHTS is d / 8 where that is known at compile time, else 0.
template <int EIGHTS, class T>
GRADHESS_INLINE void predict_wide(const T* x, Index stride, Index count, Index d, const double* w, const double* tail,
                                  double start, double* out, Index out_stride) {
    constexpr int batch = kDoubleLanes;
    constexpr Index line_entries = 64 / sizeof(T);
    const Index whole = EIGHTS > 0 ? 8 * EIGHTS : d & ~Index{7};
    for (Index i = 0; i < count; i += batch) {
        const T* row[batch];  // beyond the end, the last row again
        for (int r = 0; r < batch; ++r) row[r] = x + (i + r < count ? i + r : count - 1) * stride;
        Lanes8 sums[batch];
        const char* ahead = reinterpret_cast<const char*>(row[0]) + tuning::kPrefetchBytes;
        const auto add_eight = [&](Index j) {
#pragma GCC unroll 8
            for (int r = 0; r < batch; ++r) {
                if (j % line_entries == 0) {  // line after line, whatever row it belongs to
                    __builtin_prefetch(ahead, 0, 2);
                    ahead += 64;
                }
                sums[r].add(row[r] + j, w + j);
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
            for (int r = 0; r < batch; ++r) sums[r].add(row[r] + (d - 8), tail);
        }
        const Doubles etas = sum_lanes(sums) + broadcast(start);
        if (out_stride == 1 && count - i >= batch) {
            store(out + i, etas);
            continue;
        }
        alignas(64) double eta[batch];
        store(eta, etas);
        const Index valid = count - i < batch ? count - i : batch;
        for (Index r = 0; r < valid; ++r) out[(i + r) * out_stride] = eta[r];
    }
}

template <class T>
GRADHESS_INLINE void predict_narrow(const T* x, Index stride, Index count, Index d, const double* w, double start,
                                    double* out, Index out_stride) {
    for (Index i = 0; i < count; ++i) {
        double sum = 0.0;
        for (Index j = 0; j < d; ++j) sum += static_cast<double>(x[i * stride + j]) * w[j];
        out[i * out_stride] = sum + start;
    }
}

// eta[i * k + q] = x_i . coef_q + intercept_q
template <class T>
inline void predict(const T* x, Index stride, Index count, Index d, const double* coef, const double* intercept,
                    Index k, double* eta) {
    for (Index q = 0; q < k; ++q) {
        const double start = intercept ? intercept[q] : 0.0;
        const double* w = coef + q * d;
        if (d < 8) {
            predict_narrow(x, stride, count, d, w, start, eta + q, k);
            continue;
        }
        alignas(64) double tail[8] = {};
        for (Index j = 8 - d % 8; j < 8; ++j) tail[j] = w[d - 8 + j];
        switch (d / 8) {
            case 1: predict_wide<1>(x, stride, count, d, w, tail, start, eta + q, k); break;
            case 2: predict_wide<2>(x, stride, count, d, w, tail, start, eta + q, k); break;
            default: predict_wide<0>(x, stride, count, d, w, tail, start, eta + q, k); break;
        }
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
