// The kernels of one instruction set against plain loops, without Python: for processors that the test suite cannot
// run on. .ci/run compiles this for 64-bit Arm and runs it under an emulator.
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "cpu/accumulate.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/rowwise.hpp"
#include "cpu/totals.hpp"

namespace cpu = gradhess::cpu;
using cpu::Index;

namespace {

struct Problem {
    Index n, d;
    bool centred, unit_column, by_columns;
    cpu::Loss loss;
};

double slope(cpu::Loss loss, double eta, double y) {
    switch (loss) {
        case cpu::Loss::logistic: return 1.0 / (1.0 + std::exp(-eta)) - y;
        case cpu::Loss::poisson: return std::exp(eta) - y;
        default: return eta - y;
    }
}

template <class T>
int failures(const cpu::Isa& isa, const Problem& problem) {
    const Index n = problem.n;
    const Index d = problem.d;
    const Index p = d + (problem.unit_column ? 1 : 0);
    std::mt19937 random(7);
    std::normal_distribution<double> normal;
    std::vector<T> X(static_cast<std::size_t>(n * d));
    for (T& x : X) x = static_cast<T>(normal(random) + 2.0);
    std::vector<T> columns(X.size());
    for (Index i = 0; i < n; ++i)
        for (Index j = 0; j < d; ++j) columns[j * n + i] = X[i * d + j];
    std::vector<double> y(static_cast<std::size_t>(n));
    for (double& label : y) label = normal(random) > 0.0;
    const std::vector<double> coef(static_cast<std::size_t>(d), 0.3 / static_cast<double>(d));
    const double intercept = -0.4;

    cpu::Rows rows;
    rows.data = problem.by_columns ? columns.data() : X.data();
    rows.dtype = sizeof(T) == 8 ? cpu::DType::f64 : cpu::DType::f32;
    rows.samples = n;
    rows.features = d;
    rows.row_stride = (problem.by_columns ? 1 : d) * static_cast<Index>(sizeof(T));
    rows.column_stride = (problem.by_columns ? n : 1) * static_cast<Index>(sizeof(T));
    rows.kind = cpu::RowKind::gradient;
    rows.unit_column = problem.unit_column;
    rows.loss = problem.loss;
    rows.y = y.data();
    rows.coef = coef.data();
    rows.intercept = problem.unit_column ? &intercept : nullptr;

    const auto vector_of = [](Index size) { return std::vector<double>(static_cast<std::size_t>(size)); };
    auto scatter = vector_of(p * p), block = vector_of(p * p), location = vector_of(p), shift = vector_of(p);
    auto sum = vector_of(p), scalars = vector_of(6);
    std::vector<Index> counts(2);
    cpu::Moments moments;
    moments.centred = problem.centred;
    moments.parameters = p;
    moments.scatter = scatter.data();
    moments.block_scatter = p <= 256 ? block.data() : nullptr;
    moments.location = location.data();
    moments.block_shift = shift.data();
    moments.block_sum = sum.data();
    moments.scalars = scalars.data();
    moments.counts = counts.data();
    const cpu::Options options{{256, 4096}, 2, {}};
    const cpu::Result result = cpu::accumulate(rows, nullptr, moments, options, isa);
    cpu::close_block(moments);

    std::vector<double> G(static_cast<std::size_t>(n * p)), mean(static_cast<std::size_t>(p));
    for (Index i = 0; i < n; ++i) {
        double eta = problem.unit_column ? intercept : 0.0;
        for (Index j = 0; j < d; ++j) eta += static_cast<double>(X[i * d + j]) * coef[j];
        const double r = slope(problem.loss, eta, y[i]);
        for (Index j = 0; j < p; ++j) {
            G[i * p + j] = r * (j < d ? static_cast<double>(X[i * d + j]) : 1.0);
            mean[j] += G[i * p + j] / n;
        }
    }
    int bad = result.outcome != cpu::Outcome::done;
    // 16 roundings of a product and 256 of a chain in T, and n of the plain loop here.
    const double unit = sizeof(T) == 8 ? 0x1p-53 : 0x1p-24;
    for (Index i = 0; i < p; ++i)
        for (Index j = 0; j <= i; ++j) {
            double exact = 0.0, size = 0.0;
            for (Index k = 0; k < n; ++k) {
                const double a = G[k * p + i] - (problem.centred ? mean[i] : 0.0);
                const double b = G[k * p + j] - (problem.centred ? mean[j] : 0.0);
                exact += a * b;
                size += std::fabs(G[k * p + i] * G[k * p + j]) + std::fabs(a * b);
            }
            bad += !(std::fabs(scatter[i * p + j] - exact) <= (272 * unit + n * 0x1p-53) * size);
        }
    return bad;
}

// The dependence of input 0 on a block of inputs, against the histogram of each pair.
int pair_failures(const cpu::Isa& isa, Index targets, int q, bool weighted) {
    std::mt19937_64 random(static_cast<std::uint64_t>(targets + q));
    std::vector<std::uint8_t> block(targets * cpu::kPairLanes);
    for (auto& label : block) label = static_cast<std::uint8_t>(random() % q);
    std::vector<double> weights(targets, 1.0 / static_cast<double>(targets));
    if (weighted)
        for (Index t = 0; t < targets; ++t) weights[t] *= 0.5 + static_cast<double>(2 * t) / (2.0 * targets);
    std::vector<std::uint32_t> order, starts{0};
    for (int y = 0; y < q; ++y) {
        for (Index t = 0; t < targets; ++t)
            if (block[t * cpu::kPairLanes] == y) order.push_back(static_cast<std::uint32_t>(t));
        starts.push_back(static_cast<std::uint32_t>(order.size()));
    }
    cpu::PairJob job;
    job.targets = targets;
    job.q = q;
    job.target_weights = weighted ? weights.data() : nullptr;
    double found[cpu::kPairLanes];
    if (weighted) {
        const std::vector<std::int64_t> wide(block.begin(), block.end());
        isa.weighted_pair_dependence(job, {order.data(), starts.data()}, wide.data(), found);
    } else {
        isa.pair_dependence(job, {order.data(), starts.data()}, block.data(), found);
    }
    int bad = 0;
    for (Index lane = 0; lane < cpu::kPairLanes; ++lane) {
        std::vector<double> joint(q * q);
        for (Index t = 0; t < targets; ++t)
            joint[block[t * cpu::kPairLanes] * q + block[t * cpu::kPairLanes + lane]] += weights[t];
        double exact = 0.0;
        for (const double share : joint) exact += std::fabs(share - 1.0 / (q * q));
        bad += !(std::fabs(found[lane] - exact) <= 4.0 * static_cast<double>(targets + q * q) * 0x1p-53);
    }
    return bad;
}

// Products of rows in Fortran order, which have the bits of the same rows in C order.
template <class T>
int column_failures(const cpu::Isa& isa, Index n, Index d) {
    std::mt19937 random(11);
    std::normal_distribution<double> normal;
    std::vector<T> by_rows(static_cast<std::size_t>(n * d)), by_columns(by_rows.size());
    for (Index i = 0; i < n; ++i)
        for (Index j = 0; j < d; ++j) by_columns[j * n + i] = by_rows[i * d + j] = static_cast<T>(normal(random));
    std::vector<double> v(static_cast<std::size_t>(d)), u(static_cast<std::size_t>(n));
    for (double& entry : v) entry = normal(random);
    for (double& entry : u) entry = normal(random);
    const auto products = [&](const T* data, Index row_stride, Index column_stride) {
        cpu::Rows rows;
        rows.data = data;
        rows.dtype = sizeof(T) == 8 ? cpu::DType::f64 : cpu::DType::f32;
        rows.samples = n;
        rows.features = d;
        rows.row_stride = row_stride * static_cast<Index>(sizeof(T));
        rows.column_stride = column_stride * static_cast<Index>(sizeof(T));
        std::vector<double> out(static_cast<std::size_t>(2 * n + 2 * d));
        cpu::norms(rows, out.data(), 1, isa);
        cpu::multiply(rows, v.data(), nullptr, 1, out.data() + n, 1, isa);
        cpu::multiply_transposed(rows, u.data(), nullptr, nullptr, 1, out.data() + 2 * n, 1, isa);
        cpu::multiply_transposed(rows, nullptr, v.data(), nullptr, 1, out.data() + 2 * n + d, 1, isa);
        return out;
    };
    const std::vector<double> expected = products(by_rows.data(), d, 1);
    const std::vector<double> found = products(by_columns.data(), 1, n);
    int bad = 0;
    for (std::size_t k = 0; k < found.size(); ++k) bad += !(found[k] == expected[k]);
    return bad;
}

// A triangle, halved, and its mirror image: beside it, and in place.
template <class Scatter>
int mirror_failures(const cpu::Isa& isa, Index n) {
    std::vector<Scatter> lower(static_cast<std::size_t>(n * n), std::numeric_limits<Scatter>::quiet_NaN());
    for (Index i = 0; i < n; ++i)
        for (Index j = 0; j <= i; ++j) lower[i * n + j] = static_cast<Scatter>(i * n + j);
    std::vector<Scatter> beside(lower.size());
    cpu::symmetrize(lower.data(), n, n, 0.5, beside.data(), 2, isa);
    cpu::symmetrize(lower.data(), n, n, 0.5, lower.data(), 2, isa);
    int bad = 0;
    for (Index i = 0; i < n; ++i)
        for (Index j = 0; j < n; ++j) {
            const auto exact = static_cast<Scatter>(0.5 * static_cast<double>(i < j ? j * n + i : i * n + j));
            bad += !(beside[i * n + j] == exact) + !(lower[i * n + j] == exact);
        }
    return bad;
}

}  // namespace

