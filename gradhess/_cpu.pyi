"""Types of the compiled module (csrc/bindings/cpu_module.cpp). Private: call ``gradhess._backends.cpu``."""

import numpy as np
import numpy.typing as npt

from gradhess._backends.protocol import AnyArray, Float64Array

class Rows: ...
class Moments: ...

def rows(
    X: AnyArray,
    kind: int,
    unit_column: bool,
    loss: int,
    parameter: float,
    y: Float64Array | None,
    coef: Float64Array | None,
    intercept: Float64Array | None,
    loss_weight: Float64Array | None,
    custom: tuple[int, int, int],
) -> Rows: ...
def moments(
    structure: int,
    centred: bool,
    scatter: AnyArray | None,
    location: Float64Array,
    block_scatter: AnyArray | None,
    block_shift: Float64Array,
    block_sum: Float64Array,
    scalars: Float64Array,
    counts: npt.NDArray[np.int64],
) -> Moments: ...
def accumulate(
    rows: Rows,
    weights: Float64Array | None,
    state: Moments,
    slab_rows: int,
    block_rows: int,
    threads: int,
    isa: int,
) -> int: ...
def extend(
    rows: Rows,
    weights: Float64Array | None,
    state: Moments,
    waiting: AnyArray,
    waiting_weights: Float64Array | None,
    n_waiting: int,
    half: int,
    block_rows: int,
    threads: int,
    isa: int,
) -> int: ...
def batch_moments(
    rows: Rows,
    weights: Float64Array | None,
    structure: int,
    centred: bool,
    scatter_f32: bool,
    scale: float | None,
    slab_rows: int,
    block_rows: int,
    threads: int,
    isa: int,
) -> tuple[AnyArray | None, Float64Array, float] | int: ...
def close_block(state: Moments) -> None: ...
def merge(state: Moments, other: Moments) -> None: ...
def symmetrize(lower: AnyArray, scale: float, out: AnyArray, threads: int, isa: int) -> None: ...
def materialize(rows: Rows, out: AnyArray, isa: int) -> None: ...
def first_nonfinite(rows: Rows, weights: Float64Array | None, threads: int, isa: int) -> int: ...
def all_finite(array: Float64Array, threads: int) -> bool: ...
def errors(rows: Rows, threads: int, isa: int) -> Float64Array: ...
def norms(rows: Rows, threads: int, isa: int) -> Float64Array: ...
def multiply(
    rows: Rows, vectors: Float64Array, units: Float64Array | None, threads: int, isa: int
) -> Float64Array: ...
def multiply_transposed(
    rows: Rows,
    u: Float64Array | None,
    vectors: Float64Array | None,
    units: Float64Array | None,
    threads: int,
    isa: int,
) -> Float64Array: ...
def group_sums(
    rows: Rows,
    offsets: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int64] | None,
    slopes: Float64Array | None,
    factors: Float64Array | None,
    shifts: Float64Array | None,
    scale: Float64Array | None,
    out: AnyArray,
    threads: int,
    isa: int,
) -> int: ...
def outer_gram(
    rows: AnyArray,
    unit_column: bool,
    errors: Float64Array,
    row_weight: Float64Array | None,
    curvature: bool,
    out: AnyArray,
    begin: bool,
    end: bool,
    slab_rows: int,
    threads: int,
    isa: int,
) -> None: ...
def kronecker_sums(
    activations: Float64Array,
    factors: list[tuple[Float64Array | None, Float64Array]],
    out: Float64Array,
    slab_rows: int,
    threads: int,
    isa: int,
) -> None: ...
def pair_dependence(
    labels: npt.NDArray[np.uint8],
    q: int,
    input_weights: Float64Array,
    target_weights: Float64Array | None,
    rows: int,
    threads: int,
    isa: int,
) -> Float64Array: ...
def are_plain_glm(X: object, y: object, coef: object, labels: int) -> bool: ...
def are_zero_or_within(weights: Float64Array, least: float, most: float) -> bool: ...
def isa_names() -> tuple[str, ...]: ...
def compiler() -> str: ...
def probe_fma_peak(single: bool, threads: int, seconds: float, isa: int) -> float: ...
def probe_read_bandwidth(bytes: int, threads: int, seconds: float) -> float: ...
