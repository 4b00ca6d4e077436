"""What needs PyTorch. Imported on demand: ``import gradhess.torch``; nothing else in gradhess imports it."""

from gradhess.torch._regression_oracle import RegressionOracle

__all__ = ["RegressionOracle"]
