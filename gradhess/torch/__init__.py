"""PyTorch: what needs a model, handed down as plain arrays. Imported on demand; needs ``torch``."""

from gradhess.torch._curvature import layer_curvature, layer_samples

__all__ = ["layer_curvature", "layer_samples"]
