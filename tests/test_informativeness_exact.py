"""Informativeness where everything can be enumerated: closed forms, the bound, and what must not change the answer.

Sums here have at most a few thousand terms of size one, so ``ROUNDING`` (a few thousand units of roundoff) bounds the
relative error of a float64 result with no cancellation.
"""

from __future__ import annotations

import math
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradhess as gh
from gradhess import informativeness as inf
from gradhess.errors import InputError, InputTypeError
from gradhess.informativeness.models import LinearModel, TanhNetwork

ROUNDING = 4096 * 2.0**-53


def close(found, expected, factor=1.0):
    np.testing.assert_allclose(found, expected, rtol=factor * ROUNDING, atol=0)


def dependence(n, q, kind, max_nonzero, a):
    labels = inf.lwe.labels(inf.lwe.inputs(n, a), inf.lwe.secrets(n, q, kind, max_nonzero), q)
    return inf.pairwise_dependence(labels, q)


def residuals(model, target_class, points, loss="squared"):
    """(n_inputs, n_targets): what the loss says about each prediction, from the public loss objects."""
    chosen = getattr(gh.losses, loss)
    return chosen.derivative(model.predict(points)[:, None], target_class.targets(points))


def two_pass_variance(J, R, mu, shares):
    """The variance with every gradient formed, in long double."""
    gradients = (J.astype(np.longdouble).T * mu) @ R.astype(np.longdouble)  # (p, n_targets)
    centred = gradients - (gradients @ shares)[:, None]
    return (centred**2) @ shares


# ---- pairwise dependence: numbers known in closed form -----------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "kind", "max_nonzero", "a", "expected"),
    [
        (1, "binary", 1, 2, 14 / 9),
        (1, "binary", 1, 3, 14 / 9),
        (3, "ternary", 3, 2, 2 / 3),
        (3, "ternary", 3, 3, 4 / 9),
    ],
)
def test_dependence_of_small_classes_is_a_fraction(backend, n, kind, max_nonzero, a, expected):
    close(dependence(n, 3, kind, max_nonzero, a), expected)


def test_dependence_of_binary_secrets_of_four(backend):
    assert f"{dependence(4, 3, 'binary', 4, 2):.5f}" == "0.81263"


@pytest.mark.parametrize(
    ("n", "q", "shown"), [(2, 3, "0.76980"), (3, 3, "0.44444"), (4, 3, "0.25660"), (2, 5, None), (2, 7, None)]
)
def test_dependence_of_full_secrets_is_the_closed_form(backend, n, q, shown):
    found = dependence(n, q, "uniform", None, q)
    close(found, 2 * (1 - 1 / q) * q ** ((1 - n) / 2))
    close(found, inf.lwe.full_secret_dependence(n, q))
    assert shown is None or f"{found:.5f}" == shown


def test_a_modulus_that_is_not_prime_is_computed_and_has_no_closed_form(backend):
    # Modulo 4 also 2x and x are dependent though neither is a multiple of the other by a unit.
    found = dependence(2, 4, "uniform", None, 4)
    assert found > 2 * (1 - 1 / 4) * 4 ** ((1 - 2) / 2) * (1 + ROUNDING)
    with pytest.raises(InputError, match=r"4 = 2 x 2 is not prime.*pairwise_dependence"):
        inf.lwe.full_secret_dependence(2, 4)


def test_a_class_of_one_function_is_as_dependent_as_can_be(backend):
    labels = np.array([[0, 1, 2, 1, 0]])
    close(inf.pairwise_dependence(labels, 3), 2 * (1 - 1 / 9))


def test_parities_are_pairwise_independent_but_for_zero(backend):
    # At x = 0 every parity is 1; for all other pairs of points labels are independent and uniform.
    n = 5
    points = 2**n
    parity = inf.parities(n)
    labels = parity.labels(inf.lwe.inputs(n, 2).points)
    at_zero = 1.0  # |1/2 - 1/4| * 2 + |0 - 1/4| * 2
    close(inf.pairwise_dependence(labels, 2), at_zero * math.sqrt(2 / points))


# ---- collision entropy -------------------------------------------------------------------------------------------


