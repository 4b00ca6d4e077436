"""The CuPy backend against the oracle: every kind of rows, loss, structure and type, at sizes that straddle blocks."""

from __future__ import annotations

import itertools

import numpy as np
import oracles
import pytest
from gpu_support import Gpu
from test_backends_groups import expected_sums, make_groups

from gradhess._backends import registry
from gradhess._backends.cupy import kronecker, layout, pairs
from gradhess._backends.cupy.moments import moments
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.groups import Groups
from gradhess._backends.protocol import LOSS, ROWS, WEIGHT, KroneckerFactor, PairWeights, Rows

BLOCK = layout.BLOCK_ROWS


def to_device(gpu: Gpu, rows: Rows) -> DeviceRows:
    def moved(array):
        return None if array is None else gpu.array(array)

    y = None if rows.y is None else np.asarray(rows.y, np.float64)
    return DeviceRows(
        gpu.array(rows.X),
        rows.kind,
        rows.unit_column,
        rows.loss,
        moved(y),
        moved(rows.coef),
        moved(rows.intercept),
        moved(rows.loss_weight),
    )


def run(gpu, rows, weights=None, *, structure="full", centred=True, dtype=np.float64, cuts=()):
    backend = registry.get("cupy")
    state = moments(rows.n_parameters, structure, centred=centred, dtype=dtype)
    given = None if weights is None else gpu.array(weights)
    device = to_device(gpu, rows)
    for start, stop in itertools.pairwise([0, *cuts, rows.n_samples]):
        part = None if given is None else given[start:stop]
        backend.add_call(device.slice(start, stop), part, state)
    return state


def assert_right(state, rows, weights=None, *, structure="full", centred=True, dtype=np.float64):
    expected = oracles.moments(
        rows, weights, centred=centred, structure=structure, accumulator=dtype, blocks=1
    )
    # Sums of slabs of 2048 rows instead of 256 in the compute type, with eight more additions.
    wider = layout.SLAB_ROWS / 256
    assert state.status.get()[0] == -1
    if structure != "sum":
        scatter = state.scatter.get()
        full = structure == "full"
        pick = np.tril if full else np.diag
        oracles.assert_close(
            np.tril(scatter) if full else scatter,
            pick(expected.scatter),
            wider * pick(expected.scatter_bound),
            structure,
        )
    oracles.assert_close(state.location.get(), expected.location, wider * expected.location_bound, "location")
    scalars = state.scalars.get()
    assert abs(scalars[WEIGHT] - expected.weight) <= expected.weight_bound * expected.weight_size
    assert abs(scalars[LOSS] - expected.loss) <= expected.loss_bound
    assert state.counts[ROWS] == rows.n_samples


CASES = [("dense", None), *(("gradient", loss) for loss in oracles.LOSSES)]
CASES += [("hessian", loss) for loss in oracles.LOSSES if loss != "softmax"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("unit_column", [False, True])
@pytest.mark.parametrize(("kind", "loss"), CASES)
def test_every_kind_of_rows(gpu, kind, loss, unit_column, dtype):
    rng = np.random.default_rng(3)
    rows = oracles.make_rows(
        300, 9, kind=kind, loss=loss, dtype=dtype, unit_column=unit_column, loss_weight=loss is not None
    )
    weights = rng.uniform(0.5, 2, 300)
    for given, centred in (
        (None, False),
        (weights, False),
        *(((weights, True),) if kind != "hessian" else ()),
    ):
        for structure in ("full", "diagonal", "sum"):
            state = run(gpu, rows, given, structure=structure, centred=centred)
            assert_right(state, rows, given, structure=structure, centred=centred)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 17])
def test_rows_that_straddle_blocks(gpu, n, dtype):
    X = (np.random.default_rng(n).normal(size=(n, 5)) + 4).astype(dtype)
    state = run(gpu, Rows(X), centred=n > 0)
    if n:
        assert_right(state, Rows(X))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_batch_of_long_blocks(gpu, dtype, monkeypatch):
    monkeypatch.setattr(layout, "BATCH_ROWS", 4 * BLOCK)
    X = (np.random.default_rng(3).normal(size=(5 * BLOCK, 3)) + 4).astype(dtype)
    w = np.random.default_rng(4).uniform(0.5, 2, len(X))
    for centred, weights in ((True, w), (False, None)):
        state = run(gpu, Rows(X), weights, centred=centred)
        assert_right(state, Rows(X), weights, centred=centred)


