"""Initial-value problems that solvers are judged by, for tests and benchmarks alike.

The 25 of DETEST, from t = 0 to 20, and stiff ones. A slope is written once for every array library:
`slope(xp, t, y)`, where `xp` is torch, numpy or jax.numpy. It acts on the last dimension of y; t is a number, 0-d or
broadcasts against all but that. `Problem.fun` is the PyTorch field.

The states at the ends of the intervals lie in `testset.json`; `python benchmarks/references.py` makes them, in two ways
that agree in 10 digits at least.

References
----------
Hull, Enright, Fellen & Sedgwick, "Comparing numerical methods for ordinary differential equations", SIAM J. Numer.
Anal. 9 (1972); Enright & Pryce, "Two FORTRAN packages for assessing initial value methods", ACM TOMS 13 (1987);
Hairer & Wanner, Solving Ordinary Differential Equations II (1996), IV.10; Mazzia & Magherini, Test set for initial
value problem solvers, release 2.4 (2008).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ENDS = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Problem:
    """A slope, an interval and a state at its beginning.

    `scale` is the ratio of atol to rtol that suits it.
    """

    name: str
    slope: Callable[..., Any]
    y0: tuple[float, ...]
    t1: float = 20.0
    scale: float = 1.0
    stiff: bool = False
    t_span: tuple[float, float] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "t_span", (0.0, self.t1))

    @property
    def fun(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The PyTorch field; per sample, t of shape (B, 1) is that of each row."""
        slope = self.slope
        return lambda t, y: slope(torch, t[..., 0] if t.ndim else t, y)

    def state(self) -> Tensor:
        """The state at t = 0, in float64."""
        return torch.tensor(self.y0, dtype=torch.float64)

    @property
    def end(self) -> Tensor:
        """The state at t1."""
        return torch.tensor(_ends()[self.name], dtype=torch.float64)

    def error(self, y: Tensor, tolerance: float) -> float:
        """How far y is from the end, in the solvers' norm: 1 is the error that a step may make at this tolerance.

        Root mean square of the entries, each relative to tolerance (scale + |end|).
        """
        allowed = tolerance * (self.scale + self.end.abs())
        return ((y - self.end) / allowed).square().mean().sqrt().item()


def _ends(cache: dict[str, list[float]] = {}) -> dict[str, list[float]]:  # noqa: B006
    if not cache:
        cache.update(json.loads(ENDS.read_text()))
    return cache


# A: single equations


def a1(xp, t, y):
    """The negative exponential."""
    return -y


def a2(xp, t, y):
    """A special case of the Riccati equation."""
    return -0.5 * y * y * y


def a3(xp, t, y):
    """An oscillation."""
    return y * xp.cos(_along(t, y))


def a4(xp, t, y):
    """A logistic curve."""
    return 0.25 * y * (1 - 0.05 * y)


def a5(xp, t, y):
    """A spiral curve."""
    t = _along(t, y)
    return (y - t) / (y + t)


# B: small systems


def b1(xp, t, y):
    """Two populations in conflict."""
    a, b = y[..., 0], y[..., 1]
    return xp.stack([2 * (a - a * b), a * b - b], -1)


def b2(xp, t, y):
    """A linear chemical reaction."""
    a, b, c = y[..., 0], y[..., 1], y[..., 2]
    return xp.stack([b - a, a - 2 * b + c, b - c], -1)


def b3(xp, t, y):
    """A nonlinear chemical reaction."""
    a, b = y[..., 0], y[..., 1]
    return xp.stack([-a, a - b * b, b * b], -1)


def b4(xp, t, y):
    """The integral surface of a torus."""
    a, b, c = y[..., 0], y[..., 1], y[..., 2]
    r = xp.sqrt(a * a + b * b)
    return xp.stack([-b - a * c / r, a - b * c / r, a / r], -1)


def b5(xp, t, y):
    """A rigid body without forces: Euler's equations."""
    a, b, c = y[..., 0], y[..., 1], y[..., 2]
    return xp.stack([b * c, -a * c, -0.51 * a * b], -1)


# C: moderate systems


def c1(xp, t, y):
    """A chain of radioactive decays."""
    flow = y[..., :-1]
    return _concatenated(xp, 0 * flow[..., :1], flow) - _concatenated(xp, flow, 0 * flow[..., :1])


def c2(xp, t, y):
    """Another chain, each link faster than the one before."""
    flow = y[..., :-1] * xp.arange(1, y.shape[-1])
    return _concatenated(xp, 0 * flow[..., :1], flow) - _concatenated(xp, flow, 0 * flow[..., :1])


def c3(xp, t, y):
    """Heat in a rod: C3 in 10 points, C4 in 51."""
    cold = 0 * y[..., :1]
    return _concatenated(xp, cold, y[..., :-1]) - 2 * y + _concatenated(xp, y[..., 1:], cold)


