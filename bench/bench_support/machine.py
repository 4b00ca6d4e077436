"""Where a figure was measured: processor, threads, versions, the BLAS in use, and the two limits of the machine."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import time
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
    """(GFLOP/s of multiply-adds on registers, GB/s of reading memory), or None without the compiled module.

    With the instruction set and the number of threads that are active.
    """
    try:
        from gradhess import _cpu
        from gradhess._backends import cpu
    except ImportError:
        return None
    isa = cpu.available_isas().index(cpu.active_isa())
    peak = _cpu.probe_fma_peak(dtype != "float64", threads(), seconds, isa)
    bandwidth = _cpu.probe_read_bandwidth(1 << 28, threads(), seconds)
    return peak, bandwidth


class Limits:
    """Probes of both limits, taken again and again: between the rounds of a run, as ``after_round`` of
    ``timing.interleaved``, and once before the first.

    What a shared machine can do changes from second to second, so a time is compared with the probes next to it.
    """

    def __init__(self, dtype: str, *, seconds: float = 0.1, pause: float = 0.05) -> None:
        self._dtype, self._seconds, self._pause = dtype, seconds, pause
        self._probes: list[tuple[float, float]] = []

    def __call__(self) -> None:
        time.sleep(self._pause)
        found = limits(self._dtype, seconds=self._seconds)
        if found is not None:
            self._probes.append(found)

    @property
    def peak(self) -> float:
        """The best that any probe saw, in GFLOP/s; 0 where nothing was probed, as without the compiled module."""
        return max((peak for peak, _ in self._probes), default=0.0)

    @property
    def bandwidth(self) -> float:
        """The same of the memory, in GB/s."""
        return max((bandwidth for _, bandwidth in self._probes), default=0.0)

    def floor(self, flop: float, n_bytes: float) -> float | None:
        """Seconds that nothing on this machine went below in any minute of the run; None where nothing was probed."""
        return _floor(self.peak, self.bandwidth, flop, n_bytes) if self._probes else None

    def floors(self, flop: float, n_bytes: float) -> list[float]:
        """The same of each round, by the better of the probes before and after it."""
        return [
            _floor(max(before[0], after[0]), max(before[1], after[1]), flop, n_bytes)
            for before, after in itertools.pairwise(self._probes)
        ]


def _floor(peak: float, bandwidth: float, flop: float, n_bytes: float) -> float:
    return max(flop / peak, n_bytes / bandwidth) * 1e-9


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
