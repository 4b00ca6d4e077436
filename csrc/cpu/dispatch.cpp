#include "dispatch.hpp"

#include <array>

namespace gradhess::cpu {

#if defined(__x86_64__)
namespace avx512 {
extern const Isa kIsa;
}
namespace avx2 {
extern const Isa kIsa;
}
namespace baseline {
extern const Isa kIsa;
}

static bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}

static bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

std::span<const Isa* const> supported_isas() {
    static const std::array<const Isa*, 3> all = {&avx512::kIsa, &avx2::kIsa, &baseline::kIsa};
    static const std::size_t first = has_avx512() ? 0 : (has_avx2() ? 1 : 2);
    return std::span(all).subspan(first);
}

#elif defined(__aarch64__)
namespace neon {
extern const Isa kIsa;
}

std::span<const Isa* const> supported_isas() {
    static const std::array<const Isa*, 1> all = {&neon::kIsa};
    return all;
}

#else
#error "gradhess has CPU kernels for x86-64 and 64-bit Arm; elsewhere install with GRADHESS_COMPILED=off"
#endif

}  // namespace gradhess::cpu
