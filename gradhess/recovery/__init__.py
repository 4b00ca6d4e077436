"""The Hessian of a regression from its gradients alone, by calibrated target noise.

Gaussian noise is added to the targets of each mini-batch; the covariance of the batch gradients is then the Hessian, or
nearly so. Source: Jamshidi, Haitsiukevich and Puolamaki, *Information Hidden in Gradients of Regression with Target
Noise*, arXiv 2601.18546. What holds exactly, and how far to trust it: docs/recovery.md.
"""

from gradhess.recovery.calibration import calibrated_noise_variance
from gradhess.recovery.estimate import HessianEstimate
from gradhess.recovery.excess import ExcessRisk, excess_risk
from gradhess.recovery.metrics import best_scale_error, sampling_error, whitened_error
from gradhess.recovery.oracle import GradientOracle, LinearRegressionOracle
from gradhess.recovery.preconditioning import Preconditioner, preconditioner
from gradhess.recovery.receiver import HessianReceiver
from gradhess.recovery.recover import recover_hessian
from gradhess.recovery.robustness import adversarial_risk
from gradhess.recovery.theory import gradient_covariance_theory

__all__ = [
    "ExcessRisk",
    "GradientOracle",
    "HessianEstimate",
    "HessianReceiver",
    "LinearRegressionOracle",
    "Preconditioner",
    "adversarial_risk",
    "best_scale_error",
    "calibrated_noise_variance",
    "excess_risk",
    "gradient_covariance_theory",
    "preconditioner",
    "recover_hessian",
    "sampling_error",
    "whitened_error",
]
