// C += Z^T diag(w) Z over the rows of one slab of narrow rows, lower triangle only, from transposed rows.
//
// Layout: the columns of Z one after the other, so that the lanes of a vector are rows. Rows come in lines of 64 bytes;
// what fills up the last one is zero.
// Tile: kLaneRows rows of C by four columns, one vector of sums for each entry, in registers for the whole slab: no
// entry above the diagonal is computed, and no column beyond the last, whatever the number of parameters.
// Each entry of C is as many chains as a line has rows, in T, from zero, which are added by halves (the first to the
// one in the middle); the sum joins C once. So its bits do not depend on tiles, vector length or threads.
#pragma once

#include "slab.hpp"
#include "transpose.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

template <class T>
inline constexpr Index kLineRows = kLineEntries<T>;

#if GRADHESS_VECTOR_BYTES == 64 || defined(__aarch64__)
inline constexpr int kLaneRows = 4;  // 32 registers: 16 sums, 4 columns, 1 row
#else
inline constexpr int kLaneRows = 2;  // 16 registers: 8 sums, 4 columns, 1 row
#endif
inline constexpr int kLaneColumns = 4;
inline constexpr Index kRowsTogether = 8;

// Memory that is asked for while products are formed: one line with each line of a tile, and what is to be asked for
// besides before it. When there is no more, some that is in cache.
struct NextLines {
    MemoryAhead memory;
    const char* idle;
    Index each;  // lines for each line of a tile

    // Says from where on a tile of so many lines is to ask, and steps over what it will have asked for.
    GRADHESS_INLINE const char* of_tile(Index lines) {
        if (!memory.any()) return idle;
        for (Index extra = (each - 1) * lines; extra > 0; --extra) {
            __builtin_prefetch(memory.at, 0, 2);
            memory.step();
        }
        const char* first = memory.at;
        memory.skip(lines);
        return first;
    }
};

template <class Scatter, class T>
GRADHESS_INLINE void add_four(Scatter* to, const T* from) {
    typedef Scatter Sums __attribute__((vector_size(4 * sizeof(Scatter))));
    typedef T Terms __attribute__((vector_size(4 * sizeof(T))));
    Sums sums;
    Terms terms;
    __builtin_memcpy(&sums, to, sizeof sums);
    __builtin_memcpy(&terms, from, sizeof terms);
#if GRADHESS_VECTOR_BYTES > 16
    if constexpr (sizeof(T) < sizeof(Scatter)) {
        sums += _mm256_cvtps_pd(terms);  // GCC 12 builds the conversion out of two halves
    } else
#endif
        sums += __builtin_convertvector(terms, Sums);
    __builtin_memcpy(to, &sums, sizeof sums);
}

// Of ROWS rows of C and COLUMNS columns from `offset` columns before the first row on: the entries up to the diagonal.
template <int ROWS, int COLUMNS, int OFFSET, class T, class Scatter>
__attribute__((noinline)) void multiply_lanes(const T* row, const T* column, Index stride, Index lines, Scatter* out,
                                              Index out_stride, NextLines& ahead) {
    using V = Vector<T>;
    constexpr int lanes = Simd<T>::lanes;
    constexpr int parts = 64 / static_cast<int>(sizeof(V));
    const bool same = row == column;
    constexpr int entries = ROWS * kLaneColumns;
    constexpr auto wanted = [](int m, int c) { return m < ROWS && c < COLUMNS && c <= m + OFFSET; };
    V sums[parts][entries];
#pragma GCC unroll 4
    for (int part = 0; part < parts; ++part) {
        V sum[entries] = {};
        const T* z = column + part * lanes;
        const T* u = row + part * lanes;
        const char* next = part == 0 ? ahead.of_tile(lines) : nullptr;
        for (Index line = 0; line < lines; ++line, z += kLineRows<T>, u += kLineRows<T>) {
            if (part == 0) __builtin_prefetch(next + line * 64, 0, 2);
            V b[COLUMNS];
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS; ++c) b[c] = rounded(load<V>(z + c * stride));  // in a register, loaded once
#pragma GCC unroll 4
            for (int m = 0; m < ROWS; ++m) {
                const V a = OFFSET == 0 && same ? b[m] : load<V>(u + m * stride);
#pragma GCC unroll 4
                for (int c = 0; c < COLUMNS; ++c)
                    if (wanted(m, c)) sum[m * kLaneColumns + c] += a * b[c];
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < entries; ++i) sums[part][i] = sum[i];
    }
#pragma GCC unroll 2
    for (int half = parts / 2; half > 0; half /= 2)
#pragma GCC unroll 2
        for (int part = 0; part < half; ++part)
#pragma GCC unroll 16
            for (int i = 0; i < entries; ++i) sums[part][i] += sums[part + half][i];
    alignas(64) T total[(entries + lanes - 1) / lanes * lanes];
#pragma GCC unroll 8
    for (int first = 0; first < entries; first += lanes) {
        V some[lanes];
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) {
            const int at = first + i % kPieces<T> * kPieceLanes<T> + i / kPieces<T>;
            some[i] = at < entries ? sums[0][at] : V{};
        }
        store(total + first, sums_over_lanes<T>(some));
    }
