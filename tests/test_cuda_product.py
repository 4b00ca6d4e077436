"""The kernel of products of two matrices, run by the emulator, against NumPy: every layout, odd sizes, one order."""

from __future__ import annotations

import re

import numpy as np
import pytest
from emulated_cuda import ROOT, Guarded, cuda, newest, why_not

from gradhess._backends.cupy.engine import PRODUCT_SEGMENT

__all__ = ["cuda", "newest"]

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

U = 2.0**-53
LAYOUTS = [(True, True), (True, False), (False, True), (False, False)]


def operand(matrix, apart, extra):
    """(terms, entries) with ``extra`` numbers of NaN behind each row, aligned to 8 bytes and no more."""
    lying = matrix if apart else matrix.T
    held = Guarded((lying.shape[0], lying.shape[1] + extra), np.float64, offset=8)
    held.array[:, : lying.shape[1]] = lying
    return held, (held.address, lying.shape[1] + extra, apart)


def multiply(
    cuda, left, right, *, start=None, layout=(True, True), order="C", apart=True, seed=0, blocks=0, extra=3
):
    """``start + left^T right`` of (terms, rows) and (terms, columns), between guard bytes."""
    (terms, rows), columns = left.shape, right.shape[1]
    held_left, left_arguments = operand(left, layout[0], extra)
    held_right, right_arguments = operand(right, layout[1], extra)
    out = Guarded((rows, columns + extra) if order == "C" else (columns, rows + extra), np.float64)
    view = out.array[:, :columns] if order == "C" else out.array[:, :rows].T
    beside = out.array[:, columns:] if order == "C" else out.array[:, rows:]
    if start is not None:
        view[...] = start
    work = Guarded((cuda.matrix_product_workspace(rows, columns, terms) if apart else 0,), np.uint8)
    cuda.emulate_schedule(seed)
    cuda.matrix_product(
        left=left_arguments,
        right=right_arguments,
        rows=rows,
        columns=columns,
        terms=terms,
        out=out.address,
        row_stride=view.strides[0] // 8,
        column_stride=view.strides[1] // 8,
        add=start is not None,
        workspace=work.address if work.array.size else 0,
        stream=0,
        blocks=blocks,
    )
    assert all(held.intact() for held in (held_left, held_right, out, work))
    assert np.isnan(beside).all()
    return view.copy()


def problem(rows, columns, terms):
    rng = np.random.default_rng([rows, columns, terms])
    return rng.standard_normal((terms, rows)), rng.standard_normal((terms, columns))


def check(got, left, right, start=None):
    """A chain of fused multiply-adds over a segment, one of sums over segments, and the start."""
    terms = len(left)
    expected = left.astype(np.longdouble).T @ right.astype(np.longdouble)
    size = np.abs(left).T @ np.abs(right)
    if start is not None:
        expected, size = expected + start, size + np.abs(start)
    chain = min(terms, PRODUCT_SEGMENT) + -(-terms // PRODUCT_SEGMENT) + 1
    assert got.shape == expected.shape
    assert (np.abs(got - expected) <= chain * U * size).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("rows", "columns", "terms"),
    [(1, 1, 1), (17, 3, 63), (9, 65, 100), (129, 1, 16), (140, 131, 33), (3, 200, 17), (65, 129, 1)],
)
def test_sizes_and_layouts(cuda, rows, columns, terms, layout):
    left, right = problem(rows, columns, terms)
    check(multiply(cuda, left, right, layout=layout), left, right)
    start = np.random.default_rng(1).standard_normal((rows, columns))
    check(multiply(cuda, left, right, start=start, layout=layout, order="F"), left, right, start)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_product_without_terms_is_the_start(newest, layout):
    left, right = np.empty((0, 5)), np.empty((0, 4))
    assert not multiply(newest, left, right, layout=layout).any()
    start = np.arange(20.0).reshape(5, 4)
    np.testing.assert_array_equal(multiply(newest, left, right, start=start, layout=layout), start)


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (5, 0)])
def test_a_product_without_entries_writes_nothing(newest, rows, columns):
    assert multiply(newest, *problem(rows, columns, 9)).shape == (rows, columns)


