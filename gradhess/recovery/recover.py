"""``recover_hessian``."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradhess import _validation as check
from gradhess._backends.protocol import Float64Array
from gradhess.errors import InputError, InputTypeError
from gradhess.recovery.calibration import still_needed
from gradhess.recovery.drawing import Asker
from gradhess.recovery.estimate import HessianEstimate
from gradhess.recovery.methods import METHODS


def recover_hessian(
    oracle: Any,
    n_gradients: int | None = None,
    method: str = "antithetic",
    noise_variance: float | str = "calibrated",
    rng: Any = None,
    *,
    project_psd: bool = False,
) -> HessianEstimate:
    """The Hessian of a squared loss from batch gradients whose targets carry noise.

    Parameters
    ----------
    oracle : GradientOracle
        ``LinearRegressionOracle``, ``gradhess.torch.RegressionOracle``, or any object with ``batch_size``,
        ``n_params``, ``draw_batch()`` and ``gradient(batch, target_noise)``.
    n_gradients : int
        m, at least 2. None for the n + 1 of orthogonal.
    method : str
        =============  ==========================================  ====================================================
        calibrated     ``Cov(g)``                                  the Hessian H up to O(q / n): needs existing noise
                                                                   <= what calibration asks for
        rescaled       ``Cov(g)`` over the noise that is there     H up to O(q / noise): any noise that is known
        antithetic     each batch twice, with noise xi and -xi     H without bias, whatever q and the existing noise;
                                                                   costs a factor sqrt(2) in sampling error
        difference     ``Cov(noisy) - Cov(clean)``                 H without bias; may be indefinite
        fixed_batch    one batch, fresh noise                      the Hessian of that batch, without bias
        orthogonal     one batch, orthogonal noise                 the Hessian of that batch, to rounding
        =============  ==========================================  ====================================================

        q is the excess risk at the parameters. With features of mean other than 0, H has ``E[x x^T]``, not their
        covariance.
    noise_variance : float or "calibrated"
        Of the noise to inject. "calibrated": what calibration asks for, less the existing noise for calibrated and
        rescaled (for rescaled at least 0).
    rng : int, numpy.random.Generator or None
        Of the noise.
    project_psd : bool
        Set negative eigenvalues, which difference can have, to zero. The result is then no longer unbiased.

    Returns
    -------
    HessianEstimate

    Raises
    ------
    InputError, InputTypeError
        An unknown method, fewer than 2 gradients, no noise, more existing noise than calibration allows, an oracle
        that lacks a part or returns another shape, or a Hessian that overflows.
    NonFiniteError
        The oracle returned NaN or infinity; ``row`` is the number of the gradient.

    Examples
    --------
    >>> oracle = LinearRegressionOracle(X, y, coef, batch_size=100, rng=0)
    >>> est = recover_hessian(oracle, 20_000, rng=0)
    >>> print(est.summary())
    """
    check.one_of(method, tuple(METHODS), "method")
    check.flag(project_psd, "project_psd")
    ask = Asker(oracle, rng)
    if n_gradients is None and method == "orthogonal":
        n_gradients = ask.n + 1
    if n_gradients is None:
        raise InputError(f"n_gradients is missing; method={method!r} takes any number from 2")
    m = check.count(n_gradients, "n_gradients", 2)
    variance = _noise_to_inject(ask, method, noise_variance)
    found = METHODS[method](ask, m, variance)
    hessian = (found.hessian + found.hessian.T) / 2
    return HessianEstimate(
        hessian=_projected(hessian) if project_psd else hessian,
        gradient=found.gradient,
        covariance=found.covariance,
        n_gradients=found.n_gradients,
        noise_variance=variance,
        method=method,
        batch_size=ask.batch_size,
        n_targets=ask.n_targets,
        reduction=ask.reduction,
        existing_noise=ask.existing,
        sampling_error=found.sampling_error,
        bias_bound=found.bias_bound,
        pair_means=found.pair_means,
        half_differences=found.half_differences,
    )


def _noise_to_inject(ask: Asker, method: str, noise_variance: float | str) -> float:
    needed = 1 / ask.factor
    if isinstance(noise_variance, str):
        if noise_variance != "calibrated":
            raise InputError(f"noise_variance is {noise_variance!r}; it must be a number or 'calibrated'")
        if method == "rescaled":
            return max(needed - ask.existing, 0.0)
        if method == "calibrated":
            return still_needed(ask.n, needed, ask.existing, "oracle.existing_noise")
        return needed
    if noise_variance is None:
        raise InputTypeError("noise_variance is None; it must be a number or 'calibrated'")
    variance = check.nonnegative(noise_variance, "noise_variance")
    if method == "calibrated" and not np.isclose(variance + ask.existing, needed, rtol=1e-6):
        raise InputError(
            f"noise_variance is {variance:g}, beside {ask.existing:g} that is there: calibration needs {needed:g} in "
            "all. Leave noise_variance out, or use method='rescaled' for any other noise"
        )
    return variance


def _projected(hessian: Float64Array) -> Float64Array:
    values, vectors = np.linalg.eigh(hessian)
    projected = (vectors * np.maximum(values, 0)) @ vectors.T
    return np.asarray((projected + projected.T) / 2)
