// Narrow rows, p <= 128: the row pass and the rank update in one read of X.
//
// Formula:  that of rowpass.cuh for rows with one output, and C += sum_i w_i z_i z_i^T, lower triangle.
// Layout:   a thread block takes a segment of rows in tiles of at most 32 KiB, kStages deep by cp.async. The lower
//           triangle of C, in squares of 8 x 8, lies in the registers of a warp (p <= 64: 36 squares), or of four
//           (p <= 128: 34 squares each, tile rows r, 7 - r, 8 + r, 15 - r). Warps (or groups of four) take four rows
//           of a tile each in turn: a lane reads entry (l % 4, 8 t + l / 4) of them from shared memory, scales, rounds
//           and shifts it, and has with it its part of both operands of mma.m8n8k4, since z is multiplied with itself.
//           So every entry is read from shared memory once per warp, and z is never stored.
// Products: in float64 on tensor cores, whatever the type of X: z is rounded to the compute type and then exact.
// Banks:    the pitch of a tile is 32 bytes more than a multiple of 128, so the four rows lie in different banks.
// Order:    k within a warp, warps in order, segments in order by a second kernel. It depends on n and p alone, since a
//           tile is a multiple of 32 rows of any type.
// Cost:     one read of X; per row 32 T (T + 1) FMA for T = p / 8 squares a side; a partial C per segment. At
//           p = 64 and float32 that is 19 FLOP per byte: the tensor cores' 67 TFLOP/s are the limit at 3.5 TB/s, the
//           memory everywhere else. Estimates; not yet run on hardware.
#pragma once

#include "device/mma_f64.cuh"
#include "rowpass.cuh"
#include "triangle.hpp"

namespace gradhess::cuda::narrow {

using rowpass::kAdders;
using rowpass::kNoBadRow;
using rowpass::kThreads;
using rowpass::kWarps;

constexpr int kStages = 3;
constexpr int kSquare = 8;
constexpr int kSquareEntries = kSquare * kSquare;
constexpr Index kTileBytes = 36 << 10;  // of padded rows
constexpr Index kMostTileRows = 128;
constexpr Index kMostParameters = 128;
constexpr Index kMostSegments = 528;  // four for each of 132 multiprocessors

GRADHESS_HOST_DEVICE inline Index tile_pitch(Index features, Index item_bytes) {
    const Index bytes = features * item_bytes;
    return ((bytes + 95) / 128 * 128 + 32) / item_bytes;
}

GRADHESS_HOST_DEVICE inline Index tile_rows(Index features, Index item_bytes) {
    Index rows = kMostTileRows;
    while (rows * tile_pitch(features, item_bytes) * item_bytes > kTileBytes) rows /= 2;
    return rows;
}

GRADHESS_HOST_DEVICE inline Index segment_rows(Index samples) {
    return ((samples + kMostSegments - 1) / kMostSegments + kMostTileRows - 1) / kMostTileRows * kMostTileRows;
}

GRADHESS_HOST_DEVICE inline Index segments(Index samples) {
    return samples == 0 ? 0 : (samples + segment_rows(samples) - 1) / segment_rows(samples);
}

// Squares of 8 along a side: 4, 8 or 16.
GRADHESS_HOST_DEVICE inline int squares(Index parameters) { return parameters <= 32 ? 4 : parameters <= 64 ? 8 : 16; }

GRADHESS_HOST_DEVICE_INLINE Index part_doubles(int side) {
    return Index{side} * (side + 1) / 2 * kSquareEntries + side * kSquare + 3;
}

struct Job {
    rowpass::Job rows;
    void* scatter;
    Index segment_rows;
    double* parts;  // (segments, part_doubles): squares of C in row order, column sums, totals
};

// Which rows of squares warp `role` of SHARE holds, and where in its registers they begin.
template <int SIDE, int SHARE>
struct Roles {
    static constexpr int kSlots = SIDE / SHARE;
    static constexpr int kHeld = SHARE == 1 ? SIDE * (SIDE + 1) / 2 : 34;

