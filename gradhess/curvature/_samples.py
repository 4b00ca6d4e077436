"""What a linear layer's curvature is made of, per sample: activations, errors, and Hessians by the pre-activation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gradhess._arrays import as_numpy
from gradhess._backends.protocol import Float64Array
from gradhess.errors import InputError, InputTypeError, NonFiniteError

OVERFLOW: Final = (
    "the square of the Hessian or of the gradient of sample {row} overflows float64, though what they are made of does "
    "not; divide the inputs, or the loss, of all samples by the same number"
)


@dataclass(frozen=True, eq=False, repr=False)
class LayerSamples:
    """Samples at one linear layer ``z = W a``, W of shape (k, m), parameters in row-major order.

    Sample p has the gradient ``b_p (x) a_p`` and the Hessian ``Q_p (x) a_p a_p^T``, with ``b = dl/dz`` and
    ``Q = d^2 l / dz^2``: exactly, for any network in which the layer is applied once to a sample, since z is linear in
    W. Q is kept as ``F^T S F`` with few rows in F: where the map from z to the outputs o is piecewise linear, as with
    ReLU, F is the Jacobian ``do/dz`` and S the Hessian of the loss by o. For a bias, append 1 to a.

    Parameters
    ----------
    activations : array_like, shape (n, m)
        a.
    errors : array_like, shape (n, k)
        b.
    core : array_like, shape (n, r, r)
        S, symmetric.
    factor : array_like, shape (n, r, k), optional
        F. None: the identity, r = k.
    positive : bool, optional
        True if it is known that every S is positive semidefinite; otherwise that is found out where it is needed.

    Raises
    ------
    InputError, InputTypeError
        Shapes that do not agree; data that are not real numbers.
    NonFiniteError
        A sample is not finite; ``row`` is the first.
    """

    activations: Float64Array
    errors: Float64Array
    core: Float64Array
    factor: Float64Array | None = None
    positive: bool | None = None

    def __post_init__(self) -> None:
        a = _array(self.activations, "activations", 2)
        b = _array(self.errors, "errors", 2)
        S = _array(self.core, "core", 3)
        n, k = b.shape
        F = None if self.factor is None else _array(self.factor, "factor", 3)
        expected = (n, k, k) if F is None else (n, F.shape[1], F.shape[1])
        if len(a) != n:
            raise InputError(f"errors has shape {b.shape}, but activations has shape {a.shape}: one row each")
        if S.shape != expected:
            raise InputError(f"core has shape {S.shape}; it must be {expected}")
        if F is not None and (F.shape[0] != n or F.shape[2] != k):
            raise InputError(
                f"factor has shape {F.shape}, but errors has shape {b.shape}: it must be ({n}, r, {k})"
            )
        if a.shape[1] == 0 or k == 0:
            raise InputError(f"the layer has shape ({k}, {a.shape[1]}): there are no parameters")
        for name, array in (("activations", a), ("errors", b), ("core", S), ("factor", F)):
            if array is not None:
                _finite(array, name)
                object.__setattr__(self, name, array)

    def __repr__(self) -> str:
        return f"<LayerSamples of {self.n_samples} samples, layer {self.shape}>"

    @property
    def n_samples(self) -> int:
        """n."""
        return len(self.activations)

    @property
    def shape(self) -> tuple[int, int]:
        """(k, m) of the layer's weight."""
        return self.errors.shape[1], self.activations.shape[1]

    @property
    def n_parameters(self) -> int:
        """p = k m."""
        k, m = self.shape
        return k * m

    def hessians(self) -> Float64Array:
        """Q, (n, k, k): Hessians of the per-sample losses by the pre-activation."""
        if self.factor is None:
            return self.core
        return np.asarray(self.factor.transpose(0, 2, 1) @ (self.core @ self.factor))

    def squared_lengths(self) -> Float64Array:
        """``||a_p||^2``, (n,)."""
        return np.asarray(np.einsum("pi,pi->p", self.activations, self.activations))

    def apply(self, u: Float64Array) -> Float64Array:
        """``Q_p u`` for u of shape (n, N, k): N directions for each sample."""
        if self.factor is None:
            return u @ self.core
        return np.asarray(u @ self.factor.transpose(0, 2, 1) @ self.core @ self.factor)

    def part(self, start: int, stop: int) -> LayerSamples:
        """Samples start, ..., stop - 1."""
        return self._taken(slice(start, stop))

    def select(self, rows: IndexArray) -> LayerSamples:
        """The samples of those indices, in that order."""
        return self._taken(rows)

    def _taken(self, rows: slice | IndexArray) -> LayerSamples:
        """Without the checks, which all samples have passed."""
        taken = object.__new__(LayerSamples)
        for name in ("activations", "errors", "core", "factor"):
            array = getattr(self, name)
            object.__setattr__(taken, name, None if array is None else array[rows])
        object.__setattr__(taken, "positive", self.positive)
        return taken


