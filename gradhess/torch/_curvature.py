"""Curvature and gradient noise of a linear layer of a PyTorch model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch

from gradhess import _validation as check
from gradhess._backends.protocol import AnyArray, Float64Array
from gradhess.curvature import Curvature, LayerSamples, output_terms
from gradhess.curvature import layer_curvature as _layer_curvature
from gradhess.errors import GradhessError, InputError, InputTypeError, NonFiniteError
from gradhess.torch._data import batches
from gradhess.torch._layer_probe import LayerProbe
from gradhess.torch._module_function import failures_named

LossFunction: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs, targets) -> per-sample losses (n,)."""


def layer_curvature(
    model: torch.nn.Module,
    layer: str | torch.nn.Module,
    data: Any,
    loss: str | LossFunction = "cross_entropy",
    batch_size: int = 1,
    *,
    bias: bool = False,
) -> Curvature:
    """H, M and C of the weight of one linear layer, exactly, from one pass over the data.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(inputs)``, giving outputs (n, K) before any softmax. Its mode, parameters and their
        gradients stay as they are.
    layer : str or torch.nn.Module
        A ``torch.nn.Linear`` in it, or its name, that is applied once to a sample.
    data : (inputs, targets), or an iterable of such pairs
        Arrays or tensors; or a loader. Targets are classes (n,), or (n, K) numbers for MSE.
    loss : {"cross_entropy", "mse", "softmax_mse"} or callable
        Of one sample: ``-log P_y``, ``||o - T||^2 / K``, ``||softmax(o) - T||^2 / K``; or a function of
        (outputs, targets) that returns the (n,) losses of the samples (``reduction="none"``), whose derivatives by
        the outputs are then taken by autograd.
    batch_size : int
        B, 1 by default: of the mini-batches whose noise C describes, not of the computation.
    bias : bool
        True appends the bias to the parameters, last in the row of each output.

    Returns
    -------
    Curvature
        Over the row-major (out, in) weight; (out, in + 1) with the bias. float64 throughout, after the forward and
        backward passes in the model's own type.

    Raises
    ------
    InputError, InputTypeError
        No such layer; a layer of another kind, or one that is not applied exactly once, to (n, in) inputs; a model
        that mixes samples (batch normalisation in training mode); targets that do not fit the loss.
    NonFiniteError
        A sample whose outputs or derivatives are not finite.
    ResultTooLargeError
        The matrices would not fit in memory: ``gradhess.curvature.layer_spectrum`` of ``layer_samples``.

    Notes
    -----
    The Hessians are those of the loss, not its Gauss-Newton part. Where the map from the layer to the outputs is
    piecewise linear (ReLU), which is found out, the two agree, and K backward passes are enough; otherwise the second
    derivatives by the layer's output take one more for each of its entries.
    """
    samples = layer_samples(model, layer, data, loss, bias=bias)
    name = f"layer {layer!r}" if isinstance(layer, str) else f"a {type(layer).__name__} layer"
    return _layer_curvature(samples, batch_size=batch_size, label=name)


def layer_samples(
    model: torch.nn.Module,
    layer: str | torch.nn.Module,
    data: Any,
    loss: str | LossFunction = "cross_entropy",
    *,
    bias: bool = False,
) -> Callable[[], Iterator[LayerSamples]]:
    """The samples at one linear layer, as ``gradhess.curvature.layer_curvature`` and ``layer_spectrum`` take them.

    Parameters are those of ``layer_curvature``.

    Returns
    -------
    callable
        Each call goes through the data once more, with the model as it then is, and yields a LayerSamples for each
        batch of the loader, or for every 8192 rows of arrays. A pass over small batches is slow: a forward and K
        backward passes of the model for each.
    """
    module = _resolve(model, layer)
    if bias and module.bias is None:
        raise InputError("bias=True, but the layer has no bias")
    if not callable(loss):
        check.one_of(loss, ("cross_entropy", "mse", "softmax_mse"), "loss")

    def samples() -> Iterator[LayerSamples]:
        seen = 0
        with LayerProbe(model, module) as probe:
            for inputs, targets in batches(data, module.weight):
                with _rows_from(seen):
                    found = _one(probe, inputs, targets, loss, bias)
                yield found
                seen += len(inputs)

    return samples


