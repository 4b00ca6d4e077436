#include "batch.hpp"

#include <cstring>

#include "totals.hpp"

namespace gradhess::cpu {

static void clear(Moments& moments) {
    if (moments.structure == Structure::sum) return;
    const Index entries = moments.parameters * (moments.structure == Structure::full ? moments.parameters : 1);
    std::memset(moments.scatter, 0, static_cast<std::size_t>(entries) * (moments.scatter_f32 ? 4 : 8));
}

Result sum_batch(const Rows& rows, const double* weights, Moments& moments, const double* scale, Options options,
                 const Isa& isa) {
    options.close = true;
    if (rows.samples == 0 || !scale) clear(moments);  // else every entry is written
    const Result result = accumulate(rows, weights, moments, options, isa);
    if (result.outcome != Outcome::done || !scale || moments.structure != Structure::full) return result;
    const Index p = moments.parameters;
    if (moments.scatter_f32) {
        auto* scatter = static_cast<float*>(moments.scatter);
        symmetrize(scatter, p, *scale, scatter, options.threads);
    } else {
        auto* scatter = static_cast<double*>(moments.scatter);
        symmetrize(scatter, p, *scale, scatter, options.threads);
    }
    return result;
}

}  // namespace gradhess::cpu
