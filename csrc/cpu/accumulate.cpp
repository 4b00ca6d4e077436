// One scheduler for every width. A *team* of threads works on a slab at a time (slab_sums.hpp).
//
//   many blocks          each thread is a team of its own and takes whole blocks, each into a buffer, from where all
//                        threads together add them to the total, in order, when the buffers are full.
//   few blocks           each thread is a team of its own and takes slabs, which all together add to their blocks.
//   one slab, wide rows  all threads are one team and walk the slabs together, sharing rows, panels and tiles.
//
// All do the same arithmetic on every entry, so results do not depend on the choice (sharing.hpp) or on the number of
// threads.
// Threads meet a few times a round, or three times a slab: a thread that the system has put aside holds the others
// up, so they should not meet often.
#include "accumulate.hpp"

#include <atomic>
#include <vector>

#include "sharing.hpp"
#include "slab_sums.hpp"

namespace gradhess::cpu {
namespace {

template <class T, class Scatter>
class Accumulation {
 public:
    Accumulation(const Rows& rows, const double* weights, Moments& moments, const Options& options, const Isa& isa)
        : rows_(rows),
          moments_(moments),
          options_(options),
          isa_(isa),
          parameters_(rows.parameters()),
          small_(static_cast<double>(work_of_row(parameters_, moments.structure)) * static_cast<double>(rows.samples) <
                 static_cast<double>(tuning::kTeamMinWork)),
          blocks_(moments, options.layout, rows.samples, round_up(parameters_, kernels_of<T>(isa).panel),
                  options.close),
          ending_(options.interrupt, !small_),
          slabs_(rows, weights, moments, options.layout, kernels_of<T>(isa), blocks_, ending_),
          by_slabs_(slabs_.fused() && !blocks_.buffered() && moments.structure == Structure::diagonal &&
                    blocks_.slab_scatter_bytes() <= tuning::kSlabScattersBytes) {}

    Result run() {
        const int threads = small_ ? 1 : std::max(1, options_.threads);
        const Sharing sharing = share(threads);
        if (sharing.own_blocks > 0) run_own_blocks(threads, sharing.own_blocks);
        if (sharing.own_blocks < blocks_.count() && !ending_.has_come()) {
            if (sharing.rest == Sharing::Rest::slabs) {
                run_own_slabs(threads, sharing.own_blocks);
            } else {
                run_together(sharing.rest == Sharing::Rest::alone ? 1 : threads, sharing.own_blocks);
            }
        }
        if (!ending_.has_come() && !finished_) finish(static_cast<Scatter*>(moments_.scatter), parameters_, threads);
        Arena::of_this_thread().trim();
        return ending_.result();
    }

 private:
    using Work = SlabWork<T>;
    using Block = BlockMoments<Scatter>;
    using Buffer = BlockBuffer<Scatter>;

    // What a thread needs that works on slabs of its own.
    struct Single {
        Work work;
        RowScratch<T> scratch;
    };
    using Singles = std::vector<Single>;

    // Whether blocks can be summed apart from the total.
    bool sums_apart() const { return blocks_.buffered() || by_slabs_ || moments_.structure == Structure::sum; }

    Sharing share(int threads) const {
        if (threads == 1) return {0, Sharing::Rest::alone};
        if (!sums_apart()) return {0, Sharing::Rest::together};
        return share_rows({.rows = rows_.samples,
                           .first_block = blocks_.end(0),
                           .threads = threads,
                           .parameters = parameters_,
                           .structure = moments_.structure,
                           .layout = options_.layout,
                           .slabs_apart = blocks_.part_bytes() <= tuning::kOwnSlabBytes});
    }

    // The result that Options::scale asks for, from a lower triangle.
    void finish(const Scatter* lower, Index stride, int threads) {
        finished_ = true;
        if (!options_.scale || moments_.structure != Structure::full) return;
        symmetrize(lower, stride, parameters_, *options_.scale, static_cast<Scatter*>(moments_.scatter), threads, isa_);
    }

    // ---- the ways to share the work ----

