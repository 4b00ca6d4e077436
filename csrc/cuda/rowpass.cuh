// The row pass: from rows of X to rows of gradients, in one read of X.
//
// Formula:  eta_i = coef . x_i + intercept;  r_i = c_i l'(eta_i, y_i), rounded to the compute type T;
//           z_ij = r_i x~_ij - shift_j (x~_ij - shift_j for dense and Hessian rows);  w_i = weights_i [c_i l''_i];
//           sums_j = sum_i w_i z_ij, squares_j = sum_i w_i z_ij^2, totals = sums of w_i, w_i^2, c_i l_i.
// Layout:   a thread block takes a segment of kSegmentRows rows, in tiles of tile_rows(d) rows that it keeps in shared
//           memory (64 KiB at most, so that three blocks overlap on a multiprocessor). A warp computes eta of one or
//           two rows in float64; a thread per row evaluates the loss; then each thread owns pairs of neighbouring
//           columns and walks down the tile: it scales, shifts, writes z and adds to its column sums. Rows wider than
//           8 KiB are not staged: their second read comes from the L2 cache.
// Order:    column sums: the rows of a segment by row groups (256 / column threads), each in order, then the groups in
//           order; segments in eight runs, and these in order, by a second kernel. It depends on n and p alone, not on
//           the type of X, its width or the tiles: no atomics, any number of SMs.
// Cost:     one read of X, one write of z, and 16 p / tile_rows bytes per row of partial sums in the L2 cache.
//           Per entry 2 conversions, 2 float64 and 2 T operations. Not yet run on hardware.
#pragma once

#include "block.hpp"
#include "device/async_copy.cuh"
#include "device/atomic.cuh"
#include "device/number_types.cuh"
#include "device/warp.cuh"
#include "losses.cuh"
#include "predictor.cuh"

