// out_j = scale_j sum_{t in group j} f_tq x~_{i(t)}, row-major over (output q, feature), with the factor of a draw
// f_tq = factor_t slope_{i(t) q} + shift_t (grouped.hpp). One pass over the rows that were drawn.
//
// Layout: rows are wanted in any order, so nothing is packed. Up to kSumVectors vectors of columns are summed in
// registers over a chunk of draws; wider rows take several passes over the chunk. The row that comes kDrawsAhead draws
// later is asked for meanwhile: rows lie anywhere in memory, and no hardware foresees which is next.
// Each sum is one chain in float64 in the order of the draws, scaled and then rounded to T once, so its bits depend
// neither on threads nor on the vector length.
// Cost: 2 d FLOP and d entries of X read for each draw.
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
GRADHESS_INLINE void ask_for(const T* from) {
    constexpr int bytes = VECTORS * kDoubleLanes * static_cast<int>(sizeof(T));
    const char* start = in_register(reinterpret_cast<const char*>(from));
#pragma GCC unroll 8
    for (int at = 0; at < bytes; at += 64) __builtin_prefetch(start + at, 0, 2);
    __builtin_prefetch(start + bytes - 1, 0, 2);  // a row need not begin with a line
}

// sums[v] += f_t row_t[column v], draw after draw. The last vector begins at `last`, which may overlap the one before:
// its lanes are then summed twice, in two places, to the same bits.
template <int VECTORS, class T>
inline void add_draws(const T* const* rows, Index draws, const double* f, Index step, Index column, Index last,
                      const T* const* ahead, Index ahead_column, double* sums) {
    Doubles sum[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) sum[v] = load_doubles(sums + v * kDoubleLanes);
    for (Index t = 0; t < draws; ++t) {
        ask_for<VECTORS>(ahead[t] + ahead_column);
        const T* row = in_register(rows[t] + column);
        const Doubles factor = broadcast(f[t * step]);
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS - 1; ++v) sum[v] += load_doubles(row + v * kDoubleLanes) * factor;
        sum[VECTORS - 1] += load_doubles(row + (last - column)) * factor;
    }
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) store(sums + v * kDoubleLanes, sum[v]);
}

template <class T>
GRADHESS_INLINE void add_draws_of(int vectors, const T* const* rows, Index draws, const double* f, Index step,
                                  Index column, Index last, const T* const* ahead, Index ahead_column, double* sums) {
    switch (vectors) {
        case 1: return add_draws<1>(rows, draws, f, step, column, last, ahead, ahead_column, sums);
        case 2: return add_draws<2>(rows, draws, f, step, column, last, ahead, ahead_column, sums);
        case 3: return add_draws<3>(rows, draws, f, step, column, last, ahead, ahead_column, sums);
        case 4: return add_draws<4>(rows, draws, f, step, column, last, ahead, ahead_column, sums);
        case 5: return add_draws<5>(rows, draws, f, step, column, last, ahead, ahead_column, sums);
        case 6: return add_draws<6>(rows, draws, f, step, column, last, ahead, ahead_column, sums);
        case 7: return add_draws<7>(rows, draws, f, step, column, last, ahead, ahead_column, sums);
        default: return add_draws<8>(rows, draws, f, step, column, last, ahead, ahead_column, sums);
    }
}

// Adds a chunk of draws to the sums of one output; rows holds kDrawsAhead more draws than are added, those that follow.
// Slots of `sums` are vectors in order; the last vector, which may overlap its neighbour, has a slot of its own.
template <class T>
inline void add_chunk(Index d, const T* const* rows, Index draws, const double* f, Index step, double* sums) {
    if (d < kDoubleLanes) {
        for (Index t = 0; t < draws; ++t)
            for (Index j = 0; j < d; ++j) sums[j] += static_cast<double>(rows[t][j]) * f[t * step];
        return;
    }
    constexpr Index pass = kSumVectors * kDoubleLanes;
    const Index vectors = (d + kDoubleLanes - 1) / kDoubleLanes;
    const Index near = draws > kDrawsAhead ? draws - kDrawsAhead : 0;
    for (Index column = 0; column < d; column += pass) {
        const Index left = vectors - column / kDoubleLanes;
        const int take = static_cast<int>(left < kSumVectors ? left : kSumVectors);
        Index last = column + (take - 1) * kDoubleLanes;
        last = last < d - kDoubleLanes ? last : d - kDoubleLanes;
        // Needed next are these columns of later draws, and at the end of the pass the next columns of the first ones.
        const bool final = left <= kSumVectors;
        add_draws_of(take, rows, near, f, step, column, last, rows + kDrawsAhead, column, sums + column);
        add_draws_of(take, rows + near, draws - near, f + near * step, step, column, last,
                     final ? rows + near + kDrawsAhead : rows, final ? Index{0} : column + pass, sums + column);
    }
}

