"""The modules whose per-sample gradients are known, and how each follows from its input and its output's derivative.

Samples are the first axis. All axes between the first and the last (or, of a convolution, all places of its output)
are steps of a sequence, over which a parameter is shared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradhess.torch._pieces import Dense, Outer, Piece, Selected

Rule = Callable[[Any, str, Tensor, Tensor], Piece]
"""(module, name of the parameter, input, derivative of the output) to the contribution of the call."""


def _linear(module: nn.Linear, name: str, x: Tensor, error: Tensor) -> Piece:
    steps = _steps(_host(error), module.out_features)
    if name == "bias":
        return Dense(steps.sum(1))
    return Outer(_steps(_host(x), module.in_features), steps)


def _convolution(module: nn.Conv1d | nn.Conv2d, name: str, x: Tensor, error: Tensor) -> Piece:
    steps = _host(error).flatten(2).transpose(1, 2).contiguous()  # (n, places, out)
    if name == "bias":
        return Dense(steps.sum(1))
    patches = _patches(module, _host(x))
    if module.groups == 1:
        return Outer(patches, steps)
    groups = module.groups
    by_group = (each.reshape(*each.shape[:2], groups, each.shape[2] // groups) for each in (steps, patches))
    grouped = torch.einsum("nlgo,nlgi->ngoi", *by_group)
    return Dense(grouped.flatten(1))


def _patches(module: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """(n, places, in * kernel): what each place of the output sees, channel by channel."""
    if module.padding_mode != "zeros":
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode)
    else:
        x = F.pad(x, module._reversed_padding_repeated_twice)
    if isinstance(module, nn.Conv1d):
        (length,), (dilation,), (stride,) = module.kernel_size, module.dilation, module.stride
        columns = F.unfold(x.unsqueeze(2), (1, length), (1, dilation), 0, (1, stride))
    else:
        columns = F.unfold(x, module.kernel_size, module.dilation, 0, module.stride)
    return columns.transpose(1, 2).contiguous()


def _embedding(module: nn.Embedding, name: str, x: Tensor, error: Tensor) -> Piece:
    ids = _steps(x.detach().cpu().long(), 1).squeeze(2)
    steps = _steps(_host(error), module.embedding_dim)
    if module.padding_idx is not None:
        steps = steps.masked_fill((ids == module.padding_idx).unsqueeze(2), 0.0)
    return Selected(ids, steps, module.num_embeddings)


def _layer_norm(module: nn.LayerNorm, name: str, x: Tensor, error: Tensor) -> Piece:
    steps = _steps(_host(error), math.prod(module.normalized_shape))
    if name == "bias":
        return Dense(steps.sum(1))
    normalised = F.layer_norm(_host(x), module.normalized_shape, eps=module.eps)
    return Dense((steps * normalised.reshape(steps.shape)).sum(1))


def _steps(tensor: Tensor, size: int) -> Tensor:
    """(n, T, size). Not by -1, which means nothing where n is 0."""
    return tensor.reshape(len(tensor), math.prod(tensor.shape[1:]) // size, size)


def _host(tensor: Tensor) -> Tensor:
    """On the CPU, in a type that NumPy has: float32 or float64."""
    narrow = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.detach().to("cpu", torch.float32 if narrow else tensor.dtype).contiguous()


_RULES: Final[dict[type[nn.Module], Rule]] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
}
SUPPORTED: Final = ", ".join(kind.__name__ for kind in _RULES)

# Axes of an input, samples included, below which it has no samples: PyTorch takes it for a single one.
_MIN_AXES: Final[dict[type[nn.Module], int]] = {nn.Conv1d: 3, nn.Conv2d: 4, nn.Embedding: 1}


def rule_of(module: nn.Module, name: str) -> Rule | None:
    """The rule for the parameter of that local name of a module, or None.

    A subclass counts as long as it computes as its base does; other parameters than weight and bias, from which
    weight normalisation or pruning make the weight, do not.
    """
    kind = _kind_of(module)
    return _RULES[kind] if kind and not _objection(module, kind, name) else None


def described(module: nn.Module, name: str) -> str:
    """The type of a module that has no rule for a parameter, and what about it is in the way."""
    kind = _kind_of(module)
    return type(module).__name__ + (_objection(module, kind, name) if kind else "")


def _kind_of(module: nn.Module) -> type[nn.Module] | None:
    return next((kind for kind in _RULES if isinstance(module, kind)), None)


def _objection(module: nn.Module, kind: type[nn.Module], name: str) -> str:
    if type(module).forward is not kind.forward:
        return f", a {kind.__name__} with a forward of its own"
    if isinstance(module, nn.Embedding) and module.scale_grad_by_freq:
        return " with scale_grad_by_freq, which counts over the whole batch"
    if name not in ("weight", "bias"):
        return ", whose weight is made from other parameters"
    return ""


def has_samples(module: nn.Module, x: Tensor) -> bool:
    """Whether the input of a supported module has an axis for samples."""
    axes = [least for kind, least in _MIN_AXES.items() if isinstance(module, kind)]
    if isinstance(module, nn.LayerNorm):
        axes = [len(module.normalized_shape) + 1]
    return bool(x.ndim >= (axes[0] if axes else 2))
