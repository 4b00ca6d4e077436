// C += left^T right from 16-bit planes by TMA and wgmma, warp-specialised (sm_90a; empty for other targets).
//
// Formula:  ../planes.hpp, with the order of summation.
// Layout:   a block has three warpgroups. The first has one thread that keeps TMA busy and gives its registers away;
//           the other two compute 64 x 128 entries of C each: 64 accumulators in a thread, and 64 float32 sums. A stage
//           is 64 rows of all planes, left then right; each plane is two boxes of 64 rows x 64 columns, swizzled by 128
//           bytes (maps.hpp), which wgmma reads as they are, both operands transposed.
// Blocking: a ring of stages, each with two mbarriers: full (bytes of TMA) and empty (the eight warps that read it).
//           The grid is persistent, and the thread that copies runs ahead into the next tile while sums are flushed.
//           The two computing warpgroups drift apart, so one multiplies while the other promotes.
// Cost:     2 * products * 128^2 FLOP per row and tile; a tile reads (left + right) * 256 bytes per row from L2, the
//           next limit: for fp16x3 1 KiB against 98304 FLOP.
// Source:   the warp-specialised persistent kernels of CUTLASS 3 and of FlashAttention-3 (Shah et al., 2024); promotion
//           as in DeepSeek-V3 (2024), section 3.3.
// Not yet run on hardware.
#pragma once

#include "bulk_tensor.cuh"
#include "flush.cuh"
#include "maps.hpp"
#include "mbarrier.cuh"
#include "unrolled.cuh"
#include "wgmma.cuh"

namespace gradhess::cuda::tensor {

template <int SCHEME>
struct WgmmaTuning {
    static constexpr SchemeTable scheme = kSchemeTable[SCHEME];
    static constexpr int planes = scheme.left_planes + scheme.right_planes;
    static constexpr int stage_rows = kBoxRows;
    static constexpr int stages_per_promotion = scheme.wgmma_promote_rows / stage_rows;
    static constexpr int plane_bytes = kBoxes * kBoxBytes;
    static constexpr int stage_bytes = planes * plane_bytes;
    static constexpr int stages_that_fit = (192 << 10) / stage_bytes;
    static constexpr int stages = stages_that_fit < 6 ? stages_that_fit : 6;
    static constexpr int shared_bytes = stages * stage_bytes + 2 * stages * static_cast<int>(sizeof(Mbarrier));
    static_assert(stages >= 2 && scheme.wgmma_promote_rows % stage_rows == 0);
    // Low-order products of all rows of a promotion come before hi hi: they must be in one stage.
    static_assert(scheme.product_count == 1 || stages_per_promotion == 1);
};

constexpr int kWarpgroup = 128;
constexpr int kWgmmaThreads = 3 * kWarpgroup;
constexpr int kComputingWarps = 8;
constexpr int kCopyingRegisters = 40;
constexpr int kComputingRegisters = 232;
static_assert(kWarpgroup * (kCopyingRegisters + 2 * kComputingRegisters) <= 65536);

#if GRADHESS_HAS_WGMMA

// Place in the ring of stages, and the parity of the phase in which it is filled.
template <int STAGES>
struct Ring {
    int stage = 0;
    unsigned parity = 0;

    GRADHESS_DEVICE void next() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

template <int SCHEME>
struct WgmmaShared {
    using Tuning = WgmmaTuning<SCHEME>;
    unsigned char* memory;

