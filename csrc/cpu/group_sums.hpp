// out_j = scale_j sum_{t in group j} f_tq x~_{i(t)}, row-major over (output q, feature), with the factor of a draw
// f_tq = factor_t slope_{i(t) q} + shift_t (grouped.hpp). One pass over the rows that were drawn.
//
// Layout: rows are wanted in any order, so nothing is packed. Up to kSumVectors vectors of columns are summed in
// registers over a chunk of draws; wider rows take several passes over the chunk. The row that comes
// tuning::kDrawsAhead draws later is asked for meanwhile, and the slopes of the chunk that follows: they lie anywhere
// in memory, and no hardware foresees which is next. Each sum is one chain in float64 in the order of the draws, scaled
// and then rounded to T once, so its bits depend neither on threads nor on the vector length. Of floats, kShortChain
// draws from the first of a group on are a chain in float32, and those chains one in float64: a conversion of every
// entry would take twice as long as all else. Cost: 2 d FLOP and d entries of X read for each draw.
#pragma once

#include "grouped.hpp"
#include "prepare.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

inline constexpr int kSumVectors = 8;

// Keeps a pointer in one register: GCC would otherwise keep one offset for each vector, and run out of registers.
template <class T>
GRADHESS_INLINE const T* in_register(const T* pointer) {
    asm("" : "+r"(pointer));
    return pointer;
}

// Asks for the part of a row that `vectors` vectors of columns from `from` on take. Into the L2 cache: more lines can
// be under way to it than to the L1.
template <int VECTORS, class T>
GRADHESS_INLINE void ask_for(std::uintptr_t from) {
    constexpr int bytes = VECTORS * kDoubleLanes * static_cast<int>(sizeof(T));
    const char* start = in_register(reinterpret_cast<const char*>(from));
#pragma GCC unroll 8
    for (int at = 0; at < bytes; at += 64) __builtin_prefetch(start + at, 0, 2);
    __builtin_prefetch(start + bytes - 1, 0, 2);  // a row need not begin with a line
}

// Rows by number: row t of a chunk begins at base + index[t] * stride, in entries; tuning::kDrawsAhead more follow it.
template <class T>
struct DrawnRows {
    const T* base;
    Index stride;
    const Index* index;
    const Index* next;      // rows of the chunk that follows, for whose slopes is asked meanwhile
    std::uintptr_t slopes;  // of the first row
    std::uintptr_t slope_bytes;

    // Of an entry that may lie outside the rows: a number, as a pointer may not.
    GRADHESS_INLINE std::uintptr_t address(Index row, Index column) const {
        const auto entry = static_cast<std::uintptr_t>(row) * static_cast<std::uintptr_t>(stride);
        return reinterpret_cast<std::uintptr_t>(base) + (entry + static_cast<std::uintptr_t>(column)) * sizeof(T);
    }
};

// As many entries as a vector of doubles has lanes, in the type that a chain is summed in.
template <class T>
using Lanes = std::conditional_t<sizeof(T) == 4, Simd<float>::HalfVector, Doubles>;

template <class T>
inline constexpr Index kChain = sizeof(T) == 4 ? kShortChain : tuning::kDrawChunk;

// sums[v] += f_t row_t[column v], draw after draw from `first` to `draws`, while the rows of ahead[t] are asked for.
// The last vector begins at `last`, which may overlap the one before: its lanes are then summed twice, in two places,
// to the same bits. `first` is a multiple of kShortChain.
template <int VECTORS, class T>
inline void add_draws(const DrawnRows<T>& rows, Index first, Index draws, const T* f, Index step, Index column,
                      Index last, const Index* ahead, Index ahead_column, double* sums) {
    constexpr bool one_chain = sizeof(T) == 8;
    Lanes<T> sum[VECTORS];
    for (Index t = first; t < draws;) {
        const Index end = draws - t < kChain<T> ? draws : t + kChain<T>;
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) {
            if constexpr (one_chain)
                sum[v] = load<Lanes<T>>(sums + v * kDoubleLanes);
            else
                sum[v] = Lanes<T>{};
        }
        for (; t < end; ++t) {
            ask_for<VECTORS, T>(rows.address(ahead[t], ahead_column));
            __builtin_prefetch(reinterpret_cast<const char*>(rows.slopes + static_cast<std::uintptr_t>(rows.next[t]) *
                                                                               rows.slope_bytes),
                               0, 2);
            const T* row = in_register(rows.base + rows.index[t] * rows.stride + column);
            const Lanes<T> factor = f[t * step] - Lanes<T>{};
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS - 1; ++v) sum[v] += load<Lanes<T>>(row + v * kDoubleLanes) * factor;
            sum[VECTORS - 1] += load<Lanes<T>>(row + (last - column)) * factor;
        }
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) {
            double* to = sums + v * kDoubleLanes;
            if constexpr (one_chain)
                store(to, sum[v]);
            else
                store(to, load_doubles(to) + to_doubles(sum[v]));
        }
    }
}

