// cp.async: copies from global to shared memory that bypass registers, in groups that a thread waits for (sm_80).
#pragma once

#include "platform.cuh"

namespace gradhess::cuda::device {

#if defined(GRADHESS_CUDA_EMULATOR)

inline void finish_copy(const cuda_emulator::PendingCopy& copy) {
    std::memcpy(copy.to, copy.from, copy.bytes);
    std::memset(static_cast<char*>(copy.to) + copy.bytes, 0, copy.filled);
}

// Copies the first `valid` of BYTES bytes and fills the rest with zeros. Both addresses are multiples of BYTES.
template <int BYTES>
inline void copy_async(void* to_shared, const void* from_global, int valid = BYTES) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
    auto& emulator = cuda_emulator::emulator();
    emulator.require_shared(to_shared, BYTES, BYTES, "cp.async");
    emulator.require(valid >= 0 && valid <= BYTES, "cp.async: valid bytes");
    emulator.require(reinterpret_cast<std::uintptr_t>(from_global) % BYTES == 0, "cp.async: source is not aligned");
    const cuda_emulator::PendingCopy copy{to_shared, from_global, static_cast<unsigned>(valid),
                                          static_cast<unsigned>(BYTES - valid)};
    if (emulator.coin()) {
        finish_copy(copy);  // as early as it can be
    } else {
        emulator.fiber().open_group.push_back(copy);  // as late as it may be
    }
}

inline void commit_copies() {
    auto& fiber = cuda_emulator::emulator().fiber();
    fiber.groups.push_back(std::move(fiber.open_group));
    fiber.open_group.clear();
}

// Waits until at most PENDING of this thread's newest groups are under way. Other threads' copies need a barrier too.
template <int PENDING>
inline void wait_copies() {
    auto& groups = cuda_emulator::emulator().fiber().groups;
    while (groups.size() > static_cast<std::size_t>(PENDING)) {
        for (const auto& copy : groups.front()) finish_copy(copy);
        groups.erase(groups.begin());
    }
}

#else

template <int BYTES>
GRADHESS_DEVICE void copy_async(void* to_shared, const void* from_global, int valid = BYTES) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
    if constexpr (BYTES == 16) {  // past the L1 cache: nobody reads it twice on this multiprocessor
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)),
                     "l"(__cvta_generic_to_global(from_global)), "r"(valid)
                     : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(shared_address(to_shared)),
                     "l"(__cvta_generic_to_global(from_global)), "r"(valid), "n"(BYTES)
                     : "memory");
    }
}

GRADHESS_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int PENDING>
GRADHESS_DEVICE void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

#endif

}  // namespace gradhess::cuda::device
