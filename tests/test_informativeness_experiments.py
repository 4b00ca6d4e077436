"""The experiments of the source: dependence, sparse inputs and waves."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from gradhess import informativeness as inf
from gradhess.errors import InputError
from gradhess.informativeness import experiments


def test_the_sweep_enumerates_what_the_budget_allows():
    cases = list(experiments.sweep_cases(3, "binary", 1e5))
    assert (1, 1, 2) in cases
    assert (5, 2, 2) in cases
    assert (4, 4, 2) in cases
    assert len(set(cases)) == len(cases)
    points = list(experiments.dependence_sweep(3, "binary", cases))
    shown = {(point.n, point.max_nonzero, point.a): point.epsilon for point in points}
    assert f"{shown[4, 4, 2]:.5f}" == "0.81263"
    for case, epsilon in shown.items():  # which the sweep finds from one input of each orbit
        n, most, a = case
        labels = inf.lwe.labels(inf.lwe.inputs(n, a), inf.lwe.secrets(n, 3, "binary", most), 3)
        assert epsilon == pytest.approx(
            inf.pairwise_dependence(labels, 3), rel=2 * labels.shape[1] * 2.0**-53
        )
    lines = experiments.regression_lines(points)
    assert [line.a for line in lines] == [2, 3]
    for line in lines:  # larger classes are less dependent, and more so over larger input ranges
        assert line.slope > 0
    assert lines[1].slope > lines[0].slope


def test_regression_lines_are_least_squares():
    """Points on a line of slope 0.4 and intercept -0.7 for a = 2, off one for a = 3, and two only for a = 4."""
    sizes = np.array([3, 9, 27, 81, 243])

    def points(a, heights):
        return [
            experiments.Dependence(5, "binary", 4, 2, a, int(size), a**4, math.exp(-height))
            for size, height in zip(sizes, heights, strict=False)
        ]

    x = np.log(sizes)
    off = 0.2 * x + np.array([0.1, -0.3, 0.2, 0.0, 0.1])
    lines = experiments.regression_lines(points(2, 0.4 * x - 0.7) + points(3, off) + points(4, x[:2]))
    assert [(line.a, line.n_points) for line in lines] == [(2, 5), (3, 5)]
    exact = (lines[0].slope, lines[0].intercept, lines[0].r_squared)
    np.testing.assert_allclose(exact, (0.4, -0.7, 1.0), rtol=1e-13)
    slope = np.cov(x, off, ddof=0)[0, 1] / x.var()
    np.testing.assert_allclose(lines[1].slope, slope, rtol=1e-13)
    np.testing.assert_allclose(lines[1].intercept, off.mean() - slope * x.mean(), rtol=1e-12)
    np.testing.assert_allclose(lines[1].r_squared, np.corrcoef(x, off)[0, 1] ** 2, rtol=1e-12)


def test_sparse_inputs_are_not_monotone():
    with pytest.raises(InputError, match=r"rho is 1.5; it is a probability"):
        experiments.entropy_sweep([1.5])
    sweep = experiments.entropy_sweep([2 / 3, 0.5, 0.3, 0.1, 0.01])
    assert [f"{point.collision_entropy:.3f}" for point in sweep[:4]] == ["4.394", "3.923", "2.502", "0.818"]
    assert sweep[2].variance > 1.5 * sweep[0].variance
    assert sweep[4].variance < 0.05 * sweep[0].variance
    for point in sweep:
        assert point.variance <= point.bound


def test_the_variance_over_waves_falls_like_the_inverse_of_their_number():
    sweep = experiments.frequency_sweep([2, 34, 88, 226, 600])
    assert sweep[0].variance == 0  # one function
    rates = [-np.log(b.variance / a.variance) / np.log(b.A / a.A) for a, b in itertools.pairwise(sweep[1:])]
    assert all(0.7 < rate < 1.1 for rate in rates)
