"""Rank-k updates from 16-bit planes, executed by the emulator, against the model of the tensor core to the bit."""

from __future__ import annotations

import functools

import emulated_tensor as emulated
import numpy as np
import pytest
import tensor_core_model as model
from emulated_cuda import Guarded, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
KERNELS = ["mma", "wgmma"]


@functools.cache
def rows(n, d, seed=0):
    y = np.random.default_rng(seed).standard_normal((n, d)) * 2.0 ** np.arange(-3, 4)[np.arange(d) % 7]
    return y.astype(np.float32)


def planes_of(y, scheme, *, left=False, **kwargs):
    table = model.SCHEMES[scheme]
    return emulated.Planes(y, table.left_planes if left else table.right_planes, table.half, **kwargs)


def square(scheme, y, *, exponents=None, **kwargs):
    n, d = y.shape
    planes = planes_of(y, scheme, exponents=exponents)
    return emulated.update(scheme, planes, planes, rows=n, columns=d, **kwargs)


SYMMETRIC = ["bf16x6", "fp16x3", "bf16x3"]


# ---- the split --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("count", "half"), [(1, False), (2, False), (3, False), (1, True), (2, True), (3, True)]
)
def test_planes_are_those_of_the_model(count, half, dtype):
    rng = np.random.default_rng(1)
    y = (rng.standard_normal((37, 21)) * 10.0 ** rng.uniform(-6, 4, (37, 21))).astype(dtype)
    y[0, :4] = 0, -0.0, 2.0**-24, -(2.0**-25)
    factors = rng.standard_normal(37)
    planes = emulated.Planes(y, count, half, factors=factors, extra_pitch=8, seed=3)
    narrow = model.to_float16 if half else model.to_bfloat16
    expected = model.split((factors[:, None] * y.astype(np.float64)).astype(np.float32), count, narrow)
    got = planes.values()
    assert (got[:, :, :21] == expected).all()
    assert (got[:, :, 21:] == 0).all()
    assert planes.overflow[0] == 0


def test_three_bfloat16_planes_are_a_float32_to_the_bit():
    y = rows(64, 17)
    assert (planes_of(y, "bf16x6").values().sum(axis=0)[:, :17] == y).all()


