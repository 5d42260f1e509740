"""Problems whose solutions are known, in closed form or from SciPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.integrate import solve_ivp as scipy_solve_ivp

import testset

F64 = torch.float64


@dataclass(frozen=True)
class Problem:
    """An initial-value problem; `fun` acts on the last dimension."""

    name: str
    fun: Callable
    t_span: tuple[float, float]
    y0: tuple[float, ...]

    def state(self) -> torch.Tensor:
        return torch.tensor(self.y0, dtype=F64)

    def reference(self, t_eval) -> torch.Tensor:
        """SciPy's DOP853 at tolerances far below those tested."""
        return self.by_scipy(t_eval, 1e-13)

    def by_scipy(self, t_eval, tolerance: float) -> torch.Tensor:
        """SciPy's DOP853, solved once for all who ask for these times."""
        return _by_scipy(self, tuple(map(float, t_eval)), tolerance)


@cache
def _by_scipy(problem: Problem, t_eval: tuple[float, ...], tolerance: float) -> torch.Tensor:
    def fun(t, y):
        return problem.fun(torch.tensor(t, dtype=F64), torch.from_numpy(y)).numpy()

    solution = scipy_solve_ivp(
        fun, problem.t_span, np.array(problem.y0), "DOP853", t_eval=np.array(t_eval), rtol=tolerance, atol=tolerance
    )
    return torch.from_numpy(solution.y.T)


def lotka_volterra(t, y):
    x, p = y[..., 0], y[..., 1]
    return torch.stack([1.5 * x - x * p, -3.0 * p + x * p], -1)


def lorenz(t, y):
    x, v, z = y.unbind(-1)
    return torch.stack([10.0 * (v - x), x * (28.0 - z) - v, x * v - 8.0 / 3.0 * z], -1)


def van_der_pol(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, 2.0 * (1 - x * x) * v - x], -1)


def pendulum(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, -0.25 * v - 5.0 * torch.sin(x)], -1)


def forced(t, y):
    """A pendulum that is pushed: smooth, nonlinear and dependent on time."""
    t = t[..., 0] if t.ndim else t  # (batch, 1) per sample
    x, v = y.unbind(-1)
    return torch.stack([v, torch.cos(3 * t) * (1 + x) - 0.25 * v - 5 * torch.sin(x)], -1)


PROBLEMS = [
    Problem("lotka_volterra", lotka_volterra, (0.0, 8.0), (10.0, 5.0)),
    Problem("lorenz", lorenz, (0.0, 2.0), (1.0, 1.0, 20.0)),
    Problem("van_der_pol", van_der_pol, (0.0, 10.0), (2.0, 0.0)),
    Problem("pendulum", pendulum, (0.0, 10.0), (3.0, 0.0)),
]

FORCED = Problem("forced", forced, (0.0, 2.0), (1.0, 0.0))


def rober(t, y, k):
    """Robertson's reaction, each row with rates k (B, 3) of its own."""
    return testset.rober(torch, t, y, k.unbind(-1))
