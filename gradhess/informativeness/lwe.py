"""Learning with errors: secrets, inputs, labels and samples (Regev, *On lattices, learning with errors*, 2005).

A secret ``s`` in Z_q^n is the function ``h_s(x) = <x, s> mod q``. For prime q and secrets uniform on Z_q^n, labels at
two inputs are independent unless one input is a multiple of the other. q need not be prime here: then that no longer
holds, nor does what follows from it (``full_secret_dependence``), because a multiple of a divisor of q meets only part
of Z_q.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gradhess import _memory
from gradhess import _validation as check
from gradhess._arrays import as_numpy
from gradhess._backends.protocol import AnyArray
from gradhess.errors import InputError, InputTypeError
from gradhess.informativeness import _checks
from gradhess.informativeness._inputs import Inputs
from gradhess.informativeness._targets import TargetClass

__all__ = ["full_secret_dependence", "inputs", "labels", "samples", "secrets", "targets"]

IntArray: TypeAlias = npt.NDArray[np.int64]
KINDS: Final = ("binary", "ternary", "uniform")
BLOCK_ENTRIES: Final = 1 << 22
"""Products formed at a time while labels are computed: 32 MiB of float64."""
EXACT_FLOAT: Final = 2**53
"""Up to here float64 holds every integer."""
INT64_END: Final = 2**63
LARGEST_NOISE: Final = 2.0**49
"""Of a standard deviation: 16 of them end where float64 does not hold every integer any more."""


def secrets(
    n: int, q: int, kind: str = "binary", max_nonzero: int | None = None, exact: bool = False
) -> IntArray:
    """Every secret of a kind, one a row.

    Parameters
    ----------
    n : int
        Length of a secret, at least 1.
    q : int
        Modulus, at least 2 (at least 3 for ternary secrets, whose 1 and -1 must differ).
    kind : {"binary", "ternary", "uniform"}
        Entries in {0, 1}, in {-1, 0, 1}, or in {0, ..., q - 1}.
    max_nonzero : int, optional
        At most so many entries that are not zero; n by default.
    exact : bool
        Exactly ``max_nonzero`` instead of at most.

    Returns
    -------
    ndarray of int64, shape (n_secrets, n)
        In order of the number of non-zeros, then of their places, then of their values.

    Raises
    ------
    InputError
        An argument is out of range, or ``exact`` comes without ``max_nonzero``.
    ResultTooLargeError
        The secrets would not fit in memory.
    """
    length = check.count(n, "n", 1)
    modulus = _checks.label_count(q)
    values = nonzero_values(modulus, kind)
    check.flag(exact, "exact")
    if kind == "ternary" and modulus == 2:
        raise InputError("ternary secrets need q of at least 3: modulo 2 the entries 1 and -1 are the same")
    if exact and max_nonzero is None:
        raise InputError("exact=True needs max_nonzero, the number of entries that are not zero")
    most = length if max_nonzero is None else check.count(max_nonzero, "max_nonzero", 0)
    if most > length:
        raise InputError(f"max_nonzero is {most}, but a secret has n = {length} entries")
    counts = [most] if exact else list(range(most + 1))
    total = sum(math.comb(length, k) * len(values) ** k for k in counts)
    _memory.require(8 * total * length, f"the table of {total:,} secrets")
    return np.concatenate([_with_nonzeros(length, k, values) for k in counts])


def nonzero_values(q: int, kind: str) -> tuple[int, ...]:
    """What an entry of a secret may be besides 0."""
    check.one_of(kind, KINDS, "kind")
    return {"binary": (1,), "ternary": (-1, 1), "uniform": tuple(range(1, q))}[kind]


def _with_nonzeros(n: int, k: int, values: tuple[int, ...]) -> IntArray:
    places = np.array(list(itertools.combinations(range(n), k)), np.int64).reshape(math.comb(n, k), k)
    entries = _grid(k, np.array(values, np.int64))
    table = np.zeros((len(places), len(entries), n), np.int64)
    table[
        np.arange(len(places))[:, None, None], np.arange(len(entries))[None, :, None], places[:, None, :]
    ] = entries
    return table.reshape(-1, n)


def _grid(n: int, values: AnyArray) -> AnyArray:
    """All of values^n, (len(values)^n, n), the last coordinate moving fastest."""
    return values[np.indices((len(values),) * n).reshape(n, -1).T] if n else np.zeros((1, 0), values.dtype)


def inputs(n: int, a: Any) -> Inputs:
    """Every input of a box, with its probability.

    Parameters
    ----------
    n : int
        Number of coordinates, at least 1.
    a : int, or array_like of shape (b,)
        An integer: the points {0, ..., a - 1}^n, all equally likely. An array: the probabilities of the values
        0, ..., b - 1 in each of the n independent coordinates (divided by their sum); values of probability zero are
        left out.

    Returns
    -------
    Inputs

    Examples
    --------
    Sparse inputs modulo 3, with ``P(x_i != 0) = 0.3``: ``inputs(4, [0.7, 0.15, 0.15])``.
    """
    length = check.count(n, "n", 1)
    if isinstance(a, (int, np.integer)) and not isinstance(a, (bool, np.bool_)):
        size = check.count(a, "a", 1)
        _memory.require(32 * size**length * length, f"the table of {size}^{length} inputs")
        shares = np.full(size, 1.0 / size)
    else:
        shares = _checks.probabilities(a, "a")
    values = np.flatnonzero(shares).astype(np.int64)
    _memory.require(32 * len(values) ** length * length, f"the table of {len(values)}^{length} inputs")
    points = _grid(length, values)
    return Inputs(points, _grid(length, shares[values]).prod(axis=1))


def labels(inputs: Any, secrets: Any, q: int) -> npt.NDArray[np.uint8]:
    """``<x, s> mod q`` for every secret and input, without noise.

    Parameters
    ----------
    inputs : Inputs, or array_like of integers, shape (n_inputs, n)
    secrets : array_like of integers, shape (n_secrets, n)
        Floats without a fraction are taken up to 2^53, where they stop to tell integers apart.
    q : int
        From 2 to 256.

    Returns
    -------
    ndarray of uint8, shape (n_secrets, n_inputs)

    Raises
    ------
    InputError
        Shapes do not agree, an entry is not finite or out of range, or ``n (q - 1)^2`` is not below 2^53, within which
        sums are exact.
    InputTypeError
        An entry is no integer.
    """
    modulus = _checks.label_count(q)
    points = _table(inputs.points if isinstance(inputs, Inputs) else inputs, "inputs")
    keys = _table(secrets, "secrets")
    if points.shape[1] != keys.shape[1]:
        raise InputError(
            f"inputs has shape {points.shape}, but secrets has shape {keys.shape}: both need n columns"
        )
    _sums_are_exact(points.shape[1], modulus, EXACT_FLOAT)
    points, keys = _integers(points, "inputs") % modulus, _integers(keys, "secrets") % modulus
    _memory.require(len(keys) * len(points), "the table of labels")
    found = np.empty((len(keys), len(points)), np.uint8)
    step = max(1, BLOCK_ENTRIES // len(points))
    right = points.T.astype(np.float64)  # sums of n products below q^2 are exact in float64
    for start in range(0, len(keys), step):
        block = slice(start, start + step)
        found[block] = np.mod(keys[block].astype(np.float64) @ right, modulus)
    return found


def targets(secrets: Any, q: int, *, weights: Any = None) -> TargetClass:
    """The functions ``h_s(x) = <x, s> mod q`` of the given secrets, as a target class with values 0, ..., q - 1."""
    modulus = _checks.label_count(q)
    keys = _integers(secrets, "secrets")
    return TargetClass(
        f"{len(keys):,} secrets modulo {modulus}",
        lambda points, members: labels(points, members, modulus).T,
        members=keys,
        weights=weights,
        q=modulus,
    )


def samples(
    n: int,
    q: int,
    secret: Any,
    n_samples: int,
    *,
    input_distribution: Any = "uniform",
    noise_std: float = 0.0,
    rng: Any = 0,
) -> tuple[IntArray, IntArray]:
    """Draw samples ``(x, <x, secret> + e mod q)``.

    Parameters
    ----------
    n, q : int
        Length of the secret, and modulus (at least 2, and ``n (q - 1)^2`` below 2^63).
    secret : array_like of integers, shape (n,)
    n_samples : int
    input_distribution : "uniform", Inputs, array_like of shape (b,), or callable
        Uniform on Z_q^n; a distribution on points; the probabilities of 0, ..., b - 1 in each coordinate; or
        ``f(n_samples, rng)`` giving (n_samples, n).
    noise_std : float
        Standard deviation of ``e`` before it is rounded to the nearest integer, at most 2^49; 0 for none.
    rng : int or numpy.random.Generator

    Returns
    -------
    x : ndarray of int64, shape (n_samples, n)
    y : ndarray of int64, shape (n_samples,), in 0..q-1

    Raises
    ------
    InputError
        A number is out of range or not finite, or shapes do not agree.
    InputTypeError
        The secret or the inputs are no integers.
    ResultTooLargeError
        The samples would not fit in memory.
    """
    length, modulus = check.count(n, "n", 1), check.count(q, "q", 2)
    rows = check.count(n_samples, "n_samples", 1)
    _sums_are_exact(length, modulus, INT64_END)
    _memory.require(2 * 8 * rows * length, f"{rows:,} samples of {length:,} numbers")
    key = as_numpy(secret, "secret")
    if key.shape != (length,):
        raise InputError(f"secret has shape {key.shape}; it must be ({length},)")
    key = _integers(key[np.newaxis], "secret")[0] % modulus
    spread = check.nonnegative(noise_std, "noise_std")
    if spread > LARGEST_NOISE:
        raise InputError(
            f"noise_std is {spread:g}; it must be at most 2^49, or the noise is no exact integer. Above about q it "
            "makes labels uniform anyway"
        )
    generator = _checks.generator(rng)
    draw = _input_sampler(length, modulus, input_distribution)
    x = _integers(draw(rows, generator), "the drawn inputs")
    if x.shape != (rows, length):
        raise InputError(f"the drawn inputs have shape {x.shape}; they must be {(rows, length)}")
    y = np.asarray((x % modulus @ key) % modulus)
    if spread:
        noise = np.rint(spread * generator.standard_normal(rows)).astype(np.int64)
        y = (y + noise % modulus) % modulus
    return x, y


def _input_sampler(n: int, q: int, distribution: Any) -> Callable[[int, np.random.Generator], AnyArray]:
    if isinstance(distribution, str):
        check.one_of(distribution, ("uniform",), "input_distribution")
        return lambda rows, rng: rng.integers(0, q, size=(rows, n))
    if isinstance(distribution, Inputs):
        return distribution.sample
    if callable(distribution):
        return lambda rows, rng: as_numpy(distribution(rows, rng), "the drawn inputs")
    shares = _checks.probabilities(distribution, "input_distribution")
    return lambda rows, rng: rng.choice(len(shares), size=(rows, n), p=shares)


def full_secret_dependence(n: int, q: int) -> float:
    """``2 (1 - 1/q) q^((1 - n) / 2)``: the pairwise dependence of secrets uniform on Z_q^n, inputs uniform on Z_q^n.

    Raises
    ------
    InputError
        q is not prime. Labels at two inputs are then dependent in more ways, and the dependence is larger; compute it
        with ``pairwise_dependence``.
    """
    length, modulus = check.count(n, "n", 1), check.count(q, "q", 2)
    divisor = next((d for d in range(2, math.isqrt(modulus) + 1) if modulus % d == 0), None)
    if divisor is not None:
        raise InputError(
            f"q = {modulus} = {divisor} x {modulus // divisor} is not prime, and the formula holds for primes only: "
            "use pairwise_dependence(labels, q)"
        )
    return float(2 * (1 - 1 / modulus) * modulus ** ((1 - length) / 2))


def _sums_are_exact(n: int, q: int, end: int) -> None:
    if n * (q - 1) ** 2 >= end:
        raise InputError(
            f"q is {q} and n is {n}: n (q - 1)^2 must be below 2^{end.bit_length() - 1}, or the sum <x, s> would not "
            "be exact; take a smaller modulus, or shorter secrets"
        )


def _table(value: Any, name: str) -> AnyArray:
    array = as_numpy(value, name)
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"{name} has shape {array.shape}; it must be of two dimensions, one row each")
    return array


def _integers(value: Any, name: str) -> IntArray:
    """(rows, columns) int64, of integers or of floats that are integers."""
    array = _table(value, name)
    if array.dtype.kind not in "iub":
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise InputError(f"{name} holds NaN or infinity")
        fractions = array != np.rint(array)
        if fractions.any():
            row, column = (int(index) for index in np.argwhere(fractions)[0])
            raise InputTypeError(
                f"{name} must hold integers, and the entry in row {row}, column {column}, is {array[row, column]:g}"
            )
        if np.abs(array).max() > EXACT_FLOAT:
            raise InputError(
                f"{name} holds floats above 2^53, which do not tell integers apart; pass an array of integers"
            )
    elif array.dtype.kind == "u" and int(array.max()) >= INT64_END:
        raise InputError(
            f"{name} holds {int(array.max())}, which is above the range of int64; reduce it modulo q"
        )
    return array.astype(np.int64)