GRAVITY, SUN = 2.95912208286, 1.00000597682
PLANETS = (0.000954786104043, 0.000285583733151, 0.0000437273164546, 0.0000517759138449, 0.00000277777777778)


def c5(xp, t, y):
    """The five outer planets: places and speeds, relative to the sun, of each in turn."""
    q, p = y[..., :15].reshape((*y.shape[:-1], 5, 3)), y[..., 15:]
    masses = xp.asarray(PLANETS, dtype=y.dtype)[:, None]
    to_sun = q / (q * q).sum(-1)[..., None] ** 1.5
    between = q[..., None, :, :] - q[..., :, None, :]  # [j, k] leads from j to k
    distance = (between * between).sum(-1) + xp.eye(5, dtype=y.dtype)
    pull = (masses * between / distance[..., None] ** 1.5).sum(-2)
    force = GRAVITY * (pull - SUN * to_sun - (masses * to_sun).sum(-2)[..., None, :])
    return _concatenated(xp, p, force.reshape(p.shape))


# D: orbits


def orbit(xp, t, y):
    """A planet, its orbit an ellipse."""
    q = y[..., :2]
    return _concatenated(xp, y[..., 2:], -q / (q * q).sum(-1)[..., None] ** 1.5)


# E: equations of higher order


def e1(xp, t, y):
    """Bessel's equation of order 1/2, from 1 on."""
    a, b, x = y[..., 0], y[..., 1], t + 1
    return xp.stack([b, -(b / x + (1 - 0.25 / (x * x)) * a)], -1)


def van_der_pol(xp, t, y, mu=1.0):
    """Van der Pol's oscillator: E2 gently, and stiff with mu = 1000."""
    a, b = y[..., 0], y[..., 1]
    return xp.stack([b, mu * (1 - a * a) * b - a], -1)


def e3(xp, t, y):
    """Duffing's equation."""
    a, b = y[..., 0], y[..., 1]
    push = 2 * xp.sin(2.78535 * (t + 0 * a))
    return xp.stack([b, a * a * a / 6 - a + push], -1)


def e4(xp, t, y):
    """A falling body."""
    b = y[..., 1]
    return xp.stack([b, 0.032 - 0.4 * b * b], -1)


def e5(xp, t, y):
    """Linear pursuit."""
    b = y[..., 1]
    return xp.stack([b, xp.sqrt(1 + b * b) / (25 - t)], -1)


# Stiff problems


def rober(xp, t, y, k=(0.04, 3e7, 1e4)):
    """Robertson's reaction, with rates k."""
    a, b, c = y[..., 0], y[..., 1], y[..., 2]
    first, second, third = k[0] * a, k[1] * b * b, k[2] * b * c
    return xp.stack([third - first, first - second - third, second], -1)


