"""Makes `testset.json`: the state at the end of each problem of `testset.py`, found in two ways that must agree.

The first is SciPy on the field: DOP853 at 1e-13, for stiff problems Radau at 1e-12 with exact Jacobians. The second is
a closed form in 40 digits where there is one, and is what is kept; elsewhere our own vern9 at 1e-13, for stiff problems
rodas5p at 1e-12. `python benchmarks/references.py` prints by how much the two differ, relative to `scale + |y|`, and
refuses more than 1e-10. It takes two minutes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import mpmath as mp
import numpy as np
import torch
from mpmath import mpf
from scipy.integrate import solve_ivp as scipy_solve_ivp

from testset import DETEST, ENDS, STIFF, Problem
from thalweg import solve_ivp

T = mpf(20)


def spiral() -> list[mpf]:
    """A5: in polar coordinates log r + angle is constant."""

    def left(y):
        return mp.log(mp.hypot(T, y)) + mp.atan2(y, T) - mp.log(4) - mp.pi / 2

    return [mp.findroot(left, mpf("-0.8"))]


def decays(links: int) -> list[mpf]:
    """C1: the Poisson distribution, its tail the last link."""
    found = [mp.exp(-T) * T**j / mp.factorial(j) for j in range(links - 1)]
    return [*found, 1 - mp.fsum(found)]


def faster_decays(links: int) -> list[mpf]:
    """C2: Yule's process."""
    grown = 1 - mp.exp(-T)
    return [*(mp.exp(-T) * grown**j for j in range(links - 1)), grown ** (links - 1)]


def rod(points: int) -> list[mpf]:
    """C3 and C4: sine waves, each with its own decay."""
    angle = mp.pi / (points + 1)
    waves = [(k, mp.sin(k * angle) * mp.exp(-4 * mp.sin(k * angle / 2) ** 2 * T)) for k in range(1, points + 1)]
    return [2 * mp.fsum(a * mp.sin(j * k * angle) for k, a in waves) / (points + 1) for j in range(1, points + 1)]


def ellipse(e: mpf) -> list[mpf]:
    """D: Kepler's equation."""
    anomaly = mp.findroot(lambda x: x - e * mp.sin(x) - T, T)
    cos, sin, minor = mp.cos(anomaly), mp.sin(anomaly), mp.sqrt(1 - e * e)
    return [cos - e, minor * sin, -sin / (1 - e * cos), minor * cos / (1 - e * cos)]


def falling() -> list[mpf]:
    """E4."""
    speed = mp.sqrt(mpf("0.08"))
    rate = mpf("0.4") * speed
    return [30 + mp.log(mp.cosh(rate * T)) / mpf("0.4"), speed * mp.tanh(rate * T)]


def jacobi() -> list[mpf]:
    """B5: the functions that it defines."""
    return [mp.ellipfun(name, T, m=mpf("0.51")) for name in ("sn", "cn", "dn")]


def mixing() -> list[mpf]:
    """B2: two decays."""
    slow, fast = mp.exp(-T) / 2, mp.exp(-3 * T) / 2
    return [1 + slow + fast, 1 - 2 * fast, 1 - slow + fast]


CLOSED: dict[str, Callable[[], list[mpf]]] = {
    "A1": lambda: [mp.exp(-T)],
    "A2": lambda: [1 / mp.sqrt(1 + T)],
    "A3": lambda: [mp.exp(mp.sin(T))],
    "A4": lambda: [20 / (1 + 19 * mp.exp(-T / 4))],
    "A5": spiral,
    "B2": mixing,
    "B4": lambda: [(2 + mp.cos(T)) * mp.cos(T), (2 + mp.cos(T)) * mp.sin(T), mp.sin(T)],
    "B5": jacobi,
    "C1": lambda: decays(10),
    "C2": lambda: faster_decays(10),
    "C3": lambda: rod(10),
    "C4": lambda: rod(51),
    **{f"D{i}": lambda i=i: ellipse(mpf(2 * i - 1) / 10) for i in range(1, 6)},
    "E1": lambda: [mp.besselj(0.5, 1 + T), mp.besselj(0.5, 1 + T, derivative=1)],
    "E4": falling,
    "E5": lambda: [(25 * mp.log(5) - 12) / 2, mpf("2.4")],
    "prothero_robinson": lambda: [mp.cos(10)],
}


def by_scipy(problem: Problem) -> np.ndarray:
    """The first way."""
    tolerance = 1e-12 if problem.stiff else 1e-13
    options = {"rtol": tolerance, "atol": tolerance * problem.scale}
    if problem.stiff:

        def jacobian(t, y):
            return torch.autograd.functional.jacobian(
                lambda y: problem.fun(torch.tensor(t), y), torch.tensor(y)
            ).numpy()

        options["jac"] = jacobian
    method = "Radau" if problem.stiff else "DOP853"
    sol = scipy_solve_ivp(partial(problem.slope, np), problem.t_span, np.array(problem.y0), method, **options)
    assert sol.success, (problem.name, sol.message)
    return sol.y[:, -1]


@torch.no_grad()
def by_thalweg(problem: Problem) -> np.ndarray:
    """The second way, where there is no closed form."""
    method, tolerance = ("rodas5p", 1e-12) if problem.stiff else ("vern9", 1e-13)
    options = {"rtol": tolerance, "atol": tolerance * problem.scale, "max_steps": 10**6}
    return solve_ivp(problem.fun, problem.t_span, problem.state(), method, **options).ys[-1].numpy()


def main() -> None:
    """Find all ends, print by how much the two ways differ, and write them."""
    mp.mp.dps = 40
    ends = {}
    for problem in (*DETEST, *STIFF):
        first = by_scipy(problem)
        closed = problem.name in CLOSED
        second = np.array([float(x) for x in CLOSED[problem.name]()]) if closed else by_thalweg(problem)
        apart = (abs(first - second) / (problem.scale + abs(second))).max()
        print(f"{problem.name:12} {'closed form' if closed else 'thalweg':12} {apart:.1e}", flush=True)
        assert apart < 1e-10, problem.name
        ends[problem.name] = [float(f"{x:.15g}") for x in second]
    lines = (f'  "{name}": {json.dumps(values)}' for name, values in ends.items())
    ENDS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
