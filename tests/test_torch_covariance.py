"""Covariances of per-sample gradients of PyTorch models over whole loaders."""

from __future__ import annotations

from collections import namedtuple
from functools import partial

import numpy as np
import pytest

import gradhess as gh

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F
from torch_networks import N, per_sample, problem

from gradhess.torch import BlockCovariance, KroneckerCovariance, covariance


def summed(output, target):
    return F.cross_entropy(output, target, reduction="sum")


def batches(x, y, size=4):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


@pytest.mark.parametrize("name", ["mlp", "sequence", "tied"])
def test_covariances_of_a_whole_stream(name):
    model, x, y = problem(name)
    expected = per_sample(model, x, y)
    full = covariance(model, batches(x, y), summed, ddof=1)
    diagonal = covariance(model, batches(x, y), summed, structure="diagonal")
    assert full.keys() == diagonal.keys() == expected.keys()
    for key, G in expected.items():
        np.testing.assert_allclose(full[key].covariance_, torch.cov(G.T), rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(full[key].location_, G.mean(0), rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(diagonal[key].covariance_, G.var(0, correction=0), rtol=1e-9, atol=1e-13)
    assert all(p.grad is None for p in model.parameters())


def test_covariances_with_less_structure():
    model, x, y = problem("mlp")
    expected = per_sample(model, x, y)["0.weight"].reshape(N, 4, 5)
    blocks = covariance(model, batches(x, y), summed, structure="blocks")
    assert isinstance(blocks["0.weight"], BlockCovariance)
    for q in range(4):
        np.testing.assert_allclose(
            blocks["0.weight"].covariance_[q],
            torch.cov(expected[:, q].T, correction=0),
            rtol=1e-9,
            atol=1e-13,
        )
    assert blocks["0.bias"].covariance_.shape == (4, 4)
    factors = covariance(model, batches(x, y), summed, structure="kronecker")
    found = factors["0.weight"]
    assert isinstance(found, KroneckerCovariance)
    assert found.steps == 1
    np.testing.assert_allclose(found.activations.second_moment_, x.T @ x / N, rtol=1e-10, atol=1e-13)
    errors = factors["0.bias"].second_moment_
    np.testing.assert_allclose(found.second_moment_, np.kron(errors, x.T @ x / N), rtol=1e-10, atol=1e-13)
    assert covariance(*_sequence(), summed, structure="kronecker")["0.weight"].steps == 7


def _sequence():
    model, x, y = problem("sequence")
    return model, batches(x, y)


def test_kronecker_is_exact_for_independent_factors():
    """Two values each of a and delta in all four combinations: independent, so E[delta delta' (x) a a'] factors."""
    layer = nn.Linear(3, 2, bias=False).double()
    torch.manual_seed(0)
    a, d = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    x, target = a.repeat_interleave(2, 0), d.repeat(2, 1)
    found = covariance(layer, [(x, target)], lambda out, t: (out * t).sum(), structure="kronecker")["weight"]
    rows = torch.einsum("nk,nm->nkm", target, x).flatten(1)
    np.testing.assert_allclose(found.second_moment_, rows.T @ rows / 4, rtol=1e-12, atol=1e-14)


def test_kronecker_is_exact_for_independent_steps():
    """Two steps, each with all combinations of four a and four delta of mean zero: products of two steps cancel."""
    layer = nn.Linear(3, 2, bias=False).double()
    torch.manual_seed(0)
    a, d = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    a, d = torch.cat([a, -a]), torch.cat([d, -d])
    i, j, k, m = torch.cartesian_prod(*[torch.arange(4)] * 4).T
    x, target = torch.stack([a[i], a[j]], 1), torch.stack([d[k], d[m]], 1)
    found = covariance(layer, batches(x, target, 100), lambda out, t: (out * t).sum(), structure="kronecker")[
        "weight"
    ]
    rows = torch.einsum("ntk,ntm->nkm", target, x).flatten(1)
    assert found.steps == 2
    np.testing.assert_allclose(
        found.second_moment_, rows.T @ rows / 256, rtol=0, atol=1e-13 * float((rows**2).max())
    )


@pytest.mark.parametrize("name", ["conv2d", "conv1d", "sequence"])
def test_blocks_are_those_of_the_covariance(name):
    """Of convolutions and along sequences, too; a grouped convolution is dense, and so full."""
    model, x, y = problem(name)
    blocks, full = (covariance(model, batches(x, y), summed, structure=kind) for kind in ("blocks", "full"))
    assert any(isinstance(one, BlockCovariance) for one in blocks.values())
    for key, one in blocks.items():
        whole = full[key].covariance_
        if isinstance(one, BlockCovariance):
            k, m = len(one.blocks), len(whole) // len(one.blocks)
            whole = np.asarray(whole).reshape(k, m, k, m)[range(k), :, range(k), :]
        np.testing.assert_allclose(one.covariance_, whole, rtol=1e-9, atol=1e-13)


def test_sums_that_do_not_add_up_are_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return F.linear(torch.tanh(self.layer(x)), self.layer.weight)

    torch.manual_seed(0)
    x, y = torch.randn(N, 3), torch.randint(0, 3, (N,))
    with pytest.raises(gh.errors.InputError, match=r"layer\.weight do not add up"):
        covariance(Twice(), batches(x, y), summed)
    with pytest.raises(gh.errors.InputError, match="scalar"):
        covariance(nn.Linear(3, 3), batches(x, y), lambda out, y: out)
    with pytest.raises(gh.errors.InputError, match="structure is 'dense'"):
        covariance(nn.Linear(3, 3), batches(x, y), summed, structure="dense")


def test_named_and_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, a, b):
            return self.layer(a + b)

    torch.manual_seed(0)
    model, x, y = Two(), torch.randn(N, 3), torch.randint(0, 3, (N,))
    one = covariance(model, [((x, x), y)], summed)
    pair = namedtuple("pair", ["first", "second"])
    for inputs in ({"a": x, "b": x}, [x, x], pair(x, x)):
        other = covariance(model, [(inputs, y)], summed)
        np.testing.assert_array_equal(one["layer.weight"].covariance_, other["layer.weight"].covariance_)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_bar_shows_progress_on_a_terminal(wanted, monkeypatch, capsys):
    console = pytest.importorskip("rich.console")
    terminal = partial(console.Console, force_terminal=True)
    monkeypatch.setattr(console, "Console", terminal)
    model, x, y = problem("mlp")
    covariance(model, batches(x, y, 2), summed, progress=wanted)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("gradients" in err and "3/3" in err) == wanted
    monkeypatch.undo()
    covariance(model, iter(batches(x, y)), summed)  # no terminal, and no length
    assert capsys.readouterr().err == ""


def test_a_layer_that_never_fires():
    model, x, y = problem("mlp")
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)
    found = covariance(model, batches(x, y), summed)
    for name in ("0.weight", "0.bias", "2.weight"):
        assert not found[name].covariance_.any()
    assert found["2.bias"].covariance_.any()


