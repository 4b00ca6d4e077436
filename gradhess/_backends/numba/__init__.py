"""The algorithm compiled at run time by Numba: the CPU path where nothing was compiled ahead.

Results have the same bits for any number of threads and any chunking, like those of every backend.
"""

from __future__ import annotations

from gradhess._backends.protocol import Backend


def load() -> Backend:
    """The backend; ImportError where Numba is not installed."""
    from gradhess._backends.numba.backend import NumbaBackend

    return NumbaBackend()


def describe() -> dict[str, str]:
    import llvmlite.binding
    import numba

    return {"numba": numba.__version__, "llvm target": str(llvmlite.binding.get_host_cpu_name())}
