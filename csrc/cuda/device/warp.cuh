// Exchange between the 32 lanes of a warp. All lanes take part.
#pragma once

#include "platform.cuh"

namespace gradhess::cuda::device {

#if defined(GRADHESS_CUDA_EMULATOR)

template <class T>
inline T from_lane(T value, int source) {
    struct Arguments {
        T value;
        int source;
    } arguments{value, source};
    cuda_emulator::emulator().collective(arguments, [](const auto& all) {
        std::array<T, kWarp> before{};
        for (int i = 0; i < kWarp; ++i)
            if (all[i]) before[static_cast<std::size_t>(i)] = all[i]->value;
        for (auto* lane : all)
            if (lane) lane->value = before[static_cast<std::size_t>(lane->source & (kWarp - 1))];
    });
    return arguments.value;
}

template <class T>
inline T from_lane_xor(T value, int mask) {
    return from_lane(value, lane_number() ^ mask);
}

template <class T>
inline T from_lane_down(T value, int delta) {
    const int source = lane_number() + delta;
    return from_lane(value, source < kWarp ? source : lane_number());
}

inline std::uint32_t lane_ballot(bool condition) {
    struct Arguments {
        bool condition;
        std::uint32_t result;
    } arguments{condition, 0};
    cuda_emulator::emulator().collective(arguments, [](const auto& all) {
        std::uint32_t result = 0;
        for (int i = 0; i < kWarp; ++i)
            if (all[i] && all[i]->condition) result |= 1u << i;
        for (auto* lane : all)
            if (lane) lane->result = result;
    });
    return arguments.result;
}

inline int first_set_bit(std::uint32_t bits) { return __builtin_ffs(static_cast<int>(bits)) - 1; }

#else

template <class T>
GRADHESS_DEVICE T from_lane(T value, int source) {
    return __shfl_sync(0xffffffffu, value, source);
}

template <class T>
GRADHESS_DEVICE T from_lane_xor(T value, int mask) {
    return __shfl_xor_sync(0xffffffffu, value, mask);
}

template <class T>
GRADHESS_DEVICE T from_lane_down(T value, int delta) {
    return __shfl_down_sync(0xffffffffu, value, static_cast<unsigned>(delta));
}

GRADHESS_DEVICE std::uint32_t lane_ballot(bool condition) { return __ballot_sync(0xffffffffu, condition); }

GRADHESS_DEVICE int first_set_bit(std::uint32_t bits) { return __ffs(static_cast<int>(bits)) - 1; }

#endif

// The sum of the values of `LANES` neighbouring lanes, the same bits in each: pairs at distance LANES / 2, ..., 1.
template <int LANES, class T>
GRADHESS_DEVICE T sum_lanes(T value) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2) value += from_lane_xor(value, distance);
    return value;
}

}  // namespace gradhess::cuda::device
