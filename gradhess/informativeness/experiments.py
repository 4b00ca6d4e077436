"""The experiments of the source, by enumeration: what ``gradhess informativeness`` and the scripts in examples/ run.

Takhanov, *The informativeness of the gradient revisited*, Neural Networks 2025, arXiv 2505.22158. Training on waves
needs torch and is in ``gradhess.torch``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradhess import _validation as check
from gradhess import losses
from gradhess.errors import InputError
from gradhess.informativeness import _checks, lwe
from gradhess.informativeness._bounds import bound, derivatives, largest_residual
from gradhess.informativeness._dependence import pairwise_dependence, symmetric_dependence
from gradhess.informativeness._exact import exact_informativeness, second_moment_norm
from gradhess.informativeness._families import high_frequency
from gradhess.informativeness.models import TanhNetwork, jacobian, predictions

__all__ = [
    "Dependence",
    "Entropy",
    "Frequency",
    "Line",
    "dependence_sweep",
    "entropy_sweep",
    "frequency_sweep",
    "regression_lines",
    "sweep_cases",
]


@dataclass(frozen=True, slots=True)
class Dependence:
    """One point of the sweep over classes: secrets modulo q with at most ``max_nonzero`` non-zeros, inputs
    {0, ..., a - 1}^n."""

    q: int
    kind: str
    n: int
    max_nonzero: int
    a: int
    n_secrets: int
    n_inputs: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class Line:
    """Least squares of ``-log epsilon`` on the log of the size of the class, for one input range."""

    a: int
    slope: float
    intercept: float
    r_squared: float
    n_points: int


@dataclass(frozen=True, slots=True)
class Entropy:
    """One point of the sweep over input distributions, ``P(x_i != 0) = rho``, at fixed secrets.

    ``variance`` is the mean over the networks, ``spread`` its standard deviation among them; ``bound`` is the mean of
    the square-root form.
    """

    rho: float
    collision_entropy: float
    epsilon: float
    variance: float
    spread: float
    bound: float


@dataclass(frozen=True, slots=True)
class Frequency:
    """The exact variance of the gradient over the waves {a x}, a in [1, A), of one network."""

    A: int
    n_targets: int
    variance: float


def sweep_cases(q: int, kind: str, max_comparisons: float) -> Iterator[tuple[int, int, int]]:
    """Every (n, max_nonzero, a) whose pairs of inputs take at most so many comparisons of labels, cheapest n first.

    A case takes ``n_inputs^2 / 2 * n_secrets * (q - 1)`` of them in ``pairwise_dependence``; two cores do about 1e11 a
    second.
    """
    modulus, limit = _checks.label_count(q), check.positive(max_comparisons, "max_comparisons")
    choices = len(lwe.nonzero_values(modulus, kind))
    for n in range(1, 64):
        found = False
        for most in range(1, n + 1):
            n_secrets = sum(math.comb(n, k) * choices**k for k in range(most + 1))
            for a in range(2, modulus + 1):
                if float(a) ** (2 * n) / 2 * n_secrets * (modulus - 1) <= limit:
                    found = True
                    yield n, most, a
        if not found:
            return


def dependence_sweep(q: int, kind: str, cases: Iterable[tuple[int, int, int]]) -> Iterator[Dependence]:
    """The pairwise dependence of each case (n, max_nonzero, a), inputs equally likely.

    These classes are the same after a permutation of the coordinates, so one input of each orbit meets all inputs,
    instead of all inputs each other: ``C(n + a - 1, n)`` instead of ``a^n``.
    """
    for n, most, a in cases:
        secrets, points = lwe.secrets(n, q, kind, most), lwe.inputs(n, a)
        sorted_points = np.array(list(itertools.combinations_with_replacement(range(a), n)))
        counts = (sorted_points[:, :, np.newaxis] == np.arange(a)).sum(axis=1)
        orbits = [math.factorial(n) / math.prod(map(math.factorial, count)) for count in counts.tolist()]
        epsilon = symmetric_dependence(
            lwe.labels(points, secrets, q),
            lwe.labels(sorted_points, secrets, q),
            np.array(orbits) / len(points),
            q,
        )
        yield Dependence(q, kind, n, most, a, len(secrets), len(points), epsilon)


def regression_lines(points: Sequence[Dependence]) -> list[Line]:
    """One line for each input range that has three points or more."""
    lines = []
    for a in sorted({point.a for point in points}):
        chosen = [point for point in points if point.a == a]
        x = np.log([point.n_secrets for point in chosen])
        y = -np.log([point.epsilon for point in chosen])
        if len(chosen) < 3 or np.ptp(x) == 0:
            continue
        slope, intercept = np.polyfit(x, y, 1)
        rest = float(((y - slope * x - intercept) ** 2).sum())
        total = float(((y - y.mean()) ** 2).sum())
        lines.append(
            Line(a, float(slope), float(intercept), 1 - rest / total if total else math.nan, len(chosen))
        )
    return lines


def entropy_sweep(
    rhos: Sequence[float],
    *,
    n: int = 4,
    q: int = 3,
    kind: str = "ternary",
    width: int = 16,
    networks: int = 10,
) -> list[Entropy]:
    """Variance and bound for sparse inputs: each x_i is 0 with probability 1 - rho, else uniform on 1, ..., q - 1.

    The secrets are all of the kind, the models ``TanhNetwork(n, width, scale=2, rng=0, 1, ...)``, and the loss is
    ``(p - y)^2 / 2``.
    """
    secrets = lwe.secrets(n, q, kind)
    target = lwe.targets(secrets, q)
    found = []
    for rho in rhos:
        share = check.positive(rho, "rho")
        if share > 1:
            raise InputError(f"rho is {share}; it is a probability")
        inputs = lwe.inputs(n, [1 - share, *[share / (q - 1)] * (q - 1)])
        points, mu = inputs.points, inputs.weights
        epsilon = pairwise_dependence(target.labels(points), q, input_weights=mu)
        variances, bounds = [], []
        for seed in range(networks):
            model = TanhNetwork(n, width, scale=2.0, rng=seed)
            p, J = predictions(model, points), jacobian(model, points)
            R = derivatives(losses.squared, p, target.targets(points))
            variances.append(float(exact_informativeness(J, R, mu)))
            largest = largest_residual(p, target.label_values)
            bounds.append(bound(largest, second_moment_norm(J, mu), epsilon, inputs.collision_entropy).tight)
        spread = float(np.std(variances, ddof=1)) if networks > 1 else math.nan
        found.append(
            Entropy(
                rho,
                inputs.collision_entropy,
                epsilon,
                float(np.mean(variances)),
                spread,
                float(np.mean(bounds)),
            )
        )
    return found


def frequency_sweep(
    tops: Sequence[int], *, kind: str = "sawtooth", width: int = 64, n_inputs: int = 4096, rng: Any = 0
) -> list[Frequency]:
    """The variance over waves of frequency below each A, for a tanh network on the midpoints of a grid on [0, 1]."""
    points = (np.arange(check.count(n_inputs, "n_inputs", 2))[:, np.newaxis] + 0.5) / n_inputs
    model = TanhNetwork(1, width, scale=8.0, rng=rng)
    J, p = jacobian(model, points), predictions(model, points)
    found = []
    for top in tops:
        target = high_frequency(top, kind)
        R = derivatives(losses.squared, p, target.targets(points))
        found.append(Frequency(top, len(target), float(exact_informativeness(J, R))))
    return found
