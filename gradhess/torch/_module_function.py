"""A torch module as a function of NumPy inputs, one number for each: what models and targets have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from gradhess._arrays import BFLOAT16, as_numpy
from gradhess._backends.protocol import AnyArray
from gradhess.errors import GradhessError, InputError, InputTypeError

FAILURES: Final = (RuntimeError, ValueError, IndexError, TypeError)
"""What torch raises about inputs of a wrong shape, type or range."""

_CHANGE_BETWEEN_CALLS: Final = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)


@contextmanager
def failures_named(what: str, advice: str = "") -> Iterator[None]:
    """InputError ``what: ...advice``, with the first line of what torch says, for failures within. Errors of this
    package, and memory that runs out, stay what they are."""
    try:
        yield
    except (GradhessError, torch.OutOfMemoryError):
        raise
    except FAILURES as error:
        raise InputError(f"{what}: {first_line(error)}{advice}") from error


class ModuleFunction:
    """``predict(x)`` (n,) of a module that takes (n, d) and gives (n,) or (n, 1).

    Floats are given to it in the type of its parameters. Integers are too where the module takes that, and else as
    int64; which of the two, the first call with integers finds out. ``chunk_size`` inputs at a time, None for all.
    """

    def __init__(self, module: nn.Module, chunk_size: int | None = None) -> None:
        self.module = module
        self.chunk_size = chunk_size
        self._takes_integers: bool | None = None  # unknown until integers came

    def predict(self, x: AnyArray) -> AnyArray:
        """(n,): the predictions, in the type of the parameters; bfloat16 as float32, which NumPy has."""
        return self._on(points(x), self._predicted)

    def _predicted(self, inputs: Any) -> Any:
        step = len(inputs) if self.chunk_size is None else self.chunk_size
        parts = []
        with torch.no_grad():
            for start in range(0, len(inputs), step):
                part = inputs[start : start + step]
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

    def _on(self, array: AnyArray, compute: Callable[[Any], Any], hint: str = "") -> AnyArray:
        """``compute`` on the inputs as floats, or as integers where they are integers and the module wants those."""
        refuse_training_layers(self.module, "module")
        like = next(self.module.parameters(), torch.zeros(0))
        given = torch.as_tensor(array)
        whole = array.dtype.kind == "i"
        said = {}
        for integers in (False, True):
            if (integers and not whole) or (whole and self._takes_integers is (not integers)):
                continue
            try:
                found = compute(given.to(dtype=given.dtype if integers else like.dtype, device=like.device))
            except GradhessError:
                raise
            except FAILURES as error:
                said["integers" if integers else "floats"] = error
                continue
            if whole:
                self._takes_integers = integers
            found = found.detach().to("cpu")
            on_host: AnyArray = (found.float() if found.dtype == torch.bfloat16 else found).numpy()
            return on_host
        reasons = "; ".join(f"as {kind}: {first_line(error)}" for kind, error in said.items())
        raise InputError(
            f"the module cannot be used on inputs of shape {array.shape} ({reasons}){hint}"
        ) from list(said.values())[-1]


def points(x: Any) -> AnyArray:
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


def refuse_training_layers(model: nn.Module, name: str) -> None:
    """Dropout and batch normalisation in training mode; ``name`` is that of the argument."""
    for layer, module in model.named_modules():
        if module.training and isinstance(module, _CHANGE_BETWEEN_CALLS):
            where = f"layer {layer!r} ({type(module).__name__})" if layer else type(module).__name__
            raise InputError(
                f"{where} is in training mode, where the output of the model changes from call to call; call "
                f"{name}.eval() first"
            )


def changes_between_calls(model: nn.Module) -> bool:
    """What ``refuse_training_layers`` refuses."""
    return any(module.training and isinstance(module, _CHANGE_BETWEEN_CALLS) for module in model.modules())


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
