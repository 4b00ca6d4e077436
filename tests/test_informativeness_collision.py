"""Collision entropy from samples: unbiased over repetitions, with standard errors that mean what they say.

Repetitions are independent, so their mean is off by its own standard error: five of them is the tolerance, as in
``test_informativeness_estimates``.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from informativeness_case import off_by

from gradhess import informativeness as inf
from gradhess.errors import InputError


def test_collisions_are_counted_without_bias(rng):
    p = np.array([0.5, 0.2, 0.2, 0.1])
    pi = (p**2).sum()
    shares, plug_in, claims = [], [], []
    for _ in range(2000):
        x = rng.choice(4, size=30, p=p)
        found = inf.collision_entropy_from_samples(x)
        shares.append(math.exp(-found.value))
        claims.append((found.stderr * shares[-1]) ** 2)
        counts = np.bincount(x, minlength=4)
        plug_in.append(((counts / 30) ** 2).sum())
        assert found.n_collisions == (counts * (counts - 1)).sum() // 2
    assert off_by(shares, pi) < 5
    assert off_by(plug_in, pi + (1 - pi) / 30) < 5  # the bias that the estimate does not have
    spread = np.std(shares, ddof=1)
    assert abs(math.sqrt(np.mean(claims)) / spread - 1) < 5 * math.sqrt(2 / (4 * 2000)) + 2 / 30


def test_rows_collide_where_all_entries_do():
    x = np.array([[0, 1], [0, 2], [0, 1], [1, 1]])
    found = inf.collision_entropy_from_samples(x)
    assert found.n_collisions == 1
    assert found.value == pytest.approx(math.log(6))
    assert "only 1 collision:" in found.note
    assert "take more samples" in str(found)


def test_no_collision_says_how_many_samples_it_takes(rng):
    found = inf.collision_entropy_from_samples(rng.normal(size=1000))
    assert found.value == math.inf
    assert math.isnan(found.stderr)
    assert found.n_collisions == 0
    assert found.lower_bound == pytest.approx(math.log(1000 * 999 / (2 * math.log(20))))
    assert "exp(E_c / 2)" in found.note
    assert inf.collision_entropy_from_samples([1, 2]).lower_bound == 0  # no entropy is below
    # At an entropy of that bound, no collision is seen in about one run of twenty.
    values = round(math.exp(inf.collision_entropy_from_samples(np.arange(60)).lower_bound))
    none = sum(
        inf.collision_entropy_from_samples(rng.integers(0, values, 60)).n_collisions == 0 for _ in range(2000)
    )
    assert abs(none / 2000 - 0.05) < 5 * math.sqrt(0.05 * 0.95 / 2000)


def test_entropies_add_over_coordinates(rng):
    one = inf.collision_entropy_from_samples(rng.integers(0, 3, 4000))
    two = inf.collision_entropy_from_samples(rng.integers(0, 3, (4000, 2)))
    assert abs(two.value - 2 * one.value) < 5 * math.hypot(two.stderr, 2 * one.stderr)


@pytest.mark.parametrize("x", [[1], [], [[]], np.zeros((2, 2, 2)), [1.0, np.nan]])
def test_samples_that_say_nothing(x):
    with pytest.raises(InputError, match=r"^x "):
        inf.collision_entropy_from_samples(x)
