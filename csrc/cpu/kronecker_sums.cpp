// Some slabs at a time: which rows matter to which entries is looked up; the entries of W are packed for all threads,
// of those rows only; then each thread takes runs of W and blocks of pairs, forms the products of its pairs slab by
// slab in its own L2 cache, and lets the strips of W pass over them. Rows that are left out would have added zero, and
// each entry is summed slab after slab, whoever does it, so its bits depend neither on that nor on how blocks are cut.
#include "kronecker_sums.hpp"

#include <array>

#include "active_rows.hpp"
#include "team.hpp"
#include "workspace.hpp"

namespace gradhess::cpu {
namespace {

Index ceil_divide(Index a, Index b) { return (a + b - 1) / b; }

class KroneckerSums {
 public:
    KroneckerSums(const KroneckerJob& job, int threads, const Isa& isa)
        : job_(job),
          isa_(isa),
          panel_(isa.f64.panel),
          slabs_(std::min(tuning::kSlabsTogether, ceil_divide(job.samples, job.slab_rows))),
          slab_words_(ceil_divide(job.slab_rows, kBits)),
          words_(slabs_ * slab_words_) {
        const double work = static_cast<double>(job.samples) * static_cast<double>(job.n_factors()) *
                            static_cast<double>(job.weights()) * static_cast<double>(job.pairs());
        threads_ = work < static_cast<double>(tuning::kTeamMinWork) ? 1 : std::max(1, threads);
        // Entries of W in a run: as many as are packed at a time, and enough runs for all threads.
        const Index blocks = ceil_divide(job.pairs(), tuning::kPairColumns);
        const Index wanted = threads_ > 1 ? ceil_divide(tuning::kPairBlocksPerThread * threads_, blocks) : 1;
        const Index columns =
            std::clamp(job.weights() * job.n_factors() / wanted, tuning::kWeightsMin, tuning::kWeightsTogether);
        most_weights_ = std::clamp<Index>(columns / job.n_factors(), 1, job.weights());
        for (Index q = 0; q < job.outputs; ++q) most_runs_ += ceil_divide(job.outputs - q, most_weights_);
        const Index all = size_of(job.weights(), job.slab_rows) + most_runs_ * size_of(1, job.slab_rows);
        capacity_ =
            std::max(slabs_ * size_of(most_weights_, job.slab_rows), std::min(slabs_ * all, tuning::kWeightsBuffer));
    }

    void run() {
        // Room for all that a step may need, which allocates nothing.
        runs_.reserve(static_cast<std::size_t>(most_runs_));
        packed_.resize(static_cast<std::size_t>(most_runs_ * slabs_));
        batches_.reserve(static_cast<std::size_t>(most_runs_ + 1));
        pair_runs_.reserve(static_cast<std::size_t>(job_.features));
        blocks_.reserve(static_cast<std::size_t>(job_.features + ceil_divide(job_.pairs(), tuning::kPairColumns)));
        scratch_.resize(static_cast<std::size_t>(threads_));
        Index longest = job_.features + panel_;
        for (const KroneckerFactor& factor : job_.factors)
            longest = std::max(longest, factor.rank * (job_.outputs + panel_));
        const Index most_columns = round_up(most_weights_ * job_.n_factors(), panel_);
        const Index most_pairs = round_up(std::min(tuning::kPairColumns, job_.pairs()), panel_);
        Arena::of_this_thread().place([&](Carver& carver) {
            output_rows_ = carver.take<RowBits>(job_.outputs * words_);
            feature_rows_ = carver.take<RowBits>(job_.features * words_);
            for (Buffer& buffer : buffers_) {
                buffer.panels = carver.take<double>(capacity_);
                buffer.samples = carver.take<Index>(capacity_ / panel_);
            }
            for (Scratch& own : scratch_) {
                own.products = carve_panels<double>(carver, most_pairs, job_.slab_rows, panel_);
                own.line = carver.take<double>(std::max(most_pairs, most_columns) + panel_);
                own.copy = carver.take<double>(longest);
                own.samples = carver.take<Index>(job_.slab_rows);
                own.rows = carver.take<Index>(job_.slab_rows);
                own.out = carver.take<double*>(most_columns + isa_.f64.strip_rows);
                own.seen = carver.take<RowBits>(2 * std::max(job_.outputs, job_.features));
            }
        });
        run_team(threads_, [&](Team team) {
            Scratch& own = scratch_[static_cast<std::size_t>(team.rank)];
            for (Index first = 0; first < job_.samples; first += slabs_ * job_.slab_rows) add_slabs(first, own, team);
        });
        Arena::of_this_thread().trim();
    }

 private:
    // The entries of a run in a slab, packed.
    struct Packed {
        Slab<double> slab;
        Index* samples = nullptr;  // of each row
    };

