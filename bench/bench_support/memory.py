"""Peak memory of a competitor beyond its input and its libraries.

Each competitor runs in a process of its own: the data are made, the job runs once on a tiny problem (so that libraries
are loaded and their thread pools and buffers exist), the kernel's high-water mark of resident memory is reset
(``/proc/self/clear_refs``), the job runs, and the mark is read. Large blocks are returned to the system when they are
freed (``MALLOC_MMAP_THRESHOLD_``), so that what one job leaves behind does not hide what the next one needs.
Linux only; elsewhere None.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from bench_support.competitors import BY_NAME
from bench_support.problems import DTYPES, QUICK, SHAPES, Problem

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")
WARM_UP = (512, 8)
QUICK_COMPETITORS = {"gradhess-cpu", "numpy"}  # a process for each takes seconds


def _status_bytes(key: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {key}")


def _measure(name: str) -> dict[str, int]:
    competitor = BY_NAME[name]
    job = competitor.factory()
    peaks = {}
    for dtype in DTYPES:
        job(Problem(*WARM_UP, dtype))
        for n, d in SHAPES:
            problem = Problem(n, d, dtype)
            if problem.gram_flop > competitor.max_flop:
                continue
            problem.make_data()
            RESET.write_text("5")
            before = _status_bytes("VmRSS")
            job(problem)
            peaks[str(problem)] = max(_status_bytes("VmHWM") - before, 0)
    return peaks


@cache
def peaks(name: str) -> dict[str, int]:
    """Bytes for each problem, by its name; empty where it cannot be measured."""
    if not STATUS.exists() or not os.access(RESET, os.W_OK) or (QUICK and name not in QUICK_COMPETITORS):
        return {}
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, "-P", "-m", "bench_support.memory", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {name} failed:\n{done.stderr}")
    result: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1])))
