// One scheduler for every width. A *team* of threads runs the three stages of a slab (prepare, centre and sum, rank
// update) with a barrier between them; a team of one needs none.
//
//   narrow rows, many blocks   each thread is a team of its own and takes whole blocks, each into a buffer; when the
//                              buffers of a round are full, all threads together add them to the total, in order.
//   otherwise                  all threads are one team and walk the slabs together, sharing rows, panels and tiles.
//
// Both do the same arithmetic on every entry, so results do not depend on the choice or on the number of threads.
// Threads meet a few times a round, or three times a slab: a thread that the system has put aside holds the others
// up, so they should not meet often.
#include "accumulate.hpp"

#include <omp.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <vector>

#include "totals.hpp"
#include "workspace.hpp"

namespace gradhess::cpu {
namespace {

struct Team {
    int rank;
    int size;

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

// What a team shares while it works on a slab.
template <class T>
struct SlabWork {
    Slab<T> slab;
    T* trees = nullptr;     // (slab rows / kTreeRows, padded), of which slab.trees is this or null
    double* sum = nullptr;  // (padded,) column sums of the slab
    std::atomic<Index> next_tile{0};
    std::atomic<bool> suspicious{false};
    std::atomic<bool> stop{false};
    Index bad_row = -1;
};

// A block on its way into the total.
template <class Scatter>
struct BlockBuffer {
    BlockMoments<Scatter> moments;
    double* delta = nullptr;  // (padded,)
    Correction by;
    bool complete = false;
};

// Sum of f over the rows of a slab, in eight chains that do not wait for each other.
template <class Function>
double sum_of(const double* values, Index count, Function f) {
    double chain[8] = {};
    Index r = 0;
    for (; r + 8 <= count; r += 8)
        for (int c = 0; c < 8; ++c) chain[c] += f(values[r + c]);
    for (int c = 0; r < count; ++r, ++c) chain[c] += f(values[r]);
    return ((chain[0] + chain[4]) + (chain[2] + chain[6])) + ((chain[1] + chain[5]) + (chain[3] + chain[7]));
}

// Whether entries [begin, end) are finite: a sum of zeros, unless one of them makes it NaN.
bool all_finite(const double* values, Index begin, Index end) {
    double zero = 0.0;
    for (Index j = begin; j < end; ++j) zero += values[j] * 0.0;
    return zero == 0.0;
}

// Rows of a slab whose panels leave room for the sums of its columns (sum_slab).
constexpr Index kFusedSlabRows = 16;

// Up to here the diagonals of a block's slabs are kept apart, so that threads can have blocks of their own.
constexpr Index kSlabScattersBytes = 1 << 20;

constexpr Index kNoRow = std::numeric_limits<Index>::max();

template <class T, class Scatter>
class Accumulation {
 public:
    Accumulation(const Rows& rows, const double* weights, Moments& moments, const Options& options,
                 const Kernels<T>& kernels, Scatter /* names the type of the accumulator */)
        : rows_(rows),
          weights_(weights),
          moments_(moments),
          options_(options),
          layout_(options.layout),
          kernels_(kernels),
          parameters_(rows.parameters()),
          padded_(round_up(parameters_, kernels.panel)),
          weighted_(weights != nullptr || rows.kind == RowKind::hessian),
          buffered_(moments.block_scatter != nullptr || (options.close && moments.scatter != nullptr)),
          narrow_(buffered_ && moments.structure == Structure::full && !weighted_ && rows.row_outputs() == 1 &&
                  parameters_ <= kernels.narrow_parameters),
          fused_(narrow_ || (moments.structure != Structure::full && !weighted_ && rows.row_outputs() == 1 &&
                             options.layout.slab_rows >= kFusedSlabRows)),
          by_slabs_(fused_ && !buffered_ && moments.structure == Structure::diagonal &&
                    slab_scatter_entries() * static_cast<Index>(sizeof(Scatter)) <= kSlabScattersBytes),
          open_rows_(moments.counts[kBlockRows]),
          n_blocks_((open_rows_ + rows.samples + layout_.block_rows - 1) / layout_.block_rows) {}

