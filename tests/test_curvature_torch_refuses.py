"""Models, data and losses that do not fit: errors that name the argument, with PyTorch's own as the cause."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

import gradhess.torch as gt
from gradhess import curvature as cv
from gradhess.errors import InputError, InputTypeError, NonFiniteError

EPS = np.finfo(np.float64).eps
N, CLASSES = 40, 3


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, CLASSES)).to(dtype)


def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, CLASSES, (N,), generator=generator)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :5], r"shape \(40, 5\), torch.float64\): mat1 and mat2 shapes cannot be multiplied"),
        (lambda x: x[:, 0], r"shape \(40,\)"),
        (lambda x: x.long(), r"torch.int64\): .*same dtype"),
    ],
)
def test_inputs_that_the_model_does_not_take(change, message):
    x, t = problem()
    with pytest.raises(InputError, match="^model does not take the inputs of data .*" + message) as caught:
        gt.layer_curvature(network(), "2", (change(x), t))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert not network()[2]._forward_hooks


def test_errors_of_the_model_itself_pass():
    class Broken(nn.Sequential):
        def forward(self, x):
            raise KeyError("no such thing")

    with pytest.raises(KeyError, match="no such thing"):
        gt.layer_curvature(Broken(nn.Linear(6, 3)).double(), "0", problem())


def test_data_of_another_kind():
    (x, t), net = problem(), network()
    dataset = torch.utils.data.TensorDataset(x, t)
    for data, kind, message in [
        (x, InputTypeError, "not Tensor"),
        (x.numpy(), InputTypeError, "not ndarray"),
        (None, InputTypeError, "not NoneType"),
        (dataset, InputTypeError, r"TensorDataset, whose items are samples; pass .*DataLoader\(data"),
        ({"x": x}, InputError, "batch 0 of data is a str of length 1; it must be a pair"),
        ([(x, t), (x, t, t)], InputError, "batch 1 of data is a tuple of length 3"),
        ((x.tolist(), t.tolist()), InputError, "both must be arrays or tensors"),
        ([(x, ["a"] * N)], InputTypeError, r"the targets \(list\) cannot become a tensor"),
    ]:
        with pytest.raises(kind, match=message):
            gt.layer_curvature(net, "2", data)
    for layer in (None, 2):
        with pytest.raises(
            InputTypeError, match=r"layer must be a name or a module, .*linear layers are 0, 2$"
        ):
            gt.layer_curvature(net, layer, (x, t))


def test_losses_that_cannot_be_used():
    (x, t), net = problem(), network()
    for loss, message in [
        (lambda o, t: o @ t, r"loss does not take outputs of shape \(40, 3\) with targets of shape \(40,\)"),
        (lambda o, t: (o.argmax(1) == t).double(), "loss cannot be differentiated"),
        (lambda o, t: o.detach().sum(1), "loss cannot be differentiated"),
        (lambda o, t: (o - o.mean(0)).square().sum(1), "depends on the outputs of others"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            gt.layer_curvature(net, "2", (x, t), loss)
        assert (caught.value.__cause__ is None) == ("does not take" not in message)
    constant = gt.layer_curvature(net, "2", (x, t), lambda o, t: o.abs().sum(1))  # no second derivative
    assert not constant.H.any()
    assert constant.C.any()


@pytest.mark.parametrize("batch", [7, N])
def test_samples_that_are_not_finite_are_counted_over_the_whole_data(batch):
    x, t = problem()
    bad, numbers = x.clone(), torch.randn(N, CLASSES, dtype=torch.float64)
    bad[30, 2] = torch.nan
    for inputs, targets, loss, message in [
        (bad, t, "cross_entropy", "its inputs hold"),
        (x, torch.where(torch.arange(N)[:, None] == 30, torch.inf, numbers), "mse", "its targets hold"),
        (
            x,
            t,
            lambda o, t: o.square().sum(1) * torch.where(o[:, 0] == o[-1, 0], torch.nan, 1.0),
            "derivatives",
        ),
    ]:
        loader = [(inputs[i : i + batch], targets[i : i + batch]) for i in range(0, N, batch)]
        with pytest.raises(NonFiniteError, match=r"^sample \d+ of data: .*" + message) as caught:
            gt.layer_curvature(network(), "2", loader, loss)
        if not callable(loss):
            assert caught.value.row == 30
    with pytest.raises(InputError, match=r"batch of data that begins with sample 35: targets\[0\] is 9"):
        gt.layer_curvature(network(), "2", [(x[:35], t[:35]), (x[35:], t[35:] * 0 + 9)])


def test_inputs_that_overflow():
    x, t = problem()
    x[30] *= 1e100
    with pytest.raises(NonFiniteError, match="sample 30 overflows float64") as caught:
        gt.layer_curvature(network(), "0", (x, t), "mse")
    assert caught.value.row == 30


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "softmax_mse"])
def test_models_of_half_precision(dtype, loss):
    """Some operations of the model's own precision behind each factor; all sums are in float64."""
    x, t = problem()
    x = x.to(dtype)
    exact = gt.layer_curvature(network(dtype).double(), "2", (x.double(), t), loss)
    found = gt.layer_curvature(network(dtype), "2", (x, t), loss)
    for name in "HMC":
        gap = np.abs(getattr(found, name) - getattr(exact, name)).max()
        assert gap <= 50 * torch.finfo(dtype).eps * np.abs(getattr(exact, name)).max()


def test_hooks_that_change_what_the_layer_returns():
    """The derivative is by what the weight gave, not by what a hook made of it."""
    (x, t), net = problem(), network()
    plain = gt.layer_curvature(net, "2", (x, t), "mse", bias=True)
    doubled = network()
    doubled[2].register_forward_hook(lambda module, inputs, output: 2 * output)
    own = gt.layer_curvature(
        net, "2", (x, t), lambda o, t: (2 * o - torch.eye(3)[t]).square().mean(1), bias=True
    )
    found = gt.layer_curvature(doubled, "2", (x, t), "mse", bias=True)
    for name in "HMC":
        size = np.abs(getattr(own, name)).max()
        assert np.abs(getattr(found, name) - getattr(own, name)).max() <= 1000 * EPS * size
    np.testing.assert_allclose(found.H, 4 * plain.H, rtol=0, atol=1000 * EPS * np.abs(plain.H).max())


def test_a_single_sample():
    x, t = problem()
    found = gt.layer_curvature(network(), "2", (x[:1], t[:1]))
    assert not found.C.any()
    assert "C is zero" in cv.analyze(found).summary()
