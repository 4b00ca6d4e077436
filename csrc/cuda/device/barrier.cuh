// Named barriers (bar.sync): 16 of them in a block, 0 being that of __syncthreads; and the fence between ordinary
// writes to shared memory and the asynchronous units that read it (sm_90).
#pragma once

#include "platform.cuh"

namespace gradhess::cuda::device {

#if defined(GRADHESS_CUDA_EMULATOR)

// `threads`, a multiple of 32, of the block meet at barrier `id`.
inline void sync_barrier(int id, int threads) { cuda_emulator::emulator().barrier(id, static_cast<unsigned>(threads)); }
inline void arrive_barrier(int id, int threads) {
    cuda_emulator::emulator().barrier(id, static_cast<unsigned>(threads), false);
}
inline void fence_async_proxy() {}

#else

GRADHESS_DEVICE void sync_barrier(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
GRADHESS_DEVICE void arrive_barrier(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// By each thread that wrote, before the barrier after which wgmma or a bulk copy reads.
GRADHESS_DEVICE void fence_async_proxy() {
#if GRADHESS_ARCH >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#endif

}  // namespace gradhess::cuda::device
