"""H, M and C of the 50 x 50 layer of a 784-50-50-10 network, beside the floor of the machine and a plain script.

    python bench/bench_curvature.py      # or: pytest bench/bench_curvature.py

The samples are generated: 60,000 of 784 pixels, as in MNIST, with labels from a random linear map; the network is
trained on them for a few steps. Behind a ReLU half of all numbers are zero, and what has a factor of zero is left out;
a leaky ReLU has no zeros. Everything is in one run, in float64 sums, from a float32 model:

* gradhess: ``gradhess.torch.layer_curvature``, forward and backward passes included; median of the rounds.
* floor: ``3 n k (k + 1) m (m + 1) / 2`` operations, which is what three weighted Gram matrices of the outer rows take
  if both symmetries are used, nothing is zero and nothing else is done, over the peak of float64 multiply-adds that is
  probed before and after each round (the best counts).
* plain: one backward pass for each output of each sample, then an update of three (2500, 2500) NumPy arrays by an
  outer or a Kronecker product, on the first ``PLAIN_SAMPLES`` samples. Its time grows in proportion to the samples, and
  is shown for all of them.
"""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import numpy as np
import pytest
from bench_support.machine import limits
from bench_support.problems import QUICK

SAMPLES = 3000 if QUICK else 60_000
PLAIN_SAMPLES = 4 if QUICK else 40
ROUNDS = 1 if QUICK else 3
BATCH = 50
WIDTH, PIXELS, CLASSES = 50, 784, 10
ACTIVATIONS = ("ReLU", "LeakyReLU")


def problem(activation: str) -> tuple[Any, Any, Any]:
    """Model, inputs and labels."""
    import torch

    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(SAMPLES, PIXELS, generator=generator)
    labels = (inputs @ torch.randn(PIXELS, CLASSES, generator=generator)).argmax(dim=1)
    torch.manual_seed(0)
    sizes = (PIXELS, WIDTH, WIDTH, CLASSES)
    layers: list[Any] = []
    for before, after in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(before, after, bias=False), getattr(torch.nn, activation)()]
    model = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for start in range(0, SAMPLES, BATCH):
        loss = torch.nn.functional.cross_entropy(
            model(inputs[start : start + BATCH]), labels[start : start + BATCH]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, inputs, labels


def plain(model: Any, inputs: Any, labels: Any) -> tuple[Any, Any, Any]:
    """What one would write first: H, M and C from one sample at a time."""
    import torch

    p = WIDTH * WIDTH
    H, M, second, total = np.zeros((p, p)), np.zeros((p, p)), np.zeros((p, p)), np.zeros(p)
    for x, t in zip(inputs, labels, strict=True):
        a = model[:2](x).detach()
        z = model[2](a).detach().requires_grad_()
        outputs = model[3:](z)
        rows = [torch.autograd.grad(o, z, retain_graph=True)[0].numpy() for o in outputs]
        J = np.stack(rows).astype(np.float64)
        P = torch.softmax(outputs.detach().double(), dim=0).numpy()
        errors = P - np.eye(CLASSES)[int(t)]
        activation = a.numpy().astype(np.float64)
        Q = J.T @ (np.diag(P) - np.outer(P, P)) @ J
        square = np.outer(activation, activation)
        H += np.kron(Q, square)
        M += np.kron((activation @ activation) * (Q @ Q), square)
        gradient = np.kron(errors @ J, activation)
        second += np.outer(gradient, gradient)
        total += gradient
    n = len(inputs)
    return H / n, M / n, (second / n - np.outer(total, total) / n**2) / BATCH


def measure(activation: str) -> dict[str, float]:
    """Seconds and ratios; asserts that both agree on the samples that both see."""
    from gradhess.torch import layer_curvature

    model, inputs, labels = problem(activation)
    few, their = inputs[:PLAIN_SAMPLES], labels[:PLAIN_SAMPLES]
    start = time.perf_counter()
    H, M, C = plain(model, few, their)
    slow = (time.perf_counter() - start) * SAMPLES / PLAIN_SAMPLES
    ours = layer_curvature(model, "2", (few, their), "cross_entropy", BATCH)
    for name, matrix in (("H", H), ("M", M), ("C", C)):
        # The outputs of one sample and of a batch differ by the rounding of float32 in the model.
        gap = np.abs(getattr(ours, name) - matrix).max() / np.abs(matrix).max()
        assert gap < 1000 * np.finfo(np.float32).eps, f"{name} differs by {gap:.1e}"

    layer_curvature(model, "2", (inputs, labels), "cross_entropy", BATCH)
    times, peaks = [], [_peak()]
    for _ in range(ROUNDS):
        time.sleep(0.3)  # lets waiting threads go to sleep
        start = time.perf_counter()
        layer_curvature(model, "2", (inputs, labels), "cross_entropy", BATCH)
        times.append(time.perf_counter() - start)
        peaks.append(_peak())
    seconds = statistics.median(times)
    unique = WIDTH * (WIDTH + 1) // 2
    floor = 3 * 2 * SAMPLES * unique * unique / (max(peaks) * 1e9)
    return {"gradhess s": seconds, "floor s": floor, "over floor": seconds / floor, "plain s": slow,
            "over plain": slow / seconds, "peak GFLOP/s": max(peaks)}  # fmt: skip


def _peak() -> float:
    found = limits("float64", seconds=0.2)
    return found[0] if found else float("nan")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_curvature_of_a_layer(activation: str) -> None:
    pytest.importorskip("torch")
    show({activation: measure(activation)})


def show(figures: dict[str, dict[str, float]]) -> None:
    print(f"\n{SAMPLES:,} samples, p = {WIDTH * WIDTH:,}; plain script on {PLAIN_SAMPLES} of them, scaled up")
    print(f"{'':10}" + "".join(f"{name:>14}" for name in next(iter(figures.values()))))
    for activation, values in figures.items():
        print(f"{activation:10}" + "".join(f"{value:14.2f}" for value in values.values()))


if __name__ == "__main__":
    show({activation: measure(activation) for activation in ACTIVATIONS})
