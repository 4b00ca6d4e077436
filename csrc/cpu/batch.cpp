#include "batch.hpp"

#include <cstring>

namespace gradhess::cpu {

static void clear(Moments& moments) {
    if (moments.structure == Structure::sum) return;
    const Index entries = moments.parameters * (moments.structure == Structure::full ? moments.parameters : 1);
    std::memset(moments.scatter, 0, static_cast<std::size_t>(entries) * (moments.scatter_f32 ? 4 : 8));
}

Result sum_batch(const Rows& rows, const double* weights, Moments& moments, Options options, const Isa& isa) {
    options.close = true;
    if (rows.samples == 0 || !options.scale) clear(moments);  // else every entry is written
    return accumulate(rows, weights, moments, options, isa);
}

}  // namespace gradhess::cpu
