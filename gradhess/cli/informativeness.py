"""``gradhess informativeness``: the experiments of the source, in sizes that take seconds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from gradhess.cli import messages
from gradhess.cli.messages import named_as_options, readable_errors
from gradhess.cli.outputs import check_picture
from gradhess.errors import InputError

app = typer.Typer(
    name="informativeness",
    no_args_is_help=True,
    help="What a gradient can say about its target: small versions of known experiments.",
)

COMPARISONS: Final = 2e9
"""Of labels, for the largest class of the sweep: some hundredths of a second."""
MOST_INPUTS: Final = 4096
MOST_COMPARISONS: Final = 4e10
"""For one distribution of inputs: some tenths of a second."""
RHOS: Final = (2 / 3, 0.5, 0.3, 0.1, 0.03, 0.01)
TOPS: Final = (2, 5, 13, 34, 88, 226, 600)
TRAINED_TOPS: Final = (2, 5, 13, 34, 88)
TRAINING_STEPS: Final = 300
TARGET_VARIANCE: Final = 1 / 12

Modulus: TypeAlias = Annotated[int, typer.Option("--q", min=2, max=256, help="Modulus.")]
Kind: TypeAlias = Annotated[str, typer.Option("--kind", help="Of secrets: binary, ternary or uniform.")]
Picture: TypeAlias = Annotated[
    Path | None, typer.Option("--plot", "-p", metavar="FILE", help="Draw it (.png, .pdf or .svg).")
]
Train: TypeAlias = Annotated[
    bool, typer.Option("--train", help="Train small networks as well; needs torch, and half a minute.")
]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", min=0, help="Of the networks.")]
Debug: TypeAlias = Annotated[
    bool, typer.Option("--debug", help="Show a traceback instead of one line on errors.")
]


@app.command()
def lwe(q: Modulus = 3, kind: Kind = "ternary", plot: Picture = None, debug: Debug = False) -> None:
    """Secrets modulo q: dependence over sizes of the class, and variance over input distributions.

    All classes and inputs are enumerated; nothing is drawn.
    """
    with readable_errors(debug=debug), named_as_options(kind="--kind"):
        from gradhess.informativeness import experiments

        check_picture(plot)
        length = _length(q, kind)
        points = list(experiments.dependence_sweep(q, kind, experiments.sweep_cases(q, kind, COMPARISONS)))
        sparse = experiments.entropy_sweep(RHOS, n=length, q=q, kind=kind)
        console = messages.stdout()
        console.print(f"{len(points)} classes of {kind} secrets modulo {q}: length n, at most h non-zeros,")
        console.print("inputs {0..a-1}^n. Lines of -log(dependence) on log(secrets):")
        table = _table("a", "slope", "intercept", "R squared", "classes")
        for line in experiments.regression_lines(points):
            table.add_row(
                str(line.a),
                f"{line.slope:.3f}",
                f"{line.intercept:.3f}",
                f"{line.r_squared:.3f}",
                str(line.n_points),
            )
        console.print(table)
        console.print(
            f"Sparse inputs, n = {length}, P(x != 0) = rho in each coordinate; 10 tanh networks of 16 units:"
        )
        table = _table("rho", "entropy E_c", "dependence", "variance", "among networks", "bound")
        for row in sparse:
            table.add_row(
                f"{row.rho:.2f}", f"{row.collision_entropy:.3f}", f"{row.epsilon:.3f}", f"{row.variance:.3g}",
                f"± {row.spread:.2g}", f"{row.bound:.3g}",
            )  # fmt: skip
        console.print(table)
        console.print("A larger dependence and a lower entropy allow more; neither is sufficient.")
        if plot is not None:
            from gradhess.informativeness import figures

            figures.draw_lwe(points, sparse, plot, title=f"{kind} secrets modulo {q}")
            _written(console, plot)


@app.command()
def frequency(train: Train = False, plot: Picture = None, seed: Seed = 0, debug: Debug = False) -> None:
    """Waves {ax}, a below A: the variance of the gradient falls like 1/A, and training fails."""
    with readable_errors(debug=debug):
        from gradhess.informativeness import experiments

        check_picture(plot)
        if train and importlib.util.find_spec("torch") is None:
            raise InputError("--train needs torch, which is not installed; see https://pytorch.org")
        sweep = experiments.frequency_sweep(TOPS, rng=seed)
        console = messages.stdout()
        console.print("Exact variance of the gradient over the waves {ax}, a in [1, A), of a tanh network:")
        table = _table("A", "waves", "variance", "times A")
        for row in sweep:
            table.add_row(
                str(row.A), str(row.n_targets), f"{row.variance:.3g}", f"{row.variance * row.A:.3g}"
            )
        console.print(table)
        errors: dict[int, float] = {}
        if train:
            from gradhess.torch import train_on_wave

            steps = f"{TRAINING_STEPS} steps of Adam, batches of 500"
            console.print(f"ReLU networks 1-64-128-1 on one wave each, {steps}:")
            table = _table("A", "frequency", "final error", "of 1/12")
            for top in TRAINED_TOPS:
                run = train_on_wave(
                    top, widths=(64, 128), epochs=TRAINING_STEPS // 10, batch_size=500, rng=seed
                )
                errors[top] = run.final_error
                share = f"{run.final_error / TARGET_VARIANCE:.0%}"
                table.add_row(str(top), str(run.frequency), f"{run.final_error:.4f}", share)
            console.print(table)
        if plot is not None:
            from gradhess.informativeness import figures

            figures.draw_frequency(sweep, {top: [error] for top, error in errors.items()}, plot)
            _written(console, plot)


def _length(q: int, kind: str) -> int:
    """Of the secrets whose inputs are sparse: 4, or less where inputs and secrets would be too many for seconds."""
    from gradhess.informativeness import lwe

    for n in (4, 3, 2):
        n_secrets = (1 + len(lwe.nonzero_values(q, kind))) ** n
        if q**n <= MOST_INPUTS and q ** (2 * n) / 2 * n_secrets * q <= MOST_COMPARISONS:
            return n
    return 1


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _written(console: Console, path: Path) -> None:
    console.print(f"figure: {path}", soft_wrap=True)
