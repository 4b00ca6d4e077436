// Slabs of rows that are summed by lanes: eta, the loss, the factor, the shift and the sums on the way into transposed
// columns, and their products from there. Where a slab has been packed in panels before (its shift was not known, or a
// team shares it), these are transposed: the same numbers in the same places, so the same bits. Columns that are
// contiguous are there already, scaled and shifted on the way.
//
// Slabs whose rows nearly fill a line or two are multiplied as they are read (rotated_products.hpp).
//
// Cost per entry: one load, a product, a difference and an addition where they are wanted, the shuffles that transpose
// (log2 of the lanes for a vector), one store.
#pragma once

#include "lane_products.hpp"
#include "prepare.hpp"
#include "rotated_products.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// Stores a vector of columns of kTurnedRows rows: the first `wanted` of its columns, from `at` on.
template <class T>
GRADHESS_INLINE void store_turned(const Vector<T> (&entry)[kTurnedRows<T>], Index wanted, T* at, Index stride) {
    constexpr int lanes = Simd<T>::lanes;
#pragma GCC unroll 4
    for (int first = 0; first < kTurnedRows<T>; first += lanes) {
        Vector<T> square[lanes];
#pragma GCC unroll 16
        for (int r = 0; r < lanes; ++r) square[r] = entry[first + r];
        transpose<T>(square);
#pragma GCC unroll 16
        for (int c = 0; c < lanes; ++c)
            if (c < wanted) store(at + c * stride + first, square[c]);
    }
}

template <class T>
GRADHESS_INLINE Index round_up_to_line(Index rows) {
    return (rows + kLineRows<T> - 1) / kLineRows<T> * kLineRows<T>;
}

template <class T>
GRADHESS_INLINE LaneColumns<T> lane_columns(const RowScratch<T>& scratch, Index count) {
    return {scratch.columns, scratch.column_stride, round_up_to_line<T>(count) / kLineRows<T>};
}

// Calls turn<whole>(i) for all rows, kTurnedRows at a time, and for the zeros after the last.
template <class T, class Turn>
GRADHESS_INLINE void turn_all(Index count, Turn turn) {
    Index i = 0;
    for (; i + kTurnedRows<T> <= count; i += kTurnedRows<T>) turn.template operator()<true>(i);
    for (; i < round_up_to_line<T>(count); i += kTurnedRows<T>) turn.template operator()<false>(i);
}

// left = z * weight, column by column from `begin` to `end`. `weight` is as long as a column, in T.
template <class T>
inline void weight_columns(const LaneColumns<T>& z, Index begin, Index end, const T* weight, T* left) {
    using V = Vector<T>;
    for (Index c = begin; c < end; ++c)
        for (Index r = 0; r < z.lines * kLineRows<T>; r += Simd<T>::lanes)
            store(left + c * z.stride + r, load<V>(z.data + c * z.stride + r) * load<V>(weight + r));
}

// Rows [begin, end) of the products of a slab of `count` rows.
template <class T, class Scatter>
inline void multiply_lane_slab(const Slab<T>& slab, const LaneColumns<T>& z, Index count, Index begin, Index end,
                               const Target<Scatter>& target, RowScratch<T>& scratch) {
    const T* left = z.data;
    if (slab.weighted) {
        for (Index r = 0; r < count; ++r) scratch.lane_weights[r] = static_cast<T>(slab.weight[r]);
        for (Index r = count; r < z.lines * kLineRows<T>; ++r) scratch.lane_weights[r] = 0;
        weight_columns(z, begin, end, scratch.lane_weights, scratch.weighted_columns);
        left = scratch.weighted_columns;
    }
    multiply_columns_by_lanes(left, z, begin, end, target, scratch.ahead);
}

