"""What the tensor-core kernels compute, to the bit, as far as the tensor core is known: a model in NumPy.

One instruction adds 16 products (8 for TF32) to a float32 accumulator. The products are exact; they and the accumulator
are cut toward zero at one common place, `extra_bits` binary places below the last place of a float32 of the size of
the largest of them; their sum, which is then exact, is cut toward zero to a float32. Two extra bits are what was found
on Hopper, one on Ampere, none on Volta (Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor
cores", 2021; Li et al., "FTTN: feature-targeted testing for numerical properties of GPU matrix accelerators", 2024).

Schemes, order of products, and intervals are read from csrc/cuda/planes.hpp, which the kernels compile.
Everything is float64 in here: products of 16-bit floats have at most 22 bits, and sums of 17 cut ones at most 31.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

HEADER = Path(__file__).parents[1] / "csrc" / "cuda" / "planes.hpp"
HOPPER_EXTRA_BITS = 2
NO_EXPONENT = -2000  # of a zero; below that of any product

Array = npt.NDArray[Any]
Products = tuple[tuple[int, int], ...]


class Scheme(NamedTuple):
    name: str
    left_planes: int
    right_planes: int
    half: bool
    products: Products  # low order first
    promote: dict[str, int]  # rows, by kernel


def _integer(name: str, text: str) -> int:
    found = re.search(rf"constexpr \S+ {name} = (\d+);", text)
    assert found, name
    return int(found[1])


def _schemes(text: str) -> dict[str, Scheme]:
    table = re.search(r"kSchemeTable\[kSchemes\] = \{(.*?)\n\};", text, re.DOTALL)
    assert table
    row = re.compile(r"/\* (\w+) +\*/ \{(\d), (\d), (true|false), (\d), \{(.*?)\}, (\d+), (\d+)\},")
    schemes = {}
    for name, left, right, half, count, pairs, mma, wgmma in row.findall(table[1]):
        products = tuple((int(a), int(b)) for a, b in re.findall(r"\{(\d), (\d)\}", pairs))
        assert len(products) == int(count), name
        promote = {"mma": int(mma), "wgmma": int(wgmma)}
        schemes[name] = Scheme(name, int(left), int(right), half == "true", products, promote)
    assert len(schemes) == _integer("kSchemes", text)
    return schemes


_text = HEADER.read_text()
FLUSH_ROWS = _integer("kFlushRows", _text)
INSTRUCTION_ROWS = _integer("kInstructionRows", _text)
SCHEMES = _schemes(_text)
# Not among the kernels, but in the table of errors.
X3: Products = ((0, 1), (1, 0), (0, 0))
X9: Products = ((2, 2), (1, 2), (2, 1), *SCHEMES["bf16x6"].products)


# ---- 16-bit floats ----------------------------------------------------------------------------------------------


def round_to_bits(x: Array, dropped: int) -> Array:
    """float32 values rounded to nearest even, without their last `dropped` bits, as float64."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    half = np.uint64((1 << (dropped - 1)) - 1)
    shift = np.uint64(dropped)
    rounded = (bits + half + ((bits >> shift) & np.uint64(1))) >> shift << shift
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


def to_bfloat16(x: Array) -> Array:
    return round_to_bits(x, 16)


def to_tf32(x: Array) -> Array:
    return round_to_bits(x, 13)


def to_float16(x: Array) -> Array:
    return np.asarray(x, np.float32).astype(np.float16).astype(np.float64)


def split(y: Array, count: int, narrow: Any) -> list[Array]:
    """Planes of y, the largest first, as float64 arrays of 16-bit values."""
    rest = np.asarray(y, np.float32).astype(np.float64)
    planes = []
    for _ in range(count):
        planes.append(narrow(rest))
        rest = rest - planes[-1]
    return planes


def column_exponents(y: Array, largest: int = 14) -> Array:
    """e_j with max |y_j| 2^(e_j) in [2^largest, 2^(largest + 1)); 0 for a column of zeros."""
    peak = np.abs(y).max(axis=0)
    return np.where(peak > 0, largest + 1 - np.frexp(peak)[1], 0).astype(np.int32)


# ---- the tensor core --------------------------------------------------------------------------------------------


def _exponent(x: Array) -> Array:
    return np.where(x == 0, NO_EXPONENT, np.frexp(x)[1] - 1)


