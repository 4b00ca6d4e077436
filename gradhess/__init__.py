"""Streaming covariance of per-sample gradients, without the gradients ever being formed."""

from gradhess import errors, losses, sketches
from gradhess._backends.registry import set_num_threads, show_config, use_backend
from gradhess._config import VERSION as __version__
from gradhess._gradients import (
    as_gradients,
    glm_gradients,
    grouped,
    layer_gradients,
    synchronize,
    weighted_gram,
)
from gradhess._memory import estimate_memory
from gradhess._streaming import StreamingCovariance

__all__ = [
    "StreamingCovariance",
    "__version__",
    "as_gradients",
    "errors",
    "estimate_memory",
    "glm_gradients",
    "grouped",
    "layer_gradients",
    "losses",
    "set_num_threads",
    "show_config",
    "sketches",
    "synchronize",
    "use_backend",
    "weighted_gram",
]
