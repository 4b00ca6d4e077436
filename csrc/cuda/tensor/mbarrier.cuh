// mbarrier: a barrier in shared memory that counts arrivals and bytes of asynchronous copies (sm_90). Its phase ends
// when as many arrived as it was initialised for and all announced bytes are there; then the next one begins.
#pragma once

#include "../device/platform.cuh"

#if defined(GRADHESS_CUDA_EMULATOR)
#include "cuda_emulator/hopper.hpp"
#endif

namespace gradhess::cuda::tensor {

using Mbarrier = std::uint64_t;

#if defined(GRADHESS_CUDA_EMULATOR)

inline void mbarrier_init(Mbarrier* barrier, int arrivals) { cuda_emulator::mbarrier_init(barrier, arrivals); }
inline void mbarrier_init_fence() {}
inline void mbarrier_arrive(Mbarrier* barrier) { cuda_emulator::mbarrier_arrive(barrier, 0); }
inline void mbarrier_arrive_expecting(Mbarrier* barrier, int bytes) { cuda_emulator::mbarrier_arrive(barrier, bytes); }
inline void mbarrier_wait(Mbarrier* barrier, unsigned parity) { cuda_emulator::mbarrier_wait(barrier, parity); }

#elif GRADHESS_ARCH >= 900

GRADHESS_DEVICE void mbarrier_init(Mbarrier* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(device::shared_address(barrier)), "r"(arrivals)
                 : "memory");
}

// After the initialisation, by the thread that did it, before the __syncthreads that publishes it: to the unit that
// copies, too.
GRADHESS_DEVICE void mbarrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

GRADHESS_DEVICE void mbarrier_arrive(Mbarrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(device::shared_address(barrier)) : "memory");
}

// Arrives, and announces bytes that copies of this phase will bring.
GRADHESS_DEVICE void mbarrier_arrive_expecting(Mbarrier* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(device::shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

// Waits until the phase of this parity (0 for the first, 1 for the second, ...) has ended.
GRADHESS_DEVICE void mbarrier_wait(Mbarrier* barrier, unsigned parity) {
    const std::uint32_t address = device::shared_address(barrier);
    std::uint32_t ended;
    do {
        asm volatile(
            "{.reg .pred ended; mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2; selp.u32 %0, 1, 0, ended;}"
            : "=r"(ended)
            : "r"(address), "r"(parity)
            : "memory");
    } while (!ended);
}

#endif

}  // namespace gradhess::cuda::tensor
