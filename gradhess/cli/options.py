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


class RecoveryMethodName(StrEnum):
    antithetic = "antithetic"
    calibrated = "calibrated"
    rescaled = "rescaled"
    difference = "difference"
    fixed_batch = "fixed_batch"
    orthogonal = "orthogonal"


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
DataInMemory: TypeAlias = Annotated[
    Path,
    typer.Argument(metavar="DATA", help="A CSV, Parquet, Feather or .npy file, which is read into memory."),
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
RecoveryBatchSize: TypeAlias = Annotated[
    int, typer.Option("--batch-size", "-n", min=1, metavar="N", help="Rows of a batch.")
]
Gradients: TypeAlias = Annotated[
    int | None,
    typer.Option("--gradients", "-m", min=2, metavar="M", help="Batch gradients to ask for."),
]
RecoveryMethod: TypeAlias = Annotated[
    RecoveryMethodName, typer.Option("--method", help="How the Hessian is told from the gradients.")
]
NoiseVariance: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--noise-variance", help="Of the noise on the targets; by default what calibration asks for."
    ),
]
ExistingNoise: TypeAlias = Annotated[
    float, typer.Option("--existing-noise", help="Variance of the noise known to be in the targets.")
]
WithoutReplacement: TypeAlias = Annotated[
    bool, typer.Option("--without-replacement", help="Draw the rows of a batch without replacement.")
]
AtOptimum: TypeAlias = Annotated[
    bool, typer.Option("--at-optimum", help="Take the gradients at the least squares fit instead of at zero.")
]
Raw: TypeAlias = Annotated[
    bool, typer.Option("--raw", help="Leave the columns as they are instead of centring and scaling them.")
]
RecoverySeed: TypeAlias = Annotated[int, typer.Option("--seed", min=0, help="Of the batches and the noise.")]
Report: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--report", "-r", metavar="FILE", help="Write a report (.html), or its picture (.png, .pdf, .svg)."
    ),
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
