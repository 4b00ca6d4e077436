"""Random projections R (p, m) of gradients: known by a seed, made a few columns at a time, never stored.

All are scaled so that ``E[R R^T] = I``: products of rows are kept on average, with a relative standard error of about
``sqrt(2 / m)`` for the squared norm of a row.

================  =====================================================  =================================
name              entries                                                cost of ``G R`` for n dense rows
================  =====================================================  =================================
``gaussian``      independent ``N(0, 1 / m)``                            n p m
``rademacher``    independent ``+-1 / sqrt(m)``                          n p m
``sjlt``          each parameter has s entries ``+-1 / sqrt(s)``,        n p s
                  one in each of s groups of m / s columns
================  =====================================================  =================================

Sources: D. Achlioptas, "Database-friendly random projections", JCSS 66 (2003), for rademacher; D. Kane and J. Nelson,
"Sparser Johnson-Lindenstrauss transforms", J. ACM 61 (2014), for sjlt (their block construction).

Column c of a dense sketch comes from Philox, a counter-based generator, with the key (seed, c), and group c of a sparse
one likewise. So R depends on the seed, p, m and s alone: not on how rows are divided into batches or columns into
parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from gradhess.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from scipy.sparse import csc_array

__all__ = ["Sketch", "gaussian", "rademacher", "sjlt"]

Kind: TypeAlias = Literal["gaussian", "rademacher", "sjlt"]
_MAX_SEED: Final = 2**63


@dataclass(frozen=True, slots=True)
class Sketch:
    """A random R (p, m) for any p. Made by ``gaussian``, ``rademacher`` and ``sjlt``; used by ``project``.

    Attributes
    ----------
    kind : str
    size : int
        m, the number of columns.
    seed : int
    nonzeros : int
        s, the entries of each parameter in a sparse sketch; 0 for a dense one.
    """

    kind: Kind
    size: int
    seed: int
    nonzeros: int = 0

    def toarray(self, n_parameters: int) -> npt.NDArray[np.float64]:
        """R itself, (p, m): for tests and small problems."""
        if self.kind == "sjlt":
            return np.asarray(self.sparse(n_parameters, 0, self.nonzeros).toarray())
        return self.columns(n_parameters, 0, self.size)

    def columns(self, n_parameters: int, start: int, stop: int) -> npt.NDArray[np.float64]:
        """Columns ``start`` to ``stop`` of a dense sketch, (p, stop - start)."""
        out = np.empty((stop - start, n_parameters))
        for c in range(start, stop):
            generator = self._generator(c)
            if self.kind == "gaussian":
                generator.standard_normal(out=out[c - start])
            else:
                bits = np.frombuffer(generator.bytes(-(-n_parameters // 8)), np.uint8)
                out[c - start] = np.unpackbits(bits, count=n_parameters)
                out[c - start] = 2 * out[c - start] - 1
        out /= np.sqrt(self.size)
        return out.T

    def sparse(self, n_parameters: int, start: int, stop: int) -> csc_array:
        """The columns of groups ``start`` to ``stop`` of a sparse sketch, (p, (stop - start) m / s)."""
        from scipy.sparse import csc_array

        width = self.size // self.nonzeros
        columns, signs = [], []
        for group in range(start, stop):
            generator = self._generator(group)
            columns.append(
                generator.integers(0, width, n_parameters, dtype=np.int32) + (group - start) * width
            )
            signs.append(generator.integers(0, 2, n_parameters, dtype=np.int8))
        values = (2.0 * np.concatenate(signs) - 1.0) / np.sqrt(self.nonzeros)
        rows = np.tile(np.arange(n_parameters, dtype=np.int32), stop - start)
        shape = (n_parameters, (stop - start) * width)
        return csc_array((values, (rows, np.concatenate(columns))), shape=shape)

    def _generator(self, index: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=np.array([self.seed, index], np.uint64)))


def gaussian(size: int, seed: int = 0) -> Sketch:
    """R with independent normal entries of variance ``1 / size``.

    Parameters
    ----------
    size : int
        m, the number of columns, at least 1.
    seed : int
        From 0 to ``2**63 - 1``.

    Raises
    ------
    InputError, InputTypeError
        No integers, or out of range.
    """
    return Sketch("gaussian", _integer(size, "size", 1), _integer(seed, "seed", 0))


def rademacher(size: int, seed: int = 0) -> Sketch:
    """R with independent entries ``+-1 / sqrt(size)``: the least variance of all with independent entries.

    Parameters and errors as for ``gaussian``.
    """
    return Sketch("rademacher", _integer(size, "size", 1), _integer(seed, "seed", 0))


def sjlt(size: int, seed: int = 0, *, nonzeros: int = 4) -> Sketch:
    """A sparse R: each parameter has ``nonzeros`` entries ``+-1 / sqrt(nonzeros)``, in as many groups of columns.

    Parameters
    ----------
    size : int
        m, the number of columns, a multiple of ``nonzeros``.
    seed : int
        From 0 to ``2**63 - 1``.
    nonzeros : int
        s. With 1 it is a count sketch.

    Raises
    ------
    InputError, InputTypeError
        No integers, out of range, or ``size`` is no multiple of ``nonzeros``.
    """
    entries = _integer(nonzeros, "nonzeros", 1)
    if _integer(size, "size", 1) % entries:
        raise InputError(f"size is {size}, but must be a multiple of nonzeros, which is {nonzeros}")
    return Sketch("sjlt", int(size), _integer(seed, "seed", 0), entries)


def _integer(value: Any, name: str, minimum: int) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise InputTypeError(f"{name} must be an integer, not {type(value).__name__}")
    if not minimum <= value < _MAX_SEED:
        raise InputError(f"{name} is {value}; it must be at least {minimum}, and below 2**63")
    return int(value)
