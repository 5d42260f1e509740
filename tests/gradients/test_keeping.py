"""The graphs that `checkpointed` keeps of its steps change its time and its memory, and nothing else."""

import pytest
import torch

from problems import FORCED
from thalweg import solve_ivp
from thalweg.gradients import keeping

F64 = torch.float64


class Field(torch.nn.Module):
    """Counts its evaluations, and those of them that are recorded."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2, dtype=F64)
        self.calls = self.recorded = 0

    def forward(self, t, y, k):
        self.calls += 1
        self.recorded += torch.is_grad_enabled()
        return FORCED.fun(t, y) * k + torch.tanh(self.layer(y))


def solve(t_eval):
    torch.manual_seed(0)
    field = Field()
    y0 = torch.randn(3, 2, dtype=F64, requires_grad=True)
    k, t0, t1 = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.7, 0.0, 2.0))
    sol = solve_ivp(field, (t0, t1), y0, "dopri5", t_eval, args=(k,), rtol=1e-6, atol=1e-8)
    return sol, field, [y0, k, t0, t1, *field.parameters()]


def gradients(sol, sources, **options):
    return torch.autograd.grad(sol.ys[1:].square().sum(), sources, **options)


@pytest.mark.parametrize("t_eval", [None, torch.linspace(0, 2, 7, dtype=F64)], ids=["ends", "outputs"])
@pytest.mark.parametrize("room", [0, 10_000, 2**28], ids=["none", "some", "all"])
def test_gradients_do_not_depend_on_how_many_are_kept(room, t_eval, monkeypatch):
    monkeypatch.setattr(keeping, "AMPLE", room)
    sol, field, sources = solve(t_eval)
    found = gradients(sol, sources, allow_unused=True)
    kept = field.recorded - sol.stats.nfev_backward
    assert {0: kept == 0, 10_000: 0 < kept < 6 * sol.stats.n_steps, 2**28: kept == 6 * sol.stats.n_steps}[room]
    direct = solve_ivp(
        field, sources[2:4], sources[0], "dopri5", t_eval, args=sources[1], rtol=1e-6, atol=1e-8, gradient="direct"
    )
    for one, other in zip(found, gradients(direct, sources, allow_unused=True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_kept_step_is_not_computed_again():
    sol, field, sources = solve(None)
    before = field.calls
    gradients(sol, sources)
    assert field.calls - before == sol.stats.nfev_backward == 1  # the slope at t0


def test_a_second_backward_pass_computes_the_steps_again():
    sol, _, sources = solve(None)
    first = gradients(sol, sources, retain_graph=True)
    second = gradients(sol, sources)
    assert sol.stats.nfev_backward == 2 + 6 * sol.stats.n_accepted
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
