"""Covariance of data that arrive in chunks, saved, continued, and merged with another stream."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import gradhess as gh


def chunks(seed: int, n_chunks: int = 50) -> list[np.ndarray]:
    """Rows of five correlated columns, far from zero: the mean is 1e6 standard deviations."""
    rng = np.random.default_rng(seed)
    mixing = np.tril(np.ones((5, 5)))
    return [rng.normal(size=(1000, 5)) @ mixing + 1e6 for _ in range(n_chunks)]


def main() -> None:
    first, second = chunks(0), chunks(1)

    cov = gh.StreamingCovariance(ddof=1)
    for chunk in first[:25]:
        cov.partial_fit(chunk)
    with tempfile.TemporaryDirectory() as folder:  # stop here, and go on some other day
        cov.save(Path(folder) / "state.safetensors")
        cov = gh.StreamingCovariance.load(Path(folder) / "state.safetensors")
    for chunk in first[25:]:
        cov.partial_fit(chunk)

    other = gh.StreamingCovariance(ddof=1)
    for chunk in second:
        other.partial_fit(chunk)
    total = cov + other

    exact = np.cov(np.vstack(first + second).T)
    print(f"rows: {total.n_samples_seen_:,}")
    print("variances:", np.round(np.diag(total.covariance_), 4))
    print(f"largest difference from numpy.cov: {np.abs(total.covariance_ - exact).max():.1e}")
    values, _ = total.eigh(k=2)
    print("two largest eigenvalues:", np.round(values, 4))


if __name__ == "__main__":
    main()
