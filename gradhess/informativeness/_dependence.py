"""How far the labels of a class are from pairwise independence.

``eps(x, x') = sum over y, y' of |P_h(h(x) = y, h(x') = y') - q^-2|``, and its root mean square over pairs of different
inputs (Takhanov, *The informativeness of the gradient revisited*, Neural Networks 2025, arXiv 2505.22158). 0 is perfect
pairwise independence with uniform labels; the largest value is ``2 (1 - q^-2)``, of a class of one function.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradhess import _memory
from gradhess import _validation as check
from gradhess._backends import registry
from gradhess._backends.protocol import AnyArray, Float64Array
from gradhess.errors import InputError
from gradhess.informativeness import _checks


def pairwise_dependence(
    labels: Any, q: int, *, input_weights: Any = None, target_weights: Any = None
) -> float:
    """Root mean square of ``eps(x, x')`` over pairs of different inputs.

    Parameters
    ----------
    labels : array_like of integers, shape (n_targets, n_inputs)
        Row h holds what target h answers at each input, in 0..q-1. Each column is one input, so two columns must not
        stand for the same point (``Inputs`` makes equal points one).
    q : int
        Number of labels, 2 to 256. Some may never occur.
    input_weights : array_like, shape (n_inputs,), optional
        Weights mu of the inputs; a pair has the weight ``mu(x) mu(x')``. Only their ratios matter. Equal by default.
    target_weights : array_like, shape (n_targets,), optional
        Weights of the targets in ``P_h``. Only their ratios matter. Equal by default.

    Returns
    -------
    float
        From 0 to ``2 (1 - q^-2)``, a class of one function. The larger, the less independent the class, and the more
        a gradient may say. The same bits for any number of threads. Without ``target_weights``, joint counts are
        integers, and only the mean over pairs is rounded.

    Raises
    ------
    InputError
        A label is out of range, or fewer than two inputs have a positive weight.

    Notes
    -----
    For each of the ``n_inputs^2 / 2`` pairs, ``n_targets * (q - 1)`` comparisons of bytes, of which one instruction
    does up to 64, and ``5 q^2`` additions in the same instructions; or, where that is more, as from a q of 50 to 250
    on, a nanosecond or two for each target, whatever q is. With ``target_weights`` up to ten times the work.
    """
    modulus = _checks.label_count(q)
    table = _checks.label_matrix(labels, modulus)
    n_targets, n_inputs = table.shape
    shares = _checks.probabilities(input_weights, "input_weights", n_inputs)
    if target_weights is not None:
        target_weights = _checks.probabilities(target_weights, "target_weights", n_targets)
        table, target_weights = table[target_weights > 0], target_weights[target_weights > 0]
    kept = shares > 0
    if np.count_nonzero(kept) < 2:
        raise InputError("pairs of different inputs need two inputs of positive weight at least")
    if not kept.all():
        table, shares = table[:, kept], shares[kept]
    _memory.require(2 * table.size, "the labels, in the order that the kernel reads")
    sums = registry.active().pair_dependence(
        np.ascontiguousarray(table), modulus, shares, target_weights, threads=registry.num_threads()
    )
    # Shares of the pairs x < x', from sums that cancel nothing even where one input has nearly all the weight.
    later = np.append(np.cumsum(shares[:0:-1])[::-1], 0.0)
    return math.sqrt(math.fsum(shares * sums) / math.fsum(shares * later))


def symmetric_dependence(labels: AnyArray, representatives: AnyArray, shares: Float64Array, q: int) -> float:
    """``pairwise_dependence(labels, q)`` of a class that is symmetric, from one input of each orbit.

    A group acts on the inputs, and the class is the same after it; so ``eps(g x, g x') = eps(x, x')``, and the mean
    over x' is the same for all x of an orbit. ``labels`` (n_targets, n_inputs) are of all inputs, equally likely, each
    once; ``representatives`` (n_targets, r) of one of each orbit, whose part of all inputs is ``shares`` (r,).
    """
    r, n = representatives.shape[1], labels.shape[1]
    # A representative meets all inputs, itself among them, but no representative.
    mu = np.concatenate([np.zeros(r), np.full(n, 1 / n)])
    sums = registry.active().pair_dependence(
        np.concatenate([representatives, labels], axis=1),
        q,
        mu,
        None,
        n_rows=r,
        threads=registry.num_threads(),
    )
    alone = (representatives[np.newaxis] == np.arange(q)[:, np.newaxis, np.newaxis]).mean(axis=1)
    itself = np.abs(alone - q**-2).sum(axis=0) + (q * q - q) / q**2
    return math.sqrt(math.fsum(shares * (n * sums - itself**2)) / (n - 1))


def largest_dependence(q: int) -> float:
    """``2 (1 - q^-2)``: the dependence of a class of one function."""
    return 2 * (1 - 1 / check.count(q, "q", 2) ** 2)
