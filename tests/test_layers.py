"""Gradients of layers against the matrix that they never form, on every backend."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradhess as gh
from gradhess._backends import layout, registry
from gradhess._backends.protocol import PairWeights
from gradhess._gradients import outer_gram

SHAPES = {  # n, T (None: no sequence axis), m, k
    "narrow": (700, None, 5, 3),
    "blocks": (700, None, 33, 4),
    "one output": (300, None, 30, 1),
    "one feature": (300, None, 1, 4),
    "steps": (60, 7, 5, 3),
    "many steps": (12, 300, 4, 3),
    "more outputs": (80, 3, 4, 9),
    "one step": (300, 1, 25, 2),
}

CASES = [
    (name, masked) for name, shape in SHAPES.items() for masked in (False, True) if shape[1] or not masked
]


def make_layer(shape, *, dtype=np.float64, bias=False, masked=False, seed=1):
    """(arguments, G in float64, S): S >= |delta| |a|, summed over steps, so that a row is known to eps * S."""
    n, T, m, k = shape
    rng = np.random.default_rng([seed, n, m, k])
    A = (rng.normal(size=(n, T or 1, m)) + 0.3).astype(dtype)
    D = rng.normal(size=(n, T or 1, k)).astype(dtype)
    mask = rng.random((n, T or 1)) < 0.6 if masked else None
    keep = np.ones((n, T or 1)) if mask is None else mask
    wide = np.concatenate([A, np.ones((*A.shape[:2], 1))], axis=2) if bias else A.astype(np.float64)
    G = np.einsum("nt,ntk,ntm->nkm", keep, D.astype(np.float64), wide.astype(np.float64)).reshape(n, -1)
    S = np.einsum("nt,ntk,ntm->nkm", keep, np.abs(D).astype(np.float64), np.abs(wide)).reshape(n, -1)
    if mask is not None:  # nobody looks at what is masked
        A[~mask], D[~mask] = np.nan, np.inf
    given_A, given_D = (A, D) if T else (A[:, 0], D[:, 0])
    return {"activations": given_A, "errors": given_D, "bias": bias, "mask": mask}, G, S


def steps_of(shape):
    return shape[1] or 1


def row_eps(shape, dtype):
    """A row carries the rounding of a sum of T products (at most 256 in the compute type, then float64) and its own."""
    return (min(steps_of(shape), 256) + 2) * float(np.finfo(dtype).eps) / 2


def gram_bound(S, shape, dtype, other=None):
    """Rounding of an inner product over n rows that are themselves rounded; 256 rows are summed in the compute type."""
    u = float(np.finfo(dtype).eps) / 2
    slab = min(len(S), layout.slab_rows(S.shape[1], "full")) + 4
    factor = slab * u + 2 * row_eps(shape, dtype) + len(S) * 2.0**-52
    return factor * (S.T @ (S if other is None else other))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("name", "masked"), CASES)
def test_every_contraction_matches_the_explicit_matrix(backend, name, masked, bias, dtype):
    shape = SHAPES[name]
    arguments, G, S = make_layer(shape, dtype=dtype, bias=bias, masked=masked)
    g = gh.layer_gradients(**arguments)
    n, p = G.shape
    row = row_eps(shape, dtype)
    # What needs no rows is float64 throughout: the width of a contraction is at most p + T.
    eps = (p + steps_of(shape) + 8) * 2.0**-53

    assert g.shape == (n, p) == (g.n_samples, g.n_parameters)
    assert g.dtype == dtype
    assert (np.abs(g.toarray() - G) <= row * S).all()
    gram = g.gram()
    np.testing.assert_array_equal(gram, gram.T)
    assert (np.abs(gram - G.T @ G) <= gram_bound(S, shape, dtype)).all()
    assert (
        np.abs(g.covariance(ddof=1) - np.cov(G.T, ddof=1)) <= 4 * gram_bound(S, shape, dtype) / (n - 1)
    ).all()
    assert (np.abs(g.sum() - G.sum(axis=0)) <= (n + 8) * eps * S.sum(axis=0)).all()
    np.testing.assert_array_equal(g.mean(), g.sum() / n)
    assert (np.abs(g.diagonal() - (G * G).sum(axis=0)) <= 4 * (n + 8) * eps * (S * S).sum(axis=0)).all()
    assert (
        np.abs(g.norms() ** 2 - (G * G).sum(axis=1)) <= 8 * eps * (S**2).sum(axis=1) * steps_of(shape)
    ).all()

    rng = np.random.default_rng(4)
    v, u = rng.normal(size=(p, 2)), rng.normal(size=(n, 2))
    assert (np.abs(g.matvec(v) - G @ v) <= 2 * eps * (S @ np.abs(v))).all()
    assert (np.abs(g.matvec(v[:, 0]) - G @ v[:, 0]) <= 2 * eps * (S @ np.abs(v[:, 0]))).all()
    assert (np.abs(g.rmatvec(u) - G.T @ u) <= (n + 8) * eps * (S.T @ np.abs(u))).all()
    assert (np.abs(g.rmatvec(u[:, 0]) - G.T @ u[:, 0]) <= (n + 8) * eps * (S.T @ np.abs(u[:, 0]))).all()
    assert (np.abs(g.gram_matvec(v) - G.T @ (G @ v)) <= 2 * (n + 8) * eps * (S.T @ (S @ np.abs(v)))).all()
    cogram = g.cogram()
    np.testing.assert_array_equal(cogram, cogram.T)
    assert (np.abs(cogram - G @ G.T) <= 8 * eps * steps_of(shape) * (S @ S.T)).all()


def test_cost_models_take_both_ways():
    """The two ways to contract rows are both among the shapes above."""
    ways = set()
    for shape in SHAPES.values():
        rows = gh.layer_gradients(**make_layer(shape)[0]).rows
        ways |= {("vectors", rows._row_by_row(2)), ("pairs", rows._pairs_by_steps)}
        ways.add(("blocks", outer_gram.pays(rows.n_outputs, rows.width)))
    assert len(ways) == 6


# ---- the kernel of outer rows -----------------------------------------------------------------------------------


def run_kernel(
    ops, A, errors, *, unit=False, weight=None, curvature=False, out_dtype=np.float64, threads=2, cuts=()
):
    n, k = errors.shape
    p = (A.shape[1] + unit) * k
    out = np.full((p, p), np.nan, out_dtype)
    edges = [0, *cuts, n]
    for start, stop in itertools.pairwise(edges):
        pairs = PairWeights(
            np.ascontiguousarray(errors[start:stop]),
            None if weight is None else np.ascontiguousarray(weight[start:stop]),
            curvature,
        )
        ops.outer_gram(
            np.ascontiguousarray(A[start:stop]),
            pairs,
            unit,
            out,
            begin=start == 0,
            end=stop == n,
            threads=threads,
        )
    return out


@pytest.mark.parametrize(("unit", "curvature"), [(False, False), (True, True)])
@pytest.mark.parametrize(
    ("dtype", "out_dtype"), [(np.float64, np.float64), (np.float32, np.float64), (np.float32, np.float32)]
)
@pytest.mark.parametrize("n", [1, 300, 700])
def test_blocks_at_every_edge(ops, n, dtype, out_dtype, unit, curvature):
    """Widths on both sides of the edges of vectors, strips, panels and tiles."""
    rng = np.random.default_rng(n)
    cuts = (256,) if n > 256 else ()
    for m, k in ((1, 1), (3, 2), (8, 3), (17, 2), (23, 4), (48, 2), (49, 3), (129, 1), (145, 1)):
        A = rng.normal(size=(n, m)).astype(dtype)
        e = rng.random((n, k)) if curvature else rng.normal(size=(n, k))
        c = rng.uniform(0.1, 2, n)
        found = run_kernel(
            ops, A, e, unit=unit, weight=c, curvature=curvature, out_dtype=out_dtype, cuts=cuts
        )
        X = np.hstack([A.astype(np.float64), np.ones((n, 1))]) if unit else A.astype(np.float64)
        other = (
            np.eye(k) - e[:, np.newaxis, :] if curvature else np.broadcast_to(e[:, np.newaxis, :], (n, k, k))
        )
        s = c[:, np.newaxis, np.newaxis] * e[:, :, np.newaxis] * other
        width = X.shape[1]
        # (k, k, w, w), and from there to (k, w, k, w).
        expected = X.T @ (s.transpose(1, 2, 0)[..., np.newaxis] * X)
        size = np.abs(X).T @ (np.abs(s).transpose(1, 2, 0)[..., np.newaxis] * np.abs(X))
        expected, size = (x.transpose(0, 2, 1, 3).reshape(k * width, -1) for x in (expected, size))
        u, u_acc = np.finfo(dtype).eps / 2, np.finfo(out_dtype).eps / 2
        bound = ((min(n, 256) + 4) * u + (n // 256 + 2) * u_acc + (n + 8) * 2.0**-53) * size
        assert (np.abs(found - expected) <= bound).all(), (m, k)
        np.testing.assert_array_equal(found, found.T)


def test_blocks_have_the_same_bits_for_any_threads_and_any_pieces(ops):
    rng = np.random.default_rng(5)
    for dtype, m, k in ((np.float64, 61, 3), (np.float32, 130, 2)):
        A, e = rng.normal(size=(1500, m)).astype(dtype), rng.normal(size=(1500, k))
        expected = run_kernel(ops, A, e, unit=True, threads=1)
        for threads in (1, 2, 3, 7):
            for cuts in ((), (256,), (512, 768, 1280)):
                found = run_kernel(ops, A, e, unit=True, threads=threads, cuts=cuts)
                np.testing.assert_array_equal(found, expected)


def test_small_errors_do_not_vanish_in_float32(ops):
    """The product of two errors may lie below the range of float32 where that of two gradients does not."""
    rng = np.random.default_rng(6)
    A = rng.normal(size=(300, 30)).astype(np.float32) * np.float32(1e25)
    e = rng.normal(size=(300, 2)) * 1e-25
    G = (e[:, :, np.newaxis] * A[:, np.newaxis, :].astype(np.float64)).reshape(300, -1)
    assert (np.abs(run_kernel(ops, A, e) - G.T @ G) <= 300 * 2.0**-24 * (np.abs(G).T @ np.abs(G))).all()


def test_instruction_sets_with_fused_multiply_adds_agree():
    cpu = pytest.importorskip("gradhess._backends.cpu")
    if not {"avx2", "avx512"} <= set(cpu.available_isas()):
        pytest.skip("needs both AVX2 and AVX-512")
    rng = np.random.default_rng(7)
    for dtype in (np.float64, np.float32):
        A, e = rng.normal(size=(700, 70)).astype(dtype), rng.normal(size=(700, 3))
        found = []
        for isa in ("avx2", "avx512"):
            with cpu.use_isa(isa):
                found.append(run_kernel(registry.get("cpu"), A, e, unit=True))
        np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("layout", ["F", "strided", "reversed", "read-only", "int", "float16"])
def test_memory_layouts_and_types(backend, layout):
    rng = np.random.default_rng(8)
    A, D = rng.integers(-3, 4, (600, 26)).astype(np.float64), rng.integers(-3, 4, (600, 3)).astype(np.float64)

    def laid_out(X):
        return {
            "F": lambda: np.asfortranarray(X),
            "strided": lambda: np.repeat(np.repeat(X, 2, axis=0), 3, axis=1)[::2, ::3],
            "reversed": lambda: X[::-1, ::-1].copy()[::-1, ::-1],
            "read-only": X.copy,
            "int": lambda: X.astype(np.int16),
            "float16": lambda: X.astype(np.float16),
        }[layout]()

    given_A, given_D = laid_out(A), laid_out(D)
    given_A.flags.writeable = given_D.flags.writeable = layout != "read-only"
    g, plain = gh.layer_gradients(given_A, given_D, bias=True), gh.layer_gradients(A, D, bias=True)
    for method in (
        "gram",
        "sum",
        "diagonal",
        "norms",
        "covariance",
    ):  # small integers: exact, but for centring
        # A covariance is off by the rounding of a sum of 256 products of at most 3^4 each.
        tolerance = 300 * np.finfo(g.dtype).eps * 81 if method == "covariance" else 1e-14
        np.testing.assert_allclose(getattr(g, method)(), getattr(plain, method)(), rtol=1e-12, atol=tolerance)
    np.testing.assert_array_equal(given_A.astype(np.float64), A)


# ---- softmax regression is built on the same blocks ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("intercept", [False, True])
def test_softmax_regression_is_a_layer(backend, intercept, dtype):
    rng = np.random.default_rng(9)
    n, d, k = 900, 50, 3
    X, y = rng.normal(size=(n, d)).astype(dtype), rng.integers(0, k, n)
    coef = 0.3 * rng.normal(size=(k, d))
    b = rng.normal(size=k) if intercept else None
    c = rng.uniform(0, 2, n)
    g = gh.glm_gradients(X, y, coef, "softmax", intercept=b, sample_weight=c)
    eta = X.astype(np.float64) @ coef.T + (0 if b is None else b)
    delta = c[:, np.newaxis] * gh.losses.softmax.derivative(eta, y)
    layer = gh.layer_gradients(X, delta.astype(dtype), bias=intercept)
    S = np.abs(layer.toarray()).astype(np.float64)
    u = np.finfo(dtype).eps
    assert (np.abs(g.gram() - layer.gram()) <= 300 * u * (S.T @ S)).all()
    assert (np.abs(g.gram() - g.toarray().T.astype(np.float64) @ g.toarray()) <= 300 * u * (S.T @ S)).all()
    if dtype == np.float32:
        assert g.gram(dtype="float32").dtype == np.float32


# ---- streams ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["full", "diagonal"])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("name", ["blocks", "steps", "narrow"])
def test_streams_of_layer_gradients(backend, name, structure, centred):
    arguments, G, S = make_layer(SHAPES[name], bias=True)
    stream = gh.StreamingCovariance(structure, assume_centered=not centred, ddof=1)
    weights = np.random.default_rng(3).uniform(0.5, 2, len(G))
    start = 0
    for stop in (1, 20, len(G)):
        part = {
            key: value[start:stop] if isinstance(value, np.ndarray) else value
            for key, value in arguments.items()
        }
        stream.partial_fit(gh.layer_gradients(**part), weights[start:stop])
        start = stop
    whole = gh.StreamingCovariance(structure, assume_centered=not centred, ddof=1)
    whole.partial_fit(gh.layer_gradients(**arguments), weights)
    np.testing.assert_array_equal(stream.covariance_, whole.covariance_)
    np.testing.assert_array_equal(stream.location_, whole.location_)
    W = weights.sum()
    mean = weights @ G / W if centred else np.zeros(G.shape[1])
    Z = G - mean
    expected = (Z * weights[:, np.newaxis]).T @ Z / (W - (weights @ weights) / W)
    found = stream.covariance_
    bound = 8 * gram_bound(S, SHAPES[name], np.float64) / len(G)
    if structure == "diagonal":
        expected, bound = np.diag(expected), np.diag(bound)
    assert (np.abs(found - expected) <= bound).all()
    with pytest.raises(gh.errors.InputError, match="parameters"):
        stream.partial_fit(gh.layer_gradients(np.ones((2, 3)), np.ones((2, 2))))


def test_streams_skip_rows_that_are_not_finite(backend):
    arguments, G, _ = make_layer(SHAPES["steps"])
    arguments["activations"][[3, 40], 2] = np.nan
    stream = gh.StreamingCovariance(on_nonfinite="skip").partial_fit(gh.layer_gradients(**arguments))
    assert stream.n_samples_skipped_ == 2
    keep = np.delete(np.arange(len(G)), [3, 40])
    np.testing.assert_allclose(stream.location_, G[keep].mean(axis=0), atol=1e-13)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(500, None, 30, 3), (500, 4, 6, 3)])
def test_rows_that_are_not_finite_are_named(backend, shape):
    for name in ("activations", "errors"):
        arguments, _, _ = make_layer(shape)
        arguments[name][413, ..., 1] = np.inf
        at = r"\[413, 1\]" if shape[1] is None else r"\[413, 0, 1\]"
        g = gh.layer_gradients(**arguments)
        for method in ("gram", "sum", "covariance", "diagonal", "norms", "cogram", "toarray"):
            with pytest.raises(gh.errors.NonFiniteError, match=f"{name}{at} is inf") as caught:
                getattr(g, method)()
            assert caught.value.row == 413
        for product in (
            lambda g=g: g.matvec(np.ones(g.n_parameters)),
            lambda g=g: g.rmatvec(np.ones(500)),
            lambda g=g: g.gram_matvec(np.ones(g.n_parameters)),
            lambda g=g: g.project(gh.sketches.rademacher(8)),
            lambda g=g: g.project(gh.sketches.sjlt(8)),
        ):
            with pytest.raises(gh.errors.NonFiniteError, match="413"):
                product()


def test_rows_that_overflow_are_named(backend):
    arguments, _, _ = make_layer((300, None, 30, 3), dtype=np.float32)
    arguments["activations"][17], arguments["errors"][17] = 1e30, 1e30
    with pytest.raises(gh.errors.NonFiniteError, match="gradient of row 17 overflows float32"):
        gh.layer_gradients(**arguments).gram()
    arguments, _, _ = make_layer((30, 2, 4, 3))
    arguments["activations"][7], arguments["errors"][7] = 1e200, 1e200
    arguments["errors"][7, 1] = -1e200
    with pytest.raises(gh.errors.NonFiniteError, match="row 7 overflows"):
        gh.layer_gradients(**arguments).sum()


def test_empty_batches(backend):
    for A, D in ((np.empty((0, 30)), np.empty((0, 2))), (np.empty((0, 4, 3)), np.empty((0, 4, 2)))):
        g = gh.layer_gradients(A, D)
        p = g.n_parameters
        np.testing.assert_array_equal(g.gram(), np.zeros((p, p)))
        np.testing.assert_array_equal(g.sum(), np.zeros(p))
        np.testing.assert_array_equal(g.diagonal(), np.zeros(p))
        assert g.cogram().shape == (0, 0)
        assert g.project(gh.sketches.sjlt(4)).shape == (0, 4)
        with pytest.raises(gh.errors.InputError, match="more than 0 rows"):
            g.mean()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"activations": np.ones(3)}, gh.errors.InputError, r"activations has shape \(3,\).*\(n, T, m\)"),
        ({"errors": np.ones((4, 2))}, gh.errors.InputError, r"\(3, 5\), but errors has shape \(4, 2\)"),
        ({"errors": np.ones((3, 1, 2))}, gh.errors.InputError, "must agree"),
        ({"errors": np.ones((3, 0))}, gh.errors.InputError, "at least one k"),
        (
            {"activations": np.ones((3, 5), complex)},
            gh.errors.InputTypeError,
            "activations has dtype complex128",
        ),
        ({"bias": 1}, gh.errors.InputTypeError, "bias must be True or False"),
        ({"mask": np.ones((3, 5), bool)}, gh.errors.InputError, "they have none"),
    ],
)
def test_arguments_that_do_not_fit(change, error, message):
    with pytest.raises(error, match=message):
        gh.layer_gradients(**{"activations": np.ones((3, 5)), "errors": np.ones((3, 2)), **change})


def test_masks_that_do_not_fit():
    A, D = np.ones((3, 2, 5)), np.ones((3, 2, 4))
    with pytest.raises(gh.errors.InputTypeError, match="boolean"):
        gh.layer_gradients(A, D, mask=np.ones((3, 2)))
    with pytest.raises(gh.errors.InputError, match=r"mask has shape \(2, 3\)"):
        gh.layer_gradients(A, D, mask=np.ones((2, 3), bool))


def test_layers_have_no_loss():
    g = gh.layer_gradients(np.ones((3, 5)), np.ones((3, 2)))
    assert repr(g) == "<LayerGradients of shape (3, 10), float64>"
    for method in (g.loss, g.hessian):
        with pytest.raises(gh.errors.InputError, match="gradients of a layer carry no"):
            method()
    with pytest.raises(gh.errors.InputTypeError, match="never formed"):
        np.asarray(g)


def test_a_gram_matrix_that_would_not_fit_is_refused():
    g = gh.layer_gradients(np.ones((2, 100_000), np.float32), np.ones((2, 100), np.float32))
    with pytest.raises(gh.errors.ResultTooLargeError, match=r"diagonal\(\)"):
        g.gram()
    assert g.cogram().shape == (2, 2)  # what the dual is for


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40), steps=st.integers(1, 5), m=st.integers(1, 30), k=st.integers(1, 6), bias=st.booleans(),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_identities(n, steps, m, k, bias, seed):
    """What must hold between contractions, whatever the shapes."""
    rng = np.random.default_rng(seed)
    A, D = rng.normal(size=(n, steps, m)), rng.normal(size=(n, steps, k))
    g = gh.layer_gradients(A, D, bias=bias)
    G = g.toarray()
    close = {"rtol": 1e-10, "atol": 1e-9}
    np.testing.assert_allclose(np.trace(g.gram()), (g.norms() ** 2).sum(), **close)
    np.testing.assert_allclose(np.diag(g.gram()), g.diagonal(), **close)
    np.testing.assert_allclose(np.sqrt(np.diag(g.cogram())), g.norms(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(g.rmatvec(np.ones(n)), g.sum(), **close)
    np.testing.assert_allclose(g.matvec(G[0]), g.cogram()[:, 0], **close)
    np.testing.assert_allclose(
        g.covariance() * n + n * np.outer(g.mean(), g.mean()), g.gram(), rtol=1e-9, atol=1e-8
    )
