"""The first pass: means, covariance, which columns can be estimated, and a basis in which they are well scaled.

All later passes work on ``z = (x - shift) / scale``. There the normal equations are a correlation matrix, whatever the
units and the means of the columns, so neither the Hessian nor the outer products of the gradients lose digits to a
large mean. Solutions and their covariances are carried back by ``Design.jacobian``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from gradhess import _memory
from gradhess._backends.protocol import Float64Array
from gradhess._regression.aliasing import Aliased, find_aliased
from gradhess._regression.pieces import Reader
from gradhess._regression.target import TargetScan
from gradhess._streaming import StreamingCovariance
from gradhess.errors import InputError
from gradhess.losses import Loss

INTERCEPT: Final = "(intercept)"
CONSTANT_RTOL: Final = 256 * np.finfo(np.float64).eps
"""A column counts as constant if its standard deviation is at most this share of its mean: rounding, not data."""


@dataclass(frozen=True, slots=True)
class Design:
    """What the first pass found. Arrays run over the kept features, in the order of the source."""

    n_rows: int
    feature_names: tuple[str, ...]
    target_name: str
    aliased: tuple[Aliased, ...]
    kept: npt.NDArray[np.intp]
    """Their positions among the features of the source."""
    intercept: bool
    mean: Float64Array
    covariance: Float64Array
    """(d, d), divided by n."""
    shift: Float64Array
    """The mean with an intercept, else zero."""
    scale: Float64Array
    """Root mean square of ``x - shift``."""
    gram: Float64Array
    """(p, p): ``sum z~ z~^T / n``, a correlation matrix bordered by the intercept, which is last."""
    target_moment: Float64Array
    """(p,): ``sum z~ y / n``."""
    target_square: float
    """``sum (y - mean)^2`` with an intercept, else ``sum y^2``."""
    target: TargetScan

    @property
    def n_parameters(self) -> int:
        """p of one linear predictor: the kept features, and the intercept."""
        return self.kept.size + int(self.intercept)

    def standardise(self, piece: Float64Array) -> Float64Array:
        """z (m, d) of a piece ``[X, y]``: a copy of that size."""
        z: Float64Array = np.take(piece, self.kept, axis=1)
        z -= self.shift
        z /= self.scale
        return z

    def jacobian(self) -> Float64Array:
        """(p, p) matrix J: ``J @ theta`` in the units of the data, for theta in the standardised basis."""
        p = self.n_parameters
        jacobian = np.zeros((p, p))
        d = self.kept.size
        jacobian[np.arange(d), np.arange(d)] = 1.0 / self.scale
        if self.intercept:
            jacobian[d, :d] = -self.shift / self.scale
            jacobian[d, d] = 1.0
        return jacobian


def scan(reader: Reader, loss: Loss, *, intercept: bool) -> Design:
    """Read all rows once, and prepare the fit.

    Raises
    ------
    InputError
        No rows, fewer rows than parameters, a target outside the domain of the loss, or no feature that varies.
    """
    moments = StreamingCovariance()
    target = TargetScan(reader.target_name, loss)
    n_columns = len(reader.feature_names) + 1
    _memory.require_stream(n_columns, "full", np.dtype(np.float64))
    for piece in reader.read("moments", n_columns):
        target.add(piece[:, -1])
        moments.partial_fit(piece)
    n = int(moments.n_samples_seen_)
    if n == 0:
        raise InputError("there are no rows to fit")
    target.finish(intercept=intercept)
    return _prepare(reader, moments, target, n, intercept=intercept)


def _prepare(
    reader: Reader, moments: StreamingCovariance, target: TargetScan, n: int, *, intercept: bool
) -> Design:
    mean, covariance = np.asarray(moments.location_), np.asarray(moments.covariance_)
    # Without an intercept a column that is constant is a feature like any other, and nothing is centred.
    about_shift = covariance if intercept else covariance + np.outer(mean, mean)
    spread = np.sqrt(np.diag(about_shift))
    floor = CONSTANT_RTOL * np.abs(mean) if intercept else np.zeros_like(mean)
    kept, aliased = find_aliased(
        about_shift[:-1, :-1], mean[:-1], spread[:-1] <= floor[:-1], reader.feature_names, intercept=intercept
    )
    if kept.size == 0:
        raise InputError(f"nothing to fit: {'; '.join(column.note for column in aliased)}")
    p = kept.size + int(intercept)
    if n <= p:
        raise InputError(f"{n:,} rows are too few for {p:,} parameters; there must be more rows than those")
    scale = spread[kept]
    gram = np.eye(p)
    gram[: kept.size, : kept.size] = about_shift[np.ix_(kept, kept)] / np.outer(scale, scale)
    target_moment = np.empty(p)
    target_moment[: kept.size] = about_shift[kept, -1] / scale
    if intercept:
        target_moment[-1] = mean[-1]
    return Design(
        n_rows=n,
        feature_names=tuple(reader.feature_names[column] for column in kept),
        target_name=reader.target_name,
        aliased=aliased,
        kept=kept,
        intercept=intercept,
        mean=mean[kept],
        covariance=covariance[np.ix_(kept, kept)],
        shift=mean[kept] if intercept else np.zeros(kept.size),
        scale=scale,
        gram=gram,
        target_moment=target_moment,
        target_square=float(n * about_shift[-1, -1]),
        target=target,
    )
