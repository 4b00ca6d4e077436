// A lower triangle, times a number, and its mirror image above the diagonal.
//
// A tile is read row by row and turned around in a buffer, so that its mirror image is written in long rows: every one
// of them is on another page, and at a row length that is a power of two single lines of many rows would fall into one
// cache set. Pieces of rows no processor foresees, so those of the tiles to come are asked for.
#pragma once

#include "transpose.hpp"
#include "tuning.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// Columns of a tile: 128 bytes.
template <class Scatter>
inline constexpr Index kMirrorColumns = 128 / sizeof(Scatter);

GRADHESS_INLINE Vector<double> times(Vector<double> v, double scale) { return v * broadcast(scale); }

GRADHESS_INLINE Vector<float> times(Vector<float> v, double scale) {
    const auto [low, high] = widen(v);
    const auto narrow = [](Doubles half) { return __builtin_convertvector(half, HalfVector<float>); };
    return join_halves<float>(narrow(low * broadcast(scale)), narrow(high * broadcast(scale)));
}

// The square on the diagonal at `lower`, times `scale`, with its mirror image. What lies above the diagonal is read,
// but means nothing.
template <class Scatter, int... I>
GRADHESS_INLINE void mirror_diagonal(const Scatter* lower, Index stride, double scale, Scatter* out, Index out_stride,
                                     std::integer_sequence<int, I...>) {
    using V = Vector<Scatter>;
    constexpr Index lanes = Simd<Scatter>::lanes;
    const V lane = {Scatter(I)...};
    V square[lanes];
    V turned[lanes];
#pragma GCC unroll 16
    for (Index r = 0; r < lanes; ++r) turned[r] = square[r] = times(load<V>(lower + r * stride), scale);
    transpose<Scatter>(turned);
#pragma GCC unroll 16
    for (Index r = 0; r < lanes; ++r)
        store(out + r * out_stride, lane <= broadcast(static_cast<Scatter>(r)) ? square[r] : turned[r]);
}

// Rows [begin, end) of the triangle, `stride` entries from row to row: times `scale` into these rows of `out`, (n, n)
// and contiguous, which may be `lower`; and into its columns. `begin` is a multiple of the rows that
// take tuning::kMirrorBytes of a column.
template <class Scatter>
void mirror(const Scatter* lower, Index stride, Index n, double scale, Scatter* out, Index begin, Index end) {
    using V = Vector<Scatter>;
    constexpr Index lanes = Simd<Scatter>::lanes;
    constexpr Index width = kMirrorColumns<Scatter>;
    constexpr Index height = tuning::kMirrorBytes / static_cast<Index>(sizeof(Scatter));
    constexpr Index line = 64 / sizeof(Scatter);
    // A line more, so that a column of the buffer is not in one cache set either.
    alignas(64) Scatter buffer[width][height + line];
    const bool keep = out == lower && scale == 1.0;  // the lower triangle is there already
    const bool near = n <= height;                   // all of it is in a core's own cache: it needs no buffer
    const Index whole = begin + (end - begin) / lanes * lanes;
    for (Index j_begin = 0; j_begin < end; j_begin += width) {
        const Index j_end = j_begin + width < whole ? j_begin + width : whole;
        Scatter* const turned = near ? out + j_begin * n + begin : &buffer[0][0];
        const Index turned_stride = near ? n : height + line;
        for (Index i = begin > j_begin ? begin : j_begin; i < whole; i += lanes) {
            if (!near)
                for (Index r = i; r < i + lanes; ++r)
                    for (Index c = 0; c < width; c += line)
                        __builtin_prefetch(lower + r * stride + j_begin + 2 * width + c, 0, 2);
            for (Index j = j_begin; j < j_end && j < i; j += lanes) {
                V square[lanes];
#pragma GCC unroll 16
                for (Index r = 0; r < lanes; ++r) {
                    square[r] = times(load<V>(lower + (i + r) * stride + j), scale);
                    if (!keep) store(out + (i + r) * n + j, square[r]);
                }
                transpose<Scatter>(square);
#pragma GCC unroll 16
                for (Index c = 0; c < lanes; ++c)
                    store(turned + (j - j_begin + c) * turned_stride + i - begin, square[c]);
            }
            if (i < j_end)
                mirror_diagonal(lower + i * stride + i, stride, scale, out + i * n + i, n, LaneNumbers<Scatter>{});
        }
        for (Index j = j_begin; j < j_end && !near; ++j) {
            Scatter* to = out + j * n;
            for (Index c = begin; c < end; c += line) __builtin_prefetch(to + width * n + c, 1, 2);
            const Index below = (j / lanes + 1) * lanes;  // the square on the diagonal
            for (Index i = begin > below ? begin : below; i < whole; i += lanes)
                store(to + i, load<V>(turned + (j - j_begin) * turned_stride + i - begin));
        }
    }
    for (Index i = whole; i < end; ++i) {
        for (Index j = 0; j <= i; ++j) {
            const auto value = static_cast<Scatter>(lower[i * stride + j] * scale);
            out[i * n + j] = value;
            out[j * n + i] = value;
        }
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
