"""Columns that cannot be estimated: constant ones beside an intercept, and linear combinations of earlier ones.

Columns are taken in order, as R's ``lm`` does: one is aliased if what the kept columns before it leave unexplained is
nothing but rounding. The test is a pivot of the Cholesky factorisation of the correlation matrix, ``1 - R^2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from gradhess._backends.protocol import Float64Array
from gradhess.errors import InputError

ALIAS_TOLERANCE: Final = 1e-10
"""Of ``1 - R^2``. A correlation is known to some 1e-15, and elimination multiplies that by the condition number of the
columns before, so a smaller tolerance would mistake rounding for data."""
TERM_TOLERANCE: Final = 1e-6
"""A term of a dependence is named if it is at least this large beside the largest, in standard deviations."""
NAMED_TERMS: Final = 4


@dataclass(frozen=True, slots=True)
class Aliased:
    """A feature that was left out, and why."""

    name: str
    note: str
    """A sentence without its full stop."""
    depends_on: tuple[str, ...]
    """The kept features that it is a combination of; empty if it is constant."""


def find_aliased(
    moment: Float64Array,
    mean: Float64Array,
    constant: npt.NDArray[np.bool_],
    names: Sequence[str],
    *,
    intercept: bool,
) -> tuple[npt.NDArray[np.intp], tuple[Aliased, ...]]:
    """Positions of the columns to keep, and the others.

    Parameters
    ----------
    moment : (d, d)
        Covariance, or without an intercept the second moment about zero.
    constant : (d,)
        The columns whose diagonal entry of ``moment`` is zero, up to rounding.

    Raises
    ------
    InputError
        A moment overflowed.
    """
    large = np.flatnonzero(~np.isfinite(np.diag(moment)))
    if large.size:
        raise InputError(
            f"the numbers of column {names[int(large[0])]!r} are so large that their squares overflow; divide them, or "
            "leave the column out"
        )
    candidates = np.flatnonzero(~constant)
    scale = np.sqrt(np.diag(moment)[candidates])
    correlation = moment[np.ix_(candidates, candidates)] / np.outer(scale, scale)
    factor, independent = _factorise(correlation)
    notes: dict[int, Aliased] = {}
    for column in np.flatnonzero(constant).tolist():
        value = f"is constant ({mean[column]:.6g})" if intercept else "is zero in every row"
        notes[column] = Aliased(names[column], f"{names[column]} {value}", ())
    for position in np.flatnonzero(~independent).tolist():
        earlier = np.flatnonzero(independent[:position])
        # The row of the factor is L11^-1 r with the correlations r, so the weights L11^-T (L11^-1 r) solve R11 a = r.
        weights = np.linalg.solve(factor[np.ix_(earlier, earlier)].T, factor[position, earlier])
        column = int(candidates[position])
        sources = candidates[earlier]
        in_units = weights * scale[position] / scale[earlier]
        offset = float(mean[column] - in_units @ mean[sources]) if intercept else 0.0
        named = np.abs(weights) > TERM_TOLERANCE * np.abs(weights).max()
        negligible = TERM_TOLERANCE * (abs(mean[column]) + float(np.abs(in_units * mean[sources]).sum()))
        terms = [(names[sources[term]], float(in_units[term])) for term in np.flatnonzero(named).tolist()]
        note = _equation(names[column], terms, offset if abs(offset) > negligible else 0.0)
        notes[column] = Aliased(names[column], note, tuple(name for name, _ in terms))
    return candidates[independent], tuple(notes[column] for column in sorted(notes))


def _factorise(correlation: Float64Array) -> tuple[Float64Array, npt.NDArray[np.bool_]]:
    """The Cholesky factor, in which the columns that depend on earlier ones are skipped; and which are not."""
    d = correlation.shape[0]
    try:
        factor = np.asarray(np.linalg.cholesky(correlation), np.float64)
    except np.linalg.LinAlgError:
        pass
    else:
        if (np.diag(factor) ** 2 > ALIAS_TOLERANCE).all():
            return factor, np.ones(d, np.bool_)
    rest = correlation.copy()
    factor = np.zeros((d, d))
    independent = np.ones(d, np.bool_)
    for column in range(d):
        pivot = rest[column, column]
        if pivot <= ALIAS_TOLERANCE:
            independent[column] = False
            continue
        factor[column:, column] = rest[column:, column] / np.sqrt(pivot)
        below = factor[column + 1 :, column]
        rest[column + 1 :, column + 1 :] -= np.outer(below, below)
    return factor, independent


def _equation(name: str, terms: list[tuple[str, float]], offset: float) -> str:
    if len(terms) > NAMED_TERMS:
        return f"{name} is a linear combination of {', '.join(term for term, _ in terms)}"
    text = ""
    for term, weight in [*terms, ("", offset)]:
        size = f"{abs(weight):.6g}"
        if size == "0":
            continue
        product = size if not term else term if size == "1" else f"{size} {term}"
        text += (" - " if weight < 0 else " + " if text else "") + product
    return f"{name} = {text.removeprefix(' ')}"
