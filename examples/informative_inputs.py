"""A question about your own model: which of two input distributions gives the more informative gradients?

The model is a torch network with one hidden layer; the task, to learn an unknown ternary secret of length 10 modulo 3
with 2 non-zeros. Inputs may be drawn uniformly, or sparse (each coordinate 0 with probability 0.7). Secrets and
inputs are drawn, so the answers have error bars; ``--exact`` enumerates all 180 secrets and 59049 inputs to see
whether these hold (2 GB). Needs torch.

Secrets of *at most* 2 non-zeros would be no good example: most of the variance is then that of the one zero secret, and
draws without it see neither that variance nor their own error.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from gradhess import informativeness as inf
from gradhess._plot import Panel, Series, draw_panels
from gradhess.torch import DifferentiableModel

N, Q = 10, 3
BATCH_SIZES = (10, 30, 100, 300, 1_000, 3_000, 10_000)


def uniform(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, Q, size=(n, N))


def sparse(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(1, Q, size=(n, N)) * (rng.uniform(size=(n, N)) < 0.3)


def exact(model: DifferentiableModel, inputs: inf.Inputs) -> float:
    """The variance over all secrets, a block of secrets at a time."""
    predicted = model.predict(inputs.points)[:, np.newaxis]
    secrets = inf.lwe.secrets(N, Q, "ternary", max_nonzero=2, exact=True)
    blocks = (
        predicted - inf.lwe.labels(inputs, secrets[start : start + 200], Q).T
        for start in range(0, len(secrets), 200)
    )
    return float(inf.exact_informativeness(model.jacobian(inputs.points), blocks, inputs.weights))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exact", action="store_true", help="enumerate as well")
    options = parser.parse_args()
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(N, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)).double()
    model = DifferentiableModel(network, chunk_size=500)
    secrets = inf.lwe.targets(inf.lwe.secrets(N, Q, "ternary", max_nonzero=2, exact=True), Q)
    print(f"{model.n_parameters} parameters, {len(secrets):,} secrets")

    found = {
        name: inf.estimate_informativeness(model, secrets, draw, n_targets=400, n_inputs=10_000, rng=seed)
        for seed, (name, draw) in enumerate({"uniform": uniform, "sparse": sparse}.items())
    }
    print(
        "\n| inputs | variance over secrets | naive | noise of one input | batch for signal = noise (2 s.e.) |"
    )
    print("|---|---|---|---|---|")
    for name, estimate in found.items():
        low, high = estimate.batch_size_range()
        best = estimate.noise / estimate.value
        print(
            f"| {name} | {estimate.value:.5f} ± {estimate.stderr:.5f} | {estimate.naive:.5f} | {estimate.noise:.3f} | "
            f"{best:,.0f} ({low:,.0f} to {high:,.0f}) |"
        )
    one, two = found["sparse"], found["uniform"]
    difference, error = one.value - two.value, math.hypot(one.stderr, two.stderr)
    print(f"\nsparse less uniform: {difference:.5f} ± {error:.5f}, {difference / error:.1f} standard errors")
    ratio = (one.value / one.noise) / (two.value / two.noise)
    spread = ratio * math.hypot(one.stderr / one.value, two.stderr / two.value)
    print(f"signal to noise, sparse over uniform, at any batch size: {ratio:.2f} ± {spread:.2f}")

    if options.exact:
        distributions = {"uniform": inf.lwe.inputs(N, Q), "sparse": inf.lwe.inputs(N, [0.7, 0.15, 0.15])}
        for name, inputs in distributions.items():
            print(f"{name}, all secrets and inputs: {exact(model, inputs):.5f}")

    series = []
    for name, estimate in found.items():
        ratios = [estimate.signal_to_noise(size) for size in BATCH_SIZES]
        errors = [2 * ratio.stderr for ratio in ratios]
        series.append(Series(f"{name} inputs", BATCH_SIZES, [ratio.value for ratio in ratios], errors))
    panel = Panel(
        series, "batch size", "signal / noise", x_log=True, y_log=True, levels=[("signal = noise", 1.0)]
    )
    path = Path("informative-inputs.png")
    draw_panels([panel], path, title="which inputs say more about the secret?")
    print("figure:", path)


if __name__ == "__main__":
    main()