int main() {
    int passed = 0;
    int failed = 0;
    for (const cpu::Isa* isa : cpu::supported_isas())
        for (const cpu::Loss loss : {cpu::Loss::squared, cpu::Loss::logistic, cpu::Loss::poisson})
            for (const bool centred : {false, true})
                for (const auto& [n, d] : {std::pair<Index, Index>{3, 1}, {257, 7}, {4100, 8}, {600, 17}, {300, 270}})
                    for (const bool by_columns : {false, true}) {
                        const Problem problem{n, d, centred, d % 2 == 1, by_columns, loss};
                        const int bad = failures<double>(*isa, problem) + failures<float>(*isa, problem);
                        ++(bad ? failed : passed);
                        if (bad)
                            std::printf("%s: loss %d, n %ld, d %ld%s: %d entries\n", isa->name, int(loss), long(n),
                                        long(d), by_columns ? ", columns" : "", bad);
                    }
    for (const cpu::Isa* isa : cpu::supported_isas())
        for (const auto& [targets, q] : {std::pair<Index, int>{1, 2}, {40, 7}, {700, 2}, {90, 256}})
            for (const bool weighted : {false, true}) {
                const int bad = pair_failures(*isa, targets, q, weighted);
                ++(bad ? failed : passed);
                if (bad) std::printf("%s: pairs of %ld targets, q %d: %d\n", isa->name, long(targets), q, bad);
            }
    for (const cpu::Isa* isa : cpu::supported_isas())
        for (const Index n : {1, 2, 5, 8, 127, 130})
            for (const Index d : {2, 7, 8, 11, 16, 21, 40}) {
                const int bad = column_failures<double>(*isa, n, d) + column_failures<float>(*isa, n, d);
                ++(bad ? failed : passed);
                if (bad) std::printf("%s: columns, n %ld, d %ld: %d\n", isa->name, long(n), long(d), bad);
            }
    for (const cpu::Isa* isa : cpu::supported_isas())
        for (const Index n : {1, 7, 8, 64, 129, 257, 300}) {
            const int bad = mirror_failures<double>(*isa, n) + mirror_failures<float>(*isa, n);
            ++(bad ? failed : passed);
            if (bad) std::printf("%s: mirrored, n %ld: %d\n", isa->name, long(n), bad);
        }
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
