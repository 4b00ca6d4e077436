// TMA: one thread has a box of planes copied to shared memory; an mbarrier counts its bytes (sm_90).
#pragma once

#include "maps.hpp"
#include "mbarrier.cuh"
#include "tensor_map.hpp"

namespace gradhess::cuda::tensor {

constexpr int kBoxBytes = kBoxRows * kBankBytes;  // 8 KiB

#if defined(GRADHESS_CUDA_EMULATOR)

inline void prefetch_map(const TensorMap&) {}

inline void copy_box(void* to, const TensorMap& map, int column, int row, int plane, Mbarrier* barrier) {
    cuda_emulator::emulator().require_shared(to, kBoxBytes, 1024, "TMA");
    cuda_emulator::copy_later(barrier, kBoxBytes, [to, map, column, row, plane] {
        for (int r = 0; r < kBoxRows; ++r)
            for (int c = 0; c < kBoxColumns; ++c) {
                const bool inside = column + c < map.columns && row + r < map.rows && plane < map.planes;
                const std::uint16_t value =
                    inside ? map.data[plane * map.plane_stride + (row + r) * map.pitch + column + c] : std::uint16_t{0};
                std::memcpy(static_cast<unsigned char*>(to) + box_byte(r, c), &value, sizeof value);
            }
    });
}

#elif GRADHESS_ARCH >= 900

GRADHESS_DEVICE void prefetch_map(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

GRADHESS_DEVICE void copy_box(void* to, const TensorMap& map, int column, int row, int plane, Mbarrier* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
        "[%5];" ::"r"(device::shared_address(to)),
        "l"(&map), "r"(column), "r"(row), "r"(plane), "r"(device::shared_address(barrier))
        : "memory");
}

#endif

}  // namespace gradhess::cuda::tensor
