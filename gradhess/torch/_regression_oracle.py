"""Batch gradients of a PyTorch regression model, with noise added to its targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from gradhess import _validation as check
from gradhess._backends.protocol import AnyArray
from gradhess.errors import InputError, InputTypeError
from gradhess.recovery.arguments import BATCHES, random_stream
from gradhess.recovery.calibration import gradient_factor
from gradhess.recovery.oracle import distinct_rows, refuse_labels
from gradhess.torch._module_function import (
    FAILURES,
    changes_between_calls,
    first_line,
    refuse_training_layers,
)


class RegressionOracle:
    """Gradients of the squared loss of any ``nn.Module`` on random batches, for ``gradhess.recovery.recover_hessian``.

    Noise on the targets enters the gradient ``a J^T (f(x) - y - noise)`` linearly whatever the network is, so what is
    recovered is ``a n E[J^T J]``, with J the derivative of the outputs by the parameters: the Hessian of a linear
    model, the Gauss-Newton matrix of any other. The model, its parameters and their ``.grad`` are left as they are.

    Parameters
    ----------
    model : torch.nn.Module
        Maps a batch of inputs to predictions of the shape of the targets; (b, 1) for targets (b,) will do.
    dataset : torch.utils.data.Dataset, or a pair of tensors (inputs, targets)
        Of known length, with items (input, target); targets of a floating type. Every item of a Dataset is read once
        here, for its target.
    batch_size : int
        n.
    parameters : str, torch.nn.Parameter, or an iterable of those, optional
        Which parameters, and in which order; by default all that require a gradient, in the order of
        ``model.named_parameters()``. A gradient is their concatenation, each flattened row-major; ``parameter_slices``
        says where each lies.
    reduction : {"mean", "half_mean", "half_sum", "sum"}
        The loss of a batch. "mean" is ``torch.nn.MSELoss()``, which divides by samples times targets of a sample.
    existing_noise : float
        Variance of the noise that is known to be in the targets.
    replace : bool
        Whether a batch is drawn with replacement.
    rng : int, numpy.random.Generator or None
        Of the batches.

    Raises
    ------
    InputError, InputTypeError
        A dataset that is empty, of unknown length or a loader; samples of different shapes, which make no batch; inputs
        or targets that are not finite; targets that are classes (also two values only); a model that does not take the
        inputs, which one call on the first sample finds out; predictions of another shape than the targets; an unknown
        parameter. From ``gradient``, a model in training mode with dropout or batch normalisation, whose output changes
        from call to call: call ``model.eval()``.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Any,
        batch_size: int,
        parameters: str | nn.Parameter | Iterable[str | nn.Parameter] | None = None,
        reduction: str = "mean",
        *,
        existing_noise: float = 0.0,
        replace: bool = True,
        rng: Any = None,
    ) -> None:
        check.instance(model, nn.Module, "model")
        self.model = model
        self.batch_size = check.count(batch_size, "batch_size", 1)
        check.flag(replace, "replace")
        self._replace = bool(replace)
        self._dataset = _as_dataset(dataset)
        self._size = _size(self._dataset)
        if not replace and self.batch_size > self._size:
            raise InputError(f"batch_size is {self.batch_size}, but there are {self._size} samples to draw")
        self._names, self._parameters = _chosen(model, parameters)
        self.reduction = reduction
        self.existing_noise = check.nonnegative(existing_noise, "existing_noise")
        self._rng = random_stream(rng, BATCHES)
        x, y = self._fetch(np.zeros(1, np.int64))
        if not torch.is_floating_point(y):
            raise InputTypeError(
                f"the targets are {y.dtype}; noise can be added to the real targets of a regression only"
            )
        self._check_samples()
        self.n_targets = max(int(y[0].numel()), 1)
        gradient_factor(reduction, self.batch_size * self.n_targets)  # checks the name
        if not changes_between_calls(
            model
        ):  # which a call could change, and which the first gradient refuses
            with torch.no_grad():
                self._predicted(x, y)

    def __repr__(self) -> str:
        return (
            f"<RegressionOracle: {type(self.model).__name__}, {self.n_params:,} parameters, {self._size:,} samples, "
            f"batch_size={self.batch_size}, reduction={self.reduction!r}>"
        )

    @property
    def n_params(self) -> int:
        """d, the entries of all chosen parameters."""
        return sum(parameter.numel() for parameter in self._parameters)

    @property
    def parameter_slices(self) -> dict[str, slice]:
        """Where each parameter lies in a gradient, by its name in the model."""
        slices, start = {}, 0
        for name, parameter in zip(self._names, self._parameters, strict=True):
            slices[name] = slice(start, start + parameter.numel())
            start += parameter.numel()
        return slices

    def draw_batch(self) -> AnyArray:
        """(n,) indices into the dataset."""
        if self._replace:
            return self._rng.integers(0, self._size, self.batch_size)
        return np.asarray(distinct_rows(self._rng, self._size, (1, self.batch_size))[0])

    def gradient(self, batch: Any, target_noise: Any) -> Tensor:
        """(n_params,) on the CPU: the gradient on that batch with noise (n,) or (n, n_targets) added to its targets."""
        refuse_training_layers(self.model, "model")
        x, y = self._fetch(np.asarray(batch))
        with torch.enable_grad():
            prediction = self._predicted(x, y)
            noise = torch.as_tensor(np.asarray(target_noise), dtype=y.dtype, device=y.device)
            if noise.numel() != y.numel():
                raise InputError(
                    f"target_noise has shape {tuple(noise.shape)}, but the targets of the batch have shape "
                    f"{tuple(y.shape)}: one number for each"
                )
            loss = self._loss(prediction - (y + noise.reshape(y.shape)))
            gradients = torch.autograd.grad(loss, self._parameters, materialize_grads=True)
        return torch.cat([gradient.reshape(-1) for gradient in gradients]).detach().cpu()

    def _predicted(self, x: Tensor, y: Tensor) -> Tensor:
        """In the shape of the targets; what torch says about inputs that do not fit is said with their names."""
        try:
            prediction = self.model(x)
        except torch.cuda.OutOfMemoryError:
            raise
        except FAILURES as error:
            raise InputError(
                f"model does not take the inputs of dataset (shape {tuple(x.shape)}, {x.dtype}): {first_line(error)}; "
                "it must take a batch (n, ...) of them, in the dtype of its parameters"
            ) from error
        if not isinstance(prediction, Tensor):
            raise InputTypeError(f"model returns a {type(prediction).__name__}; it must return a tensor")
        if prediction.shape == y.shape:
            return prediction
        if prediction.numel() != y.numel() or prediction.shape[:1] != y.shape[:1]:
            raise InputError(
                f"the model returns shape {tuple(prediction.shape)} for targets of shape {tuple(y.shape)}; "
                "there must be one prediction for each target"
            )
        return prediction.reshape(y.shape)

    def _loss(self, residual: Tensor) -> Tensor:
        squares = (residual * residual).sum()
        divisor = {"mean": residual.numel(), "half_mean": 2 * residual.numel(), "half_sum": 2, "sum": 1}
        return squares / divisor[self.reduction]

    def _fetch(self, indices: AnyArray) -> tuple[Tensor, Tensor]:
        """Inputs and targets of these samples, on the device of the parameters."""
        if isinstance(self._dataset, TensorDataset):
            # A copy: the array may be read-only, and belongs to somebody else.
            item = self._dataset[torch.from_numpy(np.array(indices, np.int64))]
            if len(item) != 2:
                raise InputTypeError("an item of the dataset must be a pair (input, target)")
        else:
            items = [self._dataset[int(index)] for index in indices]
            for index, one in zip(indices, items, strict=True):
                _check_pair(one, int(index))
            try:
                item = default_collate(items)
            except FAILURES as error:
                raise InputError(
                    f"samples {', '.join(str(int(index)) for index in indices[:8])}{', ...' * (len(indices) > 8)} of "
                    f"dataset do not make a batch: {first_line(error)}; pad or crop them to one shape"
                ) from error
        for part, name in zip(item, ("input", "target"), strict=True):
            if not isinstance(part, Tensor):
                raise InputTypeError(
                    f"the {name} of the dataset is a {type(part).__name__}; it must be a tensor or a number"
                )
        device = self._parameters[0].device
        return item[0].to(device), item[1].to(device)

    def _check_samples(self) -> None:
        """As LinearRegressionOracle does: all of it finite, and no labels of two classes."""
        if isinstance(self._dataset, TensorDataset):
            inputs, targets = self._dataset.tensors
            _refuse_nonfinite_rows(inputs)
        else:
            read: list[Tensor] = []
            first: Any = None
            for index in range(self._size):
                item = self._dataset[index]
                _check_pair(item, index)
                first = first or item
                _refuse_other_shapes(first, item, index)
                _refuse_nonfinite_rows(item[0], index)
                read.append(torch.as_tensor(item[1]).detach().cpu())
            targets = torch.stack(read)
        values = targets.detach().to("cpu", torch.float64).numpy()
        refuse_labels(check.finite(values, "the target of the dataset"), "the target of the dataset")


