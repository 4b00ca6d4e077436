"""The data that a model is measured on, as batches of tensors on its device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import torch

from gradhess.errors import InputError, InputTypeError
from gradhess.torch._module_function import FAILURES, first_line

CHUNK: Final = 8192
"""Samples of a forward pass where the data come as arrays."""


def batches(data: Any, like: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches on the device of ``like``, inputs of floats in its type."""
    for inputs, targets in _pairs(data):
        x, t = _tensor(inputs, "inputs"), _tensor(targets, "targets")
        if x.is_complex() or t.is_complex():
            raise InputTypeError("data is complex; it must hold real numbers")
        if x.ndim == 0 or t.ndim == 0 or len(x) != len(t):
            raise InputError(
                f"inputs of shape {tuple(x.shape)} with targets of shape {tuple(t.shape)}: one row each"
            )
        x = x.to(like.device, like.dtype if x.is_floating_point() else x.dtype)
        yield x, t


def _tensor(value: Any, name: str) -> torch.Tensor:
    try:
        return torch.as_tensor(value)
    except FAILURES as error:
        raise InputTypeError(
            f"data: the {name} ({type(value).__name__}) cannot become a tensor: {first_line(error)}"
        ) from error


def _pairs(data: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(hasattr(part, "shape") for part in data):
        inputs, targets = data
        if len(inputs) != len(targets):
            raise InputError(f"inputs has {len(inputs)} rows, but targets has {len(targets)}")
        return [(inputs[i : i + CHUNK], targets[i : i + CHUNK]) for i in range(0, len(inputs), CHUNK)]
    if isinstance(data, torch.utils.data.Dataset) and not isinstance(data, torch.utils.data.IterableDataset):
        raise InputTypeError(
            f"data is a {type(data).__name__}, whose items are samples; pass torch.utils.data.DataLoader(data, "
            "batch_size=...), or (inputs, targets)"
        )
    if not hasattr(data, "__iter__") or hasattr(data, "shape"):
        raise InputTypeError(
            f"data must be (inputs, targets) or a loader of such pairs, not {type(data).__name__}"
        )
    return _checked(data)


def _checked(loader: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    for index, batch in enumerate(loader):
        yield pair(
            batch,
            f"batch {index} of data",
            "where data is such a pair itself, both must be arrays or tensors",
        )


def pair(batch: Any, name: str, advice: str) -> tuple[Any, Any]:
    """(inputs, targets); InputError, with the advice, where the batch is something else."""
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
        size = f" of length {len(batch)}" if hasattr(batch, "__len__") else ""
        raise InputError(
            f"{name} is a {type(batch).__name__}{size}; it must be a pair (inputs, targets): {advice}"
        )
    return batch[0], batch[1]
