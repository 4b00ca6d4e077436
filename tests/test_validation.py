"""Checks that take a short way where nothing is wrong: they say the same as the long one."""

from __future__ import annotations

import numpy as np
import pytest

from gradhess import _validation as check
from gradhess.errors import InputError

LARGEST = np.finfo(np.float64).max


@pytest.mark.parametrize("size", [1, 7, check.FEW, check.FEW + 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found_wherever_it_is(size, bad):
    array = np.full(size, -LARGEST)  # whose square is infinite
    assert check.finite(array, "v") is array
    assert check.finite(array.reshape(1, -1), "v").shape == (1, size)
    for index in {0, size // 2, size - 1}:
        wrong = array.copy()
        wrong[index] = bad
        place = rf"v holds NaN or infinity, first at \[{index}\]" if size > 1 else "v holds NaN or infinity"
        with pytest.raises(InputError, match=place):
            check.finite(wrong, "v")


def test_nothing_is_finite():
    assert check.finite(np.empty((3, 0)), "v").size == 0


@pytest.mark.parametrize(
    "weights", [[1.0, 1e18], [1e-18, 3.0], [0.0, 1.0], [-1.0, -1e18], [np.nan, 2.0], [np.inf], []]
)
def test_weights_that_fit_float32(weights):
    check.weights_fit_float32(np.array(weights), "w")


@pytest.mark.parametrize(
    "weights", [[1.0, 2e18], [0.5e-18, 3.0], [-1.0, 2e18], [-2e18], [-0.5e-18, 1.0], [np.nan, 2e18]]
)
def test_weights_that_do_not_fit_float32(weights):
    with pytest.raises(InputError, match="w of float32 rows must be 0 or of a size from 1e-18 to 1e\\+18"):
        check.weights_fit_float32(np.array(weights), "w")
