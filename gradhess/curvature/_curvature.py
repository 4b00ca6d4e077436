"""H, M and C of one set of parameters, and their diagonals in the eigenbasis of H."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gradhess._backends.protocol import Float64Array
from gradhess.curvature import _checks
from gradhess.errors import InputTypeError


@dataclass(frozen=True, slots=True, eq=False)
class Diagonals:
    """Diagonals in the eigenbasis ``{v_i}`` of H, in descending order of its eigenvalues.

    Attributes
    ----------
    H : (N,)
        ``lambda_i``, the eigenvalues themselves.
    M : (N,)
        ``v_i^T M v_i``.
    C : (N,)
        ``v_i^T C v_i``, with the 1/B of C inside.
    kappa_max : float
        Largest eigenvalue over all per-sample Hessians (of largest size, where some are indefinite).
    positive : bool or None
        Whether every per-sample Hessian is positive semidefinite; None if nobody has looked.
    eigenvectors : (p, N)
        Column i is ``v_i``.
    floor : float
        An eigenvalue of this size is rounding.
    """

    H: Float64Array
    M: Float64Array
    C: Float64Array
    kappa_max: float
    positive: bool | None
    eigenvectors: Float64Array
    floor: float


@dataclass(frozen=True, eq=False, repr=False)
class Curvature:
    """Mean per-sample Hessian, mean squared per-sample Hessian, and covariance of mini-batch noise.

    Parameters
    ----------
    H : array_like, shape (p, p)
        ``E[h_p]``.
    M : array_like, shape (p, p)
        ``E[h_p^2]``.
    C : array_like, shape (p, p)
        ``(1/B) (E[g_p g_p^T] - E[g_p] E[g_p]^T)``.
    kappa_max : float
        Largest eigenvalue over all per-sample Hessians ``h_p`` (of largest size, where some are indefinite).
    positive : bool, optional
        Whether all ``h_p`` are positive semidefinite. None, the default: unknown.
    n_samples : int, optional
        How many samples the means are over.
    batch_size : int
        The B inside C.
    label : str
        For titles.

    Raises
    ------
    InputError, InputTypeError
        Matrices that are not real, square, symmetric, finite and of one shape; a negative ``kappa_max``.
    """

    H: Float64Array
    M: Float64Array
    C: Float64Array
    kappa_max: float
    positive: bool | None = None
    n_samples: int | None = None
    batch_size: int = 1
    label: str = ""

    def __post_init__(self) -> None:
        H, M = _checks.symmetric_pair(self.H, self.M, ("H", "M"))
        _, C = _checks.symmetric_pair(H, self.C, ("H", "C"))
        for name, matrix in (("H", H), ("M", M), ("C", C)):
            object.__setattr__(self, name, matrix)
        _checks.number(self.kappa_max, "kappa_max", minimum=0.0)
        _checks.batch_size(self.batch_size)

    def __repr__(self) -> str:
        label = f"{self.label!r}, " if self.label else ""
        n = "" if self.n_samples is None else f", n_samples={self.n_samples}"
        return f"<Curvature {label}p={self.n_parameters}{n}, batch_size={self.batch_size}>"

    @property
    def n_parameters(self) -> int:
        """p."""
        return len(self.H)

    @cached_property
    def _eigh(self) -> tuple[Float64Array, Float64Array]:
        return eigenbasis(self.H)

    @property
    def eigenvalues(self) -> Float64Array:
        """(p,) of H, descending. Computed once, when first asked for."""
        return self._eigh[0]

    @property
    def eigenvectors(self) -> Float64Array:
        """(p, p): column i belongs to ``eigenvalues[i]``."""
        return self._eigh[1]

    @cached_property
    def diagonals(self) -> Diagonals:
        """``lambda_i``, ``M_ii`` and ``C_ii``. Computed once, when first asked for."""
        values, vectors = self._eigh
        return Diagonals(
            H=values,
            M=diagonal_in(vectors, self.M),
            C=diagonal_in(vectors, self.C),
            kappa_max=self.kappa_max,
            positive=self.positive,
            eigenvectors=vectors,
            floor=rounding_floor(values),
        )


def eigenbasis(H: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Eigenvalues, descending, and eigenvectors as columns in that order."""
    values, vectors = np.linalg.eigh(H)
    return values[::-1].copy(), np.ascontiguousarray(vectors[:, ::-1])


def diagonal_in(vectors: Float64Array, matrix: Float64Array) -> Float64Array:
    """``v_i^T A v_i`` for every column."""
    return np.asarray(np.einsum("ij,ij->j", vectors, matrix @ vectors))


def rounding_floor(values: Float64Array) -> float:
    """What an eigenvalue that is zero may come out as: p eps times the largest (Golub and Van Loan, 8.1)."""
    return float(values.size * np.finfo(np.float64).eps * np.abs(values).max())


def as_diagonals(value: Any, name: str) -> Diagonals:
    """The diagonals of a Curvature, or those that came in."""
    if isinstance(value, Curvature):
        return value.diagonals
    if isinstance(value, Diagonals):
        return value
    raise InputTypeError(f"{name} must be a Curvature or its diagonals, not {type(value).__name__}")
