"""Adams methods: exact where they must be, cheaper than Runge–Kutta, and each row with an order of its own."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp as scipy_solve_ivp

from gradient_checks import Nonlinear, assert_rows_that_fail_are_not_felt, differences_along, give_room
from problems import PROBLEMS
from thalweg import solve_ivp
from thalweg.core.field import Field as CoreField
from thalweg.core.norms import Tolerance
from thalweg.core.state import layout_of
from thalweg.methods import adams
from thalweg.steppers.adams import MultistepStepper, VariableAdamsStepper

F64 = torch.float64
BATCHINGS = ["joint", "per_sample"]
FIXED = [f"adams_{kind}{order}" for kind in ("bashforth", "moulton") for order in (2, 3, 4, 5)]


def stepper_of(name, y, *, by_row=False):
    """The stepper of that method, and a way to make its field."""
    layout, _ = layout_of(y, by_row=by_row)
    if name == "adams":
        stepper = VariableAdamsStepper(adams.VariableAdams(), y, by_row=by_row, tolerance=Tolerance(1e-8, 1e-8))
    else:
        method = adams.multistep(int(name[-1]), corrected="moulton" in name)
        stepper = MultistepStepper(method, y, by_row=by_row)
    return stepper, lambda fun: CoreField(fun, (), layout, y)


class TestExactness:
    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("name", FIXED)
    def test_polynomials_of_their_degree_on_any_grid(self, name, batching):
        """y' = p t^(p - 1) is integrated without error, also between steps, whose sizes all differ."""
        order = int(name[-1])
        y0 = torch.full((2, 1), 0.3, dtype=F64)
        t_eval = torch.linspace(0, 1.7, 11, dtype=F64)
        if order > 2:  # first steps have an interpolant of a lower order
            t_eval = t_eval[6:]
        sol = solve_ivp(
            lambda t, y: order * t ** (order - 1) + 0 * y,
            (0.0, 1.7),
            y0,
            name,
            t_eval,
            step_size=1.0,
            step_ts=[0.1, 0.3, 0.35, 0.6, 0.65, 0.66, 0.9, 1.3, 1.5],
            batching=batching,
        )
        expected = 0.3 + t_eval**order
        torch.testing.assert_close(sol.ys[:, 0, 0], expected, rtol=1e-13, atol=1e-13)
        assert int(torch.as_tensor(sol.stats.n_steps).max()) == 10

    @pytest.mark.parametrize("name", FIXED)
    def test_equal_steps_are_those_of_the_known_weights(self, name):
        """Of a nonlinear field, from slopes that are put together by hand."""
        order, h, n = int(name[-1]), 0.05, 12

        def fun(t, y):
            return np.cos(y) + t

        field = lambda t, y: torch.cos(y) + t  # noqa: E731
        got = solve_ivp(field, (0.0, n * h), torch.ones(1, dtype=F64), name, step_size=h, dense_output=True)
        times = h * np.arange(n + 1)
        y = got(torch.from_numpy(times[:order]).clamp(max=n * h))[:, 0].tolist()  # the Runge–Kutta steps
        slopes = [fun(t, z) for t, z in zip(times, y, strict=False)]
        explicit, implicit = adams.adams_bashforth(order).b, adams.adams_moulton(order).b
        for i in range(order - 1, n):
            latest = slopes[::-1]
            z = y[-1] + h * np.dot(explicit, latest[:order])
            if "moulton" in name:
                z = y[-1] + h * np.dot(implicit, [fun(times[i + 1], z), *latest[: order - 1]])
            y.append(z)
            slopes.append(fun(times[i + 1], z))
        assert got.ys[-1].item() == pytest.approx(y[-1], rel=1e-13)

    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("name", ["adams", *FIXED])
    def test_interpolants_end_where_steps_end(self, name, batching):
        """Of a coarse solve, in which predictor and corrector differ much."""
        sizes = {"rtol": 1e-2, "atol": 1e-2} if name == "adams" else {"step_size": 0.3}
        y0 = torch.tensor([[1.0, 0.5]], dtype=F64)
        sol = solve_ivp(
            lambda t, y: torch.sin(3 * y.flip(-1)) + t,
            (0.0, 3.1),
            y0,
            name,
            dense_output=True,
            batching=batching,
            **sizes,
        )
        starts = sol.sol._y[1:]  # of all steps but the first
        ends = torch.nextafter(sol.sol.ts[1:-1], torch.tensor(0.0, dtype=F64))
        torch.testing.assert_close(sol(ends), starts, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_the_variable_order_climbs_to_the_degree(self, batching):
        """A polynomial of degree 10 is integrated in few steps, without error."""
        coefficients = torch.linspace(-1, 1, 11, dtype=F64)
        powers = torch.arange(11)

        def field(t, y):
            return (coefficients * t.reshape(-1, 1)[:1] ** powers).sum() + 0 * y

        t_eval = torch.linspace(0, 2, 21, dtype=F64)
        sol = solve_ivp(
            field, (0.0, 2.0), torch.zeros(1, 1, dtype=F64), "adams", t_eval, rtol=1e-11, atol=1e-11, batching=batching
        )
        exact = (coefficients / (powers + 1) * t_eval.unsqueeze(1) ** (powers + 1)).sum(1)
        assert (sol.ys[:, 0, 0] - exact).abs().max() < 1e-10
        assert int(torch.as_tensor(sol.stats.n_steps).max()) < 45

    @pytest.mark.parametrize("name", ["adams", *FIXED])
    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_a_field_that_vanishes_or_is_constant(self, name, batching):
        y0 = torch.tensor([[1.0, -2.0], [0.0, 5.0]], dtype=F64)
        sizes = {} if name == "adams" else {"step_size": 0.3}
        still = solve_ivp(lambda t, y: 0 * y, (0.0, 2.0), y0, name, batching=batching, **sizes)
        assert torch.equal(still.ys[-1], y0)
        even = solve_ivp(lambda t, y: torch.ones_like(y), (0.0, 2.0), y0, name, [0.7, 2.0], batching=batching, **sizes)
        torch.testing.assert_close(even.ys, torch.stack([y0 + 0.7, y0 + 2.0]), rtol=1e-14, atol=1e-14)


class TestVariableOrder:
    @pytest.mark.parametrize("tolerance", [1e-6, 1e-9, 1e-11])
    @pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
    def test_takes_far_fewer_evaluations_than_runge_kutta_and_no_more_than_lsoda(self, problem, tolerance):
        options = {"rtol": tolerance, "atol": tolerance}

        def fun(t, y):
            return problem.fun(torch.tensor(t, dtype=F64), torch.from_numpy(y)).numpy()

        ours = solve_ivp(problem.fun, problem.t_span, problem.state(), "adams", **options)
        dopri8 = solve_ivp(problem.fun, problem.t_span, problem.state(), "dopri8", **options)
        lsoda = scipy_solve_ivp(fun, problem.t_span, np.array(problem.y0), "LSODA", **options)
        assert ours.stats.nfev < 0.75 * dopri8.stats.nfev
        assert ours.stats.nfev < lsoda.nfev
        exact = problem.reference(problem.t_span[1:])[-1]
        scale = 1 + exact.abs()
        error, theirs = (((y - exact).abs() / scale).max() for y in (ours.ys[-1], torch.from_numpy(lsoda.y[:, -1])))
        assert error < max(100 * tolerance, 2 * theirs)

    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_two_evaluations_a_step_and_the_first_two(self, batching):
        calls = []

        def field(t, y):
            calls.append(t)
            return torch.sin(y)

        sol = solve_ivp(field, (0.0, 3.0), torch.ones(1, 1, dtype=F64), "adams", batching=batching, rtol=1e-8)
        assert (
            int(torch.as_tensor(sol.stats.nfev).max())
            == len(calls)
            == 2 + 2 * int(torch.as_tensor(sol.stats.n_steps).max())
        )

    def test_orders_are_each_rows_own(self):
        """A row that is a straight line stays low; one that turns goes as high as its tolerance asks for."""
        y0 = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 3.0]], dtype=F64)

        def fun(t, y):
            x, v, k = y.unbind(-1)
            return torch.stack([k * v, -k * x, 0 * k], -1)

        stepper, make = stepper_of("adams", y0, by_row=True)
        field, t, y = make(fun), torch.zeros(2, dtype=F64), y0
        carry = stepper.init(fun(t, y))
        h = torch.full((2,), 0.01, dtype=F64)
        for _ in range(20):
            step = stepper.step(field, t, h, y, carry)
            t, y, carry = t + h, step.y, step.carry
        low, high = carry[2][:, 0].tolist()
        assert low == 1
        assert high > 3

    @pytest.mark.parametrize("by_row", [False, True])
    def test_a_step_that_is_taken_again_comes_out_the_same(self, by_row):
        """And a rejected one leaves no trace: the carry alone tells what came before."""
        y0 = torch.tensor([[1.0, 0.5], [0.3, -0.2]], dtype=F64)
        stepper, make = stepper_of("adams", y0, by_row=by_row)
        field = make(lambda t, y: torch.sin(y) - 0.3 * y.flip(-1))
        number = (lambda x: torch.full((2,), x, dtype=F64)) if by_row else float
        t, y, carry = number(0.0), y0, None
        for i in range(15):
            h = number(0.03 + 0.01 * (i % 3))
            first = stepper.step(field, t, h, y, carry)
            stepper.step(field, t, number(5.0), y, carry)
            again = stepper.step(field, t, h, y, carry)
            assert torch.equal(first.y, again.y)
            assert torch.equal(first.error, again.error)
            assert all(torch.equal(a, b) for a, b in zip(first.carry, again.carry, strict=True))
            t, y, carry = t + h, first.y, first.carry

    def test_jumps_begin_a_history_of_their_own(self):
        """Without that, slopes from before a jump would be taken for its continuation."""

        def solved(**options):
            return solve_ivp(
                lambda t, y: torch.where(t < 1.0, 1.0, -2.0 * y), (0.0, 2.0), torch.ones(1, dtype=F64), "adams",
                rtol=1e-9, atol=1e-9, **options,
            )  # fmt: skip

        told, untold = solved(jump_ts=[1.0]), solved()
        assert told.ys[-1].item() == pytest.approx(2 * math.exp(-2), rel=1e-8)
        assert told.stats.nfev < 0.8 * untold.stats.nfev

    def test_kinks_are_got_over(self):
        """Many of them, and no hint where."""
        field = lambda t, y: torch.sign(torch.sin(7 * t)) * y  # noqa: E731
        sol = solve_ivp(field, (0.0, 3.0), torch.ones(1, dtype=F64), "adams", rtol=1e-7, atol=1e-7)
        whole, part = divmod(21.0, 2 * math.pi)
        rest = min(part, math.pi) - max(part - math.pi, 0.0)
        assert whole == 3
        assert sol.ys[-1].item() == pytest.approx(math.exp(rest / 7), rel=1e-3)

    def test_events_are_found_inside_its_steps(self):
        sol = solve_ivp(
            lambda t, y: torch.stack([y[1], -y[0]]), (0.0, 10.0), torch.tensor([0.0, 1.0], dtype=F64), "adams",
            events=lambda t, y: y[0], rtol=1e-10, atol=1e-10,
        )  # fmt: skip
        found = sol.t_events[0]
        torch.testing.assert_close(found, math.pi * torch.arange(len(found), dtype=F64), rtol=1e-8, atol=1e-8)
        assert len(found) == 4


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("name", ["adams", *FIXED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_other_dtypes(name, batching, dtype):
    y0 = torch.tensor([[1.0, 2.0], [-1.0, 0.5]], dtype=dtype)
    sizes = {"rtol": 1e-5} if name == "adams" else {"step_size": 0.01}
    sol = solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, name, batching=batching, **sizes)
    assert sol.ys.dtype == dtype
    torch.testing.assert_close(sol.ys[-1], y0 / math.e, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["adams", "adams_bashforth3", "adams_moulton4"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 2), (0, 2)])
