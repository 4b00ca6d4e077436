"""A small problem with an exact answer, once for each process, backend and device: kernels that do not run, or run
wrong, are an error before they are a result."""

from __future__ import annotations

import importlib
from typing import Final

import numpy as np

from gradhess._backends.cupy.backend import CupyBackend
from gradhess._backends.cupy.launch import cupy, to_host
from gradhess._backends.cupy.moments import moments
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.protocol import LossSpec
from gradhess.errors import DeviceError

ROWS: Final = 70
_passed: set[tuple[str, int]] = set()


def ensure(backend: CupyBackend, device: int) -> None:
    """Run it, if it did not pass before; the only place where work on a device waits without being asked."""
    if (backend.name, device) not in _passed:
        cupyx = importlib.import_module("cupyx")
        with cupy().cuda.Device(device), cupyx.allow_synchronize(True):
            _run(backend, device)
        _passed.add((backend.name, device))


def _run(backend: CupyBackend, device: int) -> None:
    xp = cupy()
    X = (
        np.arange(ROWS)[:, None] * np.array([3, 5, 7]) + np.array([1, 0, 2])
    ) % 11 - 5.0  # small integers: exact sums
    y = np.arange(ROWS) % 4 - 1.0
    coef = np.array([[1.0, -2.0, 1.0]])
    G = (X @ coef.T - y[:, None]) * X
    for dtype in (np.float64, np.float32):
        rows = DeviceRows(
            xp.asarray(X.astype(dtype)),
            "gradient",
            loss=LossSpec("squared"),
            y=xp.asarray(y),
            coef=xp.asarray(coef),
        )
        state = moments(3, "full", centred=False)
        backend.add_call(rows, None, state)
        backend.symmetrize(state.scatter, 1.0, state.scatter)
        if not (
            (to_host(state.scatter) == G.T @ G).all()
            and (to_host(state.location) == G.sum(axis=0)).all()
            and (to_host(state.status)[0] == -1).all()
        ):
            raise DeviceError(
                f"the self-test of the {backend.name} backend gives a wrong result on cuda:{device} in "
                f"{np.dtype(dtype).name}; choose another backend (gradhess.use_backend), and please report this"
            )
