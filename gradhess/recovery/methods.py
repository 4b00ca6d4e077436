"""The methods of ``recover_hessian``: what each asks of the oracle, and what it makes of the answers.

With ``a`` and n of ``gradhess.recovery.calibration``, ``H = a n E[x x^T]``, and noise of variance s^2 of the targets:
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import scipy.linalg

from gradhess._backends.protocol import Float64Array
from gradhess._streaming import StreamingCovariance
from gradhess.errors import InputError
from gradhess.recovery import orthogonal as designs
from gradhess.recovery.arguments import within_range
from gradhess.recovery.drawing import Asker
from gradhess.recovery.excess import bias_of_covariance
from gradhess.recovery.metrics import sampling_error


@dataclass(slots=True)
class Recovered:
    """What a method found."""

    hessian: Float64Array
    gradient: Float64Array
    covariance: StreamingCovariance
    n_gradients: int
    sampling_error: float
    bias_bound: float = 0.0
    pair_means: StreamingCovariance | None = None
    half_differences: StreamingCovariance | None = None


Method: TypeAlias = Callable[[Asker, int, float], Recovered]


def covariance(ask: Asker, m: int, variance: float) -> Recovered:
    """calibrated, rescaled: ``Cov(g) / (a sigma^2)``, sigma^2 the whole noise; of ``H (1 + O(q / sigma^2))``."""
    total = variance + ask.existing
    if total == 0:
        raise InputError(
            "there is no noise, injected or known to be there: the covariance of the gradients says nothing about the "
            "Hessian; pass a noise_variance above 0"
        )
    gradients = _noised(ask, m, variance)
    hessian = within_range(gradients.covariance_) / (ask.factor * total)
    mean = np.asarray(gradients.location_)
    bias = bias_of_covariance(hessian, mean, total, ask.factor, ask.n, m)
    return Recovered(hessian, mean, gradients, m, sampling_error(ask.n_params, m, ask.batch_size), bias)


def antithetic(ask: Asker, m: int, variance: float) -> Recovered:
    """``mean(h h^T) / (a s^2)`` with ``h = (g+ - g-) / 2`` of one batch with noise xi and -xi: unbiased for H."""
    _need_noise(variance, "antithetic")
    if m % 2:
        raise InputError(f"n_gradients is {m}; antithetic gradients come in pairs, so it must be even")
    means, halves = StreamingCovariance(), StreamingCovariance(assume_centered=True)
    received = StreamingCovariance(ddof=1)
    for count in ask.chunks(m // 2):
        batches, noise = ask.draw(count), ask.noise(count, variance)
        opposite = -noise  # made before the oracle has the noise, which it may write to
        plus = ask.gradients(batches, noise)
        minus = ask.gradients(batches, opposite)
        received.partial_fit(plus).partial_fit(minus)
        means.partial_fit((plus + minus) / 2)
        halves.partial_fit((plus - minus) / 2)
    return Recovered(
        within_range(halves.second_moment_) / (ask.factor * variance),
        np.asarray(means.location_),
        received,
        m,
        sampling_error(ask.n_params, m // 2, ask.batch_size),
        pair_means=means,
        half_differences=halves,
    )


def difference(ask: Asker, m: int, variance: float) -> Recovered:
    """``(Cov(noisy) - Cov(clean)) / (a s^2)`` from m/2 batches each: unbiased for H, whatever noise is there."""
    _need_noise(variance, "difference")
    if m % 2 or m < 4:
        raise InputError(f"n_gradients is {m}; half of them are clean, so it must be even and at least 4")
    noisy, clean = _noised(ask, m // 2, variance), _noised(ask, m // 2, 0.0)
    above = within_range(clean.covariance_)
    hessian = (within_range(noisy.covariance_) - above) / (ask.factor * variance)
    # In units of H, Cov(noisy) / (a s^2) is at most 1 + b and Cov(clean) / (a s^2) at most b; both are estimated.
    try:
        b = float(scipy.linalg.eigh(above / (ask.factor * variance), hessian, eigvals_only=True)[-1])
    except np.linalg.LinAlgError:
        b = math.inf
    error = sampling_error(ask.n_params, m // 2, ask.batch_size) * (1 + 2 * b)
    received = noisy + clean
    return Recovered(hessian, np.asarray(clean.location_), received, m, error)


def fixed_batch(ask: Asker, m: int, variance: float) -> Recovered:
    """``Cov(g) / (a s^2)`` with one batch and fresh noise m times: unbiased for the Hessian of that batch."""
    _need_noise(variance, "fixed_batch")
    batch = ask.draw(1)
    gradients = StreamingCovariance(ddof=1)
    for count in ask.chunks(m):
        gradients.partial_fit(ask.gradients(ask.repeated(batch, count), ask.noise(count, variance)))
    hessian = within_range(gradients.covariance_) / (ask.factor * variance)
    error = sampling_error(min(ask.n_params, ask.n), m)
    return Recovered(hessian, np.asarray(gradients.location_), gradients, m, error)


def orthogonal(ask: Asker, m: int, variance: float) -> Recovered:
    """``mean(h h^T) / (a s^2)``, ``h = g - g_clean``, over orthogonal noise: the Hessian of one batch, to rounding."""
    _need_noise(variance, "orthogonal")
    n = ask.n
    if m != n + 1:
        raise InputError(
            f"n_gradients is {m}; orthogonal noise on a batch of {n} takes exactly {n} gradients and a clean one: pass "
            f"n_gradients={n + 1}, or leave it out"
        )
    batch = ask.draw(1)
    clean = ask.gradients(batch, ask.shaped(np.zeros((1, n))))[0]
    received = StreamingCovariance(ddof=1).partial_fit(clean[np.newaxis])
    moved = StreamingCovariance(assume_centered=True)
    start = 0
    for count in ask.chunks(n):
        noise = designs.orthogonal_rows(n, start, start + count) * math.sqrt(variance)
        found = ask.gradients(ask.repeated(batch, count), ask.shaped(noise))
        received.partial_fit(found)
        moved.partial_fit(found - clean)
        start += count
    return Recovered(within_range(moved.second_moment_) / (ask.factor * variance), clean, received, m, 0.0)


METHODS: Final[dict[str, Method]] = {
    "calibrated": covariance,
    "rescaled": covariance,
    "antithetic": antithetic,
    "difference": difference,
    "fixed_batch": fixed_batch,
    "orthogonal": orthogonal,
}


def _noised(ask: Asker, m: int, variance: float) -> StreamingCovariance:
    gradients = StreamingCovariance(ddof=1)
    for count in ask.chunks(m):
        batches = ask.draw(count)
        gradients.partial_fit(ask.gradients(batches, ask.noise(count, variance)))
    return gradients


def _need_noise(variance: float, method: str) -> None:
    if variance == 0:
        raise InputError(
            f"noise_variance is 0; method={method!r} tells the Hessian from the noise that it injects"
        )
