"""PyTorch: what needs a model, handed down as plain arrays. Imported on demand; needs ``torch``."""

from gradhess.torch._differentiable import DifferentiableModel
from gradhess.torch._module_targets import module_targets
from gradhess.torch._waves import WaveTraining, train_on_wave

__all__ = ["DifferentiableModel", "WaveTraining", "module_targets", "train_on_wave"]
