"""A class of targets that is small enough to enumerate, a model, and how far means of repetitions may be off."""

from __future__ import annotations

import math

import numpy as np

from gradhess import informativeness as inf
from gradhess.informativeness.models import TanhNetwork

Q, N = 3, 3
TARGET = inf.lwe.targets(inf.lwe.secrets(N, Q, "ternary"), Q)
INPUTS = inf.lwe.inputs(N, [0.5, 0.3, 0.2])
MODEL = TanhNetwork(N, 4, rng=1)


def exact(target=TARGET, inputs=INPUTS, model=MODEL):
    R = model.predict(inputs.points)[:, None] - target.targets(inputs.points)
    return inf.exact_informativeness(
        model.jacobian(inputs.points), R, inputs.weights, target_weights=target.weights
    )


def off_by(values, expected):
    """How many standard errors the mean is from what it should be."""
    return abs(np.mean(values) - expected) / (np.std(values, ddof=1) / math.sqrt(len(values)))
