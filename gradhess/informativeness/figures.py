"""The figures of the experiments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gradhess._plot import Panel, Series, draw_panels
from gradhess.informativeness.experiments import Dependence, Entropy, Frequency, regression_lines

__all__ = ["draw_dependence", "draw_entropy", "draw_frequency", "draw_lwe"]


def _dependence_panel(points: Sequence[Dependence], heading: str | None = None) -> Panel:
    """Classes as points, and for each input range {0, ..., a - 1}^n its regression line."""
    series = []
    lines = {line.a: line for line in regression_lines(points)}
    for position, a in enumerate(sorted({point.a for point in points})):
        chosen = [point for point in points if point.a == a]
        x = np.log([point.n_secrets for point in chosen])
        y = -np.log([point.epsilon for point in chosen])
        label = f"a = {a}"
        if a in lines:
            label += f", slope {lines[a].slope:.2f}"
            ends = np.array([x.min(), x.max()])
            fitted = lines[a].slope * ends + lines[a].intercept
            series.append(Series(None, ends, fitted, kind="line", colour=position))
        series.append(Series(label, x, y, kind="points", colour=position))
    return Panel(
        series,
        "log of the number of secrets",
        "- log of the dependence",
        legend="lower right",
        heading=heading,
        y_range=_with_room_below(points),
    )


def _with_room_below(points: Sequence[Dependence]) -> tuple[float, float]:
    """Of a panel with a legend below the points: its lines, of which there are as many as input ranges."""
    heights = [-math.log(point.epsilon) for point in points]
    span = max(heights) - min(heights) or 1.0
    lines = len({point.a for point in points})
    return min(heights) - (0.15 + 0.03 * lines) * span, max(heights) + 0.05 * span


def _entropy_panels(sweep: Sequence[Entropy]) -> list[Panel]:
    entropy = [point.collision_entropy for point in sweep]
    variance = Series(
        "variance of the gradient",
        entropy,
        [point.variance for point in sweep],
        [point.spread for point in sweep],
        colour=0,
    )
    top = Series("bound", entropy, [point.bound for point in sweep], colour=1)
    dependence = Series(None, entropy, [point.epsilon for point in sweep], colour=2)
    return [
        Panel([variance, top], "collision entropy of the inputs (nats)", "variance over secrets", y_log=True),
        Panel([dependence], "collision entropy of the inputs (nats)", "pairwise dependence"),
    ]


def draw_lwe(points: Sequence[Dependence], sweep: Sequence[Entropy], path: Path, *, title: str) -> None:
    """Dependence over the size of the class, and variance over the entropy of the inputs."""
    draw_panels([_dependence_panel(points), _entropy_panels(sweep)[0]], path, title=title, height=4.4)


def draw_dependence(groups: Mapping[str, Sequence[Dependence]], path: Path, *, title: str) -> None:
    """One panel for each group of classes, by its heading."""
    panels = [_dependence_panel(points, heading) for heading, points in groups.items()]
    draw_panels(panels, path, title=title, height=4.6)


def draw_entropy(sweep: Sequence[Entropy], path: Path, *, title: str) -> None:
    """Variance, bound and dependence over the entropy of the inputs."""
    draw_panels(_entropy_panels(sweep), path, title=title)


def draw_frequency(sweep: Sequence[Frequency], errors: Mapping[int, Sequence[float]], path: Path) -> None:
    """Variance over A and, where networks were trained, their final errors."""
    shown = [point for point in sweep if point.variance > 0]  # one function alone has none
    tops = np.array([point.A for point in shown])
    variances = np.array([point.variance for point in shown])
    exact = Series("exact variance", tops, variances, colour=0)
    guide = Series("1 / A", tops, variances[-1] * tops[-1] / tops, kind="line", colour=1)
    panels = [
        Panel(
            [exact, guide],
            "A (frequencies below it)",
            "variance over waves",
            x_log=True,
            y_log=True,
            legend="lower left",
        )
    ]
    if errors:
        runs = [(top, value) for top, values in errors.items() for value in values]
        each = Series("runs", [top for top, _ in runs], [value for _, value in runs], kind="points", colour=2)
        mean = Series(
            "mean",
            list(errors),
            [float(np.mean(values)) for values in errors.values()],
            kind="line",
            colour=2,
        )
        panels.append(
            Panel(
                [each, mean],
                "A (frequencies below it)",
                "final mean squared error",
                x_log=True,
                levels=[("variance of the target, 1/12", 1 / 12)],
                legend="lower right",
                y_range=(0.0, 0.1),
            )
        )
    draw_panels(panels, path, title="waves of high frequency")