IndexArray: TypeAlias = npt.NDArray[np.intp]
Source: TypeAlias = LayerSamples | Iterable[LayerSamples] | Callable[[], Iterable[LayerSamples]]


def chunks(samples: Source) -> Iterator[LayerSamples]:
    """The samples, in the pieces that they come in.

    Raises
    ------
    InputError
        Pieces of different layers.
    InputTypeError
        Something else among them.
    """
    if isinstance(samples, LayerSamples):
        yield samples
        return
    pieces = samples() if callable(samples) else samples
    shape = None
    for piece in _iterate(pieces):
        if not isinstance(piece, LayerSamples):
            raise InputTypeError(f"samples must hold LayerSamples, not {type(piece).__name__}")
        if shape is not None and piece.shape != shape:
            raise InputError(
                f"samples of a layer of shape {piece.shape} follow those of one of shape {shape}"
            )
        shape = piece.shape
        yield piece


def blocks(samples: Source, rows: int) -> Iterator[LayerSamples]:
    """The samples in pieces of ``rows`` each, the last of which may be shorter, however they come."""
    waiting: list[LayerSamples] = []
    missing = rows
    for piece in chunks(samples):
        start = 0
        while piece.n_samples - start >= missing:
            yield _joined([*waiting, piece.part(start, start + missing)])
            start, waiting, missing = start + missing, [], rows
        if start < piece.n_samples:
            waiting.append(piece.part(start, piece.n_samples))
            missing -= piece.n_samples - start
    if waiting:
        yield _joined(waiting)


def _joined(pieces: list[LayerSamples]) -> LayerSamples:
    """One after another. Q is formed where it is not kept in the same form in all of them."""
    if len(pieces) == 1:
        return pieces[0]
    alike = len({(piece.factor is None, piece.core.shape[1]) for piece in pieces}) == 1
    factors = [piece.factor for piece in pieces if piece.factor is not None]
    return LayerSamples(
        np.concatenate([piece.activations for piece in pieces]),
        np.concatenate([piece.errors for piece in pieces]),
        np.concatenate([piece.core if alike else piece.hessians() for piece in pieces]),
        np.concatenate(factors) if alike and factors else None,
        all(piece.positive for piece in pieces) or None,
    )


def repeatable(samples: Source) -> Source:
    """``samples``, if they can be gone through several times."""
    if isinstance(samples, LayerSamples) or callable(samples):
        return samples
    if iter(_iterate(samples)) is samples:
        raise InputError(
            "samples is an iterator, which can be gone through once, and this needs several passes; "
            "pass a list, or a function that returns a new iterator"
        )
    return samples


def _iterate(samples: Any) -> Iterable[Any]:
    if not isinstance(samples, Iterable):
        raise InputTypeError(
            f"samples must be LayerSamples, or several of them, not {type(samples).__name__}"
        )
    return samples


def _array(value: Any, name: str, ndim: int) -> Float64Array:
    array = as_numpy(value, name)
    if array.ndim != ndim:
        raise InputError(f"{name} has shape {array.shape}; it must have {ndim} dimensions, samples first")
    return np.asarray(array, np.float64)


def _finite(array: Float64Array, name: str) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        total = array.sum()  # an infinity or a NaN would be in it; and far quicker than looking at each
    if np.isfinite(total):
        return
    good = np.isfinite(array)
    if not good.all():
        row = int(np.argmin(good.reshape(len(array), -1).all(axis=1)))
        raise NonFiniteError(row, f"{name}[{row}] holds NaN or infinity; drop such samples")
