"""``gradhess curvature``: train, measure, print, draw."""

from __future__ import annotations

import time
from pathlib import Path

from gradhess import curvature as cv
from gradhess.cli import digits, report
from gradhess.cli.messages import stdout
from gradhess.cli.outputs import check_picture


def run(
    loss: str,
    *,
    width: int,
    classes: int,
    epochs: int,
    batch_size: int,
    seed: int,
    top: int | None,
    plot: Path | None,
) -> None:
    """Print the report on the middle layer of a network trained with these settings."""
    check_picture(plot, page=True)
    start = time.perf_counter()
    trained = digits.train(
        loss, width=width, classes=classes, epochs=epochs, batch_size=batch_size, seed=seed
    )
    trained_at = time.perf_counter()
    from gradhess.torch import layer_curvature  # needs PyTorch, which train has looked for

    found = layer_curvature(trained.model, digits.LAYER, (trained.inputs, trained.targets), loss, batch_size)
    measured_at = time.perf_counter()
    result = cv.analyze(found, top=top)
    console = stdout()
    console.print(
        f"digits, 64-{width}-{width}-{classes}, {loss}, {epochs} epochs of SGD with B = {batch_size}: "
        f"train accuracy {trained.accuracy:.4f}",
        soft_wrap=True,
    )
    console.print(result.summary(), soft_wrap=True)
    if not result.sandwich.holds:
        console.print("warning: a bound that holds exactly was found broken; please report it")
    console.print(f"training {trained_at - start:.1f} s, H, M and C {measured_at - trained_at:.2f} s")
    if plot is not None:
        result.plot(plot)
        report.written(console, "plot", plot)
