"""Memory of a stream that runs: nothing new is taken from the system, and the kernels allocate no workspace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

KIB, MIB = 1 << 10, 1 << 20
THREADS = 2
WORKSPACE_PER_THREAD = 4 * MIB
SLACK = 4 * MIB
"""Pages of code touched for the first time, the allocator's rounding, and huge pages that are filled in part."""

PRELUDE = """
    import ctypes, resource, sys
    import numpy as np
    import gradhess as gh

    def status(key):
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    def resident():  # counted page by page; VmRSS may lag by some pages for each processor
        lines = open("/proc/self/smaps_rollup").read().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:"))

    gh.set_num_threads({threads})
    n, d = {n}, {d}
    X = np.random.default_rng(0).standard_normal((n, d), dtype=np.{dtype})
    y, coef = X[:, 0].astype(float), np.zeros(d)
    weights = np.ones(n)
    cov = gh.StreamingCovariance({settings})
    job = lambda: cov.partial_fit({chunk})
"""


def run(
    script: str, *, n: int, d: int, chunk: str, dtype: str = "float64", settings: str = "", **env: str
) -> list[int]:
    """The numbers that the script prints. Threads that wait sleep: on a busy machine they would hold each other up."""
    env["OMP_WAIT_POLICY"] = "passive"
    source = textwrap.dedent(PRELUDE).format(
        threads=THREADS, n=n, d=d, dtype=dtype, chunk=chunk, settings=settings
    ) + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, env={**os.environ, **env}
    )
    return [int(number) for number in done.stdout.split()]


CHUNKS = [
    (8192, 64, "X", ""),
    (8192, 64, "X, weights", ""),
    (1000, 64, "gh.glm_gradients(X, y, coef, loss='huber', intercept=0.1)", ""),
    (300, 20, "X", ""),
    (4096, 256, "X", ""),
    (1000, 600, "X", "assume_centered=True"),
    (1000, 64, "X", "'diagonal'"),
]
IDS = ["blocks", "weights", "gradients", "part of a slab", "256 columns", "600 columns", "diagonal"]


@pytest.mark.parametrize(("n", "d", "chunk", "settings"), CHUNKS, ids=IDS)
def test_a_stream_that_runs_takes_no_memory(n, d, chunk, settings):
    """A page fault is a page of memory touched for the first time since the system gave it: none, once it runs.

    A warm-up of 80 chunks: the number of rows that wait for their slab repeats after 32 or 64 chunks of 1000 rows. The
    least of four passes counts: a system that takes pages back, or moves them, makes faults now and then, while memory
    that is asked for anew makes them in every pass.
    """
    faults, grown = run(
        """
        for _ in range(80):
            job()
        passes = []
        for _ in range(4):
            size, faults = resident(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(50):
                job()
            passes.append((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults, resident() - size))
        print(*min(passes))
        """,
        n=n,
        d=d,
        chunk=chunk,
        settings=settings,
    )
    assert faults <= 50  # one a chunk, for the interpreter: a state of 64 columns has 16 pages
    assert grown <= 256 * KIB


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or os.confstr("CS_GNU_LIBC_VERSION") is None:
        pytest.skip("needs a C compiler and glibc")
    library = tmp_path_factory.mktemp("counter") / "count_allocations.so"
    source = Path(__file__).parent / "cpp" / "count_allocations.c"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library


@pytest.mark.parametrize(("n", "d", "chunk", "settings"), CHUNKS, ids=IDS)
def test_the_kernels_allocate_no_workspace(counter, n, d, chunk, settings):
    """Of what the compiled module, the C++ library and OpenMP allocate, nothing may hold rows or sums.

    What is left are the handles of the bindings and lists with an entry for each thread or block.
    """
    pytest.importorskip("gradhess._cpu", reason="the compiled module is not there")
    watched, calls, n_bytes, largest = run(
        """
        library, result = ctypes.CDLL(None), (ctypes.c_long * 3)()
        for _ in range(50):
            job()
        watched = library.counting_start()
        for _ in range(50):
            job()
        library.counting_stop(result)
        print(watched, *result)
        """,
        n=n,
        d=d,
        chunk=chunk,
        settings=settings,
        LD_PRELOAD=str(counter),
    )
    assert watched >= 2
    assert largest <= 4 * KIB
    assert n_bytes <= 50 * 16 * KIB, f"{calls} allocations of {n_bytes} bytes in 50 chunks"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("n", "d"), [(50_000, 40), (20_000, 256), (20_000, 512), (5_000, 600), (2_000, 3_000)]
)
def test_the_peak_is_the_estimate_and_a_workspace(n, d, dtype):
    """docs/numerics.md: 4 MiB for each thread, and one packed slab for all of them above 512 columns."""
    import gradhess as gh

    (peak,) = run(
        """
        few = np.ones((3000, 3))
        gh.StreamingCovariance().partial_fit(few).covariance_
        before = status("VmHWM")
        job().covariance_
        print(status("VmHWM") - before)
        """,
        n=n,
        d=d,
        dtype=dtype,
        chunk="X",
    )
    slab = 256 * d * 8 if d > 256 else 0
    assert peak <= gh.estimate_memory(d) + slab + THREADS * WORKSPACE_PER_THREAD + SLACK
    assert peak >= 0.9 * d * d * 8 - SLACK  # the measurement sees the sums at least
