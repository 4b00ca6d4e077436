"""What every batch of per-sample gradients can do, and explicit (n, p) arrays as such a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradhess import _memory
from gradhess import _validation as check
from gradhess._arrays import NUMPY, give_back
from gradhess._backends import registry
from gradhess._backends.protocol import FLOAT64, AnyArray, BatchMoments, Float64Array, Rows
from gradhess._gradients import dual, passes
from gradhess.errors import InputError, InputTypeError
from gradhess.sketches import Sketch

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


class Gradients:
    """Per-sample gradients G (n, p), known by their structure and never formed.

    Rows are samples. Nothing is computed before it is asked for, and the arrays behind it are referenced, not
    copied: do not change them while it is in use. Results come back as the array type that came in (NumPy, PyTorch,
    JAX). Every method that reads rows raises NonFiniteError, with the index of the row, at a row that is not finite.
    """

    def __init__(self, rows: Rows, library: str) -> None:
        self.rows = rows
        self.library = library
        self._sum: Float64Array | None = None
        self._loss: float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(n_samples, n_parameters)."""
        return self.rows.n_samples, self.rows.n_parameters

    @property
    def n_samples(self) -> int:
        """n."""
        return self.rows.n_samples

    @property
    def n_parameters(self) -> int:
        """p."""
        return self.rows.n_parameters

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type in which a row is computed: float32 for data of at most 32-bit floats, else float64."""
        return self.rows.compute_dtype

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of shape {self.shape}, {self.dtype}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> AnyArray:
        raise InputTypeError(
            f"these gradients of shape {self.shape} are never formed as an array; toarray() does it"
        )

    def sum(self) -> Any:
        """``G^T 1`` (p,), float64: the gradient of the summed loss. Divided by nothing."""
        return give_back(self._summed().copy(), self.library)

    def mean(self) -> Any:
        """``G^T 1 / n`` (p,), float64: the gradient of the mean loss.

        Raises
        ------
        InputError
            There are no rows.
        """
        self._need_more_than(0, "the mean")
        return give_back(self._summed() / self.n_samples, self.library)

    def gram(self, *, dtype: npt.DTypeLike = "float64") -> Any:
        """``G^T G`` (p, p), symmetric: the outer product of gradients, the unnormalised empirical Fisher.

        Divided by nothing. A loss weight c enters squared, as every row carries it once.

        Parameters
        ----------
        dtype : {"float64", "float32"}
            Of the accumulator and the result; float32 only for float32 rows.

        Raises
        ------
        ResultTooLargeError
            The result would not fit in memory; nothing was allocated.
        """
        state = self._moments(dtype, "a Gram matrix", centred=False, scale=1.0)
        self._remember(state)
        return give_back(scatter_of(state), self.library)

    def covariance(self, ddof: int = 0, *, dtype: npt.DTypeLike = "float64") -> Any:
        """``(G - 1 m^T)^T (G - 1 m^T) / (n - ddof)`` (p, p), symmetric, with m the mean row.

        Parameters
        ----------
        ddof : int
            0 divides by n, 1 by n - 1.
        dtype : {"float64", "float32"}
            Of the accumulator and the result; float32 only for float32 rows.

        Raises
        ------
        InputError
            There are not more than ``ddof`` rows.
        ResultTooLargeError
            The result would not fit in memory; nothing was allocated.
        """
        check.count(ddof, "ddof", 0)
        self._need_more_than(ddof, f"the covariance with ddof={ddof}")
        state = self._moments(dtype, "a covariance", centred=True, scale=1.0 / (self.n_samples - ddof))
        return give_back(scatter_of(state), self.library)

    def diagonal(self) -> Any:
        """``diag(G^T G)`` (p,), float64: the sum of squared gradients. Divided by nothing."""
        state = passes.moments(self.rows, "diagonal")
        self._remember(state)
        return give_back(scatter_of(state), self.library)

    def norms(self) -> Any:
        """Euclidean norms of the rows, (n,), float64."""
        backend, threads = registry.active(), registry.num_threads()
        out = passes.by_pieces(
            self.rows, 2 * self.n_parameters, threads, lambda part: backend.norms(part, threads=threads)
        )
        passes.check_result(backend, self.rows, out, threads)
        return give_back(out, self.library)

    def matvec(self, v: Any) -> Any:
        """``G v``: (n,) for v of shape (p,), (n, m) for (p, m). float64."""
        rows = self.rows
        vectors, vector = check.factor(v, "v", rows.n_parameters, self)
        if not vectors.shape[1]:
            return give_back(np.empty((rows.n_samples, 0)), self.library)
        backend, threads = registry.active(), registry.num_threads()
        out = passes.by_pieces(
            rows,
            2 * vectors.size,
            threads,
            lambda part: backend.matvec(part, vectors, threads=threads),
        )
        passes.check_result(backend, rows, out, threads)
        return give_back(out[:, 0] if vector else out, self.library)

    def rmatvec(self, u: Any) -> Any:
        """``G^T u``: (p,) for u of shape (n,), (p, m) for (n, m). float64."""
        vectors, vector = check.factor(u, "u", self.rows.n_samples, self)
        backend, threads = registry.active(), registry.num_threads()

        def part(start: int, stop: int) -> Float64Array:
            return backend.rmatvec(self.rows.slice(start, stop), vectors[start:stop], threads=threads)

        out = self._summed_over_rows(part, vectors.shape[1])
        return give_back(out[:, 0] if vector else out, self.library)

    def gram_matvec(self, v: Any) -> Any:
        """``G^T (G v)`` from one read of the data: (p,) for v of shape (p,), (p, m) for (p, m). float64.

        The product with the outer product of gradients without forming it, for Lanczos, conjugate gradients and
        power iterations at any p.
        """
        vectors, vector = check.factor(v, "v", self.rows.n_parameters, self)
        backend, threads = registry.active(), registry.num_threads()

        def part(start: int, stop: int) -> Float64Array:
            return backend.gram_matvec(self.rows.slice(start, stop), vectors, threads=threads)

        out = self._summed_over_rows(part, vectors.shape[1])
        return give_back(out[:, 0] if vector else out, self.library)

    def cogram(self) -> Any:
        """``G G^T`` (n, n), symmetric, float64: the dual Gram matrix, or empirical neural tangent kernel.

        Divided by nothing. Its non-zero eigenvalues are those of ``gram()``; it is the smaller of the two where
        n < p.

        Raises
        ------
        ResultTooLargeError
            The result would not fit in memory; nothing was allocated.
        """
        return give_back(dual.cogram(self.rows), self.library)

    def project(self, R: Any) -> Any:
        """``G R`` (n, m), float64, for a random R (p, m) that is never stored, or for a given one.

        Parameters
        ----------
        R : Sketch, or array_like of shape (p, m)
            ``gradhess.sketches.gaussian(m, seed)``, ``rademacher`` or ``sjlt``. Products of rows are kept on
            average: ``E[(G R)(G R)^T] = G G^T``. The same seed gives the same R for every batch with p parameters.
            R is made and used a few MiB at a time.

        Raises
        ------
        InputError
            An array of another height than p.
        """
        if not isinstance(R, Sketch):
            check.factor(R, "R", self.n_parameters, self)  # by that name
            return self.matvec(R)
        return give_back(dual.project(self.rows, R), self.library)

    def toarray(self) -> Any:
        """G itself, (n, p), of type ``dtype``: for tests and small data.

        Raises
        ------
        ResultTooLargeError
            It would not fit in memory.
        """
        _memory.require(self.n_samples * self.n_parameters * self.dtype.itemsize, f"G of shape {self.shape}")
        out = np.empty(self.shape, self.dtype)
        backend = registry.active()
        backend.materialize(self.rows, out)
        passes.check_result(backend, self.rows, out)
        return give_back(out, self.library)

    def as_linear_operator(self) -> LinearOperator:
        """G as a ``scipy.sparse.linalg.LinearOperator`` of shape (n, p), float64, for ``svds``, ``lsmr`` and others.

        Needs SciPy, and NumPy (or anything on the CPU) as the type of its vectors.
        """
        from scipy.sparse.linalg import LinearOperator  # SciPy is slow to import, and needed here alone

        plain = copy.copy(self)
        plain.library = NUMPY
        return LinearOperator(
            shape=self.shape,
            matvec=plain.matvec,
            rmatvec=plain.rmatvec,
            matmat=plain.matvec,
            rmatmat=plain.rmatvec,
            dtype=FLOAT64,
        )

    def loss(self) -> float:
        """The summed loss of the batch; an error for explicit gradients, which have none."""
        raise InputError("explicit gradients carry no loss; glm_gradients(X, y, coef, loss=...) does")

    def hessian(self) -> Any:
        """The Hessian of the summed loss; an error for explicit gradients, which have none."""
        raise InputError("explicit gradients carry no Hessian; glm_gradients(X, y, coef, loss=...) does")

    def _summed_over_rows(self, part: Callable[[int, int], Float64Array], n_vectors: int) -> Float64Array:
        """The sum of ``part(start, stop)`` (p, m) over pieces of the rows."""
        rows = self.rows
        # One size for any number of threads: where pieces begin decides the order of summation, so the bits.
        size = passes.piece_rows(2 * rows.n_parameters * n_vectors, threads=1)
        if n_vectors and 0 < rows.n_samples <= size:
            out = part(0, rows.n_samples)
        else:
            out = np.zeros((rows.n_parameters, n_vectors))
            for start, stop in passes.spans(rows.n_samples if n_vectors else 0, size):
                out += part(start, stop)
        passes.check_result(registry.active(), rows, out)
        return out

    def _moments(self, dtype: npt.DTypeLike, what: str, *, centred: bool, scale: float) -> BatchMoments:
        accumulator, rows = check.accumulator_dtype(dtype), self.rows
        if accumulator is not FLOAT64:
            check.accumulator_fits(accumulator, rows.compute_dtype, "dtype")
        _memory.require_matrix(rows.n_parameters, what, accumulator)
        return passes.moments(rows, "full", centred=centred, dtype=accumulator, scale=scale)

    def _summed(self) -> Float64Array:
        if self._sum is None:
            self._remember(passes.moments(self.rows, "sum"))
        assert self._sum is not None
        return self._sum

    def _remember(self, uncentred: BatchMoments) -> None:
        """Keep the small things that a pass found on its way."""
        self._sum = uncentred.location
        self._loss = uncentred.loss

    def _need_more_than(self, ddof: int, what: str) -> None:
        if self.n_samples <= ddof:
            raise InputError(f"{what} needs more than {ddof} rows, and there are {self.n_samples}")


def scatter_of(moments: BatchMoments) -> AnyArray:
    assert moments.scatter is not None
    return moments.scatter


@dataclass(slots=True)
class ExplicitRows(Rows):
    """Rows that the caller has as an array, and knows by a name."""

    name: str = "G"

    def take(self, which: Any) -> Rows:
        return ExplicitRows(self.X[which], name=self.name)

    def nonfinite_entry(self, index: int, row: int) -> str | None:
        found = Rows.nonfinite_entry(self, index, row)
        return None if found is None else self.name + found.removeprefix("X")


class DenseGradients(Gradients):
    """Gradients that exist as an (n, p) array already: row i of the array is the gradient of sample i."""
