"""The anchor from CUTLASS in bench/gpu.py, as far as it goes without a GPU: it compiles, or says what is missing."""

from __future__ import annotations

import ctypes

import pytest

cutlass = pytest.importorskip("bench_support.gpu_cutlass", reason="no benchmarks beside the tests")


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(cutlass, "folders", lambda package: iter(()))
    monkeypatch.delenv("CUTLASS_PATH", raising=False)
    with pytest.raises(cutlass.Absent, match="pip install --no-deps nvidia-cutlass"):
        cutlass.headers()
    monkeypatch.setattr(cutlass, "find_nvcc", lambda: None)
    with pytest.raises(cutlass.Absent, match="no nvcc"):
        cutlass.compiled("90", tmp_path)


@pytest.mark.parametrize("architecture", ["80", "90"])
def test_it_compiles(tmp_path, architecture):
    try:
        cutlass.headers()
    except cutlass.Absent as reason:
        pytest.skip(str(reason))
    if cutlass.find_nvcc() is None:
        pytest.skip("no nvcc")
    library = ctypes.CDLL(str(cutlass.compiled(architecture, tmp_path)))
    assert library.cutlass_rank_k
