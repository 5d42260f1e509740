"""Whether `checkpointed` records a solve changes its time and its memory, and nothing else."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from gradient_checks import give_room
from problems import FORCED
from thalweg import Checkpointed, solve_ivp

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


def solve(t_eval=None, method="dopri5", **options):
    torch.manual_seed(0)
    field = Field()
    y0 = torch.randn(3, 2, dtype=F64, requires_grad=True)
    k, t0, t1 = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.7, 0.0, 2.0))
    sol = solve_ivp(field, (t0, t1), y0, method, t_eval, args=(k,), rtol=1e-6, atol=1e-8, **options)
    return sol, field, [y0, k, t0, t1, *field.parameters()]


def gradients(sol, sources, **options):
    return torch.autograd.grad(sol.ys[1:].square().sum(), sources, allow_unused=True, **options)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("t_eval", [None, torch.linspace(0, 2, 7, dtype=F64)], ids=["ends", "outputs"])
@pytest.mark.parametrize("room", [0, 10_000, 2**28], ids=["none", "some", "all"])
def test_gradients_do_not_depend_on_how_much_is_recorded(room, t_eval, batching, monkeypatch):
    give_room(monkeypatch, room)
    sol, field, sources = solve(t_eval, batching=batching)
    recorded, at_start = (
        field.recorded,
        int(t_eval is not None),
    )  # an output at t0 moves with the times by the slope there
    assert (recorded > at_start) == (room > 0)
    assert (recorded == field.calls - 1) == (room == 2**28)  # all but the search for the first step
    found = gradients(sol, sources)
    assert (sol.stats.nfev_backward == 0) == (room == 2**28)
    direct, _, others = solve(t_eval, batching=batching, gradient="direct")
    for one, other in zip(found, gradients(direct, others), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("method", ["dopri8", "vern7"])
def test_interpolants_with_stages_of_their_own_are_the_same(method, batching):
    """Also where times need a gradient and nothing is recorded."""
    times = torch.linspace(0, 2, 7, dtype=F64)
    found = [solve(times, method, batching=batching, gradient=Checkpointed(memory_limit=n)) for n in (0, 2**28)]
    torch.testing.assert_close(found[0][0].ys, found[1][0].ys, rtol=1e-9, atol=1e-9)


def test_the_limit_is_that_of_the_object():
    """Where one step holds more than it, none is recorded."""
    sol, _, sources = solve(gradient=Checkpointed(memory_limit=1))
    gradients(sol, sources)
    assert sol.stats.nfev_backward > 0


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("t_eval", [None, torch.linspace(0, 2, 7, dtype=F64)], ids=["ends", "outputs"])
@pytest.mark.parametrize("way", [Checkpointed(memory_limit=2_000), Checkpointed(memory_limit=2_000, checkpoints=2)])
def test_a_graph_that_turns_out_too_large_is_let_go(way, t_eval, batching):
    """Nothing that a field computed is alive once the solve is done, though its solution is."""
    computed = []

    def field(t, y):
        inside = torch.tanh(y)
        computed.append(StorageWeakRef(inside.untyped_storage()))
        return -inside.square()

    y0 = torch.ones(3, 2, dtype=F64, requires_grad=True)
    sol = solve_ivp(field, (0, 2), y0, t_eval=t_eval, rtol=1e-8, gradient=way, batching=batching)
    assert sol.ys.requires_grad
    assert all(one.expired() for one in computed)


@pytest.mark.parametrize("limit", [-1, 0.5, True, "256 MiB"])
def test_a_limit_is_a_number_of_bytes(limit):
    with pytest.raises(ValueError, match="memory_limit must be a number of bytes"):
        Checkpointed(memory_limit=limit)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_a_second_backward_pass_has_the_same_gradients(batching):
    """Of the graph that the caller has, or by the steps again."""
    sol, _, sources = solve(batching=batching)
    first = gradients(sol, sources, retain_graph=True)
    assert sol.stats.nfev_backward == 0
    second = gradients(sol, sources)
    assert (sol.stats.nfev_backward > 0) == (batching == "per_sample")
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
