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
// Order:    column sums: rows of a tile by row groups (256 / column threads), groups in order, tiles in order, then
//           segments in eight runs, and these in order, by a second kernel. It depends on n and p alone: no atomics,
//           any number of SMs.
// Cost:     one read of X, one write of z, and 16 p / tile_rows bytes per row of partial sums in the L2 cache.
//           Per entry 2 conversions, 2 float64 and 2 T operations. Not yet run on hardware.
#pragma once

#include "block.hpp"
#include "device/async_copy.cuh"
#include "device/atomic.cuh"
#include "device/number_types.cuh"
#include "device/warp.cuh"
#include "losses.cuh"

namespace gradhess::cuda::rowpass {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / device::kWarp;
constexpr Index kSegmentRows = 128;
constexpr Index kTileBytes = 64 << 10;
constexpr Index kMostTileRows = 128;
constexpr Index kLeastTileRows = 8;
constexpr Index kMostStagedBytes = kTileBytes / kLeastTileRows;  // of a row
constexpr int kAdders = kWarps;
constexpr Index kNoBadRow = 0x7fffffffffffffff;

inline Index staged_pitch(Index features, Index item_bytes) {
    const Index per_piece = 16 / item_bytes;
    return (features + per_piece - 1) / per_piece * per_piece;
}

// Rows of a tile: a power of two that divides kSegmentRows; of unstaged rows, a whole segment.
inline Index tile_rows(Index features, Index item_bytes) {
    const Index row_bytes = staged_pitch(features, item_bytes) * item_bytes;
    if (row_bytes > kMostStagedBytes) return kSegmentRows;
    Index rows = kMostTileRows;
    while (rows * row_bytes > kTileBytes) rows /= 2;
    return rows;
}

inline bool staged(Index features, Index item_bytes) {
    return staged_pitch(features, item_bytes) * item_bytes <= kMostStagedBytes;
}

inline Index segments(Index samples) { return (samples + kSegmentRows - 1) / kSegmentRows; }

// Threads beside each other on column pairs: a power of two.
inline int column_threads(Index pitch) {
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

inline Index shared_bytes(const Job& job, Index item_bytes, bool staged) {
    const Index tile = staged ? job.tile_rows * job.staged_pitch * item_bytes : 0;
    const Index per_row = 8 * (1 + (job.block.kind == RowKind::gradient ? job.block.outputs : 0));
    return tile + job.tile_rows * per_row + 2 * 8 * kThreads;
}

inline Index workspace_doubles(Index samples, Index parameters) { return segments(samples) * (2 * parameters + 3); }

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

template <class Reader>
GRADHESS_DEVICE void predict(const Block& block, const Reader& reader, Index count, double* eta) {
    const int lane = device::lane_number();
    const double start = block.intercept ? block.intercept[0] : 0.0;
    for (Index row = device::warp_number(); row < count; row += 2 * kWarps) {
        const bool two = row + kWarps < count;  // two rows share the coefficients that are read
        const Index second = two ? row + kWarps : row;
        double sum = 0.0;
        double other = 0.0;
        for (Index j = lane; j < block.features; j += device::kWarp) {
            const double w = block.coef[j];
            sum += device::to_double(reader.at(row, j)) * w;
            if (two) other += device::to_double(reader.at(second, j)) * w;
        }
        sum = device::sum_lanes<device::kWarp>(sum);
        other = device::sum_lanes<device::kWarp>(other);
        if (lane == 0) eta[row] = sum + start;
        if (lane == 0 && two) eta[second] = other + start;
    }
}

struct RowTotals {
    double weight = 0.0;
    double weight_squares = 0.0;
    double loss = 0.0;
};

// Slopes and weights of row `row` of X, which is row `i` of the tile. weight[i] comes in as eta.
template <class T>
GRADHESS_DEVICE void finish_row(const Job& job, Index row, Index i, bool closed, T* slope, double* weight,
                                RowTotals& totals, Index& bad) {
    const Block& block = job.block;
    const bool gradient = block.kind == RowKind::gradient;
    const Index k = gradient ? block.outputs : 1;
    double w = block.weights ? block.weights[row] : 1.0;
    double value = 0.0;
    if (block.slopes) {
        if (block.values) value = block.values[row];
        if (gradient) {
            for (Index q = 0; q < k; ++q) slope[i * k + q] = static_cast<T>(block.slopes[row * k + q]);
        } else {
            w *= block.slopes[row];
        }
    } else if (block.loss != Loss::none) {
        const double y = block.y_is_float ? static_cast<double>(static_cast<const float*>(block.y)[row])
                                          : static_cast<const double*>(block.y)[row];
        const LossTerms terms = evaluate_loss(block.loss, block.parameter, weight[i], y);
        const double c = block.loss_weight ? block.loss_weight[row] : 1.0;
        value = c * terms.value;
        if (gradient) {
            slope[i] = static_cast<T>(c * terms.first);
        } else {
            w *= c * terms.second;
        }
        // A row of a label outside of the domain, or of a negative weight, counts as one that is not finite.
        if (not_finite(y) || !in_domain(block.loss, y) || c < 0.0) bad = row < bad ? row : bad;
    }
    if (not_finite(w) || not_finite(value)) bad = row < bad ? row : bad;
    if (closed) w = 0.0;
    weight[i] = w;
    if (job.panel.row_weight) job.panel.row_weight[row] = w;
    if (closed) return;
    totals.weight += w;
    totals.weight_squares += w * w;
    totals.loss += value;
}

GRADHESS_DEVICE float scaled_by_power(float value, std::int32_t exponent) { return ldexpf(value, exponent); }

template <bool HALF>
GRADHESS_DEVICE std::uint16_t narrow(float value, float& rest) {
    if constexpr (HALF) {
        const device::Half bits = device::round_to<device::Half>(value);
        rest = value - device::to_float(bits);
        return bits.bits;
    } else {
        const device::BFloat16 bits = device::round_to<device::BFloat16>(value);
        rest = value - device::to_float(bits);
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

// Adds the column sums of this tile to the segment's: over row groups in order, through shared memory.
GRADHESS_DEVICE void add_columns(const Job& job, Index column, Pair<double> sum, double* partial, bool first_tile,
                                 double* scratch) {
    const int thread = device::thread_number();
    const int groups = kThreads / job.column_threads;
    const int column_thread = thread % job.column_threads;
    scratch[2 * thread] = sum.first;
    scratch[2 * thread + 1] = sum.second;
    __syncthreads();
    if (thread < job.column_threads) {
        for (int half = 0; half < 2; ++half) {
            if (column + half >= job.parameters) continue;
            double total = first_tile ? 0.0 : partial[column + half];
            for (int group = 0; group < groups; ++group)
                total += scratch[2 * (group * job.column_threads + column_thread) + half];
            partial[column + half] = total;
        }
    }
    __syncthreads();  // before the scratch is used again
}

template <class Source, class T, bool STAGED>
__global__ void __launch_bounds__(kThreads, 2) rowpass_kernel(const __grid_constant__ Job job) {
    const Block& block = job.block;
    const Panel& panel = job.panel;
    const int thread = device::thread_number();
    const Index segment = blockIdx.x;
    const Index segment_end =
        (segment + 1) * kSegmentRows < block.samples ? (segment + 1) * kSegmentRows : block.samples;
    const bool closed = block.gate && block.gate[0] >= 0;
    const auto* shift = static_cast<const T*>(block.shift);

    unsigned char* memory = device::dynamic_shared();
    auto* tile = reinterpret_cast<Source*>(memory);
    if (STAGED) memory += job.tile_rows * job.staged_pitch * static_cast<Index>(sizeof(Source));
    auto* weight = reinterpret_cast<double*>(memory);
    double* scratch = weight + job.tile_rows;
    auto* slope = reinterpret_cast<T*>(scratch + 2 * kThreads);

    double* partial_sums = job.partial_sums + segment * job.parameters;
    double* partial_squares = job.partial_squares + segment * job.parameters;
    const int row_group = thread / job.column_threads;
    const int row_groups = kThreads / job.column_threads;
    const Index columns_end = panel.pitch;

    RowTotals totals;
    Index bad = kNoBadRow;
    for (Index first = segment * kSegmentRows; first < segment_end; first += job.tile_rows) {
        const bool first_tile = first == segment * kSegmentRows;
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
        if (block.loss != Loss::none && !block.slopes) {
            predict(block, reader, count, weight);
            __syncthreads();
        }
        if (thread < count) finish_row<T>(job, first + thread, thread, closed, slope, weight, totals, bad);
        __syncthreads();

        for (Index base = 0; base < columns_end; base += 2 * job.column_threads) {
            const Index column = base + 2 * (thread % job.column_threads);
            const Entry left = entry_of(job, column);
            const Entry right = entry_of(job, column + 1);
            const T left_shift = shift && left.feature >= 0 ? shift[column] : T(0);
            const T right_shift = shift && right.feature >= 0 ? shift[column + 1] : T(0);
            Pair<double> sum{0.0, 0.0};
            Pair<double> squares{0.0, 0.0};
            if (column < columns_end) {
                for (Index i = row_group; i < count; i += row_groups) {
                    const T g_left = row_entry<T>(job, reader, left, i, slope);
                    const T g_right = row_entry<T>(job, reader, right, i, slope);
                    if (not_finite(g_left) || not_finite(g_right)) bad = first + i < bad ? first + i : bad;
                    Pair<T> z{g_left - left_shift, g_right - right_shift};
                    if (closed) z = {T(0), T(0)};
                    write_pair(panel, first + i, column, z);
                    const double w = weight[i];
                    const Pair<double> wide{device::to_double(z.first), device::to_double(z.second)};
                    const Pair<double> weighted{closed ? 0.0 : w * wide.first, closed ? 0.0 : w * wide.second};
                    sum.first += weighted.first;
                    sum.second += weighted.second;
                    squares.first += weighted.first * wide.first;
                    squares.second += weighted.second * wide.second;
                }
            }
            add_columns(job, column, sum, partial_sums, first_tile, scratch);
            if (panel.squares) add_columns(job, column, squares, partial_squares, first_tile, scratch);
        }
        // add_columns ended with a barrier: nobody still reads what the next tile overwrites.
    }

    // Totals of the segment: rows of equal number in their tiles are summed by one thread, threads in order.
    for (int quantity = 0; quantity < 3; ++quantity) {
        scratch[thread] = quantity == 0 ? totals.weight : quantity == 1 ? totals.weight_squares : totals.loss;
        __syncthreads();
        if (thread == 0) {
            double total = 0.0;
            for (Index i = 0; i < job.tile_rows; ++i) total += scratch[i];
            job.partial_totals[3 * segment + quantity] = total;
        }
        __syncthreads();
    }
    if (bad != kNoBadRow && !closed) device::lower_to(panel.bad, block.first_row + bad);
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
