"""A torch module as a model with predictions and their gradients, for ``gradhess.informativeness``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from gradhess import _memory
from gradhess import _validation as check
from gradhess._arrays import BFLOAT16, as_numpy
from gradhess._backends.protocol import AnyArray
from gradhess.errors import GradhessError, InputError, InputTypeError

FAILURES: Final = (RuntimeError, ValueError, IndexError, TypeError)
"""What torch raises about inputs of a wrong shape, type or range."""


class DifferentiableModel:
    """``predict(x)`` (n,) and ``jacobian(x)`` (n, p) of a torch module that predicts one number for each input.

    Parameters
    ----------
    module : torch.nn.Module
        Takes (n, d) and gives (n,) or (n, 1). Floats are given to it in the type of the parameters. Integers are too
        where the module takes that, and else as int64 (an embedding, say, looks up tokens); which of the two, the
        first call with integers finds out. Its gradients are taken in the parameters that require them, in the
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
        does not take such inputs (of another d, say), gives another shape, or cannot be differentiated input by input.
    ResultTooLargeError
        The gradients would not fit in memory.
    """

    def __init__(self, module: Any, chunk_size: int | None = None) -> None:
        check.instance(module, torch.nn.Module, "module")
        self.module = module
        self.chunk_size = None if chunk_size is None else check.count(chunk_size, "chunk_size", 1)
        self._takes_integers: bool | None = None  # unknown until integers came
        if not self._parameters():
            raise InputError("no parameter of the module requires a gradient; see parameter.requires_grad_()")

    @property
    def n_parameters(self) -> int:
        """p."""
        return sum(parameter.numel() for parameter in self._parameters().values())

    def predict(self, x: AnyArray) -> AnyArray:
        """(n,): the predictions, in the type of the parameters."""
        array = _points(x)
        return _on_host(self._run(self._predicted, array, ""))

    def jacobian(self, x: AnyArray) -> AnyArray:
        """(n, p): the gradient of each prediction, in the type of the parameters."""
        array = _points(x)
        learned = {name: value.detach() for name, value in self._parameters().items()}
        itemsize = max(value.element_size() for value in learned.values())
        _memory.require(
            2 * itemsize * len(array) * self.n_parameters, f"the gradients of {len(array)} predictions"
        )
        module = self.module

        def prediction(parameters: dict[str, Any], point: Any) -> Any:
            output = torch.func.functional_call(module, parameters, (point.unsqueeze(0),))
            if not isinstance(output, torch.Tensor):
                raise InputTypeError(f"the module gave a {type(output).__name__}; it must give a tensor")
            if output.numel() != 1:
                raise InputError(
                    f"the module gave shape {tuple(output.shape)} for one input; it must predict one number each"
                )
            return output.reshape(())

        each = torch.func.vmap(torch.func.grad(prediction), in_dims=(None, 0), chunk_size=self.chunk_size)

        def differentiated(points: Any) -> Any:
            by_name = each(learned, points)
            return torch.cat([by_name[name].reshape(len(points), -1) for name in learned], dim=1)

        return _on_host(self._run(differentiated, array, _INPUT_BY_INPUT))

    def _predicted(self, points: Any) -> Any:
        step = len(points) if self.chunk_size is None else self.chunk_size
        parts = []
        with torch.no_grad():
            for start in range(0, len(points), max(1, step)):
                part = points[start : start + step]
                output = self.module(part)
                if not isinstance(output, torch.Tensor):
                    raise InputTypeError(f"the module gave a {type(output).__name__}; it must give a tensor")
                if output.shape not in ((len(part),), (len(part), 1)):
                    raise InputError(
                        f"the module gave shape {tuple(output.shape)} for {len(part)} inputs; "
                        "it must predict one number each"
                    )
                parts.append(output.reshape(-1))
        return torch.cat(parts)

    def _run(self, compute: Callable[[Any], Any], array: AnyArray, hint: str) -> Any:
        """``compute`` on the inputs as floats, or as integers where they are integers and the module wants those."""
        like = next(iter(self._parameters().values()))
        points = torch.as_tensor(array)
        whole = array.dtype.kind == "i"
        said = {}
        for integers in (False, True):
            if (integers and not whole) or (whole and self._takes_integers is (not integers)):
                continue
            try:
                found = compute(points.to(dtype=points.dtype if integers else like.dtype, device=like.device))
            except GradhessError:
                raise
            except FAILURES as error:
                said["integers" if integers else "floats"] = error
                continue
            if whole:
                self._takes_integers = integers
            return found
        reasons = "; ".join(f"as {kind}: {_first_line(error)}" for kind, error in said.items())
        raise InputError(
            f"the module cannot be used on inputs of shape {array.shape} ({reasons}){hint}"
        ) from list(said.values())[-1]

    def _parameters(self) -> dict[str, Any]:
        return {name: value for name, value in self.module.named_parameters() if value.requires_grad}


_INPUT_BY_INPUT: Final = (
    "; they are taken one by one: call module.eval() if it has batch normalisation or dropout"
)


def _points(x: Any) -> AnyArray:
    """Integers as int64, all else as floats; contiguous, and writeable as torch wants it."""
    array = as_numpy(x, "x")
    if array.ndim == 0 or len(array) == 0:
        raise InputError(f"x has shape {array.shape}; it must be (n, d), n at least 1")
    if array.dtype.kind == "u":
        if int(array.max()) >= 2**63:
            raise InputError(f"x holds {int(array.max())}, which is above the range of int64; pass floats")
        array = array.astype(np.int64)
    elif array.dtype.kind == "i":
        array = array.astype(np.int64, copy=False)
    elif array.dtype == BFLOAT16:
        array = array.astype(np.float32)
    return np.require(array, requirements=["C", "A", "W"])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _on_host(tensor: Any) -> AnyArray:
    found: AnyArray = tensor.detach().to("cpu").numpy()
    return found
