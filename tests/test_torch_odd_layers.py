"""Per-sample gradients in unusual settings: every kind of convolution, hooks, checkpoints, normed weights."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import gradhess as gh

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from gradhess.torch import GradientCollector

N = 3


def curved(output):
    """A loss in which every output of a sample has another derivative."""
    weights = torch.arange(1, output[0].numel() + 1, dtype=output.dtype)
    return (output.flatten(1).sin() * weights).sum()


def assert_rows_are_those_of_torch_func(model, x):
    """Sums over places and channels of products of numbers of size one: 1000 roundings are far more."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x):
        return curved(torch.func.functional_call(model, parameters, (x[None],)))

    expected = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    with GradientCollector(model) as collector:
        curved(model(x)).backward()
    assert collector.gradients.keys() == expected.keys()
    for name, rows in expected.items():
        found = collector.gradients[name].toarray()
        scale = max(float(rows.abs().max()), torch.finfo(rows.dtype).tiny)
        assert float((found - rows.flatten(1)).abs().max()) <= 1e3 * torch.finfo(rows.dtype).eps * scale, name


def assert_sums_are_those_of_backward(model, gradients):
    named = dict(model.named_parameters())
    for name, rows in gradients.items():
        expected = named[name].grad.reshape(-1).numpy()
        size = float(np.sqrt(rows.n_samples) * np.linalg.norm(rows.norms()))
        eps = torch.finfo(named[name].dtype).eps
        assert np.linalg.norm(np.asarray(rows.sum()) - expected) <= 1e3 * eps * size, name


# ---- convolutions ---------------------------------------------------------------------------------------------------

PADDING_MODES = ["zeros", "reflect", "replicate", "circular"]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("padding", [0, (2, 1), "same", "valid"])
@pytest.mark.parametrize("groups", [1, 2])
def test_planes(padding_mode, padding, groups):
    """Every padding with dilations, strides and kernels that are not square."""
    torch.manual_seed(0)
    x = torch.randn(N, 4, 7, 6, dtype=torch.float64)
    for dilation, stride, kernel in [(1, 1, 2), ((1, 2), (2, 1), (3, 2)), (2, 1, (2, 3))]:
        if padding == "same" and stride != 1:
            continue
        layer = nn.Conv2d(
            4, 8, kernel, stride, padding, dilation, groups, padding_mode=padding_mode, dtype=torch.float64
        )
        assert_rows_are_those_of_torch_func(layer, x)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("padding", [0, 3, "same"])
def test_sequences(padding_mode, padding):
    torch.manual_seed(0)
    x = torch.randn(N, 4, 9, dtype=torch.float64)
    for groups, dilation, stride, kernel in itertools.product([1, 4], [1, 2], [1, 3], [3]):
        if padding == "same" and stride != 1:
            continue
        layer = nn.Conv1d(
            4, 8, kernel, stride, padding, dilation, groups, padding_mode=padding_mode, dtype=torch.float64
        )
        assert_rows_are_those_of_torch_func(layer, x)


class Sharing(nn.Module):
    """A convolution that is applied twice, to sequences of two lengths, and whose weight another one shares."""

    def __init__(self, groups):
        super().__init__()
        self.first = nn.Conv1d(4, 4, 3, padding=1, groups=groups)
        self.second = nn.Conv1d(4, 4, 3, padding=2, dilation=2, groups=groups, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        x = self.first(self.norm(x)).tanh()
        return self.second(self.first(self.norm(x)[:, :, ::2]))


@pytest.mark.parametrize("groups", [1, 2])
def test_weights_that_convolutions_share(groups):
    torch.manual_seed(0)
    assert_rows_are_those_of_torch_func(Sharing(groups).double(), torch.randn(N, 4, 8, dtype=torch.float64))


# ---- other layers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_idx", [None, 2, -1])
@pytest.mark.parametrize("shape", [(N,), (N, 4), (N, 2, 3)])
def test_embeddings(padding_idx, shape):
    torch.manual_seed(0)
    ids = torch.randint(0, 5, shape)
    ids[0], ids[1] = 2, 4  # the padding of either kind is there
    for kind in (torch.int64, torch.int32):
        assert_rows_are_those_of_torch_func(
            nn.Embedding(5, 3, padding_idx=padding_idx, dtype=torch.float64), ids.to(kind)
        )


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"eps": 0.5}])
@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_layer_norms(options, shape):
    torch.manual_seed(0)
    layer = nn.LayerNorm(shape, **options).double()
    for parameter in layer.parameters():
        parameter.data += torch.randn_like(parameter)
    assert_rows_are_those_of_torch_func(layer, torch.randn(N, 2, 3, 4, dtype=torch.float64))


