"""Batches of per-sample gradients: structured, lazy, never formed."""

from gradhess._gradients.base import DenseGradients, Gradients, as_gradients
from gradhess._gradients.glm import GlmGradients, glm_gradients
from gradhess._gradients.gram import weighted_gram

__all__ = ["DenseGradients", "GlmGradients", "Gradients", "as_gradients", "glm_gradients", "weighted_gram"]
