"""CUTLASS's ``RankK`` as a function: ``gpu_cutlass.cu``, compiled by nvcc with the headers of the wheel.

The wheel is ``nvidia-cutlass``, of which only headers are used (``pip install --no-deps nvidia-cutlass``); or
``CUTLASS_PATH`` names a checkout. nvcc takes about 25 s of one core for a target.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_support.gpu_build import find_nvcc, folders

SOURCE = Path(__file__).with_suffix(".cu")
CHOICES = 2
"""Shapes of tiles in the source."""


class Absent(Exception):
    """Why there is no CUTLASS here."""


def headers() -> Path:
    places = [folder / "source" / "include" for folder in folders("cutlass_library")]
    if "CUTLASS_PATH" in os.environ:
        places.insert(0, Path(os.environ["CUTLASS_PATH"]) / "include")
    for place in places:
        if (place / "cutlass" / "gemm" / "device" / "rank_k.h").is_file():
            return place
    raise Absent("no headers of CUTLASS: pip install --no-deps nvidia-cutlass, or set CUTLASS_PATH")


def compiled(architecture: str, folder: Path, seconds: float = 120) -> Path:
    """The shared library for one target, as ``"90"``."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise Absent("no nvcc")
    target = folder / f"cutlass_{architecture}.so"
    # fmt: off
    command = [
        nvcc, "-std=c++17", "-O3", "-shared", "--cudart", "static", f"-arch=sm_{architecture}",
        "-Xcompiler", "-fPIC,-fvisibility=hidden", "-isystem", str(headers()), str(SOURCE), "-o", str(target),
    ]
    # fmt: on
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Absent(f"nvcc takes more than {seconds:.0f} s") from None
    if done.returncode:
        raise Absent(f"nvcc failed: {done.stderr.strip()[:300]}")
    return target


def rank_k(torch: Any, Y: Any) -> list[Callable[[], Any]]:
    """One function for each shape of tiles: the lower triangle of ``Y^T Y`` in float32, of bfloat16 rows (n, p)."""
    n, p = (int(size) for size in Y.shape)
    if p % 8 or not Y.is_contiguous():
        raise Absent("p must be a multiple of 8, and rows contiguous")
    major, minor = torch.cuda.get_device_capability(Y.device)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        library = ctypes.CDLL(str(compiled(f"{major}{minor}", Path(folder))))
    print(f"CUTLASS's RankK was built in {time.perf_counter() - start:.0f} s")
    call = library.cutlass_rank_k
    call.argtypes = [ctypes.c_int, *2 * [ctypes.c_void_p], *2 * [ctypes.c_int64], ctypes.c_void_p]
    C = torch.zeros((p, p), dtype=torch.float32, device=Y.device)

    def job_of(choice: int) -> Callable[[], Any]:
        def job() -> Any:
            status = call(
                choice, Y.data_ptr(), C.data_ptr(), n, p, torch.cuda.current_stream(Y.device).cuda_stream
            )
            if status:
                raise RuntimeError(f"cutlass::Status {status}")
            return C

        return job

    return [job_of(choice) for choice in range(CHOICES)]