template <class T>
GRADHESS_INLINE void add_draws_of(int vectors, const DrawnRows<T>& rows, Index first, Index draws, const T* f,
                                  Index step, Index column, Index last, const Index* ahead, Index ahead_column,
                                  double* sums) {
    switch (vectors) {
        case 1: return add_draws<1>(rows, first, draws, f, step, column, last, ahead, ahead_column, sums);
        case 2: return add_draws<2>(rows, first, draws, f, step, column, last, ahead, ahead_column, sums);
        case 3: return add_draws<3>(rows, first, draws, f, step, column, last, ahead, ahead_column, sums);
        case 4: return add_draws<4>(rows, first, draws, f, step, column, last, ahead, ahead_column, sums);
        case 5: return add_draws<5>(rows, first, draws, f, step, column, last, ahead, ahead_column, sums);
        case 6: return add_draws<6>(rows, first, draws, f, step, column, last, ahead, ahead_column, sums);
        case 7: return add_draws<7>(rows, first, draws, f, step, column, last, ahead, ahead_column, sums);
        default: return add_draws<8>(rows, first, draws, f, step, column, last, ahead, ahead_column, sums);
    }
}

// Adds a chunk of draws to the sums of one output. Slots of `sums` are vectors in order; the last vector, which may
// overlap its neighbour, has a slot of its own.
template <class T>
inline void add_chunk(Index d, const DrawnRows<T>& rows, Index draws, const T* f, Index step, double* sums) {
    if (d < kDoubleLanes) {
        for (Index begin = 0; begin < draws; begin += kChain<T>) {
            const Index end = draws - begin < kChain<T> ? draws : begin + kChain<T>;
            // Draws outside, features inside: GCC would round the products of a chain of draws apart from its sums.
            T chain[kDoubleLanes] = {};
            for (Index j = 0; j < d && sizeof(T) == 8; ++j) chain[j] = static_cast<T>(sums[j]);
            for (Index t = begin; t < end; ++t)
                for (Index j = 0; j < d; ++j) chain[j] += rows.base[rows.index[t] * rows.stride + j] * f[t * step];
            for (Index j = 0; j < d; ++j) sums[j] = chain[j] + (sizeof(T) == 8 ? 0.0 : sums[j]);
        }
        return;
    }
    constexpr Index pass = kSumVectors * kDoubleLanes;
    const Index vectors = (d + kDoubleLanes - 1) / kDoubleLanes;
    const Index near = draws > tuning::kDrawsAhead ? (draws - tuning::kDrawsAhead) / kShortChain * kShortChain : 0;
    const Index* following = rows.index + tuning::kDrawsAhead;
    for (Index column = 0; column < d; column += pass) {
        const Index left = vectors - column / kDoubleLanes;
        const int take = static_cast<int>(left < kSumVectors ? left : kSumVectors);
        Index last = column + (take - 1) * kDoubleLanes;
        last = last < d - kDoubleLanes ? last : d - kDoubleLanes;
        // Needed next are these columns of later draws, and at the end of the pass the next columns of the first ones.
        if (left <= kSumVectors && column == 0) {  // one pass: then the rows that follow the chunk, as before
            add_draws_of(take, rows, 0, draws, f, step, column, last, following, column, sums);
            continue;
        }
        const bool final = left <= kSumVectors;
        add_draws_of(take, rows, 0, near, f, step, column, last, following, column, sums + column);
        add_draws_of(take, rows, near, draws, f, step, column, last, final ? following : rows.index - near,
                     final ? Index{0} : column + pass, sums + column);
    }
}

// The rows of a chunk of draws, and of those that follow. False where a row of the chunk is not there: then nothing was
// read. Plain loops without branches, as memory stands still meanwhile.
template <class T>
inline bool find_rows(const Rows& rows, const Groups& groups, Index begin, Index draws, GroupScratch<T>& scratch,
                      DrawnRows<T>& found) {
    const Index end = groups.offsets[groups.count];
    const Index wanted = draws + tuning::kDrawsAhead;
    const Index known = end - begin < wanted ? end - begin : wanted;
    scratch.index = groups.indices ? groups.indices + begin : scratch.own_index;
    if (!groups.indices || known < wanted) {
        for (Index t = 0; t < known; ++t) scratch.own_index[t] = groups.indices ? groups.indices[begin + t] : begin + t;
        for (Index t = known; t < wanted; ++t) scratch.own_index[t] = 0;
        scratch.index = scratch.own_index;
    }
    std::uint64_t largest = 0;  // of a negative index, too
    for (Index t = 0; t < draws; ++t) {
        const auto row = static_cast<std::uint64_t>(scratch.index[t]);
        largest = row > largest ? row : largest;
    }
    if (largest >= static_cast<std::uint64_t>(rows.samples)) return false;
    if (reads_in_place<T>(rows)) {
        // What follows may lie outside the rows; it is only asked for, and will be looked at in its turn.
        const bool more = groups.slopes && groups.indices && end - begin >= 2 * draws;
        found = {static_cast<const T*>(rows.data),
                 rows.row_stride / static_cast<Index>(sizeof(T)),
                 scratch.index,
                 more ? groups.indices + begin + draws : scratch.counting,
                 reinterpret_cast<std::uintptr_t>(more ? static_cast<const void*>(groups.slopes) : scratch.f),
                 more ? static_cast<std::uintptr_t>(groups.outputs) * sizeof(double) : 0};
        return true;
    }
    for (Index t = 0; t < draws; ++t) gather(rows, scratch.index[t], 1, scratch.gathered + t * rows.features);
    found = {scratch.gathered,
             rows.features,
             scratch.counting,
             scratch.counting,
             reinterpret_cast<std::uintptr_t>(scratch.f),
             0};
    return true;
}