def test_embeddings_with_sparse_gradients():
    model, x, y = problem("words")
    expected = covariance(model, batches(x, y), summed)
    model.embed.sparse = True
    found = covariance(model, batches(x, y), summed)
    for name, one in expected.items():
        np.testing.assert_allclose(found[name].covariance_, one.covariance_, rtol=1e-12, atol=1e-14)


def test_loaders_models_and_losses_that_do_not_fit():
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 3).double(), torch.randn(N, 3).double(), torch.randint(0, 3, (N,))
    good = batches(x, y)
    error, wrong = gh.errors.InputError, gh.errors.InputTypeError
    for loader, loss, kind, message in [
        ([], summed, error, "loader gave no batch"),
        (None, summed, wrong, "loader must be an iterable of pairs .*NoneType"),
        (x, summed, wrong, "not Tensor"),
        ((x, y), summed, error, r"batch 0 of loader is a Tensor of length 6; .*\[\(inputs, targets\)\]"),
        ([*good, (x, y, y)], summed, error, "batch 2 of loader is a tuple of length 3"),
        (
            [*good, (x[:, :2], y)],
            summed,
            error,
            r"model does not take the inputs of batch 2 .*\(6, 2\).*mat1",
        ),
        (good, None, wrong, "loss must be a function .*NoneType"),
        (good, lambda o, t: o.detach().sum(), error, "does not depend on the parameters"),
    ]:
        with pytest.raises(kind, match=message) as caught:
            covariance(model, loader, loss)
        assert isinstance(caught.value.__cause__, RuntimeError) == ("mat1" in message)
    with pytest.raises(error, match="no parameter to collect"):
        covariance(nn.Linear(3, 3).double().requires_grad_(False), good, summed)
    x[5, 1] = torch.nan
    with pytest.raises(gh.errors.NonFiniteError, match=r"batch 1 of loader, gradients of weight: ") as caught:
        covariance(model, batches(x, y), summed)
    assert caught.value.row == 5
