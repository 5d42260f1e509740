"""The stabilised method: few evaluations where explicit ones need many, and each row with stages of its own."""

import math
from itertools import pairwise

import pytest
import torch

from gradient_checks import assert_rows_that_fail_are_not_felt, differences_along, give_room
from thalweg import Status, solve_ivp
from thalweg.core.field import Field as CoreField
from thalweg.core.norms import Tolerance
from thalweg.core.state import layout_of
from thalweg.methods.rkc import Stabilised
from thalweg.steppers.rkc import StabilisedStepper

F64 = torch.float64
BATCHINGS = ["joint", "per_sample"]


def laplacian(y):
    """Of the values inside [0, 1], which is 0 at both ends."""
    n = y.shape[-1]
    padded = torch.nn.functional.pad(y, (1, 1))
    return (padded[..., 2:] - 2 * y + padded[..., :-2]) * (n + 1) ** 2


def heat(t, y, rate):
    return rate * laplacian(y)


def mode(m, n=200):
    """The m-th eigenvector of the Laplacian, and the size of its eigenvalue."""
    x = torch.arange(1, n + 1, dtype=F64) / (n + 1)
    return torch.sin(m * math.pi * x), 4 * (n + 1) ** 2 * math.sin(m * math.pi / (2 * n + 2)) ** 2


def exact_heat(t, rate):
    (first, slow), (third, fast) = mode(1), mode(3)
    return math.exp(-rate * slow * t) * first + 0.5 * math.exp(-rate * fast * t) * third


class TestHeat:
    @pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
    def test_far_fewer_evaluations_than_runge_kutta(self, tolerance):
        """200 points: tsit5 is held to h < 3e-5 by stability, however smooth the solution."""
        y0, t_eval = exact_heat(0.0, 1.0), torch.tensor([0.03, 0.1], dtype=F64)
        sol = solve_ivp(heat, (0.0, 0.1), y0, "rkc", t_eval, args=(1.0,), rtol=tolerance, atol=tolerance)
        exact = torch.stack([exact_heat(t, 1.0) for t in t_eval.tolist()])
        assert (sol.ys - exact).abs().max() < 10 * tolerance
        assert sol.stats.n_rejected < 3
        # tsit5 is not stable beyond -4.5: so many steps at the least, of six evaluations each
        least = 6 * 0.1 * mode(200)[1] / 4.5
        assert sol.stats.nfev < 0.08 * least

    def test_tsit5_needs_what_stability_says(self):
        """What the bound above rests on, over a shorter time."""
        y0 = exact_heat(0.0, 1.0)
        sol = solve_ivp(heat, (0.0, 0.01), y0, "tsit5", args=(1.0,), rtol=1e-3, atol=1e-3)
        assert sol.stats.nfev > 6 * 0.01 * mode(200)[1] / 4.5

    @pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 1], [2, 2, 0]])
    def test_each_row_is_the_row_alone(self, rows):
        """Diffusivities from none to much, so that stages differ by a factor of ten."""
        rate = torch.tensor([[0.01], [1.0], [0.2], [0.0]], dtype=F64)
        y0 = exact_heat(0.0, 1.0)

        def solve(rows, batching="per_sample"):
            return solve_ivp(
                heat, (0.0, 0.1), y0.expand(len(rows), -1), "rkc", [0.03, 0.1], args=(rate[rows],), rtol=1e-4,
                atol=1e-4, batching=batching,
            )  # fmt: skip

        together = solve(rows)
        for place, row in enumerate(rows):
            for alone in (solve([row]), solve([row], "joint")):
                torch.testing.assert_close(together.ys[:, place], alone.ys[:, 0], rtol=0, atol=1e-12)
                for count in ("n_steps", "nfev", "n_accepted"):
                    assert int(getattr(together.stats, count)[place]) == int(getattr(alone.stats, count)), count
            exact = torch.stack([exact_heat(t, rate[row].item()) for t in (0.03, 0.1)])
            assert (together.ys[:, place] - exact).abs().max() < 1e-3

    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_every_evaluation_is_counted(self, batching):
        calls = []

        def field(t, y):
            calls.append(t)
            return heat(t, y, 0.3)

        y0 = exact_heat(0.0, 1.0).unsqueeze(0)
        sol = solve_ivp(field, (0.0, 0.05), y0, "rkc", batching=batching)
        assert int(sol.stats.nfev) == len(calls)

    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_order_two_where_it_is_stiff(self, batching):
        """Steps far beyond the stability of explicit methods, with a source that moves."""
        shape, slow = mode(1)

        def field(t, y):
            return laplacian(y) + (torch.cos(t) + slow * torch.sin(t)) * shape  # y = sin(t) shape

        errors = []
        for size in (0.05, 0.025, 0.0125):
            y0 = torch.zeros(1, 200, dtype=F64)
            sol = solve_ivp(field, (0.0, 1.0), y0, "rkc", step_size=size, batching=batching)
            errors.append((sol.ys[-1] - math.sin(1.0) * shape).abs().max().item())
        orders = [math.log2(a / b) for a, b in pairwise(errors)]
        assert min(orders) > 1.8
        assert max(orders) < 2.3