def _check_pair(item: Any, index: int) -> None:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        size = f" of length {len(item)}" if isinstance(item, (tuple, list)) else ""
        raise InputTypeError(
            f"sample {index} of the dataset is a {type(item).__name__}{size}; an item of the dataset must be a pair "
            "(input, target)"
        )


def _refuse_other_shapes(first: Any, item: Any, index: int) -> None:
    """Samples that make no batch: inputs and targets must be of the shapes of those of the first."""
    for part, expected, name in zip(item, first, ("input", "target"), strict=True):
        kinds = [type(value) if not isinstance(value, (int, float)) else float for value in (part, expected)]
        if kinds[0] is not kinds[1] and not all(hasattr(value, "shape") for value in (part, expected)):
            raise InputTypeError(
                f"the {name} of sample {index} of the dataset is a {type(part).__name__}, but that of sample 0 is a "
                f"{type(expected).__name__}: all must be of one kind"
            )
        shapes = [tuple(getattr(value, "shape", ())) for value in (part, expected)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"the {name} of sample {index} of the dataset has shape {shapes[0]}, but that of sample 0 has "
                f"{shapes[1]}: samples of one batch must have one shape; pad or crop them"
            )


def _refuse_nonfinite_rows(inputs: Any, index: int | None = None) -> None:
    """Of all samples, or of the one of that index. Integers are, of course."""
    if not isinstance(inputs, Tensor) or not (inputs.is_floating_point() or inputs.is_complex()):
        return
    finite = torch.isfinite(inputs.detach())
    if bool(finite.all()):
        return
    if index is None:
        index = int(finite.reshape(len(finite), -1).all(1).to(torch.uint8).argmin())
    raise InputError(
        f"the input of the dataset holds NaN or infinity, first in sample {index}; leave such samples out, or fill "
        "them in"
    )


