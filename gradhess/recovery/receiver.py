"""The passive side: gradients arrive, noised where they were made, and nothing else is known."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final, Self

import numpy as np

from gradhess import _validation as check
from gradhess._arrays import as_numpy
from gradhess._backends.protocol import Float64Array
from gradhess._streaming import StreamingCovariance
from gradhess.errors import InputError, InputTypeError, NonFiniteError, NotFittedError
from gradhess.recovery.arguments import within_range
from gradhess.recovery.calibration import gradient_factor
from gradhess.recovery.metrics import sampling_error

RESCALE: Final = (
    "divide all of them by the same number c before partial_fit, and hessian_ is that over c squared"
)


class HessianReceiver:
    """Recovers the Hessian from batch gradients that others computed at one and the same parameters.

    Gradients of different workers have different means where their data differ, so each worker is centred by itself.

    Parameters
    ----------
    batch_size : int
        n of every gradient: samples in a batch (times outputs, if a sample has several targets).
    noise_variance : float
        s^2 that was injected into the targets, known or claimed.
    existing : float
        Variance of the noise that was there already, if it is known. The Hessian is ``Cov(g) / (a (noise_variance +
        existing))``: where the sum is what calibration asks for, the covariance itself.
    reduction : {"half_mean", "mean", "half_sum", "sum"}
        The loss of a batch; see ``gradhess.recovery.calibration``.

    Notes
    -----
    A call that fails leaves the receiver as it was. The bias is that of method "rescaled": ``2 q / (noise_variance +
    existing)``, and more if noise is there that is not counted.

    Examples
    --------
    >>> rx = HessianReceiver(batch_size=100, noise_variance=100.0)
    >>> for worker, gradients in messages:
    ...     rx.partial_fit(gradients, worker=worker)
    >>> rx.hessian_
    """

    def __init__(
        self, batch_size: int, noise_variance: float, *, existing: float = 0.0, reduction: str = "half_mean"
    ) -> None:
        self.batch_size = check.count(batch_size, "batch_size", 1)
        self.noise_variance = check.nonnegative(noise_variance, "noise_variance")
        self.existing = check.nonnegative(existing, "existing")
        self.reduction = reduction
        self._factor = gradient_factor(reduction, self.batch_size)
        if self.noise_variance + self.existing == 0:
            raise InputError(
                "noise_variance and existing are 0; without noise the gradients do not tell the Hessian"
            )
        self._workers: dict[Hashable, StreamingCovariance] = {}

    def partial_fit(self, batch_gradients: Any, worker: Hashable = None) -> Self:
        """Add gradients that arrived.

        Parameters
        ----------
        batch_gradients : array_like, shape (k, d) or (d,)
        worker : hashable
            Whose they are; gradients of one worker are centred about their own mean.

        Raises
        ------
        InputError, InputTypeError
            Another shape than before, or not real numbers.
        NonFiniteError
            A gradient is not finite; ``row`` is the first.
        """
        array = as_numpy(batch_gradients, "batch_gradients")
        single = array.ndim == 1
        if single:
            array = array[np.newaxis]
        array = check.matrix(array, "batch_gradients")
        if self._workers and array.shape[1] != self.n_params:
            raise InputError(
                f"batch_gradients has shape {array.shape}, but the gradients before had {self.n_params} entries"
            )
        try:
            known = self._workers.get(worker)
        except TypeError:
            raise InputTypeError(f"worker must be hashable, not {type(worker).__name__}") from None
        finite = np.isfinite(array)
        if not finite.all():
            row, column = (int(index) for index in np.argwhere(~finite)[0])
            where = f"{column}" if single else f"{row}, {column}"
            raise NonFiniteError(
                row,
                f"batch_gradients[{where}] is {array[row, column]}; nothing of this call was added. Leave that "
                "gradient out, or look at the worker that sent it",
            )
        if len(array):
            stream = StreamingCovariance(ddof=1) if known is None else known
            stream.partial_fit(array)
            self._workers[worker] = stream
        return self

    def merge(self, other: HessianReceiver) -> Self:
        """Add what another receiver got, worker by worker; ``other`` is only read.

        Raises
        ------
        InputError
            It is this receiver, was made for another batch size, noise or loss, or has gradients of another length.
        """
        check.instance(other, HessianReceiver, "other")
        if other is self:
            raise InputError("cannot merge a receiver with itself: every gradient would count twice")
        for name in ("batch_size", "noise_variance", "existing", "reduction"):
            if getattr(self, name) != getattr(other, name):
                raise InputError(
                    f"cannot merge: {name} is {getattr(other, name)!r} there and {getattr(self, name)!r} here"
                )
        if self._workers and other._workers and self.n_params != other.n_params:
            raise InputError(f"cannot merge gradients of length {other.n_params} into {self.n_params}")
        merged = {
            worker: self._workers[worker] + stream if worker in self._workers else stream.copy()
            for worker, stream in other._workers.items()
        }
        self._workers.update(merged)
        return self

    @property
    def n_params(self) -> int:
        """d."""
        return int(next(iter(self._seen().values())).n_features_in_)

    @property
    def n_gradients_(self) -> int:
        """m, of all workers."""
        return sum(stream.n_samples_seen_ for stream in self._workers.values())

    @property
    def workers_(self) -> dict[Hashable, int]:
        """How many gradients each worker sent."""
        return {worker: stream.n_samples_seen_ for worker, stream in self._workers.items()}

    @property
    def hessian_(self) -> Float64Array:
        """(d, d), symmetric: the pooled covariance within workers over ``a`` times the noise.

        Each worker costs one degree of freedom; one that sent a single gradient adds nothing. Where workers hold
        different data this is the mean of their Hessians, weighted by their gradients.

        Raises
        ------
        NotFittedError
            No worker has sent two gradients yet.
        InputError
            The squares of the gradients overflow float64, though the gradients do not.
        """
        scatter: Float64Array | None = None
        freedom = 0
        for stream in self._seen().values():
            m = stream.n_samples_seen_
            if m > 1:
                with np.errstate(over="ignore", invalid="ignore"):  # which is refused below
                    part = np.asarray(stream.covariance_) * (m - 1)
                    scatter = part if scatter is None else scatter + part
                freedom += m - 1
        if scatter is None:
            raise NotFittedError(
                "every worker has sent one gradient only; a covariance needs two of one worker"
            )
        hessian = within_range(scatter, RESCALE) / (
            freedom * self._factor * (self.noise_variance + self.existing)
        )
        return np.asarray(hessian)

    @property
    def gradient_(self) -> Float64Array:
        """(d,): the mean of all gradients."""
        total = sum(np.asarray(s.location_) * s.n_samples_seen_ for s in self._seen().values())
        return np.asarray(total / self.n_gradients_)

    @property
    def sampling_error_(self) -> float:
        """Predicted whitened error of ``hessian_``, as of ``gradhess.recovery.sampling_error``."""
        freedom = self.n_gradients_ - len(self._seen())
        return sampling_error(self.n_params, max(freedom, 1), self.batch_size)

    def __repr__(self) -> str:
        return (
            f"HessianReceiver(batch_size={self.batch_size}, noise_variance={self.noise_variance:g}, "
            f"existing={self.existing:g}, reduction={self.reduction!r})"
        )

    def _seen(self) -> dict[Hashable, StreamingCovariance]:
        if not self._workers:
            raise NotFittedError("no gradients have arrived yet")
        return self._workers
