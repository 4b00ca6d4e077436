"""A torch module as a model with predictions and their gradients, for ``gradhess.informativeness``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gradhess import _memory
from gradhess import _validation as check
from gradhess._backends.protocol import AnyArray
from gradhess.errors import InputError


class DifferentiableModel:
    """``predict(x)`` (n,) and ``jacobian(x)`` (n, p) of a torch module that predicts one number for each input.

    Parameters
    ----------
    module : torch.nn.Module
        Takes (n, d) and gives (n,) or (n, 1). Its gradients are taken in the parameters that require them, in the
        order of ``named_parameters()``, each flattened row by row; others, and buffers, are constants. Each input is
        taken alone, so layers that mix a batch (batch normalisation in training mode) cannot be used: call
        ``module.eval()`` first. The parameters are read at each call, so the model may be trained in between.
    chunk_size : int, optional
        Inputs differentiated at the same time, as in ``torch.func.vmap``; all by default. It changes memory, and
        results only by rounding.

    Raises
    ------
    InputError, InputTypeError
        No parameter requires a gradient, or ``module`` is no module; from ``predict`` and ``jacobian``, the module
        gives another shape, or cannot be differentiated input by input.
    ResultTooLargeError
        The gradients would not fit in memory.
    """

    def __init__(self, module: Any, chunk_size: int | None = None) -> None:
        check.instance(module, torch.nn.Module, "module")
        self.module = module
        self.chunk_size = None if chunk_size is None else check.count(chunk_size, "chunk_size", 1)
        if not self._parameters():
            raise InputError("no parameter of the module requires a gradient; see parameter.requires_grad_()")

    @property
    def n_parameters(self) -> int:
        """p."""
        return sum(parameter.numel() for parameter in self._parameters().values())

    def predict(self, x: AnyArray) -> AnyArray:
        """(n,): the predictions, in the type of the parameters."""
        points = self._points(x)
        step = len(points) if self.chunk_size is None else self.chunk_size
        with torch.no_grad():
            parts = [
                self.module(points[start : start + step]) for start in range(0, len(points), max(1, step))
            ]
        outputs = torch.cat(parts)
        if outputs.shape not in ((len(points),), (len(points), 1)):
            raise InputError(
                f"the module gave shape {tuple(outputs.shape)} for {len(points)} inputs; "
                "it must predict one number each"
            )
        return _on_host(outputs.reshape(-1))

    def jacobian(self, x: AnyArray) -> AnyArray:
        """(n, p): the gradient of each prediction, in the type of the parameters."""
        points = self._points(x)
        learned = {name: value.detach() for name, value in self._parameters().items()}
        itemsize = max(value.element_size() for value in learned.values())
        _memory.require(
            2 * itemsize * len(points) * self.n_parameters, f"the gradients of {len(points)} predictions"
        )
        module = self.module

        def prediction(parameters: dict[str, Any], point: Any) -> Any:
            output = torch.func.functional_call(module, parameters, (point.unsqueeze(0),))
            if output.numel() != 1:
                raise InputError(
                    f"the module gave shape {tuple(output.shape)} for one input; it must predict one number each"
                )
            return output.reshape(())

        each = torch.func.vmap(torch.func.grad(prediction), in_dims=(None, 0), chunk_size=self.chunk_size)
        try:
            by_name = each(learned, points)
        except RuntimeError as error:
            raise InputError(
                f"the module cannot be differentiated input by input ({str(error).splitlines()[0]}); "
                "call module.eval() if it has batch normalisation or dropout"
            ) from error
        return _on_host(torch.cat([by_name[name].reshape(len(points), -1) for name in learned], dim=1))

    def _parameters(self) -> dict[str, Any]:
        return {name: value for name, value in self.module.named_parameters() if value.requires_grad}

    def _points(self, x: AnyArray) -> Any:
        like = next(iter(self._parameters().values()))
        return torch.as_tensor(np.ascontiguousarray(x)).to(dtype=like.dtype, device=like.device)


def _on_host(tensor: Any) -> AnyArray:
    found: AnyArray = tensor.detach().to("cpu").numpy()
    return found
