"""The same rows have the same bits: for any chunking at slab edges, any thread count, any repetition, any address."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import numpy as np
import oracles
import pytest

from gradhess._backends import layout
from gradhess._backends.protocol import NonFiniteRow, Rows

CASES = {
    "narrow": dict(n=9000, d=9),
    "blocks": dict(n=13000, d=33, dtype=np.float32),
    "one column": dict(n=20000, d=1, kind="gradient", loss="poisson"),
    "few-f32": dict(n=9000, d=11, kind="gradient", loss="squared", dtype=np.float32, unit_column=True),
    "logistic": dict(n=9000, d=5, kind="gradient", loss="logistic", unit_column=True),
    "softmax": dict(n=5000, d=4, kind="gradient", loss="softmax", loss_weight=True),
    "hessian": dict(n=5000, d=6, kind="hessian", loss="poisson"),
    "wide": dict(n=1500, d=300),
    "wide-f32": dict(n=5000, d=260, kind="gradient", loss="squared", dtype=np.float32),
    "wide-softmax": dict(n=1500, d=40, kind="gradient", loss="softmax", outputs=7, unit_column=True),
    "integers": dict(n=5000, d=12, dtype=np.int16, mean=20.0),
}


@pytest.fixture(params=CASES)
def rows(request) -> Rows:
    return oracles.make_rows(**CASES[request.param])


def weights_of(rows):
    return np.random.default_rng(6).uniform(0, 2, rows.n_samples)


@pytest.mark.parametrize("structure", ["full", "diagonal", "sum"])
def test_any_number_of_threads(ops, rows, structure):
    weights = weights_of(rows)
    expected = oracles.accumulate(ops, rows, weights, structure=structure, threads=1)
    for threads in (1, 2, 3, 7):
        state = oracles.accumulate(ops, rows, weights, structure=structure, threads=threads)
        oracles.assert_same_bits(state, expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("d", "n"),
    [(5, 13_000), (8, 9_000), (12, 6_000), (13, 6_000), (16, 6_000), (27, 3_000), (40, 3_000), (64, 900)],
)
def test_a_slab_of_one_thread_or_of_a_team(ops, d, n, dtype):
    """Few columns in few blocks: where threads outnumber these, they share out slabs, or a team shares each."""
    rows = oracles.make_rows(n, d, kind="gradient", loss="huber", dtype=dtype, unit_column=d % 2 == 1)
    for weights in (None, weights_of(rows)):
        for centred in (True, False):
            expected = oracles.accumulate(ops, rows, weights, centred=centred, threads=1)
            state = oracles.accumulate(ops, rows, weights, centred=centred, threads=7)
            oracles.assert_same_bits(state, expected)


@pytest.mark.parametrize("structure", ["full", "diagonal", "sum"])
@pytest.mark.parametrize("centred", [True, False])
def test_any_chunking_at_slab_edges(ops, rows, structure, centred):
    weights = weights_of(rows)
    expected = oracles.accumulate(ops, rows, weights, structure=structure, centred=centred)
    n, slab = rows.n_samples, layout.SLAB_ROWS
    for cuts in (
        tuple(range(5 * slab, n, 5 * slab)),
        (slab,),
        tuple(cut for cut in (4 * slab, layout.BLOCK_ROWS - slab, layout.BLOCK_ROWS, 8192 + slab) if cut < n),
    ):
        state = oracles.accumulate(
            ops, rows, weights, structure=structure, centred=centred, cuts=cuts, threads=3
        )
        oracles.assert_same_bits(state, expected)


def test_slab_by_slab(ops):
    for dtype in (np.float64, np.float32):
        rows = oracles.make_rows(5000, 7, dtype=dtype)
        cuts = tuple(range(layout.SLAB_ROWS, 5000, layout.SLAB_ROWS))
        oracles.assert_same_bits(oracles.accumulate(ops, rows, cuts=cuts), oracles.accumulate(ops, rows))


@pytest.mark.parametrize(("d", "dtype"), [(600, np.float64), (1030, np.float32)])
def test_long_slabs(ops, d, dtype):
    """Above the block buffer; as many columns as make an odd number of short slabs fit into 4 MiB."""
    rows = oracles.make_rows(1300, d, dtype=dtype)
    slab = layout.slab_rows(d, "full")
    assert slab > layout.SLAB_ROWS
    weights = weights_of(rows)
    expected = oracles.accumulate(ops, rows, weights, threads=1)
    for threads, cuts in ((2, ()), (3, (slab,)), (7, (slab, 2 * slab)), (1, (2 * slab,))):
        state = oracles.accumulate(ops, rows, weights, threads=threads, cuts=cuts)
        oracles.assert_same_bits(state, expected)


@pytest.mark.parametrize("d", [180, 300])
def test_blocks_shared_out_and_the_rest_together(ops, d):
    """More blocks than threads, of which not all threads have the same number: a team works on the others."""
    rows = oracles.make_rows(
        3 * layout.BLOCK_ROWS + 700, d, kind="gradient", loss="squared", dtype=np.float32
    )
    weights = weights_of(rows)
    for centred in (True, False):
        expected = oracles.accumulate(ops, rows, weights, centred=centred, threads=1)
        for threads, cuts in ((2, ()), (3, ()), (2, (5 * layout.SLAB_ROWS,))):
            state = oracles.accumulate(ops, rows, weights, centred=centred, threads=threads, cuts=cuts)
            oracles.assert_same_bits(state, expected)
    for places in ((rows.n_samples - 1,), (2 * layout.BLOCK_ROWS + 3, 3 * layout.BLOCK_ROWS), (17, 9000)):
        broken = replace(rows, X=rows.X.copy())
        broken.X[list(places), d // 2] = np.nan
        with pytest.raises(NonFiniteRow) as caught:
            oracles.accumulate(ops, broken, threads=2)
        assert caught.value.index == places[0]


@pytest.mark.parametrize("structure", ["full", "diagonal", "sum"])
@pytest.mark.parametrize(("d", "n"), [(16, 12_000), (64, 4096), (150, 2100), (350, 1500), (1100, 2100)])
def test_slabs_shared_out_where_blocks_are_few(ops, d, n, structure):
    """The first slabs of a block, which have no weight, do not give its shift; and it may have rows already."""
    rows = oracles.make_rows(n, d, kind="gradient", loss="squared", dtype=np.float32)
    some = weights_of(rows)
    some[: 2 * layout.SLAB_ROWS] = 0.0
    half = min(n // 2, layout.BLOCK_ROWS) // layout.WIDE_SLAB_ROWS * layout.WIDE_SLAB_ROWS
    for weights in (None, some):
        for centred in (True, False):
            case = {"structure": structure, "centred": centred}
            expected = oracles.accumulate(ops, rows, weights, threads=1, **case)
            for threads, cuts in ((2, ()), (3, (half,)), (16, ())):
                state = oracles.accumulate(ops, rows, weights, threads=threads, cuts=cuts, **case)
                oracles.assert_same_bits(state, expected)


@pytest.mark.parametrize("structure", ["full", "diagonal", "sum"])
@pytest.mark.parametrize(("n", "d"), [(4000, 70), (8500, 260)])
def test_the_first_bad_row_of_slabs_shared_out(ops, n, d, structure):
    """The first slabs of all blocks are summed before the others, which may hold an earlier one."""
    rows = oracles.make_rows(n, d, dtype=np.float32)
    for places in ((3,), (n - 1,), (300, 2100), (2100, 2101, 3000), (1023, 1024), (n - 1300, n - 290)):
        broken = replace(rows, X=rows.X.copy())
        broken.X[list(places), 33] = np.inf
        for threads in (2, 5):
            with pytest.raises(NonFiniteRow) as caught:
                oracles.accumulate(ops, broken, threads=threads, structure=structure)
            assert caught.value.index == places[0]


def test_short_slabs_of_wide_diagonals(ops):
    rows = oracles.make_rows(200, 5000, dtype=np.float32)
    slab = layout.slab_rows(5000, "diagonal")
    assert slab < layout.SLAB_ROWS
    for structure in ("diagonal", "sum"):
        expected = oracles.accumulate(ops, rows, structure=structure, threads=1)
        for threads, cuts in ((3, ()), (2, (slab, 3 * slab))):
            state = oracles.accumulate(ops, rows, structure=structure, threads=threads, cuts=cuts)
            oracles.assert_same_bits(state, expected)


def test_any_address(ops):
    """Vectors and cache lines may begin anywhere in a row."""
    for dtype, d in ((np.float64, 1), (np.float32, 1), (np.float64, 17), (np.float32, 300)):
        rows = oracles.make_rows(700, d, dtype=dtype, kind="gradient", loss="logistic")
        expected = oracles.accumulate(ops, rows)
        apart = np.zeros((700, d + 3), dtype)
        apart[:, :d] = rows.X
        oracles.assert_same_bits(oracles.accumulate(ops, replace(rows, X=apart[:, :d])), expected)
        memory = np.empty(rows.X.size + 16, dtype)
        for offset in (0, 1, 3, 7):
            X = memory[offset : offset + rows.X.size].reshape(rows.X.shape)
            X[...] = rows.X
            oracles.assert_same_bits(oracles.accumulate(ops, replace(rows, X=X)), expected)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_products(ops, rows, threads):
    rng = np.random.default_rng(9)
    v, u = rng.standard_normal((rows.n_parameters, 2)), rng.standard_normal((rows.n_samples, 2))
    np.testing.assert_array_equal(ops.norms(rows, threads=threads), ops.norms(rows, threads=1))
    np.testing.assert_array_equal(ops.matvec(rows, v, threads=threads), ops.matvec(rows, v, threads=1))
    np.testing.assert_array_equal(ops.rmatvec(rows, u, threads=threads), ops.rmatvec(rows, u, threads=1))
    np.testing.assert_array_equal(
        ops.gram_matvec(rows, v, threads=threads), ops.gram_matvec(rows, v, threads=1)
    )


@pytest.fixture
def kernels(ops):
    if ops.name == "reference":
        pytest.skip("its products are those of NumPy's BLAS, whose order of summation nobody fixes")
    return ops


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_product_depends_on_its_row_alone(kernels, dtype):
    """Not on the rows before it, nor on where the next one begins."""
    rng = np.random.default_rng(4)
    for d in (1, 2, 3, 4, 5, 7, 8, 17):
        rows = oracles.make_rows(45, d, dtype=dtype, kind="gradient", loss="squared")
        apart = np.zeros((45, d + 3), dtype)
        apart[:, :d] = rows.X
        for m in (1, 3):
            v = rng.standard_normal((d, m))
            expected = kernels.matvec(rows, v, threads=1)
            norms = kernels.norms(rows, threads=1)
            for start in (0, 1, 2, 3, 5, 42):
                for given in (rows, replace(rows, X=apart[:, :d])):
                    part = given.slice(start, 45)
                    np.testing.assert_array_equal(kernels.matvec(part, v, threads=1), expected[start:])
                    np.testing.assert_array_equal(kernels.norms(part, threads=1), norms[start:])


def by_columns(rows: Rows) -> Rows:
    """The same in Fortran order, with neighbours that must not be counted."""
    n, d = rows.X.shape
    wider = np.full((n + 5, d + 3), np.nan, rows.X.dtype, order="F")
    wider[3:-2, 2:-1] = rows.X
    return replace(rows, X=wider[3:-2, 2:-1])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", [*range(1, 26), 31, 32, 33, 40, 41, 47, 63, 64, 65, 130, 270])
def test_moments_of_columns_have_the_bits_of_rows(kernels, d, dtype):
    """Where X is in Fortran order: at every end of a vector, a tree, a line, a group and a slab of rows."""
    slab = layout.SLAB_ROWS
    for n, threads in (
        (3, 1),
        (8, 1),
        (15, 1),
        (41, 1),
        (slab + 17, 1),
        (3 * slab - 1, 1),
        (2 * slab + 9, 2),
    ):
        for kind, loss in (("dense", None), ("gradient", "squared"), ("hessian", "poisson")):
            rows = oracles.make_rows(n, d, dtype=dtype, kind=kind, loss=loss, unit_column=kind == "gradient")
            columns = by_columns(rows)
            for structure in ("full", "diagonal", "sum"):
                for weights, centred in ((None, True), (None, False), (weights_of(rows), n % 2 == 0)):
                    case = {"structure": structure, "centred": centred, "threads": threads}
                    oracles.assert_same_bits(
                        oracles.accumulate(kernels, columns, weights, **case),
                        oracles.accumulate(kernels, rows, weights, **case),
                    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", [*range(1, 26), 31, 32, 33, 40, 47, 64, 200])
def test_products_of_columns_have_the_bits_of_rows(kernels, d, dtype):
    """Where X is in Fortran order: at every end of a vector, of the columns read together, and of a group of rows."""
    rng = np.random.default_rng(d)
    for n in (1, 2, 5, 8, 15, 17, 64, 127, 129, 255, 257, 515):
        for kind, loss in (("dense", None), ("gradient", "logistic")):
            rows = oracles.make_rows(n, d, dtype=dtype, kind=kind, loss=loss, unit_column=loss is not None)
            columns = by_columns(rows)
            np.testing.assert_array_equal(kernels.norms(columns, threads=1), kernels.norms(rows, threads=1))
            for m in (1, 2, 4, 5):
                v, u = rng.standard_normal((rows.n_parameters, m)), rng.standard_normal((n, m))
                for product, vectors in (
                    (kernels.matvec, v),
                    (kernels.gram_matvec, v),
                    (kernels.rmatvec, u),
                ):
                    np.testing.assert_array_equal(
                        product(columns, vectors, threads=1), product(rows, vectors, threads=1)
                    )


def check_instruction_sets(rows):
    cpu = pytest.importorskip("gradhess._backends.cpu")
    if not {"avx2", "avx512"} <= set(cpu.available_isas()):
        pytest.skip("needs both AVX2 and AVX-512")
    for weights in (None, weights_of(rows)):
        found = []
        for isa in ("avx2", "avx512"):
            with cpu.use_isa(isa):
                found.append(oracles.accumulate(cpu.CpuBackend(), rows, weights))
        oracles.assert_same_bits(*found)


def test_instruction_sets_with_fused_multiply_adds_agree(rows):
    check_instruction_sets(rows)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", [1, 4, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 23, 40, 41, 64])
def test_they_agree_on_few_columns(d, dtype):
    for unit_column in (False, True):
        kind, loss = ("gradient", "poisson") if unit_column else ("dense", None)
        check_instruction_sets(
            oracles.make_rows(700, d, kind=kind, loss=loss, dtype=dtype, unit_column=unit_column)
        )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_computes_the_same(ops):
    """OpenMP's threads are gone after a fork; a child that waited for them would hang."""
    rows = oracles.make_rows(**CASES["narrow"])
    expected = oracles.accumulate(ops, rows, threads=2)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            oracles.assert_same_bits(oracles.accumulate(ops, rows, threads=2), expected)
            status = 0
        finally:
            os._exit(status)
    for _ in range(12_000):  # ten minutes: a busy machine may be slow
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
