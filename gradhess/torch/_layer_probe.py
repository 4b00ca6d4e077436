"""One linear layer within a model: its input, and the derivatives of the outputs by its own output."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch

from gradhess.errors import InputError
from gradhess.torch._module_function import failures_named


class LayerProbe:
    """A hook on a layer, for as long as the ``with`` block lasts.

    The layer's output is cut from what comes before it, so a backward pass goes from the outputs to the layer and no
    further, and leaves no gradients on any parameter.
    """

    def __init__(self, model: torch.nn.Module, layer: torch.nn.Linear) -> None:
        self.model = model
        self.layer = layer
        self._calls: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._outputs: torch.Tensor | None = None
        self._independent = False

    def __enter__(self) -> LayerProbe:
        # First of all hooks: those of others may return another output than that of the layer.
        self._handle = self.layer.register_forward_hook(self._capture, prepend=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()
        self._calls.clear()
        self._outputs = None

    def _capture(self, layer: torch.nn.Module, inputs: tuple[Any, ...], z: torch.Tensor) -> torch.Tensor:
        cut = z.detach().requires_grad_()
        self._calls.append((inputs[0].detach(), cut))
        return cut.clone()  # an activation that works in place may change the clone

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's input (n, m), and the model's outputs (n, K)."""
        self._calls.clear()
        outputs = self._run(inputs)
        if len(self._calls) != 1:
            raise InputError(
                f"the layer was applied {len(self._calls)} times in a forward pass; it must be once"
            )
        a, z = self._calls[0]
        if a.ndim != 2:
            raise InputError(
                f"the layer's input has shape {tuple(a.shape)}; it must be (n, in): one application to a sample"
            )
        if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2 or len(outputs) != len(a):
            shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
            raise InputError(f"the model returns {shape}; it must return outputs of shape ({len(a)}, K)")
        if not outputs.requires_grad:
            raise InputError(
                "the model's outputs do not depend on the layer: is there a detach, or a no_grad, in it?"
            )
        self._outputs = outputs
        if not self._independent and len(a) > 1:
            self._refuse_mixing(outputs, z)
            self._independent = True
        return a, outputs

    def _run(self, inputs: torch.Tensor) -> Any:
        """The model on the inputs; what torch says about those that do not fit is said with their name."""
        what = f"model does not take the inputs of data (shape {tuple(inputs.shape)}, {inputs.dtype})"
        advice = "; they must be a batch (n, ...) as the model is called with, floats where its first layer has floats"
        with failures_named(what, advice), torch.enable_grad():
            return self.model(inputs)

    def backward(self, errors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``do_q/dz`` (n, K, k), and ``sum_q e_q d^2 o_q / dz^2`` (n, k, k), or None where it is zero."""
        assert self._outputs is not None
        _, z = self._calls[0]
        with torch.enable_grad():
            return self._derivatives(self._outputs, z, errors)

    @staticmethod
    def _derivatives(
        outputs: torch.Tensor, z: torch.Tensor, errors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        rows = [_grad(outputs[:, q].sum(), z) for q in range(outputs.shape[1])]
        weighted = (outputs * errors.to(outputs)).sum()
        (slope,) = torch.autograd.grad(weighted, z, create_graph=True, allow_unused=True)
        second = None
        if slope is not None and slope.requires_grad and _is_curved(slope, z):
            second = torch.stack([_grad(slope[:, q].sum(), z) for q in range(z.shape[1])], dim=1)
        return torch.stack(rows, dim=1), second

    def _refuse_mixing(self, outputs: torch.Tensor, z: torch.Tensor) -> None:
        first = _grad(outputs[0].sum(), z)
        if (first[1:].abs() > 0).any():  # not NaN, which samples that are not finite may give to all
            raise InputError(
                "the outputs of a sample depend on other samples (batch normalisation in training mode?), so there "
                "are no per-sample gradients; call model.eval() first"
            )


def _is_curved(slope: torch.Tensor, z: torch.Tensor) -> bool:
    """Whether the slope varies with z: seen in one direction of signs, in which no sum cancels by design."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(slope.shape[1], generator=generator, dtype=torch.float64).to(slope)
    return bool(_grad((slope * direction).sum(), z).any())


def _grad(scalar: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """The gradient, zero where the graph does not reach z."""
    if not scalar.requires_grad:
        return torch.zeros_like(z)
    (found,) = torch.autograd.grad(scalar, z, retain_graph=True, allow_unused=True)
    return torch.zeros_like(z) if found is None else found
