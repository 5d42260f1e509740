"""The pair that changes between its methods: the right one at the right time, each row by itself."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp as scipy_solve_ivp

from gradient_checks import give_room
from problems import F64, FORCED, PROBLEMS, rober
from testset import STIFF
from thalweg import Event, solve_ivp
from thalweg.core.field import Field
from thalweg.core.norms import Tolerance
from thalweg.core.state import layout_of
from thalweg.methods.auto import AUTO, Switching
from thalweg.methods.explicit import BOSH3, RK4, TSIT5
from thalweg.methods.rosenbrock import RODAS5P
from thalweg.steppers.auto import AutoStepper

BATCHINGS = ["joint", "per_sample"]


@pytest.mark.parametrize("tolerance", [1e-3, 1e-7])
@pytest.mark.parametrize("problem", [*PROBLEMS, FORCED], ids=lambda p: p.name)
def test_where_nothing_is_stiff_it_is_tsit5(problem, tolerance):
    """Its states between steps and its costs, of which none is a Jacobian."""
    options = {"rtol": tolerance, "atol": tolerance, "controller": "i", "backend": "eager"}
    t_eval = torch.linspace(*problem.t_span, 17, dtype=F64)
    one, other = (
        solve_ivp(problem.fun, problem.t_span, problem.state(), method, t_eval, **options)
        for method in ("tsit5", "auto")
    )
    assert (other.stats.nfev, other.stats.n_steps, other.stats.njev) == (one.stats.nfev, one.stats.n_steps, 0)
    torch.testing.assert_close(other.ys, one.ys, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("problem", STIFF, ids=lambda p: p.name)
def test_stiff_problems_at_the_cost_of_the_stiff_method(problem, batching):
    """To the tolerance, with at most half as much again as rodas5p takes, and the few steps that see the stiffness."""
    rtol = 1e-5
    options = {"rtol": rtol, "atol": rtol * problem.scale, "batching": batching}
    auto, stiff = (
        solve_ivp(problem.fun, problem.t_span, problem.state()[None], method, **options)
        for method in ("auto", "rodas5p")
    )
    exact = problem.end
    assert ((auto.ys[-1, 0] - exact).abs() / (rtol * problem.scale + rtol * exact.abs())).max() < 5
    cost, least = (int(sol.stats.nfev + len(problem.y0) * sol.stats.njev) for sol in (auto, stiff))
    assert cost < 1.5 * least + 200
    assert auto.stats.njev > 0


def turns(t, y):
    """Relaxation to cos(t), a thousand times faster after t = 1 than before, and slow again after t = 2."""
    rate = torch.where((t > 1) & (t < 2), 2e4, 2.0)
    return -rate * (y - torch.cos(t)) - torch.sin(t)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_it_goes_over_and_comes_back(batching):
    """Jacobians where the field is stiff, and none long before and after."""
    calls = []

    def jac(t, y):
        calls.append(t.detach().max().item())
        rate = torch.where((t > 1) & (t < 2), 2e4, 2.0)
        eye = torch.eye(2, dtype=F64)
        return -rate * eye if batching == "joint" else -rate.reshape(-1, 1, 1) * eye

    y0 = torch.tensor([[0.5, 1.5]], dtype=F64) if batching == "per_sample" else torch.tensor([0.5, 1.5], dtype=F64)
    t_eval = torch.linspace(0.0, 40.0, 301, dtype=F64)
    sol = solve_ivp(turns, (0.0, 40.0), y0, "auto", t_eval, jac=jac, batching=batching, rtol=1e-6, atol=1e-6)
    assert calls
    assert min(calls) > 1.0
    assert max(calls) < 10.0
    exact = t_eval.cos()[:, None]
    late = t_eval > 8
    assert (sol.ys.reshape(-1, 2)[late] - exact[late]).abs().max() < 1e-5
    between = (t_eval > 1.1) & (t_eval < 2)
    assert (sol.ys.reshape(-1, 2)[between] - exact[between]).abs().max() < 1e-5


def test_evaluations_are_counted_where_it_changes():
    """All of them, as each Jacobian comes from an evaluation that is a stage too."""
    calls = []

    def field(t, y):
        calls.append(1)
        return turns(t, y)

    sol = solve_ivp(field, (0.0, 40.0), torch.tensor([0.5, 1.5], dtype=F64), "auto", rtol=1e-6, atol=1e-6)
    assert sol.stats.nfev == len(calls)
    assert 0 < sol.stats.njev < sol.stats.n_steps


def test_rows_that_are_stiff_and_rows_that_are_not():
    """Each row's answer, steps and costs are those it has alone; those of rows that are not stiff are tsit5's."""
    rates = torch.tensor([[1.0], [1e5], [3.0], [300.0], [2e3]], dtype=F64)
    y0 = torch.tensor([[1.0], [2.0], [0.3], [0.5], [1.5]], dtype=F64)
    t_eval = torch.tensor([0.3, 1.7, 3.0], dtype=F64)
    options = {"rtol": 1e-5, "atol": 1e-7, "batching": "per_sample"}

    def field(t, y, rate):
        return -rate * (y - torch.cos(t)) - torch.sin(t)

    def solve(rows, method="auto"):
        return solve_ivp(field, (0.0, 3.0), y0[rows], method, t_eval, args=(rates[rows],), **options)

    together = solve([0, 1, 2, 3, 4])
    assert together.stats.njev[[0, 2]].tolist() == [0, 0]
    assert (together.stats.njev[[1, 3, 4]] > 0).all()
    assert len(set(together.stats.n_steps.tolist())) > 2
    for row in range(5):
        alone = solve([row])
        torch.testing.assert_close(together.ys[:, row], alone.ys[:, 0], rtol=1e-10, atol=1e-12)
        for count in ("n_steps", "n_accepted", "nfev", "njev", "nlu"):
            assert getattr(together.stats, count)[row] == getattr(alone.stats, count)[0], count
    calm = solve([0, 2], "tsit5")
    torch.testing.assert_close(together.ys[:, [0, 2]], calm.ys, rtol=1e-11, atol=1e-12)
    assert torch.equal(together.stats.nfev[[0, 2]], calm.stats.nfev)
    assert (together.ys[-1] - ((y0 - 1) * torch.exp(-3 * rates) + math.cos(3.0))).abs().max() < 1e-5


@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
def test_rows_that_leave_the_batch_change_nothing(gradient):
    """With tolerances of their own, and ends at different times."""
    rates = torch.tensor([[1.0], [1e5], [3.0], [300.0]], dtype=F64)
    rtol = torch.tensor([[1e-3], [1e-4], [1e-6], [1e-5]], dtype=F64)
    ends = torch.tensor([2.0, 0.5, 0.1, 3.0], dtype=F64)
    share = torch.tensor([0.2, 0.6, 1.0], dtype=F64)[:, None]

    def solve(shrink):
        y0 = torch.tensor([[1.0], [2.0], [0.3], [0.5]], dtype=F64, requires_grad=True)
        sol = solve_ivp(
            lambda t, y, rate: -rate * (y - torch.cos(t)),
            (0.0, ends),
            y0,
            "auto",
            share * ends,
            args=(rates,),
            rtol=rtol,
            atol=1e-7,
            batching="per_sample",
            gradient=gradient,
            shrink=shrink,
        )
        return sol, torch.autograd.grad(sol.ys.square().sum(), [y0])[0]

    (one, to_one), (other, to_other) = solve(False), solve(True)
    torch.testing.assert_close(one.ys, other.ys, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(to_one, to_other, rtol=1e-9, atol=1e-12)
    for count in ("n_steps", "nfev", "njev"):
        assert torch.equal(getattr(one.stats, count), getattr(other.stats, count))
    assert (one.stats.njev > 0).tolist() == [False, True, False, True]


def test_states_and_events_inside_steps_of_either_kind():
    """Dense output and event times of van der Pol's slow parts and of its jumps, against Radau."""
    problem = next(p for p in STIFF if p.name == "van_der_pol")
    options = {"rtol": 1e-5, "atol": 1e-8}
    crossing = Event(lambda t, y: y[0])
    sol = solve_ivp(problem.fun, (0.0, 1700.0), problem.state(), "auto", events=crossing, dense_output=True, **options)
    reference = scipy_solve_ivp(
        lambda t, y: [y[1], 1000 * (1 - y[0] ** 2) * y[1] - y[0]],
        (0, 1700),
        problem.y0,
        "Radau",
        dense_output=True,
        events=lambda t, y: y[0],
        rtol=1e-8,
        atol=1e-11,
    )
    assert len(sol.t_events[0]) == 2
    times = torch.tensor(reference.t_events[0], dtype=F64)
    torch.testing.assert_close(sol.t_events[0], times, rtol=1e-4, atol=0)
    calm = torch.linspace(0, 700, 83, dtype=F64)
    assert (sol(calm)[:, 0] - torch.from_numpy(reference.sol(calm.numpy())[0])).abs().max() < 1e-5