@pytest.mark.parametrize("terms", [1024, 1025, 2500])
def test_segments(cuda, terms):
    left, right = problem(17, 3, terms)
    assert (cuda.matrix_product_workspace(17, 3, terms) > 0) == (terms > PRODUCT_SEGMENT)
    start = np.ones((17, 3))
    check(multiply(cuda, left, right, start=start), left, right, start)
    check(multiply(cuda, left, right), left, right)
    check(multiply(cuda, left, right, apart=False), left, right)


def test_same_bits_for_any_device_order_and_workspace(newest):
    left, right = problem(20, 140, 2100)
    start = np.random.default_rng(2).standard_normal((20, 140))
    first = multiply(newest, left, right, start=start)
    for options in (
        {"blocks": 1},
        {"blocks": 2, "seed": 3},
        {"seed": 5},
        {"apart": False},
        {"apart": False, "blocks": 1, "seed": 6},
        {"layout": (False, True), "order": "F"},
        {"layout": (True, False), "extra": 0},
    ):
        np.testing.assert_array_equal(multiply(newest, left, right, start=start, **options), first)


def test_same_bits_where_a_sum_is_cut_at_segments(newest):
    left, right = problem(5, 3, 2200)
    whole = multiply(newest, left, right)
    total = np.zeros((5, 3))
    for part in (slice(0, PRODUCT_SEGMENT), slice(PRODUCT_SEGMENT, None)):
        total = multiply(newest, left[part], right[part], start=total)
    np.testing.assert_array_equal(total, whole)


def test_bits_of_an_entry_are_those_of_its_row_and_its_column(newest):
    """Tiles, fragments, and which side has fewer entries, change nothing."""
    left, right = problem(150, 140, 40)
    whole = multiply(newest, left, right)
    for rows, columns in (
        (slice(3, 4), slice(None)),
        (slice(None), slice(137, 140)),
        (slice(1, 18), slice(9)),
    ):
        part = multiply(newest, left[:, rows], right[:, columns])
        np.testing.assert_array_equal(part, whole[rows, columns])


def test_numbers_that_are_not_finite_stay_in_their_row_and_column(newest):
    left, right = problem(130, 9, 20)
    left[4, 7], right[19, 8] = np.inf, np.nan
    found = multiply(newest, left, right)
    finite = np.ones((130, 9), bool)
    finite[7], finite[:, 8] = False, False
    np.testing.assert_array_equal(np.isfinite(found), finite)


def test_many_tiles_take_no_workspace(newest):
    """132 of them: those of an H200's multiprocessors, on every device."""
    assert newest.matrix_product_workspace(12 * 128, 10 * 128, 5000) == 5 * 12 * 128 * 10 * 128 * 8
    assert newest.matrix_product_workspace(12 * 128, 11 * 128, 5000) == 0
    assert newest.matrix_product_workspace(128, 128, 1 << 24) == 0  # 2 GiB


@pytest.mark.parametrize(
    "wrong",
    [{"rows": -1}, {"terms": -1}, {"left": (4, 8, True)}, {"right": (0, 3, True)}, {"right": (0, 3, False)}],
)
def test_the_module_refuses_what_its_kernels_cannot_read(newest, wrong):
    right = {"left": (0, 8, True), "right": (0, 8, True), "rows": 8, "columns": 8, "terms": 8}
    right |= {"out": 0, "row_stride": 8, "column_stride": 1, "add": False, "workspace": 0, "stream": 0}
    with pytest.raises(ValueError, match="must"):
        newest.matrix_product(**(right | wrong))


def test_grids_do_not_ask_for_the_device():
    """Only the persistent blocks of wgmma do, whose tiles are numbered by shape, and the check that a kernel can run at
    all (launch.cuh); and nothing on the host does."""
    words = re.compile("multiProcessor|MultiProcessor|OccupancyMax")
    sources = [path for end in ("cu", "cuh", "hpp") for path in (ROOT / "csrc" / "cuda").rglob(f"*.{end}")]
    sources += [path for end in ("py", "cu") for path in (ROOT / "gradhess" / "_backends").rglob(f"*.{end}")]
    assert {path.name for path in sources if words.search(path.read_text("utf-8"))} == {
        "launch.cuh",
        "update_wgmma.cu",
    }
