// The body of every kernels_<isa>.cpp: one template, instantiated for the vector length that the file names.
#include "diagonal.hpp"
#include "group_sums.hpp"
#include "kernel_table.hpp"
#include "kronecker.hpp"
#include "lane_slab.hpp"
#include "mirror.hpp"
#include "outer.hpp"
#include "pair_dependence.hpp"
#include "probe.hpp"
#include "row_products.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

template <class T>
constexpr Kernels<T> make_kernels() {
    Kernels<T> table{};
    table.panel = kPanel<T>;
    table.strip_rows = kStripRows<T>;
    table.tile_columns = kTileVectors * Simd<T>::lanes;
    table.prepare = prepare<T>;
    table.centre_and_sum = centre_and_sum<T>;
    table.sum_wide = sum_wide<T>;
    table.rank_update = rank_update<T, double>;
    table.lane_slab = lane_slab<T, double>;
    table.lane_slab_narrow = lane_slab<T, float>;
    table.lane_update = lane_update<T, double>;
    table.lane_update_narrow = lane_update<T, float>;
    table.sum_slab = sum_slab<T, double>;
    table.sum_slab_narrow = sum_slab<T, float>;
    table.add_squares = add_squares<T, double>;
    table.rank_update_narrow = rank_update<T, float>;
    table.add_squares_narrow = add_squares<T, float>;
    table.mirror = mirror<T>;
    table.pack_plain = pack_plain<T>;
    table.outer_update = outer_update<T, double>;
    table.outer_update_narrow = outer_update<T, float>;
    table.materialize = materialize<T>;
    table.errors = errors<T>;
    table.norms = norms<T>;
    table.multiply = multiply<T>;
    table.multiply_transposed = multiply_transposed<T>;
    table.first_nonfinite = first_nonfinite<T>;
    table.group_sums = group_sums<T>;
    return table;
}

extern const Isa kIsa;
const Isa kIsa = {GRADHESS_ISA_NAME, make_kernels<double>(), make_kernels<float>(),    pack_weights, pack_products,
                  cross_update,      pair_dependence,        weighted_pair_dependence, spin<double>, spin<float>};

}  // namespace gradhess::cpu::GRADHESS_ISA