namespace gradhess::cuda::rowpass {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / device::kWarp;
constexpr int kBlocks = 2;  // that a multiprocessor holds, at least
constexpr Index kSegmentRows = 128;
constexpr Index kTileBytes = 64 << 10;
constexpr Index kMostTileRows = 128;
constexpr Index kLeastTileRows = 8;
constexpr Index kMostStagedBytes = kTileBytes / kLeastTileRows;  // of a row
constexpr int kAdders = kWarps;
constexpr Index kNoBadRow = 0x7fffffffffffffff;

GRADHESS_HOST_DEVICE inline Index staged_pitch(Index features, Index item_bytes) {
    const Index per_piece = 16 / item_bytes;
    return (features + per_piece - 1) / per_piece * per_piece;
}

// Rows of a tile: a power of two that divides kSegmentRows; of unstaged rows, a whole segment.
GRADHESS_HOST_DEVICE inline Index tile_rows(Index features, Index item_bytes) {
    const Index row_bytes = staged_pitch(features, item_bytes) * item_bytes;
    if (row_bytes > kMostStagedBytes) return kSegmentRows;
    Index rows = kMostTileRows;
    while (rows * row_bytes > kTileBytes) rows /= 2;
    return rows;
}

GRADHESS_HOST_DEVICE inline bool staged(Index features, Index item_bytes) {
    return staged_pitch(features, item_bytes) * item_bytes <= kMostStagedBytes;
}

GRADHESS_HOST_DEVICE inline Index segments(Index samples) { return (samples + kSegmentRows - 1) / kSegmentRows; }

// Threads beside each other on column pairs: a power of two.
GRADHESS_HOST_DEVICE inline int column_threads(Index pitch) {
    int threads = 1;
    while (threads < kThreads && 2 * threads < pitch) threads *= 2;
    return threads;
}

struct Job {
    Block block;
    Panel panel;
    Index parameters;
    Index width;
    Index tile_rows;
    Index staged_pitch;
    int column_threads;
    // (segments, parameters) twice, and (segments, 3): partial sums.
    double* partial_sums;
    double* partial_squares;
    double* partial_totals;
};

GRADHESS_HOST_DEVICE inline Index shared_bytes(const Job& job, Index item_bytes, bool staged) {
    const Index tile = staged ? job.tile_rows * job.staged_pitch * item_bytes : 0;
    const Index per_row = 8 * (1 + (job.block.kind == RowKind::gradient ? job.block.outputs : 0));
    return tile + job.tile_rows * per_row + 2 * 8 * kThreads;
}

GRADHESS_HOST_DEVICE inline Index workspace_doubles(Index samples, Index parameters) {
    return segments(samples) * (2 * parameters + 3);
}

template <class T>
struct alignas(2 * sizeof(T)) Pair {  // written by one instruction
    T first;
    T second;
};

// Rows first .. first + count of X into the tile, row by row: asynchronously where they are aligned. The caller commits
// and waits.
template <class Source>
GRADHESS_DEVICE void load_tile(const Job& job, Index first, Index count, Source* tile) {
    const Block& block = job.block;
    const auto* data = static_cast<const Source*>(block.data);
    const Index d = block.features;
    constexpr int per_piece = 16 / static_cast<int>(sizeof(Source));
    const bool aligned = block.column_stride == 1 && reinterpret_cast<std::uintptr_t>(data) % 16 == 0 &&
                         block.row_stride % per_piece == 0;
    if (aligned) {
        const unsigned pieces = (static_cast<unsigned>(d) + per_piece - 1) / per_piece;
        const unsigned all = static_cast<unsigned>(count) * pieces;
        for (auto piece = static_cast<unsigned>(device::thread_number()); piece < all; piece += kThreads) {
            const unsigned row = piece / pieces;  // of 32 bits: a division of 64 bits is a function call
            const Index column = Index{piece % pieces} * per_piece;
            const Index left = d - column;
            const int valid = left < per_piece ? static_cast<int>(left) : per_piece;
            device::copy_async<16>(tile + row * job.staged_pitch + column,
                                   data + (first + row) * block.row_stride + column,
                                   valid * static_cast<int>(sizeof(Source)));
        }
        return;
    }
    // Along whichever direction is contiguous.
    const bool by_columns = block.column_stride != 1 && (block.row_stride == 1 || block.row_stride == -1);
    const auto rows = static_cast<unsigned>(count);
    const auto columns = static_cast<unsigned>(d);
    for (auto i = static_cast<unsigned>(device::thread_number()); i < rows * columns; i += kThreads) {
        const Index row = by_columns ? i % rows : i / columns;
        const Index column = by_columns ? i / rows : i % columns;
        tile[row * job.staged_pitch + column] = data[(first + row) * block.row_stride + column * block.column_stride];
    }
}

// A row of the tile, or of X itself where the tile is not staged.
template <class Source, bool STAGED>
struct RowReader {
    const Source* data;
    Index row_stride;
    Index column_stride;

