"""The kernels of the CuPy backend as source: nvcc takes them without a warning or a spill, for both types."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import resources

import pytest


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("number", ["float", "double"])
def test_kernels_compile_without_warnings_and_spills(number, architecture, tmp_path):
    source = resources.files("gradhess._backends.cupy").joinpath("kernels.cu").read_text("utf-8")
    path = tmp_path / "kernels.cu"
    path.write_text(f"#define T {number}\n{source}")
    # fmt: off
    command = [
        "nvcc", "-std=c++17", "--fmad=false", f"-arch={architecture}", "-cubin", "-Werror", "all-warnings",
        "-Xptxas", "-v", "-o", str(tmp_path / "kernels.cubin"), str(path),
    ]
    # fmt: on
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert len(spills) == source.count("__global__")
    assert set(spills) == {("0", "0")}


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_small_numbers_are_kept_though_cupy_compiles_with_ftz(tmp_path):
    source = resources.files("gradhess._backends.cupy").joinpath("kernels.cu").read_text("utf-8")
    path, ptx = tmp_path / "kernels.cu", tmp_path / "kernels.ptx"
    path.write_text(f"#define T float\n{source}")
    command = [
        "nvcc",
        "-std=c++17",
        "--fmad=false",
        "-ftz=true",
        "-arch=sm_90",
        "-ptx",
        "-o",
        str(ptx),
        str(path),
    ]
    subprocess.run(command, capture_output=True, text=True, check=True)
    assert not re.findall(r"\b(?:add|sub|mul|fma|cvt|neg)\S*\.ftz\S*f32\S*", ptx.read_text())
