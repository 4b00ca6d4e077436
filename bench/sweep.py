"""Fraction of the floor against d and against n, and every point that falls off a cliff.

The whole job for the squared loss (residual, loss, gradient and outer product of gradients). Against d, n d is about
constant; against n, a few d are followed from one row to ten million. Every round runs all points of a curve, each as
often as fits into a short spell, one curve after the other; the two limits of the machine are probed in every round.

A point is flagged if it is below 60% of a neighbour: of either one against d, and of the next smaller n against n
(small jobs are dominated by the cost of a call, so the curve rises).

    python bench/sweep.py [--over d n] [--dtype TYPE ...] [--rounds N] [--output FILE]
    python bench/sweep.py --draw FILE ...      only draws, from JSON files of earlier runs
"""

from __future__ import annotations

import json
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_support import machine, record, timing
from bench_support.competitors import SLAB_ROWS
from bench_support.jobs import JOBS
from bench_support.problems import DTYPES, QUICK, Array, Problem

JOB = "squared"
CLIFF = 0.6

if QUICK:
    COLUMNS: tuple[int, ...] = (1, 2, 7, 16, 33, 64, 100)
    ENTRIES = 100_000
    ROWS: tuple[int, ...] = (1, 10, 256, 257, 3_000)
    ROWS_AT: tuple[int, ...] = (8, 64)
else:
    COLUMNS = (*range(1, 41), 47, 48, 49, 63, 64, 65, *range(95, 131), 200, 255, 256, 257, 500, 1000, 2000)
    ENTRIES = 8_000_000
    ROWS = (
        *(
            1,
            2,
            4,
            8,
            16,
            32,
            64,
            128,
            255,
            256,
            257,
            400,
            512,
            700,
            1_000,
            2_000,
            4_000,
            4_095,
            4_096,
            4_097,
        ),
        *(6_000, 8_192, 10_000, 20_000, 40_000, 100_000, 200_000, 400_000, 1_000_000, 3_000_000, 10_000_000),
    )
    ROWS_AT = (8, 64, 512)
MAX_BYTES = 1 << 30
"""Of X; larger points are left out."""
SPELL_SECONDS = 0.004
CHECKED_ENTRIES = 500_000
"""The answer is checked on so many entries of X: in full it would take longer than the measurement."""