def _as_dataset(dataset: Any) -> Any:
    if isinstance(dataset, DataLoader):
        raise InputTypeError(
            "dataset is a DataLoader; batches are drawn here, by index, so pass the data set behind it: loader.dataset"
        )
    if isinstance(dataset, (Tensor, np.ndarray)):
        raise InputTypeError(
            f"dataset is one {type(dataset).__name__}; pass a pair of tensors, (inputs, targets), or a Dataset"
        )
    if isinstance(dataset, (tuple, list)):
        if len(dataset) != 2 or not all(isinstance(part, Tensor) for part in dataset):
            arrays = len(dataset) == 2 and all(isinstance(part, np.ndarray) for part in dataset)
            hint = "; torch.from_numpy(array) makes a tensor of an array" if arrays else ""
            raise InputTypeError(f"dataset must be a Dataset, or a pair of tensors (inputs, targets){hint}")
        for part, name in zip(dataset, ("inputs", "targets"), strict=True):
            if part.ndim == 0:
                raise InputError(f"dataset: the {name} are one number; the first axis must be the samples")
        if len(dataset[0]) != len(dataset[1]):
            raise InputError(f"dataset has {len(dataset[0])} inputs and {len(dataset[1])} targets")
        return TensorDataset(*dataset)
    return dataset


def _size(dataset: Any) -> int:
    kind = type(dataset).__name__
    try:
        size = len(dataset)
    except TypeError:
        raise InputTypeError(
            f"dataset ({kind}) has no length; batches are drawn by index, so pass a map-style Dataset"
        ) from None
    if not hasattr(dataset, "__getitem__") or isinstance(dataset, (str, bytes, Mapping)):
        raise InputTypeError(
            f"dataset ({kind}) has no samples by index; pass a map-style Dataset, or a pair of tensors"
        )
    if size == 0:
        raise InputError("dataset is empty")
    return int(size)


def _chosen(
    model: nn.Module, wanted: str | nn.Parameter | Iterable[str | nn.Parameter] | None
) -> tuple[list[str], list[nn.Parameter]]:
    """Names and parameters, in the order in which a gradient has them."""
    named = dict(model.named_parameters())
    if wanted is None:
        names = [name for name, parameter in named.items() if parameter.requires_grad]
    else:
        if isinstance(wanted, (str, nn.Parameter)):
            wanted = [wanted]  # both can be iterated over, but not by parameter
        by_identity = {id(parameter): name for name, parameter in named.items()}
        names = []
        for entry in wanted:
            name = entry if isinstance(entry, str) else by_identity.get(id(entry), "")
            if name not in named:
                shown = repr(entry) if isinstance(entry, str) else "a tensor that is not of the model"
                raise InputError(
                    f"parameters: {shown} is unknown; the model has {', '.join(named) or 'none'}"
                )
            if not named[name].requires_grad:
                raise InputError(f"parameters: {name!r} does not require a gradient")
            if name in names:
                raise InputError(f"parameters: {name!r} is given twice")
            names.append(name)
    if not names:
        raise InputError("the model has no parameter that requires a gradient")
    return names, [named[name] for name in names]
