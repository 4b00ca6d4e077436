// sum[j] = sum z_ij and diagonal[j] += sum z_ij^2 over the rows of a slab, z_i = factor_i x~_i - shift: all stages of a
// slab in one loop, without packing.
//
// A group of rows is predicted, and summed column by column while it is in cache: rows eight at a time, whose sums are
// trees in T, and their squares in float64, in four chains (row % 4). The same operations in the same order as prepare,
// centre_and_sum and add_squares, so the same bits.
// Cost per entry: two loads, a product, an addition in T and a multiply-add in float64; one read of X. Rows that come
// later are asked for in both passes over a group, so that the memory never waits for the arithmetic.
#pragma once

#include "prepare.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

inline constexpr int kChains = 4;

template <class T>
struct SlabColumns {
    const T* x;  // the first column of the first row of a group
    Index stride;
    Index count;        // rows
    const T* factor;    // of each row
    const T* shift;     // of each column
    double* sum;        // (columns,)
    double* chain;      // of each vector of columns kChains vectors; null where no squares are wanted
    const char* ahead;  // the lines that are asked for next
};

// A vector of columns; or, where PART, its `part` first columns, and a column of ones after them where `unit`. Asks for
// a LINES-th of as many lines as it reads.
template <bool PART, int LINES, bool SCALED, bool SHIFTED, bool SQUARES, class T>
GRADHESS_INLINE void add_slab_columns(SlabColumns<T>& at, Index part, bool unit) {
    using V = Vector<T>;
    constexpr int lanes = Simd<T>::lanes;
    constexpr int halves = lanes / kDoubleLanes;
    constexpr int rows_of_a_line = LINES * 64 / static_cast<int>(sizeof(V));
    V ones = {};
    if (PART && unit) ones[part] = T(1);
    V by = {};
    if (SHIFTED) by = load<V>(at.shift);
    Doubles total[halves];
    Doubles square[kChains][halves];
    for (int h = 0; h < halves; ++h) {
        total[h] = load<Doubles>(at.sum + h * kDoubleLanes);
        for (int c = 0; SQUARES && c < kChains; ++c)
            square[c][h] = load<Doubles>(at.chain + c * lanes + h * kDoubleLanes);
    }
    const T* from = at.x;
    const T* factor = at.factor;
    // Row r from here on, on its way into the sums.
    const auto row = [&](int r) {
        V z = PART ? load_first(from + r * at.stride, part) + ones : load<V>(from + r * at.stride);
        if (SCALED) z = rounded(z * broadcast(factor[r]));  // as if it had been stored
        if (SHIFTED) z -= by;
        if constexpr (SQUARES && halves == 1) {
            square[r % kChains][0] += z * z;
        } else if constexpr (SQUARES) {
            const auto [low, high] = widen(z);
            square[r % kChains][0] += low * low;
            square[r % kChains][1] += high * high;
        }
        if (r % rows_of_a_line == 0) {
            __builtin_prefetch(at.ahead, 0, 2);
            at.ahead += 64;
        }
        return z;
    };
    Index r = 0;
    for (; r + kTreeRows <= at.count; r += kTreeRows, from += kTreeRows * at.stride) {
        V sum[4];
#pragma GCC unroll 4
        for (int pair = 0; pair < 4; ++pair) {
            sum[pair] = row(2 * pair);
            sum[pair] += row(2 * pair + 1);
        }
        add_doubles(total, (sum[0] + sum[1]) + (sum[2] + sum[3]));
        if (SCALED) factor += kTreeRows;
    }
    if (r < at.count) {
        V z[kTreeRows] = {};
        for (int s = 0; s < at.count - r; ++s) z[s] = row(s);
        add_doubles(total, sum_of_tree(z));
    }
    for (int h = 0; h < halves; ++h) {
        store(at.sum + h * kDoubleLanes, total[h]);
        for (int c = 0; SQUARES && c < kChains; ++c) store(at.chain + c * lanes + h * kDoubleLanes, square[c][h]);
    }
}

