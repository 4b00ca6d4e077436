"""What a gradient can say about its target: its variance over a class of targets, the bound on it, and estimates.

Source: Takhanov, *The informativeness of the gradient revisited*, Neural Networks 2025, arXiv 2505.22158.
"""

from gradhess.informativeness import experiments, figures, lwe, models
from gradhess.informativeness._analyze import analyze
from gradhess.informativeness._bounds import Bound, bound, largest_residual
from gradhess.informativeness._collision import (
    collision_entropy,
    collision_entropy_from_samples,
    gaussian_collision_entropy,
)
from gradhess.informativeness._dependence import pairwise_dependence
from gradhess.informativeness._estimate import EntropyEstimate, Estimate, InformativenessEstimate
from gradhess.informativeness._exact import Informativeness, exact_informativeness, second_moment_norm
from gradhess.informativeness._families import high_frequency, parities
from gradhess.informativeness._inputs import Inputs
from gradhess.informativeness._montecarlo import estimate_informativeness
from gradhess.informativeness._report import Report
from gradhess.informativeness._targets import TargetClass

__all__ = [
    "Bound",
    "EntropyEstimate",
    "Estimate",
    "Informativeness",
    "InformativenessEstimate",
    "Inputs",
    "Report",
    "TargetClass",
    "analyze",
    "bound",
    "collision_entropy",
    "collision_entropy_from_samples",
    "estimate_informativeness",
    "exact_informativeness",
    "experiments",
    "figures",
    "gaussian_collision_entropy",
    "high_frequency",
    "largest_residual",
    "lwe",
    "models",
    "pairwise_dependence",
    "parities",
    "second_moment_norm",
]
