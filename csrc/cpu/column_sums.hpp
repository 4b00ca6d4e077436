// Sums over rows of a few columns for several coefficients of each row: what one loop over the rows keeps in registers.
#pragma once

#include "simd.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// Sums of VECTORS vectors of columns for COUNT coefficients, from `out` and back; or of its `part` first columns where
// PART.
template <int VECTORS, int COUNT, bool PART>
struct ColumnSums {
    static_assert(!PART || VECTORS == 1);

    Doubles sum[COUNT][VECTORS];

    GRADHESS_INLINE ColumnSums(const double* out, Index width, Index part) {
        for (int c = 0; c < COUNT; ++c)
            for (int v = 0; v < VECTORS; ++v)
                sum[c][v] = PART ? load_first(out + c * width, part) : load_doubles(out + c * width + v * kDoubleLanes);
    }

    GRADHESS_INLINE void put_back(double* out, Index width, Index part) const {
        for (int c = 0; c < COUNT; ++c) {
            if (!PART) {
                for (int v = 0; v < VECTORS; ++v) store(out + c * width + v * kDoubleLanes, sum[c][v]);
                continue;
            }
            store_first(out + c * width, sum[c][0], part);
        }
    }
};

}  // namespace gradhess::cpu::GRADHESS_ISA
