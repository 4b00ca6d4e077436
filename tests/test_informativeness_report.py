"""``informativeness.analyze``: what the report says, draws and refuses."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc

import numpy as np
import pytest
from informativeness_case import INPUTS, MODEL, TARGET, N, Q, exact

from gradhess import _memory
from gradhess import informativeness as inf
from gradhess.errors import InputError, InputTypeError, ResultTooLargeError
from gradhess.informativeness.models import LinearModel, TanhNetwork


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
    assert "gradient of 21 parameters, all 27 targets and 1 input\n" in point.summary()
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


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (None, InputTypeError, "^inputs must be an array of points.*not NoneType"),
        ("box", InputTypeError, "^inputs must be an array of points.*not str"),
        (np.zeros((0, 2)), InputError, r"^inputs has shape \(0, 2\)"),
        ([[0.0], [np.nan]], InputError, "^inputs holds NaN or infinity, first in row 1"),
        ([["a"]], InputTypeError, "^inputs has dtype"),
    ],
)
def test_inputs_are_called_what_they_are_called(inputs, error, message):
    drawn = inf.TargetClass("drawn", lambda x, a: x[:, :1] * a, sampler=lambda m, rng: rng.random(m))
    for targets in (TARGET, drawn):
        with pytest.raises(error, match=message):
            inf.analyze(MODEL, targets, inputs)


def test_a_single_input_has_no_ratio():
    """Nothing differs, between targets that vanish there or between inputs: 0 / 0."""
    report = inf.analyze(MODEL, TARGET, np.zeros((1, INPUTS.points.shape[1])), batch_sizes=[1, 64])
    assert report.variance.value == report.noise == 0
    assert math.isnan(report.signal_to_noise(1).value)
    text = report.summary()
    assert "nan" not in text
    table = [line.split() for line in text.splitlines() if line.split()[:1] in (["1"], ["64"])]
    assert table == [["1", "-", "none"], ["64", "-", "none"]]
    assert "note: signal / noise is 0 / 0" in text
    assert "neither between targets nor inputs (there is one)" in text
    assert "0 / 0" not in inf.analyze(MODEL, TARGET, INPUTS).summary()


@pytest.mark.parametrize(
    ("noise", "reason"), [(-1.0, "noise is negative; draw more"), (0.0, "no noise was seen")]
)
def test_estimates_without_a_ratio(noise, reason):
    report = inf.analyze(MODEL, TARGET, INPUTS.sample, n_targets=8, n_inputs=16)
    variance = dataclasses.replace(report.variance, value=-1.0)
    text = dataclasses.replace(report, noise=noise, variance=variance).summary()
    assert "nan" not in text
    assert "note: signal / noise has no value: " in text
    assert reason in text


def test_repr_of_the_models():
    assert repr(LinearModel([1.0, 2.0, 3.0])) == "<LinearModel: 3 features>"
    assert repr(TanhNetwork(3, 7)) == "<TanhNetwork: 3 features, width 7>"
