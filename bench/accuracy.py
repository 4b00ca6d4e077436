"""Error of a covariance of float32 rows against the number of rows, for NumPy in float32 and for gradhess.

The error is max |dC_ij| / sqrt(C_ii C_jj) against two passes in float64. Drawn for data whose mean is zero, and for a
mean of 100 standard deviations.

    python bench/accuracy.py [--output FILE] [--image FILE]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench_support import record
from bench_support.problems import CHUNK, QUICK, Array

D = 16
RATIOS = (0.0, 100.0)
"""Mean over standard deviation."""
ROWS = tuple(2**k for k in (range(8, 13) if QUICK else range(8, 24)))
LIMIT = 5e-7
"""What gradhess promises at 2^20 rows (docs/numerics.md), and tests/test_accuracy.py holds it to."""


def by_gradhess(X: Array) -> Array:
    import gradhess as gh

    return gh.StreamingCovariance().fit(X).covariance_


def by_numpy_cov(X: Array) -> Array:
    return np.cov(X, rowvar=False, ddof=0, dtype=np.float32)


def by_float32_sums(X: Array) -> Array:
    """A stream in plain float32: products and rows are summed chunk by chunk, and the mean taken out at the end."""
    moment, total = np.zeros((D, D), np.float32), np.zeros(D, np.float32)
    for start in range(0, len(X), CHUNK):
        chunk = X[start : start + CHUNK]
        moment += chunk.T @ chunk
        total += chunk.sum(axis=0)
    mean = total / np.float32(len(X))
    return moment / np.float32(len(X)) - np.outer(mean, mean)


METHODS: dict[str, Callable[[Array], Array]] = {
    "sums of X'X in float32, chunk by chunk": by_float32_sums,
    "np.cov(dtype=float32)": by_numpy_cov,
    "gradhess, float32 rows": by_gradhess,
}


def references(X: Array, centre: float) -> dict[int, Array]:
    """The covariance of the first n rows, for every n: float64, about a centre that is known beforehand."""
    moment, total, found, start = np.zeros((D, D)), np.zeros(D), {}, 0
    for n in ROWS:
        while start < n:
            Z = X[start : min(start + CHUNK, n)].astype(np.float64) - centre
            moment += Z.T @ Z
            total += Z.sum(axis=0)
            start += len(Z)
        found[n] = moment / n - np.outer(total / n, total / n)
    return found


def measure(ratio: float) -> list[dict[str, Any]]:
    X = np.random.default_rng(7).standard_normal((ROWS[-1], D), dtype=np.float32) + np.float32(ratio)
    exact = references(X, ratio)
    rows = []
    for n in ROWS:
        root = np.sqrt(np.diag(exact[n]))
        errors = {
            name: float((np.abs(method(X[:n]).astype(np.float64) - exact[n]) / np.outer(root, root)).max())
            for name, method in METHODS.items()
        }
        print(f"{ratio:>6g} {n:>10}" + "".join(f"{error:>12.1e}" for error in errors.values()), flush=True)
        rows.append({"ratio": ratio, "n": n, "errors": errors})
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    from gradhess._plot import figure as look

    figure = look.new_figure(9.5, 4.2)
    colours = (look.COLOURS[3], look.COLOURS[1], look.COLOURS[0])
    for place, ratio in enumerate(RATIOS):
        axes = figure.add_subplot(1, len(RATIOS), place + 1)
        shown = [row for row in rows if row["ratio"] == ratio]
        n = [row["n"] for row in shown]
        for name, colour, marker in zip(METHODS, colours, "s^o", strict=True):
            errors = [row["errors"][name] for row in shown]
            axes.plot(n, errors, color=colour, marker=marker, markersize=4, linewidth=1.5, label=name)
        axes.axhline(LIMIT, color=look.MUTED, linewidth=1, linestyle=":", label=f"{LIMIT:.0e}: the promise")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        look.tidy(axes, x="rows n", y="largest error of an entry, relative" if place == 0 else "")
        axes.set_title(
            "mean zero" if ratio == 0 else f"mean {ratio:g} standard deviations",
            **{"fontsize": look.TEXT_SIZE, "color": look.INK, "loc": "left"},
        )
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    look.title(figure, f"Covariance of float32 data of {D} columns")
    path.parent.mkdir(parents=True, exist_ok=True)
    look.save(figure, path)
    print(f"drawn: {path}")


def main(arguments: list[str] | None = None) -> int:
    parser = record.parser(__doc__, rounds=None, dtypes=False)
    parser.add_argument("--draw", type=Path, metavar="FILE", help="draw an earlier run, measure nothing")
    parser.add_argument(
        "--image", type=Path, help="PNG; by default docs/images/accuracy.png (none in quick mode)"
    )
    chosen = parser.parse_args(arguments)
    image = chosen.image or (None if QUICK else record.IMAGES / "accuracy.png")

    if chosen.draw:
        draw(json.loads(chosen.draw.read_text())["rows"], image or record.IMAGES / "accuracy.png")
        return 0
    print(f"{'mean':>6} {'n':>10}   {', '.join(METHODS)}")
    rows = [row for ratio in RATIOS for row in measure(ratio)]
    worst = max(row["errors"]["gradhess, float32 rows"] for row in rows)
    print(f"largest error of gradhess: {worst:.1e}")
    if image is not None:
        draw(rows, image)
    record.write("accuracy", chosen.output, rows=rows)
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
