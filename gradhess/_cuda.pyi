"""The compiled CUDA module (csrc/bindings/cuda_module.cpp). Addresses and streams are integers.

No call waits for the device. Errors of the runtime raise CudaError, with the place where they were met; shapes and
alignments that the kernels cannot take raise ValueError.
"""

from collections.abc import Mapping
from typing import Any, Final

from gradhess.errors import BackendError

RUNTIME_VERSION: Final[int]
"""1000 * major + 10 * minor of the CUDA runtime inside the module."""

ARCHITECTURES: Final[str]
"""What the kernels were compiled for, as CMake writes it: "80-real,90a-real,90-virtual"."""

SELF_TEST: Final[int]
"""What ``self_test`` writes."""

class CudaError(BackendError): ...

def device_count() -> tuple[int, int, str]:
    """Number of devices, and the CUDA error code with its text (0 and "" where there is none)."""

def device_name(device: int) -> str: ...
def self_test(*, result: int, stream: int) -> None:
    """Queue a small kernel that writes ``SELF_TEST`` to the int32 at ``result``, on the current device."""

def row_pass_workspace(samples: int, parameters: int) -> int:
    """Bytes for the partial sums of ``row_pass``."""

def row_pass(block: Mapping[str, Any], panel: Mapping[str, Any], *, workspace: int, stream: int) -> None:
    """Rows of X to rows of gradients, with their sums.

    ``block`` and ``panel`` have the fields of the structs of csrc/cuda/block.hpp by name, addresses as integers (0 or
    left out: null), dtype, kind and loss as strings, strides in elements. The workspace is aligned to 8 bytes.
    """

def rank_update_workspace(dtype: str, samples: int, columns: int) -> int:
    """Bytes for the partial sums of ``rank_update``; 0 where it needs none."""

def rank_update(
    *,
    rows: int,
    dtype: str,
    samples: int,
    columns: int,
    pitch: int,
    row_weight: int,
    scatter: int,
    scatter_is_float: bool,
    workspace: int,
    stream: int,
    blocks: int = 0,
) -> None:
    """``scatter += rows^T diag(row_weight) rows``, lower triangle of (columns, columns).

    ``rows`` (samples, pitch) is float64 or float32, aligned to 16 bytes, the pitch a multiple of 4; ``row_weight`` is
    float64, or 0 for ones. ``blocks`` bounds the thread blocks, 0 for no bound; the result does not depend on it.
    """

def tile_position(number: int, tile_rows: int) -> tuple[int, int]:
    """Row and column of a tile in the order in which thread blocks take them; for the tests."""
