"""Training on waves of high frequency: where the gradient stops to say which one it is.

The experiment of Takhanov, arXiv 2505.22158: ``y = {a x}`` with a uniform on the integers in [1, A) and x on [0, 1], a
network 1-640-1280-1 with ReLU, Adam at 1e-3, batches of 1000, 250 epochs, mean squared error.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gradhess import _validation as check
from gradhess.informativeness import _checks


@dataclass(frozen=True, slots=True)
class WaveTraining:
    """One training run.

    Attributes
    ----------
    A, frequency : int
        The class, and the frequency that was drawn from it.
    errors : tuple of float
        Mean squared error over each epoch, on inputs not seen before. Predicting 1/2 everywhere has 1/12.
    final_error : float
        On fresh inputs after the last step.
    """

    A: int
    frequency: int
    errors: tuple[float, ...]
    final_error: float


def train_on_wave(
    A: int,
    *,
    widths: tuple[int, ...] = (160, 320),
    epochs: int = 60,
    steps_per_epoch: int = 10,
    batch_size: int = 1000,
    learning_rate: float = 1e-3,
    rng: Any = 0,
    device: str = "cpu",
) -> WaveTraining:
    """Train a ReLU network on ``{a x}``, a drawn from the integers in [1, A).

    Parameters
    ----------
    A : int
        At least 2.
    widths : tuple of int
        Of the hidden layers; the source has (640, 1280).
    epochs, steps_per_epoch, batch_size : int
        Each step has a fresh batch, so an epoch is only a unit of reporting.
    learning_rate : float
        Of Adam.
    rng : int or numpy.random.Generator
        For the frequency, the weights and the inputs. torch's own generator is left as it was.
    device : str
        Of torch.
    """
    top = check.count(A, "A", 2)
    n_epochs, n_steps = check.count(epochs, "epochs", 1), check.count(steps_per_epoch, "steps_per_epoch", 1)
    size, rate = check.count(batch_size, "batch_size", 1), check.positive(learning_rate, "learning_rate")
    sizes = [1, *(check.count(width, "widths", 1) for width in widths), 1]
    generator = _checks.generator(rng)
    frequency = int(generator.integers(1, top))
    seed = int(generator.integers(0, 2**63 - 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[Any] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [torch.nn.Linear(fan_in, fan_out), torch.nn.ReLU()]
        network = torch.nn.Sequential(*layers[:-1]).to(device)
    draws = torch.Generator(device).manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)

    def batch() -> tuple[Any, Any]:
        x = torch.rand((size, 1), generator=draws, device=device)
        return x, torch.remainder(frequency * x, 1.0)

    errors = []
    for _ in range(n_epochs):
        total = torch.zeros((), device=device)
        for _ in range(n_steps):
            x, y = batch()
            optimizer.zero_grad()
            error: Any = torch.nn.functional.mse_loss(network(x), y)
            error.backward()
            optimizer.step()
            total += error.detach()
        errors.append(float(total) / n_steps)
    with torch.no_grad():
        last = [float(torch.nn.functional.mse_loss(network(x), y)) for x, y in (batch() for _ in range(10))]
    return WaveTraining(top, frequency, tuple(errors), float(np.mean(last)))
