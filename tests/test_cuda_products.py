"""Sums in float64 over the compiled engine: one order of summation that depends on shapes alone.

Neither cuBLAS nor a reduction of CuPy takes part: both may add in another order on another device.
"""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from emulated_cuda import why_not
from gpu_streams import OutOfMemory
from test_cuda_backend import gpu as plain_gpu
from test_cuda_backend import module
from test_cuda_public import gpu
from test_gpu_backend import (
    test_pairwise_dependence,
    test_pairwise_dependence_of_the_first_inputs,
    test_products_with_vectors,
    test_sums_of_kronecker_products,
)
from test_gpu_products import (
    factors_of,
    matrix,
    test_kronecker_sums_at_odd_sizes,
    test_pairwise_dependence_at_odd_sizes,
    test_pieces_of_rows,
    test_products_at_odd_sizes,
    test_products_of_many_rows,
)
from test_gpu_stream import test_what_follows_from_the_covariance

import gradhess as gh
from gradhess._backends import registry
from gradhess._backends.cupy import kronecker, products
from gradhess._backends.cupy.rows import DeviceRows
from gradhess.errors import DeviceError, DeviceMemoryError

__all__ = [
    "gpu",
    "module",
    "plain_gpu",
    "test_kronecker_sums_at_odd_sizes",
    "test_pairwise_dependence",
    "test_pairwise_dependence_at_odd_sizes",
    "test_pairwise_dependence_of_the_first_inputs",
    "test_pieces_of_rows",
    "test_products_at_odd_sizes",
    "test_products_of_many_rows",
    "test_products_with_vectors",
    "test_sums_of_kronecker_products",
    "test_what_follows_from_the_covariance",
]

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def sums(gpu):
    """Every sum in float64 that takes matrix_product or a kernel of rows, by name: functions without arguments."""
    n, d, m = 2500, 21, 2
    X, V, W = matrix(n, d, m)
    A, (_, factors) = gpu.array(X[:, :4].copy()), factors_of(gpu, n, 3, 2)
    totals = gpu.cupy.zeros((2, 6, 10))
    rng = np.random.default_rng(3)
    labels = gpu.array(rng.integers(0, 2, (n, 9)).astype(np.uint8))
    mu, shares = gpu.array(rng.dirichlet(np.ones(9))), gpu.array(rng.dirichlet(np.ones(n)))
    rows = gh.as_gradients(gpu.array(X))
    few = gh.as_gradients(gpu.array(matrix(140, 1500, m)[0].astype(np.float32)))
    cov = gh.StreamingCovariance(ddof=1).partial_fit(gpu.array(X))
    v, w, x = gpu.array(V), gpu.array(W), gpu.array(X[:70])
    backend = registry.get("cuda")

    def kronecker_sums():
        totals.fill(0)
        backend.kronecker_sums(A, factors, totals)
        return totals

    return {
        "matvec": lambda: rows.matvec(v),
        "rmatvec": lambda: rows.rmatvec(w),
        "gram_matvec": lambda: rows.gram_matvec(v),
        "norms": rows.norms,
        "norms of float32": few.norms,
        "cogram": few.cogram,
        "project": lambda: rows.project(gh.sketches.gaussian(5, seed=1)),
        "kronecker_sums": kronecker_sums,
        "pair_dependence": lambda: backend.pair_dependence(labels, 2, mu, shares),
        "counts of pairs": lambda: backend.pair_dependence(labels, 2, mu, None),
        "precision": lambda: cov.precision_,
        "mahalanobis": lambda: cov.mahalanobis(x),
    }


@pytest.fixture(scope="module")
def all_sums(gpu):
    return sums(gpu)


NAMES = [
    "matvec", "rmatvec", "gram_matvec", "norms", "norms of float32", "cogram", "project", "kronecker_sums",
    "pair_dependence", "counts of pairs", "precision", "mahalanobis",
]  # fmt: skip


def test_every_sum_is_named(all_sums):
    assert list(all_sums) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_neither_cublas_nor_a_reduction_of_cupy_takes_part(gpu, all_sums, module, monkeypatch, name):
    if not gpu.is_standin:
        pytest.skip("the stand-in's functions are replaced")

    def refused(*args, **options):
        raise AssertionError("a sum whose order is not ours")

    cupy = gpu.cupy
    for method in ("__matmul__", "__rmatmul__", "sum"):
        monkeypatch.setattr(cupy.ndarray, method, refused)
    for function in ("matmul", "sum", "einsum"):
        monkeypatch.setattr(cupy, function, refused)
    monkeypatch.setattr(cupy.linalg, "norm", refused)
    module.calls.clear()
    all_sums[name]()
    assert ("matrix_product" in module.calls) == (not name.startswith("norms"))


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_in_every_run_and_stream(gpu, all_sums, name):
    first = all_sums[name]().get()
    stream = gpu.stream()
    with stream:
        again = all_sums[name]()
    stream.synchronize()
    np.testing.assert_array_equal(again.get(), first)


