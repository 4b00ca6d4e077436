"""Torch modules as models and as targets of informativeness."""

from __future__ import annotations

import numpy as np
import pytest

from gradhess import informativeness as inf
from gradhess.errors import InputError, InputTypeError, ResultTooLargeError
from gradhess.informativeness.models import TanhNetwork

pytest.importorskip("torch")

import torch

from gradhess.torch import DifferentiableModel, module_targets, train_on_wave

WIDTH, FEATURES = 5, 3


def twin(network):
    """The same function as a ``TanhNetwork``, with parameters in the same order, in float64."""

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = torch.nn.Linear(FEATURES, WIDTH).double()
            self.output = torch.nn.Parameter(torch.from_numpy(network.output.copy()))
            self.offset = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
            self.hidden.weight.data = torch.from_numpy(network.weight.copy())
            self.hidden.bias.data = torch.from_numpy(network.bias.copy())

        def forward(self, x):
            return torch.tanh(self.hidden(x)) @ self.output / WIDTH**0.5 + self.offset

    return Twin()


@pytest.fixture
def network():
    return TanhNetwork(FEATURES, WIDTH, rng=0)


@pytest.fixture
def points(rng):
    return rng.normal(size=(17, FEATURES))


def in_numpy_order(jacobian):
    """``named_parameters`` gives a module's own parameters first: output, offset, then the layer."""
    sizes = [WIDTH, 1, WIDTH * FEATURES, WIDTH]
    output, offset, weight, bias = np.split(jacobian, np.cumsum(sizes)[:-1], axis=1)
    return np.concatenate([weight, bias, output, offset], axis=1)


@pytest.mark.parametrize("chunk_size", [None, 1, 5, 17, 100])
def test_predictions_and_gradients_are_those_of_the_formula(network, points, chunk_size):
    model = DifferentiableModel(twin(network), chunk_size=chunk_size)
    assert model.n_parameters == WIDTH * FEATURES + 2 * WIDTH + 1
    # Sums of at most 15 products of size one; tanh is good to a few roundoffs in either library.
    np.testing.assert_allclose(model.predict(points), network.predict(points), rtol=0, atol=64 * 2.0**-53)
    found = model.jacobian(points)
    np.testing.assert_allclose(in_numpy_order(found), network.jacobian(points), rtol=0, atol=256 * 2.0**-53)


def test_informativeness_of_a_module_is_that_of_the_formula(network):
    target = inf.lwe.targets(inf.lwe.secrets(FEATURES, 3, "ternary"), 3)
    inputs = inf.lwe.inputs(FEATURES, 3)
    plain = inf.analyze(network, target, inputs)
    found = inf.analyze(DifferentiableModel(twin(network)), target, inputs)
    np.testing.assert_allclose(found.variance.value, plain.variance.value, rtol=1e4 * 2.0**-53)
    np.testing.assert_allclose(found.bound.tight, plain.bound.tight, rtol=1e4 * 2.0**-53)
    single = inf.analyze(DifferentiableModel(twin(network).float()), target, inputs)
    np.testing.assert_allclose(single.variance.value, plain.variance.value, rtol=1e4 * 2.0**-24)


def test_frozen_parameters_are_constants(network, points):
    module = twin(network)
    whole = DifferentiableModel(module).jacobian(points)
    module.hidden.requires_grad_(False)
    model = DifferentiableModel(module)
    assert model.n_parameters == WIDTH + 1
    np.testing.assert_array_equal(model.jacobian(points), whole[:, : WIDTH + 1])
    assert all(parameter.grad is None for parameter in module.parameters())


def test_training_in_between_is_seen(network, points):
    module = twin(network)
    model = DifferentiableModel(module)
    before = model.predict(points)
    with torch.no_grad():
        module.offset += 1
    np.testing.assert_allclose(model.predict(points), before + 1, rtol=0, atol=8 * 2.0**-53)


