"""The centred covariance of plain data in one call, gradhess and its peers in the same run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bench_support.problems import CHUNK, DTYPES, QUICK, SHAPES, Array

ROUNDS = 2 if QUICK else 5
MEAN = 10.0


def _gradhess() -> Callable[[Array], Array]:
    from gradhess import StreamingCovariance

    return lambda X: StreamingCovariance().fit(X).covariance_


def _numpy() -> Callable[[Array], Array]:
    return lambda X: np.cov(X, rowvar=False, ddof=0)


def _sklearn() -> Callable[[Array], Array]:
    from sklearn.covariance import EmpiricalCovariance

    return lambda X: EmpiricalCovariance(store_precision=False).fit(X).covariance_


def _onedal() -> Callable[[Array], Array]:
    from sklearnex.covariance import IncrementalEmpiricalCovariance

    return lambda X: (
        IncrementalEmpiricalCovariance(store_precision=False, batch_size=len(X)).fit(X).covariance_
    )


METHODS = {"gradhess": _gradhess, "numpy": _numpy, "scikit-learn": _sklearn, "onedal": _onedal}


@pytest.fixture(
    scope="module",
    params=[(n, d, dtype) for n, d in SHAPES for dtype in DTYPES],
    ids=lambda shape: "{}x{}-{}".format(*shape),
)
def data(request: pytest.FixtureRequest) -> tuple[Array, Array]:
    """X, and its covariance by two passes in float64."""
    n, d, dtype = request.param
    X = np.random.default_rng(d).standard_normal((n, d), dtype=np.dtype(dtype).type)
    X += np.dtype(dtype).type(MEAN)
    mean = X.mean(axis=0, dtype=np.float64)
    expected = np.zeros((d, d))
    for start in range(0, n, CHUNK):
        centred = X[start : start + CHUNK] - mean
        expected += centred.T @ centred
    return X, expected / n


@pytest.mark.parametrize("name", METHODS)
def test_covariance(
    benchmark: Any, record: Callable[..., None], data: tuple[Array, Array], name: str
) -> None:
    X, expected = data
    try:
        method = METHODS[name]()
    except ImportError as error:
        pytest.skip(f"{name} is not there: {error}")

    benchmark.group = f"cov {X.shape[0]}x{X.shape[1]}-{X.dtype}"
    result = benchmark.pedantic(method, args=(X,), rounds=ROUNDS, warmup_rounds=1)
    # Sums of n terms in the type of the data, about a mean that is itself rounded (MEAN^2 against a variance of 1).
    root = np.sqrt(np.diag(expected))
    bound = (len(X) + 4) * np.finfo(X.dtype).eps * (1 + MEAN**2) * np.outer(root, root)
    assert (np.abs(result - expected) <= bound).all()
    record(name, X.size * (X.shape[1] + 1), X.nbytes)