// A vector of columns from `column` on of some rows, into z from row `row0` on, and its sums onto `sum`. The last rows
// fill a line up with zeros. Where PART, fewer columns than a vector has, and the ones after them where there are any.
template <bool PART, bool SCALED, bool SHIFTED, class T>
GRADHESS_INLINE void turn_columns(const Packing<T>& packing, Index count, Index column, Index wanted,
                                  const LaneColumns<T>& z, Index row0, double* sum) {
    using V = Vector<T>;
    constexpr int parts = Simd<T>::lanes / kDoubleLanes;
    const Index valid = packing.features - column;
    V ones = {};
    if (PART && packing.unit) ones[valid] = T(1);
    const V by = SHIFTED ? load<V>(packing.shift + column) : V{};
    Doubles total[parts];
    for (int k = 0; k < parts; ++k) total[k] = load_doubles(sum + column + k * kDoubleLanes);
    const T* from = packing.x.data + column;
    const auto read = [&](Index i) {
        V z_i = PART ? load_first(from + i * packing.x.stride, valid) + ones : load<V>(from + i * packing.x.stride);
        if (SCALED) z_i = rounded(z_i * broadcast(packing.factor[i]));
        if (SHIFTED) z_i -= by;
        return z_i;
    };
    const auto turn = [&]<bool WHOLE>(Index i) {
        V entry[kTurnedRows<T>];
#pragma GCC unroll 16
        for (int r = 0; r < kTurnedRows<T>; ++r) entry[r] = WHOLE || i + r < count ? read(i + r) : V{};
        store_turned<T>(entry, wanted, z.data + column * z.stride + row0 + i, z.stride);
        if (packing.weight) {
#pragma GCC unroll 16
            for (int r = 0; r < kTurnedRows<T>; ++r)
                if (WHOLE || i + r < count)
                    entry[r] = rounded(entry[r] * broadcast(static_cast<T>(packing.weight[i + r])));
        }
#pragma GCC unroll 2
        for (int r = 0; r < kTurnedRows<T>; r += kTreeRows) add_doubles(total, sum_of_tree(entry + r));
    };
    turn_all<T>(count, turn);
    for (int k = 0; k < parts; ++k) store(sum + column + k * kDoubleLanes, total[k]);
}

// The same for rows whose columns are contiguous: they stay as they are, and only their sums are turned.
template <bool PART, bool SCALED, bool SHIFTED, class T>
GRADHESS_INLINE void copy_columns(const Packing<T, ColumnView<T>>& packing, Index count, Index column, Index wanted,
                                  const LaneColumns<T>& z, Index row0, double* sum) {
    using V = Vector<T>;
    constexpr int lanes = Simd<T>::lanes;
    constexpr int parts = lanes / kDoubleLanes;
    constexpr int squares = kTurnedRows<T> / lanes;
    constexpr int trees = kTurnedRows<T> / static_cast<int>(kTreeRows);
    Doubles total[parts];
    for (int k = 0; k < parts; ++k) total[k] = load_doubles(sum + column + k * kDoubleLanes);
    T* to = z.data + column * z.stride + row0;
    for (Index i = 0; i < count; i += kTurnedRows<T>) {
        V tree[squares > trees ? squares : trees];
#pragma GCC unroll 4
        for (int s = 0; s < squares; ++s) {
            const Index at = i + s * lanes;
            V square[lanes];
            load_square<PART, T>(packing.x, at, column, packing.features, square);
            if (PART && packing.unit) square[packing.features - column] = broadcast(T(1));
            V weight = {};
            for (int r = 0; packing.weight && r < lanes; ++r) weight[r] = static_cast<T>(packing.weight[at + r]);
#pragma GCC unroll 16
            for (int c = 0; c < lanes; ++c) {
                if (SCALED) square[c] = rounded(square[c] * load<V>(packing.factor + at));
                if (SHIFTED) square[c] -= broadcast(packing.shift[column + c]);
                if (!PART || c < wanted) store(to + c * z.stride + at, square[c]);
                if (packing.weight) square[c] = rounded(square[c] * weight);
            }
            sum_neighbours<T>(square);
#pragma GCC unroll 2
            for (int t = 0; t < (trees > squares ? trees : 1); ++t) tree[s + t] = square[t];
        }
        if constexpr (squares == 4) tree[0] = (tree[0] + tree[1]) + (tree[2] + tree[3]);
        if constexpr (squares == 2) tree[0] += tree[1];
#pragma GCC unroll 2
        for (int t = 0; t < trees; ++t) add_doubles(total, tree[t]);
    }
    for (int k = 0; k < parts; ++k) store(sum + column + k * kDoubleLanes, total[k]);
}