def test_collision_entropy_of_known_distributions():
    close(inf.collision_entropy(np.ones(50)), math.log(50))
    for n, q in ((2, 3), (3, 5), (2, 6)):
        close(inf.lwe.inputs(n, q).collision_entropy, n * math.log(q))
    assert inf.collision_entropy([3.0]) == 0.0
    assert inf.collision_entropy([0.0, 2.0, 0.0]) == 0.0
    close(inf.collision_entropy([1, 1, 2]), -math.log(6 / 16))
    close(inf.collision_entropy(np.array([1e-300, 1e-300])), math.log(2))


@pytest.mark.parametrize(("rho", "shown"), [(2 / 3, "4.394"), (0.5, "3.923"), (0.3, "2.502"), (0.1, "0.818")])
def test_collision_entropy_of_sparse_inputs(rho, shown):
    inputs = inf.lwe.inputs(4, [1 - rho, rho / 2, rho / 2])
    assert f"{inputs.collision_entropy:.3f}" == shown
    close(inputs.collision_entropy, 4 * inf.collision_entropy([1 - rho, rho / 2, rho / 2]))


def test_gaussian_collision_entropy_is_the_integral_of_the_squared_density(rng):
    cov = np.array([[2.0, 0.6], [0.6, 0.5]])
    grid = np.linspace(-14, 14, 561)
    x, y = np.meshgrid(grid, grid, indexing="ij")
    precision = np.linalg.inv(cov)
    exponent = precision[0, 0] * x * x + 2 * precision[0, 1] * x * y + precision[1, 1] * y * y
    density = np.exp(-0.5 * exponent) / (2 * np.pi * np.sqrt(np.linalg.det(cov)))
    # The trapezoidal rule of a smooth function that vanishes at both ends: its error is far below rounding.
    integral = (density**2).sum() * (grid[1] - grid[0]) ** 2
    close(inf.gaussian_collision_entropy(cov), -math.log(integral), 10)
    close(inf.gaussian_collision_entropy(0.5), 0.5 * math.log(4 * math.pi * 0.5))
    root = rng.normal(size=(2, 2))
    moved = inf.gaussian_collision_entropy(root @ cov @ root.T)
    assert moved == pytest.approx(
        inf.gaussian_collision_entropy(cov) + math.log(abs(np.linalg.det(root))), rel=1e3 * ROUNDING
    )


# ---- the exact variance ------------------------------------------------------------------------------------------


def test_parities_have_the_variance_of_parseval():
    n = 6
    points = inf.lwe.inputs(n, 2).points
    model = TanhNetwork(n, 5, rng=3)
    J = model.jacobian(points)
    found = inf.exact_informativeness(J, residuals(model, inf.parities(n), points))
    squares = (J**2).sum(axis=1)
    zero = int(np.flatnonzero(~points.any(axis=1))[0])
    close(found, squares.mean() / 2**n - squares[zero] / 4**n)
    assert isinstance(found, float)


def test_sawtooth_waves_have_the_inner_products_of_gcds():
    # On each piece between two breaks of either wave the product is a square polynomial: Simpson's rule is exact.
    for a, b in [(1, 1), (1, 2), (2, 3), (4, 6), (6, 9), (5, 10)]:
        breaks = np.unique(np.concatenate([np.arange(a + 1) / a, np.arange(b + 1) / b]))
        left, right = breaks[:-1], breaks[1:]

        def product(x, inside, a=a, b=b):
            # the branch of each wave is that of the middle of the piece, so that its ends belong to it
            return (a * x - np.floor(a * inside) - 0.5) * (b * x - np.floor(b * inside) - 0.5)

        middle = (left + right) / 2
        simpson = (
            (right - left)
            / 6
            * (product(left, middle) + 4 * product(middle, middle) + product(right, middle))
        )
        expected = math.gcd(a, b) ** 2 / (12 * a * b)
        assert abs(math.fsum(simpson) - expected) <= ROUNDING  # the terms are of size one: absolute
        waves = inf.high_frequency(max(a, b) + 1).targets(middle)
        np.testing.assert_allclose(
            waves[:, a - 1] - 0.5, a * middle - np.floor(a * middle) - 0.5, rtol=0, atol=ROUNDING
        )


