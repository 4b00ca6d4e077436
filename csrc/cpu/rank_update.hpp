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
#include "tuning.hpp"

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

// What lies above the diagonal is not computed where half a vector can be left out: where a strip has half as many rows
// as a vector has lanes, the tile on the diagonal ends in half a vector;
template <class T>
inline constexpr bool kHalves = 2 * kStripRows<T> == Simd<T>::lanes;

// where it has as many, the upper half of its rows does. (On shorter vectors a half costs as much as a whole.)
template <class T>
inline constexpr int kShortRows =
    GRADHESS_VECTOR_BYTES == 64 && kStripRows<T> == Simd<T>::lanes ? kStripRows<T> / 2 : 0;

GRADHESS_INLINE void add_to(double* at, Doubles sum) { store(at, load_doubles(at) + sum); }
GRADHESS_INLINE void add_to(float* at, Vector<float> sum) { store(at, load<Vector<float>>(at) + sum); }
GRADHESS_INLINE void add_to(float* at, HalfVector<float> sum) { store(at, load<HalfVector<float>>(at) + sum); }
GRADHESS_INLINE void add_to(double* at, HalfVector<float> sum) { add_to(at, to_doubles(sum)); }

GRADHESS_INLINE void add_to(double* at, Vector<float> sum) {
    const auto [low, high] = widen(sum);
    add_to(at, low);
    add_to(at + kDoubleLanes, high);
}

GRADHESS_INLINE void add_to(float* at, Doubles sum) {
    for (int c = 0; c < kDoubleLanes; ++c) at[c] += static_cast<float>(sum[c]);
}

GRADHESS_INLINE void add_to(double* at, HalfVector<double> sum) { store(at, load<HalfVector<double>>(at) + sum); }

GRADHESS_INLINE void add_to(float* at, HalfVector<double> sum) {
    for (int c = 0; c < kDoubleLanes / 2; ++c) at[c] += static_cast<float>(sum[c]);
}

// The sums of one tile, in registers: VECTORS vectors of columns, and half a vector more where HALF. Of the last vector
// the first SHORT rows have the lower half only.
template <int ROWS, int VECTORS, bool HALF, class T, int SHORT = 0>
struct TileSums {
    static_assert(!HALF || SHORT == 0);
    static constexpr int lanes = Simd<T>::lanes;
    static constexpr int columns = VECTORS * lanes + (HALF ? lanes / 2 : 0);
    static constexpr int n_vectors = VECTORS > 0 ? VECTORS : 1;  // no arrays of length zero
    static constexpr int n_halves = HALF ? ROWS : (SHORT > 0 ? SHORT : 1);

    Vector<T> whole[ROWS][n_vectors] = {};
    HalfVector<T> half[n_halves] = {};

    static constexpr int whole_vectors(int row) { return VECTORS - (row < SHORT ? 1 : 0); }
    static constexpr bool has_half(int row) { return HALF || row < SHORT; }

    // Adds the products of one row of the slab: entries strip[0], strip[1], ... with the vectors at columns[v] +
    // offset.
    GRADHESS_INLINE void add_products(const T* strip, const T* const* column, Index offset) {
        Vector<T> b[n_vectors];
        HalfVector<T> half_b = {};
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) b[v] = load<Vector<T>>(column[v] + offset);
        if constexpr (HALF) half_b = load<HalfVector<T>>(column[VECTORS] + offset);
        if constexpr (SHORT > 0) half_b = load<HalfVector<T>>(column[VECTORS - 1] + offset);
#pragma GCC unroll 8
        for (int m = 0; m < ROWS; ++m) {
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; ++v)
                if (v < whole_vectors(m)) whole[m][v] += broadcast(strip[m]) * b[v];
            if (has_half(m)) half[m] += (strip[m] - HalfVector<T>{}) * half_b;
        }
    }

    template <class Scatter>
    GRADHESS_INLINE void add_row(int m, Scatter* at) const {
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v)
            if (v < whole_vectors(m)) add_to(at + v * lanes, whole[m][v]);
        if (has_half(m)) add_to(at + whole_vectors(m) * lanes, half[m]);
    }

    template <class Scatter>
    GRADHESS_INLINE void add(const Target<Scatter>& target, Index row, Index column) const {
        // One way out of the registers, whether straight to the target or by a copy, of which the lower part is taken.
        const bool whole_tile = target.padded || (column + columns <= row + 1 && row + ROWS <= target.parameters);
        alignas(64) Scatter copy[ROWS][columns];
        Scatter* to = &copy[0][0];
        Index stride = columns;
        if (whole_tile) {
            to = target.data + row * target.stride + column;
            stride = target.stride;
        } else {
            for (auto& row_of_copy : copy)
                for (Scatter& entry : row_of_copy) entry = 0;
        }
#pragma GCC unroll 8
        for (int m = 0; m < ROWS; ++m) add_row(m, to + m * stride);
        if (whole_tile) return;
        for (int m = 0; m < ROWS && row + m < target.parameters; ++m) {
            Scatter* at = target.data + (row + m) * target.stride + column;
            for (int c = 0; c < columns && column + c <= row + m; ++c) at[c] += copy[m][c];
        }
    }
};