    GRADHESS_HOST_DEVICE_INLINE static constexpr int row(int role, int slot) {
        return SHARE == 1 ? slot : slot / 2 * 8 + (slot % 2 == 0 ? role : 7 - role);
    }
    GRADHESS_HOST_DEVICE_INLINE static constexpr int begin(int role, int slot) {
        int held = 0;
        for (int before = 0; before < slot; ++before) held += row(role, before) + 1;
        return held;
    }
};

// Eight lanes per row: eta of `count` rows of the tile.
template <class Source>
GRADHESS_DEVICE void predict(const Block& block, const Source* tile, Index pitch, Index count, double* eta) {
    const int lane = device::lane_number();
    for (Index base = 4 * device::warp_number(); base < count; base += 4 * kWarps) {
        const Index row = base + lane / 8;
        double found[1];
        predict_rows<8>(
            block, row < count, [&](int, Index j) { return device::to_double(tile[row * pitch + j]); }, found);
        if (row < count && lane % 8 == 0) eta[row] = found[0];
    }
}

// Rows of squares from SLOT on. Every index is a constant of the compiler: registers cannot be indexed otherwise.
template <int SIDE, int SHARE, int ROLE, int SLOT>
GRADHESS_DEVICE void multiply_slots(double w, const double (&z)[SIDE], double (&c)[Roles<SIDE, SHARE>::kHeld][2]) {
    constexpr int row = Roles<SIDE, SHARE>::row(ROLE, SLOT);
    constexpr int begin = Roles<SIDE, SHARE>::begin(ROLE, SLOT);
    const double a = w * z[row];
#pragma unroll
    for (int t = 0; t <= row; ++t) device::multiply_add_8x8x4(c[begin + t], a, z[t]);
    if constexpr (SLOT + 1 < Roles<SIDE, SHARE>::kSlots) multiply_slots<SIDE, SHARE, ROLE, SLOT + 1>(w, z, c);
}

// One tile of rows, for the rows of squares of ROLE: C += w z z^T, and for role 0 the column sums.
template <class Source, class T, int SIDE, int SHARE, int ROLE>
GRADHESS_DEVICE void multiply_tile(const Job& job, const Source* tile, const T* slope, const double* weight,
                                   const T* shift, Index count, int group, double (&c)[Roles<SIDE, SHARE>::kHeld][2],
                                   double (&sums)[SIDE], Index first, Index& bad) {
    const Block& block = job.rows.block;
    const int lane = device::lane_number();
    const bool gradient = block.kind == RowKind::gradient;
    constexpr int groups = kWarps / SHARE;
#pragma unroll 1
    for (Index four = 4 * group; four < count; four += 4 * groups) {
        const Index row = four + lane % 4;
        const bool inside = row < count;
        const T factor = inside && gradient ? slope[row] : T(1);
        const double w = inside ? weight[row] : 0.0;
        double z[SIDE];
#pragma unroll
        for (int t = 0; t < SIDE; ++t) {
            const Index column = kSquare * t + lane / 4;
            T g = T(0);
            if (inside && column < job.rows.parameters) {
                g = column < block.features ? device::convert<T>(tile[row * job.rows.staged_pitch + column]) : T(1);
                if (gradient) g = device::rounded_product(factor, g);
                if (ROLE == 0 && not_finite(g)) bad = first + row < bad ? first + row : bad;
                g = device::difference(g, shift[column]);
            }
            z[t] = device::to_double(g);
        }
        multiply_slots<SIDE, SHARE, ROLE, 0>(w, z, c);
        if (ROLE == 0) {
#pragma unroll
            for (int t = 0; t < SIDE; ++t) sums[t] = fma(w, z[t], sums[t]);
        }
    }
}

template <int SIDE, int SHARE, int ROLE, int SLOT = 0>
GRADHESS_DEVICE void add_squares(const double (&c)[Roles<SIDE, SHARE>::kHeld][2], double* whole, bool first) {
    constexpr int row = Roles<SIDE, SHARE>::row(ROLE, SLOT);
    constexpr int begin = Roles<SIDE, SHARE>::begin(ROLE, SLOT);
#pragma unroll
    for (int t = 0; t <= row; ++t) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const device::Entry at = device::c_entry_8x8(device::lane_number(), i);
            double& entry = whole[(row * (row + 1) / 2 + t) * kSquareEntries + at.row * kSquare + at.column];
            entry = first ? c[begin + t][i] : entry + c[begin + t][i];
        }
    }
    if constexpr (SLOT + 1 < Roles<SIDE, SHARE>::kSlots) add_squares<SIDE, SHARE, ROLE, SLOT + 1>(c, whole, first);
}

