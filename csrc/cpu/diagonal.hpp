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

template <class T, class View>
struct SlabColumns {
    View x;             // from the first column of the first row of a group on
    Index count;        // rows
    const T* factor;    // of each row
    const T* shift;     // of each column
    double* sum;        // (columns,)
    double* chain;      // of each vector of columns kChains vectors; null where no squares are wanted
    const char* ahead;  // where rows are contiguous: the lines that are asked for next
    Index after = 0;    // where columns are: how far from an entry, in entries, the one lies that is asked for with it
};

// Eight rows of a vector of columns, each loaded when it is wanted.
template <bool PART, int ASKED_ROWS, class T>
struct EightRows {
    SlabColumns<T, RowView<T>>& at;
    const T* from;
    Index part;

    GRADHESS_INLINE Vector<T> operator()(int r) const {
        if (r % ASKED_ROWS == 0) {
            __builtin_prefetch(at.ahead, 0, 2);
            at.ahead += 64;
        }
        return PART ? load_first(from + r * at.x.stride, part) : load<Vector<T>>(from + r * at.x.stride);
    }
};

// A vector of columns; or, where PART, its `part` first columns, and a column of ones after them where `unit`. Asks for
// a LINES-th of as many lines as it reads.
template <bool PART, int LINES, bool SCALED, bool SHIFTED, bool SQUARES, class T, class View>
GRADHESS_INLINE void add_slab_columns(SlabColumns<T, View>& at, Index part, bool unit) {
    using V = Vector<T>;
    constexpr int lanes = Simd<T>::lanes;
    constexpr int halves = lanes / kDoubleLanes;
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
    // An entry of row r on its way into the sums.
    const auto add_square = [&](V entry, Index r) {
        V z = PART ? entry + ones : entry;
        if (SCALED) z = rounded(z * broadcast(at.factor[r]));  // as if it had been stored
        if (SHIFTED) z -= by;
        if constexpr (SQUARES && halves == 1) {
            square[r % kChains][0] += z * z;
        } else if constexpr (SQUARES) {
            const auto [low, high] = widen(z);
            square[r % kChains][0] += low * low;
            square[r % kChains][1] += high * high;
        }
        return z;
    };
    // The eight rows from i on, entry(r) being that of the r-th.
    const auto add_eight = [&](const auto& entry, Index i) {
        V sum[4];
#pragma GCC unroll 4
        for (int pair = 0; pair < 4; ++pair) {
            sum[pair] = add_square(entry(2 * pair), i + 2 * pair);
            sum[pair] += add_square(entry(2 * pair + 1), i + 2 * pair + 1);
        }
        add_doubles(total, (sum[0] + sum[1]) + (sum[2] + sum[3]));
    };
    if constexpr (std::is_same_v<View, RowView<T>>) {
        EightRows<PART, LINES * 64 / static_cast<int>(sizeof(V)), T> eight{at, at.x.data, part};
        Index i = 0;
        for (; i + kTreeRows <= at.count; i += kTreeRows, eight.from += kTreeRows * at.x.stride) add_eight(eight, i);
        if (i < at.count) {
            V z[kTreeRows] = {};
            for (int r = 0; r < at.count - i; ++r) z[r] = add_square(eight(r), i + r);
            add_doubles(total, sum_of_tree(z));
        }
    } else {
        for (Index i = 0; i < at.count; i += kTurnedRows<T>) {
            V turned[kTurnedRows<T>];
            load_rows<PART>(at.x, i, 0, part, turned);
            ask_for_square<PART, lanes>(at.x, i, 0, part, at.after);
#pragma GCC unroll 2
            for (int r = 0; r < kTurnedRows<T>; r += kTreeRows) add_eight([&](int s) { return turned[r + s]; }, i + r);
        }
    }
    for (int h = 0; h < halves; ++h) {
        store(at.sum + h * kDoubleLanes, total[h]);
        for (int c = 0; SQUARES && c < kChains; ++c) store(at.chain + c * lanes + h * kDoubleLanes, square[c][h]);
    }
}

