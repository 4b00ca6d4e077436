// Threads that work on the same job, with a barrier between its stages; a team of one needs none.
#pragma once

#include <omp.h>

#include <algorithm>
#include <utility>

#include "job.hpp"
#include "roster.hpp"

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

// Runs work(team) on every thread of a team of `threads`.
template <class Work>
void run_team(int threads, const Work& work) {
    if (threads <= 1) {
        work(Team{});
        return;
    }
    Roster& roster = Roster::of_this_thread();
    roster.call(threads);
#pragma omp parallel num_threads(threads)
    {
        const Team team{omp_get_thread_num(), omp_get_num_threads()};
        roster.arrive(team.rank);
        work(team);
    }
    roster.dismiss();
}

// Runs work(job, rank) for each job, in order of their numbers, by whoever of the team is free.
template <class Work>
void share_out(int threads, Index jobs, const Work& work) {
    run_team(threads, [&](Team team) {
#pragma omp for schedule(dynamic, 1) nowait
        for (Index job = 0; job < jobs; ++job) work(job, static_cast<std::size_t>(team.rank));
    });
}

}  // namespace gradhess::cpu
