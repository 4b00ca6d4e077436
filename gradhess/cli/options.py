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
Debug: TypeAlias = Annotated[
    bool, typer.Option("--debug", help="Show a traceback instead of one line on errors.")
]
