// One slab of rows into the moments of its block: by a team of threads in three stages (prepare, centre and sum, rank
// update) with a barrier between them, or by one thread in one loop where the kernels have one.
#pragma once

#include "accumulate.hpp"
#include "blocks.hpp"
#include "chains.hpp"
#include "ending.hpp"
#include "tiling.hpp"

namespace gradhess::cpu {

// What a team shares while it works on a slab.
template <class T>
struct SlabWork {
    Slab<T> slab;
    T* trees = nullptr;     // (slab rows / kTreeRows, padded), of which slab.trees is this or null
    double* sum = nullptr;  // (padded,) column sums of the slab
    Tiling tiling;
    TileQueue tiles;
    std::atomic<bool> suspicious{false};
    std::atomic<bool> stop{false};
    Index bad_row = -1;
};

// Rows of a slab whose panels leave room for the sums of its columns (sum_slab).
inline constexpr Index kFusedSlabRows = 16;

template <class T, class Scatter>
class SlabSums {
 public:
    using Work = SlabWork<T>;
    using Block = BlockMoments<Scatter>;

    SlabSums(const Rows& rows, const double* weights, Moments& moments, const Layout& layout, const Kernels<T>& kernels,
             const Blocks<Scatter>& blocks, Ending& ending)
        : rows_(rows),
          weights_(weights),
          moments_(moments),
          layout_(layout),
          kernels_(kernels),
          blocks_(blocks),
          ending_(ending),
          parameters_(rows.parameters()),
          padded_(round_up(parameters_, kernels_.panel)),
          weighted_(weights != nullptr || rows.kind == RowKind::hessian),
          by_lanes_(moments.structure == Structure::full && parameters_ <= kLaneParameters<T>),
          fused_(rows.row_outputs() == 1 &&
                 (moments.structure == Structure::full ? by_lanes_ && blocks_.buffered()
                                                       : !weighted_ && layout_.slab_rows >= kFusedSlabRows)) {}

    // Whether one thread sums a slab in one loop.
    bool fused() const { return fused_; }

    // The first member of a team, which is the calling thread, asks at each slab whether the job is to be interrupted.
    void poll_at_each_slab() { polls_ = true; }

    // ---- what a team, and a thread of it, work in ----

    void carve_work(Carver& carver, Work& work) const {
        work.slab = carve_slab<T>(carver, rows_, weighted_, layout_.slab_rows, kernels_.panel);
        work.sum = carver.take<double>(padded_);
        work.trees = carver.take<T>(round_up(layout_.slab_rows, kTreeRows) / kTreeRows * padded_);
    }

    void share_tiles(Work& work, int threads) const {
        if (moments_.structure != Structure::full) return;
        constexpr Index columns = tuning::kTileColumns * 8 / sizeof(T);
        static_assert(columns >= kLaneParameters<T>);
        // A tile that is summed by lanes transposes what it needs for itself.
        const Index height = by_lanes_ && threads == 1 ? kLaneParameters<T> : tuning::kTileRows;
        work.tiling = Tiling(round_up(parameters_, kernels_.strip_rows), height, columns);
        work.tiles.share_between(threads);
    }

    RowScratch<T> carve_scratch(Carver& carver) const {
        RowScratch<T> scratch = carve_rows<T>(carver, rows_, layout_.slab_rows, kernels_.panel);
        if (by_lanes_) carve_columns(carver, scratch, parameters_, weighted_, layout_.slab_rows);
        return scratch;
    }

    // ---- a slab ----