def test_cosines_are_orthogonal_and_their_variance_falls_like_the_inverse_of_their_number():
    grid = (np.arange(512) + 0.5) / 512  # exact for products of frequencies below 256
    waves = inf.high_frequency(40, "cosine").targets(grid)
    np.testing.assert_allclose(waves.T @ waves / 512, np.eye(39) / 2, rtol=0, atol=ROUNDING)
    model = LinearModel([1.0])
    J = np.asarray(waves[:, :1])  # one parameter, whose gradient is cos(2 pi x)
    variances = []
    for A in (5, 10, 20):
        R = model.predict(grid[:, None])[:, None] - inf.high_frequency(A, "cosine").targets(grid)
        variances.append(float(inf.exact_informativeness(J, R)))
        m = A - 1
        close(variances[-1], 0.25 * (m - 1) / m**2, 100)


def test_full_secrets_obey_the_closed_bound():
    n, q = 3, 3
    inputs, model = inf.lwe.inputs(n, q), TanhNetwork(n, 8, rng=1)
    J = model.jacobian(inputs.points)
    R = residuals(model, inf.lwe.targets(inf.lwe.secrets(n, q, "uniform"), q), inputs.points)
    spread = np.arange(q).var()
    closed = (q - 1) * q**-n * spread * (J**2).sum(axis=1).mean()  # a quarter of that for (p - y)^2
    assert 0 < inf.exact_informativeness(J, R) <= closed


@pytest.mark.parametrize("q", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["binary", "ternary", "uniform"])
@pytest.mark.parametrize("loss", ["squared", "huber"])
def test_the_bound_is_above_the_exact_variance(q, kind, loss, rng):
    if (q, kind) == (2, "ternary"):
        pytest.skip("there are no ternary secrets modulo 2")
    chosen = gh.losses.huber(0.7) if loss == "huber" else gh.losses.squared
    for n in (1, 2, 3):
        for distribution in (2, q, rng.dirichlet(np.ones(q))):
            inputs = inf.lwe.inputs(n, distribution)
            target = inf.lwe.targets(inf.lwe.secrets(n, q, kind), q)
            model = TanhNetwork(n, 4, scale=2.0, rng=rng)
            J, p = model.jacobian(inputs.points), model.predict(inputs.points)
            R = chosen.derivative(p[:, None], target.targets(inputs.points))
            epsilon = inf.pairwise_dependence(target.labels(inputs.points), q, input_weights=inputs.weights)
            top = inf.bound(
                inf.largest_residual(p, np.arange(q), chosen),
                inf.second_moment_norm(J, inputs.weights),
                epsilon,
                inputs.collision_entropy,
            )
            exact = inf.exact_informativeness(J, R, inputs.weights)
            assert exact <= top.tight * (1 + ROUNDING)
            assert top.tight <= top.value * (1 + ROUNDING)
            assert float(top) == top.value


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_bound_is_above_the_exact_variance_of_parities(n, weighted, rng):
    """Labels that stand for 1 and -1; with weights of the parities and of the points, of any sum."""
    parity, points = inf.parities(n), inf.lwe.inputs(n, 2).points
    shares = 3 * rng.uniform(size=2**n) if weighted else None
    target = inf.TargetClass("parities", parity.evaluate, parity.members, shares, q=2, values=parity.values)
    inputs = inf.Inputs(points, 5 * rng.uniform(size=2**n) if weighted else None)
    for seed in range(5):
        report = inf.analyze(TanhNetwork(n, 4, scale=2.0, rng=seed), target, inputs)
        assert 0 < report.variance.value <= report.bound.tight * (1 + ROUNDING)
        # Of (p - y)^2 / 2: half the distance of 1 and -1, of which p - y are rounded.
        assert report.bound.terms["M"] == pytest.approx(1, rel=ROUNDING)


