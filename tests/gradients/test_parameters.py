"""Parameters as people have them: shared, frozen, unused, captured, and in autocast, by every gradient method.

Each gives what `direct` gives of the same steps; a frozen or unused parameter gets no gradient, or zero.
"""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal

from gradient_checks import twin
from thalweg import Checkpointed, solve_ivp
from thalweg.gradients import GRADIENTS

F64 = torch.float64
BATCHINGS = ("joint", "per_sample")
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


class Field(nn.Module):
    """One layer used twice and held under two names, one that is frozen, and one that nothing uses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 3).double()
        self.second = self.first
        self.frozen = nn.Linear(3, 3).double().requires_grad_(False)
        self.unused = nn.Linear(3, 3).double()

    def forward(self, t, y):
        return torch.tanh(self.second(torch.tanh(self.first(y)) + t)) - self.frozen(y)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_shared_frozen_and_unused_parameters(gradient, batching):
    field, y0 = Field(), torch.linspace(-1, 1, 12, dtype=F64).view(4, 3)

    def found(how):
        field.zero_grad()
        solve_ivp(field, (0.0, 1.0), y0, batching=batching, gradient=how, **TIGHT).ys[-1].square().sum().backward()
        return [None if p.grad is None else p.grad.clone() for p in field.parameters()]

    for name, one, other in zip(dict(field.named_parameters()), found(gradient), found(twin(gradient)), strict=True):
        if name.startswith("first"):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)
            assert one.abs().max() > 0.01
        else:
            assert one is None or not one.any(), name


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_autocast_is_that_of_the_forward_pass(gradient, batching):
    """The field runs in bfloat16 on the way there and on the way back, the state is kept in float32."""
    torch.manual_seed(0)
    layer, y0 = nn.Linear(3, 3), torch.randn(4, 3, requires_grad=True)
    seen = set()

    def field(t, y):
        out = layer(y)
        seen.add(out.dtype)
        return torch.tanh(out).float()

    def found(how):
        with torch.autocast("cpu", torch.bfloat16):
            sol = solve_ivp(field, (0.0, 1.0), y0, batching=batching, step_size=0.1, gradient=how)
        assert sol.ys.dtype == torch.float32
        return torch.autograd.grad(sol.ys[-1].square().sum(), [layer.weight, y0])  # outside of it

    for one, other in zip(found(gradient), found(twin(gradient)), strict=True):
        assert (one - other).norm() < 0.03 * other.norm()  # bfloat16 has 8 bits, and ten steps round
    assert seen == {torch.bfloat16}


@pytest.mark.parametrize("state", [torch.ones(2, 3), {"x": torch.ones(2, 3)}], ids=["tensor", "dict"])
def test_a_field_that_leaves_its_slope_to_autocast_is_told_to_convert_it(state):
    layer, whole = nn.Linear(3, 3), isinstance(state, torch.Tensor)

    def solve(convert=lambda x: x):
        solve_ivp(lambda t, y: convert(layer(y)) if whole else {"x": convert(layer(y["x"]))}, (0.0, 1.0), state)

    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ValueError, match=r"torch.autocast computes in it: convert what the field returns"):
            solve()
        with pytest.raises(ValueError, match=r"convert the field \(module.to\(y.dtype\)\)"):
            solve(torch.Tensor.double)
        solve(torch.Tensor.float)
    solve()


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_what_a_closure_captured_is_reached_leaf_or_not(gradient, batching):
    """A tensor of its own, and one that was computed from it."""
    k, y0 = torch.tensor(0.7, dtype=F64, requires_grad=True), torch.ones(2, 1, dtype=F64)

    def found(how):
        rate = torch.exp(-k)
        sol = solve_ivp(lambda t, y: -rate * y * y + k * t, (0.0, 1.0), y0, batching=batching, gradient=how, **TIGHT)
        return torch.autograd.grad(sol.ys[-1].sum(), k)[0]

    torch.testing.assert_close(found(gradient), found(twin(gradient)), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("gradient", [*GRADIENTS, Checkpointed(memory_limit=0)], ids=str)
def test_weights_that_are_made_of_others_and_kept_for_a_while(gradient, backend):
    """What `parametrize.cached` keeps has no graph where a solve records none; the gradients are those without it."""
    torch.manual_seed(0)
    layer, y0 = orthogonal(nn.Linear(3, 3).double()), torch.randn(4, 3, dtype=F64)

    def found(keep, **options):
        with keep():
            sol = solve_ivp(lambda t, y: torch.tanh(layer(y)), (0.0, 1.0), y0, **options, **TIGHT)
            return torch.autograd.grad(sol.ys[-1].square().sum(), list(layer.parameters()))

    expected = found(nullcontext, gradient="direct", backend="eager")
    for one, other in zip(found(parametrize.cached, gradient=gradient, backend=backend), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    with parametrize.cached():
        assert layer.weight is layer.weight  # for others it keeps them as ever
