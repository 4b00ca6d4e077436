// ldmatrix: a warp loads COUNT (1, 2, 4) matrices of 8 x 8 16-bit entries from shared memory (sm_75).
//
// Lane i gives the address of row i % 8 of matrix i / 8: 16 bytes, aligned to 16. Register r of lane l receives entries
// (l / 4, 2 (l % 4) + {0, 1}) of matrix r, the first in the lower half; of the transposed matrix if TRANSPOSED.
#pragma once

#include "platform.cuh"

namespace gradhess::cuda::device {

#if defined(GRADHESS_CUDA_EMULATOR)

template <int COUNT, bool TRANSPOSED>
inline void load_matrices(std::uint32_t (&registers)[COUNT], const void* row) {
    static_assert(COUNT == 1 || COUNT == 2 || COUNT == 4);
    struct Arguments {
        const unsigned char* row;
        std::uint32_t* registers;
    } arguments{static_cast<const unsigned char*>(row), registers};
    auto& emulator = cuda_emulator::emulator();
    if (lane_number() < 8 * COUNT) emulator.require_shared(row, 16, 16, "ldmatrix");
    emulator.collective(arguments, [](const auto& all) {
        const auto entry = [&](int matrix, int i, int j) {
            std::uint16_t value;
            std::memcpy(&value, all[8 * matrix + i]->row + 2 * j, sizeof value);
            return std::uint32_t{value};
        };
        for (int lane = 0; lane < kWarp; ++lane)
            for (int r = 0; r < COUNT; ++r) {
                const int i = lane / 4;
                const int j = lane % 4 * 2;
                all[lane]->registers[r] =
                    TRANSPOSED ? entry(r, j, i) | entry(r, j + 1, i) << 16 : entry(r, i, j) | entry(r, i, j + 1) << 16;
            }
    });
}

#else

template <int COUNT, bool TRANSPOSED>
GRADHESS_DEVICE void load_matrices(std::uint32_t (&registers)[COUNT], const void* row) {
    const std::uint32_t address = shared_address(row);
    if constexpr (COUNT == 4 && TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                     : "r"(address)
                     : "memory");
    } else if constexpr (COUNT == 4) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                     : "r"(address)
                     : "memory");
    } else if constexpr (COUNT == 2 && TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                     : "=r"(registers[0]), "=r"(registers[1])
                     : "r"(address)
                     : "memory");
    } else if constexpr (COUNT == 2) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                     : "=r"(registers[0]), "=r"(registers[1])
                     : "r"(address)
                     : "memory");
    } else {
        static_assert(COUNT == 1, "ldmatrix loads 1, 2 or 4 matrices");
        if constexpr (TRANSPOSED) {
            asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                         : "=r"(registers[0])
                         : "r"(address)
                         : "memory");
        } else {
            asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                         : "=r"(registers[0])
                         : "r"(address)
                         : "memory");
        }
    }
}

#endif

}  // namespace gradhess::cuda::device