// All columns of a group.
template <bool SCALED, bool SHIFTED, bool SQUARES, class T, class View>
GRADHESS_INLINE void add_all_columns(SlabColumns<T, View>& at, Index d, bool unit) {
    constexpr Index lanes = Simd<T>::lanes;
    constexpr int every = SCALED ? 2 : 1;  // predictions have asked for some already
    constexpr bool by_rows = std::is_same_v<View, RowView<T>>;
    Index j = 0;
    for (; j + lanes <= d; j += lanes) {
        // The next columns, and with the last ones the first of the next group; all of that where these have been read.
        if (!by_rows)
            at.after = SCALED ? at.count : (j + 2 * lanes <= d ? lanes * at.x.stride : at.count - j * at.x.stride);
        add_slab_columns<false, every, SCALED, SHIFTED, SQUARES>(at, 0, false);
        at.x.data += by_rows ? lanes : lanes * at.x.stride;
        if (SHIFTED) at.shift += lanes;
        at.sum += lanes;
        if (SQUARES) at.chain += kChains * lanes;
    }
    if (!by_rows) at.after = at.count;
    if (j < d || unit) add_slab_columns<true, every, SCALED, SHIFTED, SQUARES>(at, d - j, unit);
}

template <bool SCALED, bool SHIFTED, bool SQUARES, class T>
__attribute__((noinline)) void add_slab_group(SlabColumns<T, ColumnView<T>> at, Index d, bool unit) {
    add_all_columns<SCALED, SHIFTED, SQUARES>(at, d, unit);
}

template <bool SCALED, bool SHIFTED, bool SQUARES, class T>
__attribute__((noinline)) void add_slab_group(const SlabColumns<T, RowView<T>>& at, Index d, bool unit) {
    // Of wide rows few at a time: they lie in the same sets of the L1 cache.
    const Index most = d * static_cast<Index>(sizeof(T)) < tuning::kWideRowBytes ? at.count : kTreeRows;
    const char* ahead = at.ahead;
    for (Index i = 0; i < at.count; i += most) {
        SlabColumns<T, RowView<T>> rows = at;
        rows.ahead = ahead;
        rows.x.data += i * at.x.stride;
        if (SCALED) rows.factor += i;
        rows.count = at.count - i < most ? at.count - i : most;
        add_all_columns<SCALED, SHIFTED, SQUARES>(rows, d, unit);
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
    double* chain = diagonal ? reinterpret_cast<double*>(slab.panels) : nullptr;
    for (Index c = 0; c < padded; ++c) sum[c] = 0.0;
    for (Index c = 0; diagonal && c < kChains * padded; ++c) chain[c] = 0.0;
    const auto add_group = [&]<class View>(const View& x, Index i, Index n) {
        if (rows.kind != RowKind::dense) {
            loss_terms(rows, x, begin + i, n, scratch, 1);
            for (Index r = 0; r < n; ++r) slab.value[i + r] = scratch.value[r];
        }
        const Index before = scaled ? passes_for(rows.outputs) : 0;
        const SlabColumns<T, View> at{
            x, n, scratch.factor, scratch.shift, sum, chain, AskedAhead::in_pass(before, before + 1, x, n).from};
        const auto add = [&]<bool SCALED, bool SHIFTED>() {
            diagonal ? add_slab_group<SCALED, SHIFTED, true>(at, rows.features, rows.unit_column)
                     : add_slab_group<SCALED, SHIFTED, false>(at, rows.features, rows.unit_column);
        };
        if (scaled) {
            shift ? add.template operator()<true, true>() : add.template operator()<true, false>();
        } else {
            shift ? add.template operator()<false, true>() : add.template operator()<false, false>();
        }
    };
    visit_groups(rows, columns_in_place<T>(rows), begin, count, scratch, add_group);
    constexpr int lanes = Simd<T>::lanes;
    for (Index c = 0; diagonal && c < rows.parameters(); ++c) {
        const double* at = chain + c / lanes * (kChains * lanes) + c % lanes;
        diagonal[c] += static_cast<Scatter>((at[0] + at[2 * lanes]) + (at[lanes] + at[3 * lanes]));
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