def test_float32_sums_end_within_a_long_block(gpu, monkeypatch):
    monkeypatch.setattr(layout, "BATCH_ROWS", 4 * BLOCK)
    X = np.ones((2 * BLOCK, 1), np.float32)
    X[:BLOCK] = 4096  # beside BLOCK 2^24 a slab of ones is lost in float32
    state = run(gpu, Rows(X), centred=False)
    assert state.scatter.get()[0, 0] == BLOCK * (2.0**24 + 1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", [1, 17, 65, 129, 257, 1000, 1100])
def test_widths_that_straddle_panels(gpu, d, dtype):
    X = (np.random.default_rng(d).normal(size=(100, d)) + 1).astype(dtype)
    weights = np.random.default_rng(1).uniform(0.5, 2, 100)
    assert_right(run(gpu, Rows(X), weights), Rows(X), weights)
    assert_right(run(gpu, Rows(X), centred=False), Rows(X), centred=False)


def test_layouts_and_types_of_rows(gpu):
    rng = np.random.default_rng(5)
    X = rng.integers(-8, 8, (500, 12)).astype(np.float64)  # exact in every type
    backend = registry.get("cupy")
    expected = X.T @ X
    makers = {
        "C": lambda: gpu.array(X),
        "F": lambda: gpu.cupy.asfortranarray(gpu.array(X)),
        "strided": lambda: gpu.array(np.repeat(X, 2, axis=1))[:, ::2],
        "reversed": lambda: gpu.array(X[::-1].copy())[::-1],
        "float16": lambda: gpu.array(X.astype(np.float16)),
        "float32": lambda: gpu.array(X.astype(np.float32)),
        "int8": lambda: gpu.array(X.astype(np.int8)),
        "int64": lambda: gpu.array(X.astype(np.int64)),
    }
    for name, maker in makers.items():
        state = moments(12, "full", centred=False)
        backend.add_call(DeviceRows(maker()), None, state)
        assert (np.tril(state.scatter.get()) == np.tril(expected)).all(), name
    bits = (X.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    state = moments(12, "full", centred=False)
    backend.add_call(DeviceRows(gpu.array(bits), bfloat16=True), None, state)
    assert (np.tril(state.scatter.get()) == np.tril(expected)).all()


def test_an_accumulator_of_float32(gpu):
    X = np.random.default_rng(7).normal(size=(3000, 20)).astype(np.float32)
    state = run(gpu, Rows(X), dtype=np.float32)
    assert state.scatter.dtype == np.float32
    assert_right(state, Rows(X), dtype=np.float32)


def test_states_merge(gpu):
    backend = registry.get("cupy")
    X = np.random.default_rng(8).normal(size=(900, 6)) + 5
    for centred, structure in itertools.product((True, False), ("full", "diagonal")):
        first = run(gpu, Rows(X[:400]), centred=centred, structure=structure)
        second = run(gpu, Rows(X[400:]), centred=centred, structure=structure)
        backend.merge(first, second)
        assert_right(first, Rows(X), centred=centred, structure=structure)


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_products_with_vectors(gpu, loss):
    backend, reference = registry.get("cupy"), registry.get("reference")
    rows = oracles.make_rows(333, 7, kind="gradient", loss=loss, unit_column=True)
    device = to_device(gpu, rows)
    rng = np.random.default_rng(0)
    V, U = rng.normal(size=(rows.n_parameters, 3)), rng.normal(size=(333, 2))
    G = np.empty((333, rows.n_parameters))
    reference.materialize(rows, G)
    u = 500 * 2.0**-52
    out = gpu.cupy.empty(G.shape)
    backend.materialize(device, out)
    for got, expected, size in (
        (out, G, abs(G)),
        (backend.norms(device), np.linalg.norm(G, axis=1), np.linalg.norm(G, axis=1)),
        (backend.matvec(device, gpu.array(V)), G @ V, abs(G) @ abs(V)),
        (backend.rmatvec(device, gpu.array(U)), G.T @ U, abs(G).T @ abs(U)),
        (backend.gram_matvec(device, gpu.array(V)), G.T @ (G @ V), abs(G).T @ (abs(G) @ abs(V))),
        (
            backend.errors(device),
            reference.errors(rows, threads=1),
            1 + abs(reference.errors(rows, threads=1)),
        ),
    ):
        assert (np.abs(got.get() - expected) <= u * size + 1e-300).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_group_sums(gpu, dtype):
    """To the bound that every backend is held to (test_backends_groups.py)."""
    rows = oracles.make_rows(50, 4, kind="gradient", loss="softmax", unit_column=True, dtype=dtype)
    groups = make_groups(registry.get("reference"), rows, [3, 0, 40, 7], np.random.default_rng(2))
    expected, bound = expected_sums(rows, groups)
    moved = Groups(*(gpu.array(getattr(groups, name)) for name in groups.__slots__))
    out = gpu.cupy.empty(expected.shape, dtype)
    registry.get("cupy").group_sums(DeviceRows(gpu.array(rows.X), unit_column=True), moved, out)
    oracles.assert_close(out.get(), expected, bound, "sum")


def test_pairs_of_outputs(gpu):
    backend, reference = registry.get("cupy"), registry.get("reference")
    rng = np.random.default_rng(2)
    X = rng.normal(size=(50, 4))
    e, c = rng.dirichlet(np.ones(3), 50), rng.uniform(1, 2, 50)
    for curvature in (False, True):
        whole = np.empty((15, 15))
        weights = PairWeights(e, c, curvature)
        reference.outer_gram(X, weights, True, whole, begin=True, end=True, threads=1)
        got = gpu.cupy.empty((15, 15))
        moved_pairs = PairWeights(gpu.array(e), gpu.array(c), curvature)
        backend.outer_gram(gpu.array(X), moved_pairs, True, got, begin=True, end=True)
        np.testing.assert_allclose(got.get(), whole, rtol=0, atol=50 * 16 * 2.0**-52 * 16)


@pytest.mark.parametrize("weighted", [False, True])
def test_pairwise_dependence(gpu, weighted):
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, (40, 11)).astype(np.uint8)
    mu, given = rng.uniform(size=11), rng.dirichlet(np.ones(40)) if weighted else None
    expected = registry.get("reference").pair_dependence(labels, 3, mu, given, threads=1)
    got = registry.get("cupy").pair_dependence(
        gpu.array(labels), 3, gpu.array(mu), None if given is None else gpu.array(given)
    )
    np.testing.assert_allclose(got.get(), expected, rtol=1e3 * 2.0**-52)


@pytest.mark.parametrize("rows", [1, 5, 6, 10, 11])
def test_pairwise_dependence_of_the_first_inputs(gpu, rows, monkeypatch):
    monkeypatch.setattr(pairs, "TILE_BYTES", 8 * 40 * 5)  # tiles of five inputs
    rng = np.random.default_rng(4)
    labels, mu = rng.integers(0, 3, (40, 11)).astype(np.uint8), rng.uniform(size=11)
    expected = registry.get("reference").pair_dependence(labels, 3, mu, None, threads=1)[:rows]
    got = registry.get("cupy").pair_dependence(gpu.array(labels), 3, gpu.array(mu), None, n_rows=rows)
    np.testing.assert_allclose(got.get(), expected, rtol=1e3 * 2.0**-52)


@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 1), (300, 5, 3), (40, 9, 4)])
def test_sums_of_kronecker_products(gpu, n, m, k, monkeypatch):
    monkeypatch.setattr(kronecker, "PIECE_BYTES", 8 * m * (m + 1) // 2 * 17)  # pieces of 17 rows
    rng = np.random.default_rng([n, m])
    A, L, R, Q = (rng.normal(size=(n, *shape)) for shape in ((m,), (2, k), (2, k), (k, k)))
    factors = [KroneckerFactor(R, L), KroneckerFactor(Q + Q.transpose(0, 2, 1))]
    start = rng.normal(size=(2, k * (k + 1) // 2, m * (m + 1) // 2))
    expected, sizes = start.copy(), np.abs(start)
    reference = registry.get("reference")
    reference.kronecker_sums(A, factors, expected, threads=1)
    bounds = [
        KroneckerFactor(np.abs(factor.right), None if factor.left is None else np.abs(factor.left))
        for factor in factors
    ]
    reference.kronecker_sums(np.abs(A), bounds, sizes, threads=1)
    moved = [
        KroneckerFactor(gpu.array(factor.right), None if factor.left is None else gpu.array(factor.left))
        for factor in factors
    ]
    out = gpu.array(start)
    registry.get("cupy").kronecker_sums(gpu.array(A), moved, out)
    # Two chains over the rows, of products of three rounded numbers, one of them a sum of two terms.
    assert (np.abs(out.get() - expected) <= 2 * (n + 6) * 2.0**-53 * sizes).all()


def test_first_nonfinite_row(gpu):
    X = np.ones((BLOCK + 50, 3))
    backend = registry.get("cupy")
    assert backend.first_nonfinite(DeviceRows(gpu.array(X)), None) == -1
    X[BLOCK + 7, 1] = np.inf
    X[BLOCK + 9, 0] = np.nan
    assert backend.first_nonfinite(DeviceRows(gpu.array(X)), None) == BLOCK + 7


@pytest.mark.parametrize("d", [3, 1100])
def test_a_call_with_a_bad_row_leaves_every_accumulator_as_it_was(gpu, d):
    backend = registry.get("cupy")
    rng = np.random.default_rng(d)
    X = rng.normal(size=(700, d))
    state = moments(d, "full", centred=True)
    backend.add_call(DeviceRows(gpu.array(X[:300])), None, state)
    before = [array.get() for array in state.accumulators()]
    bad = X[300:].copy()
    bad[123, d // 2] = np.nan
    with gpu.silent():
        rows, again = gpu_rows = [gpu.cupy.ones((400, d)), gpu.cupy.ones((10, d))]
        rows[123, d // 2] = np.nan
        backend.add_call(DeviceRows(rows), None, state)
        backend.add_call(DeviceRows(again), None, state)  # dropped as well
    assert len(gpu_rows) == 2
    assert state.status.get().tolist() == [2, 123, 300, 0]
    for array, kept in zip(state.accumulators(), before, strict=True):
        now = array.get()
        assert (np.tril(now) if now.ndim == 2 else now).tobytes() == (
            np.tril(kept) if kept.ndim == 2 else kept
        ).tobytes()
