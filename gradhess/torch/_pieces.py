"""What one call of a module contributes to the gradient of one of its parameters, as plain tensors on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from gradhess._backends.outer_rows import OuterRows
from gradhess._backends.selected_rows import SelectedRows
from gradhess._gradients.base import DenseGradients, ExplicitRows, Gradients
from gradhess._gradients.layer import LayerGradients, StructuredGradients

LIBRARY = "torch"


@dataclass(frozen=True, slots=True)
class Outer:
    """``sum_t delta_it (x) a_it``."""

    activations: Tensor
    """(n, T, m)"""
    errors: Tensor
    """(n, T, k)"""


@dataclass(frozen=True, slots=True)
class Selected:
    """``sum_t onehot(id_it) (x) delta_it``."""

    ids: Tensor
    """(n, T)"""
    errors: Tensor
    """(n, T, d)"""
    n_entries: int


@dataclass(frozen=True, slots=True)
class Dense:
    """Rows as they are."""

    rows: Tensor
    """(n, p)"""


Piece: TypeAlias = Outer | Selected | Dense


def add(pieces: Sequence[Piece]) -> Piece:
    """The contributions of several calls in the same forward pass, to the same samples: their sum.

    Calls that are of one kind are the steps of one longer sequence. An embedding that is also the weight of a linear
    layer (tied weights) is read as one whose activations are vectors of the other.
    """
    if len(pieces) == 1:
        return pieces[0]
    if all(isinstance(piece, Selected) for piece in pieces):
        selected = [piece for piece in pieces if isinstance(piece, Selected)]
        return replace(
            selected[0],
            ids=torch.cat([piece.ids for piece in selected], 1),
            errors=torch.cat([piece.errors for piece in selected], 1),
        )
    if any(isinstance(piece, Dense) for piece in pieces):
        return Dense(torch.stack([_formed(piece) for piece in pieces]).sum(0))
    outer = [_as_outer(piece) for piece in pieces]
    return Outer(
        torch.cat([piece.activations for piece in outer], 1), torch.cat([piece.errors for piece in outer], 1)
    )


def _as_outer(piece: Piece) -> Outer:
    if isinstance(piece, Selected):
        onehot = torch.nn.functional.one_hot(piece.ids, piece.n_entries).to(piece.errors.dtype)
        return Outer(piece.errors, onehot)
    assert isinstance(piece, Outer)
    return piece


def _formed(piece: Piece) -> Tensor:
    if isinstance(piece, Dense):
        return piece.rows
    outer = _as_outer(piece)
    return torch.einsum("ntk,ntm->nkm", outer.errors, outer.activations).flatten(1)


def zeros_like(piece: Piece, n: int) -> Piece:
    """The contribution of n samples that the parameter did not touch."""
    if isinstance(piece, Dense):
        return Dense(piece.rows.new_zeros(n, piece.rows.shape[1]))
    errors = piece.errors.new_zeros(n, 1, piece.errors.shape[2])
    if isinstance(piece, Selected):
        return replace(piece, ids=piece.ids.new_zeros(n, 1), errors=errors)
    return Outer(piece.activations.new_zeros(n, 1, piece.activations.shape[2]), errors)


def concatenate(pieces: Sequence[Piece]) -> Piece:
    """The contributions to several batches, one after another. Short sequences are filled up with zero errors."""
    if len(pieces) == 1:
        return pieces[0]
    if any(isinstance(piece, Dense) for piece in pieces):
        return Dense(torch.cat([_formed(piece) for piece in pieces]))
    if all(isinstance(piece, Selected) for piece in pieces):
        selected = [piece for piece in pieces if isinstance(piece, Selected)]
        return replace(
            selected[0],
            ids=_joined([piece.ids for piece in selected]),
            errors=_joined([piece.errors for piece in selected]),
        )
    outer = [_as_outer(piece) for piece in pieces]
    return Outer(_joined([piece.activations for piece in outer]), _joined([piece.errors for piece in outer]))


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Along the samples; the second axis is filled up with zeros."""
    steps = max(tensor.shape[1] for tensor in tensors)
    filled = []
    for tensor in tensors:
        missing = (0, 0) * (tensor.ndim - 2) + (0, steps - tensor.shape[1])
        filled.append(pad(tensor, missing))
    return torch.cat(filled)


def gradients(piece: Piece) -> Gradients:
    """The structured gradients that a piece describes."""
    if isinstance(piece, Dense):
        return DenseGradients(ExplicitRows(piece.rows.numpy()), LIBRARY)
    if isinstance(piece, Selected):
        rows = SelectedRows(
            piece.errors.numpy(), kind="structured", ids=piece.ids.numpy(), n_entries=piece.n_entries
        )
        return StructuredGradients(rows, LIBRARY)
    activations, errors = piece.activations, piece.errors
    if activations.shape[1] == 1:  # without a sequence axis, the Gram matrix goes block by block
        activations, errors = activations[:, 0], errors[:, 0]
    return LayerGradients(OuterRows(activations.numpy(), kind="structured", errors=errors.numpy()), LIBRARY)
