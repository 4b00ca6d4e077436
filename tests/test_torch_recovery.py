"""Hessians of PyTorch models from noised gradients: linear, deep, of several targets."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from gradhess import recovery as rec
from gradhess.errors import InputError, InputTypeError, NonFiniteError
from gradhess.torch import RegressionOracle

FACTOR = {"mean": 2.0, "half_mean": 1.0}


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    y = X @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    return X, y + 0.1 * torch.randn(200, generator=generator, dtype=torch.float64)


def network(outputs=1):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


def jacobian(model, X):
    """(n * outputs, p), by one backward pass for each output."""
    rows = []
    for value in model(X).reshape(-1):
        model.zero_grad()
        value.backward(retain_graph=True)
        rows.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    model.zero_grad()
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("reduction", ["mean", "half_mean", "half_sum", "sum"])
def test_a_linear_model_is_least_squares(data, reduction):
    """The same gradients as LinearRegressionOracle, so the same Hessian."""
    X, y = data
    model = nn.Linear(3, 1, bias=False).double()
    oracle = RegressionOracle(model, (X, y), 20, reduction=reduction, rng=3)
    coef = model.weight.detach().numpy()[0]
    plain = rec.LinearRegressionOracle(X.numpy(), y.numpy(), coef, batch_size=20, reduction=reduction, rng=3)
    batch, noise = oracle.draw_batch(), np.linspace(-3, 3, 20)
    found = oracle.gradient(batch, noise)
    np.testing.assert_allclose(found.numpy(), plain.gradient(batch, noise), rtol=1e-12, atol=1e-12)
    oracle = RegressionOracle(model, (X, y), 20, reduction=reduction, rng=3)
    est, expected = (rec.recover_hessian(o, 400, rng=4) for o in (oracle, plain))
    np.testing.assert_allclose(est.hessian, expected.hessian, rtol=1e-9)
    assert rec.whitened_error(est, plain.hessian()) < 1.5 * est.sampling_error


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("reduction", ["mean", "half_mean"])
def test_the_gauss_newton_matrix_of_a_batch_is_exact(data, outputs, reduction):
    X, _ = data
    y = X[:, :outputs].clone()
    model = network(outputs)
    oracle = RegressionOracle(model, (X, y), 12, reduction=reduction, rng=5)
    assert oracle.n_targets == outputs
    est = rec.recover_hessian(oracle, None, "orthogonal", rng=5)
    assert est.n_gradients == 12 * outputs + 1
    rows = RegressionOracle(model, (X, y), 12, rng=5).draw_batch()
    J = jacobian(model, X[rows])
    expected = FACTOR[reduction] * J.T @ J / (12 * outputs)
    np.testing.assert_allclose(est.hessian, expected, atol=1e-12 * np.abs(expected).max() * 100)
    np.testing.assert_allclose(est.second_moment, J.T @ J / (12 * outputs), atol=1e-10)


def test_the_gauss_newton_matrix_of_a_network(data):
    X, y = data
    model = network()
    oracle = RegressionOracle(model, (X, y), 10, rng=6)
    m = 3000
    est = rec.recover_hessian(oracle, m, rng=6)
    J = jacobian(model, X)
    exact = 2 * J.T @ J / len(X)
    # The network has 26 parameters, some of which hardly matter; the error is measured where the matrix is not zero.
    values, vectors = np.linalg.eigh(exact)
    keep = vectors[:, values > 1e-6 * values[-1]]
    error = rec.whitened_error(keep.T @ est.hessian @ keep, keep.T @ exact @ keep)
    assert error < 1.5 * est.sampling_error
    # It is not the Hessian, which has the second derivatives of the network times the residuals.
    names = list(dict(model.named_parameters()))

    def loss(*parameters):
        prediction = torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (X,))
        return ((prediction[:, 0] - y) ** 2).mean()

    parts = torch.autograd.functional.hessian(loss, tuple(model.parameters()))
    sizes = [p.numel() for p in model.parameters()]
    hessian = torch.cat(
        [
            torch.cat([block.reshape(a, b) for block, b in zip(row, sizes, strict=True)], 1)
            for row, a in zip(parts, sizes, strict=True)
        ]
    ).numpy()
    assert np.linalg.norm(est.hessian - exact) < np.linalg.norm(est.hessian - hessian)


def test_order_of_parameters(data):
    X, y = data
    model = network()
    everything = RegressionOracle(model, (X, y), 8, rng=0)
    assert list(everything.parameter_slices) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert everything.n_params == 26
    batch, noise = everything.draw_batch(), np.zeros(8)
    full = everything.gradient(batch, noise)
    ((model(X[batch])[:, 0] - y[batch]) ** 2).mean().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    np.testing.assert_allclose(full.numpy(), expected.numpy(), rtol=1e-12, atol=1e-14)
    part = RegressionOracle(model, (X, y), 8, ["2.weight", model[0].bias])
    where = everything.parameter_slices
    assert list(part.parameter_slices) == ["2.weight", "0.bias"]
    np.testing.assert_array_equal(
        part.gradient(batch, noise).numpy(),
        torch.cat([full[where["2.weight"]], full[where["0.bias"]]]).numpy(),
    )
    for one in ("2.weight", model[2].weight):
        assert list(RegressionOracle(model, (X, y), 8, one).parameter_slices) == ["2.weight"]
    model[0].weight.requires_grad_(False)
    assert list(RegressionOracle(model, (X, y), 8).parameter_slices) == ["0.bias", "2.weight", "2.bias"]


def test_the_model_is_left_alone(data):
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    oracle = RegressionOracle(model, data, 8, rng=0)
    with torch.no_grad():  # the caller's mode does not matter
        rec.recover_hessian(oracle, 10)
    for old, parameter in zip(before, model.parameters(), strict=True):
        assert parameter.grad is None
        assert torch.equal(old, parameter)


class Items(Dataset):
    """A dataset that is no TensorDataset."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, index):
        return self.X[index], self.y[index]


