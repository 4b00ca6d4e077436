"""The shapes that are measured, their data, and the answer that every competitor must give.

The whole job is, for the squared loss at ``coef``: residuals ``r = X coef - y``, the loss ``sum r^2 / 2``, the gradient
``X^T r`` and the outer product of gradients ``X^T diag(r^2) X``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

QUICK = os.environ.get("GRADHESS_BENCH", "full") == "quick"

FULL_SHAPES = ((1_000_000, 16), (500_000, 64), (200_000, 256), (50_000, 1024), (8_192, 4096))
QUICK_SHAPES = ((5_000, 16), (3_000, 64), (600, 257))
SHAPES = QUICK_SHAPES if QUICK else FULL_SHAPES
DTYPES = ("float32", "float64")

CHUNK = 4096  # rows that the reference widens at a time

Array = npt.NDArray[Any]


@dataclass
class Answer:
    """What a competitor computed; None where it has no such result."""

    gram: Array
    gradient: Array | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Reference:
    """The answer in float64, and the magnitudes that bound rounding errors.

    With ``k_i = |x_i|.|coef| + |y_i|`` (what a residual is the difference of): ``root`` is ``sqrt(C_aa)``, ``root_k``
    is ``sqrt(sum_i k_i^2 x_ia^2)``, ``mass`` is ``sum_i |r_i x_ia|``, ``mass_k`` is ``sum_i k_i |x_ia|``.
    """

    gram: Array
    gradient: Array
    loss: float
    root: Array
    root_k: Array
    mass: Array
    mass_k: Array
    loss_k: float


@dataclass(frozen=True)
class Problem:
    n: int
    d: int
    dtype: str
    memory: Array | None = field(default=None, repr=False, compare=False)
    """Entries for X, where many problems share them: at least n d, of that dtype."""

    def __str__(self) -> str:
        return f"{self.n}x{self.d}-{self.dtype}"

    @cached_property
    def X(self) -> Array:
        if self.memory is not None:
            return self.memory[: self.n * self.d].reshape(self.n, self.d)
        return np.random.default_rng(self.d).standard_normal(
            (self.n, self.d), dtype=np.dtype(self.dtype).type
        )

    @cached_property
    def coef(self) -> Array:
        return np.random.default_rng(1).standard_normal(self.d).astype(self.dtype) / np.sqrt(self.d).astype(
            self.dtype
        )

    @cached_property
    def y(self) -> Array:
        return np.random.default_rng(2).standard_normal(self.n, dtype=np.dtype(self.dtype).type)

    def make_data(self) -> None:
        """Make the arrays now, so that nothing is made while somebody measures."""
        for name in ("X", "coef", "y"):
            getattr(self, name)

    @property
    def gram_flop(self) -> float:
        """Of the outer product alone, symmetry used: the figure in which GFLOP/s are given."""
        return float(self.n) * self.d * (self.d + 1)

    @property
    def bytes(self) -> int:
        """One read of X."""
        return self.n * self.d * np.dtype(self.dtype).itemsize

    @cached_property
    def reference(self) -> Reference:
        d = self.d
        gram, gram_k = np.zeros((d, d)), np.zeros(d)
        gradient, mass, mass_k = np.zeros(d), np.zeros(d), np.zeros(d)
        loss = loss_k = 0.0
        coef = self.coef.astype(np.float64)
        for start in range(0, self.n, CHUNK):
            X = self.X[start : start + CHUNK].astype(np.float64)
            y = self.y[start : start + CHUNK].astype(np.float64)
            r = X @ coef - y
            k = np.abs(X) @ np.abs(coef) + np.abs(y)
            G = X * r[:, None]
            K = np.abs(X) * k[:, None]
            gram += G.T @ G
            gram_k += (K * K).sum(axis=0)
            gradient += G.sum(axis=0)
            mass += np.abs(G).sum(axis=0)
            mass_k += K.sum(axis=0)
            loss += 0.5 * float(r @ r)
            loss_k += float(np.abs(r) @ k)
        return Reference(gram, gradient, loss, np.sqrt(np.diag(gram)), np.sqrt(gram_k), mass, mass_k, loss_k)

    def check(self, answer: Answer, *, summed_rows: int | None = None) -> None:
        """Assert that the answer is right up to rounding in the type of the data.

        A sum of m terms in order is off by at most ``m u sum |terms|``, u the unit roundoff; ``summed_rows`` is the m
        of a competitor that sums in the type of the data (default n). A residual is off by at most ``(d + 2) u k_i``.
        The last term allows for the final additions in float64 of all rows.
        """
        m = self.n if summed_rows is None else min(summed_rows, self.n)
        u = np.finfo(self.dtype).eps / 2
        along = (m + 4) * u + self.n * np.finfo(np.float64).eps
        across = (self.d + 2) * u
        ref = self.reference
        bound = along * np.outer(ref.root, ref.root)
        bound += across * (np.outer(ref.root_k, ref.root) + np.outer(ref.root, ref.root_k))
        assert (np.abs(answer.gram - ref.gram) <= bound).all(), f"{self}: X^T diag(r^2) X is wrong"
        if answer.gradient is not None:
            bound = along * ref.mass + across * ref.mass_k
            assert (np.abs(answer.gradient - ref.gradient) <= bound).all(), f"{self}: the gradient is wrong"
        if answer.loss is not None:
            bound = 2 * along * ref.loss + across * ref.loss_k
            assert abs(answer.loss - ref.loss) <= bound, f"{self}: the loss is wrong"

    def check_along(self, gram: Array, *, summed_rows: int) -> None:
        """Assert that ``gram v`` is ``X^T r^2 (X v)`` for one vector v: as much as n d operations can show.

        Bounds as in ``check``, with the magnitudes of v.
        """
        v = np.random.default_rng(6).standard_normal(self.d)
        coef = self.coef.astype(np.float64)
        expected, size = np.zeros(self.d), np.zeros(self.d)
        for start in range(0, self.n, CHUNK):
            X = self.X[start : start + CHUNK].astype(np.float64)
            y = self.y[start : start + CHUNK].astype(np.float64)
            r = X @ coef - y
            k = np.abs(X) @ np.abs(coef) + np.abs(y)
            expected += X.T @ (r * r * (X @ v))
            size += np.abs(X).T @ (k * k * (np.abs(X) @ np.abs(v)))
        u = np.finfo(self.dtype).eps / 2
        bound = (
            (min(summed_rows, self.n) + 4) * u
            + 2 * (self.d + 2) * u
            + (self.n + self.d) * np.finfo(np.float64).eps
        ) * size
        assert (np.abs(gram @ v - expected) <= bound).all(), f"{self}: X^T diag(r^2) X is wrong"

    def check_plain(self, product: Array) -> None:
        """Assert that ``product`` is X^T X, in its lower triangle."""
        X = self.X.astype(np.float64)
        expected = X.T @ X
        root = np.sqrt(np.diag(expected))
        bound = (self.n + 4) * np.finfo(self.dtype).eps * np.outer(root, root)
        assert (np.abs(np.tril(product - expected)) <= bound).all(), f"{self}: X^T X is wrong"