def _cut(x: Array, last_place: Array) -> Array:
    return np.ldexp(np.trunc(np.ldexp(x, -last_place)), last_place)


def multiply_add(accumulator: Array, left: Array, right: Array, extra_bits: int = HOPPER_EXTRA_BITS) -> Array:
    """One instruction: accumulator + sum over axis -1 of left * right, for any leading axes."""
    products = left * right
    largest = np.maximum(_exponent(accumulator), _exponent(products).max(axis=-1))
    last_place = np.maximum(largest, -1000) - 23 - extra_bits
    total = _cut(accumulator, last_place) + _cut(products, last_place[..., None]).sum(axis=-1)
    return _cut(total, np.maximum(_exponent(total), -1000) - 23)


def accumulate(
    left: list[Array],
    right: list[Array],
    products: Products,
    *,
    promote: int | None,
    extra_bits: int = HOPPER_EXTRA_BITS,
    instruction_rows: int = INSTRUCTION_ROWS,
    low_order_first: bool = True,
    flush: int = FLUSH_ROWS,
) -> Array:
    """Sum over rows of sum over products (a, b) of left[a][row] * right[b][row], as the kernels add it: float64.

    `left` and `right` are planes of one shape (rows, ...), float64: entries are independent of each other, so that
    two columns repeated along axes give a whole matrix. Without `promote`, one float32 accumulator takes all rows.
    """
    rows = left[0].shape[0]
    block = promote or -(-rows // instruction_rows) * instruction_rows
    blocks = -(-rows // block)
    fill = blocks * block - rows  # zeros change no sum
    steps = block // instruction_rows

    def cut(plane: Array) -> Array:
        plane = np.concatenate([plane, np.zeros((fill, *plane.shape[1:]))])
        plane = plane.reshape(blocks, steps, instruction_rows, *plane.shape[1:])
        return np.moveaxis(plane, 2, -1)

    left, right = [cut(p) for p in left], [cut(p) for p in right]
    low = products[:-1]
    if low_order_first:
        order = [(step, pair) for step in range(steps) for pair in low]
        order += [(step, products[-1]) for step in range(steps)]
    else:
        order = [(step, pair) for step in range(steps) for pair in products]
    accumulator = np.zeros((blocks, *left[0].shape[2:-1]))
    for step, (a, b) in order:
        accumulator = multiply_add(accumulator, left[a][:, step], right[b][:, step], extra_bits)
    return promoted(accumulator.astype(np.float32), max(flush // block, 1))


def promoted(sums: Array, blocks_per_flush: int) -> Array:
    """Sums of blocks, float32 along axis 0, added in float32 up to each flush, and those in float64."""
    total = np.zeros(sums.shape[1:])
    for start in range(0, len(sums), blocks_per_flush):
        master = np.zeros(sums.shape[1:], np.float32)
        for block in sums[start : start + blocks_per_flush]:
            master = master + block
        total = total + master.astype(np.float64)
    return total


def update(
    left: Array,
    right: Array,
    scheme: str,
    kernel: str,
    *,
    exponents: tuple[Array, Array] | None = None,
) -> Array:
    """leftᵀ right of float32 matrices (rows, columns), as `kernel` ("mma" or "wgmma") computes it."""
    table = SCHEMES[scheme]
    narrow = to_float16 if table.half else to_bfloat16
    if exponents is not None:
        left, right = np.ldexp(left, exponents[0]), np.ldexp(right, exponents[1])
    one = [p[:, :, None] for p in split(left, table.left_planes, narrow)]
    other = [p[:, None, :] for p in split(right, table.right_planes, narrow)]
    shape = (len(left), left.shape[1], right.shape[1])
    one = [np.broadcast_to(p, shape) for p in one]
    other = [np.broadcast_to(p, shape) for p in other]
    result = np.zeros(shape[1:])
    for start in range(0, len(left), FLUSH_ROWS):
        rows = slice(start, start + FLUSH_ROWS)
        sums = accumulate(
            [p[rows] for p in one], [p[rows] for p in other], table.products, promote=table.promote[kernel]
        )
        if exponents is not None:
            sums = np.ldexp(sums, -(exponents[0][:, None] + exponents[1][None, :]))
        result = result + sums
    return result
