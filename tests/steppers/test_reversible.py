"""A reversible method takes the steps of McCallum & Foster, can undo them, and has the order of its method."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from problems import FORCED, PROBLEMS
from thalweg import Reversible, solve_ivp
from thalweg.core.field import Field
from thalweg.core.norms import Tolerance
from thalweg.core.state import layout_of
from thalweg.methods import as_method
from thalweg.steppers.explicit_rk import ExplicitRK
from thalweg.steppers.reversible import ReversibleStepper

F64 = torch.float64
COUPLING = 0.9
STARTS = torch.tensor([(1.0, 0.0), (0.5, 1.0), (-0.7, 0.4), (1.4, -1.0)], dtype=F64)


def made(method, y0, *, by_row=False, coupling=COUPLING, fun=FORCED.fun):
    """A field, and the reversible stepper of a method."""
    layout, y = layout_of(y0, by_row=by_row)
    tableau = as_method(method).data
    tolerance = Tolerance(1e-3, torch.tensor(1e-3))
    return Field(fun, (), layout, y), ReversibleStepper(
        tableau, y, by_row=by_row, tolerance=tolerance, coupling=coupling
    )


def slope(steps, errors):
    return np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("method", ["euler", "rk4", "bosh3", "dopri5", "dopri8"])
def test_steps_are_those_of_the_paper(method, by_row):
    """y' = λ y + (1 - λ) z + Ψ_h(t, z), z' = z - Ψ_{-h}(t + h, y'), whether a graph is recorded or not."""
    field, stepper = made(method, STARTS, by_row=by_row)
    base = ExplicitRK(as_method(method).data, STARTS, by_row=by_row)
    t, h = (
        (torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64), torch.linspace(0.1, 0.2, 4, dtype=F64))
        if by_row
        else (0.3, 0.2)
    )
    y, z = STARTS, STARTS + 0.01 * STARTS.flip(0)

    def moved(t, h, y):
        return base.step(field, t, h, y, None).y - y

    y_new = COUPLING * y + (1 - COUPLING) * z + moved(t, h, z)
    z_new = z - moved(t + h, -h, y_new)
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            step = stepper.step(field, t, h, y, stepper.carry(z - y, False))
        torch.testing.assert_close(step.y, y_new, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(step.y + step.carry[0], z_new, rtol=1e-14, atol=1e-14)


BETWEEN = tuple(torch.linspace(0.011, 1.98, 60, dtype=F64).tolist())
COUNTS = {"euler": (400, 600, 800), "heun2": (100, 150, 200), "bosh3": (100, 150, 200), "rk4": (64, 96, 128)}


@functools.cache
def exact(times):
    return torch.stack([replace(FORCED, y0=tuple(start.tolist())).reference(times) for start in STARTS], 1)


def observed_order(method, coupling, times=(2.0,)):
    steps = [2 / n for n in COUNTS.get(method, (96, 128, 192))]
    errors = []
    with torch.no_grad():
        for h in steps:
            sol = solve_ivp(FORCED.fun, (0, 2), STARTS, method, times, step_size=h, gradient=Reversible(coupling))
            errors.append((sol.ys - exact(times)).norm().item())
    return slope(steps, errors)


@pytest.mark.parametrize("method", ["euler", "heun2", "bosh3", "rk4", "dopri5", "tsit5"])
def test_observed_order_is_that_of_the_method(method):
    """Within 0.2 where a few steps settle how far the states are apart; no lower where they never do."""
    order = as_method(method).order
    assert abs(observed_order(method, 0.5) - order) < 0.2
    assert observed_order(method, 0.999) > order - 0.2


@pytest.mark.parametrize("method", ["bosh3", "rk4", "dopri5", "tsit5"])
def test_observed_order_between_the_steps_is_that_of_the_interpolant(method):
    base = as_method(method)
    assert observed_order(method, 0.5, BETWEEN) > min(base.order, base.data.interpolant_order + 1) - 0.3


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "tsit5", "dopri8"])
def test_error_estimates_shrink_with_the_declared_power(method):
    y0 = FORCED.state()
    field, stepper = made(method, y0)
    largest = 0.08 if method == "dopri8" else 0.04
    steps, errors = [largest, largest / 2, largest / 4], []
    with torch.no_grad():
        for h in steps:
            step = stepper.step(field, 0.0, h, y0, None)
            fine, coarse = (0.0 if e is None else e.norm().item() for e in (step.error, step.error_coarse))
            errors.append(fine**2 / math.hypot(fine, 0.1 * coarse))
    assert abs(slope(steps, errors) - stepper.error_order) < (0.2 if method != "dopri8" else 1.6)