    struct Buffer {
        double* panels = nullptr;
        Index* samples = nullptr;
    };

    struct Scratch {
        Slab<double> products;
        double* line = nullptr;
        double* copy = nullptr;
        Index* samples = nullptr;  // of each row of the products,
        Index* rows = nullptr;     // and where it is among the packed ones
        double** out = nullptr;
        RowBits* seen = nullptr;
    };

    Index size_of(Index weights, Index rows) const {
        Slab<double> slab;
        return shape_panels(slab, weights * job_.n_factors(), rows, panel_);
    }

    // Work of the whole team: the slabs from sample `first` on.
    void add_slabs(Index first, Scratch& own, Team team) {
#pragma omp for schedule(static)
        for (Index word = 0; word < words_; ++word) find_rows(first + row_of(word), word, own);
#pragma omp single
        plan();
        const Index n_blocks = static_cast<Index>(blocks_.size());
        for (std::size_t batch = 0; batch + 1 < batches_.size(); ++batch) {
            const Index begin = batches_[batch], end = batches_[batch + 1];
            // Who finds no block left to add packs the next batch, in the other of two buffers; nobody adds that before
            // all have left the loop that packs it.
#pragma omp for schedule(dynamic, 1)
            for (Index word = 0; word < words_; ++word)
                for (Index bit = 0; bit < kBits; bit += tuning::kWeightRows)
                    for (Index i = begin; i < end; ++i) pack(first, i, word, bit, own);
#pragma omp for schedule(dynamic, 1) nowait
            for (Index job = begin * n_blocks; job < end * n_blocks; ++job)
                add(job / n_blocks, blocks_[static_cast<std::size_t>(job % n_blocks)], own);
        }
        team.barrier();
    }

    // The first row of a word, among those of the slabs.
    Index row_of(Index word) const { return word / slab_words_ * job_.slab_rows + word % slab_words_ * kBits; }

    // The bits of one word, that of the samples from `first` on, for every output and feature.
    void find_rows(Index first, Index word, Scratch& own) const {
        const Index in_slab = std::min(kBits, job_.slab_rows - word % slab_words_ * kBits);
        const Index n = std::clamp<Index>(job_.samples - first, 0, in_slab);
        find(word, n, job_.features, feature_rows_, own,
             [&](Index r) { look_at(job_.activations + (first + r) * job_.features, job_.features, own.seen); });
        find(word, n, job_.outputs, output_rows_, own, [&](Index r) {
            for (const KroneckerFactor& factor : job_.factors) {
                const double* of_row =
                    (factor.left ? factor.left : factor.right) + (first + r) * factor.rank * job_.outputs;
                for (Index a = 0; a < factor.rank; ++a) look_at(of_row + a * job_.outputs, job_.outputs, own.seen);
            }
        });
    }

    template <class Look>
    void find(Index word, Index n, Index columns, RowBits* out, Scratch& own, const Look& look) const {
        RowBits* bits = own.seen + columns;
        std::fill_n(bits, columns, RowBits{0});
        for (Index r = 0; r < n; ++r) {
            std::fill_n(own.seen, columns, RowBits{0});
            look(r);
            for (Index c = 0; c < columns; ++c) bits[c] |= RowBits{own.seen[c] != 0} << r;
        }
        for (Index c = 0; c < columns; ++c) out[c * words_ + word] = bits[c];
    }

    // Runs of W and blocks of pairs, from the rows that matter to them.
    void plan() {
        runs_.clear();
        for (Index q = 0, first = 0; q < job_.outputs; first += job_.outputs - q++)
            cut({first, job_.outputs - q, output_rows_ + q * words_}, most_weights_, runs_);
        join_runs(runs_, words_, most_weights_, [&](Index rows, Index weights) {
            return rows * (round_up(weights * job_.n_factors(), isa_.f64.strip_rows / 2) + tuning::kProductCost);
        });
        place();
        pair_runs_.clear();
        for (Index i = 0, first = 0; i < job_.features; first += job_.features - i++)
            pair_runs_.push_back({first, job_.features - i, feature_rows_ + i * words_});
        join_runs(pair_runs_, words_, job_.pairs(),
                  [&](Index rows, Index pairs) { return rows * (round_up(pairs, panel_) + tuning::kProductCost); });
        blocks_.clear();
        for (const Run& run : pair_runs_) {
            const Index parts = ceil_divide(run.count, tuning::kPairColumns);
            cut(run, round_up(ceil_divide(run.count, parts), isa_.f64.tile_columns), blocks_);
        }
    }

    // Appends the parts of a run, of `most` entries each.
    static void cut(const Run& run, Index most, std::vector<Run>& parts) {
        for (Index from = 0; from < run.count; from += most)
            parts.push_back({run.first + from, std::min(most, run.count - from), run.rows});
    }

