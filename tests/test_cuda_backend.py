"""The compiled engine end to end: CuPy's stand-in holds the arrays, and the emulator runs the kernels.

The tests are those of the CuPy backend (test_gpu_backend.py), on a backend over ``CudaEngine``; and then what is the
engine's own: that the kernels it has are the ones that run.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from emulated_cuda import build, why_not
from gpu_support import installed
from test_gpu_backend import (
    run,
    test_an_accumulator_of_float32,
    test_every_kind_of_rows,
    test_layouts_and_types_of_rows,
    test_states_merge,
    test_widths_that_straddle_panels,
)

from gradhess._backends import registry
from gradhess._backends.protocol import Rows

__all__ = [
    "test_an_accumulator_of_float32",
    "test_every_kind_of_rows",
    "test_layouts_and_types_of_rows",
    "test_states_merge",
    "test_widths_that_straddle_panels",
]

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


class Counting:
    """The emulated module, with the names of the calls."""

    def __init__(self, module):
        self._module = module
        self.calls = []

    def __getattr__(self, name):
        found = getattr(self._module, name)
        if callable(found):
            self.calls.append(name)
        return found


@pytest.fixture(scope="module")
def module():
    return Counting(build(900))


@pytest.fixture(scope="module")
def gpu(module):
    with installed("standin") as found:
        kept = sys.modules.get("gradhess._cuda")
        sys.modules["gradhess._cuda"] = module
        try:
            # Under the name that the shared tests ask for.
            registry._loaded["cupy"] = registry.get("cuda")
            yield found
        finally:
            registry._loaded.pop("cuda", None)
            if kept is None:
                del sys.modules["gradhess._cuda"]
            else:
                sys.modules["gradhess._cuda"] = kept


@pytest.mark.parametrize(
    ("d", "dtype", "expected"),
    [
        (128, "float64", {"narrow_update"}),
        (129, "float64", {"row_pass", "rank_update"}),
        (129, "float32", {"row_pass", "tensor_update"}),
        (140, "float16", {"row_pass", "tensor_update"}),
    ],
)
def test_the_kernels_that_run(gpu, module, d, dtype, expected):
    X = np.random.default_rng(0).standard_normal((40, d)).astype(dtype)
    module.calls.clear()
    run(gpu, Rows(X), centred=False)
    launched = {name for name in module.calls if not name.endswith("_workspace")}
    assert launched == expected


@pytest.mark.parametrize("d", [7, 150])
def test_no_waiting_and_no_copies(gpu, d):
    X = np.random.default_rng(0).standard_normal((300, d))
    run(gpu, Rows(X))  # what is done once
    rows = gpu.array(X)
    backend = registry.get("cuda")
    from gradhess._backends.cupy.moments import moments
    from gradhess._backends.cupy.rows import DeviceRows

    state = moments(d, "full", centred=True)
    with gpu.silent():
        backend.add_call(DeviceRows(rows), None, state)


@pytest.mark.parametrize("d", [20, 140])
def test_same_bits_wherever_rows_lie(gpu, d):
    X = np.random.default_rng(1).standard_normal((600, d)).astype(np.float32)
    first = run(gpu, Rows(X))
    moved = np.empty((600, d + 3), np.float32)
    moved[:, 3:] = X
    second = run(gpu, Rows(moved[:, 3:]))
    for name in ("scatter", "location", "scalars"):
        np.testing.assert_array_equal(getattr(first, name).get(), getattr(second, name).get())
