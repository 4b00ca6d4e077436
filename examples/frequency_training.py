"""Training on waves {ax}: from some frequency on the gradient does not say which wave it is, and nothing is learned.

The source (Takhanov, arXiv 2505.22158) has a network 1-640-1280-1, 250 epochs and batches of 1000. Here it is
1-160-320-1 with 2500 steps, about twenty seconds a run on one core; ``--widths 640 1280`` is the size of the source.
Needs torch. Runs go to a CSV file as they end, and are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np

from gradhess.informativeness import experiments, figures
from gradhess.torch import train_on_wave

TOPS = (2, 5, 13, 34, 88, 226)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[160, 320])
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="seconds, in all")
    parser.add_argument("--runs", type=Path, default=Path("frequency-training.csv"))
    parser.add_argument("--plot", type=Path, default=Path("frequency.png"))
    options = parser.parse_args()

    known = read(options.runs)
    start = time.monotonic()
    for seed in range(options.seeds):
        for top in TOPS:
            if (top, seed) in known:
                continue
            rng = np.random.default_rng([seed, top])
            run = train_on_wave(top, widths=tuple(options.widths), epochs=options.steps // 10, rng=rng)
            known[top, seed] = (run.frequency, run.final_error)
            with options.runs.open("a", newline="") as file:
                csv.writer(file).writerow([top, seed, run.frequency, run.final_error])
            if time.monotonic() - start > options.stop_after:
                raise SystemExit(f"stopped with {len(known)} runs; run again to go on")

    print("| A | frequencies drawn | final errors | mean, of 1/12 |")
    print("|---|---|---|---|")
    errors = {}
    for top in TOPS:
        runs = [known[top, seed] for seed in range(options.seeds)]
        errors[top] = [error for _, error in runs]
        drawn = ", ".join(str(frequency) for frequency, _ in runs)
        shown = ", ".join(f"{error:.4f}" for error in errors[top])
        print(f"| {top} | {drawn} | {shown} | {12 * np.mean(errors[top]):.0%} |")
    print("\n| A | exact variance of the gradient | times A |")
    print("|---|---|---|")
    sweep = experiments.frequency_sweep((*TOPS, 600, 1500))
    for point in sweep:
        print(f"| {point.A} | {point.variance:.3g} | {point.variance * point.A:.3g} |")
    figures.draw_frequency(sweep, errors, options.plot)
    print("figure:", options.plot)


def read(path: Path) -> dict[tuple[int, int], tuple[int, float]]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {
            (int(a), int(seed)): (int(frequency), float(error))
            for a, seed, frequency, error in csv.reader(file)
        }


if __name__ == "__main__":
    main()