    GRADHESS_DEVICE Source at(Index row, Index column) const {
        return STAGED ? data[row * row_stride + column] : data[row * row_stride + column * column_stride];
    }
};

// A warp takes two rows at a time.
template <class Reader>
GRADHESS_DEVICE void predict(const Block& block, const Reader& reader, Index count, double* eta) {
    for (Index row = device::warp_number(); row < count; row += 2 * kWarps) {
        const bool two = row + kWarps < count;
        const Index rows[2] = {row, two ? row + kWarps : row};
        double found[2];
        predict_rows<device::kWarp>(
            block, true, [&](int which, Index j) { return device::to_double(reader.at(rows[which], j)); }, found);
        if (device::lane_number() == 0) eta[row] = found[0];
        if (device::lane_number() == 0 && two) eta[row + kWarps] = found[1];
    }
}

// What a loss makes of row `row`: c l', c l'', c l. Not `valid`: a label outside of the domain, or a negative weight,
// which count as a row that is not finite.
struct RowTerms {
    double first;
    double second;
    double value;
    bool valid;
};

template <class Losses>
GRADHESS_DEVICE RowTerms row_terms(const Block& block, Index row, double eta) {
    const double y = block.y_is_float ? device::to_double(static_cast<const float*>(block.y)[row])
                                      : static_cast<const double*>(block.y)[row];
    const LossTerms terms = Losses::evaluate(block, eta, y);
    const double c = block.loss_weight ? block.loss_weight[row] : 1.0;
    const bool valid = !not_finite(y) && Losses::has_label(block, y) && !(c < 0.0);
    return {c * terms.first, c * terms.second, c * terms.value, valid};
}

struct FinishedRow {
    double weight;  // 0 where the gate is closed, as the value
    double value;
};

// Slopes and weights of row `row` of X, which is row `i` of the tile.
template <class T, class Losses>
GRADHESS_DEVICE FinishedRow finish_row(const Job& job, Index row, Index i, double eta, bool closed, T* slope,
                                       Index& bad) {
    const Block& block = job.block;
    const bool gradient = block.kind == RowKind::gradient;
    const Index k = gradient ? block.outputs : 1;
    double w = block.weights ? block.weights[row] : 1.0;
    double value = 0.0;
    bool valid = true;
    if (block.values) value = block.values[row];
    if (block.slopes) {
        if (gradient) {
            for (Index q = 0; q < k; ++q) slope[i * k + q] = device::narrowed<T>(block.slopes[row * k + q]);
        } else {
            w *= block.slopes[row];
        }
    } else if (block.predicted()) {
        const RowTerms terms = row_terms<Losses>(block, row, eta);
        valid = terms.valid;
        value = terms.value;
        if (gradient) {
            slope[i] = device::narrowed<T>(terms.first);
        } else {
            w *= terms.second;
        }
    }
    if (!valid || not_finite(w) || not_finite(value)) bad = row < bad ? row : bad;
    if (closed) w = 0.0;
    if (job.panel.row_weight) job.panel.row_weight[row] = w;
    return {w, closed ? 0.0 : value};
}

GRADHESS_DEVICE float scaled_by_power(float value, std::int32_t exponent) { return ldexpf(value, exponent); }

template <bool HALF>
GRADHESS_DEVICE std::uint16_t narrow(float value, float& rest) {
    if constexpr (HALF) {
        const device::Half bits = device::round_to<device::Half>(value);
        rest = device::difference(value, device::to_float(bits));
        return bits.bits;
    } else {
        const device::BFloat16 bits = device::round_to<device::BFloat16>(value);
        rest = device::difference(value, device::to_float(bits));
        return bits.bits;
    }
}

template <bool HALF, class T>
GRADHESS_DEVICE void write_planes(const Panel& panel, Index row, Index column, Pair<T> z) {
    float first = static_cast<float>(z.first);
    float second = static_cast<float>(z.second);
    if (panel.exponents) {
        first = scaled_by_power(first, panel.exponents[column]);
        second = scaled_by_power(second, panel.exponents[column + 1]);
    }
    if (HALF && panel.overflow && (fabsf(first) > 65504.0f || fabsf(second) > 65504.0f)) *panel.overflow = 1;
    for (int plane = 0; plane < panel.plane_count; ++plane) {
        const std::uint32_t low = narrow<HALF>(first, first);
        const std::uint32_t high = narrow<HALF>(second, second);
        std::uint16_t* at = panel.planes + plane * panel.plane_stride + row * panel.pitch + column;
        *reinterpret_cast<std::uint32_t*>(at) = low | high << 16;
    }
}

template <class T>
GRADHESS_DEVICE void write_pair(const Panel& panel, Index row, Index column, Pair<T> z) {
    if (panel.rows) {
        T* at = static_cast<T*>(panel.rows) + row * panel.pitch + column;
        *reinterpret_cast<Pair<T>*>(at) = z;
    }
    if (panel.plane_count == 0) return;
    if (panel.half) {
        write_planes<true>(panel, row, column, z);
    } else {
        write_planes<false>(panel, row, column, z);
    }
}

// Where entry `column` of a row comes from.
struct Entry {
    Index feature;  // features: the unit column; -1: beyond the parameters
    Index output;
};

GRADHESS_DEVICE Entry entry_of(const Job& job, Index column) {
    if (column >= job.parameters) return {-1, 0};
    const Index output = static_cast<unsigned>(column) / static_cast<unsigned>(job.width);
    return {column - output * job.width, output};
}

template <class T, class Reader>
GRADHESS_DEVICE T row_entry(const Job& job, const Reader& reader, Entry entry, Index i, const T* slope) {
    if (entry.feature < 0) return T(0);
    const Block& block = job.block;
    T x = T(1);
    if (entry.feature < block.features) x = device::convert<T>(reader.at(i, entry.feature));
    if (block.kind != RowKind::gradient) return x;
    // Rounded here, and not contracted with the subtraction of the shift: a row is rounded once, wherever it is
    // computed.
    return device::rounded_product(slope[i * block.outputs + entry.output], x);
}

// Sums of a pair of columns, of which the second, or both, may lie beyond the parameters.
GRADHESS_DEVICE Pair<double> read_pair(const double* sums, Index column, Index columns) {
    return {column < columns ? sums[column] : 0.0, column + 1 < columns ? sums[column + 1] : 0.0};
}

GRADHESS_DEVICE void write_pair_of_sums(double* sums, Index column, Index columns, Pair<double> pair) {
    if (column < columns) sums[column] = pair.first;
    if (column + 1 < columns) sums[column + 1] = pair.second;
}

// The sums of row groups, in order, through shared memory. All threads take part.
GRADHESS_DEVICE void add_groups(const Job& job, Pair<double> sum, double* partial, double* scratch) {
    const int thread = device::thread_number();
    __syncthreads();  // nobody still reads the scratch
    scratch[2 * thread] = sum.first;
    scratch[2 * thread + 1] = sum.second;
    __syncthreads();
    if (thread >= job.column_threads) return;
    Pair<double> total{0.0, 0.0};
    for (int at = thread; at < kThreads; at += job.column_threads) {
        total.first += scratch[2 * at];
        total.second += scratch[2 * at + 1];
    }
    write_pair_of_sums(partial, 2 * Index{thread}, job.parameters, total);
}

// The kernel, over where slopes come from (`Losses`, as BuiltInLosses).
template <class Source, class T, bool STAGED, class Losses>
GRADHESS_DEVICE void pass_rows(const Job& job) {
    const Block& block = job.block;
    const Panel& panel = job.panel;
    const int thread = device::thread_number();
    const Index segment = blockIdx.x;
    const Index segment_begin = segment * kSegmentRows;
    const Index segment_end =
        segment_begin + kSegmentRows < block.samples ? segment_begin + kSegmentRows : block.samples;
    const bool closed = block.gate && block.gate[0] >= 0;
    const auto* shift = static_cast<const T*>(block.shift);

    unsigned char* memory = device::dynamic_shared();
    auto* tile = reinterpret_cast<Source*>(memory);
    if (STAGED) memory += job.tile_rows * job.staged_pitch * static_cast<Index>(sizeof(Source));
    auto* weight = reinterpret_cast<double*>(memory);
    double* scratch = weight + job.tile_rows;
    auto* slope = reinterpret_cast<T*>(scratch + 2 * kThreads);
    // Weights and losses of all rows of the segment, until the scratch is needed for the sums of columns.
    double* segment_weights = scratch;
    double* segment_values = scratch + kSegmentRows;

    double* partial_sums = job.partial_sums + segment * job.parameters;
    double* partial_squares = job.partial_squares + segment * job.parameters;
    const int row_group = thread / job.column_threads;
    const int row_groups = kThreads / job.column_threads;
    const Index columns_end = panel.pitch;

    Index bad = kNoBadRow;
    // With several row groups the threads hold all columns at once, and sums stay in registers from tile to tile; else
    // a thread has columns of its own, whose sums wait in global memory.
    Pair<double> sum{0.0, 0.0};
    Pair<double> squares{0.0, 0.0};
    for (Index first = segment_begin; first < segment_end; first += job.tile_rows) {
        const bool first_tile = first == segment_begin;
        const Index count = segment_end - first < job.tile_rows ? segment_end - first : job.tile_rows;
        RowReader<Source, STAGED> reader;
        if constexpr (STAGED) {
            load_tile(job, first, count, tile);
            device::commit_copies();
            device::wait_copies<0>();
            __syncthreads();
            reader = {tile, job.staged_pitch, 1};
        } else {
            reader = {static_cast<const Source*>(block.data) + first * block.row_stride, block.row_stride,
                      block.column_stride};
        }
        if (block.predicted()) {
            predict(block, reader, count, weight);
            __syncthreads();
        }
        if (thread < count) {
            const FinishedRow row =
                finish_row<T, Losses>(job, first + thread, thread, weight[thread], closed, slope, bad);
            weight[thread] = row.weight;
            segment_weights[first - segment_begin + thread] = row.weight;
            segment_values[first - segment_begin + thread] = row.value;
        }
        __syncthreads();

        for (Index base = 0; base < columns_end; base += 2 * job.column_threads) {
            const Index column = base + 2 * (thread % job.column_threads);
            if (column >= columns_end) continue;
            const Entry left = entry_of(job, column);
            const Entry right = entry_of(job, column + 1);
            const T left_shift = shift && left.feature >= 0 ? shift[column] : T(0);
            const T right_shift = shift && right.feature >= 0 ? shift[column + 1] : T(0);
            if (row_groups == 1) {
                sum = {0.0, 0.0};
                squares = {0.0, 0.0};
                if (!first_tile) {
                    sum = read_pair(partial_sums, column, job.parameters);
                    if (panel.squares) squares = read_pair(partial_squares, column, job.parameters);
                }
            }
            for (Index i = row_group; i < count; i += row_groups) {
                const T g_left = row_entry<T>(job, reader, left, i, slope);
                const T g_right = row_entry<T>(job, reader, right, i, slope);
                if (not_finite(g_left) || not_finite(g_right)) bad = first + i < bad ? first + i : bad;
                Pair<T> z{device::difference(g_left, left_shift), device::difference(g_right, right_shift)};
                if (closed) z = {T(0), T(0)};
                write_pair(panel, first + i, column, z);
                const double w = weight[i];
                const Pair<double> wide{device::to_double(z.first), device::to_double(z.second)};
                sum.first = fma(w, wide.first, sum.first);
                sum.second = fma(w, wide.second, sum.second);
                squares.first = fma(w * wide.first, wide.first, squares.first);
                squares.second = fma(w * wide.second, wide.second, squares.second);
            }
            if (row_groups == 1) {
                write_pair_of_sums(partial_sums, column, job.parameters, sum);
                if (panel.squares) write_pair_of_sums(partial_squares, column, job.parameters, squares);
            }
        }
        __syncthreads();  // nobody still reads what the next tile overwrites
    }

    if (thread < 3) {
        const Index rows = segment_end - segment_begin;
        double total = 0.0;
        for (Index i = 0; i < rows; ++i) {
            const double w = segment_weights[i];
            total = fma(thread == 1 ? w : 1.0, thread == 2 ? segment_values[i] : w, total);
        }
        job.partial_totals[3 * segment + thread] = total;
    }
    if (row_groups > 1) {
        add_groups(job, sum, partial_sums, scratch);
        if (panel.squares) add_groups(job, squares, partial_squares, scratch);
    }
    if (bad != kNoBadRow && !closed) device::lower_to(panel.bad, block.first_row + bad);
}

template <class Source, class T, bool STAGED>
__global__ void __launch_bounds__(kThreads, kBlocks) rowpass_kernel(const __grid_constant__ Job job) {
    pass_rows<Source, T, STAGED, BuiltInLosses>(job);
}

// Adds the segments in kAdders runs of neighbouring ones, and then the runs in order. 32 columns per thread block, and
// a warp per run; the last three columns are the totals. (A template, so that files which include this do not all
// define it.)
template <class Sum>
__global__ void __launch_bounds__(kThreads) add_segments_kernel(const __grid_constant__ Job job, Index count) {
    auto* runs = reinterpret_cast<Sum*>(device::dynamic_shared());
    const int thread = device::thread_number();
    const int run = thread / device::kWarp;
    const Index column = static_cast<Index>(blockIdx.x) * device::kWarp + thread % device::kWarp;
    const Index p = job.parameters;
    const Index length = (count + kAdders - 1) / kAdders;
    const Index end = (run + 1) * length < count ? (run + 1) * length : count;
    const auto fold = [&](const double* partial, Index stride, bool exists, double* result) {
        Sum sum = 0.0;
        if (exists)
            for (Index segment = run * length; segment < end; ++segment) sum += partial[segment * stride];
        __syncthreads();  // nobody still reads what is overwritten
        runs[thread] = sum;
        __syncthreads();
        if (run != 0 || !exists) return;
        for (int other = 1; other < kAdders; ++other) sum += runs[other * device::kWarp + thread];
        *result = sum;
    };
    const bool total = column >= p;
    fold(total ? job.partial_totals + (column - p) : job.partial_sums + column, total ? 3 : p, column < p + 3,
         total ? job.panel.totals + (column - p) : job.panel.sums + column);
    if (job.panel.squares) fold(job.partial_squares + column, p, !total, job.panel.squares + column);
}

}  // namespace gradhess::cuda::rowpass
