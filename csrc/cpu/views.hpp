// A group of rows of X in the compute type, as it lies in memory.
#pragma once

#include "job.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// Row after row: entry j of row i is data[i * stride + j].
template <class T>
struct RowView {
    const T* data;
    Index stride;
};

// Column after column (Fortran order): entry j of row i is data[j * stride + i].
template <class T>
struct ColumnView {
    const T* data;
    Index stride;
};

}  // namespace gradhess::cpu::GRADHESS_ISA
