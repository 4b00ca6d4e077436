// One scheduler for every width. A *team* of threads runs the three stages of a slab (prepare, centre and sum, rank
// update) with a barrier between them; a team of one needs none.
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
#include <chrono>
#include <limits>
#include <vector>

#include "blocks.hpp"
#include "chains.hpp"
#include "sharing.hpp"
#include "tiling.hpp"

namespace gradhess::cpu {
namespace {

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
constexpr Index kFusedSlabRows = 16;

constexpr Index kNoRow = std::numeric_limits<Index>::max();

template <class T, class Scatter>
class Accumulation {
 public:
    Accumulation(const Rows& rows, const double* weights, Moments& moments, const Options& options, const Isa& isa)
        : rows_(rows),
          weights_(weights),
          moments_(moments),
          options_(options),
          layout_(options.layout),
          isa_(isa),
          kernels_(kernels_of<T>(isa)),
          parameters_(rows.parameters()),
          padded_(round_up(parameters_, kernels_.panel)),
          weighted_(weights != nullptr || rows.kind == RowKind::hessian),
          blocks_(moments, layout_, rows.samples, padded_, options.close),
          by_lanes_(moments.structure == Structure::full && parameters_ <= kLaneParameters<T>),
          fused_(rows.row_outputs() == 1 &&
                 (moments.structure == Structure::full ? by_lanes_ && blocks_.buffered()
                                                       : !weighted_ && options.layout.slab_rows >= kFusedSlabRows)),
          by_slabs_(fused_ && !blocks_.buffered() && moments.structure == Structure::diagonal &&
                    blocks_.slab_scatter_bytes() <= tuning::kSlabScattersBytes) {}

    Result run() {
        const auto per_row = static_cast<double>(work_of_row(parameters_, moments_.structure));
        const bool small = per_row * static_cast<double>(rows_.samples) < static_cast<double>(tuning::kTeamMinWork);
        const int threads = small ? 1 : std::max(1, options_.threads);
        polls_ = !small && options_.interrupt.requested;
        const Sharing sharing = share(threads);
        if (sharing.own_blocks > 0) run_own_blocks(threads, sharing.own_blocks);
        if (sharing.own_blocks < blocks_.count() && !stops()) {
            if (sharing.rest == Sharing::Rest::slabs) {
                run_own_slabs(threads, sharing.own_blocks);
            } else {
                run_together(sharing.rest == Sharing::Rest::alone ? 1 : threads, sharing.own_blocks);
            }
        }
        if (!stops() && !finished_) finish(static_cast<Scatter*>(moments_.scatter), parameters_, threads);
        Arena::of_this_thread().trim();
        if (bad_row_.load() != kNoRow) return {Outcome::nonfinite, bad_row_.load()};
        return {interrupted_.load() ? Outcome::interrupted : Outcome::done, -1};
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
                           .layout = layout_,
                           .slabs_apart = blocks_.part_bytes() <= tuning::kOwnSlabBytes});
    }

