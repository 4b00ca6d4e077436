"""The compiled CUDA module (csrc/bindings/cuda_module.cpp). Addresses and streams are integers."""

from typing import Final

from gradhess.errors import BackendError

RUNTIME_VERSION: Final[int]
"""1000 * major + 10 * minor of the CUDA runtime inside the module."""

ARCHITECTURES: Final[str]
"""What the kernels were compiled for, as CMake writes it: "80-real,90a-real,90-virtual"."""

class CudaError(BackendError): ...

def device_count() -> tuple[int, int, str]:
    """Number of devices, and the CUDA error code with its text (0 and "" where there is none)."""

def device_name(device: int) -> str: ...
def weighted_gram(
    *,
    data: int,
    dtype: str,
    samples: int,
    features: int,
    row_stride: int,
    weights: int,
    gram: int,
    stream: int,
) -> None:
    """``gram += X^T diag(weights) X`` on the current device, queued in ``stream``.

    ``weights`` is 0 for none. Raises CudaError; ValueError for a dtype other than float64 and float32.
    """

def tile_position(number: int) -> tuple[int, int]:
    """Row and column of a tile in the order in which thread blocks take them; for the tests."""