class TestRadius:
    """The spectral radius, found on the way."""

    def stepper_and_field(self, y, fun):
        layout, _ = layout_of(y, by_row=False)
        stepper = StabilisedStepper(Stabilised(), y, by_row=False, tolerance=Tolerance(1e-6, 1e-6))
        return stepper, CoreField(fun, (), layout, y)

    @pytest.mark.parametrize("points", [1, 2, 5, 20, 100, 1000])
    @pytest.mark.parametrize("start", ["an eigenvector", "rough", "zero"])
    def test_is_found_from_any_start(self, points, start):
        """From the lowest mode alone too, which is an eigenvector; afterwards one evaluation a step goes on with it."""
        lowest, _ = mode(1, points)
        y = {"an eigenvector": lowest, "rough": torch.randn(points, dtype=F64), "zero": 0 * lowest}[start]
        stepper, field = self.stepper_and_field(y, lambda t, y: laplacian(y))
        true, carry = mode(points, points)[1], stepper.init(laplacian(y))
        found = []
        with torch.no_grad():
            for _ in range(6):
                step = stepper.step(field, 0.0, 0.0, y, carry)
                carry = step.carry
                found.append((carry[1].item() / true, step.nfev - 2))
        assert all(0.9 < radius < 1.02 for radius, _ in found)
        assert found[0][1] <= 12
        assert all(evaluations == 1 for _, evaluations in found[2:])

    def test_follows_a_field_that_becomes_stiff(self):
        """Diffusion that grows a thousandfold on the way, and one that grows with the state."""
        y0 = mode(1, 50)[0]
        slow = mode(1, 50)[1]

        def growing(t, y):
            return 10 ** (3 * t) * 0.001 * laplacian(y)

        sol = solve_ivp(growing, (0.0, 1.0), y0, "rkc", rtol=1e-5, atol=1e-5)
        exact = torch.exp(torch.tensor(-slow * 0.999 / (3 * math.log(10)))) * y0
        assert (sol.ys[-1] - exact).abs().max() < 1e-4
        assert sol.stats.n_rejected < 10

    def test_of_what_swings_is_not_sought_for_ever(self):
        """Eigenvalues -3 ± 30 i: the radius is no less than theirs, at few evaluations a step."""
        matrix = torch.tensor([[-3.0, 90.0], [-10.0, -3.0]], dtype=F64)
        y = torch.tensor([1.0, 0.0], dtype=F64)
        stepper, field = self.stepper_and_field(y, lambda t, y: matrix @ y)
        carry = stepper.init(matrix @ y)
        with torch.no_grad():
            for i in range(20):
                step = stepper.step(field, 0.0, 0.0, y, carry)
                carry = step.carry
                assert carry[1] > 0.9 * math.hypot(3, 30)
                assert i == 0 or step.nfev <= 2 + 3

    def test_of_a_field_that_does_not_depend_on_the_state(self):
        sol = solve_ivp(lambda t, y: torch.cos(t) + 0 * y, (0.0, 2.0), torch.zeros(3, dtype=F64), "rkc", rtol=1e-6)
        torch.testing.assert_close(sol.ys[-1], torch.full((3,), math.sin(2.0), dtype=F64), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_of_a_field_that_vanishes(self, batching):
        y0 = torch.tensor([[0.0, 1.0], [2.0, 0.0]], dtype=F64)
        sol = solve_ivp(lambda t, y: 0 * y, (0.0, 2.0), y0, "rkc", batching=batching)
        assert torch.equal(sol.ys[-1], y0)


class TestBound:
    """More stages than their rounding allows are no way: such a step is rejected."""

    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_single_precision_takes_smaller_steps_instead(self, batching):
        """29 stages at 1e-3: steps of 550 over the radius, and not of 1e5 over it as the tolerance would allow."""
        y0 = exact_heat(0.0, 1.0).float().unsqueeze(0)
        sol = solve_ivp(heat, (0.0, 0.05), y0, "rkc", args=(1.0,), batching=batching)
        assert sol.ys.dtype == torch.float32
        assert (sol.ys[-1, 0].double() - exact_heat(0.05, 1.0)).abs().max() < 3e-3
        assert int(sol.stats.nfev) > int(sol.stats.n_steps) * 10

    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_a_fixed_step_that_needs_more_is_a_status(self, batching):
        y0 = exact_heat(0.0, 1.0).float().unsqueeze(0)
        sol = solve_ivp(heat, (0.0, 1.0), y0, "rkc", args=(1.0,), step_size=0.5, batching=batching, on_failure="return")
        assert int(sol.status) == Status.NOT_CONVERGED


class Field(torch.nn.Module):
    """Diffusion and a reaction that depends on time and on parameters."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(6, 6, dtype=F64))

    def forward(self, t, y, k):
        return k * laplacian(y) + torch.tanh(y @ self.weight + t)


@pytest.mark.parametrize("outputs", [False, True], ids=["end", "t_eval"])
@pytest.mark.parametrize("batching", BATCHINGS)
class TestGradients:
    """Those of finite differences; the numbers of stages, which differ by row, are constants."""

    def problem(self, outputs, back=False):
        """What a loss depends on, and the loss by some method and gradient."""
        field = Field()
        y0, k = torch.randn(3, 6, dtype=F64), torch.tensor([[0.2], [0.02], [0.05]], dtype=F64)
        t0, t1 = torch.tensor(0.2, dtype=F64), torch.tensor(0.9, dtype=F64)
        t_eval = torch.tensor([0.31, 0.54, 0.87], dtype=F64) if outputs else None
        if back:
            t0, t1, t_eval = t1, t0, None if t_eval is None else t_eval.flip(0)
            k = -k
        sources = [field.weight, k, y0, t0, t_eval if outputs else t1]
        for x in sources:
            x.requires_grad_()

        def loss(method, **options):
            return solve_ivp(field, (t0, t1), y0, method, t_eval, args=(k,), **options).ys.sin().sum()

        return sources, loss

    @pytest.mark.parametrize("ample", [True, False], ids=["recorded", "computed again"])
    @pytest.mark.parametrize("back", [False, True], ids=["forward", "back"])
    def test_of_fixed_steps_are_exact(self, batching, outputs, ample, back, monkeypatch):
        """However coarse: the derivative of what was computed, and the last step is a shorter one."""
        if not ample:
            give_room(monkeypatch, 0)
        sources, loss = self.problem(outputs, back)
        options = {"step_size": 0.16, "batching": batching}
        found, direct = (
            torch.autograd.grad(loss("rkc", gradient=way, **options), sources) for way in ("checkpointed", "direct")
        )
        for i, x in enumerate(sources):
            torch.testing.assert_close(found[i], direct[i], rtol=1e-10, atol=1e-11)
            ways, expected = differences_along(lambda: loss("rkc", **options), x, eps=2e-6)
            assert (ways @ found[i].flatten() - expected).norm() < 1e-7 * (1 + expected.norm()), f"source {i}"

    def test_of_adaptive_steps_are_the_flows(self, batching, outputs):
        sources, loss = self.problem(outputs)
        options = {"rtol": 1e-6, "atol": 1e-6, "batching": batching}
        found, direct = (
            torch.autograd.grad(loss("rkc", gradient=way, **options), sources) for way in ("checkpointed", "direct")
        )
        flow = torch.autograd.grad(loss("dopri8", rtol=1e-10, atol=1e-10, batching=batching), sources)
        for i, expected in enumerate(flow):
            torch.testing.assert_close(found[i], direct[i], rtol=1e-10, atol=1e-11)
            assert (found[i] - expected).norm() < 1e-3 * (1 + expected.norm()), f"source {i}"


@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
def test_gradients_do_not_feel_rows_that_fail(gradient):
    """To an argument that all rows share: one row turns NaN, one meets a pole, and one is never finite."""
    assert_rows_that_fail_are_not_felt("rkc", gradient, max_steps=150)


@pytest.mark.parametrize("by_row", [False, True])
def test_a_step_that_is_taken_again_comes_out_the_same(by_row):
    """And a rejected one leaves no trace: the carry alone tells what came before."""
    y0 = torch.randn(2, 8, dtype=F64)
    layout, _ = layout_of(y0, by_row=by_row)
    stepper = StabilisedStepper(Stabilised(), y0, by_row=by_row, tolerance=Tolerance(1e-6, 1e-6))
    field = CoreField(lambda t, y: laplacian(y) + torch.sin(y), (), layout, y0)
    number = (lambda x: torch.full((2,), x, dtype=F64)) if by_row else float
    t, y, carry = number(0.0), y0, None
    with torch.no_grad():
        for i in range(8):
            h = number(0.03 + 0.01 * (i % 3))
            first = stepper.step(field, t, h, y, carry)
            stepper.step(field, t, number(0.5), y, carry)
            again = stepper.step(field, t, h, y, carry)
            assert torch.equal(first.y, again.y)
            assert all(torch.equal(a, b) for a, b in zip(first.carry, again.carry, strict=True))
            t, y, carry = t + h, first.y, first.carry


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 2), (0, 2)])
def test_shapes(shape):
    """A state of any shape, and rows of any shape."""
    y0 = torch.full(shape, 2.0, dtype=F64)
    for batching in ["joint"] if y0.ndim == 0 else BATCHINGS:
        sol = solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, "rkc", [0.25, 1.0], rtol=1e-6, atol=1e-8, batching=batching)
        expected = torch.stack([y0 * math.exp(-0.25), y0 * math.exp(-1.0)])
        torch.testing.assert_close(sol.ys, expected, rtol=1e-4, atol=0)
