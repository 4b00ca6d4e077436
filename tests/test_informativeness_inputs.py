"""Secrets, inputs and samples of LWE, and what every function of informativeness refuses.

``ROUNDING`` as in test_informativeness_exact.py: a few thousand units of roundoff.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import gradhess as gh
from gradhess import informativeness as inf
from gradhess.errors import InputError, InputTypeError

ROUNDING = 4096 * 2.0**-53


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=0)


# ---- inputs and secrets ------------------------------------------------------------------------------------------


def test_secrets_are_those_of_the_kind():
    assert inf.lwe.secrets(3, 5).shape == (8, 3)
    ternary = inf.lwe.secrets(4, 5, "ternary", 2)
    assert len(np.unique(ternary, axis=0)) == len(ternary) == 1 + 4 * 2 + 6 * 4
    assert set(np.unique(ternary)) == {-1, 0, 1}
    assert (np.count_nonzero(ternary, axis=1) <= 2).all()
    exact = inf.lwe.secrets(4, 5, "ternary", 2, exact=True)
    assert (np.count_nonzero(exact, axis=1) == 2).all()
    assert len(exact) == 24
    full = inf.lwe.secrets(2, 4, "uniform")
    assert sorted(map(tuple, full)) == [(i, j) for i in range(4) for j in range(4)]
    assert inf.lwe.secrets(3, 5, max_nonzero=0).tolist() == [[0, 0, 0]]


def test_inputs_are_enumerated_with_their_probabilities():
    box = inf.lwe.inputs(2, 3)
    assert box.points.tolist() == [[i, j] for i in range(3) for j in range(3)]
    close(box.weights, 1 / 9)
    sparse = inf.lwe.inputs(2, [0.5, 0, 0.5])
    assert sparse.points.tolist() == [[0, 0], [0, 2], [2, 0], [2, 2]]
    assert len(sparse) == 4
    merged = inf.Inputs([[1.0], [0.0], [1.0]], [1, 2, 3])
    assert merged.points.tolist() == [[0.0], [1.0]]
    close(merged.weights, [1 / 3, 2 / 3])
    assert repr(box) == "<Inputs: 9 points of 2 coordinates>"


def test_labels_are_inner_products(rng):
    secrets, points = rng.integers(-5, 5, (4, 6)), rng.integers(-9, 9, (7, 6))
    np.testing.assert_array_equal(inf.lwe.labels(points, secrets, 5), (secrets @ points.T) % 5)


def test_samples_are_labelled_by_the_secret_and_noised(rng):
    secret = [1, 0, 2, 6]
    x, y = inf.lwe.samples(4, 7, secret, 500, rng=5)
    np.testing.assert_array_equal(y, (x @ secret) % 7)
    assert set(np.unique(x)) == set(range(7))
    again = inf.lwe.samples(4, 7, secret, 500, rng=5)
    np.testing.assert_array_equal(x, again[0])
    std = 3.0
    x, y = inf.lwe.samples(4, 1009, secret, 4000, noise_std=std, rng=6)
    noise = (y - x @ secret + 504) % 1009 - 504
    # Var of a rounded normal is std^2 + 1/12 (but for terms of 1e-70), its sample variance has s.e. var sqrt(2/n).
    variance = std**2 + 1 / 12
    assert abs(noise.var() - variance) < 5 * variance * math.sqrt(2 / 4000)
    x, _ = inf.lwe.samples(4, 7, secret, 300, input_distribution=[0.5, 0.5])
    assert set(np.unique(x)) == {0, 1}
    points = inf.Inputs([[1, 2, 3, 4], [0, 0, 0, 1]])
    x, _ = inf.lwe.samples(4, 7, secret, 300, input_distribution=points)
    assert len(np.unique(x, axis=0)) == 2
    x, _ = inf.lwe.samples(4, 7, secret, 3, input_distribution=lambda n, rng: np.ones((n, 4), int))
    assert (x == 1).all()


@pytest.mark.parametrize(("n", "q"), [(4, 1_518_500_249), (1, 3_037_000_500), (8, 2**30 - 35)])
def test_samples_of_a_large_modulus_are_exact(n, q):
    # The largest modulus of that length, and noise as large as it may be, against integers of any size.
    secret = [q - 1] * n
    x, y = inf.lwe.samples(
        n, q, secret, 50, input_distribution=lambda n_samples, rng: np.full((n_samples, n), q - 1)
    )
    assert y.tolist() == [n * (q - 1) ** 2 % q] * 50
    x, y = inf.lwe.samples(n, q, secret, 50, noise_std=2.0**49)
    assert x.shape == (50, n)
    assert 0 <= y.min() <= y.max() < q


def test_labels_take_every_integer_of_int64():
    low, high = -(2**63), 2**63 - 1
    np.testing.assert_array_equal(
        inf.lwe.labels([[low], [high]], [[1], [2]], 7), [[low % 7, high % 7], [low * 2 % 7, high * 2 % 7]]
    )
    np.testing.assert_array_equal(inf.lwe.labels([[2.0**53]], [[-3.0]], 5), [[2**53 * -3 % 5]])


def test_parities_of_signs_are_products():
    signs = 1 - 2 * inf.lwe.inputs(3, 2).points
    parity = inf.parities(3)
    products = np.where(parity.members[np.newaxis] == 1, signs[:, np.newaxis], 1).prod(axis=2)
    np.testing.assert_array_equal(parity.targets((1 - signs) / 2), products)


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: inf.pairwise_dependence([[0, 3]], 3), InputError, r"labels\[0, 1\] is 3.*0\.\.2"),
        (lambda: inf.pairwise_dependence([[0, -1]], 3), InputError, r"labels\[0, 1\] is -1"),
        (lambda: inf.pairwise_dependence([[0.0, 1.0]], 3), InputTypeError, "labels has dtype float64"),
        (lambda: inf.pairwise_dependence([0, 1], 3), InputError, r"must be \(n_targets, n_inputs\)"),
        (lambda: inf.pairwise_dependence([[0], [1]], 3), InputError, "two inputs of positive weight"),
        (lambda: inf.pairwise_dependence([[0, 1]], 3, input_weights=[1, 0]), InputError, "two inputs"),
        (
            lambda: inf.pairwise_dependence([[0, 1]], 3, input_weights=[1, -1]),
            InputError,
            r"input_weights\[1\]",
        ),
        (
            lambda: inf.pairwise_dependence([[0, 1]], 3, target_weights=[0]),
            InputError,
            "target_weights are all",
        ),
        (lambda: inf.pairwise_dependence([[0, 1]], 3, target_weights=[1, 1]), InputError, r"must be \(1,\)"),
        (lambda: inf.pairwise_dependence([[0, 1]], 1), InputError, "q is 1"),
        (lambda: inf.pairwise_dependence([[0, 1]], 257), InputError, "at most 256"),
        (lambda: inf.lwe.secrets(3, 2, "ternary"), InputError, "q of at least 3"),
        (lambda: inf.lwe.secrets(3, 3, exact=True), InputError, "max_nonzero"),
        (lambda: inf.lwe.secrets(3, 3, max_nonzero=4), InputError, "n = 3 entries"),
        (
            lambda: inf.lwe.labels([[1, 2, 3], [1, 2, 0.5]], [[1, 1, 1]], 3),
            InputTypeError,
            r"inputs must hold integers, and the entry in row 1, column 2, is 0\.5",
        ),
        (lambda: inf.lwe.labels([[1, 2]], [[1]], 3), InputError, "both need n columns"),
        (lambda: inf.lwe.secrets(60, 3), gh.errors.ResultTooLargeError, "secrets needs"),
        (lambda: inf.lwe.inputs(40, 7), gh.errors.ResultTooLargeError, "inputs needs"),
        (lambda: inf.lwe.samples(2, 3, [1], 5), InputError, r"secret has shape \(1,\)"),
        (lambda: inf.lwe.samples(2, 3, [1, 1], 5, rng="x"), InputTypeError, "rng must be"),
        (lambda: inf.lwe.samples(2, 3, [1, 1], 5, noise_std=-1), InputError, "noise_std is -1"),
        (lambda: inf.Inputs(np.zeros((0, 2))), InputError, "points has shape"),
        (lambda: inf.Inputs([[np.nan]]), InputError, "first in row 0"),
        (lambda: inf.collision_entropy([]), InputError, "p has shape"),
        (lambda: inf.collision_entropy([0.5, np.nan]), InputError, "p holds NaN"),
        (lambda: inf.gaussian_collision_entropy([[1, 0], [0, 0]]), InputError, "not positive definite"),
        (lambda: inf.gaussian_collision_entropy([[1, 2], [0, 4]]), InputError, "not symmetric"),
        (lambda: inf.gaussian_collision_entropy([1, 2]), InputError, r"must be \(d, d\)"),
        (
            lambda: inf.exact_informativeness(np.ones((3, 2)), np.ones((4, 2))),
            InputError,
            "jacobian has 3 rows",
        ),
        (lambda: inf.exact_informativeness(np.ones((3, 2)), np.ones((3, 0))), InputError, "both at least 1"),
        (lambda: inf.exact_informativeness(np.ones((3, 2)), iter([])), InputError, "no targets"),
        (
            lambda: inf.exact_informativeness(np.ones((3, 2)), np.ones((3, 4)), target_weights=[1, 1]),
            InputError,
            "2 entries.*more than 3 targets",
        ),
        (
            lambda: inf.exact_informativeness(np.ones((3, 2)), np.ones((3, 1)), target_weights=[1, 1]),
            InputError,
            "2 entries.*holds 1 targets",
        ),
        (lambda: inf.exact_informativeness([[np.inf]], [[1.0]]), InputError, "first in row 0"),
        (lambda: inf.bound(-1, 1.0, 0.1, 1.0), InputError, "M is -1"),
        (lambda: inf.bound(1, np.ones((2, 3)), 0.1, 1.0), InputError, r"\(p, p\)"),
        (lambda: inf.bound(1, 1.0, 0.1, -0.5), InputError, "collision_entropy is -0.5"),
        (lambda: inf.bound(1, 1.0, 0.1, math.nan), InputError, "collision_entropy is nan"),
        (
            lambda: inf.bound(1, 1.0, 0.1, None),
            InputTypeError,
            "collision_entropy must be a number, not None",
        ),
        (lambda: inf.bound("1", 1.0, 0.1, 1.0), InputTypeError, "M must be a number, not str"),
        (lambda: inf.largest_residual([0.0], [0.0, 1.0], "softmax"), InputError, "several predictions"),
        (lambda: inf.high_frequency(1), InputError, "A is 1"),
        (lambda: inf.high_frequency(3, "square"), InputError, "kind is 'square'"),
        (lambda: inf.high_frequency(3).targets([[1.0, 2.0]]), InputError, "functions of one number"),
        (lambda: inf.high_frequency(3).labels([[1.0]]), InputError, "real values, not labels"),
        (lambda: inf.parities(21), InputError, "n = 20"),
        (lambda: inf.lwe.samples(4, 2**32 - 5, [2**32 - 6] * 4, 5), InputError, r"below 2\^63"),
        (lambda: inf.lwe.samples(4, 2**70, [1] * 4, 5), InputError, r"below 2\^63"),
        (lambda: inf.lwe.samples(4, 7, [2**70] * 4, 5), InputTypeError, "secret has dtype object"),
        (lambda: inf.lwe.samples(2, 3, [1, 1], 2**60), gh.errors.ResultTooLargeError, "samples of 2"),
        (lambda: inf.lwe.labels(*[np.broadcast_to(1, (1, 2**40))] * 2, 256), InputError, r"below 2\^53"),
        (lambda: inf.lwe.labels([[np.inf]], [[1]], 3), InputError, "inputs holds NaN or infinity"),
        (lambda: inf.lwe.labels([[1]], [[np.nan]], 3), InputError, "secrets holds NaN or infinity"),
        (lambda: inf.lwe.labels([[1e300]], [[1]], 3), InputError, r"inputs holds floats above 2\^53"),
        (
            lambda: inf.lwe.labels(np.array([[2**63 + 1]], np.uint64), [[1]], 3),
            InputError,
            "inputs holds 9223372036854775809",
        ),
        (lambda: inf.lwe.inputs(1, 2**45), gh.errors.ResultTooLargeError, "inputs needs"),
        (lambda: inf.lwe.samples(2, 3, [1, 1], 5, noise_std=np.inf), InputError, "noise_std is inf"),
        (lambda: inf.lwe.samples(2, 3, [1, 1], 5, noise_std=np.nan), InputError, "noise_std is nan"),
        (lambda: inf.lwe.samples(2, 3, [1, 1], 5, noise_std=1e30), InputError, r"noise_std is 1e\+30.*2\^49"),
        (
            lambda: inf.parities(2).labels([[0, 1], [1, -1]]),
            InputError,
            r"points\[1, 1\] is -1.*\(1 - x\) / 2",
        ),
        (lambda: inf.parities(1).targets([[0.5]]), InputError, r"points\[0, 0\] is 0.5"),
        (lambda: inf.TargetClass("none", lambda x, m: x), InputError, "members, or a sampler"),
    ],
)
def test_refusals_say_what_to_do(call, error, message):
    with pytest.raises(error, match=message):
        call()
