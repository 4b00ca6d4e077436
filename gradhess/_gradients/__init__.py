"""Batches of per-sample gradients: structured, lazy, never formed."""

from gradhess._gradients.base import DenseGradients, Gradients
from gradhess._gradients.dense import as_gradients, explicit_gradients
from gradhess._gradients.device.deferred import synchronize
from gradhess._gradients.glm import GlmGradients, glm_gradients
from gradhess._gradients.gram import weighted_gram
from gradhess._gradients.grouped import GroupedGradients, grouped
from gradhess._gradients.layer import LayerGradients, layer_gradients

__all__ = [
    "DenseGradients",
    "GlmGradients",
    "Gradients",
    "GroupedGradients",
    "LayerGradients",
    "as_gradients",
    "explicit_gradients",
    "glm_gradients",
    "grouped",
    "layer_gradients",
    "synchronize",
    "weighted_gram",
]
