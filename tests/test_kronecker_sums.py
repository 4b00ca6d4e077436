"""Sums of Kronecker products on every backend and instruction set, against the products themselves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gradhess._backends import registry
from gradhess._backends.protocol import KroneckerFactor

U = np.finfo(np.float64).eps / 2


def problem(n, m, k, rank, zeros="none", seed=0):
    """Activations, and two factors: of that rank, and given as it is.

    Zeros as behind a ReLU: anywhere, or of whole columns, or of all there is in some rows.
    """
    rng = np.random.default_rng([seed, n, m, k])
    A, L, R = rng.normal(size=(n, m)), rng.normal(size=(n, rank, k)), rng.normal(size=(n, rank, k))
    Q = rng.normal(size=(n, k, k))
    Q += Q.transpose(0, 2, 1)
    if zeros != "none":
        shape = {"anywhere": (n, m + k), "columns": (1, m + k), "rows": (n, 1)}[zeros]
        active = np.broadcast_to(rng.random(shape) < 0.4, (n, m + k))
        of_outputs = active[:, m:]
        L *= rng.random(L.shape) < 0.5  # what one row of a factor has not, another may have
        A, L, Q = A * active[:, :m], L * of_outputs[:, np.newaxis], Q * of_outputs[:, np.newaxis]
        Q = np.ascontiguousarray(Q * of_outputs[:, :, np.newaxis])
    return A, [KroneckerFactor(R, L), KroneckerFactor(Q)]


def run(ops, A, factors, *, threads=2, cuts=()):
    k, m = factors[0].right.shape[2], A.shape[1]
    out = np.zeros((len(factors), k * (k + 1) // 2, m * (m + 1) // 2))
    edges = [0, *cuts, len(A)]
    for start, stop in itertools.pairwise(edges):
        part = [
            KroneckerFactor(f.right[start:stop], None if f.left is None else f.left[start:stop])
            for f in factors
        ]
        ops.kronecker_sums(A[start:stop], part, out, threads=threads)
    return out


# Both sides of the edges of vectors, strips, tiles and blocks of pairs; m (m + 1) / 2 above 240 and 256.
SHAPES = [
    (1, 1, 1),
    (2, 3, 1),
    (3, 2, 2),
    (5, 4, 3),
    (8, 7, 2),
    (17, 9, 4),
    (23, 3, 1),
    (33, 2, 5),
    (3, 60, 2),
]


ZEROS = ("none", "anywhere", "columns", "rows")


@pytest.mark.parametrize("zeros", ZEROS)
@pytest.mark.parametrize("n", [1, 255, 700])
def test_sums_at_every_edge(ops, n, zeros):
    for m, k, rank in SHAPES:
        A, factors = problem(n, m, k, rank, zeros)
        found = run(ops, A, factors)
        q, r = np.triu_indices(k)
        i, j = np.triu_indices(m)
        squares = A[:, i] * A[:, j]
        for factor, total in zip(factors, found, strict=True):
            left = np.broadcast_to(np.eye(k), (n, k, k)) if factor.left is None else factor.left
            W = np.einsum("paq,par->pqr", left, factor.right)[:, q, r]
            size = np.einsum("paq,par->pqr", np.abs(left), np.abs(factor.right))[:, q, r]
            # A chain over the rows, of products of three rounded numbers, one of them a sum of `rank` terms.
            bound = (n + rank + 4) * 2 * U * (size.T @ np.abs(squares))
            assert (np.abs(total - W.T @ squares) <= bound).all(), (m, k, rank)


@pytest.mark.parametrize("zeros", ZEROS)
def test_the_same_bits_for_any_threads_and_any_whole_slabs(ops, zeros):
    for m, k, rank in ((23, 9, 3), (12, 30, 2), (9, 40, 1)):  # the last in several buffers of weights
        A, factors = problem(1700, m, k, rank, zeros)
        expected = run(ops, A, factors, threads=1)
        for threads in (1, 2, 3, 7):
            for cuts in ((), (512,), (1024, 1536)):
                np.testing.assert_array_equal(run(ops, A, factors, threads=threads, cuts=cuts), expected)


def test_rows_that_are_left_out_change_no_bits(ops):
    """A second factor, which is zero nowhere, has every row looked at."""
    if ops.name == "reference":
        pytest.skip("a product of matrices, whose bits depend on their shapes")
    for m, k, rank in ((23, 9, 3), (12, 30, 2), (31, 2, 1)):
        A, (sparse, _) = problem(1700, m, k, rank, "anywhere")
        dense = KroneckerFactor(np.ones((1700, 1, k)), np.ones((1700, 1, k)))
        alone, beside = run(ops, A, [sparse]), run(ops, A, [sparse, dense])
        np.testing.assert_array_equal(alone[0], beside[0])
        # Nor does a block of pairs that has less to do: the same sums for two columns of A without the others.
        few = [0, m - 1]
        i, j = np.triu_indices(m)
        kept = np.isin(i, few) & np.isin(j, few)
        found = run(ops, np.ascontiguousarray(A[:, few]), [sparse])
        np.testing.assert_array_equal(found[0], alone[0][:, kept])


def test_sums_are_added(ops):
    A, factors = problem(40, 4, 3, 2)
    out = run(ops, A, factors)
    twice = out.copy()
    ops.kronecker_sums(A, factors, twice, threads=1)
    np.testing.assert_array_equal(twice, 2 * out)


def test_more_weights_than_are_packed_together(ops):
    A, factors = problem(30, 3, 53, 2)  # 1431 entries
    i, j = np.triu_indices(3)
    q, r = np.triu_indices(53)
    expected = factors[1].right[:, q, r].T @ (A[:, i] * A[:, j])
    size = np.abs(factors[1].right[:, q, r]).T @ np.abs(A[:, i] * A[:, j])
    assert (np.abs(run(ops, A, factors)[1] - expected) <= 40 * 2 * U * size).all()


def test_instruction_sets_with_fused_multiply_adds_agree():
    cpu = pytest.importorskip("gradhess._backends.cpu")
    if not {"avx2", "avx512"} <= set(cpu.available_isas()):
        pytest.skip("needs both AVX2 and AVX-512")
    A, factors = problem(700, 25, 11, 3)
    found = []
    for isa in ("avx2", "avx512"):
        with cpu.use_isa(isa):
            found.append(run(registry.get("cpu"), A, factors))
    np.testing.assert_array_equal(*found)