def test_an_entropy_without_collisions_is_not_infinite():
    seen = inf.collision_entropy_from_samples(np.arange(100))
    assert math.isinf(seen.value)
    with pytest.raises(InputError, match=r"100 samples, no two of them equal.*lower_bound"):
        inf.bound(1.0, 1.0, 0.1, seen)
    known = inf.bound(1.0, 1.0, 0.1, math.inf)
    assert known.value == known.tight == 0.1
    assert inf.bound(1.0, 1.0, 0.1, seen.lower_bound).tight > known.tight
    some = inf.collision_entropy_from_samples(np.arange(100) % 3)
    assert inf.bound(1.0, 1.0, 0.1, some) == inf.bound(1.0, 1.0, 0.1, some.value)


def test_the_bound_from_gamma_is_the_bound_from_its_norm(rng):
    J = rng.normal(size=(40, 7))
    gamma = J.T @ J / 40
    close(inf.second_moment_norm(J), np.linalg.norm(gamma))
    close(
        inf.second_moment_norm(J.T), np.linalg.norm(J @ J.T / 7)
    )  # more parameters than inputs: the dual form
    weights = rng.uniform(size=40)
    close(inf.second_moment_norm(J, weights), np.linalg.norm((J.T * weights) @ J / weights.sum()))
    one, two = inf.bound(1.5, gamma, 0.1, 2.0), inf.bound(1.5, np.linalg.norm(gamma), 0.1, 2.0)
    assert one == two
    pi = math.exp(-2.0)
    close(one.value, 1.5**2 * np.linalg.norm(gamma) * (0.1 + math.exp(-1.0)))
    close(one.tight, 1.5**2 * np.linalg.norm(gamma) * math.sqrt((1 - pi) * 0.01 + pi))
    density = inf.bound(1.0, 1.0, 0.25, math.inf)
    assert density.value == density.tight == 0.25


def variance_at(rho, model, kind="ternary"):
    inputs = inf.lwe.inputs(4, [1 - rho, rho / 2, rho / 2])
    target = inf.lwe.targets(inf.lwe.secrets(4, 3, kind), 3)
    return inf.exact_informativeness(
        model.jacobian(inputs.points), residuals(model, target, inputs.points), inputs.weights
    )


@pytest.mark.parametrize("seed", range(5))
def test_sparse_inputs_say_more_until_hardly_any_is_left(seed):
    """Not monotone in between. With binary secrets 0.3 says less than the uniform: low entropy is not sufficient."""
    model = TanhNetwork(4, 16, scale=2.0, rng=seed)
    uniform, sparse, nearly_constant = (variance_at(rho, model) for rho in (2 / 3, 0.3, 0.01))
    assert sparse > 1.5 * uniform
    assert nearly_constant < 0.05 * uniform
    assert variance_at(0.3, model, "binary") < variance_at(2 / 3, model, "binary")


def test_a_point_mass_says_nothing():
    model, target = TanhNetwork(4, 16), inf.lwe.targets(inf.lwe.secrets(4, 3, "ternary"), 3)
    point = inf.Inputs(np.zeros((3, 4)))
    assert point.collision_entropy == 0.0
    assert (
        inf.exact_informativeness(model.jacobian(point.points), residuals(model, target, point.points)) == 0.0
    )


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 12),
    p=st.integers(1, 12),
    targets=st.integers(1, 9),
    weighted=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_variance_is_that_of_two_passes(n, p, targets, weighted, seed):
    rng = np.random.default_rng(seed)
    J, R = rng.normal(size=(n, p)), rng.normal(size=(n, targets)) + 100
    mu = rng.uniform(0.1, 1, n) if weighted else np.ones(n)
    shares = rng.uniform(0.1, 1, targets) if weighted else np.ones(targets)
    expected = two_pass_variance(J, R, mu / mu.sum(), shares / shares.sum())
    found = inf.exact_informativeness(J, R, mu, target_weights=shares)
    # A gradient is rounded by n roundoffs of E|J||R|, and the spread about the mean squares that.
    size = (np.abs(J).T * (mu / mu.sum())) @ np.abs(R)
    error = (n + targets + 8) * 2.0**-53 * size.max(axis=1)
    spread = np.sqrt(expected.astype(float))
    np.testing.assert_array_less(
        np.abs(found.per_parameter - expected.astype(float)), 8 * error * (spread + error) + 1e-300
    )
    close(found, found.per_parameter.sum())
    by_block = inf.exact_informativeness(
        J, iter([R[:, :1], R[:, 1:]] if targets > 1 else [R]), mu, target_weights=shares
    )
    np.testing.assert_allclose(
        by_block, found, rtol=0, atol=float((8 * error * (spread + error)).sum()) + 1e-300
    )