    // The first `count` blocks.
    void run_own_blocks(int threads, Index count) {
        if (by_slabs_) blocks_.keep_slabs();
        const Index round = std::min(count, kept_by_thread(blocks_.scatter_bytes()) * threads);
        Singles singles = single_threads(threads);
        std::vector<Buffer> buffers(static_cast<std::size_t>(round));
        Arena::of_this_thread().place([&](Carver& carver) {
            carve_singles(carver, singles);
            for (Buffer& buffer : buffers) blocks_.carve(carver, buffer);
        });
        std::atomic<Index> next{0};
        run_team(threads, [&](Team all) {
            const auto t = static_cast<std::size_t>(all.rank);
            blocks_.map_total(all);
            for (Index base = 0; base < count; base += round) {
                const Index end = std::min(count, base + round);
                for (Index b = next++; b < end; b = next++) {
                    if (all.rank == 0) ending_.poll();
                    if (ending_.interrupted() || blocks_.begin(b) >= ending_.bad_row()) continue;
                    Block& block = buffers[static_cast<std::size_t>(b - base)].moments;
                    blocks_.start(block, b);
                    sum_block({}, singles[t].work, singles[t].scratch, block, b);
                }
                all.barrier();
                if (ending_.has_come()) break;
                if (all.rank == 0) next = end;
                blocks_.add(all, buffers.data(), base, end);
            }
        });
    }

    // The blocks from `first` on, as many at a time as there are threads.
    void run_own_slabs(int threads, Index first) {
        const Index count = blocks_.count();
        const Index together = std::min<Index>(count - first, threads);
        if (by_slabs_) blocks_.keep_slabs();
        const Index round =
            std::min(kept_by_thread(blocks_.part_bytes()) * threads, blocks_.slabs(first, first + together).size());
        Singles singles = single_threads(threads);
        std::vector<Buffer> buffers(static_cast<std::size_t>(together));
        std::vector<Block> parts(static_cast<std::size_t>(round));
        TileQueue queue;
        queue.share_between(threads);
        Arena::of_this_thread().place([&](Carver& carver) {
            carve_singles(carver, singles);
            for (Buffer& buffer : buffers) blocks_.carve(carver, buffer);
            for (Block& part : parts) blocks_.carve_part(carver, part);
        });
        run_team(threads, [&](Team all) {
            Single& own = singles[static_cast<std::size_t>(all.rank)];
            blocks_.map_total(all);
            for (Index base = first; base < count; base += together) {
                const Index end = std::min(count, base + together);
                const SlabRange slabs = blocks_.slabs(base, end);
                for (Index b = base + all.rank; b < end; b += all.size)
                    open_block(own, buffers[static_cast<std::size_t>(b - base)], b);
                for (Index at = slabs.begin; at < slabs.end; at += round) {
                    const Index n = std::min(round, slabs.end - at);
                    if (all.rank == 0) queue.fill(n);
                    all.barrier();  // the blocks have their shifts
                    for (Index k = queue.take(all.rank); k >= 0; k = queue.take(all.rank)) {
                        if (all.rank == 0) ending_.poll();
                        sum_part(own, parts[static_cast<std::size_t>(k)], at + k, buffers.data(), base);
                    }
                    all.barrier();
                    // The first slabs of all blocks came first: a bad row that one of them has may not be the first
                    // one.
                    if (ending_.interrupted() || ending_.bad_row() < blocks_.first_row(at + n)) return;
                    blocks_.add_parts(all, buffers.data(), base, parts.data(), at, at + n);
                }
                all.barrier();  // a block that stays open is put away by one thread
                blocks_.add(all, buffers.data(), base, end);
            }
        });
    }

    // Starts block b, and sums its first slabs into it, up to the one that gives its shift.
    void open_block(Single& own, Buffer& buffer, Index b) {
        Block& block = buffer.moments;
        blocks_.start(block, b);
        Index row = blocks_.begin(b);
        while (slabs_.finds_shift(block) && row < blocks_.end(b) && row < ending_.bad_row()) {
            const Index rows = blocks_.rows_of_slab(b, row);
            if (!slabs_.add_slab({}, own.work, own.scratch, block, row, rows)) return;
            row += rows;
        }
        buffer.summed = row;
    }

