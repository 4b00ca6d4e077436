"""``gradhess recover``: recover the Hessian of a linear regression on a file, and compare it with the exact one."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.text import Text

from gradhess import StreamingCovariance, _memory, recovery
from gradhess._backends.protocol import Float64Array
from gradhess._plot import PAGE_SUFFIX
from gradhess._regression.aliasing import find_aliased
from gradhess._regression.design import CONSTANT_RTOL, INTERCEPT
from gradhess.cli import messages, report
from gradhess.cli.outputs import check_picture
from gradhess.cli.source import TableSource
from gradhess.errors import InputError
from gradhess.recovery.metrics import best_scale_error, whitened_error

OPTIONS: Final = {
    "n_gradients": "--gradients",
    "batch_size": "--batch-size",
    "noise_variance": "--noise-variance",
    "existing_noise": "--existing-noise",
    "method": "--method",
}
"""What the arguments of ``recover_hessian`` and its oracle are called on the command line."""


@dataclass(frozen=True, slots=True)
class Problem:
    """The file in memory, as it is regressed."""

    X: Float64Array
    """(N, p): the kept features, centred and scaled unless ``raw``; then a column of ones, unless there is none."""
    y: Float64Array
    names: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was asked for on the command line."""

    title: str
    batch_size: int
    n_gradients: int | None
    method: str
    noise_variance: float | None
    existing_noise: float
    replace: bool
    at_optimum: bool
    raw: bool
    intercept: bool
    seed: int
    report: Path | None
    data: Path

    def run(self, source: TableSource) -> None:
        """Recover, print, and write the report; nothing is read if it could not be written."""
        self._check_report()
        problem = read(source, raw=self.raw, intercept=self.intercept)
        coef: Float64Array = np.zeros(problem.X.shape[1])
        if self.at_optimum:
            coef = np.asarray(np.linalg.lstsq(problem.X, problem.y)[0])
        with messages.named_as_options(**OPTIONS):
            oracle = recovery.LinearRegressionOracle(
                problem.X,
                problem.y,
                coef,
                batch_size=self.batch_size,
                replace=self.replace,
                existing_noise=self.existing_noise,
                rng=self.seed,
            )
            est = recovery.recover_hessian(
                oracle,
                self.n_gradients,
                self.method,
                "calibrated" if self.noise_variance is None else self.noise_variance,
                rng=self.seed,
            )
        exact = oracle.hessian()
        lines = list(self._lines(problem, est, exact, source))
        written = False
        try:
            if self.report is not None:
                self._write(est, exact, lines)
                written = True
        finally:  # and if the file cannot be written, the result is not lost
            console = messages.stdout()
            _show(console, lines)
            if written and self.report is not None:
                report.written(console, "report", self.report)

    def _check_report(self) -> None:
        path = self.report
        if path is None:
            return
        check_picture(path, "--report", page=True)
        if path.resolve() == self.data.resolve():
            raise InputError(f"--report: {path} is the data file; choose another name")

    def _lines(
        self, problem: Problem, est: recovery.HessianEstimate, exact: Float64Array, source: TableSource
    ) -> Iterator[str]:
        N, p = problem.X.shape
        yield f"{self.title}: {source.target_name} on {p} parameter{'s' if p > 1 else ''}"
        dropped = f", {source.n_dropped:,} left out for missing values" if source.n_dropped else ""
        yield f"{N:,} row{'' if N == 1 else 's'}{dropped}; gradients at {'the optimum' if self.at_optimum else 'zero'}"
        for note in (*source.notes, *problem.notes):
            yield f"note: {note}"
        yield est.summary()
        yield f"  error                   {whitened_error(est, exact):.3g} (whitened, against the exact Hessian)"
        yield f"  at the best scale       {best_scale_error(est, exact):.3g}"
        if est.pair_means is not None and est.n_gradients // 2 > p + 1:
            risk = recovery.excess_risk(est)
            yield f"  from the gradients      excess risk {risk.q:.4g}"
        if est.method in ("fixed_batch", "orthogonal"):
            yield f"note: {est.method} recovers the Hessian of one batch of {est.batch_size} rows, not of all rows"

    def _write(self, est: recovery.HessianEstimate, exact: Float64Array, lines: list[str]) -> None:
        assert self.report is not None
        if self.report.suffix.lower() != PAGE_SUFFIX:
            est.plot(self.report, reference=exact)
            return
        picture = io.BytesIO()
        est.plot(reference=exact).savefig(picture, format="png")
        encoded = base64.b64encode(picture.getvalue()).decode("ascii")
        text = html.escape("\n".join(lines[1:]))
        page = (
            f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(lines[0])}</title>\n'
            "<style>body{font:16px system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
            "img{max-width:100%}</style>\n"
            f"<h1>{html.escape(lines[0])}</h1>\n<pre>{text}</pre>\n"
            f'<img alt="spectrum and predicted error" src="data:image/png;base64,{encoded}">\n</html>\n'
        )
        self.report.write_text(page, encoding="utf-8")


def read(source: TableSource, *, raw: bool, intercept: bool) -> Problem:
    """All chunks, without the columns that depend on others, scaled unless ``raw``."""
    chunks: list[tuple[Float64Array, Float64Array]] = []
    n_bytes = 0
    moments = StreamingCovariance()
    for X, y in source:
        n_bytes += 2 * X.nbytes  # the chunks, and the matrix that they become
        _memory.require(n_bytes, "the file in memory")
        chunks.append((np.array(X), np.array(y)))
        moments.partial_fit(X)
    if not chunks:
        raise InputError("there are no rows")
    mean = np.asarray(moments.location_)
    moment = np.asarray(moments.covariance_ if intercept else moments.second_moment_)
    small = CONSTANT_RTOL * np.abs(mean) if intercept else 0.0
    constant = np.sqrt(np.diag(moment)) <= small
    kept, aliased = find_aliased(moment, mean, constant, source.feature_names, intercept=intercept)
    data = np.empty((sum(len(y) for _, y in chunks), kept.size + int(intercept)))
    start = 0
    for X, _ in chunks:
        data[start : start + len(X), : kept.size] = X[:, kept]
        start += len(X)
    if not raw:
        if intercept:
            data[:, : kept.size] -= mean[kept]
        data[:, : kept.size] /= np.sqrt(np.diag(moment)[kept])
    if intercept:
        data[:, -1] = 1.0
    notes = [f"left out, as it cannot be estimated: {column.note}" for column in aliased]
    y = np.concatenate([part for _, part in chunks])
    if len(y) == 1:
        notes.append("there is one row: the Hessian of a single sample, of rank 1 at most")
    elif y.min() == y.max():
        notes.append(f"{source.target_name} is constant ({y[0]:g}); the Hessian does not depend on it")
    names = tuple(source.feature_names[column] for column in kept)
    return Problem(
        data,
        y,
        (*names, INTERCEPT) if intercept else names,
        tuple(notes),
    )


def _show(console: Console, lines: list[str]) -> None:
    console.print()
    console.print(Text(lines[0], style="bold"))
    for line in lines[1:]:
        console.print(line)