struct RowTotals {
    double weight = 0.0;
    double weight_squares = 0.0;
    double loss = 0.0;
};

// The kernel, over where slopes come from (`Losses`, as BuiltInLosses).
template <class Source, class T, int SIDE, int SHARE, class Losses>
GRADHESS_DEVICE void update_rows(const Job& job) {
    const Block& block = job.rows.block;
    const int thread = device::thread_number();
    const int group = device::warp_number() / SHARE;
    const int role = device::warp_number() % SHARE;
    const Index segment = blockIdx.x;
    const Index begin = segment * job.segment_rows;
    const Index end = begin + job.segment_rows < block.samples ? begin + job.segment_rows : block.samples;
    const Index tile_rows = job.rows.tile_rows;
    const Index tile_entries = tile_rows * job.rows.staged_pitch;
    const bool closed = block.gate && block.gate[0] >= 0;

    auto* memory = device::dynamic_shared();
    auto* tiles = reinterpret_cast<Source*>(memory);
    // C of the block takes the place of the tiles in the end, so what follows lies behind the larger of the two.
    Index offset = kStages * tile_entries * static_cast<Index>(sizeof(Source));
    constexpr Index squares_bytes = Index{SIDE} * (SIDE + 1) / 2 * kSquareEntries * 8;
    offset = offset > squares_bytes ? offset : squares_bytes;
    auto* weight = reinterpret_cast<double*>(memory + offset);
    double* scratch = weight + kMostTileRows;
    auto* slope = reinterpret_cast<T*>(scratch + kThreads);
    T* shift = slope + kMostTileRows;

    if (thread < SIDE * kSquare) {
        const bool shifted = block.shift && thread < job.rows.parameters;
        shift[thread] = shifted ? static_cast<const T*>(block.shift)[thread] : T(0);
    }
    double c[Roles<SIDE, SHARE>::kHeld][2] = {};
    double sums[SIDE] = {};
    double* value = scratch;  // until the end
    RowTotals totals;         // of every 32nd row, in the first warp
    Index bad = kNoBadRow;
    const auto rows_from = [&](Index first) { return end - first < tile_rows ? end - first : tile_rows; };

#pragma unroll 1
    for (int stage = 0; stage < kStages - 1; ++stage) {
        const Index first = begin + stage * tile_rows;
        if (first < end) rowpass::load_tile(job.rows, first, rows_from(first), tiles + stage * tile_entries);
        device::commit_copies();
    }
    int stage = 0;
#pragma unroll 1
    for (Index first = begin; first < end; first += tile_rows) {
        const Index count = rows_from(first);
        const Source* tile = tiles + stage * tile_entries;
        device::wait_copies<kStages - 2>();
        __syncthreads();  // the tile is there, and nobody still reads the stage that is loaded next
        const Index next = first + (kStages - 1) * tile_rows;
        const int next_stage = (stage + kStages - 1) % kStages;
        if (next < end) rowpass::load_tile(job.rows, next, rows_from(next), tiles + next_stage * tile_entries);
        device::commit_copies();
        stage = (stage + 1) % kStages;

        if (block.predicted()) {
            predict(block, tile, job.rows.staged_pitch, count, weight);
            __syncthreads();
        }
        if (thread < count) {
            const rowpass::FinishedRow row =
                rowpass::finish_row<T, Losses>(job.rows, first + thread, thread, weight[thread], closed, slope, bad);
            weight[thread] = row.weight;
            value[thread] = row.value;
        }
        __syncthreads();
        if (thread < device::kWarp) {
            for (Index row = thread; row < count; row += device::kWarp) {
                totals.weight += weight[row];
                totals.weight_squares = fma(weight[row], weight[row], totals.weight_squares);
                totals.loss += value[row];
            }
        }
        if (closed) continue;
        switch (role) {
            case 0:
                multiply_tile<Source, T, SIDE, SHARE, 0>(job, tile, slope, weight, shift, count, group, c, sums, first,
                                                         bad);
                break;
            case 1:
                multiply_tile<Source, T, SIDE, SHARE, 1 % SHARE>(job, tile, slope, weight, shift, count, group, c, sums,
                                                                 first, bad);
                break;
            case 2:
                multiply_tile<Source, T, SIDE, SHARE, 2 % SHARE>(job, tile, slope, weight, shift, count, group, c, sums,
                                                                 first, bad);
                break;
            default:
                multiply_tile<Source, T, SIDE, SHARE, 3 % SHARE>(job, tile, slope, weight, shift, count, group, c, sums,
                                                                 first, bad);
        }
    }
    device::wait_copies<0>();

    // Groups of warps in order: C in the place of the tiles, column sums behind it in the workspace.
    double* part = job.parts + segment * part_doubles(SIDE);
    auto* whole = reinterpret_cast<double*>(memory);
    double* columns = part + SIDE * (SIDE + 1) / 2 * kSquareEntries;
#pragma unroll 1
    for (int turn = 0; turn < kWarps / SHARE; ++turn) {
        __syncthreads();
        if (turn != group) continue;
        switch (role) {
            case 0: add_squares<SIDE, SHARE, 0>(c, whole, turn == 0); break;
            case 1: add_squares<SIDE, SHARE, 1 % SHARE>(c, whole, turn == 0); break;
            case 2: add_squares<SIDE, SHARE, 2 % SHARE>(c, whole, turn == 0); break;
            default: add_squares<SIDE, SHARE, 3 % SHARE>(c, whole, turn == 0);
        }
        if (role == 0) {
#pragma unroll
            for (int t = 0; t < SIDE; ++t) {
                const double sum = device::sum_lanes<4>(sums[t]);
                double& column = columns[kSquare * t + device::lane_number() / 4];
                if (device::lane_number() % 4 == 0) column = turn == 0 ? sum : column + sum;
            }
        }
    }
    __syncthreads();
    for (int i = thread; i < SIDE * (SIDE + 1) / 2 * kSquareEntries; i += kThreads) part[i] = whole[i];

    __syncthreads();
    if (thread < device::kWarp) {
        scratch[thread] = totals.weight;
        scratch[device::kWarp + thread] = totals.weight_squares;
        scratch[2 * device::kWarp + thread] = totals.loss;
    }
    __syncthreads();
    if (thread < 3) {
        double total = 0.0;
        for (int lane = 0; lane < device::kWarp; ++lane) total += scratch[thread * device::kWarp + lane];
        columns[SIDE * kSquare + thread] = total;
    }
    if (bad != kNoBadRow && !closed) device::lower_to(job.rows.panel.bad, block.first_row + bad);
}

