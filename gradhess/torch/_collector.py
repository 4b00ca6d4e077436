"""Per-sample gradients from an ordinary forward and backward pass, by hooks on the modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradhess import _validation as check
from gradhess._gradients.base import Gradients
from gradhess.errors import InputError, InputTypeError
from gradhess.torch import _pieces
from gradhess.torch._modules import SUPPORTED, described, has_samples, rule_of


@dataclass(slots=True)
class _Call:
    """One call of one module: what went in, and, after the backward pass, the derivative of what came out."""

    module: nn.Module
    input: Tensor
    version: int
    error: Tensor | None = None


@dataclass(slots=True)
class _Pass:
    """One forward pass of the model: one batch of samples."""

    n_samples: int
    calls: list[_Call] = field(default_factory=list)
    closed: bool = False
    """Whether no backward pass is expected any more."""

    @property
    def was_differentiated(self) -> bool:
        return any(call.error is not None for call in self.calls)


class GradientCollector:
    """Per-sample gradients of a model's parameters, from an ordinary forward and backward pass.

    A context manager. Within it, run the model and differentiate the loss as always; ``gradients`` then holds, for each
    parameter, structured gradients whose rows are samples, as from ``layer_gradients``. Kept for each layer are its
    input and the derivative with respect to its output: the memory of a plain backward pass and the activations.

    Parameters
    ----------
    model : torch.nn.Module
        Samples are the first axis of its first tensor argument, and of the inputs of all layers.
    layers : iterable of str or Module, optional
        Names (as in ``model.named_modules()``) or modules; a container stands for all layers in it. All by default.
    reduction : {"sum", "mean"}
        How the loss that is differentiated adds up samples. With ``"sum"`` rows are as the backward pass gives them.
        With ``"mean"`` the division by the batch size n is undone: rows are multiplied by n.
    on_unsupported : {"error", "skip"}
        What to do about parameters of other modules than Linear, Conv1d, Conv2d, Embedding and LayerNorm, or that are
        used outside the forward pass of their module, or from which a weight is made first (weight normalisation,
        pruning).

    Attributes
    ----------
    gradients : dict of str to Gradients
        By name of the parameter, as in ``model.named_parameters()``; (n, p) with p the entries of the parameter in
        their order. Parameters that no gradient reached are not in it.
    skipped : tuple of str
        Parameters that are not collected because their modules are not supported.

    Raises
    ------
    InputError
        A parameter to collect belongs to an unsupported module (unless skipped), an unknown layer, a layer whose
        input has another first axis than the model's, or one that is changed in place after the layer used it;
        reentrant checkpoints where one backward pass is of several forward passes.
    InputTypeError
        Arguments of another type; a complex parameter.

    Notes
    -----
    Several forward and backward passes within the context are several batches, one after another, as in gradient
    accumulation. Forward passes that nothing differentiates, and parameters with ``requires_grad=False``, are left
    out. A module that is called several times in a forward pass, and a parameter that several modules share, have the
    sum of their contributions. Call the model as a whole: parts of it that are called by themselves belong to one batch
    until one that was differentiated is called again. Checkpointed layers, which are run again for the backward pass,
    are known as such; what other hooks take or return is what counts.

    Samples cannot be told from positions where there are as many of them: give an embedding of positions ids of shape
    (n, T), not (T,).

    Where a layer mixes samples (batch normalisation in training), no gradient is that of one sample's loss: row i is
    then the derivative of the whole loss by way of what sample i went through.

    Embeddings have sparse rows and biases, LayerNorm and grouped convolutions dense ones, which are formed.

    Examples
    --------
    >>> with GradientCollector(model, reduction="mean") as collector:
    ...     torch.nn.functional.cross_entropy(model(x), y).backward()
    >>> collector.gradients["fc1.weight"].norms()
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[str | nn.Module] | None = None,
        *,
        reduction: str = "sum",
        on_unsupported: str = "error",
    ) -> None:
        check.instance(model, nn.Module, "model")
        check.one_of(reduction, ("sum", "mean"), "reduction")
        check.one_of(on_unsupported, ("error", "skip"), "on_unsupported")
        self._model = model
        self._reduction = reduction
        self._skip = on_unsupported == "skip"
        self._modules = _selected(model, layers)
        self._names: dict[Tensor, str] = {}
        self._owners: list[nn.Module] = []
        self._passes: list[_Pass] = []
        self._replayed: list[_Call] = []
        self._depth = 0
        self._handles: list[RemovableHandle] = []
        self._reached: set[str] = set()
        self._gradients: dict[str, Gradients] | None = None
        self.skipped: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        if self._handles:
            raise InputError("this collector is in use already; make one for each model")
        self._passes, self._replayed, self._reached, self._gradients, self._depth = [], [], set(), None, 0
        self._choose_parameters()
        model = self._model
        self._handles = [
            model.register_forward_pre_hook(self._before_model, prepend=True, with_kwargs=True),
            model.register_forward_hook(self._after_model, always_call=True),
            # First of all hooks: those of others may return another output than that of the layer.
            *(
                owner.register_forward_hook(self._after_layer, prepend=True, with_kwargs=True)
                for owner in self._owners
            ),
            *(_when_accumulated(p, partial(self._note_reached, name)) for p, name in self._names.items()),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @property
    def gradients(self) -> dict[str, Gradients]:
        if self._gradients is None or self._handles:
            self._gradients = {name: _pieces.gradients(piece) for name, piece in self.pieces().items()}
        return self._gradients

    def pieces(self) -> dict[str, _pieces.Piece]:
        """What ``gradients`` is made of."""
        self._check_replayed()
        passes = [one for one in self._passes if one.was_differentiated]
        by_pass = [self._contributions(one) for one in passes]
        found: dict[str, _pieces.Piece] = {}
        for name in self._names.values():
            present = [contributions[name] for contributions in by_pass if name in contributions]
            if present:
                found[name] = _pieces.concatenate(
                    [
                        contributions.get(name) or _pieces.zeros_like(present[0], one.n_samples)
                        for one, contributions in zip(passes, by_pass, strict=True)
                    ]
                )
        self._check_reached(found)
        return found

    def differentiate(self, loss: Tensor, *, check_sums: bool = True) -> None:
        """A backward pass from ``loss`` that leaves every ``.grad`` as it is.

        With ``check_sums`` the rows of each parameter are compared with its gradient.

        Raises
        ------
        InputError
            They do not add up: the parameter is also used where no hook sees it; or there is nothing to differentiate.
        """
        parameters: list[Any] = list(self._names)
        if not parameters:
            raise InputError("there is no parameter to collect: see layers, and parameter.requires_grad_()")
        if not loss.requires_grad:
            raise InputError(
                "loss does not depend on the parameters: is there a detach, or a no_grad, on the way?"
            )
        totals = torch.autograd.grad(loss, parameters, allow_unused=True)
        self._reached |= {
            self._names[p] for p, total in zip(parameters, totals, strict=True) if total is not None
        }
        if not check_sums:
            return
        found = self.pieces()
        n = sum(one.n_samples for one in self._passes if one.was_differentiated)
        for parameter, total in zip(parameters, totals, strict=True):
            name = self._names[parameter]
            if total is None or name not in found:
                continue
            expected = (total.to_dense() if total.is_sparse else total).detach().cpu().double().reshape(-1)
            rows = _pieces.gradients(found[name])
            actual = rows.mean() if self._reduction == "mean" else rows.sum()
            # Both are rounded in the type of the model: by sqrt(terms) roundings of the sum of magnitudes, about.
            size = float(torch.linalg.vector_norm(rows.norms())) * max(n, 1) ** 0.5
            size /= n if self._reduction == "mean" else 1
            if float((actual - expected).norm()) > 1e3 * torch.finfo(total.dtype).eps * size:
                raise InputError(
                    f"the per-sample gradients of {name} do not add up to its gradient: it is used in a way that the "
                    "collector cannot see. Leave it out with layers=..."
                )

    # ---- what is collected ---------------------------------------------------------------------------------------

    def _choose_parameters(self) -> None:
        """The parameters of the selected modules that can be collected, and all modules that have one of them."""
        names: dict[Any, str] = {p: name for name, p in self._model.named_parameters()}
        wanted = {
            parameter
            for module in self._modules
            for parameter in module.parameters(recurse=False)
            if parameter.requires_grad
        }
        unsupported: dict[Tensor, str] = {}
        for module in self._model.modules():
            for local, p in module.named_parameters(recurse=False):
                if p in wanted and rule_of(module, local) is None:
                    unsupported[p] = described(module, local)
        if unsupported and not self._skip:
            listed = ", ".join(f"{names[p]} ({what})" for p, what in unsupported.items())
            raise InputError(
                f"no per-sample gradients for {listed}: supported are {SUPPORTED}. Choose layers=..., or pass "
                "on_unsupported='skip'"
            )
        if any(p.is_complex() for p in wanted - unsupported.keys()):
            listed = ", ".join(name for p, name in names.items() if p in wanted and p.is_complex())
            raise InputTypeError(
                f"parameters must be real, but {listed} hold complex numbers: choose layers=..."
            )
        self.skipped = tuple(names[p] for p in unsupported)
        self._names = {p: name for p, name in names.items() if p in wanted and p not in unsupported}
        self._owners = [
            module
            for module in self._model.modules()
            if any(parameter in self._names for parameter in module.parameters(recurse=False))
        ]

    # ---- hooks ---------------------------------------------------------------------------------------------------

    def _before_model(self, model: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._depth += 1
        if self._depth == 1:
            first = _first_tensor((*arguments, *named.values()))
            if first is None or first.ndim == 0:
                raise InputError("the model was called without a tensor that has an axis for samples")
            self._begin(len(first), differentiable=torch.is_grad_enabled())

    def _after_model(self, model: nn.Module, arguments: Any, output: Any) -> None:
        self._depth -= 1

    def _after_layer(
        self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> None:
        if not isinstance(output, Tensor) or not output.requires_grad:
            return
        x = arguments[0] if arguments else named["input"]
        current = self._pass_of(module, x)
        if current is None:
            self._replayed.append(self._call(module, x, output))
            return
        if not has_samples(module, x) or len(x) != current.n_samples:
            if self._skip:
                return
            raise InputError(
                f"the input of {self._name_of(module)} has shape {tuple(x.shape)}, but the batch has "
                f"{current.n_samples} samples: they must be its first axis"
            )
        current.calls.append(self._call(module, x, output))

    def _pass_of(self, module: nn.Module, x: Tensor) -> _Pass | None:
        """The forward pass that a call of a module belongs to; None where that cannot be known."""
        if self._depth == 0 and _in_backward():  # run again, for activations that were not kept (checkpoints)
            waiting = [one for one in self._passes if not one.closed]
            return waiting[0] if len(waiting) == 1 else None
        if self._depth == 0:  # a part of the model, called by itself
            last = self._passes[-1] if self._passes else None
            if last is None or (
                last.was_differentiated and any(call.module is module for call in last.calls)
            ):
                self._begin(len(x), differentiable=True)
        return self._passes[-1]

    def _begin(self, n_samples: int, *, differentiable: bool) -> None:
        for one in self._passes:
            one.closed |= one.was_differentiated
        self._passes.append(_Pass(n_samples, closed=not differentiable))

    def _call(self, module: nn.Module, x: Tensor, output: Tensor) -> _Call:
        call = _Call(module, x.detach(), x._version)
        _when_differentiated(output, partial(_keep_error, call))
        return call

    def _note_reached(self, name: str, parameter: Tensor) -> None:
        self._reached.add(name)

    # ---- what came ------------------------------------------------------------------------------------------------

    def _contributions(self, one: _Pass) -> dict[str, _pieces.Piece]:
        pieces: dict[str, list[_pieces.Piece]] = {}
        for call in one.calls:
            if call.error is None:
                continue
            error = call.error * one.n_samples if self._reduction == "mean" else call.error
            for local, parameter in call.module.named_parameters(recurse=False):
                name, rule = self._names.get(parameter), rule_of(call.module, local)
                if name is None or rule is None:
                    continue
                if local != "bias" and call.input._version != call.version:
                    raise InputError(
                        f"the input of {self._name_of(call.module)} was changed in place after the layer used it"
                    )
                pieces.setdefault(name, []).append(rule(call.module, local, call.input, error))
        return {name: _pieces.add(contributions) for name, contributions in pieces.items()}

    def _check_replayed(self) -> None:
        for call in self._replayed:
            if call.error is not None:
                raise InputError(
                    f"{self._name_of(call.module)} was run again by one backward pass of several forward passes "
                    "(reentrant checkpointing), which does not say of which: differentiate each batch before the "
                    "next, or use checkpoints with use_reentrant=False"
                )

    def _check_reached(self, found: dict[str, _pieces.Piece]) -> None:
        missed = sorted(self._reached - found.keys())
        if missed and not self._skip:
            raise InputError(
                f"{', '.join(missed)} got a gradient outside the forward pass of its module, where it cannot be "
                "collected. Choose layers=..., or pass on_unsupported='skip'"
            )
        self.skipped = tuple(dict.fromkeys((*self.skipped, *missed)))

    def _name_of(self, module: nn.Module) -> str:
        name = next((name for name, other in self._model.named_modules() if other is module), "")
        return f"{name or 'the model'} ({type(module).__name__})"


def _when_accumulated(parameter: Any, hook: Callable[[Tensor], None]) -> RemovableHandle:
    handle: RemovableHandle = parameter.register_post_accumulate_grad_hook(hook)
    return handle


def _in_backward() -> bool:
    return int(torch._C._current_graph_task_id()) >= 0


def _when_differentiated(output: Any, hook: Callable[[Tensor], None]) -> None:
    output.register_hook(hook)


def _keep_error(call: _Call, error: Tensor) -> None:
    # A second backward pass through the same graph adds to .grad, and so to the rows.
    call.error = error.detach() if call.error is None else call.error + error.detach()


def _selected(model: nn.Module, layers: Iterable[str | nn.Module] | None) -> list[nn.Module]:
    modules = dict(model.named_modules())
    if layers is None:
        return list(modules.values())
    if isinstance(layers, (str, nn.Module)):
        raise InputTypeError("layers must be a list of names or modules; put the one in brackets")
    if not isinstance(layers, Iterable):
        raise InputTypeError(f"layers must be a list of names or modules, not {type(layers).__name__}")
    chosen: dict[nn.Module, None] = {}
    for layer in layers:
        module = modules.get(layer) if isinstance(layer, str) else layer
        if not isinstance(module, nn.Module) or not any(module is other for other in modules.values()):
            raise InputError(
                f"{layer!r} is no layer of the model; there are {', '.join(filter(None, modules))}"
            )
        chosen |= dict.fromkeys(module.modules())
    return list(chosen)


def _first_tensor(values: Iterable[Any]) -> Tensor | None:
    for value in values:
        if isinstance(value, Tensor):
            return value
        nested = value.values() if isinstance(value, dict) else value
        if isinstance(nested, Iterable) and not isinstance(nested, (str, bytes)):
            found = _first_tensor(nested)
            if found is not None:
                return found
    return None
