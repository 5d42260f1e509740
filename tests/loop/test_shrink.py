"""Rows that have ended leave the batch: nothing changes but the cost."""

import pytest
import torch

from gradient_checks import give_room
from thalweg import solve_ivp
from thalweg.methods import methods

F64 = torch.float64
MU = torch.tensor([0.1, 8.0, 0.5, 3.0, 1.0, 5.0, 0.2, 2.0], dtype=F64)


class VanDerPol:
    """Oscillators, one a row; counts the rows that it is evaluated for."""

    def __init__(self):
        self.rows = 0

    def __call__(self, t, y, mu):
        self.rows += len(y)
        x, v = y.unbind(-1)
        return torch.stack([v, mu * (1 - x * x) * v - x], -1)


def start():
    return torch.tensor([2.0, 0.0], dtype=F64).repeat(len(MU), 1)


def solved(field, *, y0=None, mu=MU, shrink=True, t_eval=None, t1=10.0, method="tsit5", **options):
    y0 = start() if y0 is None else y0
    options = {"rtol": 1e-5, "atol": 1e-5, "batching": "per_sample", "backend": "eager", **options}
    return solve_ivp(field, (0.0, t1), y0, method, t_eval, args=(mu,), shrink=shrink, **options)


@pytest.mark.parametrize("t_eval", [None, (0.0, 0.5, 3.0, 9.0, 10.0)])
def test_answers_and_costs_are_the_same_and_fewer_rows_are_evaluated(t_eval):
    small, whole = VanDerPol(), VanDerPol()
    with torch.no_grad():
        shrunk, full = solved(small, t_eval=t_eval), solved(whole, t_eval=t_eval, shrink=False)
    torch.testing.assert_close(shrunk.ys, full.ys, rtol=1e-12, atol=1e-12)
    for name in ("n_steps", "n_accepted", "nfev"):
        assert torch.equal(getattr(shrunk.stats, name), getattr(full.stats, name))
    assert small.rows < 0.75 * whole.rows
    assert full.stats.nfev.sum() <= small.rows <= 1.1 * full.stats.nfev.sum()


@pytest.mark.parametrize("method", [m.name for m in methods() if m.adaptive and m.pair is None])
def test_what_a_method_keeps_to_itself_follows(method):
    """Jacobians, factors, rates, slopes of the past and tolerances, each of its own row."""
    atol = torch.logspace(-3, -5, len(MU), dtype=F64)[:, None]
    with torch.no_grad():
        shrunk, full = (
            solved(VanDerPol(), method=method, t_eval=(1.0, 2.5, 4.0), t1=4.0, rtol=1e-3, atol=atol, shrink=shrink)
            for shrink in (True, False)
        )
    torch.testing.assert_close(shrunk.ys, full.ys, rtol=1e-9, atol=1e-9)
    assert torch.equal(shrunk.stats.n_steps, full.stats.n_steps)
    assert torch.equal(torch.as_tensor(shrunk.stats.njev), torch.as_tensor(full.stats.njev))


@pytest.mark.parametrize("room", ["ample", "none"])
@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint"])
@pytest.mark.parametrize("t_eval", [None, (0.5, 1.5, 2.0)])
def test_gradients_are_the_same(t_eval, gradient, room, monkeypatch):
    """To y0, to what belongs to a row, to what all rows share, and to times of each row."""
    if room == "none":
        give_room(monkeypatch, 0)
    shared = torch.tensor(1.0, dtype=F64, requires_grad=True)
    found = []
    for shrink in (True, False):
        y0, mu = start().requires_grad_(), (0.1 * MU).requires_grad_()
        t1 = torch.linspace(2, 3, len(MU), dtype=F64, requires_grad=True)
        field = VanDerPol()
        sol = solved(
            lambda t, y, mu, field=field: shared * field(t, y, mu),
            y0=y0, mu=mu, shrink=shrink, t_eval=t_eval, t1=t1, gradient=gradient,
        )  # fmt: skip
        wanted = [y0, mu, shared, t1] if t_eval is None else [y0, mu, shared]
        found.append(torch.autograd.grad(sol.ys.square().sum(), wanted))
    for shrunk, full in zip(*found, strict=True):
        torch.testing.assert_close(shrunk, full, rtol=1e-9, atol=1e-9)


def test_rows_that_fail_leave_too():
    """At once, with their own status; the others end as they would."""

    def field(t, y, mu):
        return torch.where((mu == 1.0) & (t[:, 0] > 0.3), torch.nan, -mu).unsqueeze(1) * y

    y0 = torch.ones(len(MU), 1, dtype=F64)
    shrunk, full = (solved(field, y0=y0, shrink=shrink, on_failure="return") for shrink in (True, False))
    assert torch.equal(shrunk.status, full.status)
    assert not bool(shrunk.success[4])
    torch.testing.assert_close(shrunk.ys, full.ys, rtol=1e-12, atol=0, equal_nan=True)


def test_structured_states():
    def field(t, y, mu):
        return {"x": y["v"], "v": mu * (1 - y["x"] ** 2) * y["v"] - y["x"]}

    y0 = {"x": torch.full((len(MU),), 2.0, dtype=F64), "v": torch.zeros(len(MU), dtype=F64)}
    shrunk = solved(field, y0=y0, rtol=1e-6)
    full = solved(VanDerPol(), rtol=1e-6, shrink=False)
    torch.testing.assert_close(torch.stack([shrunk.ys["x"], shrunk.ys["v"]], -1), full.ys, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batching": "joint"}, "needs batching='per_sample'"),
        ({"dense_output": True}, "does not go with dense_output"),
        ({"events": lambda t, y, mu: y[:, 0]}, "does not go with events"),
        ({"callback": lambda step: None}, "does not go with callback"),
    ],
)
def test_what_sees_all_rows_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        solved(VanDerPol(), **options)
