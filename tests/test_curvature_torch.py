"""Layers of PyTorch models: against automatic differentiation, curvlinops, and the numbers of a known network."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

import gradhess.torch as gt
from gradhess import curvature as cv
from gradhess.errors import InputError, InputTypeError, NonFiniteError

EPS = np.finfo(np.float64).eps
N, CLASSES = 40, 3
nn = torch.nn
SOURCE = Path(__file__).parents[1]


def network(activation=None, *, bias=False, seed=0):
    torch.manual_seed(seed)
    act = nn.ReLU if activation is None else activation
    return nn.Sequential(
        nn.Linear(6, 5, bias=bias), act(), nn.Linear(5, 4, bias=bias), act(), nn.Linear(4, CLASSES, bias=bias)
    ).double()


def problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, CLASSES, (N,), generator=generator)


def one_hot(t):
    return torch.eye(CLASSES, dtype=torch.float64)[t]


LOSSES = {
    "cross_entropy": lambda o, t: nn.functional.cross_entropy(o, t, reduction="none"),
    "mse": lambda o, t: (o - one_hot(t)).square().mean(-1),
    "softmax_mse": lambda o, t: (o.softmax(-1) - one_hot(t)).square().mean(-1),
}


def by_autograd(net, name, loss, x, t):
    """Per-sample gradients and Hessians by a parameter."""
    parameter = dict(net.named_parameters())[name]
    p = parameter.numel()

    def value(w, x, t):
        return loss(torch.func.functional_call(net, {name: w}, (x[None],)), t[None])[0]

    g = torch.func.vmap(torch.func.grad(value), (None, 0, 0))(parameter, x, t)
    h = torch.func.vmap(torch.func.jacrev(torch.func.grad(value)), (None, 0, 0))(parameter, x, t)
    return g.detach().numpy().reshape(-1, p), h.detach().numpy().reshape(-1, p, p)


def assert_curvature(found, g, h, batch_size):
    """Within some eps for each of the operations behind an entry, in units of the largest entry of all samples."""
    terms = 100 * (len(g) + g.shape[1]) * EPS
    for matrix, expected, scale in (
        (found.H, h.mean(axis=0), np.abs(h).max()),
        (found.M, (h @ h).mean(axis=0), np.abs(h @ h).max()),
        (found.C * batch_size, np.cov(g.T, ddof=0), np.abs(g).max() ** 2),
    ):
        assert np.abs(matrix - expected).max() <= terms * scale
    spectra = np.linalg.eigvalsh(h)
    assert found.kappa_max == pytest.approx(np.abs(spectra).max(), rel=terms)
    assert found.positive is bool(spectra.min() > -terms * np.abs(h).max())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
@pytest.mark.parametrize("layer", ["0", "2", "4"])
def test_every_layer_against_automatic_differentiation(loss, activation, layer):
    """Smooth activations too: there the Hessian has a term beside the Gauss-Newton part."""
    net, (x, t) = network(activation), problem()
    g, h = by_autograd(net, f"{layer}.weight", LOSSES[loss], x, t)
    assert_curvature(gt.layer_curvature(net, layer, (x, t), loss, 7), g, h, 7)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_your_own(name):
    net, data = network(), problem()
    own, known = (gt.layer_curvature(net, "2", data, loss, 2) for loss in (LOSSES[name], name))
    for matrix in "HMC":
        size = np.abs(getattr(known, matrix)).max()
        assert np.abs(getattr(own, matrix) - getattr(known, matrix)).max() <= 200 * EPS * size
    assert own.positive is known.positive
    with pytest.raises(InputError, match="none"):
        gt.layer_curvature(net, "2", data, nn.functional.cross_entropy)


def test_the_bias_comes_last_in_the_row_of_its_output():
    net, (x, t) = network(bias=True), problem()
    found = gt.layer_curvature(net, "2", (x, t), "cross_entropy", bias=True)
    weight = gt.layer_curvature(net, "2", (x, t), "cross_entropy")
    order = np.arange(4 * 6).reshape(4, 6)
    np.testing.assert_array_equal(found.H[np.ix_(order[:, :5].ravel(), order[:, :5].ravel())], weight.H)
    g, h = by_autograd(net, "2.bias", LOSSES["cross_entropy"], x, t)
    np.testing.assert_allclose(
        found.H[np.ix_(order[:, 5], order[:, 5])], h.mean(axis=0), rtol=0, atol=1000 * EPS
    )
    np.testing.assert_allclose(
        found.C[np.ix_(order[:, 5], order[:, 5])], np.cov(g.T, ddof=0), rtol=0, atol=1000 * EPS
    )
    with pytest.raises(InputError, match="bias"):
        gt.layer_curvature(network(), "2", (x, t), bias=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch, in what curvlinops calls
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_curvlinops_agrees(activation, loss):
    """Its Hessian, Gauss-Newton matrix and empirical Fisher of the mean loss. For ReLU the first two are one."""
    curvlinops = pytest.importorskip("curvlinops", reason="curvlinops-for-pytorch does not install here")
    net, (x, t) = network(activation), problem()
    for parameter in net.parameters():
        parameter.requires_grad_(parameter is net[2].weight)
    found = gt.layer_curvature(net, "2", (x, t), loss)
    g = by_autograd(net, "2.weight", LOSSES[loss], x, t)[0]
    theirs, y = (nn.CrossEntropyLoss(), t) if loss == "cross_entropy" else (nn.MSELoss(), one_hot(t))

    def dense(name):
        operator = getattr(curvlinops, name)(net, theirs, [net[2].weight], [(x, y)])
        return np.asarray((operator @ torch.eye(20, dtype=torch.float64)).detach()).reshape(20, 20)

    def close(ours, matrix):
        return np.abs(matrix - ours).max() <= 1000 * N * EPS * np.abs(matrix).max()

    assert close(found.H, dense("HessianLinearOperator"))
    assert close(found.H, dense("GGNLinearOperator")) == (activation is nn.ReLU)
    # To it the loss of a sample is the sum of its squares, and a mean over n K of them divides only once by K.
    times = CLASSES if loss == "mse" else 1
    assert close(times * (found.C + np.outer(g.mean(axis=0), g.mean(axis=0))), dense("EFLinearOperator"))


# ---- ways to hand over data and models ------------------------------------------------------------------------------


def test_loaders_and_chunks_give_the_same(monkeypatch):
    from gradhess.torch import _data

    net, (x, t) = network(), problem()
    whole = gt.layer_curvature(net, "2", (x, t))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, t), batch_size=7)
    single = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, t), batch_size=1)
    monkeypatch.setattr(_data, "CHUNK", 16)
    for data in (loader, single, (x.numpy(), t.numpy()), [(x[:30], t[:30]), (x[30:], t[30:])]):
        other = gt.layer_curvature(net, net[2], data)
        assert other.n_samples == N
        for name in "HMC":
            gap = np.abs(getattr(whole, name) - getattr(other, name)).max()
            assert gap <= 100 * N * EPS * np.abs(getattr(whole, name)).max()


def test_names_of_classes_do_not_matter():
    """Outputs and labels permuted together: the same losses, so the same curvature."""
    net, (x, t) = network(), problem()
    order = torch.tensor([2, 0, 1])
    other = network()
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        other[4].weight.copy_(net[4].weight[order])
    renamed = torch.argsort(order)[t]
    one, two = gt.layer_curvature(net, "2", (x, t)), gt.layer_curvature(other, "2", (x, renamed))
    for name in "HMC":
        size = np.abs(getattr(one, name)).max()
        assert np.abs(getattr(one, name) - getattr(two, name)).max() <= 200 * EPS * size


def test_the_model_is_left_as_it_was():
    net, data = network(), problem()
    net[0].weight.requires_grad_(False)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        frozen = gt.layer_curvature(net, "2", data)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not net[2]._forward_hooks
    net.requires_grad_(False)
    assert (gt.layer_curvature(net, "2", data).H == frozen.H).all()


def test_activations_that_work_in_place():
    plain, other = network(), network(lambda: nn.ReLU(inplace=True))
    one, two = gt.layer_curvature(plain, "2", problem()), gt.layer_curvature(other, "2", problem())
    assert (one.H == two.H).all()


def test_float32_models_are_summed_in_float64():
    net, (x, t) = network(), problem()
    exact = gt.layer_curvature(net, "2", (x, t))
    single = gt.layer_curvature(network().float(), "2", (x, t))
    assert single.H.dtype == np.float64
    # A handful of float32 operations for each factor; their sum carries no further error of that size.
    assert np.abs(single.H - exact.H).max() <= 50 * np.finfo(np.float32).eps * np.abs(exact.H).max()


def test_a_layer_that_never_fires():
    net, data = network(), problem()
    with torch.no_grad():
        net[0].weight.zero_()
    report = cv.analyze(gt.layer_curvature(net, "2", data))
    assert report.rank == 0
    assert report.fit_C is None
    dead = network()
    with torch.no_grad():
        dead[4].weight.zero_()
    found = gt.layer_curvature(dead, "2", data)
    assert not found.H.any()
    assert not found.C.any()


def test_matrix_free_from_a_model():
    net, data = network(), problem()
    dense = gt.layer_curvature(net, "2", data, batch_size=3)
    found = cv.layer_spectrum(gt.layer_samples(net, "2", data), 4, batch_size=3)
    np.testing.assert_allclose(found.H, dense.eigenvalues[:4], rtol=1e-10)
    np.testing.assert_allclose(found.C, dense.diagonals.C[:4], rtol=1e-8)
    np.testing.assert_allclose(found.M, dense.diagonals.M[:4], rtol=1e-8)


def test_duality_of_gradients():
    """grad_W l(a', W) = (I + A)^T grad_W l(a, W + dW), exactly, with the loss as a function of the layer's input."""
    net, (x, t) = network(nn.Tanh), problem()
    W = net[2].weight.detach()
    a = net[1](net[0](x)).detach()
    a2 = a.roll(1, 0)
    delta = torch.from_numpy(cv.duality_delta(W, a, a2))

    def loss(w, a, t):
        return LOSSES["cross_entropy"](net[4](net[3](a[None] @ w.T)), t[None])[0]

    slope = torch.func.vmap(torch.func.grad(loss), (0, 0, 0))
    left = slope(W.expand(N, -1, -1), a2, t)
    shift = (
        torch.eye(5, dtype=torch.float64)
        + a[:, :, None] * (a2 - a)[:, None, :] / a.square().sum(1)[:, None, None]
    )
    right = slope(W + delta, a, t) @ shift
    assert (left - right).abs().max() <= 1000 * EPS * left.abs().max()


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.unused, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.conv, self.head, self.twice, self.sequence = nn.Conv1d(1, 1, 1), nn.Linear(6, 3), False, False

    def forward(self, x):
        z = self.layer(x[:, None, :]).squeeze(1) if self.sequence else self.layer(x)
        return self.head(self.norm(self.layer(z) if self.twice else z))


def test_models_that_cannot_be_taken_apart_are_refused():
    model, (x, t) = Shared().double(), problem()
    with pytest.raises(InputError, match="eval"):
        gt.layer_curvature(model, "layer", (x, t))
    model.eval()
    gt.layer_curvature(model, "layer", (x, t))
    for name, kind, match in [
        ("nothing", InputError, "no layer"),
        ("conv", InputTypeError, "Conv1d"),
        ("unused", InputError, "0 times"),
        (nn.Linear(6, 6), InputError, "not a module"),
    ]:
        with pytest.raises(kind, match=match):
            gt.layer_curvature(model, name, (x, t))
    model.twice = True
    with pytest.raises(InputError, match="2 times"):
        gt.layer_curvature(model, "layer", (x, t))
    model.twice, model.sequence = False, True
    with pytest.raises(InputError, match="one application"):
        gt.layer_curvature(model, "layer", (x, t))
    with pytest.raises(InputTypeError, match="complex"):
        gt.layer_curvature(nn.Sequential(nn.Linear(6, 3, dtype=torch.complex64)), "0", (x, t))
    with pytest.raises(InputTypeError, match="Module"):
        gt.layer_curvature(lambda x: x, "layer", (x, t))


def test_data_are_checked():
    net, (x, t) = network(), problem()
    for data, kind in [
        ((x.to(torch.complex128), t), InputTypeError),
        ((x, t[:5]), InputError),
        ((x, t + 1), InputError),
        ((x[:0], t[:0]), InputError),
        ([x], InputError),
        (3, InputTypeError),
    ]:
        with pytest.raises(kind):
            gt.layer_curvature(net, "2", data)
    with pytest.raises(InputError, match="loss"):
        gt.layer_curvature(net, "2", (x, t), "hinge")
    with pytest.raises(InputError, match="batch_size"):
        gt.layer_curvature(net, "2", (x, t), batch_size=0)
    bad = x.clone()
    bad[3, 2] = math.nan
    with pytest.raises(NonFiniteError):
        gt.layer_curvature(net, "2", (bad, t))


# ---- a known network ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn")
    from gradhess.cli.digits import LAYER, train

    trained = train("cross_entropy", width=20, classes=10, epochs=150, batch_size=50, seed=1)
    data = (trained.inputs, trained.targets)
    return trained, gt.layer_curvature(trained.model, LAYER, data, "cross_entropy", 50)


def test_digits(digits):
    """The 20 x 20 layer of a network trained by SGD; in ranges, as other BLAS libraries round otherwise on the way."""
    trained, curvature = digits
    report = cv.analyze(curvature, top=100)
    assert trained.accuracy == 1.0
    assert 1.05 <= report.fit_C.exponent <= 1.25
    assert report.fit_C.r_squared >= 0.98
    assert abs(report.fit_C.exponent - report.fit_M.exponent) <= 0.05
    assert 0.16 <= report.commutator.value <= 0.30
    assert report.commutator.baseline.min() >= 1.3
    assert report.recovery >= 0.75
    assert report.recovery_by_chance < 0.02
    assert report.cosine_CM > report.cosine_CH
    assert curvature.positive
    assert report.sandwich.holds
    assert report.sandwich.lower >= 1
    assert report.sandwich.upper <= 1


def test_the_chain_of_duality_on_digits(digits):
    """Directions survive every step; sizes do not, which is what the chain is there to show."""
    trained, curvature = digits
    (samples,) = gt.layer_samples(trained.model, "2", (trained.inputs, trained.targets))()
    W = trained.model[2].weight.detach().numpy()
    other = cv.same_class_neighbours(samples.activations, trained.targets.numpy())
    terms = {term.name: term for term in cv.duality_terms(samples, W, other, batch_size=50)}
    assert list(terms) == ["all terms", "h dw", "same sample", "diagonal", "isotropic"]
    assert min(term.cosine for term in terms.values()) >= 0.9
    assert terms["isotropic"].cosine == pytest.approx(cv.cosine(curvature.C, curvature.M), abs=1e-9)
    assert 0.3 <= terms["all terms"].scale <= 1.5  # neighbours are closer than two draws from a class
    assert terms["isotropic"].scale < 0.5
    assert terms["h dw"].scale > 2


def test_the_command(digits, tmp_path):
    from typer.testing import CliRunner

    from gradhess.cli.app import app

    plot = tmp_path / "report.html"
    arguments = ["curvature", "--epochs", "2", "--width", "4", "--classes", "3", "--loss", "softmax_mse"]
    result = CliRunner().invoke(app, [*arguments, "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    assert "64-4-4-3, softmax_mse, 2 epochs" in result.output
    assert "exponent of C against H" in result.output
    assert plot.stat().st_size > 10_000
    wrong = CliRunner().invoke(app, [*arguments, "--plot", str(tmp_path / "report.jpg")])
    assert wrong.exit_code == 1


def test_the_python_of_the_documentation_runs(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (SOURCE / "docs" / "curvature.md").read_text(encoding="utf-8")
    trained, curvature = digits
    data = torch.utils.data.TensorDataset(trained.inputs, trained.targets)
    names = {
        "model": trained.model,
        "inputs": trained.inputs,
        "targets": trained.targets,
        "loader": torch.utils.data.DataLoader(data, batch_size=500),
    }
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(block, names)
    np.testing.assert_allclose(names["found"].C, curvature.C, rtol=0, atol=1000 * EPS * curvature.C.max())
    np.testing.assert_allclose(names["leading"].H, curvature.eigenvalues[:100], rtol=1e-6)
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_the_example_has_a_row_for_each_network(monkeypatch, capsys):
    """Three losses, widths and numbers of classes, here trained for two epochs on a few digits."""
    pytest.importorskip("sklearn")
    found = importlib.util.spec_from_file_location("example", SOURCE / "examples" / "noise_and_curvature.py")
    example = importlib.util.module_from_spec(found)
    found.loader.exec_module(example)
    assert (len(example.WIDTHS), example.CLASSES, len(example.LEARNING_RATES)) == (3, (3, 6, 10), 3)
    monkeypatch.setattr(example, "EPOCHS", 2)
    monkeypatch.setattr(example, "SAMPLES", 120)
    monkeypatch.setattr(example, "WIDTHS", (4, 5, 6))
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    try:
        example.main(list(example.LEARNING_RATES))
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert {"exponent of C", "exponent of M", "R²", "commutator", "at random"} <= set(header.split(" | "))
    assert len(rows) == 27
    assert {tuple(row.split(" | ")[:3]) for row in rows} == {
        (f"| {loss}", str(classes), str(width))
        for loss in ("cross_entropy", "mse", "softmax_mse")
        for classes in (3, 6, 10)
        for width in (4, 5, 6)
    }
