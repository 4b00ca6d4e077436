#include "pairs.hpp"

#include <algorithm>
#include <atomic>
#include <vector>

#include "team.hpp"
#include "tuning.hpp"

namespace gradhess::cpu {
namespace {

// (blocks, targets, kPairLanes), so that a block is one piece of memory.
std::vector<std::uint8_t> in_blocks(const std::uint8_t* labels, Index targets, Index inputs) {
    const Index blocks = (inputs + kPairLanes - 1) / kPairLanes;
    std::vector<std::uint8_t> packed(static_cast<std::size_t>(blocks * targets * kPairLanes));
    for (Index t = 0; t < targets; ++t)
        for (Index b = 0; b < blocks; ++b) {
            const Index first = b * kPairLanes, count = std::min(kPairLanes, inputs - first);
            std::copy_n(labels + t * inputs + first, count, packed.data() + (b * targets + t) * kPairLanes);
        }
    return packed;
}

// The targets by their label at each input of a tile, by counting.
struct TilePlan {
    TilePlan(Index targets, int q)
        : order(static_cast<std::size_t>(tuning::kInputsTogether * targets)),
          starts(static_cast<std::size_t>(tuning::kInputsTogether) * (static_cast<std::size_t>(q) + 1)) {}

    PairRow row(Index i, const PairJob& job) const {
        return {order.data() + i * job.targets, starts.data() + i * (job.q + 1)};
    }

    void make(const PairJob& job, Index first, Index rows) {
        for (Index i = 0; i < rows; ++i) {
            const Index x = first + i;
            const std::uint8_t* label = job.labels + x / kPairLanes * job.targets * kPairLanes + x % kPairLanes;
            std::uint32_t* begin = starts.data() + i * (job.q + 1);
            std::uint32_t* sorted = order.data() + i * job.targets;
            std::fill_n(begin, job.q + 1, 0u);
            for (Index t = 0; t < job.targets; ++t) ++begin[label[t * kPairLanes] + 1];
            for (int y = 0; y < job.q; ++y) begin[y + 1] += begin[y];
            next.assign(begin, begin + job.q);
            for (Index t = 0; t < job.targets; ++t)
                sorted[next[label[t * kPairLanes]]++] = static_cast<std::uint32_t>(t);
        }
    }

    std::vector<std::uint32_t> order, starts, next;
};

}  // namespace

bool pair_dependence(const std::uint8_t* labels, const PairJob& given, double* sums, int threads, Interrupt interrupt,
                     const Isa& isa) {
    PairJob job = given;
    const std::vector<std::uint8_t> packed = in_blocks(labels, job.targets, job.inputs);
    job.labels = packed.data();
    const bool weighted = job.target_weights != nullptr;
    const auto block_size = static_cast<std::size_t>(job.targets * kPairLanes);
    const Index tiles = (job.rows + tuning::kInputsTogether - 1) / tuning::kInputsTogether;
    // Labels that are compared, in vectors.
    const double work = static_cast<double>(job.targets) * static_cast<double>(job.rows) *
                        static_cast<double>(job.inputs) * job.q / kPairLanes;
    const bool small = work < static_cast<double>(tuning::kTeamMinComparisons);
    const int team = small ? 1 : static_cast<int>(std::min<Index>(std::max(1, threads), tiles));
    std::vector<TilePlan> plans(static_cast<std::size_t>(team), TilePlan(job.targets, job.q));
    std::vector<std::vector<std::int64_t>> wide(plans.size(), std::vector<std::int64_t>(weighted ? block_size : 0));
    for (TilePlan& plan : plans) plan.next.reserve(static_cast<std::size_t>(job.q));
    std::atomic<bool> stop{false};
    std::fill_n(sums, job.rows, 0.0);
    share_out(team, tiles, [&](Index tile, std::size_t thread) {
        // Only the thread that called may ask Python.
        if (thread == 0 && interrupt.requested && interrupt.requested(interrupt.context)) stop = true;
        if (stop) return;
        TilePlan& plan = plans[thread];
        const Index first = tile * tuning::kInputsTogether, rows = std::min(tuning::kInputsTogether, job.rows - first);
        plan.make(job, first, rows);
        for (Index base = first / kPairLanes * kPairLanes; base < job.inputs; base += kPairLanes) {
            const std::uint8_t* block = job.labels + base * job.targets;
            if (weighted) std::copy_n(block, block_size, wide[thread].data());
            for (Index i = 0; i < rows; ++i) {
                double dependence[kPairLanes];
                if (weighted) {
                    isa.weighted_pair_dependence(job, plan.row(i, job), wide[thread].data(), dependence);
                } else {
                    isa.pair_dependence(job, plan.row(i, job), block, dependence);
                }
                double sum = sums[first + i];
                const Index begin = std::max(base, first + i + 1), end = std::min(base + kPairLanes, job.inputs);
                for (Index other = begin; other < end; ++other)
                    sum += job.input_weights[other] * dependence[other - base] * dependence[other - base];
                sums[first + i] = sum;
            }
        }
    });
    return !stop;
}

}  // namespace gradhess::cpu