inline constexpr Index kCacheLine = 64;

template <class T>
GRADHESS_INLINE Index panel_bytes(const Slab<T>& slab) {
    return slab.rows * kPanel<T> * static_cast<Index>(sizeof(T));
}

// Rows in a turn of the multiply loop. Two need fewer instructions beside the products, where there are registers for
// both (on AVX2 spills cost 15%).
inline constexpr Index kTurnRows = GRADHESS_VECTOR_BYTES == 64 ? 2 : 1;

// Lines that the multiply loop asks for beside its own, during one tile.
template <class T, class Scatter>
GRADHESS_INLINE Index lines_ahead(const Slab<T>& slab, const Target<Scatter>& target) {
    return slab.rows / (target.padded ? kTurnRows : tuning::kFarTurnRows);
}

// Asks for lines_ahead lines of `ahead`.
template <int ROWS, int VECTORS, bool HALF, int SHORT, class T, class Scatter>
inline void multiply_tile(const Slab<T>& slab, const T* strip, const Target<Scatter>& target, Index row, Index column,
                          MemoryAhead& memory) {
    using Sums = TileSums<ROWS, VECTORS, HALF, T, SHORT>;
    constexpr int panel = kPanel<T>;
    constexpr int lanes = Simd<T>::lanes;
    const T* columns[VECTORS + 1];
    for (int v = 0; v < VECTORS + (HALF ? 1 : 0); ++v) {
        const Index c = column + v * lanes;
        columns[v] = slab.panels + c / panel * slab.panel_stride + c % panel;
    }
    constexpr int line_entries = kCacheLine / static_cast<int>(sizeof(Scatter));
    constexpr int lines = (Sums::columns + line_entries - 1) / line_entries;  // of a row of the tile
    Scatter* const corner = target.data + row * target.stride + column;
    const bool far = !target.padded;  // the caller's matrix, not in cache; it is needed after the loop
    Sums sum;
    MemoryAhead ahead = memory;
    const Index rows = slab.rows;
    const Index early = far && rows > ROWS * lines ? rows - ROWS * lines : rows;
    Index r = 0;
    const auto next_rows = [&](Index count) {
        for (const Index end = r + count; r < end; ++r) sum.add_products(strip + r * panel, columns, r * panel);
    };
    const auto turn = [&] {
        __builtin_prefetch(ahead.at, 0, 2);
        ahead.step();
        next_rows(kTurnRows);
    };
    if (far) {
        const auto far_turn = [&] {
            turn();
            for (Index q = kTurnRows; q < tuning::kFarTurnRows; q += kTurnRows) next_rows(kTurnRows);
        };
        if (early >= ROWS * lines * tuning::kFarTurnRows) {
            for (int m = 0; m < ROWS; ++m) {
                for (int c = 0; c < lines; ++c) {
                    __builtin_prefetch(corner + m * target.stride + c * line_entries, 1, 2);
                    far_turn();
                }
            }
        }
        while (r + tuning::kFarTurnRows <= early) far_turn();
    } else {
        while (r + kTurnRows <= early) turn();
    }
    while (r < early) next_rows(1);
    if (r < rows) {  // what the first loop drove out of the nearest cache is called back line by line
        for (int m = 0; m < ROWS; ++m) {
            for (int c = 0; c < lines; ++c, ++r) {
                __builtin_prefetch(corner + m * target.stride + c * line_entries, 1, 3);
                sum.add_products(strip + r * panel, columns, r * panel);
            }
        }
    }
    memory = ahead;
    sum.add(target, row, column);
}

// A tile of `units` columns, counted in half vectors where there are halves, else in vectors. SHORT as in TileSums.
template <int ROWS, int SHORT, class T, class Scatter>
GRADHESS_INLINE void multiply_columns(int units, const Slab<T>& slab, const T* strip, const Target<Scatter>& target,
                                      Index row, Index column, MemoryAhead& ahead) {
    if constexpr (kHalves<T>) {
        switch (units) {
            case 1: return multiply_tile<ROWS, 0, true, 0>(slab, strip, target, row, column, ahead);
            case 2: return multiply_tile<ROWS, 1, false, 0>(slab, strip, target, row, column, ahead);
            case 3: return multiply_tile<ROWS, 1, true, 0>(slab, strip, target, row, column, ahead);
            case 4: return multiply_tile<ROWS, 2, false, 0>(slab, strip, target, row, column, ahead);
            case 5: return multiply_tile<ROWS, 2, true, 0>(slab, strip, target, row, column, ahead);
            default: return multiply_tile<ROWS, kTileVectors, false, 0>(slab, strip, target, row, column, ahead);
        }
    } else {
        switch (units) {
            case 1: return multiply_tile<ROWS, 1, false, SHORT>(slab, strip, target, row, column, ahead);
            case 2: return multiply_tile<ROWS, 2, false, SHORT>(slab, strip, target, row, column, ahead);
            case 3:
                if constexpr (kTileVectors >= 3)
                    return multiply_tile<ROWS, 3, false, SHORT>(slab, strip, target, row, column, ahead);
                break;
            default: return multiply_tile<ROWS, kTileVectors, false, SHORT>(slab, strip, target, row, column, ahead);
        }
    }
}