@pytest.mark.parametrize("replace", [True, False])
def test_any_dataset_of_known_length(data, replace):
    model = network()
    one = RegressionOracle(model, data, 30, replace=replace, rng=2)
    two = RegressionOracle(model, Items(*data), 30, replace=replace, rng=2)
    batch = one.draw_batch()
    np.testing.assert_array_equal(batch, two.draw_batch())
    assert replace or len(set(batch.tolist())) == 30
    noise = np.ones(30)
    assert torch.equal(one.gradient(batch, noise), two.gradient(batch, noise))


class TwoOutputs(nn.Linear):
    def __init__(self):
        super().__init__(3, 1, dtype=torch.float64)

    def forward(self, x):
        return super().forward(x), x


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(3), torch.zeros(1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda X, y: dict(dataset=(X, (y > 0).long())), InputTypeError, "targets are torch.int64"),
        (lambda X, y: dict(dataset=(X, y > 0)), InputTypeError, "targets are torch.bool"),
        (lambda X, y: dict(dataset=(X, y[:-1])), InputError, "200 inputs and 199 targets"),
        (lambda X, y: dict(dataset=(X[:0], y[:0])), InputError, "empty"),
        (lambda X, y: dict(dataset=Stream()), InputTypeError, "has no length"),
        (lambda X, y: dict(dataset=(X,)), InputTypeError, "pair of tensors"),
        (lambda X, y: dict(dataset=list(zip(X, y, y, strict=True))), InputTypeError, "pair"),
        (lambda X, y: dict(dataset=X), InputTypeError, "dataset is one Tensor; pass a pair"),
        (lambda X, y: dict(dataset=X[:, :2]), InputTypeError, "dataset is one Tensor; pass a pair"),
        (lambda X, y: dict(dataset=X.numpy()), InputTypeError, "dataset is one ndarray; pass a pair"),
        (lambda X, y: dict(dataset=(X.numpy(), y.numpy())), InputTypeError, "torch.from_numpy"),
        (lambda X, y: dict(dataset=(X, y[0])), InputError, "the targets are one number"),
        (lambda X, y: dict(dataset=DataLoader(Items(X, y))), InputTypeError, "pass.*loader.dataset"),
        (lambda X, y: dict(dataset={"X": X, "y": y}), InputTypeError, r"dataset \(dict\) has no samples by"),
        (lambda X, y: dict(dataset={1, 2}), InputTypeError, r"dataset \(set\) has no samples by index"),
        (lambda X, y: dict(dataset=(X[:, :2], y)), InputError, r"inputs of dataset \(shape \(1, 2\), torch"),
        (
            lambda X, y: dict(dataset=(X.float(), y)),
            InputError,
            r"torch.float32\): .*dtype of its parameters",
        ),
        (lambda X, y: dict(dataset=Items(X[:, :2], y)), InputError, "model does not take the inputs of data"),
        (lambda X, y: dict(model=TwoOutputs()), InputTypeError, "model returns a tuple"),
        (lambda X, y: dict(model=lambda x: x), InputTypeError, "model must be a Module"),
        (lambda X, y: dict(model=nn.Tanh()), InputError, "no parameter"),
        (lambda X, y: dict(parameters=["1.weight"]), InputError, "'1.weight' is unknown.*0.weight"),
        (lambda X, y: dict(parameters=["0.bias", "0.bias"]), InputError, "given twice"),
        (lambda X, y: dict(parameters=[nn.Parameter(torch.ones(1))]), InputError, "not of the model"),
        (lambda X, y: dict(reduction="none"), InputError, "reduction is 'none'"),
        (lambda X, y: dict(batch_size=201, replace=False), InputError, "200 samples to draw"),
    ],
)
def test_bad_arguments(data, make, error, message):
    arguments = {"model": network(), "dataset": data, "batch_size": 8, **make(*data)}
    with pytest.raises(error, match=message):
        RegressionOracle(**arguments)


