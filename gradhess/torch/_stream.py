"""Covariances of per-sample gradients of a model, over a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from torch import Tensor, nn

from gradhess import _validation as check
from gradhess._backends.outer_rows import OuterRows
from gradhess._gradients import Gradients, layer_gradients
from gradhess._gradients.layer import LayerGradients
from gradhess._streaming import StreamingCovariance
from gradhess.errors import InputError, InputTypeError, NonFiniteError
from gradhess.torch._collector import GradientCollector
from gradhess.torch._data import pair
from gradhess.torch._module_function import failures_named

STRUCTURES: Final = ("full", "diagonal", "blocks", "kronecker")


@dataclass(frozen=True, slots=True)
class BlockCovariance:
    """The diagonal blocks of a covariance, one for each output of a layer.

    Attributes
    ----------
    blocks : list of StreamingCovariance
        Block q is that of row q of the weight, (m, m).
    """

    blocks: list[StreamingCovariance]

    @property
    def covariance_(self) -> Any:
        """(k, m, m)."""
        return np.stack([np.asarray(block.covariance_) for block in self.blocks])


@dataclass(frozen=True, slots=True)
class KroneckerCovariance:
    """``E[delta delta^T] (x) E[a a^T]``: an approximation of the second moment of gradients ``delta (x) a``.

    J. Martens and R. Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", ICML 2015,
    equation 1, with errors from the labels of the data (the empirical Fisher). Exact where errors and activations are
    independent. With a sequence axis both factors are means over samples *and* steps, and their product is multiplied
    by the number of steps: exact where steps are independent, too (R. Grosse and J. Martens, "A Kronecker-factored
    approximate Fisher matrix for convolution layers", ICML 2016).

    Attributes
    ----------
    activations, errors : StreamingCovariance
        About zero; ``second_moment_`` is (m, m) and (k, k).
    steps : float
        Mean number of steps of a sample; 1 without a sequence axis.
    """

    activations: StreamingCovariance
    errors: StreamingCovariance
    steps: float = 1.0

    @property
    def second_moment_(self) -> Any:
        """(k m, k m), of the row-major weight. Formed: for small layers."""
        errors = self.steps * np.asarray(self.errors.second_moment_)
        return np.kron(errors, np.asarray(self.activations.second_moment_))


Covariance = StreamingCovariance | BlockCovariance | KroneckerCovariance


def covariance(
    model: nn.Module,
    loader: Iterable[tuple[Any, Any]],
    loss: Callable[[Any, Any], Tensor],
    *,
    layers: Iterable[str | nn.Module] | None = None,
    structure: str = "full",
    ddof: int = 0,
    reduction: str = "sum",
    on_unsupported: str = "error",
    progress: bool = True,
) -> dict[str, Covariance]:
    """Covariance of the per-sample gradients of every parameter, over all batches of a loader.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode (train or eval) in which it is to be measured. Neither it nor the ``.grad`` of its parameters is
        changed.
    loader : iterable of (inputs, targets)
        Batches, samples first. ``inputs`` is what the model takes: a tensor, a tuple of arguments or a dictionary of
        named ones. Moved to the device of the model's first parameter.
    loss : callable
        ``loss(model(inputs), targets)``, a scalar: the sum or the mean over the batch, as ``reduction`` says.
    layers, reduction, on_unsupported
        As in ``GradientCollector``.
    structure : {"full", "diagonal", "blocks", "kronecker"}
        ``"full"`` and ``"diagonal"``: a ``StreamingCovariance`` of the parameter. ``"blocks"``: for the weight of a
        linear or convolutional layer the blocks of its outputs, a ``BlockCovariance``. ``"kronecker"``: for such a
        weight two factors, a ``KroneckerCovariance`` about zero. Parameters of another kind (biases, embeddings,
        LayerNorm) are full with ``"blocks"`` and ``"kronecker"``.
    ddof : int
        The covariance is divided by ``n - ddof``.
    progress : bool
        A bar on standard error, where that is a terminal and rich is installed.

    Returns
    -------
    dict of str to StreamingCovariance, BlockCovariance or KroneckerCovariance
        By name of the parameter.

    Raises
    ------
    InputError
        As ``GradientCollector``; the loss is no scalar, or the rows of the first batch do not add up to its gradient
        (a parameter is used in a way that the collector cannot see); no batches, batches that are not pairs, or inputs
        that the model does not take. A wrong ``reduction`` cannot be noticed.
    InputTypeError
        Arguments of another type.
    NonFiniteError
        A gradient is not finite; ``row`` counts over all batches.
    ResultTooLargeError
        A structure would not fit in memory.
    """
    check.one_of(structure, STRUCTURES, "structure")
    collector = GradientCollector(model, layers, reduction=reduction, on_unsupported=on_unsupported)
    if not callable(loss):
        raise InputTypeError(f"loss must be a function of (outputs, targets), not {type(loss).__name__}")
    if not isinstance(loader, Iterable) or isinstance(loader, (Tensor, str)):
        raise InputTypeError(
            f"loader must be an iterable of pairs (inputs, targets), not {type(loader).__name__}"
        )
    found: dict[str, Covariance] = {}
    seen, index = 0, -1
    for index, batch in enumerate(_shown(loader, progress)):
        inputs, targets = pair(
            batch, f"batch {index} of loader", "one batch of tensors is [(inputs, targets)]"
        )
        with collector:
            value = loss(_call(model, inputs, index), _moved(model, targets))
            if not isinstance(value, Tensor) or value.ndim != 0:
                raise InputError(
                    "loss must return a scalar: the sum over the batch, or with reduction='mean' the mean"
                )
            collector.differentiate(value, check_sums=index == 0)
        n_samples = 0
        for name, gradients in collector.gradients.items():
            n_samples = gradients.n_samples
            try:
                found[name] = _add(found.get(name), gradients, structure, ddof)
            except NonFiniteError as error:
                raise NonFiniteError(
                    seen + error.row, f"batch {index} of loader, gradients of {name}: {error}"
                ) from None
        seen += n_samples
    if index < 0:
        raise InputError("loader gave no batch")
    return found


def _add(before: Covariance | None, gradients: Gradients, structure: str, ddof: int) -> Covariance:
    layered = isinstance(gradients, LayerGradients)
    if not layered or structure in ("full", "diagonal"):
        plain = structure if structure in ("full", "diagonal") else "full"
        stream = StreamingCovariance(plain, ddof=ddof) if before is None else before
        assert isinstance(stream, StreamingCovariance)
        return stream.partial_fit(gradients)
    rows = gradients.rows
    assert isinstance(rows, OuterRows)
    if structure == "blocks":
        if before is None:
            before = BlockCovariance([StreamingCovariance(ddof=ddof) for _ in range(rows.n_outputs)])
        assert isinstance(before, BlockCovariance)
        for q, block in enumerate(before.blocks):
            block.partial_fit(layer_gradients(rows.X, rows.errors[..., q : q + 1]))
        return before
    if before is None:
        before = KroneckerCovariance(
            StreamingCovariance(assume_centered=True), StreamingCovariance(assume_centered=True)
        )
    assert isinstance(before, KroneckerCovariance)
    seen = round(before.activations.n_samples_seen_ / before.steps) + rows.n_samples
    before.activations.partial_fit(rows.X.reshape(-1, rows.X.shape[-1]))
    before.errors.partial_fit(rows.errors.reshape(-1, rows.n_outputs))
    return replace(before, steps=before.activations.n_samples_seen_ / seen)


def _call(model: nn.Module, inputs: Any, index: int) -> Any:
    """What torch says about inputs that do not fit is said with their name."""
    moved = _moved(model, inputs)
    shape = f" (shape {tuple(moved.shape)}, {moved.dtype})" if isinstance(moved, Tensor) else ""
    with failures_named(f"model does not take the inputs of batch {index} of loader{shape}"):
        if isinstance(moved, dict):
            return model(**moved)
        return model(*moved) if isinstance(moved, (tuple, list)) else model(moved)


def _moved(model: nn.Module, value: Any) -> Any:
    if isinstance(value, Tensor):
        first = next(model.parameters(), None)
        return value if first is None else value.to(first.device)
    if isinstance(value, dict):
        return {key: _moved(model, entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):  # a named tuple, too, which a model takes as several arguments
        entries = [_moved(model, entry) for entry in value]
        return entries if isinstance(value, list) else tuple(entries)
    return value


def _shown(loader: Iterable[Any], progress: bool) -> Iterator[Any]:
    """The batches, and a bar that counts them where somebody can see it."""
    with _bar(progress) as bar:
        task = None if bar is None else bar.add_task("gradients", total=_length(loader))
        for batch in loader:
            yield batch
            if bar is not None:
                bar.advance(task)


@contextmanager
def _bar(wanted: bool) -> Iterator[Any]:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        wanted = False
    if not wanted or not (console := Console(stderr=True)).is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield bar


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None