GRADHESS_INLINE HalfVector<double> half_as_doubles(HalfVector<double> v) { return v; }
GRADHESS_INLINE Doubles half_as_doubles(HalfVector<float> v) { return to_doubles(v); }

// The same for at most half a vector of columns, two rows to a vector: half as many loads, products and shuffles.
template <bool SCALED, bool SHIFTED, class T>
GRADHESS_INLINE void turn_half_columns(const Packing<T>& packing, Index count, Index column, Index wanted,
                                       const LaneColumns<T>& z, Index row0, double* sum) {
    using V = Vector<T>;
    using H = HalfVector<T>;
    constexpr int lanes = Simd<T>::lanes;
    constexpr int piece = kPieceLanes<T>;
    constexpr int vectors = kTurnedRows<T> / 2;
    const Index valid = packing.features - column;
    H ones = {};
    if (packing.unit) ones[valid] = T(1);
    V by = {};
    if (SHIFTED) by = join_halves<T>(load<H>(packing.shift + column), load<H>(packing.shift + column));
    using Total = decltype(half_as_doubles(ones));
    Total total = load<Total>(sum + column);
    const T* from = packing.x.data + column;
    const auto turn = [&]<bool WHOLE>(Index i) {
        V entry[vectors];
        const auto row = [&](int v, int half) { return i + v / piece * 2 * piece + half * piece + v % piece; };
        const auto both = [&](int v, auto of) {  // of the two rows of vector v
            const Index low = row(v, 0);
            const Index high = row(v, 1);
            return join_halves<T>(WHOLE || low < count ? of(low) : H{}, WHOLE || high < count ? of(high) : H{});
        };
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) {
            entry[v] = both(v, [&](Index r) { return load_first_half(from + r * packing.x.stride, valid) + ones; });
            if (SCALED) entry[v] = rounded(entry[v] * both(v, [&](Index r) { return packing.factor[r] - H{}; }));
            if (SHIFTED) entry[v] -= WHOLE ? by : both(v, [&](Index) { return load<H>(packing.shift + column); });
        }
        T* at = z.data + column * z.stride + row0 + i;
#pragma GCC unroll 4
        for (int first = 0; first < vectors; first += lanes / 2) {
            V square[lanes / 2];
#pragma GCC unroll 8
            for (int v = 0; v < lanes / 2; ++v) square[v] = entry[first + v];
            transpose_halves<T>(square);
#pragma GCC unroll 8
            for (int c = 0; c < lanes / 2; ++c)
                if (c < wanted) store(at + c * z.stride + 2 * first, square[c]);
        }
        if (packing.weight) {
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v)
                entry[v] =
                    rounded(entry[v] * both(v, [&](Index r) { return static_cast<T>(packing.weight[r]) - H{}; }));
        }
        H fours[vectors / 2];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v += piece)
            fours[v / piece] = sum_of_halves<T>(piece == 2 ? entry[v] + entry[v + 1]
                                                           : (entry[v] + entry[v + 1]) + (entry[v + 2] + entry[v + 3]));
        if constexpr (piece == 2) {
            total += half_as_doubles(fours[0] + fours[1]);
        } else {
#pragma GCC unroll 2
            for (int tree = 0; tree < vectors / piece; ++tree) total += half_as_doubles(fours[tree]);
        }
    };
    turn_all<T>(count, turn);
    store(sum + column, total);
}

