"""Gradients, covariances and curvature of PyTorch models. Imported on demand; needs PyTorch."""

from gradhess.torch._collector import GradientCollector
from gradhess.torch._curvature import layer_curvature, layer_samples
from gradhess.torch._regression_oracle import RegressionOracle
from gradhess.torch._stream import BlockCovariance, KroneckerCovariance, covariance

__all__ = [
    "BlockCovariance",
    "GradientCollector",
    "KroneckerCovariance",
    "RegressionOracle",
    "covariance",
    "layer_curvature",
    "layer_samples",
]
