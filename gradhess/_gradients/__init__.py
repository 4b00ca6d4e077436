"""Batches of per-sample gradients: structured, lazy, never formed."""

from gradhess._gradients.base import DenseGradients, Gradients, as_gradients
from gradhess._gradients.glm import GlmGradients, glm_gradients
from gradhess._gradients.gram import weighted_gram
from gradhess._gradients.grouped import GroupedGradients, grouped

__all__ = [
    "DenseGradients",
    "GlmGradients",
    "Gradients",
    "GroupedGradients",
    "as_gradients",
    "glm_gradients",
    "grouped",
    "weighted_gram",
]
