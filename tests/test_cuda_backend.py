"""The compiled engine end to end: CuPy's stand-in holds the arrays, and the emulator runs the kernels.

The tests are those of the CuPy backend (test_gpu_backend.py), on a backend over ``CudaEngine``; and then what is the
engine's own: that the kernels it has are the ones that run.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from emulated_cuda import build, why_not
from gpu_support import KINDS, installed
from test_gpu_backend import (
    assert_right,
    run,
    test_an_accumulator_of_float32,
    test_every_kind_of_rows,
    test_group_sums,
    test_layouts_and_types_of_rows,
    test_pairs_of_outputs,
    test_states_merge,
)

from gradhess._backends import registry
from gradhess._backends.cuda.engine import CudaEngine
from gradhess._backends.cupy import selftest
from gradhess._backends.cupy.engine import Block
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.protocol import PairWeights, Rows

__all__ = [
    "test_an_accumulator_of_float32",
    "test_every_kind_of_rows",
    "test_group_sums",
    "test_layouts_and_types_of_rows",
    "test_pairs_of_outputs",
    "test_states_merge",
]

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


class Counting:
    """The emulated module, with the names of the calls."""

    def __init__(self, module, kind):
        self._module = module
        self.kind = kind
        self.calls = []

    def __getattr__(self, name):
        found = getattr(self._module, name)
        if callable(found):
            self.calls.append(name)
        return found


@pytest.fixture(scope="module", params=KINDS)
def module(request):
    """The kernels in the emulator, or on the GPU where there is one."""
    if request.param == "standin":
        return Counting(build(900), "standin")
    return Counting(pytest.importorskip("gradhess._cuda"), "device")


@pytest.fixture(scope="module")
def gpu(module):
    with installed(module.kind) as found:
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


def test_the_self_test_runs_every_family_of_kernels_once(gpu, module):
    backend = registry.get("cuda")
    selftest._passed.clear()
    module.calls.clear()
    selftest.ensure(backend, 0)
    families = {"narrow_update", "row_pass", "rank_update", "tensor_update", "matrix_product"}
    assert families <= set(module.calls)
    module.calls.clear()
    selftest.ensure(backend, 0)
    assert not module.calls


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", [1, 17, 65, 129, 257])
def test_widths_that_straddle_kernels_and_tiles(gpu, d, dtype):
    X = (np.random.default_rng(d).normal(size=(100, d)) + 1).astype(dtype)
    weights = np.random.default_rng(1).uniform(0.5, 2, 100)
    assert_right(run(gpu, Rows(X), weights), Rows(X), weights)
    assert_right(run(gpu, Rows(X), centred=False), Rows(X), centred=False)


@pytest.mark.parametrize("curvature", [False, True])
@pytest.mark.parametrize(
    ("n", "w", "k", "weighted"), [(300, 17, 3, True), (130, 5, 1, False), (1, 9, 2, True)]
)
def test_outer_rows(gpu, module, n, w, k, weighted, curvature):
    rng = np.random.default_rng(n)
    A = rng.standard_normal((n, w)).astype(np.float32)
    e = rng.standard_normal((n, k))
    c = rng.uniform(0.5, 2, n) if weighted else None
    s = np.einsum("np,nq->npq", e, e)
    if curvature:
        s = np.eye(k)[None] * e[:, :, None] - s
    if c is not None:
        s *= c[:, None, None]
    wide = A.astype(np.float64)
    expected = np.einsum("npq,ni,nj->piqj", s, wide, wide).reshape(k * w, k * w)
    size = np.einsum(
        "npq,ni,nj->piqj", np.abs(s) + np.abs(e[:, :, None] * e[:, None]), np.abs(wide), np.abs(wide)
    )
    out = gpu.cupy.zeros((k * w, k * w))
    engine = CudaEngine()
    moved = None if c is None else gpu.array(c)
    assert engine.outer_rank_update(gpu.array(A), gpu.array(e), moved, curvature, out, accuracy="float32")
    # Both operands are rounded to 24 bits, and sums of at most 128 rows truncated in float32.
    bound = (4 + min(n, 128) / 4) * 2.0**-23 * (1 + (2 if c is not None else 0))
    assert (np.abs(out.get() - expected) <= bound * size.reshape(k * w, k * w))[
        np.tri(k * w, dtype=bool)
    ].all()
    assert not engine.outer_rank_update(
        gpu.array(wide), gpu.array(e), moved, curvature, out, accuracy="float32"
    )


@pytest.mark.parametrize(("w", "expected"), [(5, "narrow_update"), (130, "rank_update")])
def test_outer_rows_of_float64_take_the_kernels_of_weighted_rows(gpu, module, w, expected):
    rng = np.random.default_rng(w)
    A, e = rng.standard_normal((30, w)), rng.standard_normal((30, 2))
    out = gpu.cupy.empty((2 * w, 2 * w))
    module.calls.clear()
    registry.get("cuda").outer_gram(gpu.array(A), PairWeights(gpu.array(e)), False, out, begin=True, end=True)
    assert expected in module.calls
    rows = (e[:, :, None] * A[:, None, :]).reshape(30, 2 * w)
    bound = 50 * 2.0**-53 * (np.abs(rows).T @ np.abs(rows))
    assert (np.abs(out.get() - rows.T @ rows) <= bound).all()


@pytest.mark.parametrize("d", [7, 150])
def test_no_waiting_and_no_copies(gpu, d):
    X = np.random.default_rng(0).standard_normal((300, d))
    run(gpu, Rows(X))  # what is done once
    rows = gpu.array(X)
    backend = registry.get("cuda")
    from gradhess._backends.cupy.moments import moments

    state = moments(d, "full", centred=True)
    with gpu.silent():
        backend.add_call(DeviceRows(rows), None, state)


@pytest.mark.parametrize("accuracy", ["float32", "fp16x3"])
@pytest.mark.parametrize("weighted", [False, True])
def test_schemes_of_planes(gpu, module, accuracy, weighted):
    rng = np.random.default_rng(4)
    X = (rng.standard_normal((300, 150)) * np.exp(rng.uniform(-8, 8, 150))).astype(np.float32)
    weights = rng.standard_normal(300) if weighted else None
    with registry.use_backend("cuda", accuracy=accuracy):
        state = run(gpu, Rows(X), weights, centred=False)
    wide, w = X.astype(np.float64), np.ones(300) if weights is None else weights
    expected = wide.T @ (w[:, None] * wide)
    size = np.abs(wide).T @ (np.abs(w)[:, None] * np.abs(wide))
    # Truncated float32 sums of 64 rows, 16 at a time, and operands of 24 or 22 bits.
    bound = (4 + 64 / 16) * 2.0**-23 + (4 * 2.0**-22 if accuracy == "fp16x3" else 0)
    assert (np.abs(state.scatter.get() - expected) <= bound * size)[np.tri(150, dtype=bool)].all()


@pytest.mark.parametrize("kernel", ["mma", "wgmma"])
def test_kernels_by_name(gpu, module, kernel):
    if module.tensor_kernel() == "mma" and kernel == "wgmma":
        pytest.skip("the device has no wgmma")
    X = np.random.default_rng(6).standard_normal((200, 140)).astype(np.float32)
    engine = CudaEngine(kernel=kernel)
    panel = engine.panel(200, 140, X.dtype, accuracy="float32")
    scatter = gpu.cupy.zeros((140, 140))
    engine.prepare(Block(DeviceRows(gpu.array(X))), panel)
    assert panel.bytes_per_entry == 6
    engine.rank_update(panel, scatter)
    wide = X.astype(np.float64)
    bound = (4 + 64 / 16) * 2.0**-23 * (np.abs(wide).T @ np.abs(wide))
    assert (np.abs(scatter.get() - wide.T @ wide) <= bound)[np.tri(140, dtype=bool)].all()


@pytest.mark.parametrize("d", [20, 140])
def test_same_bits_wherever_rows_lie(gpu, d):
    X = np.random.default_rng(1).standard_normal((600, d)).astype(np.float32)
    first = run(gpu, Rows(X))
    moved = np.empty((600, d + 3), np.float32)
    moved[:, 3:] = X
    second = run(gpu, Rows(moved[:, 3:]))
    for name in ("scatter", "location", "scalars"):
        np.testing.assert_array_equal(getattr(first, name).get(), getattr(second, name).get())