def test_modules_that_cannot_be_used(points):
    with pytest.raises(InputTypeError, match="module must be a Module"):
        DifferentiableModel(lambda x: x)
    with pytest.raises(InputError, match="requires a gradient"):
        DifferentiableModel(torch.nn.ReLU())
    several = DifferentiableModel(torch.nn.Linear(FEATURES, 2))
    for call in (several.predict, several.jacobian):
        with pytest.raises(InputError, match="one number each"):
            call(points)
    norm = torch.nn.Sequential(torch.nn.Linear(FEATURES, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    for module, named in (
        (norm, r"layer '1' \(BatchNorm1d\)"),
        (torch.nn.Sequential(torch.nn.Linear(FEATURES, 1), torch.nn.Dropout()), r"layer '1' \(Dropout\)"),
    ):
        model = DifferentiableModel(module)
        for call in (model.predict, model.jacobian):
            with pytest.raises(InputError, match=named + r" is in training mode.*call module\.eval\(\)"):
                call(points)
    assert (norm[1].running_mean == 0).all()  # and nothing has changed
    assert DifferentiableModel(norm.eval()).jacobian(points).shape == (17, 16 + 8 + 5)
    wide = DifferentiableModel(torch.nn.Linear(10**6, 1))
    with pytest.raises(ResultTooLargeError, match="gradients of 10000000 predictions"):
        wide.jacobian(np.lib.stride_tricks.as_strided(np.zeros(1), (10**7, 1), (0, 0)))


def test_chunks_are_what_the_module_sees(points):
    seen = []

    class Watched(torch.nn.Linear):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    model = DifferentiableModel(Watched(FEATURES, 1).double(), chunk_size=5)
    model.predict(points)
    assert seen == [5, 5, 5, 2]
    seen.clear()
    model.jacobian(points)  # of a chunk of inputs that are taken one by one
    assert seen == [1, 1, 1, 1]


def test_bfloat16_becomes_float32(network, points):
    model = DifferentiableModel(twin(network).bfloat16())
    predicted, found = model.predict(points), model.jacobian(points)
    assert predicted.dtype == found.dtype == np.float32
    # A few roundings to 8 bits of numbers of size one, and sums of 5.
    np.testing.assert_allclose(predicted, network.predict(points), rtol=0, atol=32 * 2.0**-8)
    np.testing.assert_allclose(in_numpy_order(found), network.jacobian(points), rtol=0, atol=32 * 2.0**-8)


def language_model():
    """Of two tokens out of five: (n, 2) integers to (n, 1), in float64."""
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Flatten(), torch.nn.Linear(6, 1)).double()


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "uint64"])
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_embeddings_take_integers(dtype, chunk_size, rng):
    module = language_model()
    tokens = rng.integers(0, 5, (9, 2)).astype(dtype)
    table, weight = module[0].weight.detach().numpy(), module[2].weight.detach().numpy()[0].reshape(2, 3)
    expected = np.zeros((9, 5, 3))
    for row, pair in enumerate(tokens):
        for place, token in enumerate(pair):
            expected[row, token] += weight[place]
    looked_up = table[tokens].reshape(9, 6)
    for first in ("predict", "jacobian"):  # either may be the one that finds out
        model = DifferentiableModel(module, chunk_size=chunk_size)
        getattr(model, first)(tokens)
        found = model.jacobian(tokens)
        # Products of two numbers and sums of six.
        np.testing.assert_allclose(found[:, :15], expected.reshape(9, 15), rtol=0, atol=16 * 2.0**-53)
        np.testing.assert_allclose(found[:, 15:21], looked_up, rtol=0, atol=0)
        np.testing.assert_allclose(
            model.predict(tokens),
            looked_up @ weight.ravel() + module[2].bias.item(),
            rtol=0,
            atol=64 * 2.0**-53,
        )
        with pytest.raises(InputError, match=r"as floats: .*Long"):
            model.predict(tokens.astype(float))
        with pytest.raises(InputError, match=r"shape \(9, 2\) \(as integers: index out of range"):
            model.predict(tokens + 5)
    secrets = inf.lwe.targets(inf.lwe.secrets(2, 3), 3)
    report = inf.analyze(DifferentiableModel(module), secrets, inf.lwe.inputs(2, 3))
    assert report.variance.value > 0


def test_integers_are_floats_to_a_layer_that_takes_those(network, rng):
    model = DifferentiableModel(twin(network))
    whole = rng.integers(-3, 4, (6, FEATURES))
    for call in (model.predict, model.jacobian):
        np.testing.assert_array_equal(call(whole), call(whole.astype(float)))
    still = np.broadcast_to(1.0, (6, FEATURES))  # read-only, of which torch would warn
    np.testing.assert_array_equal(model.predict(still), model.predict(np.ones((6, FEATURES))))


