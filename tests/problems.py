"""Problems whose solutions are known, in closed form or from SciPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp as scipy_solve_ivp

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

        def fun(t, y):
            return self.fun(torch.tensor(t, dtype=F64), torch.from_numpy(y)).numpy()

        solution = scipy_solve_ivp(
            fun, self.t_span, np.array(self.y0), "DOP853", t_eval=np.asarray(t_eval), rtol=1e-13, atol=1e-13
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


@dataclass(frozen=True)
class StiffProblem(Problem):
    """One whose state at t1 is that of SciPy's Radau at rtol = 1e-11, atol = 1e-11 `scale` and exact Jacobians.

    `scale` is the ratio of atol to rtol that suits it. The ends agree with those of the Bari test set, where given.
    """

    scale: float
    end: tuple[float, ...]


def rober(t, y, k=torch.tensor([0.04, 3e7, 1e4], dtype=F64)):  # noqa: B008
    """Robertson's reaction, k (..., 3)."""
    (a, b, c), (k1, k2, k3) = y.unbind(-1), k.unbind(-1)
    first, second, third = k1 * a, k2 * b * b, k3 * b * c
    return torch.stack([third - first, first - second - third, second], -1)


def hires(t, y):
    """High irradiance responses of photomorphogenesis."""
    y1, y2, y3, y4, y5, y6, y7, y8 = y.unbind(-1)
    pair = 280 * y6 * y8
    return torch.stack(
        [
            -1.71 * y1 + 0.43 * y2 + 8.32 * y3 + 0.0007,
            1.71 * y1 - 8.75 * y2,
            -10.03 * y3 + 0.43 * y4 + 0.035 * y5,
            8.32 * y2 + 1.71 * y3 - 1.12 * y4,
            -1.745 * y5 + 0.43 * y6 + 0.43 * y7,
            -pair + 0.69 * y4 + 1.71 * y5 - 0.43 * y6 + 0.69 * y7,
            pair - 1.81 * y7,
            1.81 * y7 - pair,
        ],
        -1,
    )


def orego(t, y):
    """The Oregonator."""
    y1, y2, y3 = y.unbind(-1)
    return torch.stack(
        [77.27 * (y2 + y1 * (1 - 8.375e-6 * y1 - y2)), (y3 - (1 + y1) * y2) / 77.27, 0.161 * (y1 - y3)], -1
    )


def stiff_van_der_pol(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, 1000.0 * (1 - x * x) * v - x], -1)


def prothero_robinson(t, y):
    """Towards cos(t), which the solution is."""
    return -1e6 * (y - torch.cos(t)) - torch.sin(t)


STIFF = [
    StiffProblem(
        "rober", rober, (0.0, 1e5), (1.0, 0.0, 0.0), 1e-4, (0.0178659211423, 7.27475146852e-08, 0.982134006110)
    ),
    StiffProblem(
        "hires",
        hires,
        (0.0, 321.8122),
        (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057),
        1e-3,
        (
            0.73713125733255e-3,
            0.14424857263161e-3,
            0.58887297409673e-4,
            0.11756513432832e-2,
            0.23863561988308e-2,
            0.62389682527412e-2,
            0.28499983951857e-2,
            0.28500016048148e-2,
        ),
    ),
    StiffProblem(
        "orego", orego, (0.0, 360.0), (1.0, 2.0, 3.0), 1.0, (1.00081487031852, 1228.17852154990, 132.055494284663)
    ),
    StiffProblem(
        "van_der_pol", stiff_van_der_pol, (0.0, 2000.0), (2.0, 0.0), 1e-3, (1.70616773217045, -0.892809701024847e-3)
    ),
    StiffProblem("prothero_robinson", prothero_robinson, (0.0, 10.0), (1.0,), 1.0, (-0.839071529076452,)),
]
