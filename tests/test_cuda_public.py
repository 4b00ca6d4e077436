"""The public interface over the compiled engine: tests of the CuPy backend, where its kernels run instead.

In the emulator those whose rows are few; on a device all of them.
"""

from __future__ import annotations

import numpy as np
import pytest
from emulated_cuda import why_not
from gpu_streams import bits, data, shorten_blocks
from test_cuda_backend import gpu as plain_gpu
from test_cuda_backend import module
from test_gpu_gradients import (
    test_a_row_that_is_not_finite_is_nan_and_raises_when_somebody_asks,
    test_custom_losses_that_do_not_translate,
    test_every_method_of_a_generalised_linear_model,
    test_groups,
    test_labels_outside_of_the_domain_are_rows_that_are_not_finite,
    test_layers,
    test_weighted_gram,
)
from test_gpu_stream import test_a_bad_row_drops_its_call_and_those_after_it as of_a_bad_row
from test_gpu_stream import (
    test_float32_rows_and_then_float64,
    test_gradients_go_in,
    test_odd_sizes,
)
from test_gpu_stream import test_long_blocks_and_buffers_that_grow as of_long_blocks
from test_gpu_stream import test_the_same_bits_for_any_chunking_and_stream as of_bits
from test_gpu_stream import test_three_runs_have_the_same_bits as of_three_runs

import gradhess as gh
from gradhess._backends import registry

__all__ = [
    "module",
    "plain_gpu",
    "test_a_row_that_is_not_finite_is_nan_and_raises_when_somebody_asks",
    "test_custom_losses_that_do_not_translate",
    "test_every_method_of_a_generalised_linear_model",
    "test_float32_rows_and_then_float64",
    "test_gradients_go_in",
    "test_groups",
    "test_labels_outside_of_the_domain_are_rows_that_are_not_finite",
    "test_layers",
    "test_odd_sizes",
    "test_weighted_gram",
]

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(scope="module")
def gpu(plain_gpu):
    with registry.use_backend("cuda"):
        gh.weighted_gram(plain_gpu.cupy.ones((2, 2)))  # the self-test, which waits
        gh.synchronize()
        yield plain_gpu


def test_the_compiled_engine_is_the_one_that_is_chosen(gpu, module):
    assert registry.active_device().name == "cuda"
    module.calls.clear()
    gh.weighted_gram(gpu.cupy.ones((3, 2)))
    assert "narrow_update" in module.calls


@pytest.mark.parametrize("accuracy", ["float32", "fp16x3"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", [20, 140])
def test_chunks_that_straddle_short_blocks(gpu, monkeypatch, d, dtype, accuracy):
    shorten_blocks(monkeypatch, 256)
    X, w = data(700, d, dtype=dtype), np.random.default_rng(1).uniform(0.5, 2, 700)
    for weights in (None, w):
        found = []
        for cuts in ([], [1, 63, 300, 511, 600], [256, 512], [257]):
            cov = gh.StreamingCovariance(ddof=1)
            with registry.use_backend("cuda", accuracy=accuracy):
                for rows in np.split(np.arange(len(X)), cuts):
                    part = None if weights is None else gpu.array(weights[rows])
                    cov.partial_fit(gpu.array(X[rows]), part)
                found.append(bits(cov))
        assert all(other == found[0] for other in found[1:])


@pytest.mark.parametrize("structure", ["full", "diagonal"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_same_bits_for_any_chunking(gpu, dtype, structure):
    if gpu.is_standin:
        pytest.skip("40,000 rows are too many for the emulator")
    of_bits(gpu, dtype, structure)


def test_three_runs(gpu):
    if gpu.is_standin:
        pytest.skip("50,000 rows are too many for the emulator")
    of_three_runs(gpu)


def test_long_blocks(gpu, monkeypatch):
    if gpu.is_standin:
        pytest.skip("70,000 rows are too many for the emulator")
    of_long_blocks(gpu, monkeypatch)


@pytest.mark.parametrize("d", [4, 1100])
def test_a_bad_row(gpu, d):
    if gpu.is_standin and d > 1000:
        pytest.skip("too wide for the emulator")
    of_a_bad_row(gpu, 100, 5, d)
