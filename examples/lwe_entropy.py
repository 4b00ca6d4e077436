"""What the entropy of the inputs does to the gradient, at fixed secrets: a low one is necessary, not sufficient.

All secrets of length 4 modulo 3, inputs that are 0 with probability 1 - rho in each coordinate, ten tanh networks of
16 units, squared loss. Everything is enumerated; the spread is that among the networks.
"""

from __future__ import annotations

from pathlib import Path

from gradhess.informativeness import experiments, figures

RHOS = (2 / 3, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.03, 0.01)


def main() -> None:
    for kind in ("ternary", "binary"):
        sweep = experiments.entropy_sweep(RHOS, kind=kind)
        print(f"\n{kind} secrets\n")
        print("| P(x ≠ 0) | E_c | dependence | variance | among networks | bound |")
        print("|---|---|---|---|---|---|")
        for point in sweep:
            print(
                f"| {point.rho:.2f} | {point.collision_entropy:.3f} | {point.epsilon:.3f} | {point.variance:.3g} | "
                f"± {point.spread:.1g} | {point.bound:.3g} |"
            )
        path = Path(f"lwe-entropy-{kind}.png")
        figures.draw_entropy(sweep, path, title=f"{kind} secrets of length 4 modulo 3, sparse inputs")
        print("figure:", path)


if __name__ == "__main__":
    main()