// Columns in the unit by which tiles are measured.
template <class T>
inline constexpr int kColumnUnit = kHalves<T> ? Simd<T>::lanes / 2 : Simd<T>::lanes;

// How many of `left` units of columns the next tile takes. A remainder of one vector is shared, for two tiles of fair
// width beat a full one and a sliver; all but the last take whole vectors.
template <class T>
GRADHESS_INLINE Index next_take(Index left) {
    constexpr Index per_vector = Simd<T>::lanes / kColumnUnit<T>;
    constexpr Index most = kTileVectors * per_vector;
    if (left <= most) return left;
    if (left > most + per_vector) return most;
    const Index half = (left + 1) / 2;
    return (half + per_vector - 1) / per_vector * per_vector;
}

// Adds the products of the strip at `row` with the columns of `tile` up to the diagonal. Before each tile of registers
// `next_ahead()` says what memory to ask for meanwhile, or null.
template <class T, class Scatter, class Ahead>
GRADHESS_INLINE void multiply_strip(const Slab<T>& slab, const T* strip, const Tile& tile,
                                    const Target<Scatter>& target, Index row, Ahead next_ahead) {
    constexpr int strip_rows = kStripRows<T>;
    const Index packed_end = slab.n_panels * kPanel<T>;
    Index last = row + strip_rows;  // one past the last column that the strip needs
    last = last < tile.column_end ? last : tile.column_end;
    last = last < packed_end ? last : packed_end;
    Index left = (last - tile.column_begin + kColumnUnit<T> - 1) / kColumnUnit<T>;
    for (Index column = tile.column_begin; left > 0;) {
        const Index take = next_take<T>(left);
        MemoryAhead idle(strip, 0);  // in cache: asks for nothing
        MemoryAhead* next = next_ahead();
        MemoryAhead& ahead = next ? *next : idle;
        const int units = static_cast<int>(take);
        if (target.parameters - row <= strip_rows / 2) {  // the last strip, at most half full
            multiply_columns<strip_rows / 2, 0>(units, slab, strip, target, row, column, ahead);
        } else if (kShortRows<T> > 0 && column + take * kColumnUnit<T> == row + strip_rows) {  // on the diagonal
            multiply_columns<strip_rows, kShortRows<T>>(units, slab, strip, target, row, column, ahead);
        } else {
            multiply_columns<strip_rows, 0>(units, slab, strip, target, row, column, ahead);
        }
        column += take * kColumnUnit<T>;
        left -= take;
    }
}

// A panel, each row times its weight.
template <class T>
GRADHESS_INLINE void weight_panel(const Slab<T>& slab, const T* from, T* to) {
    constexpr Index panel = kPanel<T>;
    for (Index r = 0; r < slab.rows; ++r) {
        const Vector<T> weight = broadcast(static_cast<T>(slab.weight[r]));
#pragma GCC unroll 4
        for (Index c = 0; c < panel; c += Simd<T>::lanes)
            store(to + r * panel + c, load<Vector<T>>(from + r * panel + c) * weight);
    }
}

// Adds the part of `tile` on and below the diagonal. Where slab.weighted, a weighted copy of each panel of broadcast
// operands is made in scratch.strip.
template <class T, class Scatter>
void rank_update(const Slab<T>& slab, const Tile& tile, const Target<Scatter>& target, RowScratch<T>& scratch) {
    constexpr int panel = kPanel<T>;
    constexpr int strip_rows = kStripRows<T>;
    for (Index row = tile.row_begin; row < tile.row_end; row += strip_rows) {
        const T* strip = slab.panels + row / panel * slab.panel_stride + row % panel;
        if (slab.weighted) {
            if (row % panel == 0 || row == tile.row_begin) weight_panel(slab, strip - row % panel, scratch.strip);
            strip = scratch.strip + row % panel;
        }
        // Packed rows beyond a core's own cache: the panel of the next strip is asked for during the first tiles.
        const Index next_panel = (row + strip_rows) / panel;
        MemoryAhead next_strip;
        if (!target.padded && next_panel != row / panel && next_panel < slab.n_panels)
            next_strip = {slab.panels + next_panel * slab.panel_stride, panel_bytes(slab)};
        multiply_strip(slab, strip, tile, target, row, [&]() -> MemoryAhead* {
            if (next_strip.any()) return &next_strip;
            return scratch.ahead.any() ? &scratch.ahead : nullptr;
        });
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
