"""Everything that is known about one curvature, as numbers, a table and a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradhess import _validation as check
from gradhess._backends.protocol import Float64Array
from gradhess.curvature import _checks
from gradhess.curvature._alignment import cosine, rank_correlation, share, spread, squares, what_is_zero
from gradhess.curvature._commutator import Commutator, measure, rotations
from gradhess.curvature._curvature import Curvature
from gradhess.curvature._power_law import PowerLaw, have_a_slope, power_law_fit
from gradhess.curvature._sandwich import Sandwich, sandwich_check
from gradhess.errors import InputTypeError


@dataclass(frozen=True, slots=True, eq=False)
class CurvatureReport:
    """What ``analyze`` found. NaN where a number is not defined, as for a layer that never fires: C or H is zero.

    Attributes
    ----------
    curvature : Curvature
    rank : int
        Eigenvalues of H above rounding, by size.
    top : int
        Eigenvalues that the fits are over, before those that are not positive are left out.
    fit_C, fit_M : PowerLaw or None
        ``C_ii`` and ``M_ii`` against ``lambda_i``; None where there are not two points.
    rank_correlation : float
        Spearman's, of ``C_ii`` and ``lambda_i`` over the same indices.
    commutator, commutator_product : Commutator
        Relative to ``||CH||``, and to ``||C|| ||H||``, each with random rotations of C.
    window : (i0, i1)
        Half-open range of eigenvectors of H.
    commutator_window : Commutator
        Relative to ``||CH||``, within the span of those eigenvectors, where C is rotated, too.
    offdiagonal_ratio, recovery : float
        Of C in the eigenbasis of H.
    recovery_by_chance : float
        The expectation of ``recovery`` under random rotations, ``(2 + (tr C)^2 / ||C||^2) / (p + 2)``.
    cosine_CM, cosine_CH : float
    sandwich : Sandwich
    """

    curvature: Curvature
    rank: int
    top: int
    fit_C: PowerLaw | None
    fit_M: PowerLaw | None
    rank_correlation: float
    commutator: Commutator
    commutator_product: Commutator
    window: tuple[int, int]
    commutator_window: Commutator
    offdiagonal_ratio: float
    recovery: float
    recovery_by_chance: float
    cosine_CM: float
    cosine_CH: float
    sandwich: Sandwich

    def rows(self) -> list[tuple[str, str, str]]:
        """(what, value, what to hold it against), as text, one for each line of the table."""
        why = what_is_zero(self.curvature.C, self.curvature.H)
        window = f"the first, of eigenvectors {self.window[0] + 1} to {self.window[1]}"
        return [
            ("exponent of C against H", *_exponent(self.fit_C)),
            ("exponent of M against H", *_exponent(self.fit_M)),
            _row("rank correlation of C_ii and lambda_i", self.rank_correlation, "", "not two that differ"),
            ("commutator / ||CH||", *_commutator(self.commutator, why)),
            ("commutator / (||C|| ||H||)", *_commutator(self.commutator_product, why)),
            (window, *_commutator(self.commutator_window, why or "C or H is zero there")),
            _row(
                "share of C on the diagonal",
                self.recovery,
                f"{_number(self.recovery_by_chance)} by chance",
                why,
            ),
            _row("off-diagonal over diagonal", self.offdiagonal_ratio, "", why),
            _row("cosine of C and M", self.cosine_CM, f"{_number(self.cosine_CH)} of C and H", why),
            _row(
                "smallest M_ii / lambda_i^2",
                self.sandwich.lower,
                "at least 1",
                "no eigenvalue above rounding",
            ),
            ("largest M_ii / (kappa lambda_i)", *_upper(self.sandwich, self.curvature.positive)),
            ("both bounds hold", "yes" if self.sandwich.holds else "NO", ""),
        ]

    def summary(self) -> str:
        """A table in plain text, at most 80 columns wide."""
        lines = [self.title()]
        lines += [f"  {what:<36}{value:>8}  {against}".rstrip() for what, value, against in self.rows()]
        return "\n".join(lines)

    def title(self) -> str:
        """What it is about, in one line."""
        c = self.curvature
        n = "" if c.n_samples is None else f", {c.n_samples:,} sample{'' if c.n_samples == 1 else 's'}"
        label = f"{c.label}: " if c.label else ""
        return f"{label}p = {c.n_parameters:,}{n}, B = {c.batch_size}, rank {self.rank:,}, top {self.top:,}"

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"<CurvatureReport {self.title()}>"

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the cloud of ``C_ii`` over ``lambda_i`` with its fit, the spectra, and the commutator by its baseline.

        Parameters
        ----------
        path : path
            Ending in ``.png``, ``.pdf`` or ``.svg``; or in ``.html`` for one page that holds picture and table and
            needs no other file. Needs matplotlib.

        Raises
        ------
        InputError
            Another ending.
        """
        from gradhess._plot import PAGE_SUFFIX, picture
        from gradhess.curvature import _figure, _page  # they draw, so they are not needed before

        target = picture(path, page=True)
        if target.suffix.lower() == PAGE_SUFFIX:
            _page.write(self, target)
        else:
            _figure.save(self, target)


