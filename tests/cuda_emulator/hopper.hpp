// What the emulator needs for the asynchronous units of Hopper: mbarriers, copies that an mbarrier waits for, and
// wgmma, whose results come as late as they may.
#pragma once

#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "emulator.hpp"
#include "tensor_core.hpp"

namespace cuda_emulator {

// ---- mbarrier: 8 bytes of shared memory -----------------------------------------------------------------------------

struct MbarrierState {
    std::uint16_t arrivals;  // of a phase
    std::uint16_t missing;
    std::uint32_t phase : 1;
    std::int32_t bytes : 31;
};
static_assert(sizeof(MbarrierState) == 8);

struct LateCopy {
    std::uint64_t* barrier;
    int bytes;
    std::function<void()> copy;
};

inline std::map<const Block*, std::vector<LateCopy>>& late_copies() {
    static std::map<const Block*, std::vector<LateCopy>> copies;
    return copies;
}

inline MbarrierState mbarrier_state(const std::uint64_t* barrier) {
    emulator().require_shared(barrier, 8, 8, "mbarrier");
    MbarrierState state;
    std::memcpy(&state, barrier, sizeof state);
    return state;
}

inline void mbarrier_store(std::uint64_t* barrier, MbarrierState state) {
    if (state.missing == 0 && state.bytes == 0) {
        state.phase ^= 1;
        state.missing = state.arrivals;
    }
    std::memcpy(barrier, &state, sizeof state);
    emulator().made_progress();
}

inline void mbarrier_init(std::uint64_t* barrier, int arrivals) {
    emulator().require_shared(barrier, 8, 8, "mbarrier");
    late_copies()[&emulator().block()].clear();  // of a launch that failed
    const MbarrierState state{static_cast<std::uint16_t>(arrivals), static_cast<std::uint16_t>(arrivals), 0, 0};
    std::memcpy(barrier, &state, sizeof state);
}

inline void mbarrier_arrive(std::uint64_t* barrier, int bytes) {
    MbarrierState state = mbarrier_state(barrier);
    emulator().require(state.missing > 0, "mbarrier: more arrivals than it was initialised for");
    state.bytes += bytes;
    --state.missing;
    mbarrier_store(barrier, state);
}

inline void land(const LateCopy& late) {
    late.copy();
    MbarrierState state = mbarrier_state(late.barrier);
    emulator().require(state.bytes >= late.bytes, "mbarrier: more bytes than were announced");
    state.bytes -= late.bytes;
    mbarrier_store(late.barrier, state);
}

// A copy that lands at once, or, in a random schedule, some time while others wait.
inline void copy_later(std::uint64_t* barrier, int bytes, std::function<void()> copy) {
    LateCopy late{barrier, bytes, std::move(copy)};
    if (emulator().random_schedule())
        late_copies()[&emulator().block()].push_back(std::move(late));
    else
        land(late);
}

inline void mbarrier_wait(std::uint64_t* barrier, unsigned parity) {
    emulator().wait_until([barrier, parity] {
        auto& copies = late_copies()[&emulator().block()];
        if (!copies.empty()) {
            emulator().made_progress();
            if (emulator().coin()) {
                const bool last = emulator().coin();  // copies may overtake each other
                const auto chosen = last ? copies.end() - 1 : copies.begin();
                const LateCopy late = std::move(*chosen);
                copies.erase(chosen);
                land(late);
            }
        }
        return mbarrier_state(barrier).phase != parity;
    });
}

// ---- wgmma ----------------------------------------------------------------------------------------------------------

using WgmmaGroup = std::vector<std::function<void()>>;

struct WgmmaState {
    bool fenced = false;
    WgmmaGroup open;
    std::vector<WgmmaGroup> groups;
};

inline WgmmaState& wgmma_state() {  // of the fiber that runs
    static std::map<const Fiber*, WgmmaState> states;
    return states[&emulator().fiber()];
}

inline void wgmma_issue(std::function<void()> operation) {
    WgmmaState& state = wgmma_state();
    emulator().require(state.fenced, "wgmma without wgmma.fence since the sums were touched");
    state.open.push_back(std::move(operation));
}

inline void wgmma_commit() {
    WgmmaState& state = wgmma_state();
    state.groups.push_back(std::move(state.open));
    state.open.clear();
}

inline void wgmma_wait(int pending) {
    emulator().yield();  // others go on: what they overwrite too early is read late
    emulator().made_progress();
    WgmmaState& state = wgmma_state();
    while (state.groups.size() > static_cast<std::size_t>(pending)) {
        for (const auto& operation : state.groups.front()) operation();
        state.groups.erase(state.groups.begin());
    }
    state.fenced = false;
    __syncwarp();  // the instruction is of whole warps: none goes on before all lanes have their results
}

}  // namespace cuda_emulator
