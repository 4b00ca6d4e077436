"""The options, described once for all commands."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

DELTA: Final = 1.35
"""Of the huber loss."""


class LossName(StrEnum):
    squared = "squared"
    logistic = "logistic"
    poisson = "poisson"
    huber = "huber"
    softmax = "softmax"


class OutputLossName(StrEnum):
    cross_entropy = "cross_entropy"
    mse = "mse"
    softmax_mse = "softmax_mse"


Data: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="A CSV, Parquet, Feather or .npy file. It may be larger than memory."
    ),
]
Target: TypeAlias = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        metavar="NAME",
        help="Column to predict, by name or position (-1 is the last).",
    ),
]
Features: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--features",
        "-f",
        metavar="A,B,...",
        help="Columns to predict from; all numeric ones if not given.",
    ),
]
LossChoice: TypeAlias = Annotated[LossName, typer.Option("--loss", "-l", help="Loss to minimise.")]
Delta: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--delta",
        help=f"Where the huber loss turns linear, in the unit of the target; {DELTA} if not given.",
    ),
]
ChunkRows: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--chunk-rows", min=1, metavar="N", help="Rows read at a time; changes memory, never results."
    ),
]
DropMissing: TypeAlias = Annotated[
    bool, typer.Option("--drop-missing", help="Leave out rows with a missing value instead of refusing them.")
]
NoIntercept: TypeAlias = Annotated[bool, typer.Option("--no-intercept", help="Fit without an intercept.")]
State: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="Save the gradients' covariance (.safetensors).",
    ),
]
Plot: TypeAlias = Annotated[
    Path | None, typer.Option("--plot", "-p", metavar="FILE", help="Draw the spectrum (.png, .pdf or .svg).")
]
DemoPlot: TypeAlias = Annotated[
    Path, typer.Option("--plot", "-p", metavar="FILE", help="Where to draw the spectrum.")
]
Coefficients: TypeAlias = Annotated[
    Path | None,
    typer.Option("--coefficients", metavar="FILE", help="Write the table of coefficients as CSV."),
]
OutputLossChoice: TypeAlias = Annotated[
    OutputLossName, typer.Option("--loss", "-l", help="Loss to train with, and to take the curvature of.")
]
Width: TypeAlias = Annotated[int, typer.Option("--width", min=2, help="Units of each hidden layer.")]
Classes: TypeAlias = Annotated[
    int, typer.Option("--classes", min=2, max=10, help="Digits 0 to this, less one.")
]
Epochs: TypeAlias = Annotated[
    int, typer.Option("--epochs", min=0, help="Passes of SGD over the 1,500 samples.")
]
BatchSize: TypeAlias = Annotated[
    int, typer.Option("--batch-size", min=1, help="B: of SGD, and of the noise that is described.")
]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", min=0, help="Of samples, weights and batches.")]
Top: TypeAlias = Annotated[
    int | None, typer.Option("--top", min=2, help="Eigenvalues to fit over; a quarter of them if not given.")
]
CurvaturePlot: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--plot", "-p", metavar="FILE", help="Draw the report (.png, .pdf, .svg, or a page: .html)."
    ),
]
Debug: TypeAlias = Annotated[
    bool, typer.Option("--debug", help="Show a traceback instead of one line on errors.")
]
