"""Rows for the tests of accumulators, and comparison of accumulators to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

import gradhess as gh

N = 1500


def data(n: int = N, d: int = 4, seed: int = 1, dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
    """Correlated columns about means of their own."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3 * rng.normal(size=d)).astype(dtype)


def assert_same_state(left: gh.StreamingCovariance, right: gh.StreamingCovariance) -> None:
    """Both hold the same settings and the same bits, and so go on in the same way."""
    first, second = left.state_dict(), right.state_dict()
    assert first["settings"] == second["settings"]
    assert first["arrays"].keys() == second["arrays"].keys()
    for name, array in first["arrays"].items():
        other = second["arrays"][name]
        assert array.dtype == other.dtype, name
        np.testing.assert_array_equal(array, other, err_msg=name)
