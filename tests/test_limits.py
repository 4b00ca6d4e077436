"""What a call may use and how it ends: memory, large offsets, and a signal in the middle."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import gradhess as gh

MIB = 1 << 20
WORKSPACE_PER_THREAD = 4 * MIB
"""docs/numerics.md: a few MiB. A slab of 256 rows of 1024 float64 is 2 MiB, a block's own scatter up to 0.5 MiB."""
SLACK = 4 * MIB
"""Pages of code touched for the first time, and the allocator's rounding."""

MEASURE = """
    import numpy as np
    import gradhess as gh

    def peak():
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    gh.set_num_threads(2)
    n, d = {n}, {d}
    X = np.random.default_rng(0).standard_normal({shape}, dtype=np.{dtype}){order}  # no copy, which would be the peak
    y = X[:, 0].astype(float)
    coef = np.zeros(d)
    job = lambda X, y: {job}
    job(X[:600], y[:600])
    before = peak()
    job(X, y)
    print(peak() - before)
"""


READS_PROC = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads /proc, which only Linux has"
)
ORDERS = pytest.mark.parametrize(("shape", "order"), [("(n, d)", ""), ("(d, n)", ".T")], ids=["C", "Fortran"])


@READS_PROC
@ORDERS
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("n", "d", "job", "result"),
    [
        (300_000, 40, "gh.glm_gradients(X, y, coef).gram()", 0),
        (300_000, 40, "gh.glm_gradients(X, y, coef, loss='huber', intercept=0.1).covariance()", 0),
        (300_000, 40, "gh.StreamingCovariance().partial_fit(X).covariance_", 0),
        (
            300_000,
            40,
            "gh.StreamingCovariance('diagonal').partial_fit(X, np.ones(len(X))).location_",
            300_000 * 8,
        ),
        (300_000, 40, "gh.glm_gradients(X, y, coef).norms()", 300_000 * 8),
        (40_000, 600, "gh.weighted_gram(X)", 0),  # the warm-up already made a result of that size
        (4_000, 360, "gh.as_gradients(X).covariance()", 0),  # slabs apart, as below
        (
            3_000,
            4000,
            "gh.StreamingCovariance('diagonal').partial_fit(X, np.ones(len(X))).location_",
            3_000 * 8,
        ),
    ],
    ids=["gram", "covariance", "stream", "diagonal", "norms", "wide", "few rows", "few rows, diagonal"],
)
def test_extra_memory_is_a_workspace(n, d, job, result, dtype, shape, order):
    used = extra_memory(n, d, job, dtype, shape, order)
    assert used <= result + 2 * WORKSPACE_PER_THREAD + SLACK


@READS_PROC
@ORDERS
def test_a_copy_of_the_rows_would_be_seen(shape, order):
    used = extra_memory(300_000, 40, "gh.weighted_gram(X.copy())", "float32", shape, order)
    assert used > 300_000 * 40 * 4


def extra_memory(n, d, job, dtype, shape, order):
    """Bytes at the peak of a call, beyond its input, in a process of its own."""
    script = textwrap.dedent(MEASURE.format(n=n, d=d, job=job, dtype=dtype, shape=shape, order=order))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_offsets_beyond_two_to_the_31(backend):
    """Rows 8 MiB apart: the last ones lie more than 2^31 bytes, and columns of them 2^28 elements, from the first."""
    n, d, apart = 300, 3, 8 * MIB
    memory = np.zeros((n * apart) // 8)  # touched at 300 places only
    X = np.lib.stride_tricks.as_strided(memory, (n, d), (apart, 8))
    X[...] = np.random.default_rng(0).standard_normal((n, d))
    compact = np.ascontiguousarray(X)
    np.testing.assert_array_equal(gh.weighted_gram(X), gh.weighted_gram(compact))
    np.testing.assert_array_equal(gh.as_gradients(X).norms(), gh.as_gradients(compact).norms())


def fit_for_ever(cov, chunk):
    while True:
        cov.partial_fit(chunk)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer on this system")
def test_a_signal_in_the_middle_leaves_a_valid_state(backend):
    chunk = np.random.default_rng(0).standard_normal((30_000, 30))
    cov = gh.StreamingCovariance().partial_fit(chunk[:100])
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit_for_ever(cov, chunk)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    again = gh.StreamingCovariance().partial_fit(chunk[:100])
    times, rest = divmod(cov.n_samples_seen_ - 100, len(chunk))
    assert rest == 0
    for _ in range(times):
        again.partial_fit(chunk)
    np.testing.assert_array_equal(cov.covariance_, again.covariance_)