def test_shapes(name, shape):
    """A state of any shape, and rows of any shape."""
    y0 = torch.full(shape, 2.0, dtype=F64)
    sizes = {"rtol": 1e-8, "atol": 1e-10} if name == "adams" else {"step_size": 0.02}
    for batching in ["joint"] if y0.ndim == 0 else BATCHINGS:
        sol = solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, name, [0.25, 1.0], batching=batching, **sizes)
        expected = torch.stack([y0 * math.exp(-0.25), y0 * math.exp(-1.0)])
        torch.testing.assert_close(sol.ys, expected, rtol=1e-5, atol=0)


def check_gradients(name, batching, outputs, monkeypatch, *, back=False, bound, **sizes):
    """To parameters, arguments, the start and all times, by all exact ways, against finite differences."""
    field = Nonlinear()
    y0, k = torch.randn(3, 2, dtype=F64), torch.rand(3, 2, dtype=F64)
    t0, t1 = torch.tensor(0.2, dtype=F64), torch.tensor(1.1, dtype=F64)
    t_eval = torch.tensor([0.35, 0.74, 1.07], dtype=F64) if outputs else None
    if back:
        t0, t1, t_eval = t1, t0, None if t_eval is None else t_eval.flip(0)
    sources = [field.weight, k, y0, t0, t_eval if outputs else t1]
    for x in sources:
        x.requires_grad_()

    def loss(gradient):
        sol = solve_ivp(field, (t0, t1), y0, name, t_eval, args=(k,), batching=batching, gradient=gradient, **sizes)
        return sol.ys.sin().sum()

    found = {way: torch.autograd.grad(loss(way), sources) for way in ("direct", "checkpointed")}
    give_room(monkeypatch, 0)
    found["computed again"] = torch.autograd.grad(loss("checkpointed"), sources)
    for i, x in enumerate(sources):
        along, expected = differences_along(lambda: loss("checkpointed"), x)
        for way, gradients in found.items():
            error = (along @ gradients[i].flatten() - expected).norm()
            assert error < bound * (1 + expected.norm()), f"{way}, source {i}"
            torch.testing.assert_close(gradients[i], found["direct"][i], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("outputs", [False, True], ids=["end", "t_eval"])
@pytest.mark.parametrize("batching", BATCHINGS)
class TestGradients:
    @pytest.mark.parametrize("back", [False, True], ids=["forward", "back"])
    @pytest.mark.parametrize("name", ["adams", "adams_bashforth4", "adams_moulton3"])
    def test_of_fixed_steps_are_exact(self, name, batching, outputs, back, monkeypatch):
        """However coarse: the derivative of what was computed, and the last step is a shorter one."""
        sizes = {"rtol": 1e-3, "atol": 1e-3} if name == "adams" else {}
        check_gradients(name, batching, outputs, monkeypatch, back=back, bound=1e-8, step_size=0.11, **sizes)

    def test_of_adaptive_steps_are_the_flows(self, batching, outputs, monkeypatch):
        check_gradients("adams", batching, outputs, monkeypatch, bound=1e-6, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("tolerance", [1e-8, 1e-10, 1e-12])
def test_gradients_keep_their_digits_where_steps_grow_from_a_tiny_one(tolerance, batching):
    """From rest, where the first step is far too short: y' = cos(y) (sin(t) + q), sin(y) = tanh(1 - cos(t) + q t)."""
    q = torch.zeros(1, 1, dtype=F64, requires_grad=True)
    options = {"rtol": tolerance, "atol": tolerance, "batching": batching}
    sol = solve_ivp(
        lambda t, y, q: torch.cos(y) * (torch.sin(t) + q), (0.0, 3.0), torch.zeros(1, 1, dtype=F64), "adams", args=(q,),
        **options,
    )  # fmt: skip
    (slope,) = torch.autograd.grad(sol.ys[-1].sum(), q)
    assert abs(slope.item() - 3 / math.cosh(1 - math.cos(3))) < 100 * tolerance


@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-6])
def test_gradients_of_rejected_steps_are_none(tolerance, gradient):
    """Rows whose steps differ and are rejected at times: each row's gradient is the one that it has alone."""
    rate = torch.tensor([1.0, 5.0, 20.0, 60.0], dtype=F64).unsqueeze(1)

    def gradients(rows):
        y0 = torch.linspace(0.5, 2, 4, dtype=F64).unsqueeze(1)[rows].requires_grad_()
        sol = solve_ivp(
            lambda t, y, rate: torch.sin(rate * (y + t)), (0, 2), y0, "adams", (0.5, 1.0, 2.0), args=(rate[rows],),
            rtol=tolerance, atol=tolerance, batching="per_sample", gradient=gradient, first_step=0.5,
        )  # fmt: skip
        assert int(sol.stats.n_rejected.sum()) > 0
        return torch.autograd.grad(sol.ys.square().sum(), y0)[0]

    together = gradients([0, 1, 2, 3])
    for row in range(4):
        torch.testing.assert_close(together[row], gradients([row])[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
def test_gradients_do_not_feel_rows_that_fail(gradient):
    """To an argument that all rows share: one row turns NaN, one meets a pole, and one is never finite."""
    assert_rows_that_fail_are_not_felt("adams", gradient)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_no_step_ends_where_the_slope_is_not_finite(batching):
    """Near its pole the state is a number still where its square, the slope, is none."""
    k = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.1], [5.0]] if batching == "per_sample" else [5.0], dtype=F64)
    slopes = []

    def see(step):
        slopes.extend((step.y_new**2)[torch.as_tensor(step.accepted)].flatten().tolist())

    sol = solve_ivp(
        lambda t, y, k: k * y**2, (0.0, 1.0), y0, "adams", args=(k,), batching=batching, gradient="direct",
        callback=see, on_failure="return",
    )  # fmt: skip
    assert all(map(math.isfinite, slopes))
    if batching == "per_sample":
        (found,) = torch.autograd.grad(sol.ys[-1, 0].sum(), [k])
        torch.testing.assert_close(found, torch.tensor((0.1 / 0.9) ** 2, dtype=F64), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["adams", "adams_moulton4"])
