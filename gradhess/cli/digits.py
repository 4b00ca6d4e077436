"""The network of ``gradhess curvature``: handwritten digits, three layers, trained on the spot."""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gradhess.errors import InputError

if TYPE_CHECKING:
    import torch

SAMPLES: Final = 1500
LEARNING_RATES: Final = {"cross_entropy": 0.1, "mse": 0.5, "softmax_mse": 1.0}
"""The two other losses are means over the classes, with smaller gradients."""
CLIP: Final = 5.0
LAYER: Final = "2"
"""Name of the middle layer."""
MISSING: Final = "{} is not installed: pip install torch scikit-learn"


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A network and what it was trained on."""

    model: torch.nn.Module
    inputs: torch.Tensor
    targets: torch.Tensor
    accuracy: float


def train(loss: str, *, width: int, classes: int, epochs: int, batch_size: int, seed: int) -> Trained:
    """64-width-width-classes, ReLU, no biases, by SGD on the digits 0, ..., classes - 1 of scikit-learn.

    At most 1500 samples in random order, pixels from 0 to 1, weights by He's rule, gradients clipped to norm 5,
    learning rate 0.1 (0.5 for MSE and 1 for MSE after softmax). float64: small eigenvalues are more than rounding.

    Raises
    ------
    InputError
        PyTorch or scikit-learn is not installed.
    """
    for name, module in (("torch", "torch"), ("scikit-learn", "sklearn")):
        if importlib.util.find_spec(module) is None:
            raise InputError(MISSING.format(name))
    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    chosen = np.flatnonzero(labels < classes)
    chosen = np.random.default_rng(seed).permutation(chosen)[:SAMPLES]
    inputs, targets = torch.from_numpy(pixels[chosen] / 16.0), torch.from_numpy(labels[chosen])
    generator = torch.Generator().manual_seed(seed)
    sizes = (64, width, width, classes)
    layers: list[torch.nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        linear = torch.nn.Linear(before, after, bias=False, dtype=torch.float64)
        torch.nn.init.kaiming_normal_(linear.weight, nonlinearity="relu", generator=generator)
        layers += [linear, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the steps are so small that more would wait for each other
    try:
        _descend(model, inputs, targets, loss, epochs, batch_size, generator)
    finally:
        torch.set_num_threads(threads)
    with torch.no_grad():
        accuracy = float((model(inputs).argmax(dim=1) == targets).double().mean())
    return Trained(model, inputs, targets, accuracy)


def _descend(
    model: torch.nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    loss: str,
    epochs: int,
    batch_size: int,
    generator: torch.Generator,
) -> None:
    import torch

    wanted = torch.eye(int(targets.max()) + 1, dtype=torch.float64)[targets]
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATES[loss])
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(batch_size):
            outputs = model(inputs[rows])
            if loss == "cross_entropy":
                value = torch.nn.functional.cross_entropy(outputs, targets[rows])
            else:
                predicted = outputs if loss == "mse" else outputs.softmax(dim=1)
                value = (predicted - wanted[rows]).square().mean()
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
