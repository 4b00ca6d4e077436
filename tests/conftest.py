"""Every backend, and every instruction set of the compiled one, in turn."""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from gpu_support import gpu  # noqa: F401  the fixture
from hypothesis import settings

from gradhess._backends import registry
from gradhess._backends.protocol import Backend
from gradhess.errors import BackendError

# A Python that a test starts must find the installed package, too, and not the folder it is started in.
os.environ["PYTHONSAFEPATH"] = "1"

# A shell starts what it runs in the background with interrupts ignored; tests that send one need them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Whether a change lands is no matter of luck: there the examples are the same every time. Elsewhere they are new ones.
settings.register_profile("fixed", derandomize=True, print_blob=True)
if "CI" in os.environ or "GRADHESS_EXPECT_INSTALLED" in os.environ:
    settings.load_profile("fixed")

ARM = platform.machine().lower() in {"aarch64", "arm64"}
CPU_ISAS = ["neon"] if ARM else ["avx512", "avx2", "baseline"]
BACKENDS = ["reference", "numba", *(f"cpu-{isa}" for isa in CPU_ISAS)]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a backend, which is the active one throughout the test."""
    name, _, isa = request.param.partition("-")
    try:
        registry.get(name)
    except BackendError as error:
        pytest.skip(str(error))
    with registry.use_backend(name):
        if not isa:
            yield name
            return
        from gradhess._backends import cpu

        if isa not in cpu.available_isas():
            pytest.skip(f"instruction set {isa} is not available here: {', '.join(cpu.available_isas())}")
        with cpu.use_isa(isa):
            yield name


@pytest.fixture
def ops(backend: str) -> Backend:
    """The active backend's table of operations."""
    return registry.get(backend)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261120)