def hires(xp, t, y):
    """High irradiance responses of photomorphogenesis."""
    y1, y2, y3, y4, y5, y6, y7, y8 = (y[..., i] for i in range(8))
    pair = 280 * y6 * y8
    return xp.stack(
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


def orego(xp, t, y):
    """The Oregonator."""
    a, b, c = y[..., 0], y[..., 1], y[..., 2]
    return xp.stack([77.27 * (b + a * (1 - 8.375e-6 * a - b)), (c - (1 + a) * b) / 77.27, 0.161 * (a - c)], -1)


def pollu(xp, t, y):
    """The chemistry of polluted air: 25 reactions of 20 species (Verwer 1994)."""
    y1, y2, y3, y4, y5, y6, y7, _, y9, y10, y11, _, y13, y14, _, y16, y17, _, y19, y20 = (y[..., i] for i in range(20))
    r1, r2, r3 = 0.35 * y1, 26.6 * y2 * y4, 1.23e4 * y5 * y2
    r4, r5, r6 = 8.6e-4 * y7, 8.2e-4 * y7, 1.5e4 * y7 * y6
    r7, r8, r9 = 1.3e-4 * y9, 2.4e4 * y9 * y6, 1.65e4 * y11 * y2
    r10, r11, r12 = 9e3 * y11 * y1, 0.022 * y13, 1.2e4 * y10 * y2
    r13, r14, r15 = 1.88 * y14, 1.63e4 * y1 * y6, 4.8e6 * y3
    r16, r17, r18 = 3.5e-4 * y4, 0.0175 * y4, 1e8 * y16
    r19, r20, r21 = 4.44e11 * y16, 1.24e3 * y17 * y6, 2.1 * y19
    r22, r23, r24, r25 = 5.78 * y19, 0.0474 * y1 * y4, 1.78e3 * y19 * y1, 3.12 * y20
    return xp.stack(
        [
            -r1 - r10 - r14 - r23 - r24 + r2 + r3 + r9 + r11 + r12 + r22 + r25,
            -r2 - r3 - r9 - r12 + r1 + r21,
            -r15 + r1 + r17 + r19 + r22,
            -r2 - r16 - r17 - r23 + r15,
            -r3 + 2 * r4 + r6 + r7 + r13 + r20,
            -r6 - r8 - r14 - r20 + r3 + 2 * r18,
            -r4 - r5 - r6 + r13,
            r4 + r5 + r6 + r7,
            -r7 - r8,
            -r12 + r7 + r9,
            -r9 - r10 + r8 + r11,
            r9,
            -r11 + r10,
            -r13 + r12,
            r14,
            -r18 - r19 + r16,
            -r20,
            r20,
            -r21 - r22 - r24 + r23 + r25,
            -r25 + r24,
        ],
        -1,
    )


def prothero_robinson(xp, t, y):
    """Towards cos(t), which the solution is (Prothero & Robinson 1974)."""
    t = _along(t, y)
    return -1e6 * (y - xp.cos(t)) - xp.sin(t)


def _along(t, y):
    """The time of each row beside an entry."""
    return t[..., None] if getattr(t, "ndim", 0) and t.ndim < y.ndim else t


def _concatenated(xp, first, second):
    """One after the other, along the last dimension."""
    return xp.concatenate([first, second], -1)


def _ellipse(eccentricity: float) -> tuple[float, ...]:
    return (1 - eccentricity, 0.0, 0.0, math.sqrt((1 + eccentricity) / (1 - eccentricity)))


_PLANETS_AT_0 = (
    *(3.42947415189, 3.35386959711, 1.35494901715),
    *(6.64145542550, 5.97156957878, 2.18231499728),
    *(11.2630437207, 14.6952576794, 6.27960525067),
    *(-30.1552268759, 1.65699966404, 1.43785752721),
    *(-21.1238353380, 28.4465098142, 15.3882659679),
    *(-0.557160570446, 0.505696783289, 0.230578543901),
    *(-0.415570776342, 0.365682722812, 0.169143213293),
    *(-0.325325669158, 0.189706021964, 0.0877265322780),
    *(-0.0240476254170, -0.287659532608, -0.117219543175),
    *(-0.176860753121, -0.216393453025, -0.0148647893090),
)


def _first_of(n: int) -> tuple[float, ...]:
    return (1.0,) + (0.0,) * (n - 1)


_POLLU_AT_0 = {1: 0.2, 3: 0.04, 6: 0.1, 7: 0.3, 8: 0.01, 16: 0.007}

DETEST = (
    Problem("A1", a1, (1.0,)),
    Problem("A2", a2, (1.0,)),
    Problem("A3", a3, (1.0,)),
    Problem("A4", a4, (1.0,)),
    Problem("A5", a5, (4.0,)),
    Problem("B1", b1, (1.0, 3.0)),
    Problem("B2", b2, (2.0, 0.0, 1.0)),
    Problem("B3", b3, (1.0, 0.0, 0.0)),
    Problem("B4", b4, (3.0, 0.0, 0.0)),
    Problem("B5", b5, (0.0, 1.0, 1.0)),
    Problem("C1", c1, _first_of(10)),
    Problem("C2", c2, _first_of(10)),
    Problem("C3", c3, _first_of(10)),
    Problem("C4", c3, _first_of(51)),
    Problem("C5", c5, _PLANETS_AT_0),
    *(Problem(f"D{i}", orbit, _ellipse(e)) for i, e in enumerate((0.1, 0.3, 0.5, 0.7, 0.9), 1)),
    Problem("E1", e1, (0.6713967071418030, 0.09540051444747446)),
    Problem("E2", van_der_pol, (2.0, 0.0)),
    Problem("E3", e3, (0.0, 0.0)),
    Problem("E4", e4, (30.0, 0.0)),
    Problem("E5", e5, (0.0, 0.0)),
)
"""A: single equations; B: small systems; C: moderate ones; D: orbits; E: equations of higher order."""

STIFF = (
    Problem("rober", rober, (1.0, 0.0, 0.0), 1e5, 1e-4, stiff=True),
    Problem("hires", hires, (1.0, *(0.0,) * 6, 0.0057), 321.8122, 1e-3, stiff=True),
    Problem("orego", orego, (1.0, 2.0, 3.0), 360.0, 1.0, stiff=True),
    Problem("pollu", pollu, tuple(_POLLU_AT_0.get(i, 0.0) for i in range(20)), 60.0, 1e-3, stiff=True),
    Problem("van_der_pol", partial(van_der_pol, mu=1000.0), (2.0, 0.0), 2000.0, 1e-3, stiff=True),
    Problem("prothero_robinson", prothero_robinson, (1.0,), 10.0, stiff=True),
)


def problem(name: str, among: Sequence[Problem] = DETEST + STIFF) -> Problem:
    """The problem of that name."""
    return next(p for p in among if p.name == name)
