"""Gradients whose arrays lie on a GPU: the same methods, on the caller's device and stream, without waiting for it."""

from gradhess._gradients.device.base import DeviceGradients, device_rows
from gradhess._gradients.device.deferred import synchronize
from gradhess._gradients.device.make import (
    as_device_gradients,
    device_glm_gradients,
    device_grouped,
    device_layer_gradients,
    device_weighted_gram,
)

__all__ = [
    "DeviceGradients",
    "as_device_gradients",
    "device_glm_gradients",
    "device_grouped",
    "device_layer_gradients",
    "device_rows",
    "device_weighted_gram",
    "synchronize",
]