    // Sums a slab, if that is not done yet: into its block, where the ones before it are, otherwise into `part`.
    void sum_part(Single& own, Block& part, Index slab, Buffer* buffers, Index base) {
        const Index first = blocks_.first_row(slab);
        const Index b = blocks_.block_of(slab);
        const Index rows = blocks_.rows_of_slab(b, first);
        Buffer& buffer = buffers[b - base];
        const Index summed = buffer.summed.load(std::memory_order_acquire);
        part.rows = 0;
        if (first < summed || first >= ending_.bad_row() || ending_.interrupted()) return;
        if (first == summed) {
            if (slabs_.add_slab({}, own.work, own.scratch, buffer.moments, first, rows))
                buffer.summed.store(first + rows, std::memory_order_release);
        } else {
            blocks_.start_part(part, buffer.moments);
            slabs_.add_slab({}, own.work, own.scratch, part, first, rows);
        }
    }

    // The blocks from `first` on.
    void run_together(int threads, Index first) {
        slabs_.poll_at_each_slab();
        Work work;
        slabs_.share_tiles(work, threads);
        Buffer buffer;
        std::vector<RowScratch<T>> scratch(static_cast<std::size_t>(threads));
        Arena::of_this_thread().place([&](Carver& carver) {
            slabs_.carve_work(carver, work);
            blocks_.carve(carver, buffer);
            for (auto& own : scratch) own = slabs_.carve_scratch(carver);
        });
        const bool straight = threads == 1 && options_.scale && blocks_.is_total();
        const auto walk = [&](Team team) {
            blocks_.map_total(team);
            for (Index b = first; b < blocks_.count(); ++b) {
                if (team.rank == 0) blocks_.start(buffer.moments, b);
                if (!sum_block(team, work, scratch[static_cast<std::size_t>(team.rank)], buffer.moments, b)) return;
                team.barrier();  // every tile of the last slab is in
                if (straight) {
                    blocks_.add_all_but_scatter(buffer, b);
                    finish(buffer.moments.scatter, buffer.moments.stride, 1);
                } else {
                    blocks_.add(team, &buffer, b, b + 1);
                }
            }
        };
        run_team(threads, walk);
    }

    Singles single_threads(int threads) const {
        Singles singles(static_cast<std::size_t>(threads));
        for (Single& own : singles) slabs_.share_tiles(own.work, 1);
        return singles;
    }

    void carve_singles(Carver& carver, Singles& singles) const {
        for (Single& own : singles) {
            slabs_.carve_work(carver, own.work);
            own.scratch = slabs_.carve_scratch(carver);
        }
    }

    // How many blocks or slabs of so many bytes a thread keeps, until all together add them.
    static Index kept_by_thread(Index bytes) {
        const Index each = std::max<Index>(1, bytes);
        return std::min(
            std::clamp(tuning::kBlockBufferBytes / each, tuning::kBlockBuffersWanted, tuning::kBlockBuffersMax),
            std::max<Index>(1, tuning::kBlockBufferBytesMax / each));
    }

    // Sums block b. False where the team is to stop.
    bool sum_block(Team team, Work& work, RowScratch<T>& scratch, Block& block, Index b) {
        for (Index first = blocks_.begin(b); first < blocks_.end(b); first += options_.layout.slab_rows) {
            if (!slabs_.add_slab(team, work, scratch, block, first, blocks_.rows_of_slab(b, first))) return false;
        }
        return true;
    }

    const Rows& rows_;
    Moments& moments_;
    const Options& options_;
    const Isa& isa_;
    const Index parameters_;
    const bool small_;  // one thread does it, and nobody asks whether to stop
    Blocks<Scatter> blocks_;
    Ending ending_;
    SlabSums<T, Scatter> slabs_;
    const bool by_slabs_;  // the diagonals of slabs wait, one by one, where those of blocks must not be added up
    bool finished_ = false;
};

}  // namespace

Result accumulate(const Rows& rows, const double* weights, Moments& moments, const Options& options, const Isa& isa) {
    if (rows.samples == 0) return {};
    const auto run = [&](auto number, auto accumulator) {
        using Job = Accumulation<decltype(number), decltype(accumulator)>;
        return Job(rows, weights, moments, options, isa).run();
    };
    if (computes_in_float(rows.dtype)) return moments.scatter_f32 ? run(float{}, float{}) : run(float{}, double{});
    return moments.scatter_f32 ? run(double{}, float{}) : run(double{}, double{});
}

}  // namespace gradhess::cpu