def test_same_bits_in_every_order_of_threads(gpu, all_sums, module):
    if module.kind != "standin":
        pytest.skip("a device has an order of its own")
    first = {name: run().get() for name, run in all_sums.items()}
    module.emulate_schedule(9)
    try:
        for name, run in all_sums.items():
            np.testing.assert_array_equal(run().get(), first[name], name)
    finally:
        module.emulate_schedule(0)


def test_same_bits_for_pieces_of_any_length(gpu, all_sums, monkeypatch):
    names = ["matvec", "rmatvec", "gram_matvec", "norms", "kronecker_sums"]
    first = {name: all_sums[name]().get() for name in names}
    for rows in (1024, 2048):
        monkeypatch.setattr(products, "PIECE_BYTES", 8 * 21 * (rows + 5))
        monkeypatch.setattr(kronecker, "PIECE_BYTES", 8 * 10 * (rows + 5))
        for name in names:
            np.testing.assert_array_equal(all_sums[name]().get(), first[name], f"{name}, {rows} rows")


@pytest.mark.parametrize("m", [1, 5])
def test_bits_of_a_row_are_its_own(gpu, m):
    X, V, _ = matrix(300, 1100, m)
    backend, v = registry.get("cuda"), gpu.array(V)
    whole = backend.matvec(DeviceRows(gpu.array(X)), v).get()
    for rows in (slice(7, 8), slice(100, 300)):
        part = backend.matvec(DeviceRows(gpu.array(X[rows])), v).get()
        np.testing.assert_array_equal(part, whole[rows])


def test_strided_rows_have_the_bits_of_others(gpu):
    X, V, W = matrix(200, 30, 3)
    backend = registry.get("cuda")
    results = []
    for array in (
        gpu.array(X),
        gpu.cupy.asfortranarray(gpu.array(X)),
        gpu.array(np.repeat(X, 2, axis=1))[:, ::2],
    ):
        rows = DeviceRows(array)
        results.append(
            [f(rows, gpu.array(z)).get() for f, z in ((backend.matvec, V), (backend.rmatvec, W))]
            + [backend.norms(rows).get()]
        )
    for other in results[1:]:
        for got, expected in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("order", list(itertools.product("CF", "CF", "CF")))
def test_operands_of_any_strides(gpu, order):
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(9, 20)), rng.normal(size=(20, 6))
    moved = [
        gpu.cupy.asfortranarray(gpu.array(host)) if lies == "F" else gpu.array(host)
        for host, lies in zip((left, right), order[:2], strict=True)
    ]
    out = gpu.cupy.full((9, 6), 2.0, order=order[2])
    engine = registry.get("cuda").engine
    engine.product(*moved, out, add=True)
    bound = 22 * 2.0**-53 * (abs(left) @ abs(right) + 2)
    assert (np.abs(out.get() - (left @ right + 2)) <= bound).all()
    every_other = gpu.array(np.repeat(np.repeat(left, 2, axis=0), 2, axis=1))[::2, ::2]
    again = gpu.cupy.full((9, 6), 2.0, order=order[2])
    engine.product(every_other, moved[1], again, add=True)
    np.testing.assert_array_equal(again.get(), out.get())


@pytest.mark.parametrize("name", NAMES)
def test_memory_that_runs_out_is_typed(gpu, all_sums, monkeypatch, name):
    """Each allocation fails in turn."""
    if not gpu.is_standin:
        pytest.skip("a device does not run out of memory on demand")
    all_sums[name]()  # what is kept from call to call
    memory = OutOfMemory(gpu, monkeypatch)
    failed = 0
    while True:
        memory.allowed = failed
        try:
            all_sums[name]()
        except DeviceMemoryError:
            failed += 1
        else:
            break
        finally:
            memory.allowed = None
    assert failed >= 2


def test_a_launch_that_fails_is_typed(gpu, all_sums, monkeypatch):
    def failing(*args, **options):
        raise DeviceError("matrix_product: CUDA error 719 (as asked for) at matrix_product.cu:1")

    if not gpu.is_standin:
        pytest.skip("a device does not fail on demand")
    monkeypatch.setattr(sys.modules["gradhess._cuda"], "matrix_product", failing, raising=False)
    with pytest.raises(DeviceError, match=r"matrix_product\.cu:1"):
        all_sums["matvec"]()
