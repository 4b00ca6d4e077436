// Rows of any element type, byte order and strides, as contiguous rows of the compute type: in place where they are
// that already, else gathered group by group.
#pragma once

#include <type_traits>

#include "simd.hpp"
#include "slab.hpp"
#include "transpose.hpp"
#include "tuning.hpp"
#include "views.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

GRADHESS_INLINE float widen_half(std::uint16_t half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t rest = half & 0x7fffu;
    std::uint32_t bits;
    float value;
    if (rest >= 0x7c00u) {  // infinity, NaN
        bits = 0x7f800000u | (rest & 0x3ffu) << 13;
    } else if (rest >= 0x400u) {
        bits = (rest << 13) + 0x38000000u;
    } else {  // subnormal: rest * 2^-24
        value = static_cast<float>(rest) * 0x1p-24f;
        __builtin_memcpy(&bits, &value, sizeof bits);
    }
    bits |= sign;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

struct HalfBits {
    std::uint16_t bits;
};

struct BrainFloatBits {
    std::uint16_t bits;
};

template <class Source>
GRADHESS_INLINE Source swap_bytes(Source value) {
    unsigned char bytes[sizeof value];
    unsigned char reversed[sizeof value];
    __builtin_memcpy(bytes, &value, sizeof value);
    for (std::size_t b = 0; b < sizeof value; ++b) reversed[b] = bytes[sizeof value - 1 - b];
    __builtin_memcpy(&value, reversed, sizeof value);
    return value;
}

template <class T, class Source>
GRADHESS_INLINE T convert(Source value) {
    return static_cast<T>(value);
}

template <class T>
GRADHESS_INLINE T convert(HalfBits value) {
    return static_cast<T>(widen_half(value.bits));
}

template <class T>
GRADHESS_INLINE T convert(BrainFloatBits value) {
    const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
    float wide;
    __builtin_memcpy(&wide, &bits, sizeof wide);
    return static_cast<T>(wide);
}

// Entries that lie one after the other.
template <class T, class Source>
GRADHESS_INLINE void convert_row(const char* from, Index count, T* out) {
    Index j = 0;
#if GRADHESS_VECTOR_BYTES > 16  // where there is an instruction for it
    if constexpr (std::is_same_v<Source, HalfBits> && sizeof(T) == 4) {
        for (; j + Simd<T>::lanes <= count; j += Simd<T>::lanes) store(out + j, load_halves(from + 2 * j));
    }
#endif
    if constexpr (std::is_same_v<Source, BrainFloatBits> && sizeof(T) == 4) {
        for (; j + Simd<T>::lanes <= count; j += Simd<T>::lanes) store(out + j, load_upper_halves(from + 2 * j));
    }
    for (; j < count; ++j) {
        Source value;
        __builtin_memcpy(&value, from + j * static_cast<Index>(sizeof value), sizeof value);
        out[j] = convert<T>(value);
    }
}

// Asks for the lines that `ahead` of these entries lie.
template <class Source>
GRADHESS_INLINE void ask_ahead(const char* from, Index entries, Index ahead) {
    for (Index at = 0; at < entries * static_cast<Index>(sizeof(Source)); at += 64)
        __builtin_prefetch(from + at + ahead, 0, 2);
}

// A tile of contiguous columns into rows, at most SIDE x SIDE, by way of the L1 cache.
template <class T, class Source, Index SIDE>
GRADHESS_INLINE void turn_tile(const char* from, Index column_stride, Index ahead, Index width, Index height, T* out,
                               Index row_stride) {
    alignas(64) T tile[SIDE][SIDE];
    for (Index j = 0; j < width; ++j) {
        convert_row<T, Source>(from + j * column_stride, height, tile[j]);
        ask_ahead<Source>(from + j * column_stride, SIDE, ahead);
    }
    for (Index i = 0; i < height; ++i)
        for (Index j = 0; j < width; ++j) out[i * row_stride + j] = tile[j][i];
}

// The same for whole columns of T, by shuffles.
template <class T, Index SIDE>
GRADHESS_INLINE void turn_columns_of_tile(const char* from, Index column_stride, Index ahead, Index width, T* out,
                                          Index row_stride) {
    constexpr int lanes = Simd<T>::lanes;
    const auto turn = [&]<bool WHOLE>(Index j) {
        const Index valid = width - j;
        for (Index i = 0; i < SIDE; i += lanes) {
            Vector<T> square[lanes];
#pragma GCC unroll 16
            for (int k = 0; k < lanes; ++k) {
                const char* at = from + (j + k) * column_stride + i * static_cast<Index>(sizeof(T));
                const bool there = WHOLE || k < valid;
                square[k] = there ? load<Vector<T>>(at) : Vector<T>{};
                if (there && i * sizeof(T) % 64 == 0) ask_ahead<T>(at, 1, ahead);
            }
            transpose<T>(square);
#pragma GCC unroll 16
            for (int k = 0; k < lanes; ++k) {
                T* to = out + (i + k) * row_stride + j;
                if (WHOLE) {
                    store(to, square[k]);
                } else {
                    store_first(to, square[k], valid);
                }
            }
        }
    };
    Index j = 0;
    for (; j + lanes <= width; j += lanes) turn.template operator()<true>(j);
    if (j < width) turn.template operator()<false>(j);
}

// Contiguous columns into rows, by way of square tiles: both memories are touched in pieces of a cache line or more.
// Of each column a short piece is read, which no processor foresees. So while one tile's width of columns is read, the
// next is asked for, and during the last one the first of the rows that lie `after` rows further down; what is left
// over asks for its own.
template <class T, class Source>
inline void transpose_columns(const char* columns, Index column_stride, Index count, Index d, T* out, Index after) {
    constexpr Index side = 16;
    constexpr auto size = static_cast<Index>(sizeof(Source));
    const Index whole = d / side * side;
    for (Index j0 = 0; j0 < d; j0 += side) {
        const Index width = d - j0 < side ? d - j0 : side;
        Index ahead = after * size;
        if (j0 + side < whole) {
            ahead = side * column_stride;
        } else if (j0 < whole) {
            ahead -= j0 * column_stride;
        }
        for (Index i0 = 0; i0 < count; i0 += side) {
            const Index height = count - i0 < side ? count - i0 : side;
            const char* from = columns + j0 * column_stride + i0 * size;
            T* to = out + i0 * d + j0;
            if constexpr (std::is_same_v<T, Source>) {
                if (height == side) {
                    turn_columns_of_tile<T, side>(from, column_stride, ahead, width, to, d);
                    continue;
                }
            }
            turn_tile<T, Source, side>(from, column_stride, ahead, width, height, to, d);
        }
    }
}

template <class T, class Source>
inline void gather_as(const Rows& rows, Index first, Index count, T* out) {
    const Index d = rows.features;
    const char* base = static_cast<const char*>(rows.data);
    const auto element = [&](Index i, Index j) {
        Source value;  // memcpy: the source need not be aligned
        __builtin_memcpy(&value, base + (first + i) * rows.row_stride + j * rows.column_stride, sizeof value);
        return convert<T>(rows.swapped ? swap_bytes(value) : value);
    };
    if (rows.column_stride == sizeof(Source) && !rows.swapped) {
        if (rows.row_stride == d * static_cast<Index>(sizeof(Source)))
            return convert_row<T, Source>(base + first * rows.row_stride, count * d, out);
        for (Index i = 0; i < count; ++i) convert_row<T, Source>(base + (first + i) * rows.row_stride, d, out + i * d);
        return;
    }
    // Columns outside where they are the contiguous direction, so that each cache line is read once.
    const Index row_step = rows.row_stride < 0 ? -rows.row_stride : rows.row_stride;
    const Index column_step = rows.column_stride < 0 ? -rows.column_stride : rows.column_stride;
    if (column_step > row_step) {
        if (rows.row_stride == sizeof(Source) && !rows.swapped) {
            transpose_columns<T, Source>(base + first * rows.row_stride, rows.column_stride, count, d, out, count);
            return;
        }
        for (Index j = 0; j < d; ++j)
            for (Index i = 0; i < count; ++i) out[i * d + j] = element(i, j);
    } else {
        for (Index i = 0; i < count; ++i)
            for (Index j = 0; j < d; ++j) out[i * d + j] = element(i, j);
    }
}

template <class T>
inline void gather(const Rows& rows, Index first, Index count, T* out) {
    switch (rows.dtype) {
        case DType::f64: return gather_as<T, double>(rows, first, count, out);
        case DType::f32: return gather_as<T, float>(rows, first, count, out);
        case DType::f16: return gather_as<T, HalfBits>(rows, first, count, out);
        case DType::bf16: return gather_as<T, BrainFloatBits>(rows, first, count, out);
        case DType::i8: return gather_as<T, std::int8_t>(rows, first, count, out);
        case DType::i16: return gather_as<T, std::int16_t>(rows, first, count, out);
        case DType::i32: return gather_as<T, std::int32_t>(rows, first, count, out);
        case DType::i64: return gather_as<T, std::int64_t>(rows, first, count, out);
        case DType::u8:
        case DType::boolean: return gather_as<T, std::uint8_t>(rows, first, count, out);
        case DType::u16: return gather_as<T, std::uint16_t>(rows, first, count, out);
        case DType::u32: return gather_as<T, std::uint32_t>(rows, first, count, out);
        case DType::u64: return gather_as<T, std::uint64_t>(rows, first, count, out);
    }
}

template <class T>
inline bool reads_in_place(const Rows& rows) {
    constexpr Index size = sizeof(T);
    const DType same = size == 8 ? DType::f64 : DType::f32;
    return rows.dtype == same && !rows.swapped && (rows.column_stride == size || rows.features == 1) &&
           rows.row_stride % size == 0 && reinterpret_cast<std::uintptr_t>(rows.data) % size == 0;
}

// Whether columns of T are contiguous, and rows are not.
template <class T>
inline bool columns_in_place(const Rows& rows) {
    Rows turned = rows;  // its columns would be these rows
    turned.row_stride = rows.column_stride;
    turned.column_stride = rows.row_stride;
    return rows.features > 1 && reads_in_place<T>(turned);
}

template <class T>
GRADHESS_INLINE ColumnView<T> view_columns(const Rows& rows, Index first) {
    return {static_cast<const T*>(rows.data) + first, rows.column_stride / static_cast<Index>(sizeof(T))};
}

// A group of rows as row-major T: in place where X already is that, else gathered.
template <class T>
GRADHESS_INLINE RowView<T> view_rows(const Rows& rows, Index first, Index count, RowScratch<T>& scratch) {
    if (reads_in_place<T>(rows)) {
        const Index stride = rows.row_stride / static_cast<Index>(sizeof(T));
        return {static_cast<const T*>(rows.data) + first * stride, stride};
    }
    gather(rows, first, count, scratch.gathered);
    return {scratch.gathered, rows.features, true};
}

// Runs visit(i, n) for [begin, end), in groups.
template <class Visit>
GRADHESS_INLINE void in_groups(Index begin, Index end, Index group, Visit visit) {
    for (Index i = begin; i < end; i += group) visit(i, end - i < group ? end - i : group);
}

// Runs visit(x, i, n) on rows [first, first + count), group by group, i counted from `first`. Where `columns`, on
// columns as they lie, as far as there are kColumnRows; the rows after them are gathered.
template <class T, class Visit>
GRADHESS_INLINE void visit_groups(const Rows& rows, bool columns, Index first, Index count, RowScratch<T>& scratch,
                                  Visit visit) {
    const Index whole = columns ? count & -kColumnRows<T> : 0;
    in_groups(0, whole, scratch.group, [&](Index i, Index n) { visit(view_columns<T>(rows, first + i), i, n); });
    in_groups(whole, count, scratch.group,
              [&](Index i, Index n) { visit(view_rows(rows, first + i, n, scratch), i, n); });
}

}  // namespace gradhess::cpu::GRADHESS_ISA
