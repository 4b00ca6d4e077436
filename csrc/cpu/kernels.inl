// The body of every kernels_<isa>.cpp: one template, instantiated for the vector length that the file names.
#if defined(__aarch64__)
#define GRADHESS_VECTOR_REGISTER(v) "+w"(v)
#else
#define GRADHESS_VECTOR_REGISTER(v) "+v"(v)
#endif

#include "group_sums.hpp"
#include "kernel_table.hpp"
#include "probe.hpp"
#include "rank_update.hpp"
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
    table.rank_update = rank_update<T, double>;
    table.add_squares = add_squares<T, double>;
    table.rank_update_narrow = rank_update<T, float>;
    table.add_squares_narrow = add_squares<T, float>;
    table.materialize = materialize<T>;
    table.norms = norms<T>;
    table.multiply = multiply<T>;
    table.multiply_transposed = multiply_transposed<T>;
    table.first_nonfinite = first_nonfinite<T>;
    table.group_sums = group_sums<T>;
    return table;
}

extern const Isa kIsa;
const Isa kIsa = {GRADHESS_ISA_NAME, make_kernels<double>(), make_kernels<float>(), spin<double>, spin<float>};

}  // namespace gradhess::cpu::GRADHESS_ISA
