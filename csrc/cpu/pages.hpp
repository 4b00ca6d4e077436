// Memory that the system has promised but not given yet.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace gradhess::cpu {

inline constexpr std::size_t kPage = 4096;
inline constexpr std::size_t kLargePage = 2u << 20;

// Has the pages mapped for writing in which `bytes` from `from` on lie; what they hold stays as it is. Memory that
// should be zero is otherwise mapped twice where it is read before it is written: as a page of zeros that all share,
// and then anew, for which the system interrupts every thread of the process. Where the system cannot do it, nothing is
// done.
inline void map_for_writing(void* from, std::size_t bytes) {
#ifdef __linux__
#ifdef MADV_POPULATE_WRITE
    constexpr int advice = MADV_POPULATE_WRITE;
#else
    constexpr int advice = 23;  // of Linux 5.14; older headers do not name it, and older systems refuse it
#endif
    const auto address = reinterpret_cast<std::uintptr_t>(from);
    const std::uintptr_t begin = address / kPage * kPage;
    madvise(reinterpret_cast<void*>(begin), address + bytes - begin, advice);
#endif
}

}  // namespace gradhess::cpu