@pytest.mark.parametrize("kind", [float, int])
def test_inputs_of_another_width_are_named(network, kind):
    model = DifferentiableModel(twin(network))
    for call in (model.predict, model.jacobian):
        with pytest.raises(InputError, match=r"inputs of shape \(4, 7\) \(as floats: .*shape"):
            call(np.ones((4, 7), kind))
        assert len(call(np.ones((4, FEATURES), kind))) == 4
    for call in (model.predict, model.jacobian):
        with pytest.raises(InputError, match=r"x has shape \(0, 3\)"):
            call(np.ones((0, FEATURES)))
    with pytest.raises(InputError, match="above the range of int64"):
        model.predict(np.full((1, FEATURES), 2**64 - 1, np.uint64))


def test_modules_that_give_no_tensor_are_named(points):
    class Pair(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    for call in (
        DifferentiableModel(Pair(FEATURES, 1).double()).predict,
        DifferentiableModel(Pair(FEATURES, 1)).jacobian,
    ):
        with pytest.raises(InputTypeError, match="gave a tuple"):
            call(points)


def test_a_module_is_told_how_to_become_a_model(network):
    target = inf.lwe.targets(inf.lwe.secrets(FEATURES, 3), 3)
    inputs = inf.lwe.inputs(FEATURES, 3)
    with pytest.raises(
        InputTypeError, match=r"torch module \(Twin\); pass gradhess\.torch\.DifferentiableModel"
    ):
        inf.analyze(twin(network), target, inputs)
    with pytest.raises(InputTypeError, match=r"pass gradhess\.torch\.DifferentiableModel"):
        inf.estimate_informativeness(twin(network), target, inputs, n_targets=3, n_inputs=4, rng=0)


def test_modules_as_targets():
    def make():
        return torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))

    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    target = module_targets(make)
    first, second = (target.draw(3, np.random.default_rng(0)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    points = np.random.default_rng(1).normal(size=(6, 2))
    values = target.targets(points, first)
    assert values.shape == (6, 3)
    np.testing.assert_array_equal(values, target.targets(points, second))
    assert not np.allclose(values[:, 0], values[:, 1])
    model = DifferentiableModel(make())
    report = inf.analyze(model, target, lambda n, rng: rng.normal(size=(n, 2)), n_targets=20, n_inputs=100)
    assert not report.exact
    assert report.variance.value > 3 * report.variance.stderr
    pairs = target.draw(2, np.random.default_rng(0))
    with pytest.raises(InputError, match=r"inputs of shape \(6, 3\)"):
        target.targets(np.ones((6, 3)), pairs)
    two_outputs = module_targets(lambda: torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="one number each"):
        two_outputs.targets(points, two_outputs.draw(1, np.random.default_rng(0)))
    tokens = module_targets(language_model)
    drawn = tokens.draw(3, np.random.default_rng(0))
    assert tokens.targets(np.array([[0, 4], [1, 1]]), drawn).shape == (2, 3)
    with pytest.raises(InputTypeError, match="make_module gave a int"):
        module_targets(lambda: 3).draw(2, np.random.default_rng(0))
    with pytest.raises(InputError, match="not enumerated"):
        len(target)


def test_training_on_a_low_frequency_learns_it():
    state = torch.random.get_rng_state()
    run = train_on_wave(2, widths=(32, 32), epochs=30, batch_size=200, rng=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert run.frequency == 1
    assert len(run.errors) == 30
    assert run.final_error < 1 / 12 / 4  # a straight line
    again = train_on_wave(2, widths=(32, 32), epochs=30, batch_size=200, rng=0)
    assert again.frequency == run.frequency
    high = train_on_wave(400, widths=(32, 32), epochs=10, batch_size=200, rng=1)
    assert high.final_error > 0.9 / 12


def test_repr():
    module = torch.nn.Linear(99, 20)
    assert repr(DifferentiableModel(module)) == "<DifferentiableModel: Linear, 2,000 parameters>"
    assert (
        repr(DifferentiableModel(module, 7))
        == "<DifferentiableModel: Linear, 2,000 parameters, chunk_size=7>"
    )