    Result run() {
        const double per_row = static_cast<double>(parameters_) *
                               (moments_.structure == Structure::full ? static_cast<double>(parameters_) / 2 + 4 : 4);
        const bool small = per_row * static_cast<double>(rows_.samples) < static_cast<double>(tuning::kTeamMinWork);
        const int threads = small ? 1 : std::max(1, options_.threads);
        const bool own_blocks = threads > 1 && sums_apart() && n_blocks_ >= threads;
        if (own_blocks) {
            run_own_blocks(threads);
        } else {
            run_together(threads);
        }
        Arena::of_this_thread().trim();
        if (bad_row_.load() != kNoRow) return {Outcome::nonfinite, bad_row_.load()};
        return {interrupted_.load() ? Outcome::interrupted : Outcome::done, -1};
    }

 private:
    using Work = SlabWork<T>;
    using Block = BlockMoments<Scatter>;
    using Buffer = BlockBuffer<Scatter>;

    // Whether blocks can be summed apart from the total.
    bool sums_apart() const { return buffered_ || by_slabs_ || moments_.structure == Structure::sum; }

    // ---- the two ways to share the work ----

    void run_own_blocks(int threads) {
        apart_ = true;
        const Index entries = by_slabs_ ? slab_scatter_entries() : scatter_entries(padded_);
        const Index bytes = std::max<Index>(1, entries * static_cast<Index>(sizeof(Scatter)));
        const Index per_thread = std::min(
            std::clamp(tuning::kBlockBufferBytes / bytes, tuning::kBlockBuffersWanted, tuning::kBlockBuffersMax),
            std::max<Index>(1, tuning::kBlockBufferBytesMax / bytes));
        const Index round = std::min(n_blocks_, per_thread * threads);
        std::vector<Work> works(static_cast<std::size_t>(threads));
        std::vector<RowScratch<T>> scratch(works.size());
        std::vector<Buffer> buffers(static_cast<std::size_t>(round));
        Arena::of_this_thread().place([&](Carver& carver) {
            for (std::size_t t = 0; t < works.size(); ++t) {
                carve_work(carver, works[t]);
                scratch[t] = carve_rows<T>(carver, rows_, layout_.slab_rows, kernels_.panel);
            }
            for (Buffer& buffer : buffers) carve_buffer(carver, buffer);
        });
        std::atomic<Index> next{0};
#pragma omp parallel num_threads(threads)
        {
            const Team alone{0, 1};
            const Team all{omp_get_thread_num(), omp_get_num_threads()};
            const auto t = static_cast<std::size_t>(all.rank);
            for (Index base = 0; base < n_blocks_; base += round) {
                const Index end = std::min(n_blocks_, base + round);
                for (Index b = next++; b < end; b = next++) {
                    if (all.rank == 0) poll();
                    if (interrupted_.load() || block_begin(b) >= bad_row_.load()) continue;
                    Block& block = buffers[static_cast<std::size_t>(b - base)].moments;
                    start_block(block, b);
                    sum_block(alone, works[t], scratch[t], block, b);
                }
                all.barrier();
                const bool stop = interrupted_.load() || bad_row_.load() != kNoRow;
                if (stop) break;
                if (all.rank == 0) next = end;
                add_blocks(all, buffers.data(), base, end);
            }
        }
    }

    void run_together(int threads) {
        Work work;
        Buffer buffer;
        std::vector<RowScratch<T>> scratch(static_cast<std::size_t>(threads));
        Arena::of_this_thread().place([&](Carver& carver) {
            carve_work(carver, work);
            carve_buffer(carver, buffer);
            for (auto& own : scratch) own = carve_rows<T>(carver, rows_, layout_.slab_rows, kernels_.panel);
        });
        const auto walk = [&](Team team) {
            for (Index b = 0; b < n_blocks_; ++b) {
                if (team.rank == 0) start_block(buffer.moments, b);
                if (!sum_block(team, work, scratch[static_cast<std::size_t>(team.rank)], buffer.moments, b)) return;
                team.barrier();  // every tile of the last slab is in
                add_blocks(team, &buffer, b, b + 1);
            }
        };
        if (threads == 1) {
            walk({0, 1});
        } else {
#pragma omp parallel num_threads(threads)
            walk({omp_get_thread_num(), omp_get_num_threads()});
        }
    }

    // ---- blocks ----

    Index block_begin(Index b) const { return std::max<Index>(0, b * layout_.block_rows - open_rows_); }
    Index block_end(Index b) const { return std::min(rows_.samples, (b + 1) * layout_.block_rows - open_rows_); }

