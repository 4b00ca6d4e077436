"""Numbers with their standard errors."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from gradhess import _validation as check


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate and its standard error.

    Attributes
    ----------
    value : float
    stderr : float
        Standard error of ``value``: the square root of its estimated variance.
    """

    value: float
    stderr: float

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.stderr:.2g}"


@dataclass(frozen=True, slots=True)
class EntropyEstimate(Estimate):
    """A collision entropy, estimated from samples.

    Attributes
    ----------
    value : float
        In nats; infinite where no two samples were equal.
    stderr : float
        By the delta method; NaN where ``value`` is infinite.
    n_collisions : int
        Pairs of equal samples, of ``n_samples (n_samples - 1) / 2``.
    n_samples : int
    lower_bound : float
        Where no collision was seen: the entropy below which that would have had a probability under 5%. Otherwise NaN.
    note : str
        What to do about few collisions; empty where there are enough.
    """

    n_collisions: int
    n_samples: int
    lower_bound: float
    note: str

    def __str__(self) -> str:
        shown = f"{self.value:.4g} ± {self.stderr:.2g} nats from {counted(self.n_collisions, 'collision')}"
        return f"{shown}; {self.note}" if self.note else shown


@dataclass(frozen=True, slots=True)
class InformativenessEstimate(Estimate):
    """The variance of the gradient over targets, estimated from draws of targets and inputs.

    Attributes
    ----------
    value : float
        Unbiased, so it may be negative where there is little to be seen.
    stderr : float
        Over the draws of targets and of inputs.
    naive : float
        The sample variance of the targets' gradients. Biased upwards by the noise of the inputs, at most by about
        ``noise / n_inputs``.
    noise : float
        ``E_h tr Cov_x`` of one sample's gradient, unbiased: what a batch of B inputs divides by B. 0 where it is below
        the rounding of the second moment that it is a difference of.
    n_targets, n_inputs : int
        What was drawn; each half had ``n_inputs / 2`` inputs.
    """

    naive: float
    noise: float
    n_targets: int
    n_inputs: int

    def signal_to_noise(self, batch_size: int) -> Estimate:
        """``batch_size * value / noise``; the error of ``noise`` is left out, being small beside that of the value.

        Infinite without noise.
        """
        return over_noise(self, check.count(batch_size, "batch_size", 1), self.noise)

    def batch_size_range(self, n_errors: float = 2.0) -> tuple[float, float]:
        """Batch sizes at which signal and noise are equal, at ``value`` plus and minus ``n_errors`` standard errors.

        At least 1 each; the upper end is infinite where the variance is not told from zero.
        """
        return needed_batches(self, self.noise, n_errors)


def counted(number: int, noun: str) -> str:
    """``1 input``, ``2,000 inputs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def over_noise(signal: Estimate, batch_size: int, noise: float) -> Estimate:
    """``batch_size * signal / noise``; infinite without noise, NaN where neither is there or noise is negative."""
    if noise > 0:
        return Estimate(batch_size * signal.value / noise, batch_size * signal.stderr / noise)
    return Estimate(float("inf" if noise == 0 and signal.value > 0 else "nan"), float("nan"))


def needed_batch(signal: float, noise: float, ratio: float = 1.0) -> float:
    """Inputs in a batch at which the signal is ``ratio`` times the noise: at least 1, infinite without a signal."""
    return max(1.0, ratio * max(noise, 0.0) / signal) if signal > 0 else float("inf")


def needed_batches(signal: Estimate, noise: float, n_errors: float) -> tuple[float, float]:
    """``needed_batch`` at the signal plus and minus ``n_errors`` standard errors; (b, infinity) if it may be zero."""
    margin = n_errors * signal.stderr
    return needed_batch(signal.value + margin, noise), needed_batch(signal.value - margin, noise)


def above_rounding(noise: float, second_moment: float, n_terms: int) -> float:
    """``noise``, or 0 where it cannot be told from the rounding of a second moment of so many terms."""
    return noise if abs(noise) > n_terms * sys.float_info.epsilon * second_moment else 0.0
