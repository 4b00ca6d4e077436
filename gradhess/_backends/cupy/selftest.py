"""Small problems with an exact answer, once for each process, backend and device: kernels that do not run, or run
wrong, are an error before they are a result. There are two widths and two types: each takes other kernels."""

from __future__ import annotations

import importlib
from typing import Any, Final

import numpy as np

from gradhess._backends.cupy.backend import CupyBackend
from gradhess._backends.cupy.launch import cupy, to_host
from gradhess._backends.cupy.moments import moments
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.protocol import LossSpec
from gradhess.errors import DeviceError

ROWS: Final = 70
WIDTHS: Final = (3, 136)
_passed: set[tuple[str, int]] = set()


def ensure(backend: CupyBackend, device: int) -> None:
    """Run it, if it did not pass before; the only place where work on a device waits without being asked."""
    if (backend.name, device) not in _passed:
        cupyx = importlib.import_module("cupyx")
        with cupy().cuda.Device(device), cupyx.allow_synchronize(True):
            _run(backend, device)
        _passed.add((backend.name, device))


def _run(backend: CupyBackend, device: int) -> None:
    for width in WIDTHS:
        for dtype in (np.float64, np.float32):
            if not _is_right(backend, width, np.dtype(dtype)):
                raise DeviceError(
                    f"the self-test of the {backend.name} backend gives a wrong result on cuda:{device} for {width} "
                    f"columns of {np.dtype(dtype).name}; choose another backend (gradhess.use_backend), and please "
                    "report this"
                )


def _is_right(backend: CupyBackend, width: int, dtype: np.dtype[Any]) -> bool:
    """Integers throughout: gradients below 2^8, and sums below 2^24 or in float64, so exact in every scheme."""
    xp = cupy()
    columns = np.arange(width)
    X = (np.arange(ROWS)[:, None] * (3 + 2 * columns) + columns * columns) % 11 - 5.0
    y = np.arange(ROWS) % 4 - 1.0
    coef = np.zeros((1, width))
    coef[0, :3] = 1.0, -2.0, 1.0
    G = (X @ coef.T - y[:, None]) * X
    rows = DeviceRows(
        xp.asarray(X.astype(dtype)),
        "gradient",
        loss=LossSpec("squared"),
        y=xp.asarray(y),
        coef=xp.asarray(coef),
    )
    state = moments(width, "full", centred=False)
    backend.add_call(rows, None, state)
    backend.symmetrize(state.scatter, 1.0, state.scatter)
    v = columns[:, None] % 3 - 1.0
    image = backend.gram_matvec(rows, xp.asarray(v))
    return bool(
        (to_host(state.scatter) == G.T @ G).all()
        and (to_host(state.location) == G.sum(axis=0)).all()
        and (to_host(state.status)[0] == -1).all()
        and (to_host(image) == G.T @ (G @ v)).all()
    )