def analyze(
    curvature: Curvature,
    *,
    top: int | None = None,
    trim_percentile: float = 0,
    fit_fraction: float = 1.0,
    window: tuple[int, int] | None = None,
    n_baseline: int = 8,
    rng: Any = 0,
) -> CurvatureReport:
    """All measures of this package for one curvature.

    Parameters
    ----------
    curvature : Curvature
    top : int, optional
        How many leading eigenvalues the fits are over; a quarter of them by default. Eigenvalues of H that are
        rounding are left out in any case.
    trim_percentile, fit_fraction
        As for ``power_law_fit``.
    window : (i0, i1), optional
        Eigenvectors of H, as for ``commutator``, for one more commutator; those of the fits by default.
    n_baseline : int
        Random rotations for the commutators.
    rng : int or numpy.random.Generator
        For the rotations.

    Returns
    -------
    CurvatureReport
        Print it, or ``plot`` it.

    Raises
    ------
    InputError, InputTypeError
        An argument out of its range.
    """
    if not isinstance(curvature, Curvature):
        raise InputTypeError(f"curvature must be a Curvature, not {type(curvature).__name__}")
    p = curvature.n_parameters
    used = -(-p // 4) if top is None else min(check.count(top, "top", 2), p)
    count = check.count(n_baseline, "n_baseline", 0)
    d = curvature.diagonals
    settings = {"trim_percentile": trim_percentile, "fit_fraction": fit_fraction}
    real = np.flatnonzero(d.H[:used] > d.floor)

    # What follows does not depend on scale; squares are to stay within float64.
    C, eigenvalues = _checks.of_moderate_size(curvature.C), _checks.of_moderate_size(d.H)
    vectors = curvature.eigenvectors
    K = vectors.T @ C @ vectors
    generator = _checks.generator(rng)
    relative, product = _commutators(K, eigenvalues, count, generator)
    i0, i1 = _checks.window((0, used) if window is None else window, p)
    within, _ = _commutators(K[i0:i1, i0:i1], eigenvalues[i0:i1], count, generator)
    diagonal, total = squares(K)
    trace = float(np.trace(C))
    known = total > 0 and bool(curvature.H.any())
    return CurvatureReport(
        curvature=curvature,
        rank=int((np.abs(d.H) > d.floor).sum()),
        top=used,
        fit_C=_fit(d.H[real], d.C[real], settings),
        fit_M=_fit(d.H[real], d.M[real], settings),
        rank_correlation=rank_correlation(d.H[real], d.C[real]) if real.size else np.nan,
        commutator=relative,
        commutator_product=product,
        window=(i0, i1),
        commutator_window=within,
        offdiagonal_ratio=spread(diagonal, total, p) if known else np.nan,
        recovery=share(diagonal, total) if known else np.nan,
        recovery_by_chance=(2.0 + trace * trace / total) / (p + 2) if known else np.nan,
        cosine_CM=cosine(curvature.C, curvature.M),
        cosine_CH=cosine(curvature.C, curvature.H),
        sandwich=sandwich_check(curvature),
    )


def _commutators(
    K: Float64Array, eigenvalues: Float64Array, count: int, generator: np.random.Generator
) -> tuple[Commutator, Commutator]:
    """Both norms, from the same rotations."""
    norms = ("relative", "product")
    draws = [[measure(C, eigenvalues, norm) for norm in norms] for C in rotations(K, count, generator)]
    baseline = np.array(draws).reshape(count, 2)
    first, second = (
        Commutator(measure(K, eigenvalues, norm), baseline[:, i].copy()) for i, norm in enumerate(norms)
    )
    return first, second


def _fit(h: Float64Array, c: Float64Array, settings: dict[str, Any]) -> PowerLaw | None:
    if not have_a_slope(h[c > 0]):
        return None
    return power_law_fit(h, c, **settings)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4g}"


def _exponent(fit: PowerLaw | None) -> tuple[str, str]:
    if fit is None:
        return "-", "no two points"
    error = "± unknown" if np.isnan(fit.stderr) else f"± {fit.stderr:.3f}"
    return f"{fit.exponent:.3f}", f"{error}, R² {fit.r_squared:.4f}, {fit.n_used} points"


def _row(what: str, value: float, against: str, why_not: str) -> tuple[str, str, str]:
    """``why_not`` for a value that is not defined."""
    return what, _number(value), why_not if np.isnan(value) else against


def _commutator(found: Commutator, why_not: str) -> tuple[str, str]:
    if np.isnan(found.value):
        return _number(found.value), why_not
    if not found.baseline.size:
        return _number(found.value), ""
    return _number(found.value), f"{found.baseline.mean():.3g} ± {found.baseline.std():.1g} rotated at random"


def _upper(found: Sandwich, positive: bool | None) -> tuple[str, str]:
    if found.upper is None:
        if positive:
            return "-", "no eigenvalue above rounding"
        return "-", "not known" if positive is None else "some Hessian is indefinite"
    return _number(found.upper), "at most 1"