// All columns of a group.
template <bool SCALED, bool SHIFTED, bool SQUARES, class T>
__attribute__((noinline)) void add_slab_group(const SlabColumns<T>& at, Index d, bool unit) {
    constexpr int lanes = Simd<T>::lanes;
    constexpr int every = SCALED ? 2 : 1;  // predictions have asked for some already
    const char* ahead = at.ahead;
    // Of wide rows few at a time: they lie in the same sets of the L1 cache.
    const Index most = d * static_cast<Index>(sizeof(T)) < tuning::kWideRowBytes ? at.count : kTreeRows;
    for (Index i = 0; i < at.count; i += most) {
        SlabColumns<T> rows = at;
        rows.ahead = ahead;
        rows.x += i * at.stride;
        if (SCALED) rows.factor += i;
        rows.count = at.count - i < most ? at.count - i : most;
        Index j = 0;
        for (; j + lanes <= d; j += lanes) {
            add_slab_columns<false, every, SCALED, SHIFTED, SQUARES>(rows, 0, false);
            rows.x += lanes;
            if (SHIFTED) rows.shift += lanes;
            rows.sum += lanes;
            if (SQUARES) rows.chain += kChains * lanes;
        }
        if (j < d || unit) add_slab_columns<true, every, SCALED, SHIFTED, SQUARES>(rows, d - j, unit);
        ahead = rows.ahead;
    }
}

// Rows [begin, begin + count), which are a slab: their column sums into `sum`, their losses into slab.value, and where
// `diagonal` is not null their squares onto it. `sum` and `shift` are padded; slab.panels is workspace, of at least
// kChains doubles for each column.
template <class T, class Scatter>
void sum_slab(const Rows& rows, Index begin, Index count, const double* shift, Slab<T>& slab, double* sum,
              Scatter* diagonal, RowScratch<T>& scratch) {
    const Index padded = slab.n_panels * kPanel<T>;
    const bool scaled = rows.kind == RowKind::gradient;
    for (Index c = 0; shift && c < padded; ++c) scratch.shift[c] = static_cast<T>(shift[c]);
    SlabColumns<T> at;
    at.shift = scratch.shift;
    at.sum = sum;
    at.chain = diagonal ? reinterpret_cast<double*>(slab.panels) : nullptr;
    for (Index c = 0; c < padded; ++c) sum[c] = 0.0;
    for (Index c = 0; diagonal && c < kChains * padded; ++c) at.chain[c] = 0.0;
    for (Index i = 0; i < count; i += scratch.group) {
        const Index n = count - i < scratch.group ? count - i : scratch.group;
        const RowView<T> x = view_rows(rows, begin + i, n, scratch);
        if (rows.kind != RowKind::dense) {
            loss_terms(rows, x, begin + i, n, scratch, 1);
            for (Index r = 0; r < n; ++r) slab.value[i + r] = scratch.value[r];
        }
        at.x = x.data;
        at.stride = x.stride;
        at.count = n;
        at.factor = scratch.factor;
        const Index before = scaled ? passes_for(rows.outputs) : 0;
        at.ahead = AskedAhead::in_pass(before, before + 1, x, n).from;
        const auto add = [&]<bool SCALED, bool SHIFTED>() {
            diagonal ? add_slab_group<SCALED, SHIFTED, true>(at, rows.features, rows.unit_column)
                     : add_slab_group<SCALED, SHIFTED, false>(at, rows.features, rows.unit_column);
        };
        if (scaled) {
            shift ? add.template operator()<true, true>() : add.template operator()<true, false>();
        } else {
            shift ? add.template operator()<false, true>() : add.template operator()<false, false>();
        }
    }
    constexpr int lanes = Simd<T>::lanes;
    for (Index c = 0; diagonal && c < rows.parameters(); ++c) {
        const double* chain = at.chain + c / lanes * (kChains * lanes) + c % lanes;
        diagonal[c] += static_cast<Scatter>((chain[0] + chain[2 * lanes]) + (chain[lanes] + chain[3 * lanes]));
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
