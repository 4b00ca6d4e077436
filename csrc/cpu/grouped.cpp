#include "grouped.hpp"

#include <atomic>
#include <limits>
#include <vector>

#include "team.hpp"
#include "workspace.hpp"

namespace gradhess::cpu {
namespace {

template <class T>
Index run(const Rows& rows, const Groups& groups, T* out, int threads, const Kernels<T>& kernels) {
    const Index p = rows.width() * groups.outputs;
    const Index draws = groups.offsets[groups.count] - groups.offsets[0];
    const bool small = draws * p < tuning::kTeamMinWork;
    const int team = small ? 1 : static_cast<int>(std::min<Index>(std::max(1, threads), groups.count));
    std::vector<GroupScratch<T>> scratch(static_cast<std::size_t>(team));
    Arena::of_this_thread().place([&](Carver& carver) {
        for (auto& own : scratch) {
            own.slots = round_up(rows.features, 8) + 8;
            own.own_index = carver.take<Index>(tuning::kDrawChunk + tuning::kDrawsAhead);
            own.counting = carver.take<Index>(tuning::kDrawChunk + tuning::kDrawsAhead);
            own.gathered = carver.take<T>(tuning::kDrawChunk * rows.features);
            own.f = carver.take<T>(tuning::kDrawChunk * groups.outputs);
            own.sums = carver.take<double>((own.slots + 1) * groups.outputs);
        }
    });
    for (auto& own : scratch)
        for (Index t = 0; t < tuning::kDrawChunk + tuning::kDrawsAhead; ++t)
            own.counting[t] = t < tuning::kDrawChunk ? t : 0;
    // Every group is summed by itself, so how they are shared out changes no bits.
    const Index jobs = std::min<Index>(groups.count, team == 1 ? 1 : team * tuning::kGroupJobsPerThread);
    constexpr Index none = std::numeric_limits<Index>::max();
    std::atomic<Index> bad{none};
    share_out(team, jobs, [&](Index job, std::size_t thread) {
        const Index first = groups.count * job / jobs;
        const Index last = groups.count * (job + 1) / jobs;
        const Index found = kernels.group_sums(rows, groups, first, last - first, out + first * p, scratch[thread]);
        if (found < 0) return;
        for (Index seen = bad.load(); found < seen && !bad.compare_exchange_weak(seen, found);) {}
    });
    Arena::of_this_thread().trim();
    return bad.load() == none ? -1 : bad.load();
}

}  // namespace

Index group_sums(const Rows& rows, const Groups& groups, void* out, int threads, const Isa& isa) {
    if (groups.count == 0) return -1;
    if (computes_in_float(rows.dtype)) return run(rows, groups, static_cast<float*>(out), threads, isa.f32);
    return run(rows, groups, static_cast<double*>(out), threads, isa.f64);
}

}  // namespace gradhess::cpu