// Where the rows of a chunk of draws lie, and of those that follow. False where a row is not there: then nothing was
// read. Plain loops without branches, as memory stands still meanwhile.
template <class T>
inline bool find_rows(const Rows& rows, const Groups& groups, Index begin, Index draws, GroupScratch<T>& scratch) {
    const Index end = groups.offsets[groups.count];
    const Index known = end - begin < draws + kDrawsAhead ? end - begin : draws + kDrawsAhead;
    Index* index = scratch.index;
    if (groups.indices) {
        for (Index t = 0; t < known; ++t) index[t] = groups.indices[begin + t];
    } else {
        for (Index t = 0; t < known; ++t) index[t] = begin + t;
    }
    for (Index t = known; t < draws + kDrawsAhead; ++t) index[t] = 0;
    std::uint64_t largest = 0;  // of a negative index, too
    for (Index t = 0; t < draws; ++t) {
        const auto row = static_cast<std::uint64_t>(index[t]);
        largest = row > largest ? row : largest;
    }
    if (largest >= static_cast<std::uint64_t>(rows.samples)) return false;
    if (reads_in_place<T>(rows)) {
        const auto base =
            reinterpret_cast<std::uintptr_t>(rows.data);  // draws that follow may lie outside: only asked for
        for (Index t = 0; t < draws + kDrawsAhead; ++t)
            scratch.rows[t] =
                reinterpret_cast<const T*>(base + static_cast<std::uintptr_t>(index[t] * rows.row_stride));
        return true;
    }
    for (Index t = 0; t < draws; ++t) {
        scratch.rows[t] = scratch.gathered + t * rows.features;
        gather(rows, index[t], 1, scratch.gathered + t * rows.features);
    }
    for (Index t = draws; t < draws + kDrawsAhead; ++t) scratch.rows[t] = scratch.gathered;
    return true;
}

// f (draws, outputs) of a chunk.
template <class T>
inline void find_factors(const Groups& groups, Index begin, Index draws, GroupScratch<T>& scratch) {
    const Index k = groups.outputs;
    double* f = scratch.f;
    if (groups.slopes && k == 1) {
        for (Index t = 0; t < draws; ++t) f[t] = groups.slopes[scratch.index[t]];
    } else if (groups.slopes) {
        for (Index t = 0; t < draws; ++t)
            for (Index q = 0; q < k; ++q) f[t * k + q] = groups.slopes[scratch.index[t] * k + q];
    } else {
        for (Index t = 0; t < draws * k; ++t) f[t] = 1.0;
    }
    if (groups.factors) {
        for (Index t = 0; t < draws; ++t)
            for (Index q = 0; q < k; ++q) f[t * k + q] *= groups.factors[begin + t];
    }
    if (groups.shifts) {
        for (Index t = 0; t < draws; ++t)
            for (Index q = 0; q < k; ++q) f[t * k + q] += groups.shifts[begin + t];
    }
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
        for (Index begin = groups.offsets[j]; begin < groups.offsets[j + 1]; begin += kDrawChunk) {
            const Index left = groups.offsets[j + 1] - begin;
            const Index draws = left < kDrawChunk ? left : kDrawChunk;
            if (!find_rows(rows, groups, begin, draws, scratch)) return j;
            find_factors(groups, begin, draws, scratch);
            for (Index q = 0; q < k; ++q) {
                add_chunk(rows.features, scratch.rows, draws, scratch.f + q, k, scratch.sums + q * scratch.slots);
                for (Index t = 0; t < draws; ++t) units[q] += scratch.f[t * k + q];
            }
        }
        finish_row(rows, groups.scale ? groups.scale[j] : 1.0, scratch.sums, scratch.slots, k, out);
        out += rows.width() * k;
    }
    return -1;
}

}  // namespace gradhess::cpu::GRADHESS_ISA
