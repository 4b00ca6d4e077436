// A group of rows of X in the compute type, as it lies in memory.
#pragma once

#include <type_traits>

#include "simd.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// Row after row: entry j of row i is data[i * stride + j].
template <class T>
struct RowView {
    const T* data;
    Index stride;
    bool gathered = false;  // in memory of the thread's own, after which no other rows follow
};

// Column after column (Fortran order): entry j of row i is data[j * stride + i].
template <class T>
struct ColumnView {
    const T* data;
    Index stride;
};

// Rows of columns are visited so many at a time, or several times as many (read_rows.hpp): a line of 64 bytes of each.
template <class T>
inline constexpr Index kColumnRows = 64 / sizeof(T);

// A square of entries in E, T or double, a vector for each column: those from row i and column j on. Zeros for columns
// from `columns` on, where the square may have such; nothing there is read.
template <bool FEWER, class E, class T>
GRADHESS_INLINE void load_square(const ColumnView<T>& x, Index i, Index j, Index columns,
                                 Vector<E> (&square)[Simd<E>::lanes]) {
#pragma GCC unroll 16
    for (int k = 0; k < Simd<E>::lanes; ++k) {
        const T* at = x.data + (j + k) * x.stride + i;
        if (FEWER && j + k >= columns) {
            square[k] = Vector<E>{};
        } else if constexpr (std::is_same_v<E, T>) {
            square[k] = load<Vector<T>>(at);
        } else {
            square[k] = load_doubles(at);
        }
    }
}

// Asks for the entries `after` entries further down in as many columns.
template <bool FEWER, int COLUMNS, class T>
GRADHESS_INLINE void ask_for_square(const ColumnView<T>& x, Index i, Index j, Index columns, Index after) {
#pragma GCC unroll 16
    for (int k = 0; k < COLUMNS; ++k)
        if (!FEWER || j + k < columns) __builtin_prefetch(x.data + (j + k) * x.stride + i + after, 0, 2);
}

}  // namespace gradhess::cpu::GRADHESS_ISA