    // Rows [first, first + count), which are a slab, or the part of it that the job has. False where the team is to
    // stop.
    bool add_slab(Team team, Work& work, RowScratch<T>& scratch, Block& block, Index first, Index count) {
        Slab<T>& slab = work.slab;
        if (team.rank == 0) {
            if (polls_) ending_.poll();
            work.stop = ending_.interrupted();
            slab.trees = finds_shift(block) ? nullptr : work.trees;
        }
        team.barrier();  // tiles of the slab before are done with the panels
        if (work.stop.load()) return false;
        if (team.rank == 0) {  // nobody looks at these before the next barrier
            slab.rows = count;
            work.tiles.fill(work.tiling.count());
            work.suspicious = false;
        }

        if (fused_ && team.size == 1 && !finds_shift(block))  // one thread, one loop
            return add_fused_slab(team, work, scratch, block, first, count);

        const auto [row_begin, row_end] = team.share(count, 16);
        kernels_.prepare(rows_, weights_, first, row_begin, row_end,
                         moments_.centred && slab.trees ? block.shift : nullptr, slab, scratch);
        team.barrier();

        const auto [weight, weight_squares] = weigh(slab, count);
        centre_panels(team, work, block, weight);
        team.barrier();
        if (work.suspicious.load() && !confirm_finite(team, work, scratch, first, count)) return false;

        if (team.rank == 0) add_sums(work, block, count, weight, weight_squares);
        if (moments_.structure == Structure::full) {
            look_ahead(team, scratch, first + count);
            update_tiles(team, work, scratch, block);
        } else if (moments_.structure == Structure::diagonal) {
            update_diagonal(team, work, blocks_.diagonal(block, first));
        }
        return true;
    }

    // The first slab that has any weight gives the shift: the ones before it add nothing, whatever they hold.
    bool finds_shift(const Block& block) const {
        return moments_.centred && !block.part_of_block && block.weight == 0.0;
    }

 private:
    bool add_fused_slab(Team team, Work& work, RowScratch<T>& scratch, Block& block, Index first, Index count) {
        const double* shift = moments_.centred ? block.shift : nullptr;
        if (moments_.structure == Structure::full) {
            look_ahead(team, scratch, first + count);
            const Target<Scatter> target{block.scatter, padded_, parameters_, true};
            if constexpr (sizeof(Scatter) == 8) {
                kernels_.lane_slab(rows_, weights_, first, count, shift, work.slab, work.sum, target, scratch);
            } else {
                kernels_.lane_slab_narrow(rows_, weights_, first, count, shift, work.slab, work.sum, target, scratch);
            }
        } else {
            Scatter* diagonal = moments_.structure == Structure::diagonal ? blocks_.diagonal(block, first) : nullptr;
            if constexpr (sizeof(Scatter) == 8) {
                kernels_.sum_slab(rows_, first, count, shift, work.slab, work.sum, diagonal, scratch);
            } else {
                kernels_.sum_slab_narrow(rows_, first, count, shift, work.slab, work.sum, diagonal, scratch);
            }
        }
        const auto [weight, weight_squares] = weigh(work.slab, count);
        if (!all_finite(work.sum, parameters_)) {
            work.slab.rows = count;
            work.slab.trees = nullptr;
            kernels_.prepare(rows_, weights_, first, 0, count, nullptr, work.slab, scratch);
            centre_panels(team, work, block, weight);
            if (!confirm_finite(team, work, scratch, first, count)) return false;
        }
        add_sums(work, block, count, weight, weight_squares);
        return true;
    }

    struct Weights {
        double sum, squares;
    };

    Weights weigh(const Slab<T>& slab, Index count) const {
        if (!weighted_) return {static_cast<double>(count), static_cast<double>(count)};
        return {sum_of(slab.weight, count, [](double w) { return w; }),
                sum_of(slab.weight, count, [](double w) { return w * w; })};
    }

    void add_sums(const Work& work, Block& block, Index count, double weight, double weight_squares) const {
        for (Index j = 0; j < parameters_; ++j) block.sum[j] += work.sum[j];
        block.weight += weight;
        block.weight_squares += weight_squares;
        block.rows += count;
        if (rows_.kind != RowKind::dense)
            block.loss += sum_of(work.slab.value, count, [](double value) { return value; });
    }

