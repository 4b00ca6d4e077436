// Threads that work on the same slab, with a barrier between its stages; a team of one needs none.
#pragma once

#include <algorithm>
#include <utility>

#include "job.hpp"

namespace gradhess::cpu {

struct Team {
    int rank = 0;
    int size = 1;

    void barrier() const {
        if (size > 1) {
#pragma omp barrier
        }
    }

    // This member's part of [0, count), in whole `grain`s.
    std::pair<Index, Index> share(Index count, Index grain) const {
        const Index grains = (count + grain - 1) / grain;
        const Index begin = grains * rank / size * grain;
        const Index end = grains * (rank + 1) / size * grain;
        return {std::min(begin, count), std::min(end, count)};
    }
};

}  // namespace gradhess::cpu