    GRADHESS_DEVICE unsigned char* stage(int number) const { return memory + number * Tuning::stage_bytes; }
    GRADHESS_DEVICE Mbarrier* full(int number) const {
        return reinterpret_cast<Mbarrier*>(memory + Tuning::stages * Tuning::stage_bytes) + number;
    }
    GRADHESS_DEVICE Mbarrier* empty(int number) const { return full(Tuning::stages + number); }
};

GRADHESS_DEVICE Index steps_of(const TileWork& work) { return (work.end - work.begin + kBoxRows - 1) / kBoxRows; }

// The thread that copies: all stages of all items of this block, in order.
template <int SCHEME>
GRADHESS_DEVICE void copy_stages(const WgmmaShared<SCHEME>& shared, const TensorMap& left_map,
                                 const TensorMap& right_map, const UpdateJob& job) {
    using Tuning = WgmmaTuning<SCHEME>;
    Ring<Tuning::stages> ring;
    const Index items = items_of(job);
    for (Index item = blockIdx.x; item < items; item += gridDim.x) {
        const TileWork work = work_of(job, item);
        const int right_planes = work.shared ? 0 : Tuning::scheme.right_planes;
        const Index steps = steps_of(work);
        for (Index step = 0; step < steps; ++step) {
            const int row = static_cast<int>(work.begin + step * kBoxRows);
            mbarrier_wait(shared.empty(ring.stage), ring.parity ^ 1);  // passes at once in the first round
            Mbarrier* full = shared.full(ring.stage);
            mbarrier_arrive_expecting(full, (Tuning::scheme.left_planes + right_planes) * Tuning::plane_bytes);
            unsigned char* to = shared.stage(ring.stage);
            for (int plane = 0; plane < Tuning::scheme.left_planes; ++plane)
                for (int box = 0; box < kBoxes; ++box, to += kBoxBytes)
                    copy_box(to, left_map, static_cast<int>(work.left_column) + box * kBoxColumns, row, plane, full);
            for (int plane = 0; plane < right_planes; ++plane)
                for (int box = 0; box < kBoxes; ++box, to += kBoxBytes)
                    copy_box(to, right_map, static_cast<int>(work.right_column) + box * kBoxColumns, row, plane, full);
            ring.next();
        }
    }
}

// Products FIRST to LAST - 1 of 64 rows, 16 at a time.
template <int SCHEME, int FIRST, int LAST>
GRADHESS_DEVICE void multiply_boxes(float (&sums)[64], std::uint32_t left, std::uint32_t right, bool keep) {
    using Tuning = WgmmaTuning<SCHEME>;
    using Number = std::conditional_t<Tuning::scheme.half, device::Half, device::BFloat16>;
#pragma unroll
    for (int row = 0; row < kBoxRows; row += kInstructionRows) {
        unrolled<FIRST, LAST>([&](auto number) {
            constexpr int index = decltype(number)::value;
            constexpr Product product = kSchemeTable[SCHEME].products[index];
            const auto at = [row](std::uint32_t operand, int plane) {
                return matrix_descriptor(
                    operand + static_cast<std::uint32_t>(plane * Tuning::plane_bytes + row * kBankBytes), kBoxBytes);
            };
            wgmma<Number>(sums, at(left, product.left), at(right, product.right), keep || row > 0 || index > FIRST);
        });
    }
}

template <int SCHEME>
GRADHESS_DEVICE void compute_tile(const WgmmaShared<SCHEME>& shared, Ring<WgmmaTuning<SCHEME>::stages>& ring,
                                  const UpdateJob& job, Index item) {
    using Tuning = WgmmaTuning<SCHEME>;
    const TileWork work = work_of(job, item);
    const int group = device::thread_number() / kWarpgroup - 1;
    const std::uint32_t right_offset =
        work.shared ? 0u : static_cast<std::uint32_t>(Tuning::scheme.left_planes * Tuning::plane_bytes);
    const Index steps = steps_of(work);
    const Index first_row = job.first_row + work.begin;

    float master[64] = {};
    float sums[64] = {};
    for (Index step = 0; step < steps;) {
#pragma unroll 1
        for (int part = 0; part < Tuning::stages_per_promotion && step < steps; ++part, ++step) {
            mbarrier_wait(shared.full(ring.stage), ring.parity);
            const std::uint32_t stage = device::shared_address(shared.stage(ring.stage));
            const std::uint32_t left = stage + static_cast<std::uint32_t>(group * kBoxBytes);
            const std::uint32_t right = stage + right_offset;
            constexpr int last = Tuning::scheme.product_count - 1;
            wgmma_hold(sums);
            wgmma_fence();
            if constexpr (last > 0) multiply_boxes<SCHEME, 0, last>(sums, left, right, false);
            multiply_boxes<SCHEME, last, last + 1>(sums, left, right, last > 0 || part > 0);
            wgmma_commit();
            wgmma_wait<0>();
            wgmma_hold(sums);
            if (device::lane_number() == 0) mbarrier_arrive(shared.empty(ring.stage));
            ring.next();
        }
#pragma unroll
        for (int i = 0; i < 64; ++i) master[i] += sums[i];

        const bool flush = (first_row + step * kBoxRows) % kFlushRows == 0 || step >= steps;
        if (!flush) continue;
        const TileWork target = work_of(job, unknown(item));
        const int lane = device::lane_number();
        const int row = group * 64 + device::warp_number() % 4 * 16 + lane / 4;
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int first = 0; first < 16; first += kFlushPairs) {
                float values[kFlushPairs][2];
#pragma unroll
                for (int j = 0; j < kFlushPairs; ++j)
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        float& sum = master[4 * (first + j) + 2 * half + i];
                        values[j][i] = sum;
                        sum = 0.0f;
                    }
                flush_row(job, target, row + half * 8, first * 8 + lane % 4 * 2, values);
            }
    }
}

#endif

template <int SCHEME>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    update_wgmma_kernel(const __grid_constant__ TensorMap left_map, const __grid_constant__ TensorMap right_map,
                        const __grid_constant__ UpdateJob job) {
#if GRADHESS_HAS_WGMMA
    using Tuning = WgmmaTuning<SCHEME>;
    const WgmmaShared<SCHEME> shared{device::dynamic_shared()};
    if (device::thread_number() == 0) {
        for (int stage = 0; stage < Tuning::stages; ++stage) {
            mbarrier_init(shared.full(stage), 1);
            mbarrier_init(shared.empty(stage), kComputingWarps);
        }
        mbarrier_init_fence();
    }
    __syncthreads();

    if (device::thread_number() < kWarpgroup) {
        give_registers<kCopyingRegisters>();
        if (device::thread_number() == 0) {
            prefetch_map(left_map);
            prefetch_map(right_map);
            copy_stages<SCHEME>(shared, left_map, right_map, job);
        }
    } else {
        take_registers<kComputingRegisters>();
        Ring<Tuning::stages> ring;
        const Index items = items_of(job);
        for (Index item = blockIdx.x; item < items; item += gridDim.x) compute_tile<SCHEME>(shared, ring, job, item);
    }
#endif
}

}  // namespace gradhess::cuda::tensor