class Mixed(torch.nn.Module):
    """Linear parts of very different rates, a nonlinear one, and time."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(0.3 * torch.randn(2, 2, dtype=F64))

    def forward(self, t, y, rate):
        return torch.tanh(y @ self.weight + t) - rate * (y - torch.sin(t))


@pytest.mark.parametrize("ample", [True, False], ids=["recorded", "computed again"])
@pytest.mark.parametrize("outputs", [False, True], ids=["end", "t_eval"])
@pytest.mark.parametrize("batching", BATCHINGS)
def test_gradients_through_both_methods_and_the_changes(batching, outputs, ample, monkeypatch):
    """Fixed steps, some rows stiff with them: those of finite differences of what was computed, by both ways."""
    if not ample:
        give_room(monkeypatch, 0)
    field, y0 = Mixed(), torch.randn(3, 2, dtype=F64)
    rate = torch.tensor([[1.0], [90.0], [5.0]], dtype=F64).expand(3, 2).clone()
    t0, t1 = torch.tensor(0.0, dtype=F64), torch.tensor(0.97, dtype=F64)
    t_eval = torch.tensor([0.11, 0.54, 0.96], dtype=F64) if outputs else None
    sources = [field.weight, rate, y0, t0, t_eval if outputs else t1]
    for x in sources:
        x.requires_grad_()

    def loss(gradient):
        sol = solve_ivp(
            field, (t0, t1), y0, "auto", t_eval, args=(rate,), step_size=0.04, batching=batching, gradient=gradient
        )
        loss.njev = torch.as_tensor(sol.stats.njev)
        return sol.ys.sin().sum()

    found = {way: torch.autograd.grad(loss(way), sources) for way in ("direct", "checkpointed")}
    assert loss.njev.max() > 0
    assert loss.njev.max() < 24 if batching == "joint" else loss.njev.tolist()[0] == 0
    for i, x in enumerate(sources):
        direction, values = torch.randn(x.shape, dtype=F64), []
        for sign in (1, -2, 1):  # ahead, behind, and back
            with torch.no_grad():
                x += sign * 1e-6 * direction
                values.append(loss("direct").item())
        expected = (values[0] - values[1]) / 2e-6
        for way, gradients in found.items():
            assert (gradients[i] * direction).sum().item() == pytest.approx(expected, rel=1e-6, abs=1e-6), (way, i)
        torch.testing.assert_close(found["direct"][i], found["checkpointed"][i], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ample", [True, False], ids=["recorded", "computed again"])
def test_gradients_of_a_reaction(ample, monkeypatch):
    """To the rates of a reaction, by finite differences."""
    if not ample:
        give_room(monkeypatch, 0)
    log_rates = torch.tensor([0.04, 3e7, 1e4], dtype=F64).log().requires_grad_()

    def end(log_rates, gradient="checkpointed"):
        y0 = torch.tensor([1.0, 0.0, 0.0], dtype=F64)
        options = {"rtol": 1e-7, "atol": 1e-11, "gradient": gradient}
        return solve_ivp(rober, (0.0, 40.0), y0, "auto", args=(log_rates.exp(),), **options).ys[-1, 0]

    (found,) = torch.autograd.grad(end(log_rates), [log_rates])
    (direct,) = torch.autograd.grad(end(log_rates, "direct"), [log_rates])
    torch.testing.assert_close(found, direct, rtol=1e-9, atol=1e-12)
    for j in range(3):
        step = torch.zeros(3, dtype=F64)
        step[j] = 1e-3
        with torch.no_grad():
            expected = (end(log_rates + step) - end(log_rates - step)) / 2e-3
        torch.testing.assert_close(found[j], expected, rtol=1e-3, atol=1e-6)


def test_failed_rows_change_nothing_for_the_others():
    """Among stiff ones and ones that are not; in values and in the gradient to what they share."""
    starts = torch.tensor([[0.5, 0.0], [1.0, 1.0], [1.0, 2.0], [math.nan, 0.0], [-1.0, 0.0]], dtype=F64)

    def field(t, y, k):
        z, kind = y.unbind(-1)
        well = -k * z + torch.sin(t[:, 0])
        slope = torch.where(kind == 1, torch.where(t[:, 0] > 0.5, torch.nan, 5000 * (1 - z)), well)
        slope = torch.where(kind == 2, k * torch.where(kind == 2, z, 0.0) ** 2, slope)
        return torch.stack([slope, torch.zeros_like(z)], -1)

    def found(rows):
        k = torch.tensor(3.0, dtype=F64, requires_grad=True)
        sol = solve_ivp(field, (0.0, 1.0), starts[rows], "auto", args=(k,), batching="per_sample", on_failure="return")
        return torch.autograd.grad(sol.ys[-1, sol.success].square().sum(), [k])[0], sol.success.tolist()

    among, success = found([0, 1, 2, 3, 4])
    assert success == [True, False, False, False, True]
    torch.testing.assert_close(among, found([0, 4])[0], rtol=1e-10, atol=0)


def test_the_stability_limit_is_that_of_the_polynomial():
    """On dy/dt = -x y a step of size 1 shrinks y below the limit and not above; rk4's is 2.785."""
    assert Switching(TSIT5, RODAS5P).limit == AUTO.limit == pytest.approx(3.5068, abs=1e-4)
    for x, stable in ((0.999 * AUTO.limit, True), (1.001 * AUTO.limit, False)):
        sol = solve_ivp(lambda t, y, x=x: -x * y, (0, 1), torch.ones(1, dtype=F64), "tsit5", step_size=1.0)
        assert bool(sol.ys[-1].abs() <= 1) == stable


