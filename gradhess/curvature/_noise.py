"""The covariance of mini-batch noise, exactly, from per-sample gradients."""

from __future__ import annotations

import math
from typing import Any

from gradhess._gradients import Gradients, explicit_gradients
from gradhess.curvature import _checks
from gradhess.errors import InputError


def gradient_noise_covariance(gradients: Any, *, batch_size: int = 1) -> Any:
    """``C = (1/B) [(1/n) sum_p g_p g_p^T - m m^T]`` with m the mean gradient: the covariance of a mini-batch gradient.

    A mini-batch is B samples drawn independently, with replacement, and its gradient is their mean. All n samples are
    used, so C has the rank that it has; a covariance over n/B mini-batches would have rank n/B at most.

    Parameters
    ----------
    gradients : Gradients or array_like of shape (n, p)
        Per-sample gradients: structured (``glm_gradients``, ``layer_gradients``), or explicit rows.
    batch_size : int
        B, 1 by default.

    Returns
    -------
    array, shape (p, p)
        Symmetric, float64, centred, divided by n and by B.

    Raises
    ------
    InputError
        ``batch_size`` is below 1, there are no rows, or squares of the gradients overflow.
    InputTypeError
        Gradients that are not real numbers.
    NonFiniteError
        A row is not finite.
    ResultTooLargeError
        C would not fit in memory.

    Notes
    -----
    Zhang, Yang and Tu (arXiv 2602.05600), section 2. A mean over samples **without** replacement would carry the
    further factor ``(n - B) / (n - 1)``.
    """
    size = _checks.batch_size(batch_size)
    rows: Gradients = explicit_gradients(gradients, "gradients")
    if rows.n_samples == 0:
        raise InputError("gradients has no rows, so no covariance")
    covariance = rows.covariance()
    # Of finite rows, no entry overflows without one on the diagonal (Cauchy and Schwarz).
    if not math.isfinite(float(abs(covariance.diagonal()).max())):
        raise InputError(
            "the covariance of the gradients overflows float64, though they do not; divide all of them by the same "
            "number c, and C is that over c squared"
        )
    covariance /= size
    return covariance