    // Entries of a block's own scatter for rows of `width` parameters.
    Index scatter_entries(Index width) const {
        if (!buffered_) return 0;
        return moments_.structure == Structure::full ? width * width : width;
    }

    void carve_work(Carver& carver, Work& work) const {
        work.slab = carve_slab<T>(carver, rows_, weighted_, layout_.slab_rows, kernels_.panel);
        work.sum = carver.take<double>(padded_);
        work.trees = carver.take<T>(round_up(layout_.slab_rows, kTreeRows) / kTreeRows * padded_);
    }

    void carve_buffer(Carver& carver, Buffer& buffer) const {
        Block& block = buffer.moments;
        block.shift = carver.take<double>(padded_);
        block.sum = carver.take<double>(padded_);
        buffer.delta = carver.take<double>(padded_);
        if (buffered_) {
            block.scatter = carver.take<Scatter>(scatter_entries(padded_));
            block.stride = padded_;
        }
        if (apart_ && by_slabs_) block.slabs = carver.take<Scatter>(slab_scatter_entries());
    }

    // Entries of the diagonals of a block's slabs.
    Index slab_scatter_entries() const { return layout_.block_rows / layout_.slab_rows * padded_; }

    // Where the squares of the slab go whose first row is `first`.
    Scatter* diagonal_of(const Block& block, Index first) const {
        if (block.slabs) return block.slabs + slab_in_block(first) * padded_;
        return buffered_ ? block.scatter : static_cast<Scatter*>(moments_.scatter);
    }

    Index slab_in_block(Index first) const { return (open_rows_ + first) % layout_.block_rows / layout_.slab_rows; }

    // The diagonals of block b's slabs into the total, as if they had come one by one; entries as in add_scatter.
    void add_slab_scatters(Team team, const Block& block, Index b) const {
        auto* total = static_cast<Scatter*>(moments_.scatter);
        for (Index first = block_begin(b); first < block_end(b); first += layout_.slab_rows) {
            const Scatter* slab = block.slabs + slab_in_block(first) * padded_;
            for (Index j = team.rank; j < parameters_; j += team.size) total[j] += slab[j];
        }
    }

    void start_block(Block& block, Index b) const {
        std::fill_n(block.shift, padded_, 0.0);
        std::fill_n(block.sum, padded_, 0.0);
        clear_scatter(block.scatter);
        if (block.slabs) std::fill_n(block.slabs, slab_scatter_entries(), Scatter(0));
        block.weight = block.weight_squares = block.loss = 0.0;
        block.rows = 0;
        if (b == 0 && open_rows_ > 0) load_open(block);
    }

    // Zeros on and below the diagonal; what tiles write above it is rubbish anyway.
    void clear_scatter(Scatter* scatter) const {
        if (!buffered_ || moments_.structure != Structure::full) {
            std::fill_n(scatter, scatter_entries(padded_), Scatter(0));
            return;
        }
        for (Index i = 0; i < padded_; ++i) std::fill_n(scatter + i * padded_, i + 1, Scatter(0));
    }

    // Sums block b. False where the team is to stop.
    bool sum_block(Team team, Work& work, RowScratch<T>& scratch, Block& block, Index b) {
        for (Index first = block_begin(b); first < block_end(b); first += layout_.slab_rows) {
            const Index count = std::min(layout_.slab_rows, block_end(b) - first);
            if (!add_slab(team, work, scratch, block, first, count)) return false;
        }
        return true;
    }

    // Adds finished blocks to the totals, in order: first the scalars, which each need the ones before, then the
    // scatters, row by row of the total. The last block may stay open.
    void add_blocks(Team team, Buffer* buffers, Index begin, Index end) {
        if (team.rank == 0) {
            for (Index b = begin; b < end; ++b) {
                Buffer& buffer = buffers[b - begin];
                buffer.complete = options_.close || open_rows_ + block_end(b) == (b + 1) * layout_.block_rows;
                if (!buffer.complete) {
                    store_open(buffer.moments);
                    continue;
                }
                find_delta(moments_, buffer.moments, buffer.delta);
                buffer.by = correction_for(moments_, buffer.moments);
                add_scalars(moments_, buffer.moments, buffer.by, buffer.delta);
                if (b == 0 && open_rows_ > 0) clear_open_block<Scatter>(moments_);
            }
        }
        team.barrier();
        for (Index b = begin; b < end; ++b) {
            const Buffer& buffer = buffers[b - begin];
            if (buffer.moments.slabs) add_slab_scatters(team, buffer.moments, b);
            if (buffer.complete) add_scatter(moments_, buffer.moments, buffer.by, buffer.delta, team.rank, team.size);
        }
        team.barrier();  // before the buffers are used again
    }

