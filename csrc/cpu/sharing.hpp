// Who works on which rows: a model of how long each way to share a job takes, in rows of one thread. Results do not
// depend on the choice.
#pragma once

#include <algorithm>

#include "accumulate.hpp"
#include "tuning.hpp"

namespace gradhess::cpu {

struct Sharing {
    enum class Rest { alone, slabs, together };
    Index own_blocks;  // that are shared out whole, the first ones
    Rest rest;         // how the others are done
};

// Rows in blocks that are summed apart from the total.
struct RowsToShare {
    Index rows;
    Index first_block;  // rows of the job in the first block, which may have some already
    Index threads;
    Index parameters;
    Structure structure;
    Layout layout;
    bool slabs_apart;  // whether slabs can be, too
};

struct RestTime {
    Sharing::Rest way;
    double rows;
};

// The quickest way to work on `rows` rows, and its time.
inline RestTime share_rest(const RowsToShare& job, Index rows) {
    const bool full = job.structure == Structure::full;
    const auto per_row = static_cast<double>(work_of_row(job.parameters, job.structure));
    const auto all = static_cast<double>(rows);
    RestTime best{Sharing::Rest::alone, all};
    const auto consider = [&](Sharing::Rest way, double busiest, double cost, Index start) {
        const double time = busiest * cost + static_cast<double>(start) / per_row;
        if (time < best.rows) best = {way, time};
    };
    const double team = full ? tuning::kTeamCost + tuning::kTeamCostColumns / static_cast<double>(job.parameters)
                             : tuning::kTeamCostVectors;
    consider(Sharing::Rest::together, all / static_cast<double>(job.threads), team, tuning::kTeamStart);
    if (job.slabs_apart) {
        const Index slab = job.layout.slab_rows;
        const Index slabs = (rows + slab - 1) / slab;
        const Index busiest = std::min(rows, (slabs + job.threads - 1) / job.threads * slab);
        consider(Sharing::Rest::slabs, static_cast<double>(busiest), tuning::kOwnSlabCost,
                 full ? tuning::kOwnSlabsStart : tuning::kOwnSlabsStartVectors);
    }
    return best;
}

// Shares out as many blocks as all threads have alike, or all of them if that takes no longer.
inline Sharing share_rows(const RowsToShare& job) {
    const Index block = job.layout.block_rows;
    const Index others = job.rows - job.first_block;
    const Index count = 1 + (others + block - 1) / block;
    const Index last = count == 1 ? job.first_block : others - (count - 2) * block;
    const Index whole = last < block ? count - 1 : count;
    const Index alike = whole / job.threads * job.threads;
    const Index summed = alike == 0 ? 0 : job.first_block + (alike - 1) * block;
    const RestTime rest = share_rest(job, job.rows - summed);
    if (count < job.threads) return {0, rest.way};
    // Rows of the busiest thread, if all blocks are shared out.
    const Index busiest = (count - 1) / job.threads * block + ((count - 1) % job.threads == 0 ? last : block);
    const auto mixed = static_cast<double>(alike / job.threads * block) + rest.rows;
    return mixed < static_cast<double>(busiest) ? Sharing{alike, rest.way} : Sharing{count, rest.way};
}

}  // namespace gradhess::cpu