def _one(
    probe: LayerProbe, inputs: torch.Tensor, targets: torch.Tensor, loss: str | LossFunction, bias: bool
) -> LayerSamples:
    a, outputs = probe.forward(inputs)
    if isinstance(loss, str):
        errors, S, positive = output_terms(_float64(outputs), _array(targets), loss)
    else:
        errors, S = _by_autograd(loss, outputs, targets)
        positive = None
    F, curved = probe.backward(torch.from_numpy(errors))
    jacobian, activations = _float64(F), _float64(a)
    if bias:
        activations = np.column_stack([activations, np.ones(len(activations))])
    slopes = np.einsum("prk,pr->pk", jacobian, errors)
    try:
        if curved is None:
            return LayerSamples(activations, slopes, S, jacobian, positive)
        Q = jacobian.transpose(0, 2, 1) @ (S @ jacobian) + _float64(curved)
        return LayerSamples(activations, slopes, (Q + Q.transpose(0, 2, 1)) / 2, None, None)
    except NonFiniteError as error:
        row = error.row
        where = (
            ("inputs", inputs),
            ("targets", targets),
            ("activations at the layer", a),
            ("outputs", outputs),
        )
        bad = [name for name, tensor in where if not torch.isfinite(tensor[row]).all()]
        what = bad[0] if bad else "derivatives"
        raise NonFiniteError(row, f"its {what} hold NaN or infinity; drop such samples") from None


@contextmanager
def _rows_from(start: int) -> Iterator[None]:
    """Errors about a batch that begins with sample ``start`` of the data say so."""
    try:
        yield
    except NonFiniteError as error:
        row = start + error.row
        raise NonFiniteError(row, f"sample {row} of data: {error}") from None
    except GradhessError as error:
        if start == 0:
            raise
        raise type(error)(f"in the batch of data that begins with sample {start}: {error}") from error


def _float64(tensor: torch.Tensor) -> Float64Array:
    """In float64 on the CPU, also of types that NumPy has not."""
    array: Float64Array = tensor.detach().to("cpu", torch.float64).numpy()
    return array


def _array(targets: torch.Tensor) -> AnyArray:
    """Floats in float64, classes as they are."""
    host = targets.detach().cpu()
    array: AnyArray = (host.double() if host.is_floating_point() else host).numpy()
    return array


def _by_autograd(
    loss: LossFunction, outputs: torch.Tensor, targets: torch.Tensor
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    o = outputs.detach().double().requires_grad_()
    with torch.enable_grad():
        losses = _losses(loss, o, targets.to(o.device))
        (slope,) = torch.autograd.grad(losses.sum(), o, create_graph=True)
        rows = []
        for q in range(o.shape[1]):
            row = None
            if slope.requires_grad:
                (row,) = torch.autograd.grad(slope[:, q].sum(), o, retain_graph=True, allow_unused=True)
            rows.append(torch.zeros_like(o) if row is None else row)
    S = torch.stack(rows, dim=1).detach().cpu().numpy()
    return slope.detach().cpu().numpy(), (S + S.transpose(0, 2, 1)) / 2


def _losses(loss: LossFunction, o: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(n,), each of which depends on the outputs of its own sample."""
    with failures_named(
        f"loss does not take outputs of shape {tuple(o.shape)} with targets of shape {tuple(targets.shape)}, "
        f"{targets.dtype}"
    ):
        losses = loss(o, targets)
    if not isinstance(losses, torch.Tensor) or losses.shape != (len(o),):
        got = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
        raise InputError(
            f"loss returned {got}; it must return one loss for each sample, of shape ({len(o)},): "
            'reduction="none"'
        )
    if not losses.requires_grad:
        raise InputError(
            "loss cannot be differentiated by the outputs: is there a detach, an argmax, or NumPy, in it?"
        )
    if len(o) > 1:
        (first,) = torch.autograd.grad(losses[0], o, retain_graph=True)
        if (first[1:].abs() > 0).any():  # not NaN, which samples that are not finite may give to all
            raise InputError(
                "loss of one sample depends on the outputs of others, so there are no per-sample gradients; leave "
                "means over the batch out of it"
            )
    return losses


def _resolve(model: torch.nn.Module, layer: str | torch.nn.Module) -> torch.nn.Linear:
    if not isinstance(model, torch.nn.Module):
        raise InputTypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    if isinstance(layer, str):
        try:
            found = model.get_submodule(layer)
        except AttributeError:
            raise InputError(
                f"model has no layer {layer!r}; its linear layers are {', '.join(linear)}"
            ) from None
    else:
        found = layer
        if not isinstance(layer, torch.nn.Module):
            raise InputTypeError(
                f"layer must be a name or a module, not {type(layer).__name__}; the linear layers are "
                f"{', '.join(linear)}"
            )
        if not any(module is layer for module in model.modules()):
            raise InputError("layer is not a module of model")
    if not isinstance(found, torch.nn.Linear):
        raise InputTypeError(
            f"layer is a {type(found).__name__}; only torch.nn.Linear is supported: {', '.join(linear) or 'none here'}"
        )
    if found.weight.is_complex():
        raise InputTypeError("layer is complex; its weight must hold real numbers")
    return found
