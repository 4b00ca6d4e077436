#include "rowwise.hpp"

#include <omp.h>

#include <atomic>
#include <limits>
#include <type_traits>
#include <vector>

#include "chains.hpp"
#include "team.hpp"
#include "workspace.hpp"

namespace gradhess::cpu {
namespace {

// Rows of a job: fewer where they are wide or few, so that there are jobs for all threads. Whole slabs.
Index job_rows(const Rows& rows) {
    const Index of_bytes = tuning::kRowJobBytes / std::max<Index>(1, rows.features * 8);
    const Index wanted = std::min(of_bytes, rows.samples / tuning::kRowJobsWanted);
    return std::clamp<Index>(wanted / 256 * 256, 256, tuning::kRowJob);
}

// As many threads as have a job, and enough to do.
int team_size(const Rows& rows, Index jobs, int threads) {
    const Index cost = rows.outputs > 1 ? tuning::kRowOutputCost : 1;
    const Index bytes = rows.samples * 8 * (rows.features + cost * rows.outputs);
    return static_cast<int>(
        std::clamp<Index>(std::min(jobs, bytes / tuning::kRowThreadBytes), 1, std::max(1, threads)));
}

// Runs job(first, count, scratch, extra) for fixed ranges of rows; extra is room for `extra_per_row` doubles a row.
template <class T, class Job>
void for_jobs(const Rows& rows, Index extra_per_row, int threads, Index panel, Job job) {
    const Index of_job = job_rows(rows);
    const Index jobs = (rows.samples + of_job - 1) / of_job;
    const int team = team_size(rows, jobs, threads);
    std::vector<RowScratch<T>> scratch(static_cast<std::size_t>(team));
    std::vector<double*> extra(scratch.size());
    Arena::of_this_thread().place([&](Carver& carver) {
        for (std::size_t t = 0; t < scratch.size(); ++t) {
            scratch[t] = carve_rows<T>(carver, rows, 0, panel);
            extra[t] = carver.take<double>(scratch[t].group * extra_per_row);
            if (extra_per_row > 1) scratch[t].group = group_rows(rows, extra_per_row);  // shrinks
        }
    });
    share_out(team, jobs, [&](Index j, std::size_t t) {
        const Index first = j * of_job;
        job(first, std::min(of_job, rows.samples - first), scratch[t], extra[t]);
    });
    Arena::of_this_thread().trim();
}

// Calls run.operator()<T>(kernels) for the compute type of the rows.
template <class Run>
auto with_kernels(const Rows& rows, const Isa& isa, Run run) {
    return computes_in_float(rows.dtype) ? run(isa.f32, float{}) : run(isa.f64, double{});
}

}  // namespace

void materialize(const Rows& rows, void* out, const Isa& isa) {
    with_kernels(rows, isa, [&](const auto& kernels, auto zero) {
        using T = decltype(zero);
        for_jobs<T>(rows, 0, 1, kernels.panel, [&](Index first, Index count, RowScratch<T>& scratch, double*) {
            kernels.materialize(rows, first, count, static_cast<T*>(out) + first * rows.parameters(), scratch);
        });
    });
}

Index first_nonfinite(const Rows& rows, const double* weights, int threads, const Isa& isa) {
    constexpr Index none = std::numeric_limits<Index>::max();
    std::atomic<Index> found{none};
    with_kernels(rows, isa, [&](const auto& kernels, auto zero) {
        using T = decltype(zero);
        for_jobs<T>(rows, 0, threads, kernels.panel, [&](Index first, Index count, RowScratch<T>& scratch, double*) {
            if (first > found.load()) return;
            const Index row = kernels.first_nonfinite(rows, weights, first, count, scratch);
            if (row < 0) return;
            for (Index seen = found.load(); first + row < seen && !found.compare_exchange_weak(seen, first + row);) {}
        });
    });
    return found.load() == none ? -1 : found.load();
}

bool all_finite(const double* values, Index count, int threads) {
    const Index jobs = (count + tuning::kCheckedValues - 1) / tuning::kCheckedValues;
    const int team = static_cast<int>(std::min<Index>(std::max(1, threads), jobs));
    std::atomic<bool> finite{true};
    share_out(team, jobs, [&](Index j, std::size_t) {
        const Index first = j * tuning::kCheckedValues;
        if (!all_finite(values + first, std::min(tuning::kCheckedValues, count - first))) finite = false;
    });
    return finite;
}

void errors(const Rows& rows, double* out, int threads, const Isa& isa) {
    with_kernels(rows, isa, [&](const auto& kernels, auto zero) {
        using T = decltype(zero);
        for_jobs<T>(rows, 0, threads, kernels.panel, [&](Index first, Index count, RowScratch<T>& scratch, double*) {
            kernels.errors(rows, first, count, out + first * rows.row_outputs(), scratch);
        });
    });
}

void norms(const Rows& rows, double* out, int threads, const Isa& isa) {
    with_kernels(rows, isa, [&](const auto& kernels, auto zero) {
        using T = decltype(zero);
        for_jobs<T>(rows, 0, threads, kernels.panel, [&](Index first, Index count, RowScratch<T>& scratch, double*) {
            kernels.norms(rows, first, count, out + first, scratch);
        });
    });
}

void multiply(const Rows& rows, const double* vectors, const double* units, Index m, double* out, int threads,
              const Isa& isa) {
    with_kernels(rows, isa, [&](const auto& kernels, auto zero) {
        using T = decltype(zero);
        const Index products = m * rows.row_outputs();
        for_jobs<T>(rows, products, threads, kernels.panel,
                    [&](Index first, Index count, RowScratch<T>& scratch, double* extra) {
                        kernels.multiply(rows, first, count, vectors, units, m, extra, out + first * m, scratch);
                    });
    });
}

void multiply_transposed(const Rows& rows, const double* u, const double* vectors, const double* units, Index m,
                         double* out, int threads, const Isa& isa) {
    const Index entries = m * rows.parameters();
    std::fill_n(out, entries, 0.0);
    const Index of_job = job_rows(rows);
    const Index jobs = (rows.samples + of_job - 1) / of_job;
    const int team = team_size(rows, jobs, threads);
    const Index per_thread =
        std::clamp<Index>(tuning::kBlockBufferBytes / (entries * static_cast<Index>(sizeof(double))), 1, 16);
    const Index round = std::min(jobs, per_thread * team);
    with_kernels(rows, isa, [&](const auto& kernels, auto zero) {
        using T = decltype(zero);
        std::vector<RowScratch<T>> scratch(static_cast<std::size_t>(team));
        std::vector<double*> products(scratch.size());
        double* sums = nullptr;
        Arena::of_this_thread().place([&](Carver& carver) {
            for (std::size_t t = 0; t < scratch.size(); ++t) {
                scratch[t] = carve_rows<T>(carver, rows, 0, kernels.panel);
                products[t] = carver.take<double>(scratch[t].group * m * rows.row_outputs());
                scratch[t].group = group_rows(rows, m * rows.row_outputs());  // shrinks
            }
            sums = carver.take<double>(round * entries);
        });
        for (Index base = 0; base < jobs; base += round) {
            const Index end = std::min(jobs, base + round);
            share_out(team, end - base, [&](Index j, std::size_t t) {
                const Index first = (base + j) * of_job;
                double* sum = sums + j * entries;
                std::fill_n(sum, entries, 0.0);
                kernels.multiply_transposed(rows, first, std::min(of_job, rows.samples - first), u, vectors, units, m,
                                            products[t], sum, scratch[t]);
            });
            for (Index j = base; j < end; ++j)
                for (Index e = 0; e < entries; ++e) out[e] += sums[(j - base) * entries + e];
        }
        Arena::of_this_thread().trim();
    });
}

double probe_fma_peak(bool single, int threads, double seconds, const Isa& isa) {
    const auto spin = single ? isa.spin_f32 : isa.spin_f64;
    double rate = 0.0;
#pragma omp parallel num_threads(threads) reduction(+ : rate)
    {
        // The best of many short spells on each thread, while all of them are at it: a limit is what the machine can
        // do, not what was left of it.
        const double begin = omp_get_wtime();
        double end = begin;
        do {
            const double start = end;
            const double flop = spin(100'000);
            end = omp_get_wtime();
            rate = std::max(rate, flop / (end - start));
        } while (end - begin < seconds);
    }
    return rate * 1e-9;
}

double probe_read_bandwidth(std::size_t bytes, int threads, double seconds) {
    const std::size_t count = bytes / sizeof(std::uint64_t);
    std::vector<std::uint64_t> memory(count, 1);
    double best = 0.0;
    std::uint64_t total = 0;
    const double begin = omp_get_wtime();
    do {
        const double start = omp_get_wtime();
#pragma omp parallel for num_threads(threads) reduction(+ : total) schedule(static)
        for (std::size_t i = 0; i < count; ++i) total += memory[i];
        const double rate = static_cast<double>(bytes) / (omp_get_wtime() - start) * 1e-9;
        best = std::max(best, rate);
    } while (omp_get_wtime() - begin < seconds);
    return total == 0 ? 0.0 : best;
}

}  // namespace gradhess::cpu
