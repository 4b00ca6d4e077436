"""Small PyTorch models with data, and their per-sample gradients by ``torch.func``."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

N = 6


class Tied(nn.Module):
    """A language model in small: the embedding is also the weight of the last layer."""

    def __init__(self, vocabulary=11, width=5):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        return self.head(torch.tanh(self.mix(self.norm(x)))).mean(1)


class Recurrent(nn.Module):
    """One layer called three times: weight sharing in time."""

    def __init__(self):
        super().__init__()
        self.step = nn.Linear(4, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.step(x))
        return self.out(x)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 3, padding_idx=0)
        self.out = nn.Linear(3, 3)

    def forward(self, ids):
        return self.out(torch.tanh(self.embed(ids)).sum(1))


def sequential(*layers):
    return nn.Sequential(*layers)


MODELS = {
    "mlp": lambda: (sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)), (N, 5)),
    "one layer": lambda: (nn.Linear(5, 3), (N, 5)),
    "sequence": lambda: (sequential(nn.Linear(5, 4), nn.Tanh(), nn.Flatten(), nn.Linear(28, 3)), (N, 7, 5)),
    "conv2d": lambda: (
        sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, (2, 1), dilation=(1, 2)),
            nn.Flatten(), nn.LazyLinear(3),
        ),
        (N, 2, 7, 6),
    ),
    "conv2d same, reflected, grouped": lambda: (
        sequential(
            nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect", groups=2), nn.ELU(),
            nn.Conv2d(4, 2, 2, padding="same", bias=False), nn.Flatten(), nn.LazyLinear(3),
        ),
        (N, 4, 5, 5),
    ),
    "conv1d": lambda: (
        sequential(
            nn.Conv1d(2, 3, 3, padding=2, stride=2), nn.Tanh(), nn.Conv1d(3, 6, 2, dilation=2, groups=3),
            nn.Flatten(), nn.LazyLinear(3),
        ),
        (N, 2, 9),
    ),
    "layer norm": lambda: (
        sequential(nn.LayerNorm((3, 4)), nn.Flatten(), nn.Linear(12, 5), nn.LayerNorm(5), nn.Linear(5, 3)), (N, 3, 4)
    ),
    "recurrent": lambda: (Recurrent(), (N, 4)),
    "tied": lambda: (Tied(), "ids"),
    "words": lambda: (Words(), "ids"),
}  # fmt: skip


def problem(name, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    model, shape = MODELS[name]()
    x = torch.randint(0, 7, (N, 4)) if shape == "ids" else torch.randn(shape, dtype=dtype)
    model = model.to(dtype)
    model(x)  # lazy layers learn their shapes
    for parameter in model.parameters():  # also those that start as ones and zeros
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model, x, torch.randint(0, 3, (N,))


def per_sample(model, x, y):
    """Name to (n, p), by torch.func."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x, y):
        return F.cross_entropy(torch.func.functional_call(model, parameters, (x[None],)), y[None])

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0), randomness="error")(parameters, x, y)
    return {name: grad.reshape(len(x), -1) for name, grad in found.items()}
