"""Where a figure was measured: processor, threads, versions, the BLAS in use, and the two limits of the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = (
    "gradhess",
    "numpy",
    "scipy",
    "numba",
    "scikit-learn",
    "scikit-learn-intelex",
    "tabmat",
    "torch",
)


def threads() -> int:
    from gradhess._backends import registry

    return registry.num_threads()


def facts() -> dict[str, Any]:
    """Plain data for the JSON beside every table."""
    import gradhess
    from gradhess._backends import registry

    assert gradhess.__version__
    return {
        "processor": _processor(),
        "logical_cpus": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in LIBRARIES},
        "blas": _blas(),
        "gradhess": registry.config(),
        "revision": _revision(),
    }


def limits(dtype: str, *, seconds: float = 0.3) -> tuple[float, float] | None:
    """(GFLOP/s of multiply-adds on registers, GB/s of reading memory), or None without the compiled module."""
    try:
        from gradhess import _cpu
        from gradhess._backends import cpu
    except ImportError:
        return None
    isa = cpu.available_isas().index(cpu.active_isa())
    peak = _cpu.probe_fma_peak(dtype == "float32", threads(), seconds, isa)
    bandwidth = _cpu.probe_read_bandwidth(1 << 28, threads(), seconds)
    return peak, bandwidth


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _blas() -> list[dict[str, Any]]:
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return []
    wanted = ("internal_api", "version", "num_threads", "architecture", "user_api")
    return [{key: pool[key] for key in wanted if key in pool} for pool in threadpool_info()]


def _revision() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
