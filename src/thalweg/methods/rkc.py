"""The stabilised explicit method of order 2 with as many stages as the stiffness asks for.

Source: Sommeijer, Shampine & Verwer 1997, RKC: an explicit solver for parabolic PDEs, J. Comput. Appl. Math. 88,
315–326. Its steps are stable for eigenvalues on the negative axis down to about -0.65 stages² / h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

_DAMPING = 2 / 13


@dataclass(frozen=True)
class Chebyshev:
    """A method of one number of stages, s.

    A step of size h from (t, y), with f_j = f(t + c_j h, g_j),

        g_0 = y,  g_1 = y + mu_dot_1 h f_0,
        g_j = (1 - mu_j - nu_j) y + mu_j g_{j-1} + nu_j g_{j-2} + mu_dot_j h f_{j-1} + gamma_dot_j h f_0

    moves to g_s. The error is estimated as 0.8 (y - g_s) + 0.4 h (f_0 + f(t + h, g_s)), of order 3 in h.

    Parameters
    ----------
    mu, nu, mu_dot, gamma_dot, c : sequence
        Entry j belongs to stage j, 0 … s; those that do not occur are 0.
    reach : float
        The step is stable for eigenvalues between -reach / h and 0.
    """

    mu: tuple[float, ...]
    nu: tuple[float, ...]
    mu_dot: tuple[float, ...]
    gamma_dot: tuple[float, ...]
    c: tuple[float, ...]
    reach: float

    @property
    def stages(self) -> int:
        """s, the evaluations a step once f_0 is known."""
        return len(self.c) - 1


@cache
def rkc(stages: int) -> Chebyshev:
    """The method of that many stages.

    Raises
    ------
    ValueError
        When there are fewer than 2.

    Examples
    --------
    >>> round(rkc(10).reach, 1)
    64.7
    """
    if stages < 2:
        raise ValueError(f"stages must be at least 2, got {stages}")
    w0 = 1 + _DAMPING / stages**2
    t, dt, ddt = [1.0, w0], [0.0, 1.0], [0.0, 0.0]  # the Chebyshev polynomials at w0, and their derivatives
    for _ in range(2, stages + 1):
        ddt.append(2 * w0 * ddt[-1] + 4 * dt[-1] - ddt[-2])
        dt.append(2 * w0 * dt[-1] + 2 * t[-1] - dt[-2])
        t.append(2 * w0 * t[-1] - t[-2])
    w1 = dt[stages] / ddt[stages]
    b = [ddt[j] / dt[j] ** 2 for j in range(2, stages + 1)]
    b = [b[0], b[0], *b]
    mu, nu, mu_dot, gamma_dot = [0.0, 0.0], [0.0, 0.0], [0.0, b[1] * w1], [0.0, 0.0]
    c = [0.0, b[1] * w1]
    for j in range(2, stages + 1):
        mu.append(2 * b[j] * w0 / b[j - 1])
        nu.append(-b[j] / b[j - 2])
        mu_dot.append(2 * b[j] * w1 / b[j - 1])
        gamma_dot.append(-(1 - b[j - 1] * t[j - 1]) * mu_dot[j])
        c.append(w1 * ddt[j] / dt[j])
    reach = (w0 + 1) / w1
    return Chebyshev(tuple(mu), tuple(nu), tuple(mu_dot), tuple(gamma_dot), tuple(c), reach)


def stages_for(h_rho: float) -> int:
    """A number of stages that makes a step stable, for h times the spectral radius of the Jacobian.

    Examples
    --------
    >>> stages_for(60.0)
    10
    """
    return 1 + int(math.sqrt(1.54 * h_rho + 1))


@dataclass(frozen=True)
class Stabilised:
    """The methods of any number of stages as one, each step by as many as keep it stable."""

    order = 2
    """The order of the method."""
    interpolant_order = 2
    """The order of the interpolant, the cubic with the states and the slopes at both ends."""
    error_order = 3
    """The power of h by which the error estimate of a step shrinks."""
    stages = 2
    """The least number of stages of a step."""
    adaptive = True
    """Whether the method estimates its error."""