    bool stops() const { return interrupted_.load() || bad_row_.load() != kNoRow; }

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
                    if (all.rank == 0) poll();
                    if (interrupted_.load() || blocks_.begin(b) >= bad_row_.load()) continue;
                    Block& block = buffers[static_cast<std::size_t>(b - base)].moments;
                    blocks_.start(block, b);
                    sum_block({}, singles[t].work, singles[t].scratch, block, b);
                }
                all.barrier();
                if (stops()) break;
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
                        if (all.rank == 0) poll();
                        sum_part(own, parts[static_cast<std::size_t>(k)], at + k, buffers.data(), base);
                    }
                    all.barrier();
                    // The first slabs of all blocks came first: a bad row that one of them has may not be the first
                    // one.
                    if (interrupted_.load() || bad_row_.load() < blocks_.first_row(at + n)) return;
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
        while (finds_shift(block) && row < blocks_.end(b) && row < bad_row_.load()) {
            const Index rows = blocks_.rows_of_slab(b, row);
            if (!add_slab({}, own.work, own.scratch, block, row, rows)) return;
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
        if (first < summed || first >= bad_row_.load() || interrupted_.load()) return;
        if (first == summed) {
            if (add_slab({}, own.work, own.scratch, buffer.moments, first, rows))
                buffer.summed.store(first + rows, std::memory_order_release);
        } else {
            blocks_.start_part(part, buffer.moments);
            add_slab({}, own.work, own.scratch, part, first, rows);
        }
    }

    // The blocks from `first` on.
    void run_together(int threads, Index first) {
        together_ = true;
        Work work;
        share_tiles(work, threads);
        Buffer buffer;
        std::vector<RowScratch<T>> scratch(static_cast<std::size_t>(threads));
        Arena::of_this_thread().place([&](Carver& carver) {
            carve_work(carver, work);
            blocks_.carve(carver, buffer);
            for (auto& own : scratch) own = carve_scratch(carver);
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
        for (Single& own : singles) share_tiles(own.work, 1);
        return singles;
    }

    void carve_singles(Carver& carver, Singles& singles) const {
        for (Single& own : singles) {
            carve_work(carver, own.work);
            own.scratch = carve_scratch(carver);
        }
    }

    // How many blocks or slabs of so many bytes a thread keeps, until all together add them.
    static Index kept_by_thread(Index bytes) {
        const Index each = std::max<Index>(1, bytes);
        return std::min(
            std::clamp(tuning::kBlockBufferBytes / each, tuning::kBlockBuffersWanted, tuning::kBlockBuffersMax),
            std::max<Index>(1, tuning::kBlockBufferBytesMax / each));
    }

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

    // Sums block b. False where the team is to stop.
    bool sum_block(Team team, Work& work, RowScratch<T>& scratch, Block& block, Index b) {
        for (Index first = blocks_.begin(b); first < blocks_.end(b); first += layout_.slab_rows) {
            if (!add_slab(team, work, scratch, block, first, blocks_.rows_of_slab(b, first))) return false;
        }
        return true;
    }

    // ---- one slab ----

    bool add_slab(Team team, Work& work, RowScratch<T>& scratch, Block& block, Index first, Index count) {
        Slab<T>& slab = work.slab;
        if (team.rank == 0) {
            if (together_) poll();
            work.stop = interrupted_.load();
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
            if (work.bad_row >= 0) {
                const Index row = first + work.bad_row;
                for (Index seen = bad_row_.load(); row < seen && !bad_row_.compare_exchange_weak(seen, row);) {}
            }
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
        scratch.ahead = scratch.ahead_end = nullptr;
        const Index row_bytes = rows_.features * static_cast<Index>(size_of(rows_.dtype));
        const Index count = std::min(layout_.slab_rows, rows_.samples - next);
        if (rows_.row_stride != row_bytes || count <= 0) return;
        const auto [begin, end] = team.share(count, 16);
        const char* base = static_cast<const char*>(rows_.data) + next * row_bytes;
        scratch.ahead = base + begin * row_bytes;
        scratch.ahead_end = base + end * row_bytes;
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

    // ---- interruption: asked on the calling thread, at most every 50 ms ----

    void poll() {
        if (!polls_ || interrupted_.load()) return;
        const auto now = std::chrono::steady_clock::now();
        if (now - polled_ < std::chrono::milliseconds(50)) return;
        polled_ = now;
        if (options_.interrupt.requested(options_.interrupt.context)) interrupted_ = true;
    }

    const Rows& rows_;
    const double* weights_;
    Moments& moments_;
    const Options& options_;
    const Layout layout_;
    const Isa& isa_;
    const Kernels<T>& kernels_;
    const Index parameters_;
    const Index padded_;
    const bool weighted_;
    Blocks<Scatter> blocks_;
    const bool by_lanes_;
    const bool fused_;       // a slab is one loop of one thread
    const bool by_slabs_;    // the diagonals of slabs wait, one by one, where those of blocks must not be added up
    bool together_ = false;  // a team has the slab; its first member is the calling thread
    bool polls_ = false;     // not where it would cost more than to be done
    bool finished_ = false;
    std::atomic<bool> interrupted_{false};
    std::atomic<Index> bad_row_{kNoRow};
    std::chrono::steady_clock::time_point polled_ = std::chrono::steady_clock::now();
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
