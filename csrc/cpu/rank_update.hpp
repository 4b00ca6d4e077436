// C += Z^T diag(w) Z over the rows of one packed slab, lower triangle only.
//
// Layout: Z in panels (slab.hpp). C row-major, either padded to whole tiles (a block's own scatter, where entries above
// the diagonal may hold rubbish) or the caller's (p, p), of which exactly the lower triangle is touched.
// Tile: kStripRows rows of C by up to kTileVectors vectors of columns, all in registers for the whole slab: per row of
// Z, kTileVectors loads and kStripRows broadcasts feed kStripRows * kTileVectors fused multiply-adds.
// Each entry of C is one chain over the slab's rows in T, starting from zero and added to C once, so its bits do not
// depend on tiles, vector length or threads.
#pragma once

#include "reduce.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

#if GRADHESS_VECTOR_BYTES == 64
inline constexpr int kTileVectors = 3;  // 32 registers: 24 sums, 3 columns, 1 broadcast
template <class T>
inline constexpr int kStripRows = 8;
#elif GRADHESS_VECTOR_BYTES == 32
inline constexpr int kTileVectors = 3;  // 16 registers: 12 sums, 3 columns, 1 broadcast
template <class T>
inline constexpr int kStripRows = 4;
#elif defined(__aarch64__)
inline constexpr int kTileVectors = 4;  // 32 registers: 16 sums, 4 columns, 4 lanes of one broadcast register
template <class T>
inline constexpr int kStripRows = 4;
#else
inline constexpr int kTileVectors = 2;  // 16 registers, separate multiply and add
template <class T>
inline constexpr int kStripRows = 4;
#endif

template <int ROWS, int VECTORS, class T, class Scatter>
GRADHESS_INLINE void add_tile(const Vector<T> (&sum)[ROWS][VECTORS], const Target<Scatter>& target, Index row,
                              Index column) {
    using V = Vector<T>;
    constexpr int lanes = Simd<T>::lanes;
    constexpr int width = VECTORS * lanes;
    if (target.padded || (column + width <= row + 1 && row + ROWS <= target.parameters)) {
        for (int m = 0; m < ROWS; ++m) {
            Scatter* at = target.data + (row + m) * target.stride + column;
            if constexpr (sizeof(T) == sizeof(Scatter)) {
                for (int v = 0; v < VECTORS; ++v) store(at + v * lanes, load<V>(at + v * lanes) + sum[m][v]);
            } else if constexpr (sizeof(T) < sizeof(Scatter)) {
                for (int v = 0; v < VECTORS; ++v) {
                    const auto [low, high] = widen(sum[m][v]);
                    double* low_at = at + v * lanes;
                    double* high_at = low_at + kDoubleLanes;
                    store(low_at, load_doubles(low_at) + low);
                    store(high_at, load_doubles(high_at) + high);
                }
            } else {
                alignas(64) T spilled[width];
                for (int v = 0; v < VECTORS; ++v) store(spilled + v * lanes, sum[m][v]);
                for (int c = 0; c < width; ++c) at[c] += static_cast<Scatter>(spilled[c]);
            }
        }
        return;
    }
    alignas(64) T spilled[ROWS][width];
    for (int m = 0; m < ROWS; ++m)
        for (int v = 0; v < VECTORS; ++v) store(spilled[m] + v * lanes, sum[m][v]);
    for (int m = 0; m < ROWS && row + m < target.parameters; ++m) {
        Scatter* at = target.data + (row + m) * target.stride + column;
        for (int c = 0; c < width && column + c <= row + m; ++c) at[c] += static_cast<Scatter>(spilled[m][c]);
    }
}

inline constexpr Index kCacheLine = 64;

