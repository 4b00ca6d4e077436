// Losses over arrays of predictions, per sample: value, and the first or second derivative in eta.
// The formulas are those of gradhess/_backends/loss_formulas.py.
#pragma once

#include <cmath>

#include "vector_math.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

struct LossTerms {
    double value;
    double first;
    double second;
};

struct Squared {
    GRADHESS_INLINE LossTerms operator()(double eta, double y, double) const {
        const double error = eta - y;
        return {0.5 * error * error, error, 1.0};
    }
};

struct Logistic {
    // With s = 1 - 2y and m = s eta: log(1 + e^m), s sigma(m), sigma(m) sigma(-m), by t = e^-|m| in (0, 1].
    GRADHESS_INLINE LossTerms operator()(double eta, double y, double) const {
        const double s = 1.0 - 2.0 * y;
        const double m = s * eta;
        const double size = m < 0.0 ? -m : m;
        const double t = exp_any(-size);
        const double over = 1.0 / (1.0 + t);
        const double sigma = m < 0.0 ? t * over : over;
        const double hinge = m < 0.0 ? 0.0 : m;
        return {hinge + log1p_unit(t), s * sigma, t * over * over};
    }
};

struct Poisson {
    GRADHESS_INLINE LossTerms operator()(double eta, double y, double) const {
        const double mean = exp_any(eta);
        return {mean - y * eta, mean - y, mean};
    }
};

struct Huber {
    GRADHESS_INLINE LossTerms operator()(double eta, double y, double delta) const {
        const double error = eta - y;
        const double size = error < 0.0 ? -error : error;
        const double inner = size > delta ? delta : size;
        const double first = error > delta ? delta : (error < -delta ? -delta : error);
        return {inner * (size - 0.5 * inner), first, size <= delta ? 1.0 : 0.0};
    }
};

// value[i] and slope[i] for i < n; slope is the second derivative if `second`, else the first.
template <class Formula>
GRADHESS_INLINE void evaluate(Formula formula, const double* __restrict eta, const double* __restrict y,
                              double parameter, bool second, Index n, double* __restrict value,
                              double* __restrict slope) {
    if (second) {
        for (Index i = 0; i < n; ++i) {
            const LossTerms terms = formula(eta[i], y[i], parameter);
            value[i] = terms.value;
            slope[i] = terms.second;
        }
    } else {
        for (Index i = 0; i < n; ++i) {
            const LossTerms terms = formula(eta[i], y[i], parameter);
            value[i] = terms.value;
            slope[i] = terms.first;
        }
    }
}

// eta (n, k) becomes P - onehot(y) in slope; value is log(sum exp) - eta_y.
inline void evaluate_softmax(const double* eta, const double* y, Index n, Index k, double* value, double* slope) {
    for (Index i = 0; i < n; ++i) {
        const double* row = eta + i * k;
        double* out = slope + i * k;
        double top = row[0];
        for (Index q = 1; q < k; ++q) top = row[q] > top ? row[q] : top;
        for (Index q = 0; q < k; ++q) out[q] = exp_any(row[q] - top);
        double total = 0.0;
        for (Index q = 0; q < k; ++q) total += out[q];
        if (!(y[i] >= 0.0 && y[i] < static_cast<double>(k))) {  // the caller changed y after it was checked
            value[i] = __builtin_nan("");
            for (Index q = 0; q < k; ++q) out[q] = value[i];
            continue;
        }
        const Index label = static_cast<Index>(y[i]);
        value[i] = std::log(total) + (top - row[label]);
        const double over = 1.0 / total;
        for (Index q = 0; q < k; ++q) out[q] *= over;
        // P_label - 1 without cancellation: minus the probability of all other classes.
        double others = 0.0;
        for (Index q = 0; q < k; ++q) others += q == label ? 0.0 : out[q];
        out[label] = -others;
    }
}

// `y` and `eta` are those of the n rows from `first` on.
inline void evaluate_loss(const Rows& rows, Index first, Index n, const double* eta, const double* y, double* value,
                          double* slope) {
    const bool second = rows.kind == RowKind::hessian;
    switch (rows.loss) {
        case Loss::squared: evaluate(Squared{}, eta, y, rows.parameter, second, n, value, slope); break;
        case Loss::logistic: evaluate(Logistic{}, eta, y, rows.parameter, second, n, value, slope); break;
        case Loss::poisson: evaluate(Poisson{}, eta, y, rows.parameter, second, n, value, slope); break;
        case Loss::huber: evaluate(Huber{}, eta, y, rows.parameter, second, n, value, slope); break;
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