class Sum(nn.Module):
    """Outputs that are changed in place, and used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        z = self.first(x)
        z += x
        return self.second(z).relu_() + z[:, :3]


def test_outputs_that_are_changed_in_place_and_used_twice():
    torch.manual_seed(0)
    assert_rows_are_those_of_torch_func(Sum().double(), torch.randn(N, 4, dtype=torch.float64))


# ---- hooks of others, and checkpoints -------------------------------------------------------------------------------


def test_hooks_that_change_what_a_layer_returns_or_takes():
    """What counts is what the weight was applied to, and the derivative by what it gave."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    model[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] - 1,))
    assert_rows_are_those_of_torch_func(model, torch.randn(N, 4, dtype=torch.float64))


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.inner, self.last = (nn.Linear(4, 4) for _ in range(3))
        self.reentrant = reentrant

    def forward(self, x):
        z = checkpoint(lambda z: self.inner(z).tanh(), self.first(x), use_reentrant=self.reentrant)
        return self.last(z)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # without gradients, as told
@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_that_are_run_again_for_the_backward_pass(reentrant):
    torch.manual_seed(0)
    model, x = Checkpointed(reentrant).double(), torch.randn(5, 4, dtype=torch.float64)
    with GradientCollector(model) as collector:
        for part in (x[:2], x[2:]):
            with torch.no_grad():
                model(x)
            curved(model(part)).backward()
    assert_sums_are_those_of_backward(model, collector.gradients)
    plain = Checkpointed(False).double()
    plain.load_state_dict(model.state_dict())
    with GradientCollector(plain) as expected:
        z = plain.last(plain.inner(plain.first(x)).tanh())
        curved(z).backward()
    assert {"first.weight", "inner.bias"} < collector.gradients.keys() == expected.gradients.keys()
    for name, rows in expected.gradients.items():
        np.testing.assert_allclose(collector.gradients[name].toarray(), rows.toarray(), rtol=0, atol=1e-13)


def test_checkpoints_of_several_forward_passes_and_one_backward_pass():
    torch.manual_seed(0)
    x = torch.randn(5, 4)
    model = Checkpointed(False)
    with GradientCollector(model) as collector:
        (curved(model(x[:2])) + curved(model(x[2:]))).backward()
    assert collector.gradients["inner.weight"].n_samples == 5
    assert_sums_are_those_of_backward(model, collector.gradients)
    model = Checkpointed(True)
    with GradientCollector(model) as collector:
        (curved(model(x[:2])) + curved(model(x[2:4]))).backward()
    with pytest.raises(gh.errors.InputError, match=r"inner \(Linear\) was run again .*use_reentrant=False"):
        _ = collector.gradients


def test_batches_that_go_through_the_parts_of_a_model():
    """Without a call of the model itself: a part that comes again after a backward pass begins the next batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    with GradientCollector(model) as whole:
        curved(model(x)).backward()
    model.zero_grad()
    with GradientCollector(model) as collector:
        for part in (x[:3], x[3:]):  # of one size: nothing else tells them apart
            curved(model[2](model[1](model[0](part)))).backward()
    for name, rows in whole.gradients.items():
        np.testing.assert_allclose(collector.gradients[name].toarray(), rows.toarray(), rtol=0, atol=1e-13)
    assert_sums_are_those_of_backward(model, collector.gradients)


# ---- weights that are made from others ------------------------------------------------------------------------------


def pruned():
    layer = nn.Linear(4, 3)
    prune.l1_unstructured(layer, "weight", amount=3)
    return layer


def normed():
    return nn.utils.weight_norm(nn.Linear(4, 3))


def parametrized():
    return nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    ("make", "names"),
    [
        (pruned, {"weight_orig"}),
        (normed, {"weight_g", "weight_v"}),
        (parametrized, {"parametrizations.weight.original0", "parametrizations.weight.original1"}),
    ],
)
def test_weights_that_are_made_from_other_parameters_are_refused(make, names):
    """Their gradients are not those of the weight, which the layer's input and error give."""
    torch.manual_seed(0)
    layer, x = make(), torch.randn(N, 4)
    with pytest.raises(gh.errors.InputError, match=r"no per-sample gradients for (weight|param)"):
        GradientCollector(layer).__enter__()
    with GradientCollector(layer, on_unsupported="skip") as collector:
        curved(layer(x)).backward()
    assert set(collector.skipped) == names
    assert collector.gradients.keys() == {"bias"}
    assert_sums_are_those_of_backward(layer, collector.gradients)


def test_the_message_says_what_is_in_the_way():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    for layer, message in [
        (Doubled(2, 2), "Doubled, a Linear with a forward of its own"),
        (nn.Embedding(3, 2, scale_grad_by_freq=True), "Embedding with scale_grad_by_freq"),
        (nn.ConvTranspose1d(2, 2, 2), r"ConvTranspose1d\)"),
        (pruned(), "weight_orig .Linear, whose weight is made from other parameters"),
    ]:
        with pytest.raises(gh.errors.InputError, match=message):
            GradientCollector(layer).__enter__()
    with pytest.raises(gh.errors.InputTypeError, match="layers must be a list of names or modules, not int"):
        GradientCollector(nn.Linear(2, 2), 3)
