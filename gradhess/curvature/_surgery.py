"""Change the spectra of per-sample Hessians, to see which part of them sets the exponent."""

from __future__ import annotations

import numpy as np

from gradhess import _validation as check
from gradhess.curvature import _checks
from gradhess.curvature._samples import LayerSamples
from gradhess.errors import InputTypeError


def spectral_surgery(
    samples: LayerSamples,
    *,
    keep: int | None = None,
    damp_below: float | None = None,
    damping: float = 0.0,
    equalize_above: float | None = None,
) -> LayerSamples:
    """The same samples with other per-sample Hessians ``h_p = Q_p (x) a_p a_p^T``.

    Eigenvalues are those of h_p, ``||a_p||^2 eig(Q_p)``, and the leading one is the largest by size. The steps are
    taken in the order of the parameters; None leaves one out. Activations and gradients stay, so only H and M change:
    it is the exponent of M against H that shows the effect.

    Parameters
    ----------
    samples : LayerSamples
    keep : int, optional
        Set to zero all eigenvalues of a sample but the k largest by size.
    damp_below : float, optional
        Multiply the Hessian of a sample by ``damping`` if its leading eigenvalue is below this fraction of the largest
        over all samples.
    damping : float
        At least 0; 0 by default, which removes those Hessians.
    equalize_above : float, optional
        Set the leading eigenvalue of every sample in which it is at least this fraction of the largest to the mean over
        those samples. With ``keep=1`` and all other samples removed, ``M = mean * H`` exactly, so gamma is 1.

    Returns
    -------
    LayerSamples
        With Q formed, (n, k, k).

    Raises
    ------
    InputError, InputTypeError
        An argument out of its range, or not LayerSamples.

    Notes
    -----
    After the experiments of Zhang, Yang and Tu (arXiv 2602.05600), which change the matrices in the same three ways.
    """
    if not isinstance(samples, LayerSamples):
        raise InputTypeError(f"samples must be LayerSamples, not {type(samples).__name__}")
    lengths = samples.squared_lengths()
    values, vectors = np.linalg.eigh(samples.hessians())
    order = np.argsort(-np.abs(values), axis=1, kind="stable")
    values = np.take_along_axis(values, order, axis=1)
    vectors = np.take_along_axis(vectors, order[:, np.newaxis, :], axis=2)

    if keep is not None:
        values[:, check.count(keep, "keep", 1) :] = 0.0
    factor = _checks.number(damping, "damping", minimum=0.0)
    largest = float((np.abs(values[:, 0]) * lengths).max(initial=0.0))
    if damp_below is not None:
        below = np.abs(values[:, 0]) * lengths < _checks.fraction(damp_below, "damp_below") * largest
        values[below] *= factor
    if equalize_above is not None:
        threshold = _checks.fraction(equalize_above, "equalize_above") * largest
        stiff = (np.abs(values[:, 0]) * lengths >= threshold) & (values[:, 0] != 0)
        if stiff.any():
            values[stiff, 0] = (values[stiff, 0] * lengths[stiff]).mean() / lengths[stiff]

    core = (vectors * values[:, np.newaxis, :]) @ vectors.transpose(0, 2, 1)
    core = (core + core.transpose(0, 2, 1)) / 2
    # Of eigenvalues that were not negative none is now; what was unknown stays so.
    return LayerSamples(samples.activations, samples.errors, core, None, samples.positive or None)
