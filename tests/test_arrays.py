"""Arrays of other libraries: read without a copy, and answered in kind."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import gradhess as gh


def data():
    return np.random.default_rng(1).normal(size=(300, 3))


class OnDlpack:
    """Something that speaks DLPack and nothing else."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


def test_frozen_memory():
    frozen = data()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(gh.weighted_gram(OnDlpack(data())), gh.weighted_gram(frozen))


def test_arrays_on_a_gpu():
    with pytest.raises(gh.errors.BackendError, match="X is on a GPU"):
        gh.weighted_gram(OnDlpack(data(), device=(2, 0)))

    class Cuda:
        def __init__(self):
            self.__cuda_array_interface__ = {}

    with pytest.raises(gh.errors.BackendError, match="y is on a GPU"):
        gh.glm_gradients(data(), Cuda(), np.zeros(3))


def test_jax_arrays_come_back_as_jax_arrays_unless_digits_would_be_lost():
    pytest.importorskip("jax.numpy")
    import jax

    X = jax.numpy.asarray(data().astype(np.float32))
    found = gh.weighted_gram(X)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float64
    assert isinstance(gh.as_gradients(X).gram(dtype="float32"), jax.Array)


def test_data_frames():
    frame = pd.DataFrame(data(), columns=["a", "b", "c"])
    series = frame["a"]
    g = gh.glm_gradients(frame[["b", "c"]], series, [0.0, 0.0])
    np.testing.assert_array_equal(g.gram(), gh.glm_gradients(data()[:, 1:], data()[:, 0], [0.0, 0.0]).gram())
    frame["carrier"] = "AA"
    frame["time"] = pd.Timestamp("2013-01-01")
    with pytest.raises(
        gh.errors.InputTypeError, match=r"columns that are not numeric: 'carrier' .*, 'time' "
    ):
        gh.StreamingCovariance().partial_fit(frame)


def test_lists_are_arrays():
    np.testing.assert_array_equal(gh.weighted_gram([[1, 2], [3, 4]], [1, -1]), [[-8, -10], [-10, -12]])