#pragma GCC unroll 4
    for (int m = 0; m < ROWS; ++m) {
        const T* from = total + m * kLaneColumns;
        Scatter* to = out + m * out_stride;
        if (wanted(m, kLaneColumns - 1)) {
            add_four(to, from);
        } else {
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS; ++c)
                if (wanted(m, c)) to[c] += static_cast<Scatter>(from[c]);
        }
    }
}

// A slab of narrow rows, transposed: columns `stride` entries apart, of `lines` lines.
template <class T>
struct LaneColumns {
    T* data;
    Index stride;
    Index lines;
};

// ROWS rows of C from `row` on, of a block of columns that begins at or before it.
template <int ROWS, class T, class Scatter>
GRADHESS_INLINE void multiply_block(const T* left, const LaneColumns<T>& z, Index row, Index column, Scatter* out,
                                    Index out_stride, NextLines& ahead) {
    constexpr int short_columns = kLaneColumns - kLaneRows;  // of a block before the second tile of its rows
    const auto multiply = [&]<int COLUMNS, int OFFSET>() {
        multiply_lanes<ROWS, COLUMNS, OFFSET>(left + row * z.stride, z.data + column * z.stride, z.stride, z.lines,
                                              out + row * out_stride + column, out_stride, ahead);
    };
    if (row >= column + kLaneColumns) {
        multiply.template operator()<kLaneColumns, kLaneColumns>();
    } else if (row > column) {
        if constexpr (short_columns > 0) multiply.template operator()<short_columns + ROWS, short_columns>();
    } else {
        multiply.template operator()<ROWS, 0>();
    }
}

// Rows [begin, end) of C, `begin` a multiple of kLaneColumns: products of the columns `left` (as `z`, or weighted) with
// those of z. Asks for `memory` meanwhile.
template <class T, class Scatter>
inline void multiply_columns_by_lanes(const T* left, const LaneColumns<T>& z, Index begin, Index end,
                                      const Target<Scatter>& target, const MemoryAhead& memory) {
    const Index blocks = (end + kLaneColumns - 1) / kLaneColumns;
    const Index steps = blocks * (blocks + 1) / 2 * z.lines;
    const Index each = (memory.lines_in_all() + steps - 1) / steps;
    NextLines ahead{memory, reinterpret_cast<const char*>(z.data), each > 1 ? each : 1};
    // Eight rows and a block of columns stay in the L1 cache.
    for (Index first = begin; first < end; first += kRowsTogether) {
        const Index last = end - first < kRowsTogether ? end : first + kRowsTogether;
        for (Index column = 0; column < last; column += kLaneColumns) {
            for (Index row = column > first ? column : first; row < last; row += kLaneRows) {
                const auto multiply = [&]<int ROWS>() {
                    multiply_block<ROWS>(left, z, row, column, target.data, target.stride, ahead);
                };
                switch (last - row < kLaneRows ? last - row : kLaneRows) {
                    case 1: multiply.template operator()<1>(); break;
                    case 2: multiply.template operator()<2>(); break;
                    case 3:
                        if constexpr (kLaneRows > 2) multiply.template operator()<3>();
                        break;
                    default:
                        if constexpr (kLaneRows > 2) multiply.template operator()<4>();
                }
            }
        }
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