def test_exponents_bring_columns_into_the_range_of_float16():
    module = emulated.load()
    y = rows(700, 9).copy()
    y[:, 4] = 0
    y[:, 5] *= np.float32(2.0**60)
    y[:, 6] *= np.float32(1e-30)
    factors = np.random.default_rng(0).standard_normal(700)
    y[:, 3] = -np.abs(y[:, 3]) * np.sign(factors)  # its largest entries are negative
    exponents = Guarded((9,), np.int32)
    needed = module.tensor_column_exponents_workspace(700, 9)
    memory = Guarded((needed // 4,), np.float32)
    module.tensor_column_exponents(
        data=y.ctypes.data,
        dtype="float32",
        rows=700,
        columns=9,
        row_stride=9,
        factors=factors.ctypes.data,
        exponents=exponents.address,
        largest=14,
        workspace=memory.address,
        stream=0,
    )
    assert exponents.intact()
    assert memory.intact()
    scaled = (factors[:, None] * y.astype(np.float64)).astype(np.float32)
    assert (exponents.array == model.column_exponents(scaled)).all()
    planes = emulated.Planes(y, 2, True, exponents=exponents.array, factors=factors)
    assert planes.overflow[0] == 0
    used = exponents.array != 0
    peaks = np.abs(planes.values().sum(axis=0)[:, :9]).max(axis=0)
    assert (peaks[used] >= 2.0**14).all()
    assert (peaks <= 2.0**15).all()


@pytest.mark.parametrize("value", [70000.0, np.inf, -np.inf, np.nan])
def test_what_float16_cannot_hold_is_flagged(value):
    y = rows(20, 9).copy()
    y[13, 8] = value
    assert emulated.Planes(y, 2, True).overflow[0] == 1
    assert emulated.Planes(y, 3, False).overflow[0] == int(not np.isfinite(value))


# ---- the update -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scheme", SYMMETRIC)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (63, 17), (130, 65), (200, 137)])
def test_an_update_is_the_model_to_the_bit(n, d, scheme, kernel):
    y = rows(n, d)
    exponents = model.column_exponents(y) if scheme == "fp16x3" else None
    got = square(scheme, y, exponents=exponents, kernel=kernel, seed=n)
    pair = None if exponents is None else (exponents, exponents)
    expected = model.update(y, y, scheme, kernel, exponents=pair)
    assert (np.tril(got) == np.tril(expected)).all()
    assert (np.triu(got, 1) == 0).all()  # the upper triangle belongs to others


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scheme", ["bf16", "fp16"])
def test_sixteen_bit_gradients_are_multiplied_as_they_are(scheme, kernel):
    table = model.SCHEMES[scheme]
    narrow = model.to_float16 if table.half else model.to_bfloat16
    y = narrow(rows(300, 33)).astype(np.float32)
    got = square(scheme, y, kernel=kernel)
    assert (np.tril(got) == np.tril(model.update(y, y, scheme, kernel))).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scheme", ["bf16_left2", "bf16_left3", "bf16x6"])
def test_weights_of_any_sign_on_the_left(scheme, kernel):
    n, d = 150, 40
    x = rows(n, d)
    if scheme != "bf16x6":
        x = model.to_bfloat16(x).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal(n)
    left = planes_of(x, scheme, left=True, factors=weights)
    right = planes_of(x, scheme)
    got = emulated.update(scheme, left, right, rows=n, columns=d, kernel=kernel)
    weighted = (weights[:, None] * x.astype(np.float64)).astype(np.float32)
    assert (np.tril(got) == np.tril(model.update(weighted, x, scheme, kernel))).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_sums_are_added_to_what_is_there(kernel):
    y = rows(70, 20)
    start = np.random.default_rng(2).standard_normal((20, 20))
    got = square("bf16x6", y, gram=start, kernel=kernel)
    assert (np.tril(got) == np.tril(start + model.update(y, y, "bf16x6", kernel))).all()
    assert (np.triu(got, 1) == np.triu(start, 1)).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_sums_may_be_float32(kernel):
    y = rows(70, 20)
    start = np.random.default_rng(2).standard_normal((20, 20)).astype(np.float32)
    got = square("bf16x6", y, gram=start, kernel=kernel, dtype=np.float32)
    expected = (start.astype(np.float64) + model.update(y, y, "bf16x6", kernel)).astype(np.float32)
    assert (np.tril(got) == np.tril(expected)).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_any_schedule_of_threads_and_copies_gives_the_same_bits(seed, kernel):
    """Stages are reused, tiles follow each other in one thread block, and copies land late."""
    y = rows(440, 140)  # the last stage of a tile is the first of the next one
    expected = square("bf16x3", y, kernel=kernel)
    assert (square("bf16x3", y, kernel=kernel, grid=seed % 3, seed=seed) == expected).all()


# One plane keeps the emulator fast where there must be many rows.
LONG = model.FLUSH_ROWS + 77


@functools.cache
def long_result(kernel):
    """Rows of two segments, what C holds before, and after; additions of segments do not commute with that."""
    y = model.to_bfloat16(rows(LONG, 5)).astype(np.float32)
    segments = [y[: model.FLUSH_ROWS], y[model.FLUSH_ROWS :]]
    first, second = (model.update(part, part, "bf16", kernel) for part in segments)
    start = np.random.default_rng(6).standard_normal((5, 5)) * 1e15  # so that rounding shows the order
    expected = np.tril((start + first) + second)
    assert not (expected == np.tril((start + second) + first)).all()
    return y, start, expected


@pytest.mark.parametrize("kernel", KERNELS)
def test_segments_side_by_side_are_the_same_bits(kernel):
    y, start, expected = long_result(kernel)
    planes = planes_of(y, "bf16")
    assert emulated.load().tensor_update_workspace(first_row=0, rows=LONG, columns=5) > 0
    for workspace in (True, False):
        got = emulated.update(
            "bf16", planes, planes, rows=LONG, columns=5, gram=start, workspace=workspace, kernel=kernel
        )
        assert (np.tril(got) == expected).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_chunks_that_end_with_a_segment_are_the_same_bits(kernel):
    y, start, expected = long_result(kernel)
    planes = planes_of(y, "bf16")
    chunks = [0, model.FLUSH_ROWS]
    got = emulated.update(
        "bf16", planes, planes, rows=LONG, columns=5, gram=start, chunks=chunks, kernel=kernel
    )
    assert (np.tril(got) == expected).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("workspace", [True, False])
def test_flushes_are_at_global_rows(workspace, kernel):
    """A call that begins inside a segment ends it where the global numbers say."""
    y = model.to_bfloat16(rows(400, 5)).astype(np.float32)
    planes = planes_of(y, "bf16")
    first = model.FLUSH_ROWS - 256
    got = emulated.update(
        "bf16", planes, planes, rows=400, columns=5, first_row=first, workspace=workspace, kernel=kernel
    )
    expected = model.update(y[:256], y[:256], "bf16", kernel) + model.update(y[256:], y[256:], "bf16", kernel)
    assert (np.tril(got) == np.tril(expected)).all()
    assert not (expected == model.update(y, y, "bf16", kernel)).all()


# ---- outer rows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("k", "d"), [(3, 20), (2, 133)])
def test_outer_rows_take_a_quarter_of_the_square(k, d, kernel):
    n = 90
    rng = np.random.default_rng(4)
    errors = rng.standard_normal((n, k))
    activations = rows(n, d)
    pitch = -(-d // 8) * 8
    dense = (
        (errors[:, :, None] * activations.astype(np.float64)[:, None, :]).reshape(n, k * d).astype(np.float32)
    )
    planes = planes_of(activations, "bf16x6", factors=errors, blocks=k, block_pitch=pitch, seed=2)
    lower = emulated.update(
        "bf16x6", planes, planes, rows=n, columns=d, blocks=k, block_pitch=pitch, kernel=kernel, seed=1
    )
    expected = model.update(dense, dense, "bf16x6", kernel)
    inside = np.tril(np.ones((d, d), bool))
    computed = np.kron(np.tril(np.ones((k, k), bool)), inside)
    assert (lower[computed] == expected[computed]).all()
    assert (lower[~computed] == 0).all()

    full = emulated.mirror(lower, d, blocks=k)
    assert (full == full.T).all()
    for p in range(k):
        for q in range(k):
            block = full[p * d : (p + 1) * d, q * d : (q + 1) * d]
            assert (block == block.T).all()
    exact = dense.astype(np.float64).T @ dense.astype(np.float64)
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    # Three planes hold 24 bits; rows delta a rounded to float32 carry 2^-24 each, and delta_p a_i delta_q a_j differs
    # from delta_p a_j delta_q a_i by that.
    assert (np.abs(full - exact) <= 8 * 2.0**-24 * scale).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("d", [1, 31, 33, 70])
def test_mirror_fills_what_is_equal_by_symmetry(d, dtype):
    lower = np.tril(np.random.default_rng(0).standard_normal((d, d))).astype(dtype)
    assert (emulated.mirror(lower, d) == lower + np.tril(lower, -1).T).all()


def test_the_kernel_of_the_device_is_named():
    assert emulated.load().tensor_kernel() == "wgmma"  # the emulator runs it
    y = rows(70, 20)
    assert (square("bf16x6", y, kernel="automatic") == square("bf16x6", y, kernel="wgmma")).all()


# ---- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scheme": "bf16x9"}, "TENSOR_SCHEMES"),
        ({"first_row": 64}, "multiple of 128"),
        ({"columns": 0}, "at least 1"),
        ({"gram_pitch": 15}, "gram_pitch"),
        ({"blocks": 2, "block_pitch": 12, "gram_pitch": 64}, "block_pitch"),
        ({"left": (2, 16, 160, 0)}, "aligned"),
        ({"left": (0, 20, 400, 0)}, "pitch of planes"),
        ({"left": (0, 16, 80, 0)}, "plane_stride"),
        ({"kernel": "fast"}, "automatic, mma or wgmma"),
    ],
)
def test_the_binding_refuses_what_the_kernels_cannot_read(wrong, message):
    right = {
        "scheme": "bf16x6",
        "left": (0, 16, 160, 0),
        "right": (0, 16, 160, 0),
        "rows": 10,
        "first_row": 0,
        "columns": 16,
        "gram": 0,
        "gram_pitch": 16,
        "workspace": 0,
        "stream": 0,
    }
    with pytest.raises(ValueError, match=message):
        emulated.load().tensor_update(**{**right, **wrong})
