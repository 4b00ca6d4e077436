// From rows of X to packed rows of gradients: eta = X w + b, the loss and its slope r, and r x~ rounded to the
// compute type, while the rows are in cache.
//
// Cost per row: 2 d multiply-adds in float64 for eta, d products, one read of X, one write of the panel.
// A row's bits depend on that row alone, and not on the vector length.
#pragma once

#include <type_traits>

#include "losses.hpp"
#include "slab.hpp"
#include "tuning.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// ---- reading rows -----------------------------------------------------------------------------------------------

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
    for (; j < count; ++j) {
        Source value;
        __builtin_memcpy(&value, from + j * static_cast<Index>(sizeof value), sizeof value);
        out[j] = convert<T>(value);
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
        for (Index i = 0; i < count; ++i)
            convert_row<T, Source>(base + (first + i) * rows.row_stride, d, out + i * d);
        return;
    }
    // Columns outside where they are the contiguous direction, so that each cache line is read once.
    const Index row_step = rows.row_stride < 0 ? -rows.row_stride : rows.row_stride;
    const Index column_step = rows.column_stride < 0 ? -rows.column_stride : rows.column_stride;
    if (column_step > row_step) {
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

// A group of rows as row-major T: in place where X already is that, else gathered.
template <class T>
struct RowView {
    const T* data;
    Index stride;
};

template <class T>
GRADHESS_INLINE RowView<T> view_rows(const Rows& rows, Index first, Index count, RowScratch<T>& scratch) {
    if (reads_in_place<T>(rows)) {
        const Index stride = rows.row_stride / static_cast<Index>(sizeof(T));
        return {static_cast<const T*>(rows.data) + first * stride, stride};
    }
    gather(rows, first, count, scratch.gathered);
    return {scratch.gathered, rows.features};
}

// ---- eta --------------------------------------------------------------------------------------------------------

// Eight float64 lanes, the same on every instruction set: feature j adds to lane j % 8, and the last d % 8 features to
// the last lanes. They are summed as ((0+4)+(2+6)) + ((1+5)+(3+7)).
struct Lanes8 {
    static constexpr int parts = 8 / kDoubleLanes;
    Doubles part[parts] = {};

    template <class T>
    GRADHESS_INLINE void add(const T* x, const double* w) {
        for (int k = 0; k < parts; ++k)
            part[k] += load_doubles(x + k * kDoubleLanes) * load_doubles(w + k * kDoubleLanes);
    }
};

// Sums the lanes of as many rows as a vector has doubles, all rows at once.
#if GRADHESS_VECTOR_BYTES == 64
GRADHESS_INLINE Doubles sum_lanes(const Lanes8 (&row)[8]) {
    Doubles fours[4];
    for (int r = 0; r < 4; ++r) {
        const Doubles a = row[r].part[0];
        const Doubles b = row[r + 4].part[0];
        fours[r] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
                   __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    }
    Doubles pairs[2];
    for (int r = 0; r < 2; ++r)
        pairs[r] = __builtin_shufflevector(fours[r], fours[r + 2], 0, 1, 8, 9, 4, 5, 12, 13) +
                   __builtin_shufflevector(fours[r], fours[r + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    return __builtin_shufflevector(pairs[0], pairs[1], 0, 8, 2, 10, 4, 12, 6, 14) +
           __builtin_shufflevector(pairs[0], pairs[1], 1, 9, 3, 11, 5, 13, 7, 15);
}
#elif GRADHESS_VECTOR_BYTES == 32
GRADHESS_INLINE Doubles sum_lanes(const Lanes8 (&row)[4]) {
    Doubles fours[4];
    for (int r = 0; r < 4; ++r) fours[r] = row[r].part[0] + row[r].part[1];
    Doubles pairs[2];
    for (int r = 0; r < 2; ++r)
        pairs[r] = __builtin_shufflevector(fours[r], fours[r + 2], 0, 1, 4, 5) +
                   __builtin_shufflevector(fours[r], fours[r + 2], 2, 3, 6, 7);
    return __builtin_shufflevector(pairs[0], pairs[1], 0, 4, 2, 6) +
           __builtin_shufflevector(pairs[0], pairs[1], 1, 5, 3, 7);
}
#else
GRADHESS_INLINE Doubles sum_lanes(const Lanes8 (&row)[2]) {
    Doubles pairs[2];
    for (int r = 0; r < 2; ++r) pairs[r] = (row[r].part[0] + row[r].part[2]) + (row[r].part[1] + row[r].part[3]);
    return __builtin_shufflevector(pairs[0], pairs[1], 0, 2) + __builtin_shufflevector(pairs[0], pairs[1], 1, 3);
}
#endif

// Rows of at least eight features. `tail` holds the last eight coefficients, zero where the whole eights cover them.
// EIGHTS is d / 8 where that is known at compile time, else 0.
template <int EIGHTS, class T>
GRADHESS_INLINE void predict_wide(const T* x, Index stride, Index count, Index d, const double* w, const double* tail,
                                  double start, double* out, Index out_stride) {
    constexpr int batch = kDoubleLanes;
    constexpr Index line_entries = 64 / sizeof(T);
    const Index whole = EIGHTS > 0 ? 8 * EIGHTS : d & ~Index{7};
    for (Index i = 0; i < count; i += batch) {
        const T* row[batch];  // beyond the end, the last row again
        for (int r = 0; r < batch; ++r) row[r] = x + (i + r < count ? i + r : count - 1) * stride;
        Lanes8 sums[batch];
        const char* ahead = reinterpret_cast<const char*>(row[0]) + tuning::kPrefetchBytes;
        const auto add_eight = [&](Index j) {
#pragma GCC unroll 8
            for (int r = 0; r < batch; ++r) {
                if (j % line_entries == 0) {  // line after line, whatever row it belongs to
                    __builtin_prefetch(ahead, 0, 2);
                    ahead += 64;
                }
                sums[r].add(row[r] + j, w + j);
            }
        };
        if constexpr (EIGHTS > 0) {
#pragma GCC unroll 4
            for (Index j = 0; j < 8 * EIGHTS; j += 8) add_eight(j);
        } else {
            for (Index j = 0; j < whole; j += 8) add_eight(j);
        }
        if (whole < d) {
#pragma GCC unroll 8
            for (int r = 0; r < batch; ++r) sums[r].add(row[r] + (d - 8), tail);
        }
        const Doubles etas = sum_lanes(sums) + broadcast(start);
        if (out_stride == 1 && count - i >= batch) {
            store(out + i, etas);
            continue;
        }
        alignas(64) double eta[batch];
        store(eta, etas);
        const Index valid = count - i < batch ? count - i : batch;
        for (Index r = 0; r < valid; ++r) out[(i + r) * out_stride] = eta[r];
    }
}

template <class T>
GRADHESS_INLINE void predict_narrow(const T* x, Index stride, Index count, Index d, const double* w, double start,
                                    double* out, Index out_stride) {
    for (Index i = 0; i < count; ++i) {
        double sum = 0.0;
        for (Index j = 0; j < d; ++j) sum += static_cast<double>(x[i * stride + j]) * w[j];
        out[i * out_stride] = sum + start;
    }
}

// eta[i * k + q] = x_i . coef_q + intercept_q
template <class T>
inline void predict(const T* x, Index stride, Index count, Index d, const double* coef, const double* intercept,
                    Index k, double* eta) {
    for (Index q = 0; q < k; ++q) {
        const double start = intercept ? intercept[q] : 0.0;
        const double* w = coef + q * d;
        if (d < 8) {
            predict_narrow(x, stride, count, d, w, start, eta + q, k);
            continue;
        }
        alignas(64) double tail[8] = {};
        for (Index j = 8 - d % 8; j < 8; ++j) tail[j] = w[d - 8 + j];
        switch (d / 8) {
            case 1: predict_wide<1>(x, stride, count, d, w, tail, start, eta + q, k); break;
            case 2: predict_wide<2>(x, stride, count, d, w, tail, start, eta + q, k); break;
            default: predict_wide<0>(x, stride, count, d, w, tail, start, eta + q, k); break;
        }
    }
}

// ---- packing ----------------------------------------------------------------------------------------------------

template <class T>
inline constexpr int kPanel = Simd<T>::lanes < 4 ? 4 : Simd<T>::lanes;

// The first `valid` entries of a row times `scale`, then `scale` itself where there is a unit column, then zeros.
template <class V, class T>
GRADHESS_INLINE V cut_row(V row, T scale, Index valid, bool unit) {
    constexpr int lanes = sizeof(V) / sizeof(T);
    V lane;
    for (int v = 0; v < lanes; ++v) lane[v] = static_cast<T>(v);
    const V end = broadcast(static_cast<T>(valid));
    const V after = lane == end ? broadcast(unit ? scale : T(0)) : V{};
    return lane < end ? row * broadcast(scale) : after;
}

inline constexpr Index kTreeRows = 8;

// Where the sums of the eight rows go to which `row` belongs.
template <class T>
GRADHESS_INLINE T* tree_at(const Slab<T>& slab, Index row) {
    return slab.trees + row / kTreeRows * slab.n_panels * kPanel<T>;
}

// What becomes of a row on its way into the slab: (x_i, 1 where `unit`) * factor[i] - shift; no factor and no shift where
// they are null.
template <class T>
struct Packing {
    const T* x = nullptr;
    Index stride = 0;
    Index readable = 0;  // entries that may be read from x on
    Index features = 0;
    bool unit = false;
    const T* factor = nullptr;
    const T* shift = nullptr;
    const double* weight = nullptr;  // of each row in the tree sums; null for one
};

// The whole panels of eight rows, and their weighted sums where slab.trees is given: a tree in T, fewer than eight rows
// filled up with zeros.
template <bool SCALED, bool SHIFTED, class T>
GRADHESS_INLINE void pack_eight(const Packing<T>& packing, Index i, Slab<T>& slab, Index row) {
    using V = Vector<T>;
    constexpr int panel = kPanel<T>;
    constexpr int lanes = Simd<T>::lanes;
    const Index whole = packing.features / panel;
    const T* first = packing.x + i * packing.stride;
    for (Index p = 0; p < whole; ++p) {
        T* out = slab.panels + p * slab.panel_stride + row * panel;
        for (int v = 0; v < panel; v += lanes) {
            const T* in = first + p * panel + v;
            const V by = SHIFTED ? load<V>(packing.shift + p * panel + v) : V{};
            V entry[kTreeRows];
#pragma GCC unroll 8
            for (int r = 0; r < kTreeRows; ++r) {
                entry[r] = load<V>(in + r * packing.stride);
                if (SCALED) entry[r] *= broadcast(packing.factor[i + r]);
                if (SHIFTED) entry[r] = rounded(entry[r]) - by;
                store(out + r * panel + v, entry[r]);
            }
            if (!slab.trees) continue;
            if (packing.weight) {
                for (int r = 0; r < kTreeRows; ++r) entry[r] = rounded(entry[r] * broadcast(static_cast<T>(packing.weight[i + r])));
            }
            store(tree_at(slab, row) + p * panel + v,
                  ((entry[0] + entry[1]) + (entry[2] + entry[3])) + ((entry[4] + entry[5]) + (entry[6] + entry[7])));
        }
    }
}

// Panels [begin, n_panels) of a few rows, entry by entry where a vector would pass the end of the rows.
template <bool SCALED, bool SHIFTED, class T>
inline void pack_rest(const Packing<T>& packing, Index i, Index count, Index begin, Slab<T>& slab, Index row) {
    using V = Vector<T>;
    constexpr int panel = kPanel<T>;
    constexpr int lanes = Simd<T>::lanes;
    const Index d = packing.features;
    for (Index p = begin; p < slab.n_panels; ++p) {
        T* out = slab.panels + p * slab.panel_stride + row * panel;
        for (Index r = 0; r < count; ++r) {
            const Index at = (i + r) * packing.stride + p * panel;
            const T scale = SCALED ? packing.factor[i + r] : T(1);
            if (packing.stride > 0 && at + panel <= packing.readable) {
                for (int v = 0; v < panel; v += lanes)
                    store(out + r * panel + v,
                          cut_row(load<V>(packing.x + at + v), scale, d - p * panel - v, packing.unit));
            } else {
                for (int v = 0; v < panel; ++v) {
                    const Index j = p * panel + v;
                    out[r * panel + v] = j < d ? packing.x[at + v] * scale : (j == d && packing.unit ? scale : T(0));
                }
            }
        }
        for (int v = 0; v < panel; v += lanes) {
            if (SHIFTED) {
                const V by = load<V>(packing.shift + p * panel + v);
                for (Index r = 0; r < count; ++r)
                    store(out + r * panel + v, load<V>(out + r * panel + v) - by);
            }
            if (!slab.trees) continue;
            V entry[kTreeRows] = {};
            for (Index r = 0; r < count; ++r) {
                entry[r] = load<V>(out + r * panel + v);
                if (packing.weight) entry[r] = rounded(entry[r] * broadcast(static_cast<T>(packing.weight[i + r])));
            }
            store(tree_at(slab, row) + p * panel + v,
                  ((entry[0] + entry[1]) + (entry[2] + entry[3])) + ((entry[4] + entry[5]) + (entry[6] + entry[7])));
        }
    }
}

// Packs `count` rows; the first becomes row `row0` of the slab, a multiple of kTreeRows where trees are wanted.
template <bool SCALED, bool SHIFTED, class T>
GRADHESS_INLINE void pack_as(const Packing<T>& packing, Index count, Slab<T>& slab, Index row0) {
    const Index whole = packing.features / kPanel<T>;
    Index i = 0;
    for (; i + kTreeRows <= count; i += kTreeRows) {
        pack_eight<SCALED, SHIFTED>(packing, i, slab, row0 + i);
        if (whole < slab.n_panels) pack_rest<SCALED, SHIFTED>(packing, i, kTreeRows, whole, slab, row0 + i);
    }
    if (i < count) pack_rest<SCALED, SHIFTED>(packing, i, count - i, 0, slab, row0 + i);
}

template <class T>
inline void pack_rows(const Packing<T>& packing, Index count, Slab<T>& slab, Index row0) {
    if (packing.factor) {
        packing.shift ? pack_as<true, true>(packing, count, slab, row0)
                      : pack_as<true, false>(packing, count, slab, row0);
    } else {
        packing.shift ? pack_as<false, true>(packing, count, slab, row0)
                      : pack_as<false, false>(packing, count, slab, row0);
    }
}

// delta_i (x) x~_i, row-major over (output, feature), into `out`.
template <class T>
inline void outer_row(const T* x, Index d, bool unit, const T* factor, Index k, T* out) {
    for (Index q = 0; q < k; ++q) {
        const T scale = factor[q];
        for (Index j = 0; j < d; ++j) *out++ = x[j] * scale;
        if (unit) *out++ = scale;
    }
}

// ---- the stage --------------------------------------------------------------------------------------------------

// The labels of a group as float64: in place where they are that already.
template <class T>
inline const double* labels(const Rows& rows, Index first, Index count, RowScratch<T>& scratch) {
    if (rows.y_dtype == DType::f64) return static_cast<const double*>(rows.y) + first;
    const float* y = static_cast<const float*>(rows.y) + first;
    for (Index i = 0; i < count; ++i) scratch.target[i] = static_cast<double>(y[i]);
    return scratch.target;
}

// Loss terms of a group: scratch.value, scratch.slope, and scratch.factor for gradient rows.
template <class T>
inline void loss_terms(const Rows& rows, const RowView<T>& x, Index first, Index count, RowScratch<T>& scratch) {
    predict(x.data, x.stride, count, rows.features, rows.coef, rows.intercept, rows.outputs, scratch.eta);
    const double* y = labels(rows, first, count, scratch);
    evaluate_loss(rows, first, count, scratch.eta, y, scratch.value, scratch.slope);
    const Index n = count * rows.row_outputs();
    for (Index i = 0; i < n; ++i) scratch.factor[i] = static_cast<T>(scratch.slope[i]);
}

// Packs rows [begin, end) of the slab whose first row is `first`; their weights and losses go into the slab, and sums of
// eight rows into slab.trees where it is given. `shift` (padded) is subtracted where it is given.
template <class T>
void prepare(const Rows& rows, const double* weights, Index first, Index begin, Index end, const double* shift,
             Slab<T>& slab, RowScratch<T>& scratch) {
    const Index k = rows.row_outputs();
    constexpr int panel = kPanel<T>;
    const Index padded = slab.n_panels * panel;
    for (Index c = 0; shift && c < padded; ++c) scratch.shift[c] = static_cast<T>(shift[c]);
    if (k > 1)  // outer rows are padded like the panels
        for (Index r = 0; r < kTreeRows; ++r)
            for (Index c = rows.parameters(); c < padded; ++c) scratch.outer[r * padded + c] = 0;
    for (Index i = begin; i < end; i += scratch.group) {
        const Index count = end - i < scratch.group ? end - i : scratch.group;
        const RowView<T> x = view_rows(rows, first + i, count, scratch);
        if (rows.kind != RowKind::dense) {
            loss_terms(rows, x, first + i, count, scratch);
            for (Index r = 0; r < count; ++r) slab.value[i + r] = scratch.value[r];
        }
        if (slab.weighted) {
            for (Index r = 0; r < count; ++r) {
                double weight = weights ? weights[first + i + r] : 1.0;
                if (rows.kind == RowKind::hessian) weight *= scratch.slope[r];
                slab.weight[i + r] = weight;
            }
        }
        const bool outer = k > 1;
        Packing<T> packing;
        packing.x = outer ? scratch.outer : x.data;
        packing.stride = outer ? padded : x.stride;
        packing.features = outer ? padded : rows.features;
        packing.unit = !outer && rows.unit_column;
        packing.factor = !outer && rows.kind == RowKind::gradient ? scratch.factor : nullptr;
        packing.shift = shift ? scratch.shift : nullptr;
        const Index step = outer ? kTreeRows : count;
        for (Index r = 0; r < count; r += step) {
            const Index n = count - r < step ? count - r : step;
            for (Index s = 0; outer && s < n; ++s)
                outer_row(x.data + (r + s) * x.stride, rows.features, rows.unit_column, scratch.factor + (r + s) * k, k,
                          scratch.outer + s * padded);
            packing.readable = (n - 1) * packing.stride + packing.features;
            packing.weight = slab.weighted ? slab.weight + i + r : nullptr;
            pack_rows(packing, n, slab, i + r);
        }
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
