// The softmax loss of as many rows as a vector has lanes at a time: columns of eta are transposed, so that sums over
// the classes are taken lane by lane, in order, and a row has the bits that it has alone.
#pragma once

#include "transpose.hpp"
#include "vector_math.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// Some rows of k entries, one after the other, by their columns. Up to as many columns as a vector has lanes stay in
// registers from pass to pass.
struct SoftmaxColumns {
    static constexpr Index lanes = kDoubleLanes;
    const Index count;  // of rows; the last one stands for those that are missing
    const Index k;
    const bool kept = k <= lanes;
    Doubles column[kDoubleLanes] = {};

    GRADHESS_INLINE void load_from(const double* rows, Index first) {
        const Index wanted = k - first;
#pragma GCC unroll 8
        for (Index r = 0; r < lanes; ++r) {
            const double* from = rows + (r < count ? r : count - 1) * k + first;
            column[r] = wanted < lanes ? load_first(from, wanted) : load_doubles(from);
        }
        transpose<double>(column);
    }

    GRADHESS_INLINE void store_to(double* rows, Index first) {
        const Index wanted = k - first;
        transpose<double>(column);
        if (wanted >= lanes) {
#pragma GCC unroll 8
            for (Index r = 0; r < lanes; ++r)
                if (r < count) store(rows + r * k + first, column[r]);
            return;
        }
        alignas(64) double row[lanes][lanes];
#pragma GCC unroll 8
        for (Index r = 0; r < lanes; ++r) store(row[r], column[r]);
        for (Index r = 0; r < count; ++r)
            for (Index q = 0; q < wanted; ++q) rows[r * k + first + q] = row[r][q];
    }

    // One of the passes over all columns, each(column, q), from the first one, which loads, to the last one.
    template <bool FIRST, bool LAST, class Each>
    GRADHESS_INLINE void pass(const double* from, double* to, Each each) {
        for (Index first = 0; first < k; first += lanes) {
            if (FIRST || !kept) load_from(from, first);
#pragma GCC unroll 8
            for (Index q = 0; q < lanes; ++q)
                if (first + q < k) each(column[q], first + q);
            if (LAST || (!FIRST && !kept)) store_to(to, first);
        }
    }
};

// eta (n, k) becomes P - onehot(y) in slope; value is log(sum exp) - eta_y.
inline void evaluate_softmax(const double* eta, const double* y, Index n, Index k, double* value, double* slope) {
    constexpr Index lanes = kDoubleLanes;
    for (Index i = 0; i < n; i += lanes) {
        SoftmaxColumns columns{.count = n - i < lanes ? n - i : lanes, .k = k};
        const double* row = eta + i * k;
        double* out = slope + i * k;
        const Doubles given = n - i < lanes ? load_first_doubles(y + i, n - i) : load_doubles(y + i);
        // A label out of bounds was changed by the caller after it was checked.
        const Doubles bad =
            (given >= 0.0) & (given < static_cast<double>(k)) ? Doubles{} : every<Doubles>(__builtin_nan(""));
        Doubles top = {};
        Doubles own = {};
        columns.pass<true, false>(row, nullptr, [&](Doubles& x, Index q) {
            top = q == 0 ? x : (x > top ? x : top);
            own = given == static_cast<double>(q) ? x : own;
        });
        Doubles total = bad;
        columns.pass<false, false>(row, out, [&](Doubles& x, Index) {
            x = exp_any(x - top);
            total += x;
        });
        const Doubles over = 1.0 / total;
        // P_label - 1 without cancellation: minus the probability of all other classes.
        Doubles others = {};
        columns.pass<false, true>(out, out, [&](Doubles& x, Index q) {
            x = rounded(x * over);
            others += given == static_cast<double>(q) ? Doubles{} : x;
        });
        alignas(64) double result[2][lanes];
        store(result[0], log_from_one(total) + (top - own));
        store(result[1], -others);
        for (Index r = 0; r < columns.count; ++r) {
            value[i + r] = result[0][r];
            if (value[i + r] == value[i + r]) out[r * k + static_cast<Index>(y[i + r])] = result[1][r];
        }
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
