"""The kernel of pairwise dependence: every backend against a histogram of each pair, and the same bits everywhere.

Counts are integers below 2^31 and weights sum to one, so a pair's dependence is off by at most ``(n_targets + q^2)``
roundoffs of terms that sum to at most 2, and a row by ``n_inputs`` more.
"""

from __future__ import annotations

import signal
import sys
import threading
import time

import numpy as np
import pytest

import gradhess as gh
from gradhess._backends import registry

U = 2.0**-53


def histograms(labels, q, mu, shares):
    """The definition, pair by pair, in long double."""
    n_targets, n = labels.shape
    weights = (
        np.full(n_targets, np.longdouble(1) / n_targets) if shares is None else shares.astype(np.longdouble)
    )
    sums = np.zeros(n, np.longdouble)
    for x in range(n):
        for other in range(x + 1, n):
            joint = np.zeros((q, q), np.longdouble)
            np.add.at(joint, (labels[:, x], labels[:, other]), weights)
            sums[x] += mu[other] * np.abs(joint - np.longdouble(1) / (q * q)).sum() ** 2
    return sums


def problem(n_targets, n, q, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, q, (n_targets, n)).astype(np.uint8)
    labels[:, ::3] = labels[:, ::3] % 2  # labels that are far from uniform, and labels that never occur
    mu, shares = rng.uniform(size=n), rng.uniform(size=n_targets)
    return labels, mu / mu.sum(), shares / shares.sum()


# Sizes straddle blocks of 64 inputs, tiles of 16, vectors of 4 and 8, passes of 6 labels, counts of 255, and the two
# ways of counting, one of which is for many labels.
@pytest.mark.parametrize(
    ("n_targets", "n", "q"),
    [(1, 2, 2), (5, 16, 3), (40, 17, 7), (64, 65, 8), (31, 63, 13), (255, 9, 2), (256, 9, 2), (1100, 12, 2),
     (600, 18, 3), (700, 10, 14), (9, 7, 255), (9, 7, 256),
     (300, 70, 31), (40, 66, 32), (2100, 5, 32), (500, 20, 200), (70_000, 3, 256)],
)  # fmt: skip
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_are_those_of_histograms(ops, n_targets, n, q, weighted):
    labels, mu, shares = problem(n_targets, n, q, n_targets + n)
    given = shares if weighted else None
    found = ops.pair_dependence(labels, q, mu, given, threads=2)
    expected = histograms(labels, q, mu, given)
    # eps^2 <= 4 is off by 2 * 2 * (error of eps); a row sums mu of total one.
    bound = (8 * (n_targets + q * q + 8) + 4 * n) * U
    assert found.shape == (n,)
    assert found[-1] == 0
    np.testing.assert_array_less(np.abs((found - expected).astype(float)), bound)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("q", [5, 64])
def test_first_rows_have_the_bits_of_all(ops, q, weighted):
    labels, mu, shares = problem(30, 70, q, 3)
    given = shares if weighted else None
    every = ops.pair_dependence(labels, q, mu, given, threads=2)
    for n_rows in (1, 16, 17, 69, 70):
        found = ops.pair_dependence(labels, q, mu, given, n_rows=n_rows, threads=2)
        assert found.tobytes() == every[:n_rows].tobytes()


@pytest.mark.parametrize("weighted", [False, True])
def test_bits_do_not_depend_on_threads(ops, weighted):
    labels, mu, shares = problem(50, 203, 5, 1)
    results = [
        ops.pair_dependence(labels, 5, mu, shares if weighted else None, threads=threads).tobytes()
        for threads in (1, 2, 3, 7, 1)
    ]
    assert len(set(results)) == 1


def test_arguments_are_not_written_to(ops):
    labels, mu, shares = problem(12, 70, 3, 2)
    before = labels.copy(), mu.copy(), shares.copy()
    for array in (labels, mu, shares):
        array.flags.writeable = False
    ops.pair_dependence(labels, 3, mu, shares, threads=2)
    for array, old in zip((labels, mu, shares), before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_counts_of_more_than_a_block_of_targets(ops):
    """One label almost everywhere: counts of a cell pass every byte, and 2^16."""
    if ops.name == "reference":
        pytest.skip("the reference has no counters")
    labels = np.zeros((70_001, 3), np.uint8)
    labels[-1, 1] = 1
    # P(0, 0) of the pair (0, 1) is 1 - 1/n, P(0, 1) is 1/n.
    share = 1 / 70_001
    eps = abs(1 - share - 0.25) + abs(share - 0.25) + 0.5
    found = ops.pair_dependence(labels, 2, np.array([0.2, 0.3, 0.5]), None, threads=1)
    np.testing.assert_allclose(found, [0.3 * eps**2 + 0.5 * 1.5**2, 0.5 * eps**2, 0], rtol=8 * U, atol=0)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent by pthread_kill")
@pytest.mark.parametrize("name", ["cpu", "numba"])
def test_interrupts_stop_it(name):
    try:
        registry.get(name)
    except gh.errors.BackendError as error:
        pytest.skip(str(error))
    # Ten seconds on one thread of a fast processor, and the signal comes after a third of one.
    labels = np.random.default_rng(0).integers(0, 3, (8000, 10_000), dtype=np.uint8)
    ops, mu = registry.get(name), np.full(10_000, 1e-4)
    ops.pair_dependence(labels[:, :50].copy(), 3, mu[:50], None, threads=1)  # compile first
    main = threading.main_thread().ident
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
    start = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - a call that ends says how long it took
        ops.pair_dependence(labels, 3, mu, None, threads=1)
        pytest.fail(f"not interrupted in {time.monotonic() - start:.1f} s")
    timer.join()
