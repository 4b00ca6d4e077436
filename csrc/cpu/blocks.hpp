// Blocks of rows on their way into the total: a block is summed by itself, about its own shift, and then added, in
// order. The last one may stay open: it waits in the caller's state for the rows that complete it.
#pragma once

#include <atomic>

#include "pages.hpp"
#include "team.hpp"
#include "totals.hpp"
#include "workspace.hpp"

namespace gradhess::cpu {

template <class Scatter>
struct BlockBuffer {
    BlockMoments<Scatter> moments;
    double* delta = nullptr;  // (padded,)
    Correction by;
    bool complete = false;
    std::atomic<Index> summed{0};  // rows before this one are in the block, where slabs are summed apart
};

// Slabs [begin, end), counted from the first row of the first block.
struct SlabRange {
    Index begin, end;
    Index size() const { return end - begin; }
};

template <class Scatter>
class Blocks {
 public:
    using Block = BlockMoments<Scatter>;
    using Buffer = BlockBuffer<Scatter>;

    // With `close` the last block is added as well, whatever its length.
    Blocks(Moments& moments, const Layout& layout, Index samples, Index padded, bool close)
        : moments_(moments),
          block_rows_(layout.block_rows),
          slab_rows_(layout.slab_rows),
          samples_(samples),
          parameters_(moments.parameters),
          padded_(padded),
          close_(close),
          buffered_(moments.block_scatter != nullptr || (close && moments.scatter != nullptr)),
          open_rows_(moments.counts[kBlockRows]) {}

    // Whether a block has a scatter of its own; otherwise its products go straight into the total.
    bool buffered() const { return buffered_; }

    Index count() const { return (open_rows_ + samples_ + block_rows_ - 1) / block_rows_; }
    Index begin(Index b) const { return std::max<Index>(0, b * block_rows_ - open_rows_); }
    Index end(Index b) const { return std::min(samples_, (b + 1) * block_rows_ - open_rows_); }

    // The slabs of the job's rows in blocks [first, last), and what belongs to one.
    SlabRange slabs(Index first, Index last) const {
        return {(open_rows_ + begin(first)) / slab_rows_, (open_rows_ + end(last - 1) + slab_rows_ - 1) / slab_rows_};
    }
    Index first_row(Index slab) const { return slab * slab_rows_ - open_rows_; }
    Index block_of(Index slab) const { return slab * slab_rows_ / block_rows_; }
    // Rows of the slab of block b whose first one is `first`.
    Index rows_of_slab(Index b, Index first) const { return std::min(slab_rows_, end(b) - first); }

    // Of the scatters that belong to one block.
    Index scatter_bytes() const {
        return (by_slabs_ ? slab_entries() : scatter_entries()) * static_cast<Index>(sizeof(Scatter));
    }

    // A diagonal without scatters of blocks: those of its slabs, kept one by one, let blocks be summed apart all the
    // same.
    Index slab_scatter_bytes() const { return slab_entries() * static_cast<Index>(sizeof(Scatter)); }
    void keep_slabs() { by_slabs_ = true; }

    void carve(Carver& carver, Buffer& buffer) const {
        Block& block = buffer.moments;
        block.shift = carver.take<double>(padded_);
        block.sum = carver.take<double>(padded_);
        buffer.delta = carver.take<double>(padded_);
        if (buffered_) {
            block.scatter = carver.take<Scatter>(scatter_entries());
            block.stride = padded_;
        }
        if (by_slabs_) block.slabs = carver.take<Scatter>(slab_entries());
    }

    // A slab of a block that is summed apart. If the block keeps those of its slabs, it has the diagonal.
    void carve_part(Carver& carver, Block& part) const {
        part.sum = carver.take<double>(padded_);
        if (buffered_) {
            part.scatter = carver.take<Scatter>(scatter_entries());
            part.stride = padded_;
        }
        part.part_of_block = true;
    }
    Index part_bytes() const {
        return scatter_entries() * static_cast<Index>(sizeof(Scatter)) + padded_ * static_cast<Index>(sizeof(double));
    }

    // Where the squares of the slab go whose first row is `first`.
    Scatter* diagonal(const Block& block, Index first) const {
        if (block.slabs) return block.slabs + slab_in_block(first) * padded_;
        return buffered_ ? block.scatter : static_cast<Scatter*>(moments_.scatter);
    }

    // A total that nothing was added to may lie in memory that the system has not given yet: each thread has its part
    // of it given. Nothing is written: the total may be a matrix of the caller's that is not zero.
    void map_total(Team team) const {
        if (moments_.structure != Structure::full || moments_.counts[kRows] + open_rows_ > 0) return;
        constexpr auto entry = static_cast<Index>(sizeof(Scatter));
        const Index entries = parameters_ * parameters_;
        if (entries * entry < tuning::kMappedBytes) return;
        const auto [begin, end] = team.share(entries, static_cast<Index>(kLargePage) / entry);
        if (begin == end) return;
        map_for_writing(static_cast<Scatter*>(moments_.scatter) + begin,
                        static_cast<std::size_t>((end - begin) * entry));
    }