template <class Source, class T, int SIDE, int SHARE>
__global__ void __launch_bounds__(kThreads, 1) narrow_kernel(const __grid_constant__ Job job) {
    update_rows<Source, T, SIDE, SHARE, BuiltInLosses>(job);
}

// Adds the parts of the segments, in kAdders runs of neighbouring segments and then the runs in order; and C to the
// scatter. 32 entries of a part per thread block.
template <class Scatter>
__global__ void __launch_bounds__(kThreads) add_parts_kernel(const __grid_constant__ Job job, Index count, int side) {
    auto* runs = reinterpret_cast<double*>(device::dynamic_shared());
    const Index size = part_doubles(side);
    const int thread = device::thread_number();
    const int run = thread / device::kWarp;
    const Index entry = static_cast<Index>(blockIdx.x) * device::kWarp + thread % device::kWarp;
    const Index run_length = (count + kAdders - 1) / kAdders;
    const Index run_end = (run + 1) * run_length < count ? (run + 1) * run_length : count;
    double sum = 0.0;
    if (entry < size)
        for (Index segment = run * run_length; segment < run_end; ++segment) sum += job.parts[segment * size + entry];
    runs[thread] = sum;
    __syncthreads();
    if (run != 0 || entry >= size) return;
    for (int other = 1; other < kAdders; ++other) sum += runs[other * device::kWarp + thread];

    const Index entries = size - side * kSquare - 3;
    const Index p = job.rows.parameters;
    if (entry < entries) {
        const TilePosition square = tile_position(entry / kSquareEntries);
        const Index row = square.row * kSquare + entry % kSquareEntries / kSquare;
        const Index column = square.column * kSquare + entry % kSquare;
        if (row < p && column <= row) static_cast<Scatter*>(job.scatter)[row * p + column] += static_cast<Scatter>(sum);
    } else if (entry < size - 3) {
        if (entry - entries < p) job.rows.panel.sums[entry - entries] = sum;
    } else {
        job.rows.panel.totals[entry - (size - 3)] = sum;
    }
}

}  // namespace gradhess::cuda::narrow