def test_bad_models(data):
    with pytest.raises(InputError, match=r"shape \(1, 2\) for targets of shape \(1,\)"):
        RegressionOracle(network(2), data, 8)
    dropout = nn.Sequential(nn.Linear(3, 1).double(), nn.Dropout(0.5))
    oracle = RegressionOracle(dropout, data, 8)
    with pytest.raises(InputError, match=r"layer '1' \(Dropout\) is in training mode.*model.eval"):
        rec.recover_hessian(oracle, 4)
    dropout.eval()
    rec.recover_hessian(oracle, 4)
    broken = network()
    with torch.no_grad():
        broken[0].weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="gradient 0 of the oracle"):
        rec.recover_hessian(RegressionOracle(broken, data, 8), 4)


def test_float32_models(data):
    X, y = data
    model = network().float()
    oracle = RegressionOracle(model, (X.float(), y.float()), 16, rng=1)
    est = rec.recover_hessian(oracle, None, "orthogonal")
    J = jacobian(model, X.float()[RegressionOracle(model, (X.float(), y.float()), 16, rng=1).draw_batch()])
    exact = 2 * J.astype(np.float64).T @ J / 16
    # Gradients carry a few dozen roundings of float32, relative to noise and residuals of size sqrt(8).
    assert np.abs(est.hessian - exact).max() < 200 * 2.0**-24 * np.abs(exact).max()


@pytest.mark.parametrize("kind", [lambda X, y: (X, y), Items])
def test_targets_are_refused_as_on_arrays(data, kind):
    X, y = data
    model = nn.Linear(3, 1, bias=False).double()
    late = y.clone()
    late[150] = torch.nan
    for bad, message in (
        ((y > 0).double(), "holds two values only, 0 and 1"),
        (late, "holds NaN or infinity"),
    ):
        with pytest.raises(InputError, match=message):
            RegressionOracle(model, kind(X, bad), 10)
        with pytest.raises(InputError, match=message):
            rec.LinearRegressionOracle(X.numpy(), bad.numpy(), np.zeros(3), batch_size=10)
    RegressionOracle(model, kind(X, torch.ones_like(y)), 10)  # constant targets are no labels


@pytest.mark.parametrize("kind", [lambda X, y: (X, y), Items])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_inputs_that_are_not_finite_are_found_at_once(data, kind, value):
    X, y = data[0].clone(), data[1]
    X[150, 1] = value
    with pytest.raises(InputError, match="input of the dataset holds NaN or infinity, first in sample 150;"):
        RegressionOracle(network(), kind(X, y), 10)


def test_construction_leaves_batch_normalisation_alone(data):
    """A call in training mode would move its running mean."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    before = model[1].running_mean.clone()
    oracle = RegressionOracle(model, data, 8)
    assert torch.equal(model[1].running_mean, before)
    with pytest.raises(InputError, match="training mode"):
        oracle.gradient(oracle.draw_batch(), np.zeros(8))


def test_inputs_that_are_no_tensors(data):
    class Pairs(Items):
        def __getitem__(self, index):
            return {"x": self.X[index]}, self.y[index]

    with pytest.raises(InputTypeError, match="the input of the dataset is a dict"):
        RegressionOracle(network(), Pairs(*data), 8)


class Listed(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (
            lambda x, y: (x[:2], y),
            InputError,
            r"input of sample 150 of the dataset has shape \(2,\).*has \(3,\)",
        ),
        (lambda x, y: (x, y.repeat(2)), InputError, r"target of sample 150 of the dataset has shape \(2,\)"),
        (lambda x, y: (x, y, y), InputTypeError, "sample 150 of the dataset is a tuple of length 3"),
        (lambda x, y: None, InputTypeError, "sample 150 of the dataset is a NoneType; .*pair"),
        (lambda x, y: (x, "a"), InputTypeError, "target of sample 150 of the dataset is a str"),
    ],
)
def test_samples_that_make_no_batch_are_found_at_once(data, spoil, error, message):
    items = list(zip(*data, strict=True))
    RegressionOracle(network(), Listed(items), 8)
    items[150] = spoil(*items[150])
    with pytest.raises(error, match=message):
        RegressionOracle(network(), Listed(items), 8)


def test_samples_of_a_shape_that_changes(data):
    """As a random crop might: the first reading does not see it."""
    items = list(zip(*data, strict=True))
    oracle = RegressionOracle(network(), Listed(items), 8)
    items[5] = items[5][0][:2], items[5][1]
    with pytest.raises(
        InputError, match=r"samples 4, 5 of dataset do not make a batch: .*equal size.* pad"
    ) as caught:
        oracle.gradient([4, 5], np.zeros(2))
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(InputError, match=r"target_noise has shape \(3,\).* shape \(2,\)"):
        oracle.gradient([3, 4], np.zeros(3))


def test_repr(data):
    oracle = RegressionOracle(network(), data, 8, reduction="half_mean")
    expected = "Sequential, 26 parameters, 200 samples, batch_size=8, reduction='half_mean'"
    assert repr(oracle) == f"<RegressionOracle: {expected}>"
