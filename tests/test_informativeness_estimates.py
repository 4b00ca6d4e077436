"""Estimates of informativeness and entropy: unbiased over repetitions, with standard errors that mean what they say.

Repetitions are independent, so their mean is off by its own standard error: five of them is the tolerance (a chance of
6e-7 for normal means, and the seeds are fixed). A standard deviation from R repetitions of kurtosis k is itself off by
``sqrt((k - 1) / (4 R))`` of it.
"""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest

from gradhess import _memory
from gradhess import informativeness as inf
from gradhess.errors import InputError, InputTypeError, ResultTooLargeError
from gradhess.informativeness import experiments
from gradhess.informativeness.models import LinearModel, TanhNetwork

Q, N = 3, 3
TARGET = inf.lwe.targets(inf.lwe.secrets(N, Q, "ternary"), Q)
INPUTS = inf.lwe.inputs(N, [0.5, 0.3, 0.2])
MODEL = TanhNetwork(N, 4, rng=1)


def exact(target=TARGET, inputs=INPUTS, model=MODEL):
    R = model.predict(inputs.points)[:, None] - target.targets(inputs.points)
    return inf.exact_informativeness(
        model.jacobian(inputs.points), R, inputs.weights, target_weights=target.weights
    )


def repeat(times, **settings):
    rng = np.random.default_rng(5)
    arguments = {"model": MODEL, "target_class": TARGET, "input_distribution": INPUTS, **settings}
    return [inf.estimate_informativeness(**arguments, rng=rng) for _ in range(times)]


def off_by(values, expected):
    """How many standard errors the mean is from what it should be."""
    return abs(np.mean(values) - expected) / (np.std(values, ddof=1) / math.sqrt(len(values)))


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


# ---- collision entropy -------------------------------------------------------------------------------------------


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
    assert "only 1 collisions" in found.note
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


# ---- the report --------------------------------------------------------------------------------------------------


