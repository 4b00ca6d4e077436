#include "extend.hpp"

#include <algorithm>

#include "chains.hpp"
#include "rowwise.hpp"
#include "tuning.hpp"

namespace gradhess::cpu {
namespace {

// Rows that are there, one after the other, in the compute type.
Rows formed_rows(const void* data, DType dtype, Index parameters, Index count) {
    Rows rows;
    rows.data = data;
    rows.dtype = dtype;
    rows.samples = count;
    rows.features = parameters;
    rows.column_stride = static_cast<Index>(size_of(dtype));
    rows.row_stride = parameters * rows.column_stride;
    return rows;
}

// Forms rows [first, first + count) from row `at` of a slab on. The first of them that is not finite, or -1.
Index form(const Rows& rows, const double* weights, Index first, Index count, void* slab, double* slab_weights,
           Index at, const Isa& isa) {
    const Index p = rows.parameters();
    const double* given = weights ? weights + first : nullptr;
    const auto form_as = [&](auto* to) {
        to += at * p;
        materialize(part_of(rows, first, count), to, isa);
        if (slab_weights && given) std::copy_n(given, count, slab_weights + at);
        if (slab_weights && !given) std::fill_n(slab_weights + at, count, 1.0);
        if (all_finite(to, count * p) && all_finite(given, given ? count : 0)) return Index{-1};
        const DType dtype = sizeof *to == 4 ? DType::f32 : DType::f64;
        return first + first_nonfinite(formed_rows(to, dtype, p, count), given, 1, isa);
    };
    return computes_in_float(rows.dtype) ? form_as(static_cast<float*>(slab)) : form_as(static_cast<double*>(slab));
}

}  // namespace

Result extend(const Rows& rows, const double* weights, Moments& moments, const Waiting& waiting, const Options& options,
              const Isa& isa) {
    const Index slab = options.layout.slab_rows;
    const DType dtype = computes_in_float(rows.dtype) ? DType::f32 : DType::f64;
    const int last = waiting.count + rows.samples >= slab ? 1 : 0;  // the half for the rows that wait in the end
    Index done = 0;
    Index at = waiting.count;
    int half = at > 0 ? 0 : last;
    const auto wait = [&](Index count) -> Result {
        const Index bad = form(rows, weights, done, count, waiting.rows[half], waiting.weights[half], at, isa);
        done += count;
        return bad < 0 ? Result{} : Result{Outcome::nonfinite, bad};
    };
    if (at > 0) {
        Result result = wait(std::min(slab - at, rows.samples));
        if (result.outcome != Outcome::done || at + done < slab) return result;
        const Rows formed = formed_rows(waiting.rows[0], dtype, rows.parameters(), slab);
        Options alone = options;
        if (slab * work_of_row(formed.features, moments.structure) < tuning::kTeamMinWaitingWork) alone.threads = 1;
        result = accumulate(formed, waiting.weights[0], moments, alone, isa);
        if (result.outcome != Outcome::done) return result;
        half = last;
        at = 0;
    }
    const Index whole = (rows.samples - done) / slab * slab;
    Result result = accumulate(part_of(rows, done, whole), weights ? weights + done : nullptr, moments, options, isa);
    if (result.outcome != Outcome::done) {
        if (result.row >= 0) result.row += done;
        return result;
    }
    done += whole;
    // Rows that wait have left their loss behind, so a sum over the others means nothing.
    moments.scalars[kLoss] = moments.scalars[kBlockLoss] = 0.0;
    return done < rows.samples ? wait(rows.samples - done) : Result{};
}

}  // namespace gradhess::cpu
