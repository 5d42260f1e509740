"""Encoder, flow, decoder."""

import pytest
import torch
from torch import nn

from thalweg.learn.config import ModelConfig, SolverConfig
from thalweg.learn.model import build_model, choose_state_dim
from thalweg.nn import Augment, NeuralODE, ResNet


def build(n_inputs=4, n_outputs=3, seed=0, solver=None, **options):
    return build_model(ModelConfig(**options), SolverConfig(**solver or {}), n_inputs, n_outputs, seed)


@pytest.mark.parametrize("flow", ["ode", "resnet", "none"])
@pytest.mark.parametrize("encoder", ["linear", "mlp", "identity"])
@pytest.mark.parametrize("decoder", ["linear", "mlp"])
@pytest.mark.parametrize("time", ["none", "concat", "gated"])
def test_every_choice_carries_rows_to_outputs_and_can_learn(flow, encoder, decoder, time):
    model = build(flow=flow, encoder=encoder, decoder=decoder, time=time, width=8)
    x = torch.randn(5, 4)
    output = model(x)
    assert output.shape == (5, 3)
    output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.n_parameters == sum(p.numel() for p in model.parameters())
    assert (model.nfev > 0) == (flow != "none")
    assert torch.equal(output, model.decoder(model.flow(model.encoder(x))))


def test_the_parts_are_those_of_the_configuration():
    solver = {"method": "rk4", "step_size": 0.25, "t0": -1.0, "t1": 2.0, "gradient": "direct", "batching": "joint"}
    model = build(state_dim=7, activation="sin", depth=2, width=9, solver={**solver, "learn_times": True})
    assert isinstance(model.flow, NeuralODE)
    assert [t.item() for t in model.flow.t_span] == [-1.0, 2.0]
    assert {name: model.flow.options[name] for name in ("method", "step_size", "gradient", "batching")} == {
        name: solver[name] for name in ("method", "step_size", "gradient", "batching")
    }
    assert [tuple(layer.linear.weight.shape) for layer in model.flow.field.layers] == [(9, 8), (9, 10), (7, 10)]
    assert model.flow.field.activation is torch.sin
    model(torch.zeros(1, 4))
    assert model.nfev == 4 * 12


@pytest.mark.parametrize("shared", [True, False])
def test_residual_blocks(shared):
    model = build(flow="resnet", resnet_depth=5, resnet_shared=shared)
    assert isinstance(model.flow, ResNet)
    assert (model.flow.depth, model.flow.shared, model.nfev) == (5, shared, 5.0)


def test_parameters_are_counted_by_hand():
    """(2+1)3 in, (4·8+8) + (9·3+3) of the field with time, (3+1)2 out."""
    assert build(2, 2, state_dim=3, width=8, depth=1).n_parameters == 9 + 40 + 30 + 8
    assert build(2, 2, state_dim=3, flow="none").n_parameters == 9 + 8
    assert build(2, 2, state_dim=3, width=8, flow="resnet", resnet_depth=4).n_parameters == 9 + 4 * 70 + 8


def test_an_identity_adds_zeros():
    model = build(encoder="identity", state_dim=6)
    x = torch.randn(2, 4)
    assert isinstance(model.encoder, Augment)
    assert torch.equal(model.encoder(x), torch.cat([x, torch.zeros(2, 2)], 1))
    assert choose_state_dim(500, "identity") == 500


def test_boats_drift_before_they_race():
    """At the start a flow is near the identity: no path is long."""
    model = build(width=64)
    z0 = model.encoder(torch.randn(50, 4))
    assert (model.flow(z0) - z0).norm() < 0.2 * z0.norm()


@pytest.mark.parametrize("flow", ["ode", "resnet", "none"])
def test_weights_depend_on_the_seed_alone(flow):
    """Nothing reads or changes the global random state."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = build(flow=flow, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(7)
    other, another = build(flow=flow, seed=5).state_dict(), build(flow=flow, seed=6).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not any(torch.equal(one[name], another[name]) for name in one)


@pytest.mark.parametrize(
    ("n_inputs", "dropout", "expected"), [(4, None, None), (64, None, 0.2), (4, 0.3, 0.3), (64, 0.0, None)]
)
def test_inputs_are_hidden_in_training_alone(n_inputs, dropout, expected):
    model = build(n_inputs, dropout=dropout)
    drops = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert drops == ([] if expected is None else [expected])
    x = torch.randn(3, n_inputs)
    model.eval()
    assert torch.equal(model(x), model(x))
    model.train()
    assert torch.equal(model(x), model(x)) == (expected is None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "identity", "state_dim": 3}, "state_dim must be at least the number of inputs, 4"),
        ({"n_inputs": 0}, "n_inputs must be 1 or more, got 0"),
        ({"n_outputs": 0}, "n_outputs must be 1 or more, got 0"),
    ],
)
def test_what_cannot_be_built(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
