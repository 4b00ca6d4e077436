"""``StreamingCovariance``: what users see of a stream of rows or gradients."""

from __future__ import annotations

from typing import Any, Self, cast

import numpy as np

from gradhess import _memory
from gradhess import _validation as check
from gradhess._arrays import NUMPY, give_back, library_of
from gradhess._backends import registry
from gradhess._backends.protocol import WEIGHT, WEIGHT_SQUARES, AnyArray, Float64Array, MomentState, Rows
from gradhess._device_arrays import on_device
from gradhess._gradients import Gradients
from gradhess._gradients.device import DeviceGradients, device_rows
from gradhess._gradients.device.make import per_row
from gradhess._streaming import serial, spectral
from gradhess._streaming.device_results import DeviceResults
from gradhess._streaming.device_stream import DeviceStream
from gradhess._streaming.host_feed import HostFeed
from gradhess._streaming.movable import Movable, copied
from gradhess._streaming.stream import MomentStream
from gradhess.errors import InputError, NotFittedError


class StreamingCovariance(Movable):
    """Mean and covariance of rows that come in chunks: of plain data, or of per-sample gradients.

    Rows are samples. Centring is stable, in one pass: every block of 4096 rows is summed about a shift of its own, and
    blocks are merged by the formula of Chan, Golub and LeVeque (*Algorithms for computing the sample variance*, 1983).
    Results have the same bits for any chunking of the same rows and any number of threads.

    Parameters
    ----------
    structure : {"full", "diagonal"}
        ``"full"`` keeps the (p, p) covariance, ``"diagonal"`` the p variances.
    assume_centered : bool
        Sum about zero: the mean is not subtracted, and ``location_`` is zero.
    ddof : int
        The covariance is divided by ``W - ddof * W2 / W`` with ``W = sum w_i`` and ``W2 = sum w_i^2``, as in
        ``np.cov(aweights=...)``. Without weights that is ``n - ddof``: 0 divides by n, 1 by n - 1.
    dtype : {"float64", "float32"}
        Of the accumulator and of results; float32 only for float32 data.
    on_nonfinite : {"error", "skip"}
        What to do about a row (or weight) with NaN or infinity: refuse the chunk, or leave the row out and count it in
        ``n_samples_skipped_``.
    device : str, optional
        Where the sums are kept: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. None keeps them where the first chunk lies. With
        a GPU named here, chunks may be NumPy arrays of any size: they are copied there in pieces, while the piece
        before is computed.

    Notes
    -----
    On a GPU, rows that are not finite are found later: at the next result that is read, which raises the error with
    the row and the call; that call and those after it are left out then. See docs/gpu.md.

    A call that fails leaves the object as it was, to the bit. Only for a covariance above 8 MiB (1024 parameters),
    Ctrl-C leaves the rows up to there inside: the state is valid, and ``n_samples_seen_`` says how many they are.

    Results are finished when they are read, on a copy: reading changes nothing. They come back as the array type of the
    last chunk (NumPy, PyTorch, JAX).

    Examples
    --------
    >>> cov = StreamingCovariance(ddof=1)
    >>> for X, y in chunks:
    ...     cov.partial_fit(gradhess.glm_gradients(X, y, coef, loss="logistic"))
    >>> cov.covariance_
    """

    # ---- rows in -------------------------------------------------------------------------------------------------

    def partial_fit(self, X: Any, sample_weight: Any = None) -> Self:
        """Add a chunk of rows.

        Parameters
        ----------
        X : array_like of shape (n, p), or gradients
            Plain data (rows are samples), or what ``glm_gradients`` and ``as_gradients`` return, whose rows are formed
            on the way and never stored. n = 0 changes nothing.
        sample_weight : array_like, shape (n,), optional
            Weights ``w_i >= 0`` of the *moment*: ``sum_i w_i g_i g_i^T``, as ``aweights`` of ``np.cov``. Not the
            ``sample_weight`` of ``glm_gradients``, which weights the *loss* and so multiplies the gradient itself.

        Returns
        -------
        self

        Raises
        ------
        InputError, InputTypeError
            Not two-dimensional, another width than before, not real numbers, negative weights, or float64 data for a
            float32 accumulator.
        NonFiniteError
            A row or weight is not finite (unless ``on_nonfinite="skip"``); ``row`` is its index in this chunk.
        ResultTooLargeError
            The first chunk is so wide that the covariance would not fit in memory.
        """
        if type(X) is not np.ndarray and (isinstance(X, DeviceGradients) or on_device(X)):
            self._fit_device(X, sample_weight)
            return self
        if isinstance(X, Gradients):
            rows, library = X.rows, X.library
        else:
            rows, library = Rows(check.matrix(X, "X")), library_of(X)
        n = rows.n_samples
        weights = check.nonnegative_weights(sample_weight, "sample_weight", n, rows.X.shape)
        if n:
            self._forget()
        skip = self._settings.on_nonfinite == "skip"
        if isinstance(self._stream, DeviceStream):
            if self._settings.device is None:
                raise InputError(
                    f"X is on the host, and the rows seen so far are on {self._stream.place.name}; pass arrays of that "
                    "device, or make the object with device='cuda' to have chunks copied there"
                )
            self._feed = self._feed or HostFeed()
            self._feed.add(self._stream, rows, weights, skip=skip)
        else:
            self._stream.add(rows, weights, skip=skip)
        if n:
            self._library = library
        return self

    def _fit_device(self, X: Any, sample_weight: Any) -> None:
        """``partial_fit`` of arrays, or gradients, on a GPU."""
        rows, place = (X.rows, X.place) if isinstance(X, DeviceGradients) else device_rows(X, "X")
        stream = self._stream
        if isinstance(stream, MomentStream):
            if stream.state is not None or self._settings.device == "cpu":
                raise InputError(
                    f"X is on {place.name}, and this object sums on the host; move it first: .to({place.name!r})"
                )
            stream = self._settings.stream_at(place)
        elif stream.place.device != place.device:
            raise InputError(
                f"X is on {place.name}, and the rows seen so far on {stream.place.name}; move one: .to(...)"
            )
        with place:
            weights = per_row(
                sample_weight, "sample_weight", rows.n_samples, place, rows.X.shape, nonnegative=True
            )
            stream.place = place  # the same device; from here on the stream of this library
            stream.add(rows, weights, skip=self._settings.on_nonfinite == "skip")
        self._stream = stream
        if rows.n_samples:
            self._forget()
            self._library = place.library

    def fit(self, X: Any, sample_weight: Any = None) -> Self:
        """Forget all rows and add these: ``reset`` and ``partial_fit`` in one, or neither if it fails."""
        fresh = type(self)(**self.get_params())
        fresh.partial_fit(X, sample_weight)
        self._take_over(fresh)
        return self

    def reset(self) -> Self:
        """Forget all rows; the parameters stay."""
        self._stream = self._settings.empty_stream()
        self._library = NUMPY
        self._forget()
        return self

    def merge(self, other: StreamingCovariance) -> Self:
        """Add all rows that ``other`` has seen, by Chan's formula; ``other`` is only read.

        Both are finished first, so the bits depend on where the rows were divided (the accuracy does not). ``ddof`` and
        ``on_nonfinite`` stay those of this object, and so does the device: a state on another one is copied to it.

        Raises
        ------
        InputError
            Another structure, centring, dtype or width, or this object itself. Both objects are as they were.
        InputTypeError
            ``other`` is no StreamingCovariance.
        """
        check.instance(other, StreamingCovariance, "other")
        if other is self:
            raise InputError("cannot merge an object with itself: every row would count twice")
        for name, mine, theirs in zip(
            ("structure", "assume_centered", "dtype"),
            self._settings.sums(),
            other._settings.sums(),
            strict=True,
        ):
            if mine != theirs:
                raise InputError(f"cannot merge: {name} is {theirs!r} there and {mine!r} here")
        self._forget()
        mine, theirs = self._stream, other._stream
        if isinstance(mine, MomentStream) and isinstance(theirs, MomentStream):
            mine.merge(theirs)
        elif isinstance(mine, MomentStream):
            mine.merge(cast(MomentStream, other.to("cpu")._stream))
        else:
            here = mine.place.name
            same = isinstance(theirs, DeviceStream) and theirs.place.device == mine.place.device
            mine.merge(cast(DeviceStream, theirs if same else other.to(here)._stream))
        return self

    def __add__(self, other: object) -> StreamingCovariance:
        """A new object with the rows of both."""
        if not isinstance(other, StreamingCovariance):
            return NotImplemented
        return self.copy().merge(other)

    def copy(self) -> Self:
        """An independent copy, that goes on bit for bit as this one would."""
        new = type(self)(**self.get_params())
        if isinstance(self._stream, DeviceStream):
            new._stream, new._library = self._stream.copy(), self._library
            return new
        assert isinstance(new._stream, MomentStream)
        with self._stream.lock:
            serial.unpack(new._stream, *copied(serial.pack(self._stream)))
        new._library = self._library
        return new

    # ---- results -------------------------------------------------------------------------------------------------

    @property
    def n_samples_seen_(self) -> int:
        """Rows added so far, without those that were skipped."""
        return self._stream.n_seen

    @property
    def n_samples_skipped_(self) -> int:
        """Rows left out because they were not finite."""
        return self._stream.n_skipped

    @property
    def n_features_in_(self) -> int:
        """p, the width of the rows: features of data, parameters of gradients."""
        return self._fitted_state().n_parameters

    @property
    def weight_sum_(self) -> float:
        """``W = sum_i w_i``; the number of rows where no weights were given."""
        if isinstance(self._stream, DeviceStream):
            return self._read().weight() if self.n_samples_seen_ else 0.0
        return float(self._sums().scalars[WEIGHT]) if self.n_samples_seen_ else 0.0

    @property
    def location_(self) -> Any:
        """The weighted mean of the rows, (p,), float64; zeros if ``assume_centered``."""
        if isinstance(self._stream, DeviceStream):
            return self._read().location()
        return give_back(self._location(), self._library)

    @property
    def covariance_(self) -> Any:
        """``sum_i w_i (g_i - m)(g_i - m)^T / (W - ddof W2 / W)``: (p, p), symmetric; (p,) variances of a diagonal.

        Computed anew on every access. InputError if there are too few rows for ``ddof``.
        """
        if isinstance(self._stream, DeviceStream):
            return self._read().covariance(self.ddof)
        return give_back(self._covariance(), self._library)

    @property
    def second_moment_(self) -> Any:
        """``sum_i w_i g_i g_i^T / W``, about zero: (p, p), symmetric; (p,) of a diagonal. Computed on every access."""
        if isinstance(self._stream, DeviceStream):
            return self._read().second_moment()
        state, owned = self._finished()
        moment = self._scaled(state, owned, 1.0 / self._positive_weight(state))
        if state.centred:
            mean = state.location
            if moment.ndim == 1:
                moment += mean * mean
            else:
                for i, entry in enumerate(mean):  # row by row: no second (p, p) array
                    moment[i] += entry * mean
        return give_back(moment, self._library)

    @property
    def precision_(self) -> Any:
        """The pseudo-inverse of ``covariance_``, of its shape, float64, symmetric.

        Eigenvalues of at most ``p * eps * (largest)`` count as zero, with eps of the type in which rows are computed
        (float32 for float32 data, else float64). A diagonal treats a variance as zero that is within the rounding of
        its own mean.
        """
        if isinstance(self._stream, DeviceStream):
            return self._read().precision(self.ddof)
        return give_back(self._spectrum().precision(), self._library)

    def get_precision(self) -> Any:
        """``precision_``, under the name of scikit-learn's method."""
        return self.precision_

    def eigh(self, k: int | None = None) -> tuple[Any, Any]:
        """Eigenvalues of ``covariance_`` in descending order, and the eigenvectors as columns.

        Parameters
        ----------
        k : int, optional
            Only the k largest. All by default.

        Returns
        -------
        eigenvalues : (k,), float64
        eigenvectors : (p, k), float64, orthonormal

        Notes
        -----
        Kept until the next row comes.
        """
        p = self.n_features_in_
        k = p if k is None else check.count(k, "k", 1)
        if k > p:
            raise InputError(f"k is {k}, but there are {p} parameters")
        if isinstance(self._stream, DeviceStream):
            return self._read().eigh(k, self.ddof)
        if self._eigen is None and self.structure == "full" and 2 * k < p:
            if self._leading is None or self._leading[0].size < k:
                self._leading = spectral.largest(self._covariance(), k)
            values, vectors = self._leading[0][:k].copy(), self._leading[1][:, :k].copy()
        else:
            values, vectors = self._spectrum().top(k)
        return give_back(values, self._library), give_back(vectors, self._library)

    def logdet(self) -> float:
        """Logarithm of the determinant of ``covariance_``.

        Minus infinity if the covariance is singular, that is if an eigenvalue counts as zero (see ``precision_``), as
        ``numpy.linalg.slogdet`` has it. For a pseudo-determinant, sum the logarithms of those of ``eigh()`` you keep.
        """
        if isinstance(self._stream, DeviceStream):
            return self._read().logdet(self.ddof)
        return self._spectrum().logdet()

    def mahalanobis(self, X: Any) -> Any:
        """Squared Mahalanobis distances ``(x - m)^T precision_ (x - m)``, (n,), float64, as scikit-learn's.

        Parameters
        ----------
        X : array_like of shape (n, p), or gradients

        Raises
        ------
        InputError
            Another width than the rows seen.
        """
        if isinstance(self._stream, DeviceStream):
            return self._read().mahalanobis(X, self.ddof)
        if isinstance(X, Gradients):
            rows, library = X.rows, X.library
        else:
            rows, library = Rows(check.matrix(X, "X")), library_of(X)
        if rows.n_parameters != self.n_features_in_:
            raise InputError(
                f"X has {rows.n_parameters} columns, but the rows seen have {self.n_features_in_}"
            )
        return give_back(self._spectrum().distances(rows, self._location()), library)

    # ---- inside --------------------------------------------------------------------------------------------------

    def _read(self) -> DeviceResults:
        """What reads results on a GPU."""
        assert isinstance(self._stream, DeviceStream)
        if not self._stream.n_seen:
            raise NotFittedError("no rows were seen yet; call partial_fit or fit first")
        return DeviceResults(self._stream, self._library)

    def _fitted_state(self) -> MomentState:
        state: MomentState | None = self._stream.state
        if state is None or not self.n_samples_seen_:
            raise NotFittedError("no rows were seen yet; call partial_fit or fit first")
        return state

    def _sums(self) -> MomentState:
        self._fitted_state()
        return self._stream.finished(sums_only=True)[0]

    def _finished(self) -> tuple[MomentState, bool]:
        state = self._fitted_state()
        if state.scatter is not None:
            _memory.require(state.scatter.nbytes, "a copy of the covariance, to finish it in,")
        return self._stream.finished()

    def _location(self) -> Float64Array:
        state = self._sums()
        if not state.centred:
            return np.zeros(state.n_parameters)
        self._positive_weight(state)
        return state.location

    def _positive_weight(self, state: MomentState) -> float:
        weight = float(state.scalars[WEIGHT])
        if not weight > 0:
            raise InputError(f"the weights of the {self.n_samples_seen_} rows seen sum to {weight:g}")
        return weight

    def _covariance(self) -> AnyArray:
        state, owned = self._finished()
        weight = self._positive_weight(state)
        squares = float(state.scalars[WEIGHT_SQUARES]) if self.ddof else 0.0
        divisor = weight - self.ddof * squares / weight
        if not divisor > 0:
            raise InputError(
                f"too few rows for ddof={self.ddof}: {self.n_samples_seen_} were seen, and the divisor would be "
                f"{divisor:g}"
            )
        return self._scaled(state, owned, 1.0 / divisor)

    def _scaled(self, state: MomentState, owned: bool, scale: float) -> AnyArray:
        """The scatter times ``scale``, complete and symmetric, in an array of its own."""
        scatter = state.scatter
        assert scatter is not None
        if scatter.ndim == 1:
            return np.asarray(scatter * scale, scatter.dtype)
        out = scatter if owned else np.empty_like(scatter)
        registry.active().symmetrize(scatter, scale, out, threads=registry.num_threads())
        return out

    def _spectrum(self) -> spectral.Spectrum:
        if self._eigen is None:
            covariance = self._covariance()
            compute_dtype = self._stream.compute_dtype
            assert compute_dtype is not None
            if covariance.ndim == 1:
                self._eigen = spectral.of_diagonal(covariance, self._location(), compute_dtype)
            else:
                self._eigen = spectral.of_full(covariance, compute_dtype)
            self._leading = None
        return self._eigen
