"""The whole job (see problems.py) as each library would have it done. A factory imports its library and returns the
function to time; ImportError, with the reason, where it is not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench_support.backends import on_backend
from bench_support.problems import Answer, Problem

Job = Callable[[Problem], Answer]

SLAB_ROWS = 512  # rows that gradhess sums in the type of the data, at the most (docs/numerics.md)
REFERENCE_MAX_FLOP = 1e9  # the reference backend is an oracle, not a competitor


@dataclass(frozen=True)
class Competitor:
    name: str
    factory: Callable[[], Job]
    summed_rows: int | None = None
    """Rows summed in the type of the data, where not all n."""
    max_flop: float = float("inf")


def gradhess_job(problem: Problem) -> Answer:
    import gradhess as gh

    gradients = gh.glm_gradients(problem.X, problem.y, problem.coef)
    return Answer(gradients.gram(), gradients.sum(), gradients.loss())  # one pass: gram keeps the sums


def numpy_job() -> Job:
    def job(problem: Problem) -> Answer:
        r = problem.X @ problem.coef - problem.y
        G = problem.X * r[:, None]
        return Answer(G.T @ G, G.sum(axis=0), 0.5 * float(r @ r))

    return job


def scipy_job() -> Job:
    from scipy.linalg import get_blas_funcs

    def job(problem: Problem) -> Answer:
        r = problem.X @ problem.coef - problem.y
        G = problem.X * r[:, None]
        (syrk,) = get_blas_funcs(("syrk",), (G,))
        upper = syrk(1.0, G.T)  # G.T is Fortran-ordered: no copy
        return Answer(np.triu(upper) + np.triu(upper, 1).T, G.sum(axis=0), 0.5 * float(r @ r))

    return job


def sklearn_job() -> Job:
    from sklearn.covariance import EmpiricalCovariance

    def job(problem: Problem) -> Answer:
        r = problem.X @ problem.coef - problem.y
        G = problem.X * r[:, None]
        estimator = EmpiricalCovariance(store_precision=False, assume_centered=True).fit(G)
        return Answer(estimator.covariance_ * problem.n, G.sum(axis=0), 0.5 * float(r @ r))

    return job


def onedal_job() -> Job:
    from sklearnex.covariance import IncrementalEmpiricalCovariance

    def job(problem: Problem) -> Answer:
        r = problem.X @ problem.coef - problem.y
        G = problem.X * r[:, None]
        # It always centres, so the mean goes back in.
        estimator = IncrementalEmpiricalCovariance(store_precision=False, batch_size=problem.n).fit(G)
        mean = estimator.location_
        return Answer(
            (estimator.covariance_ + np.outer(mean, mean)) * problem.n, mean * problem.n, 0.5 * float(r @ r)
        )

    return job


def tabmat_job() -> Job:
    from tabmat import DenseMatrix

    def job(problem: Problem) -> Answer:
        X = DenseMatrix(problem.X)
        r = X.matvec(problem.coef) - problem.y
        return Answer(X.sandwich(r * r), X.transpose_matvec(r), 0.5 * float(r @ r))

    return job


def torch_job() -> Job:
    import torch

    torch.set_num_threads(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )

    def job(problem: Problem) -> Answer:
        X, coef, y = (torch.from_numpy(array) for array in (problem.X, problem.coef, problem.y))
        r = X @ coef - y
        G = X * r[:, None]
        return Answer((G.T @ G).numpy(), G.sum(0).numpy(), 0.5 * float(r @ r))

    return job


COMPETITORS = (
    Competitor("gradhess-cpu", on_backend("cpu", gradhess_job), SLAB_ROWS),
    Competitor("gradhess-numba", on_backend("numba", gradhess_job), SLAB_ROWS),
    Competitor("gradhess-reference", on_backend("reference", gradhess_job), SLAB_ROWS, REFERENCE_MAX_FLOP),
    Competitor("numpy", numpy_job),
    Competitor("scipy-syrk", scipy_job),
    Competitor("scikit-learn", sklearn_job),
    Competitor("onedal", onedal_job),
    Competitor("tabmat", tabmat_job),
    Competitor("torch", torch_job),
)
BY_NAME = {competitor.name: competitor for competitor in COMPETITORS}


def syrk_alone(problem: Problem) -> np.ndarray:
    """``X^T X`` by the BLAS of SciPy, upper triangle as its Fortran order has it: less work than the whole job."""
    from scipy.linalg import get_blas_funcs

    (syrk,) = get_blas_funcs(("syrk",), (problem.X,))
    return syrk(1.0, problem.X.T)
