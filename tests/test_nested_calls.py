"""A signal handler that computes with gradhess, while a kernel runs on the same thread."""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest

import gradhess
from gradhess._backends import registry
from gradhess._backends.protocol import FLOAT64, Rows

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on this system"),
    pytest.mark.skipif(
        threading.current_thread() is not threading.main_thread(), reason="handlers run on the main thread"
    ),
]

ROWS, COLUMNS = 300_000, 200


@pytest.fixture
def threads(request):
    gradhess.set_num_threads(request.param)
    yield request.param
    gradhess.set_num_threads(None)


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_a_handler_that_computes(backend, threads):
    """Kernels ask for signals every 50 ms, and a handler runs in the middle of them. It must find a workspace of its
    own: both results have the bits that they have alone."""
    if backend == "reference":
        pytest.skip("NumPy alone")
    rng = np.random.default_rng(5)
    entries, other = rng.standard_normal(ROWS + COLUMNS), rng.standard_normal((300, COLUMNS))
    X = np.lib.stride_tricks.sliding_window_view(entries, COLUMNS)  # many rows in little memory
    y, coef = np.ones(len(other)), np.ones(COLUMNS)
    kernels = registry.active()

    def outer() -> np.ndarray:
        # One call of the kernels: long jobs are cut into pieces, between which handlers run as well.
        return kernels.moments(
            Rows(X), None, "full", centred=False, dtype=FLOAT64, scale=1.0, threads=threads
        ).scatter

    def nested() -> list[np.ndarray]:
        gradients = gradhess.glm_gradients(other, y, coef)
        wide = np.tile(other, (1, 3))  # of which a kernel needs more workspace
        return [
            gradients.gram(),
            gradients.norms(),
            gradients.gram_matvec(coef),
            gradhess.weighted_gram(wide),
        ]

    expected, expected_nested = outer(), nested()
    found: list[list[np.ndarray]] = []
    running = False

    def handler(number, frame):
        nonlocal running
        if not running:
            running = True
            found.append(nested())
            running = False

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.03)
        result = outer()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert found
    np.testing.assert_array_equal(result, expected)
    for each in found:
        for array, alone in zip(each, expected_nested, strict=True):
            np.testing.assert_array_equal(array, alone)