def test_many_targets_pass_in_blocks(rng):
    J, R = rng.normal(size=(5, 3)), rng.normal(size=(5, 5000))
    expected = two_pass_variance(J, R, np.full(5, 0.2), np.full(5000, 1 / 5000))
    close(inf.exact_informativeness(J, R), float(expected.sum()))
    wide = rng.normal(size=(5, 30))
    expected = two_pass_variance(wide, R, np.full(5, 0.2), np.full(5000, 1 / 5000))
    found = inf.exact_informativeness(wide, R)
    close(found, float(expected.sum()))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)).per_parameter, found.per_parameter)


def test_fewer_inputs_than_parameters_take_the_dual_form(rng):
    """No gradient of a target is formed, which would be 160 MB here, and no p x p matrix, of 3.2 GB."""
    J, R = rng.normal(size=(8, 20_000)), rng.normal(size=(8, 1000))
    found, norm = inf.exact_informativeness(J[:, :50], R), inf.second_moment_norm(J[:, :50])  # compile first
    tracemalloc.start()
    found, norm = inf.exact_informativeness(J, R), inf.second_moment_norm(J)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * J.nbytes
    gram = J @ J.T
    close(found, np.trace(np.cov(R, ddof=0) @ gram) / 64)
    close(norm, np.linalg.norm(gram) / 8)


def test_blocks_come_in_any_iterable(rng):
    J, R = rng.normal(size=(5, 3)), rng.normal(size=(5, 7))
    parts = [R[:, :4], R[:, 4:5], R[:, 5:]]
    whole = inf.exact_informativeness(J, R)

    class Loader:
        def __iter__(self):
            return iter(parts)

    for blocks in (
        parts,
        tuple(parts),
        iter(parts),
        Loader(),
        [part.tolist() for part in parts],
        [R],
        [R.tolist()],
    ):
        close(inf.exact_informativeness(J, blocks), whole)
    close(inf.exact_informativeness(J, R.tolist()), whole)  # one matrix, as lists
    with pytest.raises(InputError, match="residual_derivative has shape"):
        inf.exact_informativeness(J, [R, R[:4]])
    with pytest.raises(InputError, match="residual_derivative"):
        inf.exact_informativeness(J, [R, R[:, 0]])
    with pytest.raises(InputTypeError, match="residual_derivative has dtype"):
        inf.exact_informativeness(J, "R")


def test_a_class_of_one_function_says_nothing(rng):
    for shape in [(6, 3), (3, 6)]:
        J = rng.normal(size=shape)
        assert inf.exact_informativeness(J, rng.normal(size=(shape[0], 1))) == 0.0
        assert inf.exact_informativeness(J, np.repeat(rng.normal(size=(shape[0], 1)), 4, axis=1)) == 0.0
    only = inf.high_frequency(2)
    assert len(only) == 1


# ---- what must not change the answer -----------------------------------------------------------------------------


def test_relabelling_changes_nothing(backend, rng):
    q, labels = 4, rng.integers(0, 4, size=(9, 13))
    base = inf.pairwise_dependence(labels, q)
    close(inf.pairwise_dependence(rng.permutation(q)[labels], q), base)
    each = np.stack([rng.permutation(q) for _ in range(13)])  # another renaming at every input
    close(inf.pairwise_dependence(each[np.arange(13), labels], q), base)
    close(inf.pairwise_dependence(labels[:, rng.permutation(13)], q), base)
    close(inf.pairwise_dependence(labels[rng.permutation(9)], q), base)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 9), p=st.integers(1, 9), targets=st.integers(2, 7), seed=st.integers(0, 2**32 - 1))
