"""How accurate products of float32 rows on a GPU have to be: one choice for each context."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from gradhess._backends.cupy.engine import Accuracy

CHOSEN: Final[ContextVar[Accuracy]] = ContextVar("gradhess_gpu_accuracy", default="float32")
