"""Gradients of a linear layer of a network: rows ``sum_t delta_it (x) a~_it``."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from gradhess import _validation as check
from gradhess._arrays import give_back, library_of
from gradhess._backends import registry
from gradhess._backends.outer_rows import OuterRows
from gradhess._backends.protocol import BatchMoments, Float64Array, PairWeights
from gradhess._backends.structured_rows import StructuredRows
from gradhess._device_arrays import on_device
from gradhess._gradients import outer_gram, passes
from gradhess._gradients.base import Gradients
from gradhess._gradients.device.make import device_layer_gradients
from gradhess.errors import InputError


class StructuredGradients(Gradients):
    """Gradients whose rows know their structure, and contract themselves."""

    rows: StructuredRows

    def diagonal(self) -> Any:
        with np.errstate(all="ignore"):  # rows that are not finite are found and reported by their index
            out = self.rows.squares()
        passes.check_result(registry.active(), self.rows, out)
        return give_back(out, self.library)

    def loss(self) -> float:
        """An error: the errors of a layer are derivatives of a loss, and do not say its value."""
        raise InputError("gradients of a layer carry no loss; glm_gradients(X, y, coef, loss=...) does")

    def hessian(self) -> Any:
        """An error: the errors of a layer are first derivatives, and do not say the second."""
        raise InputError("gradients of a layer carry no Hessian; glm_gradients(X, y, coef, loss=...) does")

    def _remember(self, uncentred: BatchMoments) -> None:
        """Nothing: ``sum`` does not come from rows that were formed, and should not depend on what came before."""

    def _summed(self) -> Float64Array:
        if self._sum is None:
            ones = np.ones((self.n_samples, 1))
            backend, threads = registry.active(), registry.num_threads()
            self._sum = self._summed_over_rows(
                lambda start, stop: backend.rmatvec(
                    self.rows.slice(start, stop), ones[start:stop], threads=threads
                ),
                1,
            )[:, 0]
        return self._sum


class LayerGradients(StructuredGradients):
    """Per-sample gradients of a linear layer, made by ``gradhess.layer_gradients``."""

    rows: OuterRows

    def gram(self, *, dtype: npt.DTypeLike = "float64") -> Any:
        rows = self.rows
        if rows.steps > 1 or rows.mask is not None or not outer_gram.pays(rows.n_outputs, rows.width):
            return super().gram(dtype=dtype)
        return give_back(
            outer_gram.gram(rows, rows.X.reshape(-1, rows.X.shape[-1]), _errors(rows), dtype), self.library
        )


def _errors(rows: OuterRows) -> outer_gram.PairSource:
    flat = rows.errors.reshape(rows.n_samples, rows.n_outputs)
    return lambda start, stop: PairWeights(np.ascontiguousarray(flat[start:stop], dtype=np.float64))


def layer_gradients(activations: Any, errors: Any, *, bias: bool = False, mask: Any = None) -> LayerGradients:
    """Per-sample gradients of the weight of a linear layer: structured, lazy, never formed.

    For ``z = W a`` (or ``W a + b``) with W of shape (k, m) = (out, in), row i is ``delta_i (x) a_i``, the gradient
    ``delta_i a_i^T`` of W, row-major; with a sequence axis ``sum_t delta_it (x) a_it``.

    Parameters
    ----------
    activations : array_like, shape (n, m) or (n, T, m)
        The inputs a of the layer, samples first. float32 and float64 in any memory order; integers and booleans.
    errors : array_like, shape (n, k) or (n, T, k)
        ``delta_i = d loss_i / d z_i``, the derivative of the loss of sample i alone with respect to the outputs of
        the layer. (What a backward pass from the *mean* loss gives is ``1 / n`` of it.)
    bias : bool
        Whether the layer has a bias. It adds one parameter for each output, **last** in the row of that output, as an
        activation that is always one: p = k (m + 1).
    mask : array_like of booleans, shape (n, T), optional
        True where a step counts; what the other steps hold is never used, whatever it is. For padded sequences.

    Returns
    -------
    LayerGradients (of arrays on a GPU: DeviceGradients, with the same methods)
        Of shape (n, p), p = k m or k (m + 1). ``loss`` and ``hessian`` are errors.

    Raises
    ------
    InputError
        Shapes that do not agree, or have no columns or steps.
    InputTypeError
        Data that are not real numbers, or a mask that is not boolean.

    Notes
    -----
    ``gram`` computes block (p, q) as ``A^T diag(delta_p delta_q) A``, which is symmetric, as is the whole: a quarter
    of the product. With a sequence axis, and wherever rows have to be centred, a few slabs of rows are formed at a
    time. ``norms`` and ``cogram`` form rows only where that costs less than going over pairs of steps.
    """
    if type(activations) is not np.ndarray and on_device(activations):
        # The same methods: typed as what arrays on the host would give.
        return cast(LayerGradients, device_layer_gradients(activations, errors, bias=bias, mask=mask))
    return LayerGradients(
        check.layer_rows(activations, errors, bias=bias, mask=mask), library_of(activations)
    )
