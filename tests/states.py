"""Comparison of accumulators to the bit."""

from __future__ import annotations

import numpy as np

import gradhess as gh


def assert_same_state(left: gh.StreamingCovariance, right: gh.StreamingCovariance) -> None:
    """Both hold the same settings and the same bits, and so go on in the same way."""
    first, second = left.state_dict(), right.state_dict()
    assert first["settings"] == second["settings"]
    assert first["arrays"].keys() == second["arrays"].keys()
    for name, array in first["arrays"].items():
        other = second["arrays"][name]
        assert array.dtype == other.dtype, name
        np.testing.assert_array_equal(array, other, err_msg=name)
