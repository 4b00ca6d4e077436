"""From a source to a report: fit, print, save, draw."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gradhess
from gradhess._regression import Regression, fit
from gradhess.cli import messages, outputs, report
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
    data: Path | None = None
    """The file that is read, which no result may replace."""

    def run(self, source: TableSource, loss: Loss, *, intercept: bool = True) -> None:
        """Fit ``loss`` to ``source`` and report; nothing is read if a result could not be written."""
        self._check_outputs()
        gradients = None if self.state is None else gradhess.StreamingCovariance()
        with ProgressBar() as progress:
            result = fit(source, loss, intercept=intercept, gradients=gradients, progress=progress)
        done: list[tuple[str, Path]] = []
        try:
            # Before anything is printed: a reader such as `head` may close the pipe, which ends the program.
            done.extend(self._write(result, gradients))
        finally:  # and if a file cannot be written, the report is not lost
            console = messages.stdout()
            report.show(console, result, title=self.title, notes=source.notes, n_dropped=source.n_dropped)
            for what, path in done:
                report.written(console, what, path)

    def _write(
        self, result: Regression, gradients: gradhess.StreamingCovariance | None
    ) -> Iterator[tuple[str, Path]]:
        """Write every file that was asked for; each is named once it is complete."""
        if self.coefficients is not None:
            _write_coefficients(self.coefficients, result)
            yield "coefficients", self.coefficients
        if gradients is not None and self.state is not None:
            gradients.save(self.state)
            yield "gradient covariance", self.state
        if self.plot is not None:
            _draw(self.plot, result, self.title)
            yield "spectrum", self.plot

    def _check_outputs(self) -> None:
        """Refuse files that could not be written, or would replace the data or each other."""
        taken = [] if self.data is None else [("the data file", self.data)]
        files = {"--out": self.state, "--coefficients": self.coefficients, "--plot": self.plot}
        for option, path in files.items():
            if path is None:
                continue
            outputs.check_folder(path)
            for other, used in taken:
                if _same_file(path, used):
                    raise InputError(f"{option}: {path} is {other}; choose another name")
            taken.append((f"also the file of {option}", path))
        outputs.check_picture(self.plot)


def _same_file(one: Path, other: Path) -> bool:
    """Whether two paths are one file, also through links, and before it exists."""
    if one.resolve() == other.resolve():
        return True
    return one.exists() and other.exists() and one.samefile(other)


def _draw(path: Path, result: Regression, title: str) -> None:
    from gradhess._plot import Spectrum, draw_spectra

    draw_spectra(
        [
            Spectrum("feature correlation", result.correlation_eigenvalues),
            Spectrum("gradient correlation", result.gradient_eigenvalues),
        ],
        path,
        title=f"{title}: {result.target_name}, {result.loss} loss",
    )


def _write_coefficients(path: Path, result: Regression) -> None:
    known = not result.separated
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
        writer.writerows(
            [
                name,
                repr(float(coefficient)),
                *(repr(float(error) if known else float("nan")) for error in errors),
            ]
            for name, coefficient, *errors in rows
        )
