// Some weights of a few slabs are packed for all threads; then each thread takes blocks of pairs and weights, forms the
// products of its pairs slab by slab in its own L2 cache, and lets the strips of weights pass over them. What they are
// added to stays in the L3 cache over those slabs. Each entry is summed slab after slab, whoever does it and however
// blocks are cut, so its bits depend on neither.
#include "kronecker_sums.hpp"

#include <array>

#include "team.hpp"
#include "workspace.hpp"

namespace gradhess::cpu {
namespace {

Index ceil_divide(Index a, Index b) { return (a + b - 1) / b; }

// `total` in equal parts of at most `most`, rounded up to a multiple.
Index part_of(Index total, Index most, Index multiple) {
    return round_up(ceil_divide(total, ceil_divide(total, most)), multiple);
}

class KroneckerSums {
 public:
    KroneckerSums(const KroneckerJob& job, int threads, const Isa& isa) : job_(job), isa_(isa), panel_(isa.f64.panel) {
        const double work = static_cast<double>(job.samples) * static_cast<double>(job.factors.size()) *
                            static_cast<double>(job.weights()) * static_cast<double>(job.pairs());
        threads_ = work < static_cast<double>(tuning::kTeamMinWork) ? 1 : std::max(1, threads);
        pairs_ = part_of(job.pairs(), tuning::kPairColumns, isa.f64.tile_columns);
        pair_blocks_ = ceil_divide(job.pairs(), pairs_);
        slabs_together_ = std::min(tuning::kSlabsTogether, ceil_divide(job.samples, job.slab_rows));
        group_ = part_of(job.weights(), tuning::kWeightsTogether, panel_);
        const Index wanted = ceil_divide(threads_ > 1 ? tuning::kPairBlocksPerThread * threads_ : 1, pair_blocks_);
        const Index blocks = std::clamp<Index>(wanted, 1, std::max<Index>(1, group_ / tuning::kWeightsMin));
        weights_ = round_up(ceil_divide(group_, blocks), panel_);
    }

    void run() {
        for (auto& slabs : slabs_) slabs.resize(static_cast<std::size_t>(slabs_together_));
        scratch_.resize(static_cast<std::size_t>(threads_));
        Index longest = job_.features + panel_;
        for (const KroneckerFactor& factor : job_.factors)
            longest = std::max(longest, factor.rank * (job_.outputs + panel_));
        Arena::of_this_thread().place([&](Carver& carver) {
            for (auto& slabs : slabs_)
                for (Slab<double>& slab : slabs) slab = carve_panels<double>(carver, group_, job_.slab_rows, panel_);
            for (Scratch& own : scratch_) {
                own.products = carve_panels<double>(carver, pairs_, job_.slab_rows, panel_);
                own.line = carver.take<double>(round_up(std::max(pairs_, group_), panel_) + panel_);
                own.copy = carver.take<double>(longest);
            }
        });
        const Index step = slabs_together_ * job_.slab_rows;
        run_team(threads_, [&](Team team) {
            Scratch& own = scratch_[static_cast<std::size_t>(team.rank)];
            // Who finds no block left to add packs the next weights, in the other of two buffers; nobody adds these
            // before all have left the loop that packs them.
            std::size_t buffer = 0;
            // One factor after the other: its sums, but not those of all, stay in the L3 cache from slab to slab.
            for (std::size_t f = 0; f < job_.factors.size(); ++f)
                for (Index row = 0; row < job_.samples; row += step)
                    for (Index weight = 0; weight < job_.weights(); weight += group_, buffer ^= 1)
                        add_group(row, f, weight, slabs_[buffer], own);
        });
        Arena::of_this_thread().trim();
    }

 private:
    struct Scratch {
        Slab<double> products;
        double* line = nullptr;
        double* copy = nullptr;
    };

    // Work of the whole team: the slabs from `row` on, and of one factor the weights from `weight` on.
    void add_group(Index row, std::size_t f, Index weight, const std::vector<Slab<double>>& slabs, Scratch& own) {
        const Index n_rows = std::min(slabs_together_ * job_.slab_rows, job_.samples - row);
        const Index n_weights = std::min(group_, job_.weights() - weight);
#pragma omp for schedule(dynamic, 1)
        for (Index first = 0; first < n_rows; first += tuning::kWeightRows)
            pack(row, first, std::min(tuning::kWeightRows, n_rows - first), job_.factors[f], weight, n_weights, slabs,
                 own);
        const Index weight_blocks = ceil_divide(n_weights, weights_);
        double* out = job_.out + (static_cast<Index>(f) * job_.weights() + weight) * job_.pairs();
#pragma omp for schedule(dynamic, 1) nowait
        for (Index b = 0; b < pair_blocks_ * weight_blocks; ++b) {
            const Index offset = b / pair_blocks_ * weights_;
            add(row, n_rows, b % pair_blocks_ * pairs_, offset, std::min(offset + weights_, n_weights), slabs, out,
                own);
        }
    }

    void pack(Index row, Index first, Index count, const KroneckerFactor& factor, Index weight, Index n,
              const std::vector<Slab<double>>& slabs, Scratch& own) const {
        Slab<double> slab = slabs[static_cast<std::size_t>(first / job_.slab_rows)];
        slab.n_panels = ceil_divide(n, panel_);
        const Index origin = row + first / job_.slab_rows * job_.slab_rows;  // row 0 of the slab
        const Index at = origin * factor.rank * job_.outputs;
        isa_.pack_weights(factor.left ? factor.left + at : nullptr, factor.right + at, factor.rank, job_.outputs,
                          first % job_.slab_rows, count, weight, n, slab, own.line, own.copy);
    }

    // Weights [begin, end) of the group, with the pairs from `pair` on.
    void add(Index row, Index n_rows, Index pair, Index begin, Index end, const std::vector<Slab<double>>& slabs,
             double* out, Scratch& own) const {
        const Index n_pairs = std::min(pairs_, job_.pairs() - pair);
        own.products.n_panels = ceil_divide(n_pairs, panel_);
        for (Index first = 0; first < n_rows; first += job_.slab_rows) {
            own.products.rows = std::min(job_.slab_rows, n_rows - first);
            isa_.pack_products(job_.activations + (row + first) * job_.features, 0, own.products.rows, job_.features,
                               pair, n_pairs, own.products, own.line, own.copy);
            isa_.cross_update(slabs[static_cast<std::size_t>(first / job_.slab_rows)], begin, end, own.products,
                              n_pairs, out + begin * job_.pairs() + pair, job_.pairs());
        }
    }

    const KroneckerJob& job_;
    const Isa& isa_;
    const Index panel_;
    int threads_ = 1;
    Index pairs_, pair_blocks_, slabs_together_, group_, weights_;
    std::array<std::vector<Slab<double>>, 2> slabs_;  // of weights
    std::vector<Scratch> scratch_;
};

}  // namespace

void kronecker_sums(const KroneckerJob& job, int threads, const Isa& isa) {
    if (job.samples > 0 && !job.factors.empty()) KroneckerSums(job, threads, isa).run();
}

}  // namespace gradhess::cpu
