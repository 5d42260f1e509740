"""Every method runs at its order: errors shrink with the step as they must."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pairs import solve, taken
from problems import FORCED
from thalweg.core.field import FIELDS
from thalweg.core.norms import Tolerance
from thalweg.core.state import layout_of
from thalweg.methods import methods
from thalweg.methods.adams import VariableAdams
from thalweg.steppers.choose import stepper_for

METHODS = [m for m in methods() if not isinstance(m.data, VariableAdams)]  # those of one order
MANY = torch.linspace(0.011, 1.98, 60, dtype=torch.float64)
INSIDE = torch.tensor([0.171, 0.489, 0.853], dtype=torch.float64)


SOLVED = {"rtol": 1e-13, "atol": 1e-13}  # the equations of implicit steps


def slope(steps, errors):
    """The observed order: the slope of error against step in logarithms."""
    return np.polyfit(np.log(steps), np.log(errors), 1)[0]


def agrees(observed, declared):
    """Within 0.2; above order 7 perhaps more, as rounding hides the step sizes at which an order shows as it is.

    That such an order is no higher is proven by the conditions on its coefficients.
    """
    return -0.2 < observed - declared < (0.2 if declared <= 7 else 1.6)


def sizes(method):
    """The step sizes over two units of time at which an order shows, where stages are solved for sooner."""
    counts = {1: (100, 200, 400), 2: (50, 100, 200), 3: (25, 50, 100)}
    counts |= {6: (16, 24, 32), 7: (12, 18, 24), 8: (6, 9, 12)}
    usual = (16, 32, 64) if method.kind in ("dirk", "firk", "imex") else (64, 128, 256)
    return [2 / n for n in counts.get(min(method.order, 8), usual)]


# Several starts together: where the leading error of one happens to be small, those of the others are not.
STARTS = [(1.0, 0.0), (0.5, 1.0), (-0.7, 0.4), (1.4, -1.0)]
PROBLEMS = [replace(FORCED, y0=y0) for y0 in STARTS]


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_observed_order_is_the_declared_one(method, batching):
    """At the end; between steps the error shrinks with the lesser of order and interpolant order + 1."""
    y0 = torch.stack([p.state() for p in PROBLEMS])
    exact = torch.stack([p.reference([*MANY, 2.0]) for p in PROBLEMS], 1)
    steps, ends, between = sizes(method), [], []
    for h in steps:
        options = {"step_size": h, "batching": batching, "dense_output": True, **SOLVED}
        sol = solve(FORCED.fun, (0, 2), y0, method.name, **options)
        ends.append((sol.ys[-1] - exact[-1]).norm())
        states = sol(MANY)
        between.append(((states[0] if method.pair == "separable" else states) - exact[:-1]).norm())
    assert agrees(slope(steps, ends), method.order)
    assert slope(steps, between) > min(method.order, method.data.interpolant_order + 1) - 0.3


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_observed_order_of_the_interpolant_is_the_declared_one(method):
    """Inside a step of size h from an exact start, an interpolant of order p errs by h^(p + 1)."""
    y0, errors = torch.stack([p.state() for p in PROBLEMS]), []
    steps = [0.1, 0.05, 0.025] if method.order < 7 else [0.4, 0.28, 0.2]
    if method.pair == "separable":  # the end errs by a higher power, but by more until steps are short
        steps = [h / 4 for h in steps]
    for h in steps:
        times = INSIDE * h
        got = solve(FORCED.fun, (0, h), y0, method.name, times, step_size=h, **SOLVED).ys
        exact = torch.stack([p.reference(times.tolist()) for p in PROBLEMS], 1)
        errors.append((got - exact).norm())
    assert agrees(slope(steps, errors), method.data.interpolant_order + 1)


@pytest.mark.parametrize("method", [m for m in METHODS if m.adaptive], ids=lambda m: m.name)
def test_error_estimates_shrink_with_the_declared_power(method):
    fun, y0 = taken(FORCED.fun, FORCED.state(), method.name)
    layout, y0 = layout_of(y0, by_row=False)
    field = FIELDS[method.pair](fun, (), layout, y0)
    stepper = stepper_for(method.data, y0, by_row=False, tolerance=Tolerance(1e-13, 1e-13))
    carry = stepper.init(field(torch.tensor(0.0, dtype=y0.dtype), y0))
    largest = 0.2 if method.name in ("vern8", "vern9") else 0.08 if method.order > 5 else 0.04  # rounding comes early
    steps = [largest, largest / 2, largest / 4]
    errors = []
    with torch.no_grad():
        for h in steps:
            step = stepper.step(field, 0.0, h, y0, carry)
            fine, coarse = (0.0 if e is None else e.norm().item() for e in (step.error, step.error_coarse))
            errors.append(fine**2 / math.hypot(fine, 0.1 * coarse))
    assert agrees(slope(steps, errors), stepper.error_order)
