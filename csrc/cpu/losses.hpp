// Losses over arrays of predictions, per sample: value, and the first or second derivative in eta.
// The formulas are those of gradhess/_backends/loss_formulas.py.
#pragma once

#include "softmax.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

template <class V>
struct LossTerms {
    V value;
    V first;
    V second;
};

// Choices are made lane by lane between values that are there already: of branches around them the compiler makes
// copies of all that follows, each under a mask of its own (of the logistic loss two logarithms).

struct Squared {
    template <class V>
    GRADHESS_INLINE LossTerms<V> operator()(V eta, V y, double) const {
        const V error = eta - y;
        return {0.5 * error * error, error, every<V>(1.0)};
    }
};

struct Logistic {
    // With s = 1 - 2y and m = s eta: log(1 + e^m), s sigma(m), sigma(m) sigma(-m), by t = e^-|m| in (0, 1].
    template <class V>
    GRADHESS_INLINE LossTerms<V> operator()(V eta, V y, double) const {
        const V s = 1.0 - 2.0 * y;
        const V m = s * eta;
        const V t = exp_any(m < 0.0 ? m : -m);
        const V one = 1.0 + t;
        const V two = 2.0 + t;
        const V quotient = 1.0 / (one * two);  // of both: a division costs as much as ten products
        const V over = quotient * two;
        const V under = t * over;
        const V sigma = m < 0.0 ? under : over;
        const V hinge = m < 0.0 ? V{} : m;
        return {hinge + log1p_unit(t * (quotient * one)), s * sigma, under * over};
    }
};

struct Poisson {
    template <class V>
    GRADHESS_INLINE LossTerms<V> operator()(V eta, V y, double) const {
        const V mean = exp_any(eta);
        return {mean - y * eta, mean - y, mean};
    }
};

struct Huber {
    template <class V>
    GRADHESS_INLINE LossTerms<V> operator()(V eta, V y, double delta) const {
        const V bound = every<V>(delta);
        const V error = eta - y;
        const V size = error < 0.0 ? -error : error;
        const V inner = size > bound ? bound : size;
        const V first = error > bound ? bound : (error < -bound ? -bound : error);
        return {inner * (size - 0.5 * inner), first, size <= bound ? every<V>(1.0) : V{}};
    }
};

// value[i] and slope[i] for i < n; slope is the second derivative if SECOND, else the first.
template <bool SECOND, class Formula>
GRADHESS_INLINE void evaluate(Formula formula, const double* eta, const double* y, double parameter, Index n,
                              double* value, double* slope) {
    constexpr Index lanes = kDoubleLanes;
    Index i = 0;
    for (; i + lanes <= n; i += lanes) {
        const LossTerms<Doubles> terms = formula(load_doubles(eta + i), load_doubles(y + i), parameter);
        store(value + i, terms.value);
        store(slope + i, SECOND ? terms.second : terms.first);
    }
    if (i == n) return;
    const LossTerms<Doubles> terms = formula(load_first(eta + i, n - i), load_first(y + i, n - i), parameter);
    alignas(64) double last[2][lanes];
    store(last[0], terms.value);
    store(last[1], SECOND ? terms.second : terms.first);
    for (Index r = 0; i + r < n; ++r) {
        value[i + r] = last[0][r];
        slope[i + r] = last[1][r];
    }
}

// `y` and `eta` are those of the n rows from `first` on.
inline void evaluate_loss(const Rows& rows, Index first, Index n, const double* eta, const double* y, double* value,
                          double* slope) {
    const bool second = rows.kind == RowKind::hessian;
    const auto by = [&](auto formula) {
        second ? evaluate<true>(formula, eta, y, rows.parameter, n, value, slope)
               : evaluate<false>(formula, eta, y, rows.parameter, n, value, slope);
    };
    switch (rows.loss) {
        case Loss::squared: by(Squared{}); break;
        case Loss::logistic: by(Logistic{}); break;
        case Loss::poisson: by(Poisson{}); break;
        case Loss::huber: by(Huber{}); break;
        case Loss::softmax: evaluate_softmax(eta, y, n, rows.outputs, value, slope); break;
        case Loss::custom:
            if (rows.custom.value) {
                rows.custom.value(eta, y, value, n);
            } else {
                for (Index i = 0; i < n; ++i) value[i] = 0.0;
            }
            (second ? rows.custom.second : rows.custom.first)(eta, y, slope, n);
            break;
        case Loss::none: break;
    }
    if (rows.loss_weight) {
        const double* c = rows.loss_weight + first;
        const Index k = rows.row_outputs();
        for (Index i = 0; i < n; ++i) {
            value[i] *= c[i];
            for (Index q = 0; q < k; ++q) slope[i * k + q] *= c[i];
        }
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