    void load_open(Block& block) const {
        std::copy_n(moments_.block_shift, parameters_, block.shift);
        std::copy_n(moments_.block_sum, parameters_, block.sum);
        if (block.scatter)
            copy_scatter(static_cast<const Scatter*>(moments_.block_scatter), parameters_, block.scatter, padded_);
        block.weight = moments_.scalars[kBlockWeight];
        block.weight_squares = moments_.scalars[kBlockWeightSquares];
        block.loss = moments_.scalars[kBlockLoss];
        block.rows = moments_.counts[kBlockRows];
    }

    void store_open(const Block& block) {
        std::copy_n(block.shift, parameters_, moments_.block_shift);
        std::copy_n(block.sum, parameters_, moments_.block_sum);
        if (block.scatter)
            copy_scatter(block.scatter, padded_, static_cast<Scatter*>(moments_.block_scatter), parameters_);
        moments_.scalars[kBlockWeight] = block.weight;
        moments_.scalars[kBlockWeightSquares] = block.weight_squares;
        moments_.scalars[kBlockLoss] = block.loss;
        moments_.counts[kBlockRows] = block.rows;
    }

    // Lower triangles from one row stride to another; above the diagonal nothing is read or written.
    void copy_scatter(const Scatter* from, Index from_stride, Scatter* to, Index to_stride) const {
        if (moments_.structure == Structure::diagonal) {
            std::copy_n(from, parameters_, to);
            return;
        }
        for (Index i = 0; i < parameters_; ++i) std::copy_n(from + i * from_stride, i + 1, to + i * to_stride);
    }

    // ---- one slab ----

    bool add_slab(Team team, Work& work, RowScratch<T>& scratch, Block& block, Index first, Index count) {
        Slab<T>& slab = work.slab;
        if (team.rank == 0) {
            if (team.size > 1 || options_.threads == 1) poll();
            work.stop = interrupted_.load();
            slab.trees = finds_shift(block) ? nullptr : work.trees;
        }
        team.barrier();  // tiles of the slab before are done with the panels
        if (work.stop.load()) return false;
        if (team.rank == 0) {  // nobody looks at these before the next barrier
            slab.rows = count;
            work.next_tile = 0;
            work.suspicious = false;
        }

        if (fused_ && team.size == 1 && !finds_shift(block))  // one thread, one loop
            return add_fused_slab(team, work, scratch, block, first, count);

        const auto [row_begin, row_end] = team.share(count, 16);
        kernels_.prepare(rows_, weights_, first, row_begin, row_end,
                         moments_.centred && slab.trees ? block.shift : nullptr, slab, scratch);
        team.barrier();

        double weight = static_cast<double>(count);
        double weight_squares = weight;
        if (weighted_) {
            weight = sum_of(slab.weight, count, [](double w) { return w; });
            weight_squares = sum_of(slab.weight, count, [](double w) { return w * w; });
        }
        centre_panels(team, work, block, weight);
        team.barrier();
        if (work.suspicious.load() && !confirm_finite(team, work, scratch, first, count)) return false;

        if (team.rank == 0) add_sums(work, block, count, weight, weight_squares);
        if (moments_.structure == Structure::full) {
            look_ahead(team, scratch, first + count);
            update_tiles(work, scratch, block);
        } else if (moments_.structure == Structure::diagonal) {
            update_diagonal(team, work, diagonal_of(block, first));
        }
        return true;
    }

    // The first slab that has any weight gives the shift: the ones before it add nothing, whatever they hold.
    bool finds_shift(const Block& block) const { return moments_.centred && block.weight == 0.0; }