    void centre_panels(Team team, Work& work, Block& block, double weight) {
        const auto [begin, end] = team.share(work.slab.n_panels, 1);
        double divisor = 0.0;
        if (finds_shift(block)) divisor = weight;
        kernels_.centre_and_sum(work.slab, begin, end, divisor, moments_.centred ? block.shift : nullptr, work.sum);
        const Index first = begin * kernels_.panel;
        const Index last = end * kernels_.panel;
        if (!all_finite(work.sum + first, last - first)) work.suspicious = true;
        if (moments_.centred && divisor != 0.0 && !all_finite(block.shift + first, last - first))
            work.suspicious = true;
    }

    // A sum that is not finite has a row to blame, or only overflowed: then it is formed anew in float64.
    bool confirm_finite(Team team, Work& work, RowScratch<T>& scratch, Index first, Index count) {
        if (team.rank == 0) {
            work.bad_row = kernels_.first_nonfinite(rows_, weights_, first, count, scratch);
            if (work.bad_row >= 0) ending_.name_bad_row(first + work.bad_row);
        }
        team.barrier();
        if (work.bad_row >= 0) return false;
        const auto [begin, end] = team.share(work.slab.n_panels, 1);
        kernels_.sum_wide(work.slab, begin, end, work.sum);
        team.barrier();
        return true;
    }

    // Names this member's share of the next slab, to be fetched while the tiles are computed.
    void look_ahead(Team team, RowScratch<T>& scratch, Index next) const {
        const auto entry = static_cast<Index>(size_of(rows_.dtype));
        const Index row_bytes = rows_.features * entry;
        const bool columns = rows_.row_stride == entry && rows_.column_stride > rows_.row_stride;
        const Index count = std::min(layout_.slab_rows, rows_.samples - next);
        scratch.ahead = {};
        const auto [begin, end] = team.share(std::max<Index>(count, 0), 16);
        if (begin == end || (rows_.row_stride != row_bytes && !columns)) return;
        const char* from = static_cast<const char*>(rows_.data) + (next + begin) * rows_.row_stride;
        const Index bytes = (end - begin) * rows_.row_stride;
        scratch.ahead =
            columns ? MemoryAhead(from, bytes, rows_.features, rows_.column_stride) : MemoryAhead(from, bytes);
    }

    void update_tiles(Team team, Work& work, RowScratch<T>& scratch, Block& block) {
        Scatter* data = blocks_.buffered() ? block.scatter : static_cast<Scatter*>(moments_.scatter);
        const bool own = blocks_.buffered();
        const Target<Scatter> target{data, own ? padded_ : parameters_, parameters_, own};
        for (Index tile = work.tiles.take(team.rank); tile >= 0; tile = work.tiles.take(team.rank)) {
            const Tile area = work.tiling.tile(tile);
            if constexpr (sizeof(Scatter) == 8) {
                (by_lanes_ ? kernels_.lane_update : kernels_.rank_update)(work.slab, area, target, scratch);
            } else {
                (by_lanes_ ? kernels_.lane_update_narrow : kernels_.rank_update_narrow)(work.slab, area, target,
                                                                                        scratch);
            }
        }
    }

    void update_diagonal(Team team, Work& work, Scatter* diagonal) {
        const auto [begin, end] = team.share(work.slab.n_panels, 1);
        if constexpr (sizeof(Scatter) == 8) {
            kernels_.add_squares(work.slab, begin, end, parameters_, diagonal);
        } else {
            kernels_.add_squares_narrow(work.slab, begin, end, parameters_, diagonal);
        }
    }

    const Rows& rows_;
    const double* weights_;
    Moments& moments_;
    const Layout layout_;
    const Kernels<T>& kernels_;
    const Blocks<Scatter>& blocks_;
    Ending& ending_;
    const Index parameters_;
    const Index padded_;
    const bool weighted_;
    const bool by_lanes_;
    const bool fused_;
    bool polls_ = false;
};

}  // namespace gradhess::cpu