def test_second_derivatives_by_direct(name):
    """d²/dk² exp(-k) = exp(-k)."""
    k = torch.tensor(0.7, dtype=F64, requires_grad=True)
    sizes = {"rtol": 1e-8, "atol": 1e-8} if name == "adams" else {"step_size": 0.02}
    y0 = torch.ones(1, dtype=F64)
    sol = solve_ivp(lambda t, y, k: -k * y, (0, 1), y0, name, args=(k,), gradient="direct", **sizes)
    (first,) = torch.autograd.grad(sol.ys[-1].sum(), [k], create_graph=True)
    (second,) = torch.autograd.grad(first, [k])
    assert second.item() == pytest.approx(math.exp(-0.7), rel=1e-4)


class TestRefusals:
    @pytest.mark.parametrize("name", FIXED)
    def test_without_a_step_size(self, name):
        with pytest.raises(ValueError, match="no error estimate"):
            solve_ivp(lambda t, y: -y, (0, 1), torch.ones(2), name)

    def test_data(self):
        with pytest.raises(ValueError, match="order must be one of 2, 3, 4, 5, got 6"):
            adams.multistep(6, corrected=True)
        with pytest.raises(ValueError, match="order must lie between 1 and 12, got 13"):
            adams.VariableAdams(13)
        with pytest.raises(ValueError, match="corrector must have the predictor's order 3, got 4"):
            adams.Multistep(adams.adams_bashforth(3), adams.adams_moulton(4), adams.RK4)
        with pytest.raises(ValueError, match="start must have order 5 or more, got 4"):
            adams.Multistep(adams.adams_bashforth(5), None, adams.RK4)
