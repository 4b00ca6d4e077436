"""Covariance of gradient noise against curvature: how C of mini-batch gradients follows the Hessian H of the loss.

With per-sample gradients ``g_p`` and Hessians ``h_p``: ``H = E[h_p]``, ``M = E[h_p^2]``, and
``C = (1/B) (E[g_p g_p^T] - E[g_p] E[g_p]^T)``, all over the samples at hand, exactly and never from mini-batches.
Source: Zhang, Yang and Tu, *On the Superlinear Relationship between SGD Noise Covariance and Loss Landscape Curvature*
(arXiv 2602.05600).
"""

from gradhess.curvature._alignment import cosine, diagonal_recovery, offdiagonal_ratio, rank_correlation
from gradhess.curvature._commutator import Commutator, commutator
from gradhess.curvature._curvature import Curvature, Diagonals
from gradhess.curvature._duality import (
    DualityTerm,
    duality_delta,
    duality_terms,
    same_class_neighbours,
)
from gradhess.curvature._glm import glm_curvature
from gradhess.curvature._layer import layer_curvature
from gradhess.curvature._noise import gradient_noise_covariance
from gradhess.curvature._outputs import OutputTerms, output_terms
from gradhess.curvature._power_law import PowerLaw, power_law_fit
from gradhess.curvature._rank_one import rank_one_family
from gradhess.curvature._report import CurvatureReport, analyze
from gradhess.curvature._samples import LayerSamples
from gradhess.curvature._sandwich import Sandwich, sandwich_check
from gradhess.curvature._spectrum import layer_spectrum
from gradhess.curvature._surgery import spectral_surgery

__all__ = [
    "Commutator",
    "Curvature",
    "CurvatureReport",
    "Diagonals",
    "DualityTerm",
    "LayerSamples",
    "OutputTerms",
    "PowerLaw",
    "Sandwich",
    "analyze",
    "commutator",
    "cosine",
    "diagonal_recovery",
    "duality_delta",
    "duality_terms",
    "glm_curvature",
    "gradient_noise_covariance",
    "layer_curvature",
    "layer_spectrum",
    "offdiagonal_ratio",
    "output_terms",
    "power_law_fit",
    "rank_correlation",
    "rank_one_family",
    "same_class_neighbours",
    "sandwich_check",
    "spectral_surgery",
]