template <bool SLOPES, bool FACTORS, bool SHIFTS, class T>
inline void combine_factors(const Groups& groups, Index begin, Index draws, const Index* index, T* f) {
    const Index k = groups.outputs;
    const auto one = [&](Index t, Index row, Index q) {
        double value = SLOPES ? groups.slopes[row * k + q] : 1.0;
        if (FACTORS) value *= groups.factors[begin + t];
        if (SHIFTS) value += groups.shifts[begin + t];
        return static_cast<T>(value);
    };
    if (k == 1) {
        for (Index t = 0; t < draws; ++t) f[t] = one(t, SLOPES ? index[t] : 0, 0);
    } else {
        for (Index t = 0; t < draws; ++t)
            for (Index q = 0; q < k; ++q) f[t * k + q] = one(t, SLOPES ? index[t] : 0, q);
    }
}

// f (draws, outputs) of a chunk.
template <class T>
inline void find_factors(const Groups& groups, Index begin, Index draws, GroupScratch<T>& scratch) {
    using Combine = void (*)(const Groups&, Index, Index, const Index*, T*);
    static constexpr Combine table[2][2][2] = {
        {{combine_factors<false, false, false, T>, combine_factors<false, false, true, T>},
         {combine_factors<false, true, false, T>, combine_factors<false, true, true, T>}},
        {{combine_factors<true, false, false, T>, combine_factors<true, false, true, T>},
         {combine_factors<true, true, false, T>, combine_factors<true, true, true, T>}}};
    table[groups.slopes != nullptr][groups.factors != nullptr][groups.shifts != nullptr](groups, begin, draws,
                                                                                         scratch.index, scratch.f);
}

// One row of the result from its sums.
template <class T>
inline void finish_row(const Rows& rows, double scale, const double* sums, Index slots, Index k, T* out) {
    const Index d = rows.features;
    const Index whole = d < kDoubleLanes ? d : d / kDoubleLanes * kDoubleLanes;
    const double* units = sums + slots * k;
    for (Index q = 0; q < k; ++q) {
        const double* own = sums + q * slots;
        for (Index c = 0; c < whole; ++c) out[c] = static_cast<T>(scale * own[c]);
        const double* overlapping = own + kDoubleLanes - (d - whole);  // + c: lanes of the last vector
        for (Index c = whole; c < d; ++c) out[c] = static_cast<T>(scale * overlapping[c]);
        out += d;
        if (rows.unit_column) *out++ = static_cast<T>(scale * units[q]);
    }
}

// Groups [first, first + count) into out (count, parameters). Returns the first that names a row that is not there
// and ends with it, or -1.
template <class T>
Index group_sums(const Rows& rows, const Groups& groups, Index first, Index count, T* out, GroupScratch<T>& scratch) {
    const Index k = groups.outputs;
    double* units = scratch.sums + scratch.slots * k;
    for (Index j = first; j < first + count; ++j) {
        for (Index e = 0; e < (scratch.slots + 1) * k; ++e) scratch.sums[e] = 0.0;
        for (Index begin = groups.offsets[j]; begin < groups.offsets[j + 1]; begin += tuning::kDrawChunk) {
            const Index left = groups.offsets[j + 1] - begin;
            const Index draws = left < tuning::kDrawChunk ? left : tuning::kDrawChunk;
            DrawnRows<T> drawn;
            if (!find_rows(rows, groups, begin, draws, scratch, drawn)) return j;
            find_factors(groups, begin, draws, scratch);
            for (Index q = 0; q < k; ++q) {
                add_chunk(rows.features, drawn, draws, scratch.f + q, k, scratch.sums + q * scratch.slots);
                if (rows.unit_column)
                    for (Index t = 0; t < draws; ++t) units[q] += static_cast<double>(scratch.f[t * k + q]);
            }
        }
        finish_row(rows, groups.scale ? groups.scale[j] : 1.0, scratch.sums, scratch.slots, k, out);
        out += rows.width() * k;
    }
    return -1;
}

}  // namespace gradhess::cpu::GRADHESS_ISA
