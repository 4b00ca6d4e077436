// Jobs are tiles of blocks: (p, q) with p >= q, and within a block a square of rows and columns on or below its
// diagonal. A job sums its tile over all slabs of the piece in a buffer that stays in the core's own cache, and then
// writes it: so the result is touched once a piece, not once a slab. Each entry is summed slab after slab, whoever does
// it and however blocks are cut, so its bits depend on neither.
#include "outer_gram.hpp"

#include <numeric>
#include <vector>

#include "team.hpp"
#include "workspace.hpp"

namespace gradhess::cpu {
namespace {

struct BlockTile {
    Index p, q;
    Tile area;
};

std::vector<BlockTile> tiles_of(Index outputs, Index width, Index unit, int threads) {
    const Index blocks = outputs * (outputs + 1) / 2;
    Index cuts = (width + tuning::kOuterTileMax - 1) / tuning::kOuterTileMax;
    while (threads > 1 && blocks * cuts * (cuts + 1) / 2 < tuning::kOuterTilesPerThread * threads &&
           width > tuning::kOuterTileMin * cuts)
        ++cuts;
    const Index side = round_up((width + cuts - 1) / cuts, unit);
    std::vector<BlockTile> tiles;
    for (Index p = 0; p < outputs; ++p)
        for (Index q = 0; q <= p; ++q)
            for (Index row = 0; row < width; row += side)
                for (Index column = 0; column <= row; column += side)
                    tiles.push_back({p, q, {row, std::min(row + side, width), column, std::min(column + side, width)}});
    return tiles;
}

template <class T, class Scatter>
class OuterGram {
 public:
    OuterGram(const OuterPiece& piece, const OuterResult& result, int threads, const Kernels<T>& kernels)
        : piece_(piece),
          result_(result),
          kernels_(kernels),
          width_(piece.width()),
          parameters_(width_ * piece.outputs),
          out_(static_cast<Scatter*>(result.data)),
          threads_(small() ? 1 : std::max(1, threads)),
          tiles_(tiles_of(piece.outputs, width_, std::lcm<Index>(kernels.tile_columns, kernels.panel), threads_)) {}

    void run() {
        Index side = 0;
        for (const BlockTile& tile : tiles_) side = std::max(side, tile.area.row_end - tile.area.row_begin);
        stride_ = round_up(side, kernels_.tile_columns) + kernels_.tile_columns;
        const Index n_slabs = (piece_.samples + piece_.slab_rows - 1) / piece_.slab_rows;
        slabs_.resize(static_cast<std::size_t>(n_slabs));
        std::vector<Scratch> scratch(static_cast<std::size_t>(threads_));
        Arena::of_this_thread().place([&](Carver& carver) {
            errors_ = carver.take<double>(piece_.outputs * piece_.samples);
            for (Index s = 0; s < n_slabs; ++s) slabs_[static_cast<std::size_t>(s)] = carve(carver, s);
            for (Scratch& own : scratch) {
                own.sum = carver.take<Scatter>(round_up(side, kernels_.strip_rows) * stride_);
                own.scale = carver.take<double>(piece_.slab_rows);
                own.scaled = carver.take<T>(piece_.slab_rows * (kernels_.panel + 1));
            }
        });
        for (Index i = 0; i < piece_.samples; ++i)
            for (Index p = 0; p < piece_.outputs; ++p)
                errors_[p * piece_.samples + i] = piece_.errors[i * piece_.outputs + p];
        run_team(threads_, [&](Team team) {
            Scratch& own = scratch[static_cast<std::size_t>(team.rank)];
#pragma omp for schedule(dynamic, 1)
            for (Index s = 0; s < n_slabs; ++s) pack(s);
#pragma omp for schedule(dynamic, 1)
            for (std::size_t t = 0; t < tiles_.size(); ++t) compute(tiles_[t], own);
        });
        Arena::of_this_thread().trim();
    }

 private:
    struct Scratch {
        Scatter* sum = nullptr;   // a tile, rows of stride_ entries
        double* scale = nullptr;  // (slab_rows,)
        T* scaled = nullptr;      // a panel, and the scales in T
    };

    bool small() const {
        const double per_row = 0.25 * static_cast<double>(parameters_) * static_cast<double>(parameters_);
        return per_row * static_cast<double>(piece_.samples) < static_cast<double>(tuning::kTeamMinWork);
    }