// The only column, of rows that lie one after the other: it is transposed already.
template <bool SCALED, bool SHIFTED, class T>
GRADHESS_INLINE void turn_single_column(const Packing<T>& packing, Index count, const LaneColumns<T>& z, Index row0,
                                        double* sum) {
    using V = Vector<T>;
    constexpr int lanes = Simd<T>::lanes;
    constexpr Index rows = kTurnedRows<T>;
    const V by = SHIFTED ? broadcast(packing.shift[0]) : V{};
    double total = *sum;
    const auto turn = [&]<bool WHOLE>(Index i) {
        alignas(64) T entry[rows];
        alignas(64) T last[2][rows] = {};              // entries and factors, where rows end before the vector
        const Index left = count > i ? count - i : 0;  // none where only a line is filled up
        const Index valid = left < rows ? left : rows;
        for (Index r = 0; !WHOLE && r < valid; ++r) {
            last[0][r] = packing.x.data[i + r];
            if (SCALED) last[1][r] = packing.factor[i + r];
        }
        const T* x = WHOLE ? packing.x.data + i : last[0];
        const T* factor = WHOLE ? packing.factor + i : last[1];
#pragma GCC unroll 4
        for (Index r = 0; r < rows; r += lanes) {
            V z_r = load<V>(x + r);
            if (SCALED) z_r = rounded(z_r * load<V>(factor + r));
            if (SHIFTED) z_r -= by;
            store(entry + r, z_r);
        }
        for (Index r = valid; r < rows; ++r) entry[r] = 0;
        __builtin_memcpy(z.data + row0 + i, entry, sizeof entry);
        if (packing.weight) {
            alignas(64) T weight[rows];
            for (Index r = 0; r < rows; ++r)
                weight[r] = WHOLE || r < valid ? static_cast<T>(packing.weight[i + r]) : T(0);
#pragma GCC unroll 4
            for (Index r = 0; r < rows; r += lanes) store(entry + r, rounded(load<V>(entry + r) * load<V>(weight + r)));
        }
#pragma GCC unroll 2
        for (Index r = 0; r < rows; r += kTreeRows) total += static_cast<double>(sum_of_tree(entry + r));
    };
    turn_all<T>(count, turn);
    *sum = total;
}

// The rows of a group, scaled and shifted, into columns.
template <bool SCALED, bool SHIFTED, class T>
__attribute__((noinline)) void turn_rows(const Packing<T>& packing, Index count, Index parameters,
                                         const LaneColumns<T>& z, Index row0, double* sum) {
    constexpr Index lanes = Simd<T>::lanes;
    if (parameters == 1 && packing.features == 1 && packing.x.stride == 1)
        return turn_single_column<SCALED, SHIFTED>(packing, count, z, row0, sum);
    Index column = 0;
    for (; column + lanes <= packing.features; column += lanes)
        turn_columns<false, SCALED, SHIFTED>(packing, count, column, lanes, z, row0, sum);
    if (column == parameters) return;
    if constexpr (kPieces<T> > 1) {
        if (parameters - column <= lanes / 2)
            return turn_half_columns<SCALED, SHIFTED>(packing, count, column, parameters - column, z, row0, sum);
    }
    turn_columns<true, SCALED, SHIFTED>(packing, count, column, parameters - column, z, row0, sum);
}

template <bool SCALED, bool SHIFTED, class T>
__attribute__((noinline)) void turn_rows(const Packing<T, ColumnView<T>>& packing, Index count, Index parameters,
                                         const LaneColumns<T>& z, Index row0, double* sum) {
    constexpr Index lanes = Simd<T>::lanes;
    Index column = 0;
    for (; column + lanes <= packing.features; column += lanes)
        copy_columns<false, SCALED, SHIFTED>(packing, count, column, lanes, z, row0, sum);
    if (column < parameters)
        copy_columns<true, SCALED, SHIFTED>(packing, count, column, parameters - column, z, row0, sum);
}

// The same by rotation, of rows that are turned first. `read` where they have been read before, to be predicted: then
// those of the next group are asked for.
template <bool SCALED, bool SHIFTED, class T>
inline void rotate_columns(const Packing<T, ColumnView<T>>& packing, Index count, bool read, RowScratch<T>& scratch,
                           double* sum) {
    Packing<T> turned;
    turned.x = {scratch.gathered, packing.features, true};
    turned.features = packing.features;
    turned.unit = packing.unit;
    turned.shift = packing.shift;
    constexpr auto size = static_cast<Index>(sizeof(T));
    in_groups(0, count, tuning::kRotatedRows, [&](Index i, Index n) {
        transpose_columns<T, T>(reinterpret_cast<const char*>(packing.x.data + i), packing.x.stride * size, n,
                                packing.features, scratch.gathered, read ? count : n);
        turned.factor = SCALED ? packing.factor + i : nullptr;
        turned.weight = packing.weight ? packing.weight + i : nullptr;
        rotate_rows<SCALED, SHIFTED>(turned, n, scratch.rotated, sum, nullptr);
    });
}

