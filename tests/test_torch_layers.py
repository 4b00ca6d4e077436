"""Per-sample gradients of PyTorch models: against torch.func, and against BackPACK."""

from __future__ import annotations

import re
from collections import namedtuple
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import gradhess as gh

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from gradhess.torch import BlockCovariance, GradientCollector, KroneckerCovariance, covariance  # noqa: E402

N = 6


class Tied(nn.Module):
    """A language model in small: the embedding is also the weight of the last layer."""

    def __init__(self, vocabulary=11, width=5):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        return self.head(torch.tanh(self.mix(self.norm(x)))).mean(1)


class Recurrent(nn.Module):
    """One layer called three times: weight sharing in time."""

    def __init__(self):
        super().__init__()
        self.step = nn.Linear(4, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.step(x))
        return self.out(x)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 3, padding_idx=0)
        self.out = nn.Linear(3, 3)

    def forward(self, ids):
        return self.out(torch.tanh(self.embed(ids)).sum(1))


def sequential(*layers):
    return nn.Sequential(*layers)


MODELS = {
    "mlp": lambda: (sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)), (N, 5)),
    "one layer": lambda: (nn.Linear(5, 3), (N, 5)),
    "sequence": lambda: (sequential(nn.Linear(5, 4), nn.Tanh(), nn.Flatten(), nn.Linear(28, 3)), (N, 7, 5)),
    "conv2d": lambda: (
        sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, (2, 1), dilation=(1, 2)),
            nn.Flatten(), nn.LazyLinear(3),
        ),
        (N, 2, 7, 6),
    ),
    "conv2d same, reflected, grouped": lambda: (
        sequential(
            nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect", groups=2), nn.ELU(),
            nn.Conv2d(4, 2, 2, padding="same", bias=False), nn.Flatten(), nn.LazyLinear(3),
        ),
        (N, 4, 5, 5),
    ),
    "conv1d": lambda: (
        sequential(
            nn.Conv1d(2, 3, 3, padding=2, stride=2), nn.Tanh(), nn.Conv1d(3, 6, 2, dilation=2, groups=3),
            nn.Flatten(), nn.LazyLinear(3),
        ),
        (N, 2, 9),
    ),
    "layer norm": lambda: (
        sequential(nn.LayerNorm((3, 4)), nn.Flatten(), nn.Linear(12, 5), nn.LayerNorm(5), nn.Linear(5, 3)), (N, 3, 4)
    ),
    "recurrent": lambda: (Recurrent(), (N, 4)),
    "tied": lambda: (Tied(), "ids"),
    "words": lambda: (Words(), "ids"),
}  # fmt: skip


def problem(name, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    model, shape = MODELS[name]()
    x = torch.randint(0, 7, (N, 4)) if shape == "ids" else torch.randn(shape, dtype=dtype)
    model = model.to(dtype)
    model(x)  # lazy layers learn their shapes
    for parameter in model.parameters():  # also those that start as ones and zeros
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model, x, torch.randint(0, 3, (N,))


def per_sample(model, x, y):
    """Name to (n, p), by torch.func."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x, y):
        return F.cross_entropy(torch.func.functional_call(model, parameters, (x[None],)), y[None])

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0), randomness="error")(parameters, x, y)
    return {name: grad.reshape(len(x), -1) for name, grad in found.items()}


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


def test_a_layer_that_never_fires():
    model, x, y = problem("mlp")
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)
    found = covariance(model, batches(x, y), summed)
    for name in ("0.weight", "0.bias", "2.weight"):
        assert not found[name].covariance_.any()
    assert found["2.bias"].covariance_.any()


def test_complex_parameters_are_refused():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, dtype=torch.complex64))
    with pytest.raises(gh.errors.InputTypeError, match=r"1\.weight, 1\.bias hold complex"):
        GradientCollector(model).__enter__()
    with GradientCollector(model, ["0"]):
        pass


def test_embeddings_with_sparse_gradients():
    model, x, y = problem("words")
    expected = covariance(model, batches(x, y), summed)
    model.embed.sparse = True
    found = covariance(model, batches(x, y), summed)
    for name, one in expected.items():
        np.testing.assert_allclose(found[name].covariance_, one.covariance_, rtol=1e-12, atol=1e-14)


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


# ---- covariances over a loader -----------------------------------------------------------------------------------


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


def test_the_python_of_the_documentation_runs():
    text = (Path(__file__).parents[1] / "docs" / "layers.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(block, names)
    assert names["g"].shape == (1000, 132)
    assert names["collector"].gradients["0.weight"].shape == (500, 128)
    assert names["found"]["0.weight"].n_samples_seen_ == 500
