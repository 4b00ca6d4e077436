"""The compiled CUDA module for ``bench/gpu.py``, made with nvcc alone where the package was not built: no network, no
CMake, and the headers of pybind11 from wherever they are (PyTorch brings them along)."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ARCHITECTURES = ("80", "90a")


def build(seconds: float = 300) -> str:
    """What was found, or made, or why not."""
    if importlib.util.find_spec("gradhess._cuda") is not None:
        return "gradhess._cuda was there"
    nvcc = find_nvcc()
    if nvcc is None:
        return "absent: gradhess._cuda is not built, and there is no nvcc"
    headers = _pybind11()
    if headers is None:
        return "absent: gradhess._cuda is not built, and there are no headers of pybind11"
    package = next(folders("gradhess"))
    sources = [
        *sorted((ROOT / "csrc" / "cuda").rglob("*.cu")),
        *sorted((ROOT / "csrc" / "bindings").glob("cuda_*.cpp")),
    ]
    codes = [f"-gencode=arch=compute_{one},code=sm_{one}" for one in ARCHITECTURES]
    named = ",".join(f"{one}-real" for one in ARCHITECTURES)
    # fmt: off
    command = [
        nvcc, "-std=c++17", "-O3", "-shared", "--threads", "0", "--cudart", "static", *codes,
        "-Xcompiler", "-fPIC,-fvisibility=hidden", f'-DGRADHESS_CUDA_ARCHITECTURES="{named}"',
        f"-I{ROOT / 'csrc'}", f"-I{headers}", f"-I{sysconfig.get_paths()['include']}", *map(str, sources),
        "-o", str(package / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"),
    ]
    # fmt: on
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    took = time.perf_counter() - start
    if done.returncode:
        return f"absent: nvcc failed: {done.stderr.strip()[-1500:]}"
    importlib.invalidate_caches()
    return f"gradhess._cuda was built in {took:.0f} s"


def find_nvcc() -> str | None:
    return shutil.which("nvcc") or next(iter(map(str, Path("/usr/local").glob("cuda*/bin/nvcc"))), None)


def _pybind11() -> Path | None:
    for name in ("pybind11", "torch"):
        for folder in folders(name):
            if (folder / "include" / "pybind11" / "pybind11.h").exists():
                return folder / "include"
    return None


def folders(package: str) -> Iterator[Path]:
    """Where a package lies; nothing where it is not installed."""
    spec = importlib.util.find_spec(package)
    yield from map(Path, (spec and spec.submodule_search_locations) or ())
