"""How the pairwise dependence of LWE secrets falls with the size of the class (Takhanov, arXiv 2505.22158).

Every class of which all pairs of inputs can be compared within a minute: q = 3, 5, 7; binary and ternary secrets; every
length, number of non-zeros and input range {0, ..., a - 1}. By symmetry, one input of each orbit is compared with all
inputs, which takes some minutes for all classes together. Points go to a CSV file as they are found, and are not
computed twice: a run may be stopped and started again.

    python examples/lwe_dependence.py
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import astuple, fields
from pathlib import Path

from gradhess.informativeness import experiments, figures

COMPARISONS_PER_SECOND = 1e11
"""Of two cores with AVX2 or AVX-512; bench/bench_pairwise.py measures it."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="for all pairs of the largest case (60 by default)"
    )
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="seconds, in all")
    parser.add_argument("--points", type=Path, default=Path("lwe-dependence.csv"))
    parser.add_argument("--plot", type=Path, default=Path("lwe-dependence.png"))
    options = parser.parse_args()

    known = read(options.points)
    start = time.monotonic()
    groups = {}
    for q in (3, 5, 7):
        for kind in ("binary", "ternary"):
            cases = list(experiments.sweep_cases(q, kind, options.seconds * COMPARISONS_PER_SECOND))
            missing = [case for case in cases if (q, kind, *case) not in known]
            for point in experiments.dependence_sweep(q, kind, missing):
                known[point.q, point.kind, point.n, point.max_nonzero, point.a] = point
                append(options.points, point)
                if time.monotonic() - start > options.stop_after:
                    raise SystemExit(f"stopped with {len(known)} points; run again to go on")
            groups[f"{kind} secrets, q = {q}"] = [known[q, kind, *case] for case in cases]

    print("| secrets | inputs below | classes | slope | intercept | R² |")
    print("|---|---|---|---|---|---|")
    for name, points in groups.items():
        for line in experiments.regression_lines(points):
            fit = f"{line.slope:.3f} | {line.intercept:.3f} | {line.r_squared:.3f}"
            print(f"| {name} | {line.a} | {line.n_points} | {fit} |")
    for kind in ("binary", "ternary"):
        shown = {name.split(", ")[1]: points for name, points in groups.items() if name.startswith(kind)}
        path = options.plot.with_stem(f"{options.plot.stem}-{kind}")
        figures.draw_dependence(shown, path, title=f"{kind} secrets: larger classes are less dependent")
        print("figure:", path)


def append(path: Path, point: experiments.Dependence) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow([field.name for field in fields(point)])
        writer.writerow(astuple(point))


def read(path: Path) -> dict[tuple[int, str, int, int, int], experiments.Dependence]:
    if not path.exists():
        return {}
    found = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            numbers = {
                name: int(row[name]) for name in ("q", "n", "max_nonzero", "a", "n_secrets", "n_inputs")
            }
            point = experiments.Dependence(kind=row["kind"], epsilon=float(row["epsilon"]), **numbers)
            found[point.q, point.kind, point.n, point.max_nonzero, point.a] = point
    return found


if __name__ == "__main__":
    main()