def curve_over_d(dtype: str) -> list[tuple[int, int]]:
    return [(max(ENTRIES // d, 1), d) for d in COLUMNS]


def curve_over_n(d: int, dtype: str) -> list[tuple[int, int]]:
    return [(n, d) for n in ROWS if n * d * np.dtype(dtype).itemsize <= MAX_BYTES]


def measure(shapes: list[tuple[int, int]], dtype: str, memory: Array, rounds: int) -> list[dict[str, Any]]:
    """The points of one curve, in order."""
    job, calls, problems = JOBS[JOB], {}, {}
    for n, d in shapes:
        problem = Problem(n, d, dtype, memory)
        few = Problem(min(n, max(CHECKED_ENTRIES // d, 1)), d, dtype, memory)
        few.check_along(job.result(job.make(few)()), summed_rows=SLAB_ROWS)
        calls[str(problem)], problems[str(problem)] = job.make(problem), problem
    limits = machine.Limits(dtype)
    per_call = partial(timing.seconds_per_call, spell=SPELL_SECONDS)
    times = timing.interleaved(calls, rounds, measure=per_call, after_round=limits)
    points = []
    for name, problem in problems.items():
        seconds = statistics.median(times[name])
        point = {"n": problem.n, "d": problem.d, "dtype": dtype, "us": seconds * 1e6}
        floor = limits.floor(job.flop(problem), job.input_bytes(problem))
        if floor is not None:
            point |= {"floor_us": floor * 1e6, "fraction": floor / seconds}
        points.append(point)
    return points


def flag(curve: dict[str, Any]) -> list[str]:
    """Mark the cliffs of a curve, and say what they are."""
    found = []
    points = [point for point in curve["points"] if "fraction" in point]
    for i, point in enumerate(points):
        neighbours = points[max(i - 1, 0) : i]
        if curve["over"] == "d":
            neighbours += points[i + 1 : i + 2]
        point["flagged"] = False
        for other in neighbours:
            if point["fraction"] < CLIFF * other["fraction"]:
                point["flagged"] = True
                found.append(
                    f"{point['n']} x {point['d']} {point['dtype']}: {point['fraction']:.3f} of the floor, but "
                    f"{other['n']} x {other['d']} reaches {other['fraction']:.3f}"
                )
                break
    return found


def draw(curves: list[dict[str, Any]], path: Path) -> None:
    """One panel over d, one over n; flagged points are crossed."""
    from gradhess._plot import figure as look

    panels = [over for over in ("d", "n") if any(curve["over"] == over for curve in curves)]
    figure = look.new_figure(9.5, 4.0 * len(panels))
    titles = {"d": f"columns d, with n d about {ENTRIES:,}", "n": "rows n"}
    for place, over in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, place + 1)
        for curve in [curve for curve in curves if curve["over"] == over]:
            points = [point for point in curve["points"] if "fraction" in point]
            x, y = [point[over] for point in points], [point["fraction"] for point in points]
            wide = curve["dtype"] == "float64"
            colour = look.COLOURS[ROWS_AT.index(curve["d"]) if over == "n" else int(not wide)]
            label = curve["dtype"] if over == "d" else f"d = {curve['d']}, {curve['dtype']}"
            style = "-" if wide else "--"
            axes.plot(x, y, style, color=colour, linewidth=1.4, marker="o", markersize=3, label=label)
            marked = [point for point in points if point["flagged"]]
            axes.plot(
                [point[over] for point in marked],
                [point["fraction"] for point in marked],
                *("x",),
                color="#c02020",
                markersize=9,
                markeredgewidth=2,
            )
        axes.set_xscale("log")
        axes.set_ylim(0, 1.05)
        look.tidy(axes, x=titles[over], y="fraction of the floor")
        axes.legend(fontsize=9, frameon=False, ncols=2, loc="upper left" if over == "n" else "lower right")
    look.title(figure, "Squared loss, whole job: 1 is the limit of the machine")
    path.parent.mkdir(parents=True, exist_ok=True)
    look.save(figure, path)
    print(f"drawn: {path}")


def main(arguments: list[str] | None = None) -> int:
    parser = record.parser(__doc__, rounds=5)
    parser.add_argument("--over", choices=["d", "n"], nargs="+", default=["d", "n"])
    parser.add_argument(
        "--draw", type=Path, nargs="+", metavar="FILE", help="draw these runs, measure nothing"
    )
    parser.add_argument(
        "--image", type=Path, help="PNG; by default docs/images/sweep.png (none in quick mode)"
    )
    chosen = parser.parse_args(arguments)
    image = chosen.image or (None if QUICK and not chosen.draw else record.IMAGES / "sweep.png")

    curves: list[dict[str, Any]] = []
    if chosen.draw:
        curves = [curve for file in chosen.draw for curve in json.loads(file.read_text())["curves"]]
    else:
        for dtype in DTYPES if chosen.dtype is None else chosen.dtype:
            plan = [("d", None, curve_over_d(dtype))] if "d" in chosen.over else []
            plan += [("n", d, curve_over_n(d, dtype)) for d in ROWS_AT] if "n" in chosen.over else []
            entries = max(n * d for _, _, shapes in plan for n, d in shapes)
            memory = np.random.default_rng(0).standard_normal(entries, dtype=np.dtype(dtype).type)
            for over, d, shapes in plan:
                points = measure(shapes, dtype, memory, chosen.rounds)
                curves.append({"over": over, "d": d, "dtype": dtype, "points": points})
                for point in points:
                    fraction = f"{point['fraction']:8.3f}" if "fraction" in point else "       -"
                    print(
                        f"{point['n']:>10} x {point['d']:<5}{dtype:>8}{point['us']:14.1f} us {fraction}",
                        flush=True,
                    )
    found = [message for curve in curves for message in flag(curve)]
    print(*(found or ["no cliffs"]), sep="\n")
    if image is not None:
        draw(curves, image)
    if not chosen.draw:
        record.write("sweep", chosen.output, curves=curves, flagged=found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
