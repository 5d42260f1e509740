"""Every method runs at its order: errors shrink with the step as they must."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from problems import FORCED
from thalweg import solve_ivp
from thalweg.methods import methods

METHODS = methods()
INSIDE = torch.tensor([0.171, 0.489, 0.853], dtype=torch.float64)


def slope(steps, errors):
    """The observed order: the slope of error against step in logarithms."""
    return np.polyfit(np.log(steps), np.log(errors), 1)[0]


def sizes(order):
    return [2 / n for n in {1: (400, 800, 1600), 2: (200, 400, 800), 3: (100, 200, 400)}.get(order, (64, 128, 256))]


# Several starts together: where the leading error of one happens to be small, those of the others are not.
STARTS = [(1.0, 0.0), (0.5, 1.0), (-0.7, 0.4), (1.4, -1.0)]
PROBLEMS = [replace(FORCED, y0=y0) for y0 in STARTS]


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_observed_order_is_the_declared_one(method, batching):
    y0 = torch.stack([p.state() for p in PROBLEMS])
    exact = torch.cat([p.reference([2.0]) for p in PROBLEMS])
    errors = [
        (solve_ivp(FORCED.fun, (0, 2), y0, method.name, step_size=h, batching=batching).ys[-1] - exact).norm()
        for h in sizes(method.order)
    ]
    assert abs(slope(sizes(method.order), errors) - method.order) < 0.2


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_observed_order_of_the_interpolant_is_the_declared_one(method):
    """Inside a step of size h from an exact start, an interpolant of order p errs by h^(p + 1)."""
    tableau = method.data
    y0, errors = torch.stack([p.state() for p in PROBLEMS]), []
    steps = [0.1, 0.05, 0.025]
    for h in steps:
        times = INSIDE * h
        got = solve_ivp(FORCED.fun, (0, h), y0, method.name, times, step_size=h).ys
        exact = torch.stack([p.reference(times.tolist()) for p in PROBLEMS], 1)
        errors.append((got - exact).norm())
    assert abs(slope(steps, errors) - (tableau.interpolant_order + 1)) < 0.2


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_observed_order_of_the_solution_between_steps(method):
    """Over a whole solve the error between steps shrinks with the lesser of order and interpolant order + 1."""
    expected = min(method.order, method.data.interpolant_order + 1)
    exact = FORCED.reference(INSIDE)
    steps = sizes(method.order)
    errors = [
        (solve_ivp(FORCED.fun, (0, 2), FORCED.state(), method.name, INSIDE, step_size=h).ys - exact).norm()
        for h in steps
    ]
    assert slope(steps, errors) > expected - 0.3


@pytest.mark.parametrize("method", [m for m in METHODS if m.adaptive], ids=lambda m: m.name)
def test_error_estimates_shrink_with_the_declared_power(method):
    from thalweg.core.field import Field
    from thalweg.core.state import layout_of
    from thalweg.steppers.explicit_rk import ExplicitRK

    layout, y0 = layout_of(FORCED.state(), by_row=False)
    field, stepper = Field(FORCED.fun, (), layout, y0), ExplicitRK(method.data, y0, by_row=False)
    carry = stepper.init(field(torch.tensor(0.0, dtype=y0.dtype), y0))
    steps = [0.1, 0.05, 0.025]
    with torch.no_grad():
        errors = [stepper.step(field, 0.0, h, y0, carry).error.norm() for h in steps]
    assert abs(slope(steps, errors) - method.data.error_order) < 0.2
