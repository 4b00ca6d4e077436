"""How the loss of a batch is scaled, and how much noise on the targets makes the gradient covariance the Hessian.

A batch gradient of a squared loss is ``a sum_i r_i x_i`` with residuals ``r_i = x_i . w - y_i``, and the Hessian of
its expectation ``a n E[x x^T]``. Noise of variance s^2 on the targets adds ``a^2 n s^2 E[x x^T]`` to the covariance of
the gradients: the Hessian itself where ``s^2 = 1 / a``.

=============  ========================  ===========  ==================
reduction      loss of a batch of n      ``a``        variance needed
=============  ========================  ===========  ==================
half_mean      ``sum (.)^2 / (2 n)``     ``1 / n``    ``n``
mean           ``sum (.)^2 / n``         ``2 / n``    ``n / 2``
half_sum       ``sum (.)^2 / 2``         ``1``        ``1``
sum            ``sum (.)^2``             ``2``        ``1 / 2``
=============  ========================  ===========  ==================
"""

from __future__ import annotations

from typing import Final

from gradhess import _validation as check
from gradhess.errors import InputError

REDUCTIONS: Final = ("half_mean", "mean", "half_sum", "sum")


def gradient_factor(reduction: str, batch_size: int) -> float:
    """``a`` of the table above."""
    check.one_of(reduction, REDUCTIONS, "reduction")
    return {"half_mean": 1 / batch_size, "mean": 2 / batch_size, "half_sum": 1.0, "sum": 2.0}[reduction]


def calibrated_noise_variance(
    batch_size: int, *, existing: float = 0.0, reduction: str = "half_mean"
) -> float:
    """Variance of the Gaussian noise to add to the targets, so that the gradient covariance is close to the Hessian.

    Parameters
    ----------
    batch_size : int
        n, samples in a batch (times outputs, if a sample has several targets).
    existing : float
        Variance of the noise that is known to be in the targets already; it counts towards what is needed.
    reduction : {"half_mean", "mean", "half_sum", "sum"}
        The loss of a batch: ``(1/2n) sum``, ``(1/n) sum``, ``(1/2) sum`` or ``sum`` of squared residuals.

    Returns
    -------
    float
        ``n - existing`` for half_mean, ``n / 2 - existing`` for mean, ``1 - existing`` and ``1/2 - existing`` for the
        sums: in the unit of the targets, squared.

    Raises
    ------
    InputError
        More noise is there than is needed. The covariance is then too large by the known factor ``existing / needed``,
        by which the method "rescaled" divides.

    Notes
    -----
    Jamshidi, Haitsiukevich and Puolamaki (arXiv 2601.18546), for half_mean; the other rules follow from the scale of
    the gradient and of the Hessian.
    """
    n = check.count(batch_size, "batch_size", 1)
    known = check.nonnegative(existing, "existing")
    return still_needed(n, 1 / gradient_factor(reduction, n), known, "existing")


def still_needed(n: int, needed: float, known: float, name: str) -> float:
    """``needed - known``; an error where more is there, of which ``name`` is the argument that says so."""
    if known > needed:
        raise InputError(
            f"{name} is {known:g}, more than the variance {needed:g} that a batch of {n} needs: nothing can be taken "
            "away. Use method='rescaled', which divides by the variance that is there, or 'antithetic', to which it "
            "does not matter"
        )
    return needed - known
