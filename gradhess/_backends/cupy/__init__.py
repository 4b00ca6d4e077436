"""The GPU backend from CuPy and cuBLAS alone: whether it can be used, and why not.

It has not been run on hardware yet: it is tested through a stand-in that compiles the same kernels for the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradhess.errors import BackendError

if TYPE_CHECKING:
    from gradhess._backends.cupy.backend import CupyBackend


def devices() -> int:
    """How many CUDA devices CuPy sees; BackendError with the reason where there is none."""
    from gradhess._backends.cupy.launch import cupy

    xp = cupy()
    try:
        count = int(xp.cuda.runtime.getDeviceCount())
    except Exception as error:  # of the driver, or of the libraries that CuPy loads
        raise BackendError(f"CuPy {xp.__version__} finds no usable CUDA driver: {error}") from error
    if count == 0:
        raise BackendError(f"CuPy {xp.__version__} finds no CUDA device")
    return count


def load() -> CupyBackend:
    """The backend; BackendError where CuPy, a driver or a device is missing."""
    devices()
    from gradhess._backends.cupy.backend import CupyBackend
    from gradhess._backends.cupy.cublas_engine import CublasEngine

    return CupyBackend("cupy", CublasEngine())


def describe() -> dict[str, str]:
    """What ``show_config`` prints."""
    from gradhess._backends.cupy.launch import cupy

    xp = cupy()
    runtime: Any = xp.cuda.runtime
    found = [runtime.getDeviceProperties(number) for number in range(devices())]
    return {
        "CuPy": str(xp.__version__),
        "CUDA runtime": _version(int(runtime.runtimeGetVersion())),
        "driver": _version(int(runtime.driverGetVersion())),
        "devices": ", ".join(
            f"{facts['name'].decode()} (sm_{facts['major']}{facts['minor']})" for facts in found
        ),
    }


def _version(code: int) -> str:
    return f"{code // 1000}.{code % 1000 // 10}"
