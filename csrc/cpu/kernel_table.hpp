// Dispatch is data: what one instruction set offers, as a table that can be inspected and forced.
#pragma once

#include "grouped.hpp"
#include "kronecker_job.hpp"
#include "pair_job.hpp"
#include "slab.hpp"

namespace gradhess::cpu {

template <class T>
struct Kernels {
    int panel;       // columns of a packed panel
    int strip_rows;  // rows of the scatter matrix that one tile covers
    int tile_columns;

    void (*prepare)(const Rows&, const double* weights, Index first, Index begin, Index end, const double* shift,
                    Slab<T>&, RowScratch<T>&);
    void (*centre_and_sum)(Slab<T>&, Index begin, Index end, double divisor, double* shift, double* sum);
    void (*sum_wide)(const Slab<T>&, Index begin, Index end, double* sum);
    void (*rank_update)(const Slab<T>&, const Tile&, const Target<double>&, RowScratch<T>&);
    void (*rank_update_narrow)(const Slab<T>&, const Tile&, const Target<float>&, RowScratch<T>&);
    void (*lane_slab)(const Rows&, const double* weights, Index begin, Index count, const double* shift, Slab<T>&,
                      double* sum, const Target<double>&, RowScratch<T>&);
    void (*lane_slab_narrow)(const Rows&, const double* weights, Index begin, Index count, const double* shift,
                             Slab<T>&, double* sum, const Target<float>&, RowScratch<T>&);
    void (*lane_update)(const Slab<T>&, const Tile&, const Target<double>&, RowScratch<T>&);
    void (*lane_update_narrow)(const Slab<T>&, const Tile&, const Target<float>&, RowScratch<T>&);
    void (*sum_slab)(const Rows&, Index begin, Index count, const double* shift, Slab<T>&, double* sum,
                     double* diagonal, RowScratch<T>&);
    void (*sum_slab_narrow)(const Rows&, Index begin, Index count, const double* shift, Slab<T>&, double* sum,
                            float* diagonal, RowScratch<T>&);
    void (*add_squares)(const Slab<T>&, Index begin, Index end, Index parameters, double* diagonal);
    void (*add_squares_narrow)(const Slab<T>&, Index begin, Index end, Index parameters, float* diagonal);

    // Of a triangle whose entries are of type T (mirror.hpp).
    void (*mirror)(const T* lower, Index stride, Index n, double scale, T* out, Index begin, Index end);

    // Outer rows (outer.hpp).
    void (*pack_plain)(const T* rows, Index count, Index features, bool unit_column, Slab<T>&, Index row0);
    void (*outer_update)(const Slab<T>&, const double* scale, const Tile&, const Target<double>&, T* scaled);
    void (*outer_update_narrow)(const Slab<T>&, const double* scale, const Tile&, const Target<float>&, T* scaled);

    void (*materialize)(const Rows&, Index first, Index count, T* out, RowScratch<T>&);
    void (*errors)(const Rows&, Index first, Index count, double* out, RowScratch<T>&);
    void (*norms)(const Rows&, Index first, Index count, double* out, RowScratch<T>&);
    void (*multiply)(const Rows&, Index first, Index count, const double* vectors, const double* units, Index m,
                     double* products, double* out, RowScratch<T>&);
    void (*multiply_transposed)(const Rows&, Index first, Index count, const double* u, const double* vectors,
                                const double* units, Index m, double* products, double* out, RowScratch<T>&);
    Index (*first_nonfinite)(const Rows&, const double* weights, Index first, Index count, RowScratch<T>&);
    Index (*group_sums)(const Rows&, const Groups&, Index first, Index count, T* out, GroupScratch<T>&);
};

struct Isa {
    const char* name;
    Kernels<double> f64;
    Kernels<float> f32;
    // Sums of Kronecker products (kronecker.hpp).
    void (*pack_weights)(const KroneckerJob&, const Index* samples, Index count, Index first, Index n, Slab<double>&,
                         Index row0, double* line, double* copy);
    void (*pack_products)(const KroneckerJob&, const Index* samples, Index count, Index first, Index n, Slab<double>&,
                          double* line, double* copy);
    void (*cross_update)(const Slab<double>& left, const Index* left_rows, Index n_left, const Slab<double>& right,
                         Index n_right, double* const* out);
    // Dependence of one input on each of a block of kPairLanes inputs: out (kPairLanes,). The block is (targets,
    // kPairLanes), of wider integers where targets have weights.
    void (*pair_dependence)(const PairJob&, const PairRow&, const std::uint8_t* block, double* out);
    void (*weighted_pair_dependence)(const PairJob&, const PairRow&, const std::int64_t* block, double* out);
    // Multiply-adds from registers alone, for `rounds` rounds: returns the FLOP done. For the benchmarks' ceiling.
    double (*spin_f64)(Index rounds);
    double (*spin_f32)(Index rounds);
};

template <class T>
[[gnu::always_inline]] inline const Kernels<T>& kernels_of(const Isa& isa) {
    if constexpr (sizeof(T) == 8) {
        return isa.f64;
    } else {
        return isa.f32;
    }
}

}  // namespace gradhess::cpu
