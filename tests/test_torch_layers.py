"""Per-sample gradients of PyTorch models: against torch.func, and against BackPACK."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import gradhess as gh

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F
from torch_networks import MODELS, N, per_sample, problem

from gradhess.torch import GradientCollector


def assert_same(collected, expected, dtype=torch.float64):
    """Gradients pass through a few layers of a few terms each; 1000 roundings are far more, and far less than 1."""
    assert collected.keys() == expected.keys()
    for name, rows in expected.items():
        found = collected[name].toarray()
        assert isinstance(found, torch.Tensor)
        assert found.shape == rows.shape, name
        scale = rows.norm(dim=1).max().item()
        assert (found - rows).abs().max().item() <= 1e3 * torch.finfo(dtype).eps * scale, name


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("name", MODELS)
def test_rows_are_those_of_torch_func(name, reduction):
    model, x, y = problem(name)
    with GradientCollector(model, reduction=reduction) as collector:
        F.cross_entropy(model(x), y, reduction=reduction).backward()
    assert_same(collector.gradients, per_sample(model, x, y))
    assert collector.skipped == ()
    for parameter, g in zip(model.parameters(), collector.gradients.values(), strict=True):
        summed = g.mean() if reduction == "mean" else g.sum()
        np.testing.assert_allclose(summed, parameter.grad.reshape(-1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "sequence", "conv2d", "tied", "words"])
def test_contractions_of_what_was_collected(name):
    model, x, y = problem(name)
    with GradientCollector(model) as collector:
        F.cross_entropy(model(x), y, reduction="sum").backward()
    rng = np.random.default_rng(0)
    for g in collector.gradients.values():
        G = g.toarray().numpy()
        close = {"rtol": 1e-10, "atol": 1e-12}
        np.testing.assert_allclose(g.gram(), G.T @ G, **close)
        np.testing.assert_allclose(g.covariance(), np.cov(G.T, ddof=0).reshape(g.gram().shape), **close)
        np.testing.assert_allclose(g.diagonal(), (G * G).sum(0), **close)
        np.testing.assert_allclose(g.norms(), np.linalg.norm(G, axis=1), **close)
        np.testing.assert_allclose(g.sum(), G.sum(0), **close)
        np.testing.assert_allclose(g.cogram(), G @ G.T, **close)
        v, u = rng.normal(size=(G.shape[1], 2)), rng.normal(size=(N, 2))
        np.testing.assert_allclose(g.matvec(v), G @ v, **close)
        np.testing.assert_allclose(g.rmatvec(u), G.T @ u, **close)
        np.testing.assert_allclose(g.gram_matvec(v), G.T @ (G @ v), **close)
        R = gh.sketches.sjlt(8, 1)
        np.testing.assert_allclose(g.project(R), G @ R.toarray(G.shape[1]), **close)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["mlp", "conv2d", "conv1d"])
def test_rows_are_those_of_backpack(name):
    backpack = pytest.importorskip("backpack", reason="backpack-for-pytorch does not install here")
    from backpack.extensions import BatchGrad

    model, x, y = problem(name)
    if name == "mlp":
        model[1].inplace = False  # BackPACK does not take such layers
    with GradientCollector(model) as collector:
        F.cross_entropy(model(x), y, reduction="sum").backward()
    extended = backpack.extend(model)
    lossfunc = backpack.extend(nn.CrossEntropyLoss(reduction="sum"))
    with backpack.backpack(BatchGrad()):
        lossfunc(extended(x), y).backward()
    expected = {name: p.grad_batch.reshape(N, -1) for name, p in model.named_parameters()}
    assert_same(collector.gradients, expected)


def test_nothing_is_copied_and_no_rows_are_formed():
    """Kept are the tensors that the backward pass has anyway. The rows of this layer would take 64 GiB."""
    layer = nn.Linear(2048, 2048)
    x = torch.randn(4096, 2048)
    seen = []
    with GradientCollector(layer) as collector:
        out = layer(x)
        out.register_hook(seen.append)
        out.square().sum().backward()
    rows = collector.gradients["weight"].rows
    assert np.shares_memory(rows.X, x.numpy())
    assert np.shares_memory(rows.errors, seen[0].numpy())
    expected = x.norm(dim=1) * seen[0].norm(dim=1)
    np.testing.assert_allclose(collector.gradients["weight"].norms(), expected, rtol=1e-5)


def test_float32_and_half_models():
    model, x, y = problem("mlp", torch.float32)
    with GradientCollector(model) as collector:
        F.cross_entropy(model(x), y, reduction="sum").backward()
    assert_same(collector.gradients, per_sample(model, x, y), torch.float32)
    assert collector.gradients["0.weight"].dtype == np.float32
    model.bfloat16()
    with GradientCollector(model) as collector:
        F.cross_entropy(model(x.bfloat16()), y, reduction="sum").backward()
    assert collector.gradients["0.weight"].dtype == np.float32


def test_several_batches_are_one_after_another():
    """As in gradient accumulation; a forward pass that nothing differentiates does not count."""
    model, x, y = problem("mlp")
    with GradientCollector(model, reduction="mean") as collector:
        for part in (slice(0, 2), slice(2, N)):
            F.cross_entropy(model(x[part]), y[part]).backward()
            with torch.no_grad():
                model(x)
            model(x)
    assert_same(collector.gradients, per_sample(model, x, y))


def test_batches_of_sequences_of_different_length():
    model, x, y = problem("words")
    model.embed.weight.data[0] = 0  # so that padding changes nothing
    padded = torch.cat([x, torch.zeros(N, 3, dtype=torch.long)], 1)
    with GradientCollector(model) as collector:
        F.cross_entropy(model(x[:2]), y[:2], reduction="sum").backward()
        F.cross_entropy(model(padded[2:]), y[2:], reduction="sum").backward()
    assert_same(collector.gradients, per_sample(model, x, y))


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("name", ["mlp", "sequence", "conv2d", "conv1d", "layer norm", "words"])
def test_batches_of_one_sample_and_of_none(name, n):
    model, x, y = problem(name)
    with GradientCollector(model) as collector:
        F.cross_entropy(model(x[:n]), y[:n], reduction="sum").backward()
    if n:
        assert_same(collector.gradients, per_sample(model, x[:1], y[:1]))
    for key, parameter in model.named_parameters():
        assert collector.gradients[key].shape == (n, parameter.numel())
        assert collector.gradients[key].gram().any() == bool(n)


def test_complex_parameters_are_refused():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, dtype=torch.complex64))
    with pytest.raises(gh.errors.InputTypeError, match=r"1\.weight, 1\.bias hold complex"):
        GradientCollector(model).__enter__()
    with GradientCollector(model, ["0"]):
        pass


def test_a_branch_that_a_batch_does_not_take():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.never = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x, first):
            return self.a(x) if first else self.b(x)

    torch.manual_seed(0)
    model, x = Branching(), torch.randn(5, 3)
    with GradientCollector(model) as collector:
        model(x[:2], first=True).square().sum().backward()
        model(x[2:], first=False).square().sum().backward()
    assert collector.gradients.keys() == {"a.weight", "a.bias", "b.weight", "b.bias"}
    for name in ("weight", "bias"):
        assert (collector.gradients[f"a.{name}"].norms()[2:] == 0).all()
        assert (collector.gradients[f"b.{name}"].norms()[:2] == 0).all()
        assert (collector.gradients[f"b.{name}"].norms()[2:] > 0).all()


def test_frozen_parameters_and_chosen_layers():
    model, x, y = problem("mlp")
    expected = per_sample(model, x, y)
    model[0].weight.requires_grad_(False)
    with GradientCollector(model) as collector:
        F.cross_entropy(model(x), y, reduction="sum").backward()
    assert_same(collector.gradients, {k: v for k, v in expected.items() if k != "0.weight"})
    for layers in (["2"], [model[2]]):
        with GradientCollector(model, layers) as collector:
            F.cross_entropy(model(x), y, reduction="sum").backward()
        assert_same(collector.gradients, {k: v for k, v in expected.items() if k.startswith("2.")})
    for layers, message in ((["nope"], "'nope' is no layer"), ([nn.Linear(1, 1)], "is no layer")):
        with pytest.raises(gh.errors.InputError, match=message):
            GradientCollector(model, layers)
    with pytest.raises(gh.errors.InputTypeError, match="brackets"):
        GradientCollector(model, "2")


def test_train_and_eval_modes():
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    x, y = torch.randn(N, 5, dtype=torch.float64), torch.randint(0, 3, (N,))
    torch.manual_seed(3)
    with GradientCollector(model) as collector:
        F.cross_entropy(model(x), y, reduction="sum").backward()
    # The same units were dropped for the rows and for the gradient.
    for parameter, g in zip(model.parameters(), collector.gradients.values(), strict=True):
        np.testing.assert_allclose(g.sum(), parameter.grad.reshape(-1), rtol=1e-10, atol=1e-13)
    model.eval()
    with GradientCollector(model) as collector:
        F.cross_entropy(model(x), y, reduction="sum").backward()
    assert_same(collector.gradients, per_sample(model, x, y))


def test_backward_is_left_as_it_was():
    model, x, y = problem("tied")
    F.cross_entropy(model(x), y).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with GradientCollector(model, reduction="mean") as collector:
        F.cross_entropy(model(x), y).backward()
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        np.testing.assert_array_equal(parameter.grad, grad)
    assert not any(module._forward_hooks for module in model.modules())
    before = {name: g.toarray() for name, g in collector.gradients.items()}
    F.cross_entropy(model(x), y).backward()  # outside the context: not collected
    for name, g in collector.gradients.items():
        np.testing.assert_array_equal(g.toarray(), before[name])


def test_unsupported_modules_are_refused_or_skipped():
    model = nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 2))
    with pytest.raises(gh.errors.InputError, match=r"1\.weight \(PReLU\): supported are Linear"):
        GradientCollector(model).__enter__()
    with GradientCollector(model, on_unsupported="skip") as collector:
        model(torch.randn(3, 4)).sum().backward()
    assert collector.skipped == ("1.weight",)
    assert collector.gradients.keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
    with GradientCollector(model, ["0"]):  # nothing unsupported among these
        pass


def test_parameters_that_are_used_elsewhere_are_refused_or_skipped():
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.randn(3, 5, 4)
    with GradientCollector(attention, ["out_proj"]) as collector:
        attention(x, x, x)[0].sum().backward()
    with pytest.raises(gh.errors.InputError, match=r"out_proj.bias, out_proj.weight got a gradient outside"):
        _ = collector.gradients
    with GradientCollector(attention, on_unsupported="skip") as collector:
        attention(x, x, x)[0].sum().backward()
    assert collector.gradients == {}
    assert set(collector.skipped) == {"in_proj_weight", "in_proj_bias", "out_proj.bias", "out_proj.weight"}


def test_layers_that_see_no_samples_are_refused():
    class Folding(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x):
            return self.layer(x.flatten(0, 1))

    with (
        pytest.raises(
            gh.errors.InputError, match=r"layer \(Linear\) has shape \(6, 4\), but the batch has 3"
        ),
        GradientCollector(model := Folding()),
    ):
        model(torch.randn(3, 2, 4))
    with pytest.raises(gh.errors.InputError, match="first axis"), GradientCollector(layer := nn.Linear(4, 2)):
        layer(torch.randn(4))


def test_inputs_that_are_changed_in_place_are_noticed():
    class Careless(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 2)

        def forward(self, ids):
            vectors = self.embed(ids)
            ids.zero_()
            return vectors

    model = Careless()
    with GradientCollector(model) as collector:
        model(torch.arange(4).reshape(2, 2)).sum().detach()
    assert collector.gradients == {}
    with GradientCollector(layer := nn.Linear(3, 2)) as collector:
        x = torch.randn(4, 3)
        out = layer(x)
        out.sum().backward()
        x.zero_()
    with pytest.raises(gh.errors.InputError, match="changed in place"):
        _ = collector.gradients


def test_the_python_of_the_documentation_runs():
    text = (Path(__file__).parents[1] / "docs" / "layers.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(block, names)
    assert names["g"].shape == (1000, 132)
    assert names["collector"].gradients["0.weight"].shape == (500, 128)
    assert names["found"]["0.weight"].n_samples_seen_ == 500
