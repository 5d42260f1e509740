"""A person can stop a solve: the engine looks for signals, and what it had begun leaves nothing behind."""

import signal

import pytest
import torch

from thalweg import Checkpointed, solve_ivp

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer that sends a signal")


class Enough(Exception):
    """What the signal raises."""


@pytest.fixture
def alarm():
    """Sends a signal soon."""

    def stop(*_):
        raise Enough

    before = signal.signal(signal.SIGALRM, stop)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, 0.05)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def decay(t, y):
    return -y * torch.sigmoid(y)


def solve(t1, **options):
    """1,000 steps for each unit of time."""
    y0 = torch.linspace(1, 2, 60, dtype=torch.float64).view(20, 3).requires_grad_()
    options = {"method": "rk4", "step_size": 1e-3, "max_steps": 10**9, "backend": "native", **options}
    return solve_ivp(decay, (0.0, t1), y0, gradient=Checkpointed(memory_limit=0), **options), y0


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("method", ["rk4", "rodas5p"])
@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_a_solve_that_would_take_hours(batching, method, threads, alarm):
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    alarm()
    try:
        with pytest.raises(Enough), torch.no_grad():
            solve(1e6, batching=batching, method=method)
    finally:
        torch.set_num_threads(usual)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_a_recorded_one_and_what_comes_after(batching, alarm):
    expected, y0 = solve(1.0, batching=batching)
    (gradient,) = torch.autograd.grad(expected.ys[-1].sum(), y0)
    alarm()
    with pytest.raises(Enough):
        solve(1e5, batching=batching)
    again, y0 = solve(1.0, batching=batching)
    torch.testing.assert_close(again.ys, expected.ys, rtol=0, atol=0)
    torch.testing.assert_close(torch.autograd.grad(again.ys[-1].sum(), y0)[0], gradient, rtol=0, atol=0)


def test_a_way_back(alarm):
    sol, y0 = solve(100.0)
    end = sol.ys[-1].sum()
    alarm()
    with pytest.raises(Enough):
        end.backward()
    assert y0.grad is None