    void start(Block& block, Index b) const {
        std::fill_n(block.shift, padded_, 0.0);
        if (block.slabs) std::fill_n(block.slabs, slab_entries(), Scatter(0));
        clear_sums(block);
        if (b == 0 && open_rows_ > 0) load_open(block);
    }

    void start_part(Block& part, const Block& block) const {
        part.shift = block.shift;
        part.slabs = block.slabs;
        clear_sums(part);
    }

    // Adds slabs [begin, end), which were summed apart, to their blocks, in order; the team shares the entries.
    void add_parts(Team team, Buffer* buffers, Index base, const Block* parts, Index begin, Index end) const {
        const auto [first_entry, last_entry] = team.share(parameters_, 8);
        const Index rows = !buffered_ ? 0 : moments_.structure == Structure::full ? parameters_ : 1;
        for (Index slab = begin; slab < end; ++slab) {
            const Block& part = parts[slab - begin];
            if (part.rows == 0) continue;
            Buffer& buffer = buffers[block_of(slab) - base];
            Block& block = buffer.moments;
            for (Index j = first_entry; j < last_entry; ++j) block.sum[j] += part.sum[j];
            for (Index i = team.rank; i < rows; i += team.size) {
                const Index length = moments_.structure == Structure::full ? i + 1 : parameters_;
                for (Index j = 0; j < length; ++j) block.scatter[i * padded_ + j] += part.scatter[i * padded_ + j];
            }
            if (team.rank > 0) continue;
            block.weight += part.weight;
            block.weight_squares += part.weight_squares;
            block.loss += part.loss;
            block.rows += part.rows;
            buffer.summed = first_row(slab) + slab_rows_;
        }
    }

    // Whether the scatter of the first block is the total's: it is a whole batch that is not centred.
    bool is_total() const {
        return close_ && buffered_ && moments_.structure == Structure::full && !moments_.centred && count() == 1;
    }

    // Adds blocks [first, last) to the totals, in order, from buffers[0], ...: first the scalars, which each need the
    // ones before, then the scatters, whose rows the team shares. A block that is not complete is put back into the
    // state.
    void add(Team team, Buffer* buffers, Index first, Index last) {
        if (team.rank == 0)
            for (Index b = first; b < last; ++b) add_all_but_scatter(buffers[b - first], b);
        team.barrier();
        for (Index b = first; b < last; ++b) {
            const Buffer& buffer = buffers[b - first];
            if (buffer.moments.slabs) add_slabs(team, buffer.moments, b);
            if (buffer.complete)
                add_scatter(moments_, buffer.moments, buffer.by, buffer.delta, team.rank, team.size, close_ && b == 0);
        }
        team.barrier();  // before the buffers are used again
    }

    // What one thread does of that, before all add the scatter.
    void add_all_but_scatter(Buffer& buffer, Index b) {
        buffer.complete = close_ || open_rows_ + end(b) == (b + 1) * block_rows_;
        if (!buffer.complete) {
            store_open(buffer.moments);
            return;
        }
        find_delta(moments_, buffer.moments, buffer.delta);
        buffer.by = correction_for(moments_, buffer.moments);
        add_scalars(moments_, buffer.moments, buffer.by, buffer.delta);
        if (b == 0 && open_rows_ > 0) clear_open_block<Scatter>(moments_);
    }

 private:
    Index scatter_entries() const {
        if (!buffered_) return 0;
        return moments_.structure == Structure::full ? padded_ * padded_ : padded_;
    }

    Index slab_entries() const { return block_rows_ / slab_rows_ * padded_; }
    Index slab_in_block(Index first) const { return (open_rows_ + first) % block_rows_ / slab_rows_; }

    // The diagonals of block b's slabs into the total, as if they had come one by one; entries as in add_scatter.
    void add_slabs(Team team, const Block& block, Index b) const {
        auto* total = static_cast<Scatter*>(moments_.scatter);
        for (Index row = begin(b); row < end(b); row += slab_rows_) {
            const Scatter* slab = block.slabs + slab_in_block(row) * padded_;
            for (Index j = team.rank; j < parameters_; j += team.size) total[j] += slab[j];
        }
    }

    void clear_sums(Block& block) const {
        std::fill_n(block.sum, padded_, 0.0);
        clear(block.scatter);
        block.weight = block.weight_squares = block.loss = 0.0;
        block.rows = 0;
    }

    // Zeros on and below the diagonal; what tiles write above it is rubbish anyway.
    void clear(Scatter* scatter) const {
        if (!buffered_ || moments_.structure != Structure::full) {
            std::fill_n(scatter, scatter_entries(), Scatter(0));
            return;
        }
        for (Index i = 0; i < padded_; ++i) std::fill_n(scatter + i * padded_, i + 1, Scatter(0));
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

    Moments& moments_;
    const Index block_rows_;
    const Index slab_rows_;
    const Index samples_;
    const Index parameters_;
    const Index padded_;
    const bool close_;
    const bool buffered_;
    const Index open_rows_;
    bool by_slabs_ = false;
};

}  // namespace gradhess::cpu