def test_the_report_of_an_enumerated_class(tmp_path):
    report = inf.analyze(MODEL, TARGET, INPUTS, batch_sizes=[1, 64])
    assert report.exact
    assert report.naive is None
    assert report.notes == ()
    np.testing.assert_allclose(report.variance.value, exact(), rtol=4096 * 2.0**-53)
    assert report.variance.stderr == 0
    assert report.epsilon == inf.pairwise_dependence(
        TARGET.labels(INPUTS.points), Q, input_weights=INPUTS.weights
    )
    assert report.variance.value <= report.bound.tight <= report.bound.value
    np.testing.assert_allclose(report.bound.terms["M"], (Q - 1) / 2, rtol=16 * 2.0**-53)
    ratio = report.signal_to_noise(64).value
    assert ratio == pytest.approx(64 * report.variance.value / report.noise)
    assert report.signal_to_noise(1).value * report.batch_size() == pytest.approx(1)
    assert report.batch_size(10.0) == pytest.approx(10 * report.batch_size())
    assert report.gradient_steps(64) == math.ceil(1 / ratio)
    assert report.gradient_steps(10**9) == 1
    assert report.batch_size_range() == (report.batch_size(), report.batch_size())
    text = report.summary()
    for part in ("all 27 targets and 27 inputs", "variance over targets", "bound", "gradient steps", "64"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 80
    assert str(report) == text
    assert repr(report) == "<Report: 21 parameters, 27 targets, 27 inputs>"
    assert repr(TARGET) == "<TargetClass: 27 secrets modulo 3, 27 members>"
    assert len(report.plot().axes) == 2
    report.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000
    with pytest.raises(InputError, match="must end in"):
        report.plot(tmp_path / "report.jpeg")
    missing = tmp_path / "nowhere" / "report.png"
    with pytest.raises(FileNotFoundError) as caught:
        report.plot(missing)
    assert caught.value.filename == str(missing)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_report_takes_targets_in_blocks(weighted, rng):
    """More targets than a block holds, against all of them at once; the memory is that of a block."""
    n, tops = 250, 20_000
    waves = inf.high_frequency(tops + 1, "cosine")
    shares = rng.uniform(size=tops) if weighted else None
    target = inf.TargetClass("waves", waves.evaluate, members=waves.members, weights=shares)
    points = rng.uniform(size=(n, 1))
    tracemalloc.start()
    report = inf.analyze(LinearModel([0.5]), target, points)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * n * tops / 2
    J = LinearModel([0.5]).jacobian(points)
    R = LinearModel([0.5]).predict(points)[:, None] - target.targets(points)
    expected = inf.exact_informativeness(J, R, target_weights=shares)
    # Sums of 20,000 numbers of size one, and 250 of those.
    np.testing.assert_allclose(report.variance.value, expected, rtol=tops * 2.0**-53)
    weights = np.full(tops, 1 / tops) if shares is None else shares / shares.sum()
    mean = (R @ weights) @ J / n
    second = (J**2).sum(axis=1) @ (R**2 @ weights) / n
    np.testing.assert_allclose(report.noise, second - expected - mean @ mean, rtol=tops * 2.0**-53)


def test_a_report_that_would_not_fit_is_refused(monkeypatch):
    def never(points, members):
        raise AssertionError("nothing may be evaluated")

    many = inf.TargetClass("many", never, members=range(10**13), q=2)
    with pytest.raises(ResultTooLargeError, match=r"labels of 10,000,000,000,000 targets at 27 inputs"):
        inf.analyze(MODEL, many, INPUTS)
    real = inf.TargetClass("few", never, members=range(10))
    monkeypatch.setattr(_memory, "available_bytes", lambda: 10**8)
    with pytest.raises(ResultTooLargeError, match=r"a block of targets"):
        inf.analyze(LinearModel([0.0]), real, np.arange(3e5))
    with pytest.raises(ResultTooLargeError, match=r"gradients of the predictions, \(2000, 6001\)"):
        inf.analyze(TanhNetwork(1, 2000), real, np.arange(2000.0))
    with pytest.raises(ResultTooLargeError, match=r"derivatives of the loss, \(2000, 2000\)"):
        inf.estimate_informativeness(MODEL, TARGET, INPUTS, n_targets=2000, n_inputs=2000, rng=0)


def test_the_report_of_draws():
    def uniform(n, rng):
        return rng.integers(0, Q, (n, N))

    report = inf.analyze(MODEL, TARGET, uniform, n_targets=30, n_inputs=200, rng=4)
    assert not report.exact
    assert report.epsilon is None
    assert report.bound is None
    assert report.variance.stderr > 0
    assert report.naive > 0
    truth = inf.collision_entropy(np.ones(Q**N))
    assert report.collision_entropy == pytest.approx(truth, abs=0.5)
    low, high = report.batch_size_range()
    assert low < report.batch_size() < high
    assert "±" in report.summary()
    assert "drawn, not enumerated" in report.summary()
    again = inf.analyze(MODEL, TARGET, uniform, n_targets=30, n_inputs=200, rng=4)
    assert again.summary() == report.summary()


def test_the_report_without_a_signal(tmp_path):
    one = inf.TargetClass("one", TARGET.evaluate, members=TARGET.members[4:5], q=Q)
    report = inf.analyze(MODEL, one, INPUTS)
    assert report.variance.value == 0
    assert report.batch_size() == report.gradient_steps(100) == math.inf
    assert "none" in report.summary()
    assert report.epsilon == pytest.approx(2 * (1 - 1 / Q**2))
    point = inf.analyze(MODEL, TARGET, [[1, 2, 0]])
    assert point.collision_entropy == 0
    assert "no pairs" in point.notes[0]
    assert point.noise == 0  # a difference of two equal second moments, but for rounding
    assert point.signal_to_noise(1).value == math.inf
    assert point.gradient_steps(1) == point.batch_size() == 1
    assert "below rounding" in point.summary()
    assert point.variance.value <= point.bound.tight * (1 + 1e-12)
    waves = inf.analyze(TanhNetwork(1, 3), inf.high_frequency(5), np.linspace(0, 1, 50))
    assert waves.bound is None
    assert "real values" in waves.notes[0]
    waves.plot(tmp_path / "waves.svg")
    silent = inf.analyze(TanhNetwork(1, 3), inf.high_frequency(2), np.linspace(0, 1, 50))
    quiet = inf.analyze(LinearModel([0.0, 0.0, 0.0]), TARGET, [[0, 0, 0]])
    assert quiet.noise == 0
    for nothing in (report, silent, quiet):  # a warning is an error here
        nothing.plot(tmp_path / "nothing.png")


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


# ---- the experiments of the source -------------------------------------------------------------------------------


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