    Slab<T> carve(Carver& carver, Index s) const {
        Slab<T> slab = carve_panels<T>(carver, width_, piece_.slab_rows, kernels_.panel);
        slab.rows = std::min(piece_.slab_rows, piece_.samples - s * piece_.slab_rows);
        return slab;
    }

    void pack(Index s) {
        Slab<T>& slab = slabs_[static_cast<std::size_t>(s)];
        const T* rows = static_cast<const T*>(piece_.rows) + s * piece_.slab_rows * piece_.features;
        kernels_.pack_plain(rows, slab.rows, piece_.features, piece_.unit_column, slab, 0);
    }

    // s_pq of the rows of slab s.
    void find_scale(const BlockTile& tile, Index s, double* scale) const {
        const Index first = s * piece_.slab_rows;
        const Index rows = slabs_[static_cast<std::size_t>(s)].rows;
        const double* e = errors_ + tile.p * piece_.samples + first;
        const double* f = errors_ + tile.q * piece_.samples + first;
        if (piece_.curvature) {
            const double own = tile.p == tile.q ? 1.0 : 0.0;
            for (Index r = 0; r < rows; ++r) scale[r] = e[r] * (own - f[r]);
        } else {
            for (Index r = 0; r < rows; ++r) scale[r] = e[r] * f[r];
        }
        if (piece_.row_weight)
            for (Index r = 0; r < rows; ++r) scale[r] *= piece_.row_weight[first + r];
    }

    void compute(const BlockTile& tile, Scratch& own) {
        const Tile& area = tile.area;
        const Index height = round_up(area.row_end - area.row_begin, kernels_.strip_rows);
        std::fill_n(own.sum, height * stride_, Scatter(0));
        Scatter* origin = own.sum - area.row_begin * stride_ - area.column_begin;
        if (!result_.begin)
            for (Index i = area.row_begin; i < area.row_end; ++i)
                std::copy_n(at(tile.p, i, tile.q, area.column_begin), columns_of(area, i),
                            origin + i * stride_ + area.column_begin);
        const Target<Scatter> target{origin, stride_, width_, true};
        for (std::size_t s = 0; s < slabs_.size(); ++s) {
            find_scale(tile, static_cast<Index>(s), own.scale);
            if constexpr (sizeof(Scatter) == 8) {
                kernels_.outer_update(slabs_[s], own.scale, area, target, own.scaled);
            } else {
                kernels_.outer_update_narrow(slabs_[s], own.scale, area, target, own.scaled);
            }
        }
        write(tile, origin);
    }

    // Entries of row i of a tile on and below the diagonal of its block.
    static Index columns_of(const Tile& area, Index i) { return std::min(area.column_end, i + 1) - area.column_begin; }

    Scatter* at(Index p, Index i, Index q, Index j) const {
        return out_ + (p * width_ + i) * parameters_ + q * width_ + j;
    }

    void write(const BlockTile& tile, const Scatter* origin) {
        const auto [p, q, area] = tile;
        for (Index i = area.row_begin; i < area.row_end; ++i) {
            const Scatter* row = origin + i * stride_ + area.column_begin;
            std::copy_n(row, columns_of(area, i), at(p, i, q, area.column_begin));
            if (result_.end) std::copy_n(row, columns_of(area, i), at(q, i, p, area.column_begin));
        }
        if (!result_.end) return;
        for (Index j = area.column_begin; j < area.column_end; ++j) {  // the mirror image within the block
            const Index begin = std::max(area.row_begin, j);
            Scatter* mirror = at(p, j, q, 0);
            for (Index i = begin; i < area.row_end; ++i) mirror[i] = origin[i * stride_ + j];
            std::copy_n(mirror + begin, area.row_end - begin, at(q, j, p, begin));
        }
    }

    const OuterPiece& piece_;
    const OuterResult& result_;
    const Kernels<T>& kernels_;
    const Index width_;
    const Index parameters_;
    Scatter* const out_;
    const int threads_;
    const std::vector<BlockTile> tiles_;
    Index stride_ = 0;
    std::vector<Slab<T>> slabs_;
    double* errors_ = nullptr;  // (outputs, samples)
};

}  // namespace

void outer_gram(const OuterPiece& piece, const OuterResult& result, int threads, const Isa& isa) {
    if (!piece.single) {
        OuterGram<double, double>(piece, result, threads, isa.f64).run();
    } else if (!result.single) {
        OuterGram<float, double>(piece, result, threads, isa.f32).run();
    } else {
        OuterGram<float, float>(piece, result, threads, isa.f32).run();
    }
}

}  // namespace gradhess::cpu
