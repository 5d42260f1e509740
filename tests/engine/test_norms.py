"""The engine measures the error of each leaf of a joint state alone, as the eager loop does, and the largest counts."""

import pytest
import torch
from torch import nn

from thalweg import Status, solve_ivp
from thalweg.compat.torchdiffeq import odeint
from thalweg.core.norms import LargestOfLeaves

pytest.importorskip("thalweg.core._native", reason="the native engine was not built")

F64 = torch.float64
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(1)  # the same network in each run
    NET = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3)).double().requires_grad_(False)


def by_rows(t, state):
    """Its rows do not know of each other."""
    y, z = state
    return NET(y) * (1 + t), 5 * y.sum(-1, keepdim=True).cos() - 30 * z


def as_a_whole(t, state):
    """All of it is one sample."""
    y, z = state
    return NET(y) + NET(y).mean(0), -0.6 * z * (1 + y.sum() ** 2)


def start(rows, lone=False):
    torch.manual_seed(rows)
    return torch.randn(rows, 3, dtype=F64), 10 * torch.randn(7 if lone else rows, *(() if lone else (1,)), dtype=F64)


@pytest.mark.parametrize("first_step", [None, 0.01])
@pytest.mark.parametrize("method", ["dopri5", "dopri8", "rosenbrock23"])
@pytest.mark.parametrize(("fun", "rows"), [(by_rows, 1), (by_rows, 70), (as_a_whole, 5)])
def test_steps_are_those_of_the_eager_loop(fun, rows, method, first_step):
    """Of a tile, of several, and of one sample that is all; other steps than by the root mean square of all."""
    y0, times = start(rows, lone=fun is as_a_whole), torch.linspace(0, 1, 5, dtype=F64)
    options = {"t_eval": times, "rtol": 1e-5, "first_step": first_step}
    theirs, ours = (
        solve_ivp(fun, (0.0, 1.0), y0, method, norm=LargestOfLeaves(), backend=backend, **options)
        for backend in ("eager", "native")
    )
    assert (ours.stats.n_steps, ours.stats.nfev) == (theirs.stats.n_steps, theirs.stats.nfev)
    for x, y in zip(ours.ys, theirs.ys, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)
    usual = solve_ivp(fun, (0.0, 1.0), y0, method, backend="native", **options)
    assert not torch.equal(usual.ys[0], ours.ys[0])


def test_a_leaf_that_is_empty_counts_for_nothing():
    y0 = torch.ones(4, 2, dtype=F64), torch.ones(4, 0, dtype=F64), torch.full((4, 1), 3.0, dtype=F64)
    fun = lambda t, y: (-y[0], y[1], -40 * y[2])  # noqa: E731
    theirs, ours = (solve_ivp(fun, (0, 1), y0, norm=LargestOfLeaves(), backend=b) for b in ("eager", "native"))
    assert ours.stats.n_steps == theirs.stats.n_steps
    torch.testing.assert_close(ours.ys[2], theirs.ys[2])


@pytest.mark.parametrize("backend", ["eager", "native"])
@pytest.mark.parametrize("order", [1, -1])
def test_what_is_no_number_in_any_leaf_ends_the_solve(backend, order):
    def fun(t, y):
        rates = (torch.tensor(-1.0), torch.log(0.5 - t))[::order]
        return tuple(rate * x for rate, x in zip(rates, y, strict=True))

    y0 = torch.ones(2, 1), torch.ones(2, 1)
    sol = solve_ivp(fun, (0.0, 1.0), y0, norm=LargestOfLeaves(), backend=backend, on_failure="return")
    assert sol.status == Status.NONFINITE


def test_gradients_are_those_of_the_eager_loop():
    found = []
    for backend in ("eager", "native"):
        y0 = tuple(y.requires_grad_() for y in start(9))
        sol = solve_ivp(by_rows, (0.0, 1.0), y0, norm=LargestOfLeaves(), rtol=1e-5, backend=backend)
        assert sol.stats.backend == backend
        found.append(torch.autograd.grad(sum(y[-1].sum() for y in sol.ys), y0))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_tuple_of_torchdiffeq_is_solved_by_the_engine_without_a_call_of_the_field():
    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = NET
            self.seen = 0

        def forward(self, t, state):
            return by_rows(t, state)

    field, y0, t = Field(), start(6), torch.linspace(0, 1, 4)
    first = odeint(field, y0, t, rtol=1e-6, atol=1e-6)
    calls = []
    forward, Field.forward = Field.forward, lambda *a: calls.append(1) or forward(*a)
    changed = odeint(field, y0, t, rtol=1e-6, atol=1e-6)  # another class than it was: looked at anew
    assert calls
    Field.forward = forward
    for _ in range(2):
        calls.clear()
        again = odeint(field, y0, t, rtol=1e-6, atol=1e-6)
    assert not calls
    for x, y, z in zip(first, again, changed, strict=True):
        assert torch.equal(x, y)
        torch.testing.assert_close(x, z)