// One row of the loop asks for one line from `ahead` on.
template <int ROWS, int VECTORS, class T, class Scatter>
inline void multiply_tile(const Slab<T>& slab, const T* strip, const Target<Scatter>& target, Index row, Index column,
                          const char* ahead) {
    using V = Vector<T>;
    constexpr int panel = kPanel<T>;
    constexpr int lanes = Simd<T>::lanes;
    const T* columns[VECTORS];
    for (int v = 0; v < VECTORS; ++v) {
        const Index c = column + v * lanes;
        columns[v] = slab.panels + c / panel * slab.panel_stride + c % panel;
    }
    if (!target.padded) {  // the caller's matrix, which may be far away; it is needed after the loop
        constexpr int line_entries = kCacheLine / sizeof(Scatter);
        for (int m = 0; m < ROWS; ++m)
            for (int c = 0; c < VECTORS * lanes; c += line_entries)
                __builtin_prefetch(target.data + (row + m) * target.stride + column + c, 1, 3);
    }
    V sum[ROWS][VECTORS] = {};
    const Index rows = slab.rows;
    for (Index r = 0; r < rows; ++r) {
        __builtin_prefetch(ahead + r * kCacheLine, 0, 2);
        V b[VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) b[v] = load<V>(columns[v] + r * panel);
#pragma GCC unroll 8
        for (int m = 0; m < ROWS; ++m) {
            const V a = broadcast(strip[r * panel + m]);
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; ++v) sum[m][v] += a * b[v];
        }
    }
    add_tile<ROWS, VECTORS, T, Scatter>(sum, target, row, column);
}

template <int ROWS, class T, class Scatter>
GRADHESS_INLINE void multiply_columns(int vectors, const Slab<T>& slab, const T* strip, const Target<Scatter>& target,
                                      Index row, Index column, const char* ahead) {
    switch (vectors) {
        case 1: return multiply_tile<ROWS, 1>(slab, strip, target, row, column, ahead);
        case 2: return multiply_tile<ROWS, 2>(slab, strip, target, row, column, ahead);
        case 3:
            if constexpr (kTileVectors >= 3) return multiply_tile<ROWS, 3>(slab, strip, target, row, column, ahead);
            break;
        case 4:
            if constexpr (kTileVectors >= 4) return multiply_tile<ROWS, 4>(slab, strip, target, row, column, ahead);
            break;
        default: break;
    }
}

// Adds the part of `tile` on and below the diagonal. Where slab.weighted, a
// weighted copy of each strip is made in scratch.strip.
template <class T, class Scatter>
void rank_update(const Slab<T>& slab, const Tile& tile, const Target<Scatter>& target, RowScratch<T>& scratch) {
    constexpr int panel = kPanel<T>;
    constexpr int lanes = Simd<T>::lanes;
    constexpr int strip_rows = kStripRows<T>;
    const Index packed_end = slab.n_panels * panel;
    for (Index row = tile.row_begin; row < tile.row_end; row += strip_rows) {
        const T* strip = slab.panels + row / panel * slab.panel_stride + row % panel;
        if (slab.weighted) {
            for (Index r = 0; r < slab.rows; ++r)
                for (int m = 0; m < strip_rows; ++m)
                    scratch.strip[r * panel + m] = strip[r * panel + m] * static_cast<T>(slab.weight[r]);
            strip = scratch.strip;
        }
        // Packed rows beyond a core's own cache: the panel of the next strip is asked for during this one.
        const Index next_panel = (row + strip_rows) / panel;
        const T* next_strip = nullptr;
        if (!target.padded && next_panel != row / panel && next_panel < slab.n_panels)
            next_strip = slab.panels + next_panel * slab.panel_stride;
        Index last = row + strip_rows;  // one past the last column that the strip needs
        last = last < tile.column_end ? last : tile.column_end;
        last = last < packed_end ? last : packed_end;
        Index left = (last - tile.column_begin + lanes - 1) / lanes;
        for (Index column = tile.column_begin; left > 0;) {
            // A remainder of one vector is shared: two tiles of fair width beat a full one and a sliver.
            const Index take = left <= kTileVectors ? left : (left == kTileVectors + 1 ? (left + 1) / 2 : kTileVectors);
            const char* ahead = reinterpret_cast<const char*>(strip);  // in cache: asks for nothing
            if (column == tile.column_begin && next_strip) {
                ahead = reinterpret_cast<const char*>(next_strip);
            } else if (scratch.ahead < scratch.ahead_end) {
                ahead = scratch.ahead;
                scratch.ahead += slab.rows * kCacheLine;
            }
            if (target.parameters - row > strip_rows / 2) {
                multiply_columns<strip_rows>(static_cast<int>(take), slab, strip, target, row, column, ahead);
            } else {  // the last strip, at most half full
                multiply_columns<strip_rows / 2>(static_cast<int>(take), slab, strip, target, row, column, ahead);
            }
            column += take * lanes;
            left -= take;
        }
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
