// Per-sample losses: value, first and second derivative in eta. The formulas are those of
// gradhess/_backends/loss_formulas.py and csrc/cpu/losses.hpp, with the exp and log1p of the CUDA library.
#pragma once

#include "block.hpp"
#include "device/platform.cuh"

namespace gradhess::cuda {

struct LossTerms {
    double value;
    double first;
    double second;
};

GRADHESS_DEVICE LossTerms squared_loss(double eta, double y) {
    const double error = eta - y;
    return {0.5 * error * error, error, 1.0};
}

// With s = 1 - 2y and m = s eta: log(1 + e^m), s sigma(m), sigma(m) sigma(-m), by t = e^-|m| in (0, 1].
GRADHESS_DEVICE LossTerms logistic_loss(double eta, double y) {
    const double s = 1.0 - 2.0 * y;
    const double m = s * eta;
    const double t = exp(-fabs(m));
    const double over = 1.0 / (1.0 + t);
    const double sigma = m < 0.0 ? t * over : over;
    const double hinge = m < 0.0 ? 0.0 : m;
    return {hinge + log1p(t), s * sigma, t * over * over};
}

GRADHESS_DEVICE LossTerms poisson_loss(double eta, double y) {
    const double mean = exp(eta);
    return {mean - y * eta, mean - y, mean};
}

GRADHESS_DEVICE LossTerms huber_loss(double eta, double y, double delta) {
    const double error = eta - y;
    const double size = fabs(error);
    const double inner = size > delta ? delta : size;
    const double first = error > delta ? delta : (error < -delta ? -delta : error);
    return {inner * (size - 0.5 * inner), first, size <= delta ? 1.0 : 0.0};
}

GRADHESS_DEVICE LossTerms evaluate_loss(Loss loss, double parameter, double eta, double y) {
    switch (loss) {
        case Loss::squared: return squared_loss(eta, y);
        case Loss::logistic: return logistic_loss(eta, y);
        case Loss::poisson: return poisson_loss(eta, y);
        case Loss::huber: return huber_loss(eta, y, parameter);
        default: return {0.0, 1.0, 1.0};
    }
}

// Whether y is a label of the loss: NaN is none.
GRADHESS_DEVICE bool in_domain(Loss loss, double y) {
    switch (loss) {
        case Loss::logistic: return y == 0.0 || y == 1.0;
        case Loss::poisson: return y >= 0.0;
        default: return y == y;
    }
}

// Where the slopes of rows come from: the losses above, by the code in the block. Kernels take it as a template
// argument; gradhess/_backends/cuda/custom.py writes others.
struct BuiltInLosses {
    GRADHESS_DEVICE static LossTerms evaluate(const Block& block, double eta, double y) {
        return evaluate_loss(block.loss, block.parameter, eta, y);
    }
    GRADHESS_DEVICE static bool has_label(const Block& block, double y) { return in_domain(block.loss, y); }
};

// Infinite or NaN. A comparison, so that it costs one instruction.
GRADHESS_DEVICE bool not_finite(double value) { return !(fabs(value) <= 1.7976931348623157e308); }
GRADHESS_DEVICE bool not_finite(float value) { return !(fabsf(value) <= 3.402823466e38f); }

}  // namespace gradhess::cuda
