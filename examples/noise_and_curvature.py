"""How the covariance C of SGD noise follows the curvature H, for three losses, widths and numbers of classes.

    python examples/noise_and_curvature.py [cross_entropy | mse | softmax_mse]

Networks 64-w-w-c with ReLU and without biases, trained by SGD (B = 50, 150 epochs) on the digits 0, ..., c - 1 of
scikit-learn; the layer is the middle one, and fits are over a quarter of its eigenvalues. The table is like that of
Zhang, Yang and Tu (arXiv 2602.05600), with standard errors, the commutator of random rotations, and cosines beside it.

Needs PyTorch and scikit-learn. A minute for each loss.
"""

from __future__ import annotations

import itertools
import sys

import numpy as np
import torch
from sklearn.datasets import load_digits

from gradhess import curvature as cv
from gradhess.torch import layer_curvature

LEARNING_RATES = {"cross_entropy": 0.1, "mse": 0.5, "softmax_mse": 1.0}
WIDTHS, CLASSES = (12, 20, 32), (3, 6, 10)
BATCH, EPOCHS, SAMPLES = 50, 150, 1500


def digits(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(labels < classes))[:SAMPLES]
    return torch.from_numpy(pixels[chosen] / 16), torch.from_numpy(labels[chosen])


def train(loss: str, width: int, inputs: torch.Tensor, targets: torch.Tensor) -> torch.nn.Module:
    torch.manual_seed(0)
    classes = int(targets.max()) + 1
    layers: list[torch.nn.Module] = []
    for before, after in itertools.pairwise((64, width, width, classes)):
        linear = torch.nn.Linear(before, after, bias=False, dtype=torch.float64)
        torch.nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    one_hot = torch.eye(classes, dtype=torch.float64)[targets]
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATES[loss])
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(inputs)).split(BATCH):
            outputs = model(inputs[rows])
            if loss == "cross_entropy":
                value = torch.nn.functional.cross_entropy(outputs, targets[rows])
            else:
                predicted = outputs if loss == "mse" else outputs.softmax(dim=1)
                value = (predicted - one_hot[rows]).square().mean()
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
    return model


def main(losses: list[str]) -> None:
    torch.set_num_threads(1)  # the steps are so small that more threads would wait for each other
    columns = (
        "loss|classes|width|accuracy|exponent of C|R²|exponent of M|commutator|at random|cos(C, M)|cos(C, H)"
    )
    print("| " + columns.replace("|", " | ") + " |")
    print("|---" * 11 + "|")
    for loss, classes, width in itertools.product(losses, CLASSES, WIDTHS):
        inputs, targets = digits(classes)
        model = train(loss, width, inputs, targets)
        accuracy = float((model(inputs).argmax(dim=1) == targets).double().mean())
        report = cv.analyze(layer_curvature(model, "2", (inputs, targets), loss, BATCH))
        C, M = report.fit_C, report.fit_M
        if C is None or M is None:
            print(f"| {loss} | {classes} | {width} | {accuracy:.3f} | no curvature left to fit |")
            continue
        value, baseline = report.commutator
        print(
            f"| {loss} | {classes} | {width} | {accuracy:.3f} | {C.exponent:.2f} ± {C.stderr:.2f} | {C.r_squared:.3f} "
            f"| {M.exponent:.2f} ± {M.stderr:.2f} | {value:.2f} | {baseline.mean():.2f} | {report.cosine_CM:.2f} "
            f"| {report.cosine_CH:.2f} |",
            flush=True,
        )
        assert report.sandwich.holds


if __name__ == "__main__":
    main(sys.argv[1:] or list(LEARNING_RATES))
