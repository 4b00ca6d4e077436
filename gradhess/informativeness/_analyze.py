"""``analyze``: everything about a model, a class of targets and a distribution of inputs, exact where it can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradhess import _validation as check
from gradhess import losses
from gradhess.informativeness import _checks
from gradhess.informativeness._bounds import bound, largest_residual
from gradhess.informativeness._collision import collision_entropy_from_samples
from gradhess.informativeness._dependence import pairwise_dependence
from gradhess.informativeness._enumeration import DerivativesInBlocks, require_gradients
from gradhess.informativeness._estimate import Estimate, above_rounding
from gradhess.informativeness._exact import exact_informativeness, second_moment_norm
from gradhess.informativeness._inputs import Inputs, as_inputs
from gradhess.informativeness._montecarlo import estimate_informativeness, input_sampler
from gradhess.informativeness._report import BATCH_SIZES, Report
from gradhess.informativeness._targets import TargetClass
from gradhess.informativeness.models import Model, check_model, jacobian, predictions
from gradhess.losses import Loss


def analyze(
    model: Model,
    target_class: TargetClass,
    inputs: Any,
    *,
    loss: Loss | str = losses.squared,
    n_targets: int = 256,
    n_inputs: int = 1024,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    rng: Any = 0,
) -> Report:
    """How much the gradient says about its target, against how much it is shaken by the batch.

    Parameters
    ----------
    model : object with ``predict(x)`` (n,) and ``jacobian(x)`` (n, p)
    target_class : TargetClass
    inputs : Inputs, array_like of shape (n_inputs, d), or callable
        A distribution on points; the equal distribution on the rows of an array; or ``f(n, rng)`` that draws.
        Where the class has ``members`` and the inputs are points, everything is exact; else it is estimated.
    loss : Loss or str
        Of one prediction; ``(p - y)^2 / 2`` by default.
    n_targets, n_inputs : int
        Draws of an estimate (see ``estimate_informativeness``); not used where it is exact.
    batch_sizes : sequence of int
        To show.
    rng : int or numpy.random.Generator
        Of an estimate.

    Returns
    -------
    Report
        With ``summary()`` and ``plot(path)``.

    Raises
    ------
    InputError
        A number is out of range or not finite, or the model or the class gives arrays of a wrong shape.
    InputTypeError
        ``model`` has no ``predict`` or no ``jacobian``, or another argument is of a wrong type.
    ResultTooLargeError
        The gradients of the predictions, (n_inputs, p), the covariance that ``exact_informativeness`` forms, or the
        labels, a byte for each target and input, would not fit in memory. Targets pass in blocks.
    """
    check_model(model)
    check.instance(target_class, TargetClass, "target_class")
    sizes = tuple(check.count(size, "batch_sizes", 1) for size in batch_sizes)
    if callable(inputs) or target_class.members is None:
        distribution = inputs if callable(inputs) else as_inputs(inputs, "inputs")
        return _estimated(model, target_class, distribution, loss, n_targets, n_inputs, sizes, rng)
    return _enumerated(model, target_class, as_inputs(inputs, "inputs"), loss, sizes)


def _enumerated(
    model: Model, target_class: TargetClass, inputs: Inputs, loss: Loss | str, sizes: tuple[int, ...]
) -> Report:
    points, mu = inputs.points, inputs.weights
    p, J = predictions(model, points), require_gradients(model, points)
    passed = DerivativesInBlocks(target_class, points, p, loss)
    variance = float(exact_informativeness(J, iter(passed), mu, target_weights=target_class.weights))
    mean = (mu * passed.mean) @ J
    squares = np.einsum("xj,xj->x", J, J, dtype=np.float64)
    # E_h of the second moment of one input's gradient, less that of |G_h|^2 = variance + |mean|^2.
    second_moment = float((mu * squares) @ passed.mean_square)
    noise = 0.0  # of one input, exactly
    if len(inputs) > 1:
        noise = above_rounding(second_moment - variance - float(mean @ mean), second_moment, len(inputs))
    epsilon, top, notes = None, None, []
    if target_class.q is None or passed.labels is None:
        notes.append("no pairwise dependence and no bound: the targets have real values, not labels")
    else:
        alone = len(inputs) < 2
        if alone:
            notes.append("one input has no pairs: its dependence is shown as 0, which the bound does not use")
        epsilon = (
            0.0
            if alone
            else pairwise_dependence(
                passed.labels,
                target_class.q,
                input_weights=mu,
                target_weights=target_class.weights,
            )
        )
        largest = largest_residual(p, target_class.label_values, loss)
        top = bound(largest, second_moment_norm(J, mu), epsilon, inputs.collision_entropy)
    return Report(
        model_parameters=J.shape[1], n_targets=len(target_class), n_inputs=len(inputs), exact=True,
        variance=Estimate(variance, 0.0), naive=None, noise=noise, collision_entropy=inputs.collision_entropy,
        epsilon=epsilon, bound=top, batch_sizes=sizes, notes=tuple(notes),
    )  # fmt: skip


def _estimated(
    model: Model, target_class: TargetClass, inputs: Any, loss: Loss | str, n_targets: int, n_inputs: int,
    sizes: tuple[int, ...], rng: Any,
) -> Report:  # fmt: skip
    generator = _checks.generator(rng)
    found = estimate_informativeness(
        model, target_class, inputs, n_targets=n_targets, n_inputs=n_inputs, rng=generator, loss=loss
    )
    notes = ["no pairwise dependence and no bound: targets or inputs were drawn, not enumerated"]
    points = input_sampler(inputs)(found.n_inputs, generator)
    if isinstance(inputs, Inputs):
        entropy = inputs.collision_entropy
    else:
        seen = collision_entropy_from_samples(points.reshape(len(points), -1))
        entropy = seen.value
        if seen.note:
            notes.append(seen.note)
    return Report(
        model_parameters=jacobian(model, points[:1]).shape[1], n_targets=found.n_targets, n_inputs=found.n_inputs,
        exact=False, variance=Estimate(found.value, found.stderr), naive=found.naive, noise=found.noise,
        collision_entropy=entropy, epsilon=None, bound=None, batch_sizes=sizes, notes=tuple(notes),
    )  # fmt: skip