@pytest.mark.parametrize(
    ("explicit", "message"), [(RK4, "last two stages"), (BOSH3, "last two stages")], ids=["rk4", "bosh3"]
)
def test_a_pair_that_does_not_fit_is_refused(explicit, message):
    with pytest.raises(ValueError, match=message):
        Switching(explicit, RODAS5P)


@pytest.mark.parametrize("seed", range(3))
def test_the_radius_is_near_the_largest_eigenvalue_and_above(seed):
    """Of J with entries of any scale, which the tolerance evens out."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(2, 5, 5, dtype=F64, generator=generator)
    scales = torch.logspace(-4, 4, 5, dtype=F64)
    matrix = matrix * scales[:, None] / scales  # similar to what it was
    y = scales.repeat(2, 1)
    layout, _ = layout_of(y, by_row=True)
    stepper = AutoStepper(AUTO, y, by_row=True, tolerance=Tolerance(1e-3, torch.tensor(0.0, dtype=F64)))
    field = Field(lambda t, y: (matrix @ y.unsqueeze(-1)).squeeze(-1), (), layout, y)
    one = torch.ones(2, dtype=F64)
    with torch.no_grad():
        stepper.step(field, one, 0.1 * one, y, (y, torch.tensor([-1, -1])))
        radius = stepper._radius(y)
    exact = torch.linalg.eigvals(matrix).abs().amax(-1)
    assert (radius >= exact * (1 - 1e-12)).all()
    assert (radius < 2 * exact).all()
