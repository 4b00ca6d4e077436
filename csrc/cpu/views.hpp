// A group of rows of X in the compute type, as it lies in memory.
#pragma once

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

// A square of entries, a vector for each column: those from row i and column j on. Zeros for columns from `columns` on,
// where the square may have such; nothing there is read.
template <bool FEWER, class T>
GRADHESS_INLINE void load_square(const ColumnView<T>& x, Index i, Index j, Index columns,
                                 Vector<T> (&square)[Simd<T>::lanes]) {
#pragma GCC unroll 16
    for (int k = 0; k < Simd<T>::lanes; ++k)
        square[k] = FEWER && j + k >= columns ? Vector<T>{} : load<Vector<T>>(x.data + (j + k) * x.stride + i);
}

}  // namespace gradhess::cpu::GRADHESS_ISA