@functools.cache
def end_of(problem):
    return problem.reference([problem.t_span[1]])[0]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_answers_are_as_good_as_those_of_the_method(problem, tolerance):
    """Also where the flow contracts, and the second state would run away: it is joined with the first one then."""
    end = end_of(problem)
    with torch.no_grad():
        sol, plain = (
            solve_ivp(problem.fun, problem.t_span, problem.state(), rtol=tolerance, atol=tolerance, gradient=gradient)
            for gradient in ("reversible", "checkpointed")
        )
    assert (sol.ys[-1] - end).norm() < 6 * (plain.ys[-1] - end).norm() + 30 * tolerance
    assert abs(sol.stats.n_accepted - plain.stats.n_accepted) <= 3 + 0.1 * plain.stats.n_accepted


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("method", ["euler", "tsit5"])
@pytest.mark.parametrize(("dtype", "bound"), [(F64, 1e-12), (torch.float32, 1e-4), (torch.complex128, 1e-12)])
def test_undoing_hundreds_of_steps_comes_back_to_rounding(method, by_row, dtype, bound):
    """Of sizes that vary, forward and backward in time."""
    y0 = STARTS.to(dtype)
    field, stepper = made(method, y0, by_row=by_row, coupling=0.999)
    spread = torch.linspace(0.9, 1.1, 4, dtype=F64) if by_row else 1.0
    t, y, apart, taken = 0.0 * spread, y0, torch.zeros_like(y0), []
    with torch.no_grad():
        for n in range(200):
            h = (0.02 + 0.01 * math.sin(n)) * spread * (1 if n < 150 else -1)
            step = stepper.step(field, t, h, y, stepper.carry(apart, False))
            taken.append((t, h))
            t, y, apart = t + h, step.y, step.carry[0]
        assert (y - y0).norm() > 0.1
        for t, h in reversed(taken):
            y, apart = stepper.reverse(field, t, h, y, apart)
    torch.testing.assert_close(y, y0, rtol=bound, atol=bound)
    torch.testing.assert_close(apart, torch.zeros_like(y0), rtol=0, atol=bound)


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("method", ["rk4", "bosh3", "tsit5", "dopri8"])
def test_the_solution_inside_a_step_joins_its_ends(method, by_row):
    field, stepper = made(method, STARTS, by_row=by_row)
    apart = 0.01 * STARTS.flip(0)
    t, h = (torch.zeros(4, dtype=F64), torch.full((4,), 0.1, dtype=F64)) if by_row else (0.0, 0.1)
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            step = stepper.step(field, t, h, STARTS, stepper.carry(apart, False))
            step = stepper.extend(field, t, h, STARTS, step)
            ends = [
                stepper.interpolate(step, STARTS, h, torch.full((4 if by_row else 1,), x, dtype=F64)) for x in (0, 1)
            ]
        assert len(step.stages) == stepper.stages
        torch.testing.assert_close(ends[0].view_as(STARTS), STARTS, rtol=0, atol=0)
        torch.testing.assert_close(ends[1].view_as(STARTS), step.y, rtol=1e-13, atol=1e-13)


def test_a_step_takes_twice_the_evaluations_of_its_method_but_one_that_is_first_in_the_next():
    for method, fixed, expected in (("tsit5", False, 13), ("tsit5", True, 12), ("rk4", True, 8)):
        options = {"step_size": 0.1} if fixed else {"rtol": 1e-5, "first_step": 0.1}
        with torch.no_grad():
            sol = solve_ivp(FORCED.fun, (0.0, 1.0), FORCED.state(), method, gradient="reversible", **options)
        assert sol.stats.nfev == expected * sol.stats.n_steps


@pytest.mark.parametrize("recorded", [False, True])
def test_a_step_that_cannot_be_undone_is_rejected(recorded):
    """The method never looks at the field where the step ends, but its step back does."""
    field, stepper = made("ralston", STARTS, fun=lambda t, y: torch.where(t > 0.5, torch.nan, -y))
    with torch.set_grad_enabled(recorded):
        step = stepper.step(field, 0.0, 0.6, STARTS, None)
    assert torch.isfinite(step.y).all()
    assert torch.isnan(step.error).all()


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_dense_output_goes_through_the_outputs(batching):
    times = torch.linspace(0, 2, 9, dtype=F64)
    options = {"rtol": 1e-5, "batching": batching, "gradient": "reversible"}
    with torch.no_grad():
        dense = solve_ivp(FORCED.fun, (0, 2), STARTS, dense_output=True, **options)
        ys = solve_ivp(FORCED.fun, (0, 2), STARTS, t_eval=times, **options).ys
    torch.testing.assert_close(dense(times), ys, rtol=1e-12, atol=1e-12)
