"""The compiled CUDA module (csrc/bindings/cuda_module.cpp). Addresses and streams are integers.

No call waits for the device. Errors of the runtime raise CudaError, with the place where they were met; shapes and
alignments that the kernels cannot take raise ValueError.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from gradhess.errors import DeviceError

RUNTIME_VERSION: Final[int]
"""1000 * major + 10 * minor of the CUDA runtime inside the module."""

ARCHITECTURES: Final[str]
"""What the kernels were compiled for, as CMake writes it: "80-real,90a-real,90-virtual"."""

SELF_TEST: Final[int]
"""What ``self_test`` writes."""

class CudaError(DeviceError): ...

def device_count() -> tuple[int, int, str]:
    """Number of devices, and the CUDA error code with its text (0 and "" where there is none)."""

def device_name(device: int) -> str: ...
def self_test(*, result: int, stream: int) -> None:
    """Queue a small kernel that writes ``SELF_TEST`` to the int32 at ``result``, on the current device."""

def row_pass_workspace(samples: int, parameters: int) -> int:
    """Bytes for the partial sums of ``row_pass``."""

def row_pass(
    block: Mapping[str, Any],
    panel: Mapping[str, Any],
    *,
    workspace: int,
    stream: int,
    launch: Callable[[str, str, str, int, int, int, bytes], None] | None = None,
) -> None:
    """Rows of X to rows of gradients, with their sums.

    ``block`` and ``panel`` have the fields of the structs of csrc/cuda/block.hpp by name, addresses as integers (0 or
    left out: null), dtype, kind and loss as strings, strides in elements. The workspace is aligned to 8 bytes. A block
    of the loss "custom" needs ``launch``, which compiles and launches the kernel of rows (csrc/cuda/run_time.hpp).
    """

def row_slopes(
    block: Mapping[str, Any],
    *,
    slopes: int,
    values: int,
    stream: int,
    launch: Callable[[str, str, str, int, int, int, bytes], None] | None = None,
) -> None:
    """float64 ``c l'`` (of hessian rows ``c l''``) and ``c l`` of rows with a loss, as ``row_pass`` computes them."""

def matrix_product_workspace(rows: int, columns: int, terms: int) -> int:
    """Bytes with which segments of terms are summed side by side; 0 where there are tiles enough."""

def matrix_product(
    *,
    left: tuple[int, int, bool],
    right: tuple[int, int, bool],
    rows: int,
    columns: int,
    terms: int,
    out: int,
    row_stride: int,
    column_stride: int,
    add: bool,
    workspace: int,
    stream: int,
    blocks: int = 0,
) -> None:
    """``out[i * row_stride + j * column_stride] (+)= sum_t left[t, i] right[t, j]``, float64.

    An operand is (address, pitch, whether its terms lie apart): number (t, i) at ``t * pitch + i``, or else at
    ``i * pitch + t``. The bits depend on neither the workspace (0: none) nor ``blocks``.
    """

def narrow_workspace(samples: int, parameters: int) -> int:
    """Bytes for the partial sums of ``narrow_update``."""

def narrow_update(
    block: Mapping[str, Any],
    panel: Mapping[str, Any],
    *,
    scatter: int,
    scatter_is_float: bool,
    workspace: int,
    stream: int,
    launch: Callable[[str, str, str, int, int, int, bytes], None] | None = None,
) -> None:
    """``row_pass`` and ``rank_update`` at once, for up to 128 parameters and one output."""

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

TENSOR_SCHEMES: Final[dict[str, tuple[int, int, bool]]]
"""Left planes, right planes and whether they are float16, for each scheme of csrc/cuda/planes.hpp."""

TENSOR_FLUSH_ROWS: Final[int]
"""Global rows after which float32 sums join the scatter matrix."""

def tensor_kernel() -> str:
    """What updates run on the current device: "wgmma", "mma", or "" where it can run neither."""

def tensor_column_exponents_workspace(rows: int, columns: int) -> int:
    """Bytes for ``tensor_column_exponents``."""

def tensor_column_exponents(
    *,
    data: int,
    dtype: str,
    rows: int,
    columns: int,
    row_stride: int,
    factors: int,
    factor_stride: int = 1,
    exponents: int,
    largest: int,
    workspace: int,
    stream: int,
) -> None:
    """int32 ``exponents`` (columns,) with ``max_i |y_ij| 2^e_j`` in ``[2^largest, 2^(largest + 1))``; 0 for zeros."""

def tensor_split_rows(
    *,
    data: int,
    dtype: str,
    rows: int,
    columns: int,
    row_stride: int,
    factors: int,
    factor_stride: int = 1,
    blocks: int = 1,
    block_pitch: int = 0,
    planes: int,
    count: int,
    half: bool,
    pitch: int,
    plane_stride: int,
    exponents: int,
    overflow: int,
    stream: int,
) -> None:
    """float32 or float64 rows to ``count`` planes of 16-bit numbers, ``sum_p plane_p = factor y 2^e``.

    With ``blocks`` columns ``p * block_pitch`` onwards are the rows times ``factors[:, p]``, of (rows, factor_stride)
    float64. The int32 at ``overflow`` becomes 1 where a number is not finite or beyond the range of the planes.
    """

def tensor_update_workspace(*, first_row: int, rows: int, columns: int, blocks: int = 1) -> int:
    """Bytes with which segments of rows are summed side by side; 0 where there are tiles enough."""

def tensor_update(
    *,
    scheme: str,
    left: tuple[int, int, int, int],
    right: tuple[int, int, int, int],
    rows: int,
    first_row: int,
    columns: int,
    blocks: int = 1,
    block_pitch: int = 0,
    gram: int,
    gram_is_float: bool = False,
    gram_pitch: int,
    workspace: int,
    stream: int,
    kernel: str = "automatic",
    grid: int = 0,
) -> None:
    """``gram += left^T right`` from planes, on and below the diagonal of each block (p >= q of ``blocks``).

    An operand is (data, pitch, plane_stride, exponents): planes aligned to 16 bytes, pitch and stride multiples of 8
    elements. ``first_row``, the global number of the first row, is a multiple of 128. The bits depend on neither the
    workspace (0: none) nor ``grid``, nor on where a stream is cut at multiples of ``TENSOR_FLUSH_ROWS``.
    """

def tensor_mirror(
    *, gram: int, gram_is_float: bool = False, gram_pitch: int, columns: int, blocks: int = 1, stream: int
) -> None:
    """Write the entries that ``tensor_update`` leaves out, which are equal by symmetry."""
