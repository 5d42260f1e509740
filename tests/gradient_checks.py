"""What tests of gradients share: finite differences, and fields whose gradients are hard to get right."""

import math

import torch

from thalweg import Checkpointed, Reversible, solve_ivp
from thalweg.gradients import GRADIENTS, Direct

F64 = torch.float64


def give_room(monkeypatch, room):
    """Let `checkpointed`, where it is asked for by its name, keep graphs of no more than so many bytes."""
    monkeypatch.setitem(GRADIENTS, "checkpointed", Checkpointed(memory_limit=room))


def central_differences(value, x, eps=1e-5):
    """d value() / d x, by changing x in place."""
    flat, grad = x.detach().view(-1), torch.zeros(x.numel(), dtype=F64)
    with torch.no_grad():
        for j, old in enumerate(flat.tolist()):
            flat[j] = old + eps
            above = value()
            flat[j] = old - eps
            below = value()
            flat[j] = old
            grad[j] = (above - below) / (2 * eps)
    return grad.view(x.shape)


def differences_along(value, x, eps=1e-5):
    """Directions (n, x.numel()) and d value() / d x along them, by changing x in place.

    Every entry where there are two at most, else two directions at random, of entries of unit variance, so that an
    error anywhere is seen at its size.
    """
    flat, n = x.detach().view(-1), x.numel()
    random = torch.Generator().manual_seed(n)
    ways = torch.eye(n, dtype=F64) if n <= 2 else torch.randn(2, n, dtype=F64, generator=random)
    old, slopes = flat.clone(), []
    with torch.no_grad():
        for way in ways:
            ends = []
            for sign in (1, -1):
                flat.copy_(old + sign * eps * way / way.norm())
                ends.append(value())
            slopes.append((ends[0] - ends[1]) / (2 * eps) * way.norm())
        flat.copy_(old)
    return ways, torch.stack(slopes)


class Nonlinear(torch.nn.Module):
    """Nonlinear in y, in t and in its parameters."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(2, 2, dtype=F64))

    def forward(self, t, y, k):
        return torch.tanh(y @ self.weight + t) - k * y * torch.sin(t + y)


TROUBLE = torch.tensor([[0.5, 0.0], [1.0, 1.0], [1.0, 2.0], [math.nan, 0.0], [-1.0, 0.0]], dtype=F64)
"""Starts of `troubled`: the first and the last are well, one turns NaN, one meets a pole, and one is never finite."""


def troubled(t, y, k):
    """What becomes of a row is its second entry: 0 well, 1 NaN after t = 0.5, 2 a pole."""
    z, kind = y.unbind(-1)
    well = -k * z + torch.sin(t[:, 0])
    slope = torch.where(kind == 1, torch.where(t[:, 0] > 0.5, torch.nan, well), well)
    slope = torch.where(kind == 2, k * torch.where(kind == 2, z, 0.0) ** 2, slope)
    return torch.stack([slope, torch.zeros_like(z)], -1)


def assert_rows_that_fail_are_not_felt(method, gradient, **options):
    """The gradient to an argument that all rows share, among rows that fail, is that of the rows that are well."""

    def found(rows):
        k = torch.tensor(3.0, dtype=F64, requires_grad=True)
        sol = solve_ivp(
            troubled, (0.0, 1.0), TROUBLE[rows], method, args=(k,), rtol=1e-4, batching="per_sample",
            gradient=gradient, on_failure="return", **options,
        )  # fmt: skip
        return torch.autograd.grad(sol.ys[-1, sol.success].square().sum(), [k])[0], sol.success.tolist()

    among, success = found([0, 1, 2, 3, 4])
    assert success == [True, False, False, False, True]
    alone, _ = found([0, 4])
    torch.testing.assert_close(among, alone, rtol=1e-10, atol=0)


def assert_gradients_pass_through_pytrees(method):
    """A turn by one radian, back in time: the gradient of where it ends to where it starts is cos(1)."""
    y0 = {"x": torch.ones(3, 2, dtype=F64, requires_grad=True), "v": torch.zeros(3, 2, dtype=F64)}
    for batching in ("joint", "per_sample"):
        sol = solve_ivp(lambda t, y: {"x": y["v"], "v": -y["x"]}, (1.0, 0.0), y0, method, batching=batching, rtol=1e-8)
        (found,) = torch.autograd.grad(sol.ys["x"][-1].sum(), [y0["x"]])
        torch.testing.assert_close(found, torch.full((3, 2), math.cos(1.0), dtype=F64), rtol=1e-5, atol=1e-5)


class DirectlyReversible(Reversible):
    """The same steps, differentiated by PyTorch."""

    def run(self, integrate, request):
        return Direct().run(integrate, request)


def twin(gradient):
    """What differentiates the numbers of that gradient method operation by operation."""
    return DirectlyReversible() if gradient == "reversible" else "direct"
