"""From a source to a report: fit, print, save, draw."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import gradhess
from gradhess._regression import Regression, fit
from gradhess.cli import messages, report
from gradhess.cli.progress import ProgressBar
from gradhess.cli.source import TableSource
from gradhess.errors import InputError
from gradhess.losses import Loss


@dataclass(frozen=True, slots=True)
class Job:
    """What ``demo`` and ``fit`` have in common: a title, and where results go (None for nowhere)."""

    title: str
    state: Path | None
    plot: Path | None
    coefficients: Path | None

    def run(self, source: TableSource, loss: Loss, *, intercept: bool = True) -> None:
        """Fit ``loss`` to ``source`` and report; nothing is read if a result could not be written."""
        for path in (self.state, self.plot, self.coefficients):
            if path is not None and not path.absolute().parent.is_dir():
                raise InputError(f"cannot write {path}: there is no folder {path.parent}")
        if self.plot is not None:
            _check_picture(self.plot)
        gradients = None if self.state is None else gradhess.StreamingCovariance()
        with ProgressBar() as progress:
            result = fit(source, loss, intercept=intercept, gradients=gradients, progress=progress)
        console = messages.stdout()
        report.show(console, result, title=self.title, notes=source.notes, n_dropped=source.n_dropped)
        if self.coefficients is not None:
            _write_coefficients(self.coefficients, result)
            report.written(console, "coefficients", self.coefficients)
        if gradients is not None and self.state is not None:
            gradients.save(self.state)
            report.written(console, "gradient covariance", self.state)
        if self.plot is not None:
            _draw(self.plot, result, self.title)
            report.written(console, "spectrum", self.plot)


def _check_picture(path: Path) -> None:
    from gradhess._plot import SUFFIXES

    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--plot: {path.name} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")


def _draw(path: Path, result: Regression, title: str) -> None:
    from gradhess._plot import Spectrum, draw_spectra

    draw_spectra(
        [
            Spectrum("feature correlation", result.correlation_eigenvalues),
            Spectrum("gradient correlation", result.gradient_eigenvalues),
        ],
        path,
        title=f"{title}: eigenvalues, largest first",
    )


def _write_coefficients(path: Path, result: Regression) -> None:
    rows = zip(
        result.parameter_names,
        result.coefficients,
        result.classical_errors,
        result.hc0_errors,
        result.hc1_errors,
        result.z_values,
        strict=True,
    )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "coefficient", "classical_se", "robust_se_hc0", "robust_se_hc1", "z"])
        writer.writerows([name, *(repr(float(number)) for number in numbers)] for name, *numbers in rows)