def test_the_order_of_inputs_targets_and_parameters_does_not_matter(n, p, targets, seed):
    """In the dual form (n <= p) and the other; nor does renaming labels, if their values go along."""
    rng = np.random.default_rng(seed)
    J, q = rng.normal(size=(n, p)), 3
    labels, values = rng.integers(0, q, (n, targets)), rng.normal(size=q)
    mu, shares = rng.uniform(0.1, 1, n), rng.uniform(0.1, 1, targets)
    base = inf.exact_informativeness(J, values[labels], mu, target_weights=shares)
    x, h, j, y = (rng.permutation(size) for size in (n, targets, p, q))
    renamed, moved = y[labels], values[np.argsort(y)]
    np.testing.assert_array_equal(moved[renamed], values[labels])
    found = inf.exact_informativeness(J[x][:, j], moved[renamed][x][:, h], mu[x], target_weights=shares[h])
    # Sums in another order of terms no larger than |J| |R|, squared.
    size = float((np.abs(J).max() * np.abs(values).max() * p) ** 2)
    np.testing.assert_allclose(found.per_parameter, base.per_parameter[j], rtol=0, atol=ROUNDING * size)
    assert inf.second_moment_norm(J[x][:, j], mu[x]) == pytest.approx(
        inf.second_moment_norm(J, mu), rel=ROUNDING
    )


def test_only_ratios_of_weights_matter(backend, rng):
    labels = rng.integers(0, 3, size=(7, 11))
    mu, shares = rng.uniform(size=11), rng.uniform(size=7)
    base = inf.pairwise_dependence(labels, 3, input_weights=mu, target_weights=shares)
    for scale in (7.0, 1e-200, 1e200):
        close(
            inf.pairwise_dependence(labels, 3, input_weights=scale * mu, target_weights=scale * shares), base
        )
    close(
        inf.pairwise_dependence(labels, 3, input_weights=np.full(11, 5), target_weights=np.full(7, 0.2)),
        inf.pairwise_dependence(labels, 3),
    )
    J, R = rng.normal(size=(11, 4)), rng.normal(size=(11, 7))
    close(
        inf.exact_informativeness(J, R, 3 * mu, target_weights=5 * shares),
        inf.exact_informativeness(J, R, mu, target_weights=shares),
        10,
    )
    close(inf.collision_entropy(3 * mu), inf.collision_entropy(mu))


def test_whole_weights_are_repetitions(backend, rng):
    labels = rng.integers(0, 3, size=(5, 8))
    times = np.array([1, 3, 2, 1, 4])
    close(
        inf.pairwise_dependence(labels, 3, target_weights=times),
        inf.pairwise_dependence(np.repeat(labels, times, axis=0), 3),
    )


def test_a_weight_of_zero_leaves_out(backend, rng):
    labels = rng.integers(0, 3, size=(6, 9))
    mu, shares = rng.uniform(size=9), rng.uniform(size=6)
    mu[[0, 4]] = 0
    shares[2] = 0
    found = inf.pairwise_dependence(labels, 3, input_weights=mu, target_weights=shares)
    kept = labels[shares > 0][:, mu > 0]
    close(
        found, inf.pairwise_dependence(kept, 3, input_weights=mu[mu > 0], target_weights=shares[shares > 0])
    )


def test_weights_of_inputs_weight_pairs(backend):
    labels = np.array([[0, 0, 1], [1, 0, 0]])
    eps = {(0, 1): None, (0, 2): None, (1, 2): None}
    for one, two in eps:
        eps[one, two] = inf.pairwise_dependence(labels[:, [one, two]], 2)
    mu = np.array([0.98, 0.015, 0.005])
    pairs = {pair: mu[pair[0]] * mu[pair[1]] for pair in eps}
    expected = sum(weight * eps[pair] ** 2 for pair, weight in pairs.items()) / sum(pairs.values())
    close(inf.pairwise_dependence(labels, 2, input_weights=mu), math.sqrt(expected))


def test_nearly_all_weight_on_one_input_loses_no_digits(backend):
    labels = np.array([[0, 0, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]])
    mu = np.array([1.0, 1e-18, 2e-18, 1e-18])
    found = inf.pairwise_dependence(labels, 2, input_weights=mu)
    eps = [inf.pairwise_dependence(labels[:, [0, x]], 2) for x in (1, 2, 3)]
    close(found, math.sqrt((eps[0] ** 2 + 2 * eps[1] ** 2 + eps[2] ** 2) / 4))
