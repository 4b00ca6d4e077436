"""The same tests on a stand-in for CuPy and on a GPU: which of the two, and what they have in common."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gradhess
from gradhess._backends import registry
from gradhess._backends.cuda import custom
from gradhess._backends.cupy import launch, layout, selftest
from gradhess._gradients.device import deferred

STANDIN = Path(__file__).parent / "cupy_standin"
KINDS = ["standin", pytest.param("device", marks=pytest.mark.gpu)]


def _forget() -> None:
    """Whatever was learned about the CuPy that was there before."""
    for cached in (launch.cupy, launch._module, launch._function):
        cached.cache_clear()
    for name in registry.DEVICE_PREFERENCE:
        registry._loaded.pop(name, None)
        registry._reasons.pop(name, None)
    custom.compiled.cache_clear()
    selftest._passed.clear()
    deferred._flags.clear()


class Gpu:
    """CuPy, or its stand-in."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy
        self.is_standin = bool(getattr(cupy, "STANDIN", False))

    def array(self, host: npt.ArrayLike) -> Any:
        return self.cupy.asarray(np.asarray(host))

    @property
    def no_waiting(self) -> Any:
        """A context in which waiting for the device is an error."""
        return importlib.import_module("cupyx").allow_synchronize(False)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """No wait, and no copy from or to the host."""
        before = dict(self.cupy.cuda.counts) if self.is_standin else {}
        with self.no_waiting:
            yield
        for name in ("synchronize", "to_host", "to_device") if self.is_standin else ():
            assert self.cupy.cuda.counts[name] == before[name], name

    def stream(self) -> Any:
        return self.cupy.cuda.Stream(non_blocking=True)

    def memory_limit(self, n_bytes: int | None) -> Any:
        if not self.is_standin:
            return nullcontext()
        return _limit(n_bytes)


@contextmanager
def _limit(n_bytes: int | None) -> Iterator[None]:
    from cupy import _memory

    _memory.Allocation.limit = n_bytes
    try:
        yield
    finally:
        _memory.Allocation.limit = None


@contextmanager
def short_blocks() -> Iterator[None]:
    """Blocks of ``layout.BLOCK_ROWS`` at any width, so that tests straddle them with few rows."""
    kept = layout.STREAM_ROWS, layout.BATCH_ROWS
    layout.STREAM_ROWS = layout.BATCH_ROWS = layout.BLOCK_ROWS
    try:
        yield
    finally:
        layout.STREAM_ROWS, layout.BATCH_ROWS = kept


@contextmanager
def installed(kind: str) -> Iterator[Gpu]:
    """``gpu`` of a kind: modules are put in place, and what was cached about others is forgotten, before and after."""
    kept = {
        name: sys.modules.pop(name)
        for name in list(sys.modules)
        if name.partition(".")[0] in ("cupy", "cupyx")
    }
    if kind == "standin":
        if not any(map(__import__("shutil").which, ("g++", "c++"))):
            pytest.skip("the stand-in compiles kernels for the host, and there is no C++ compiler")
        sys.path.insert(0, str(STANDIN))
    _forget()
    try:
        if kind == "device":
            try:
                cupy = importlib.import_module("cupy")
            except ImportError as error:
                pytest.skip(f"no CuPy: {error}")
            try:
                count = cupy.cuda.runtime.getDeviceCount()
            except Exception as error:
                pytest.skip(f"no CUDA device: {error}")
            if count == 0:
                pytest.skip("no CUDA device")
        else:
            cupy = importlib.import_module("cupy")
            cupy.cuda.reset()
        with short_blocks():
            yield Gpu(cupy)
    finally:
        if kind == "standin":
            sys.path.remove(str(STANDIN))
            for name in [name for name in sys.modules if name.partition(".")[0] in ("cupy", "cupyx")]:
                del sys.modules[name]
        _forget()
        sys.modules.update(kept)


@pytest.fixture(params=KINDS, scope="module")
def gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    """The stand-in, and the GPU where there is one."""
    with installed(request.param) as found, registry.use_backend("cupy"):
        gradhess.weighted_gram(found.cupy.ones((2, 2)))  # the self-test, which waits
        gradhess.synchronize()
        yield found
