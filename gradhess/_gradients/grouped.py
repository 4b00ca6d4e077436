"""Sums of per-sample gradients over groups of rows: mini-batches, clusters, sequences."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from gradhess import _validation as check
from gradhess._arrays import as_numpy
from gradhess._backends.grouped_rows import GroupedRows
from gradhess._backends.groups import Groups
from gradhess._backends.protocol import Float64Array
from gradhess._gradients.base import DenseGradients, Gradients
from gradhess._gradients.dense import explicit_gradients
from gradhess._gradients.device.base import DeviceGradients
from gradhess._gradients.device.make import device_grouped
from gradhess._gradients.glm import GlmGradients
from gradhess._gradients.group_arguments import per_draw, per_group, resolve
from gradhess.errors import InputError, InputTypeError


class GroupedGradients(Gradients):
    """Gradients of groups of rows, made by ``gradhess.grouped``: n counts groups."""

    def loss(self) -> float:
        """An error: what is summed over a group is the gradient alone."""
        raise InputError("groups carry no loss; the gradients that they were made of do")

    def hessian(self) -> Any:
        """An error: what is summed over a group is the gradient alone."""
        raise InputError("groups carry no Hessian; the gradients that they were made of do")


def grouped(
    gradients: Any,
    groups: Any = None,
    *,
    group_size: int | None = None,
    offsets: Any = None,
    factors: Any = None,
    shifts: Any = None,
    scale: Any = 1.0,
) -> GroupedGradients:
    """Sums of per-sample gradients over groups of rows: structured, lazy, never formed all at once.

    Row j is ``scale_j sum_t (factors_t r_i(t) + shifts_t) x~_i(t)`` over the draws t of group j, with ``r_i`` the
    slope of row i (``c_i l'(eta_i, y_i)`` of ``glm_gradients``, 1 for plain rows) and ``i(t)`` the row that is drawn;
    without factors, shifts and scale it is ``sum_{i in group j} g_i``. For softmax, ``r`` and the bracket are vectors.
    Slopes are computed once for each row, however often it is drawn.

    Parameters
    ----------
    gradients : what ``glm_gradients`` or ``as_gradients`` returns, or array_like, shape (n, d)
    groups : array_like, optional
        One of: integers (m, b), whose row j names the rows in group j, in any order and repeated at will; a list of m
        integer arrays of any lengths, empty ones included; integers (t,), one after the other, with ``offsets``; or,
        without ``offsets``, the label of every row (n,), integers or text: one group for each label, in sorted order.
    group_size : int, optional
        Instead of ``groups``: every ``group_size`` consecutive rows are a group. n must be a multiple of it.
    offsets : array_like, shape (m + 1,), optional
        Group j is ``groups[offsets[j]:offsets[j + 1]]``.
    factors, shifts : array_like, optional
        One number for each draw, in the form of ``groups`` (of consecutive or labelled rows: (n,)). A batch gradient
        with noise xi added to the targets of a squared loss is ``shifts=-xi``.
    scale : float or array_like of shape (m,)
        For the gradients of mean losses, ``1 / group_size``.

    Returns
    -------
    GroupedGradients
        Of shape (m, p), with everything that ``Gradients`` can do (``covariance``, ``gram``, ``mean``, ...), and
        accepted by ``StreamingCovariance.partial_fit``. A sum is formed in float64 in the order of its draws, and
        rounded once to ``dtype``; of float32 rows the factors may be rounded to float32 and the draws summed in it by
        sixteens, and those sums in float64 (docs/numerics.md has the bound).

    Raises
    ------
    InputError, InputTypeError
        Neither or both of ``groups`` and ``group_size``; a row that is not there; shapes that do not agree; numbers
        that are not finite; gradients that are grouped already.

    Notes
    -----
    Memory is that of the arguments and a few MiB. Rows are read where they lie: an ``X`` in C order is fastest, as the
    entries of a row in Fortran order are far apart.

    Examples
    --------
    >>> batches = rng.integers(0, len(X), size=(20_000, 100))
    >>> g = gradhess.grouped(gradhess.glm_gradients(X, y, coef), batches, scale=1 / 100)
    >>> g.covariance(ddof=1)  # the noise of stochastic gradients, from one pass
    """
    source = explicit_gradients(gradients, "gradients")
    if isinstance(source, DeviceGradients):
        # The same methods: typed as what arrays on the host would give.
        return cast(
            GroupedGradients,
            device_grouped(
                source,
                groups,
                group_size=group_size,
                offsets=offsets,
                factors=factors,
                shifts=shifts,
                scale=scale,
            ),
        )
    if not isinstance(source, (DenseGradients, GlmGradients)):
        raise InputTypeError(
            f"gradients of type {type(source).__name__} cannot be grouped; pass glm_gradients or an array of rows"
        )
    resolved = resolve(groups, group_size, offsets, source.n_samples)
    rows = source.rows
    each = Groups(
        resolved.offsets,
        resolved.indices,
        source.slopes_by_output() if isinstance(source, GlmGradients) else None,
        per_draw(factors, "factors", resolved),
        per_draw(shifts, "shifts", resolved),
        _scale(scale, resolved.count),
    )
    return GroupedGradients(
        GroupedRows(
            rows.X,
            kind="structured",
            unit_column=rows.unit_column,
            groups=each,
        ),
        source.library,
    )


def _scale(value: Any, count: int) -> Float64Array | None:
    if isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool):
        if value == 1:
            return None
        return check.finite(np.full(count, float(value)), "scale")
    return per_group(as_numpy(value, "scale"), "scale", count)