    bool add_fused_slab(Team team, Work& work, RowScratch<T>& scratch, Block& block, Index first, Index count) {
        const double* shift = moments_.centred ? block.shift : nullptr;
        if (moments_.structure == Structure::full) {
            look_ahead(team, scratch, first + count);
            const Target<Scatter> target{block.scatter, padded_, parameters_, true};
            if constexpr (sizeof(Scatter) == 8) {
                kernels_.narrow_slab(rows_, first, count, shift, work.slab, work.sum, target, scratch);
            } else {
                kernels_.narrow_slab_narrow(rows_, first, count, shift, work.slab, work.sum, target, scratch);
            }
        } else {
            Scatter* diagonal = moments_.structure == Structure::diagonal ? diagonal_of(block, first) : nullptr;
            if constexpr (sizeof(Scatter) == 8) {
                kernels_.sum_slab(rows_, first, count, shift, work.slab, work.sum, diagonal, scratch);
            } else {
                kernels_.sum_slab_narrow(rows_, first, count, shift, work.slab, work.sum, diagonal, scratch);
            }
        }
        const double weight = static_cast<double>(count);
        if (!all_finite(work.sum, 0, parameters_)) {
            work.slab.rows = count;
            work.slab.trees = nullptr;
            kernels_.prepare(rows_, weights_, first, 0, count, nullptr, work.slab, scratch);
            centre_panels(team, work, block, weight);
            if (!confirm_finite(team, work, scratch, first, count)) return false;
        }
        add_sums(work, block, count, weight, weight);
        return true;
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
        if (!all_finite(work.sum, first, last)) work.suspicious = true;
        if (moments_.centred && divisor != 0.0 && !all_finite(block.shift, first, last)) work.suspicious = true;
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

    void update_tiles(Work& work, RowScratch<T>& scratch, Block& block) {
        constexpr Index columns = tuning::kTileColumns * 8 / sizeof(T);
        constexpr Index height = tuning::kTileRows;
        const Index strips = round_up(parameters_, kernels_.strip_rows);
        Scatter* data = buffered_ ? block.scatter : static_cast<Scatter*>(moments_.scatter);
        const Target<Scatter> target{data, buffered_ ? padded_ : parameters_, parameters_, buffered_};
        const Index rows_of_tiles = (strips + height - 1) / height;
        Index column_block = 0;
        Index before = 0;  // tiles in the column blocks before this one
        for (Index tile = work.next_tile++;; tile = work.next_tile++) {
            Index in_block = rows_of_tiles - column_block * columns / height;
            while (in_block > 0 && tile - before >= in_block) {
                before += in_block;
                ++column_block;
                in_block = rows_of_tiles - column_block * columns / height;
            }
            if (in_block <= 0) return;
            const Index row = (column_block * columns / height + tile - before) * height;
            const Tile area{row, std::min(row + height, strips), column_block * columns, (column_block + 1) * columns};
            if constexpr (sizeof(Scatter) == 8) {
                kernels_.rank_update(work.slab, area, target, scratch);
            } else {
                kernels_.rank_update_narrow(work.slab, area, target, scratch);
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
        if (!options_.interrupt.requested || interrupted_.load()) return;
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
    const Kernels<T>& kernels_;
    const Index parameters_;
    const Index padded_;
    const bool weighted_;
    const bool buffered_;
    const bool narrow_;
    const bool fused_;     // a slab is one loop of one thread
    const bool by_slabs_;  // the diagonals of slabs wait, one by one, where those of blocks must not be added up
    const Index open_rows_;
    const Index n_blocks_;
    bool apart_ = false;  // blocks are summed apart from the total
    std::atomic<bool> interrupted_{false};
    std::atomic<Index> bad_row_{kNoRow};
    std::chrono::steady_clock::time_point polled_ = std::chrono::steady_clock::now();
};

}  // namespace

Result accumulate(const Rows& rows, const double* weights, Moments& moments, const Options& options, const Isa& isa) {
    if (rows.samples == 0) return {};
    const auto run = [&](const auto& kernels, auto accumulator) {
        return Accumulation(rows, weights, moments, options, kernels, accumulator).run();
    };
    if (computes_in_float(rows.dtype)) return moments.scatter_f32 ? run(isa.f32, float{}) : run(isa.f32, double{});
    return moments.scatter_f32 ? run(isa.f64, float{}) : run(isa.f64, double{});
}

}  // namespace gradhess::cpu
