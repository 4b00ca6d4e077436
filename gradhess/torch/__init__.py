"""Gradients, covariances, curvature and informativeness of PyTorch models. Imported on demand; needs PyTorch."""

from gradhess.torch._collector import GradientCollector
from gradhess.torch._curvature import layer_curvature, layer_samples
from gradhess.torch._differentiable import DifferentiableModel
from gradhess.torch._module_targets import module_targets
from gradhess.torch._regression_oracle import RegressionOracle
from gradhess.torch._stream import BlockCovariance, KroneckerCovariance, covariance
from gradhess.torch._waves import WaveTraining, train_on_wave

__all__ = [
    "BlockCovariance",
    "DifferentiableModel",
    "GradientCollector",
    "KroneckerCovariance",
    "RegressionOracle",
    "WaveTraining",
    "covariance",
    "layer_curvature",
    "layer_samples",
    "module_targets",
    "train_on_wave",
]
