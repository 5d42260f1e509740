"""A backward pass that evaluates the field again refuses what was changed in place since, if the field reads it."""

import pytest
import torch
from torch import nn

from thalweg import Checkpointed, solve_ivp

F64 = torch.float64
AGAIN = {
    "adjoint": "adjoint",
    "interpolating": "interpolating",
    "gauss": "gauss",
    "reversible": "reversible",
    "step by step": Checkpointed(memory_limit=0),
    "from few states": Checkpointed(memory_limit=0, checkpoints=2),
}


class Damped(nn.Module):
    """A field of tensors of all kinds, which counts its calls and holds what it does not read."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, 1.0], dtype=F64))
        self.frozen = nn.Parameter(torch.tensor(1.0, dtype=F64), requires_grad=False)
        self.register_buffer("buffer", torch.ones(3, dtype=F64))
        self.register_buffer("calls", torch.tensor(0))
        self.view = self.buffer[:1]
        self.aside = torch.tensor(1.0, dtype=F64)

    def forward(self, t, y, mask, several):
        self.calls += 1
        return -self.weight * self.frozen * self.view * mask * several["gains"][0] * torch.sin(y)


def solved(gradient, batching):
    field, mask = Damped(), torch.ones(2, dtype=F64)
    several = {"gains": [torch.tensor(1.0, dtype=F64)]}
    y0 = torch.ones(2, 2, dtype=F64)
    options = {"rtol": 1e-6, "gradient": gradient, "batching": batching, "backend": "eager"}
    sol = solve_ivp(field, (0.0, 1.0), y0, args=(mask, several), **options)
    held = {"frozen": field.frozen, "buffer": field.buffer, "mask": mask, "gain": several["gains"][0]}
    return field, sol.ys[-1].sum(), held | {"aside": field.aside, "calls": field.calls}


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("gradient", AGAIN.values(), ids=AGAIN)
class TestChanged:
    @pytest.mark.parametrize("name", ["frozen", "buffer", "mask", "gain"])
    def test_what_the_field_reads(self, gradient, batching, name):
        """By little, too: the gradient would be near the right one, and wrong."""
        field, loss, held = solved(gradient, batching)
        held[name].mul_(1.001)
        with pytest.raises(RuntimeError, match=r"of shape .* modified by an inplace operation .* backward\(\)"):
            torch.autograd.grad(loss, field.weight)

    @pytest.mark.parametrize("name", ["aside", "calls"])
    def test_what_it_does_not_read_or_writes_itself(self, gradient, batching, name):
        field, loss, held = solved(gradient, batching)
        (expected,) = torch.autograd.grad(loss, field.weight, retain_graph=True)
        held[name].add_(1)
        (found,) = torch.autograd.grad(loss, field.weight)
        assert torch.equal(found, expected)

    def test_after_the_backward_pass(self, gradient, batching):
        field, loss, held = solved(gradient, batching)
        loss.backward()
        for x in held.values():
            x.mul_(2)
        assert field.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["frozen", "buffer", "mask", "gain"])
def test_a_second_derivative_solves_again(name):
    field, loss, held = solved("checkpointed", "per_sample")
    (gradient,) = torch.autograd.grad(loss, field.weight, create_graph=True)
    held[name].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(gradient.sum(), field.weight)
