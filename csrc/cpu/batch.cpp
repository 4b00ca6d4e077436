#include "batch.hpp"

#include "totals.hpp"

namespace gradhess::cpu {

Result sum_batch(const Rows& rows, const double* weights, Moments& moments, const double* scale, Options options,
                 const Isa& isa) {
    options.close = true;
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
