"""Estimates of informativeness: unbiased over repetitions, with standard errors that mean what they say.

Repetitions are independent, so their mean is off by its own standard error: five of them is the tolerance (a chance of
6e-7 for normal means, and the seeds are fixed). A standard deviation from R repetitions of kurtosis k is itself off by
``sqrt((k - 1) / (4 R))`` of it.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from informativeness_case import INPUTS, MODEL, TARGET, Q, exact, off_by

from gradhess import informativeness as inf
from gradhess.errors import InputError, InputTypeError
from gradhess.informativeness.models import LinearModel, TanhNetwork


def repeat(times, **settings):
    rng = np.random.default_rng(5)
    arguments = {"model": MODEL, "target_class": TARGET, "input_distribution": INPUTS, **settings}
    return [inf.estimate_informativeness(**arguments, rng=rng) for _ in range(times)]


@pytest.mark.parametrize(("n_targets", "n_inputs"), [(3, 4), (3, 60), (8, 20), (40, 60)])
def test_the_estimate_is_unbiased_and_the_naive_one_is_not(n_targets, n_inputs):
    found = repeat(3000, n_targets=n_targets, n_inputs=n_inputs)
    values = [estimate.value for estimate in found]
    assert off_by(values, exact()) < 5
    assert min(values) < 0  # not clipped, or it would be biased
    naive = [estimate.naive for estimate in found]
    assert np.mean(naive) > exact()
    assert off_by(naive, exact()) > 5


def test_the_noise_is_unbiased():
    points, mu = INPUTS.points, INPUTS.weights
    R, J = MODEL.predict(points)[:, None] - TARGET.targets(points), MODEL.jacobian(points)
    per_target = []
    for h in range(len(TARGET)):
        rows = J * R[:, [h]]
        mean = mu @ rows
        per_target.append(float(mu @ ((rows - mean) ** 2).sum(axis=1)))
    found = repeat(1000, n_targets=5, n_inputs=12)
    assert off_by([estimate.noise for estimate in found], np.mean(per_target)) < 5
    report = inf.analyze(MODEL, TARGET, INPUTS)
    np.testing.assert_allclose(report.noise, np.mean(per_target), rtol=4096 * 2.0**-53)


def assert_calibrated(found):
    """The claimed variance is the variance over repetitions, on average.

    Terms of order 1 / n_targets are left out of the standard error, on the safe side.
    """
    values = np.array([estimate.value for estimate in found])
    claimed = math.sqrt(np.mean([estimate.stderr**2 for estimate in found]))
    spread = values.std(ddof=1)
    kurtosis = float(((values - values.mean()) ** 4).mean() / spread**4)
    uncertainty = math.sqrt((kurtosis - 1) / (4 * len(values)))
    assert -5 * uncertainty < claimed / spread - 1 < 5 * uncertainty + 1 / found[0].n_targets


@pytest.mark.parametrize(("n_targets", "n_inputs"), [(5, 60), (10, 40), (40, 60), (10, 300)])
def test_standard_errors_are_the_spread_over_repetitions(n_targets, n_inputs):
    assert_calibrated(repeat(1500, n_targets=n_targets, n_inputs=n_inputs))


def test_standard_errors_where_there_is_nothing_to_see():
    """Secrets of length 10: all noise, which three factors share. Adding their parts would claim sqrt(3) too much."""
    n = 10
    full = inf.TargetClass(
        "full secrets",
        lambda points, members: inf.lwe.labels(points, members, Q).T,
        sampler=lambda count, rng: rng.integers(0, Q, (count, n)),
        q=Q,
    )
    found = repeat(
        400,
        model=TanhNetwork(n, 16, rng=0),
        target_class=full,
        input_distribution=lambda count, rng: rng.integers(0, Q, (count, n)),
        n_targets=40,
        n_inputs=100,
    )
    assert_calibrated(found)
    assert off_by([estimate.value for estimate in found], 0) < 5


def test_a_class_of_one_function_has_no_variance():
    one = inf.TargetClass("one", TARGET.evaluate, members=TARGET.members[4:5], q=Q)
    assert exact(one) == 0.0
    found = inf.estimate_informativeness(MODEL, one, INPUTS, n_targets=4, n_inputs=10, rng=0)
    assert abs(found.value) < 1e-28
    assert found.stderr < 1e-28
    assert found.noise > 0


@pytest.mark.parametrize("seed", range(5))
def test_one_member_may_hold_most_of_the_variance(seed):
    """What docs/informativeness.md warns of: a standard error knows of the members that were drawn."""
    secrets, points = inf.lwe.secrets(6, Q, "ternary", 3), inf.lwe.inputs(6, Q).points
    model = TanhNetwork(6, 16, rng=seed)
    R = model.predict(points)[:, None] - inf.lwe.targets(secrets, Q).targets(points)
    gradients = R.T @ model.jacobian(points) / len(points)
    parts = ((gradients - gradients.mean(axis=0)) ** 2).sum(axis=1)
    assert len(secrets) == 233
    assert 0.62 < parts[~secrets.any(axis=1)].sum() / parts.sum() < 0.7


def test_targets_are_drawn_by_their_weights():
    weights = np.linspace(1, 5, len(TARGET))
    weighted = inf.lwe.targets(TARGET.members, Q, weights=weights)
    assert abs(exact(weighted) / exact() - 1) > 0.02  # so the weights matter here
    found = repeat(1500, target_class=weighted, n_targets=20, n_inputs=200)
    assert off_by([estimate.value for estimate in found], exact(weighted)) < 5


def test_seeds_repeat_and_generators_go_on():
    one = inf.estimate_informativeness(MODEL, TARGET, INPUTS, n_targets=5, n_inputs=10, rng=3)
    assert one == inf.estimate_informativeness(MODEL, TARGET, INPUTS, n_targets=5, n_inputs=10, rng=3)
    rng = np.random.default_rng(3)
    assert one == inf.estimate_informativeness(MODEL, TARGET, INPUTS, n_targets=5, n_inputs=10, rng=rng)
    assert one != inf.estimate_informativeness(MODEL, TARGET, INPUTS, n_targets=5, n_inputs=10, rng=rng)


def test_real_targets_and_densities():
    waves = inf.high_frequency(6, "cosine")
    model = TanhNetwork(1, 3, scale=4.0, rng=2)

    def uniform(n, rng):
        return rng.uniform(size=n)

    found = repeat(
        600, model=model, target_class=waves, input_distribution=uniform, n_targets=10, n_inputs=40
    )
    # The midpoint rule on a smooth integrand: its error at 4000 points is far below the standard error.
    grid = (np.arange(4000)[:, None] + 0.5) / 4000
    truth = inf.exact_informativeness(
        model.jacobian(grid), model.predict(grid)[:, None] - waves.targets(grid)
    )
    assert off_by([estimate.value for estimate in found], truth) < 5


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"n_targets": 1, "n_inputs": 8},
            InputError,
            "n_targets is 1: the variance over targets is undefined",
        ),
        ({"n_targets": 2, "n_inputs": 8}, InputError, "at least 3"),
        ({"n_targets": 5, "n_inputs": 2}, InputError, "n_inputs is 2"),
        ({"n_targets": 5, "n_inputs": 9}, InputError, "must be even"),
        (
            {"n_targets": 5, "n_inputs": 8, "input_distribution": np.ones((3, 3))},
            InputTypeError,
            r"Inputs\(points\)",
        ),
        (
            {"n_targets": 5, "n_inputs": 8, "input_distribution": lambda n, rng: np.ones(3)},
            InputError,
            "one a row",
        ),
        (
            {"n_targets": 5, "n_inputs": 8, "input_distribution": lambda n, rng: np.full((n, 3), np.nan)},
            InputError,
            "drawn inputs hold NaN",
        ),
        ({"n_targets": 5, "n_inputs": 8, "target_class": "lwe"}, InputTypeError, "must be a TargetClass"),
        ({"n_targets": 5, "n_inputs": 8, "rng": None}, InputTypeError, "rng must be"),
        ({"n_targets": 5, "n_inputs": 8, "loss": "logistic"}, InputError, "labels of the logistic loss"),
    ],
)
def test_refusals(settings, error, message):
    arguments = {"model": MODEL, "target_class": TARGET, "input_distribution": INPUTS, "rng": 0, **settings}
    with pytest.raises(error, match=message):
        inf.estimate_informativeness(**arguments)


def test_models_and_classes_of_wrong_shapes_are_named():
    class Wrong:
        def predict(self, x):
            return np.zeros((len(x), 2))

        def jacobian(self, x):
            return np.zeros((len(x) + 1, 2))

    with pytest.raises(InputError, match=r"model\.predict gave shape \(27, 2\) for 27 inputs"):
        inf.analyze(Wrong(), TARGET, INPUTS)
    Wrong.predict = lambda self, x: np.zeros(len(x))
    with pytest.raises(InputError, match=r"model\.jacobian gave shape \(28, 2\)"):
        inf.analyze(Wrong(), TARGET, INPUTS)
    for model in (LinearModel([1.0]), TanhNetwork(2, 4)):
        with pytest.raises(InputError, match=r"x has shape \(27, 3\); the model takes \(n, [12]\)"):
            inf.analyze(model, TARGET, INPUTS)
    bad = inf.TargetClass("bad", lambda x, m: np.zeros((3, 3)), members=[1, 2])
    with pytest.raises(InputError, match="evaluate of 'bad' gave shape"):
        inf.analyze(MODEL, bad, INPUTS)


def test_what_is_no_model_is_told_what_to_pass():
    class Half:
        def predict(self, x):
            return np.zeros(len(x))

    for wrong, message in (
        (Half(), r"model \(Half\) has no jacobian; it must have predict"),
        (lambda x: x, "has no predict and no jacobian"),
        (TanhNetwork, "class TanhNetwork; pass an instance"),
    ):
        with pytest.raises(InputTypeError, match=message):
            inf.analyze(wrong, TARGET, INPUTS)
        with pytest.raises(InputTypeError, match=message):
            inf.estimate_informativeness(wrong, TARGET, INPUTS, n_targets=3, n_inputs=4, rng=0)


def test_estimates_as_numbers_and_words():
    estimate = inf.Estimate(0.5, 0.01)
    assert float(estimate) == 0.5
    assert str(estimate) == "0.5 ± 0.01"
    found = inf.estimate_informativeness(MODEL, TARGET, INPUTS, n_targets=30, n_inputs=400, rng=0)
    assert found.signal_to_noise(10).value == pytest.approx(10 * found.value / found.noise)
    with pytest.raises(InputError, match="batch_size is 0"):
        found.signal_to_noise(0)
    low, high = found.batch_size_range(0.0)
    assert low == high == found.noise / found.value
    # The noise is unbiased, so it may be negative; a batch has an input at least.
    assert inf.InformativenessEstimate(0.5, 0.1, 0.6, -1.0, 10, 10).batch_size_range() == (1, 1)
    assert inf.InformativenessEstimate(0.25, 0.125, 0.6, 5.0, 10, 10).batch_size_range() == (10, math.inf)


def test_noise_below_rounding_is_none():
    """Draws of one point: the noise is a difference of equal numbers, 1e-16 of them or so, of either sign."""
    for point in ([1, 2, 0], [2, 1, 1], [1, 0, 1]):
        constant = np.array(point)
        found = inf.estimate_informativeness(
            MODEL, TARGET, lambda n, _, at=constant: np.tile(at, (n, 1)), n_targets=30, n_inputs=400, rng=0
        )
        assert found.noise == 0
        assert found.signal_to_noise(10).value == math.inf
        assert found.batch_size_range() == (1, 1)
