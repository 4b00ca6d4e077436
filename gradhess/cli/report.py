"""A fit in words and tables, legible at 80 columns and without a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradhess._backends import registry
from gradhess._regression import Regression

MAX_COEFFICIENTS: Final = 60
EIGENVALUES_SHOWN: Final = 4
UNKNOWN: Final = "\N{EM DASH}"


def show(console: Console, result: Regression, *, title: str, notes: Sequence[str], n_dropped: int) -> None:
    """Print everything that is known about a fit."""
    with_intercept = result.n_parameters > len(result.feature_names)
    console.print()
    console.print(Text(f"{title}: {result.target_name} on {_count(result, with_intercept)}", style="bold"))
    dropped = f", {n_dropped:,} left out for missing values" if n_dropped else ""
    console.print(f"{result.n_rows:,} rows{dropped}")
    for note in notes:
        console.print(f"note: {note}")
    for column in result.aliased:
        console.print(f"note: left out, as it cannot be estimated: {column.note}")
    if result.warning is not None:
        console.print(Text(f"warning: {result.warning}", style="bold yellow"))
    console.print(_coefficients(result))
    hidden = result.n_parameters - MAX_COEFFICIENTS
    if hidden > 0:
        console.print(f"and {hidden:,} more; --coefficients FILE writes all of them")
    if result.loss == "softmax":
        console.print("class 0 is the base: its coefficients are 0, those of class k relative to it")
    console.print("robust s.e.: heteroskedasticity-consistent (HC1); z is relative to it")
    console.print(_quality(result))
    console.print(_eigenvalues(result))
    console.print(f"condition number of the feature correlations: {result.condition_number:.4g}")
    console.print(_passes(result))
    console.print("GFLOP/s: n p (p + 1) operations a pass, over the seconds not spent reading")
    console.print(f"total: {result.seconds:.2f} s on {_machine()}")


def written(console: Console, what: str, path: Path) -> None:
    """Say where a result went."""
    console.print(f"{what}: {path}", soft_wrap=True)


def _count(result: Regression, with_intercept: bool) -> str:
    d = len(result.feature_names)
    features = f"{d:,} feature{'s' if d != 1 else ''}"
    return f"{features}{' and an intercept' if with_intercept else ''}, {result.loss} loss"


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=True, header_style="bold")


def _coefficients(result: Regression) -> Table:
    table = _table()
    table.add_column("parameter", overflow="fold", min_width=12)
    for heading in ("coefficient", "classical s.e.", "robust s.e.", "z"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = zip(
        result.parameter_names,
        result.coefficients,
        result.classical_errors,
        result.hc1_errors,
        result.z_values,
        strict=True,
    )
    for name, coefficient, classical, robust, z in list(rows)[:MAX_COEFFICIENTS]:
        errors = (f"{classical:.4g}", f"{robust:.4g}", f"{z:.2f}")
        table.add_row(name, f"{coefficient:.6g}", *((UNKNOWN,) * 3 if result.separated else errors))
    return table


def _quality(result: Regression) -> str:
    if result.loss == "squared":
        return "R squared " + (UNKNOWN if result.r_squared is None else f"{result.r_squared:.4f}")
    steps = f"{result.n_iterations} Newton step{'s' if result.n_iterations != 1 else ''}"
    return f"mean loss {result.summed_loss / result.n_rows:.6g} after {steps}"


def _eigenvalues(result: Regression) -> Table:
    table = _table()
    table.add_column("largest eigenvalues", no_wrap=True)
    spectra = {
        "feature covariance": result.covariance_eigenvalues,
        "feature correlation": result.correlation_eigenvalues,
        "gradient correlation": result.gradient_eigenvalues,
    }
    shown = range(min(EIGENVALUES_SHOWN, result.gradient_eigenvalues.size))
    for number in shown:
        table.add_column(str(number + 1), justify="right", no_wrap=True)
    for name, values in spectra.items():
        table.add_row(name, *(f"{value:.4g}" for value in values[: len(shown)]))
    return table


def _passes(result: Regression) -> Table:
    table = _table()
    table.add_column("pass")
    for heading in ("columns", "seconds", "reading", "rows/s", "GFLOP/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for item in result.passes:
        table.add_row(
            item.title,
            f"{item.n_parameters:,}",
            f"{item.seconds:.3f}",
            f"{item.reading_seconds:.3f}",
            f"{item.rows_per_second:,.0f}",
            f"{item.gflops:.3g}",
        )
    return table


def _machine() -> str:
    found = registry.config()
    name = found["active"]
    instructions = found["backends"][name]["details"].get("instruction set")
    threads = found["threads"]
    return (
        f"the {name} backend{f' ({instructions})' if instructions else ''}, "
        f"{threads} thread{'s' if threads != 1 else ''}"
    )
