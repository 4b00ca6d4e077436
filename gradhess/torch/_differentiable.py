"""A torch module as a model with predictions and their gradients, for ``gradhess.informativeness``."""

from __future__ import annotations

from typing import Any, Final

import torch

from gradhess import _memory
from gradhess import _validation as check
from gradhess._backends.protocol import AnyArray
from gradhess.errors import InputError, InputTypeError
from gradhess.torch._module_function import ModuleFunction, points

_INPUT_BY_INPUT: Final = "; they are taken one by one, which layers that mix a batch cannot do"


class DifferentiableModel(ModuleFunction):
    """``predict(x)`` (n,) and ``jacobian(x)`` (n, p) of a torch module that predicts one number for each input.

    Parameters
    ----------
    module : torch.nn.Module
        Takes (n, d) and gives (n,) or (n, 1). Floats are given to it in the type of the parameters. Integers are too
        where the module takes that, and else as int64 (an embedding, say, looks up tokens); which of the two, the
        first call with integers finds out. Its gradients are taken in the parameters that require them, in the
        order of ``named_parameters()``, each flattened row by row; others, and buffers, are constants. Each input is
        taken alone, so layers that mix a batch cannot be used, nor those whose output changes from call to call (batch
        normalisation and dropout in training mode: call ``module.eval()`` first). The parameters are read at each call,
        so the model may be trained in between.
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
        super().__init__(module, None if chunk_size is None else check.count(chunk_size, "chunk_size", 1))
        if not self._parameters():
            raise InputError("no parameter of the module requires a gradient; see parameter.requires_grad_()")

    def __repr__(self) -> str:
        chunks = "" if self.chunk_size is None else f", chunk_size={self.chunk_size}"
        return (
            f"<DifferentiableModel: {type(self.module).__name__}, {self.n_parameters:,} parameters{chunks}>"
        )

    @property
    def n_parameters(self) -> int:
        """p."""
        return sum(parameter.numel() for parameter in self._parameters().values())

    def jacobian(self, x: AnyArray) -> AnyArray:
        """(n, p): the gradient of each prediction, in the type of the parameters; bfloat16 as float32."""
        array = points(x)
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

        def differentiated(inputs: Any) -> Any:
            by_name = each(learned, inputs)
            return torch.cat([by_name[name].reshape(len(inputs), -1) for name in learned], dim=1)

        return self._on(array, differentiated, _INPUT_BY_INPUT)

    def _parameters(self) -> dict[str, Any]:
        return {name: value for name, value in self.module.named_parameters() if value.requires_grad}