    // Where each run is packed, and which runs are in the buffer together.
    void place() {
        batches_.clear();
        Index used = capacity_;
        std::size_t buffer = 1;
        for (std::size_t i = 0; i < runs_.size(); ++i) {
            Packed* packed = packed_.data() + i * static_cast<std::size_t>(slabs_);
            Index size = 0;
            for (Index s = 0; s < slabs_; ++s) {
                Slab<double>& slab = packed[s].slab;
                slab.rows = count_rows(runs_[i].rows + s * slab_words_, slab_words_);
                size += shape_panels(slab, runs_[i].count * job_.n_factors(), slab.rows, panel_);
            }
            if (used + size > capacity_) {
                batches_.push_back(static_cast<Index>(i));
                used = 0;
                buffer ^= 1;
            }
            for (Index s = 0; s < slabs_; ++s) {
                packed[s].slab.panels = buffers_[buffer].panels + used;
                packed[s].samples = buffers_[buffer].samples + used / panel_;
                used += packed[s].slab.n_panels * packed[s].slab.panel_stride;
            }
        }
        batches_.push_back(static_cast<Index>(runs_.size()));
    }

    // A run of W, for the rows of some bits of a word.
    void pack(Index first, Index i, Index word, Index bit, Scratch& own) {
        const Run& run = runs_[static_cast<std::size_t>(i)];
        Packed& packed = packed_[static_cast<std::size_t>(i * slabs_ + word / slab_words_)];
        const RowBits later = ~RowBits{0} << bit, bits = run.rows[word];
        const Index before =
            count_rows(run.rows + word / slab_words_ * slab_words_, word % slab_words_) + std::popcount(bits & ~later);
        Index* samples = packed.samples + before;
        Index n = 0;
        each_row(bits & later & (~RowBits{0} >> (kBits - tuning::kWeightRows - bit)), first + row_of(word),
                 [&](Index sample) { samples[n++] = sample; });
        isa_.pack_weights(job_, samples, n, run.first, run.count, packed.slab, before, own.line, own.copy);
    }

    // The products of a run of W with a block of pairs.
    void add(Index i, const Run& block, Scratch& own) {
        const Run& run = runs_[static_cast<std::size_t>(i)];
        Index n = 0;
        for (Index f = 0; f < job_.n_factors(); ++f)
            for (Index w = 0; w < run.count; ++w)
                own.out[n++] = job_.out + (f * job_.weights() + run.first + w) * job_.pairs() + block.first;
        std::fill_n(own.out + n, isa_.f64.strip_rows, own.out[n - 1]);
        own.products.n_panels = ceil_divide(block.count, panel_);
        for (Index s = 0; s < slabs_; ++s) {
            const Packed& packed = packed_[static_cast<std::size_t>(i * slabs_ + s)];
            Index rows = 0, row = 0;
            for (Index word = s * slab_words_; word < (s + 1) * slab_words_; ++word) {
                each_row(run.rows[word], 0, [&](Index bit) {
                    own.rows[rows] = row;
                    own.samples[rows] = packed.samples[row++];
                    rows += static_cast<Index>(block.rows[word] >> bit & 1);
                });
            }
            if (rows == 0) continue;
            own.products.rows = rows;
            isa_.pack_products(job_, own.samples, rows, block.first, block.count, own.products, own.line, own.copy);
            isa_.cross_update(packed.slab, own.rows, n, own.products, block.count, own.out);
        }
    }

    const KroneckerJob& job_;
    const Isa& isa_;
    const Index panel_;
    const Index slabs_;       // together
    const Index slab_words_;  // of RowBits
    const Index words_;
    int threads_ = 1;
    Index most_weights_ = 0;  // of a run, for each factor
    Index most_runs_ = 0;
    Index capacity_ = 0;  // of a buffer
    std::array<Buffer, 2> buffers_;
    std::vector<Scratch> scratch_;

    // Of the slabs that are being added.
    RowBits* output_rows_ = nullptr;
    RowBits* feature_rows_ = nullptr;
    std::vector<Run> runs_;       // of W
    std::vector<Packed> packed_;  // (runs, slabs)
    std::vector<Index> batches_;  // the first run of each, and the end
    std::vector<Run> pair_runs_;  // of pairs,
    std::vector<Run> blocks_;     // and cut
};

}  // namespace

void kronecker_sums(const KroneckerJob& job, int threads, const Isa& isa) {
    if (job.samples > 0 && job.weights() > 0 && job.pairs() > 0 && !job.factors.empty())
        KroneckerSums(job, threads, isa).run();
}

}  // namespace gradhess::cpu
