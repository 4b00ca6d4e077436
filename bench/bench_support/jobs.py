"""The operations that are timed, each as the user would call it, with the work that it cannot avoid.

A job is made for a problem (shape, dtype, data) and returns what is called in the timed loop. Its floor is
max(flop / peak of multiply-adds, bytes / read bandwidth) of its *necessary* work: symmetry used, X read once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bench_support.problems import Array, Problem

BLOCK_VECTORS = 8

Call = Callable[[], Any]


def _whole(X: Any, y: Array, coef: Array, loss: Any) -> Call:
    """``G^T G``, the gradient and the loss; the last two were found by the pass of the first."""
    import gradhess as gh

    def call() -> tuple[Array, Array, float]:
        gradients = gh.glm_gradients(X, y, coef, loss)
        return gradients.gram(), gradients.sum(), gradients.loss()

    return call


def squared(problem: Problem) -> Call:
    return _whole(problem.X, problem.y, problem.coef, "squared")


def logistic(problem: Problem) -> Call:
    return _whole(problem.X, (problem.y > 0).astype(np.float64), problem.coef, "logistic")


def poisson(problem: Problem) -> Call:
    counts = np.random.default_rng(3).poisson(1.0, problem.n).astype(np.float64)
    return _whole(problem.X, counts, problem.coef, "poisson")


def huber(problem: Problem) -> Call:
    return _whole(problem.X, problem.y, problem.coef, "huber")


def custom(problem: Problem) -> Call:
    """The squared loss from functions of the user, compiled by Numba: the same arithmetic, called from outside."""
    from gradhess import losses

    loss = losses.custom(lambda eta, y: eta - y, value=lambda eta, y: 0.5 * (eta - y) * (eta - y))
    return _whole(problem.X, problem.y, problem.coef, loss)


def squared_fortran(problem: Problem) -> Call:
    return _whole(np.asfortranarray(problem.X), problem.y, problem.coef, "squared")


def squared_float16(problem: Problem) -> Call:
    return _whole(problem.X.astype(np.float16), problem.y, problem.coef, "squared")


def squared_bfloat16(problem: Problem) -> Call:
    import ml_dtypes

    return _whole(problem.X.astype(ml_dtypes.bfloat16), problem.y, problem.coef, "squared")


def squared_numba(problem: Problem) -> Call:
    import gradhess as gh

    call = squared(problem)

    def on_numba() -> Any:
        with gh.use_backend("numba"):
            return call()

    return on_numba


def weighted_gram(problem: Problem) -> Call:
    import gradhess as gh

    weights = np.random.default_rng(4).standard_normal(problem.n)
    return lambda: gh.weighted_gram(problem.X, weights)


def _covariance(order: Literal["C", "F"]) -> Callable[[Problem], Call]:
    def make(problem: Problem) -> Call:
        import gradhess as gh

        X = np.asarray(problem.X, order=order)
        return lambda: gh.StreamingCovariance().partial_fit(X).covariance_

    return make


def _method(
    name: str, n_vectors: int | None = None, order: Literal["C", "F"] = "C"
) -> Callable[[Problem], Call]:
    def make(problem: Problem) -> Call:
        import gradhess as gh

        gradients = gh.glm_gradients(np.asarray(problem.X, order=order), problem.y, problem.coef)
        method = getattr(gradients, name)
        if n_vectors is None:
            return method
        shape = (problem.d, n_vectors) if n_vectors > 1 else (problem.d,)
        vectors = np.random.default_rng(5).standard_normal(shape)
        return lambda: method(vectors)

    return make


@dataclass(frozen=True)
class Job:
    make: Callable[[Problem], Call]
    """Raises ImportError or a GradhessError, with the reason, where this machine or release cannot do it."""
    flop: Callable[[Problem], float]
    input_bytes: Callable[[Problem], float] = lambda problem: problem.bytes
    result: Callable[[Any], Array | None] = lambda value: None
    """The outer product of gradients in what the call returns, if it is in there; it is checked then."""


def _gram(problem: Problem) -> float:
    return problem.gram_flop


def _rows(vectors: float) -> Callable[[Problem], float]:
    """Multiply-adds of ``vectors`` passes over the rows, counted as two."""
    return lambda problem: 2.0 * problem.n * problem.d * vectors


def _half(problem: Problem) -> float:
    return 2.0 * problem.n * problem.d


def _first(value: Any) -> Array:
    return value[0]


JOBS = {
    "squared": Job(squared, _gram, result=_first),
    "logistic": Job(logistic, _gram),
    "poisson": Job(poisson, _gram),
    "huber": Job(huber, _gram),
    "custom": Job(custom, _gram, result=_first),
    "weighted_gram": Job(weighted_gram, _gram),
    "covariance": Job(_covariance("C"), _gram),
    "Fortran order": Job(squared_fortran, _gram, result=_first),
    "covariance, Fortran order": Job(_covariance("F"), _gram),
    "float16": Job(squared_float16, _gram, _half),
    "bfloat16": Job(squared_bfloat16, _gram, _half),
    "numba": Job(squared_numba, _gram, result=_first),
    # Row-wise: the residual takes one multiply-add an entry as well.
    "diagonal": Job(_method("diagonal"), _rows(2)),
    "diagonal, Fortran order": Job(_method("diagonal", order="F"), _rows(2)),
    "norms": Job(_method("norms"), _rows(2)),
    "matvec": Job(_method("matvec", 1), _rows(2)),
    "gram_matvec": Job(_method("gram_matvec", 1), _rows(3)),
    "matvec, Fortran order": Job(_method("matvec", 1, "F"), _rows(2)),
    "gram_matvec, Fortran order": Job(_method("gram_matvec", 1, "F"), _rows(3)),
    "gram_matvec, 8 vectors": Job(_method("gram_matvec", BLOCK_VECTORS), _rows(1 + 2 * BLOCK_VECTORS)),
}