// Rows [begin, begin + count), which are a slab: their column sums into `sum`, their products onto `target`, their
// losses and weights into the slab. `shift` (padded) is subtracted where it is given.
template <class T, class Scatter>
void lane_slab(const Rows& rows, const double* weights, Index begin, Index count, const double* shift, Slab<T>& slab,
               double* sum, const Target<Scatter>& target, RowScratch<T>& scratch) {
    const bool rotates = sums_by_rotation<T>(target.parameters);
    const Index padded = slab.n_panels * kPanel<T>;
    const LaneColumns<T> z = lane_columns(scratch, count);
    for (Index c = 0; c < padded; ++c) sum[c] = 0.0;
    for (Index c = 0; shift && c < padded; ++c) scratch.shift[c] = static_cast<T>(shift[c]);
    for (Index k = 0; rotates && k < kRotatedSums; ++k) scratch.rotated[k] = 0;
    const auto add = [&]<class View>(const View& x, Index i, Index n) {
        describe_group(rows, weights, x, begin + i, n, slab, i, scratch);
        const Packing<T, View> packing = packing_of(rows, x, shift ? scratch.shift : nullptr, slab, i, scratch);
        const auto turn = [&]<bool SCALED, bool SHIFTED>() {
            if constexpr (kRotates) {
                if constexpr (std::is_same_v<View, ColumnView<T>>) {
                    if (rotates)
                        return rotate_columns<SCALED, SHIFTED>(packing, n, rows.kind != RowKind::dense, scratch, sum);
                } else {
                    const char* ahead = scratch.ahead.in_one_piece() ? scratch.ahead.at + i * rows.row_stride : nullptr;
                    if (rotates) return rotate_rows<SCALED, SHIFTED>(packing, n, scratch.rotated, sum, ahead);
                }
            }
            turn_rows<SCALED, SHIFTED>(packing, n, target.parameters, z, i, sum);
        };
        if (packing.factor) {
            shift ? turn.template operator()<true, true>() : turn.template operator()<true, false>();
        } else {
            shift ? turn.template operator()<false, true>() : turn.template operator()<false, false>();
        }
    };
    visit_groups(rows, columns_in_place<T>(rows), begin, count, scratch, add);
    if constexpr (kRotates) {
        if (rotates) return add_rotated(scratch.rotated, target);
    }
    multiply_lane_slab(slab, z, count, 0, target.parameters, target, scratch);
}

// Rows of `tile` of the products of a slab in panels.
template <class T, class Scatter>
void lane_update(const Slab<T>& slab, const Tile& tile, const Target<Scatter>& target, RowScratch<T>& scratch) {
    using V = Vector<T>;
    constexpr Index lanes = Simd<T>::lanes;
    constexpr int panel = kPanel<T>;
    if constexpr (kRotates) {  // all of them, which are less than a tile
        if (sums_by_rotation<T>(target.parameters)) return rotate_panels(slab, target, scratch.rotated);
    }
    const LaneColumns<T> z = lane_columns(scratch, slab.rows);
    const Index end = tile.row_end < target.parameters ? tile.row_end : target.parameters;
    for (Index column = 0; column < end; column += lanes) {
        const T* from = slab.panels + column / panel * slab.panel_stride + column % panel;
        for (Index i = 0; i < z.lines * kLineRows<T>; i += kTurnedRows<T>) {
            V entry[kTurnedRows<T>];
            for (int r = 0; r < kTurnedRows<T>; ++r)
                entry[r] = i + r < slab.rows ? load<V>(from + (i + r) * panel) : V{};
            store_turned<T>(entry, end - column, z.data + column * z.stride + i, z.stride);
        }
    }
    multiply_lane_slab(slab, z, slab.rows, tile.row_begin, end, target, scratch);
}

}  // namespace gradhess::cpu::GRADHESS_ISA
