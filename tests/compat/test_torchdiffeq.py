"""torchdiffeq's functions: against known solutions, and against torchdiffeq itself where it is installed."""

import importlib
import math
import warnings
from itertools import pairwise

import pytest
import torch

from thalweg import SolveError
from thalweg.compat.torchdiffeq import odeint, odeint_adjoint, odeint_dense, odeint_event
from thalweg.methods import methods

ADAPTIVE = ["dopri5", "tsit5", "bosh3", "fehlberg2", "adaptive_heun"]
FIXED = ["euler", "midpoint", "heun2", "heun3", "rk4"]
F32, F64 = torch.float32, torch.float64
COLLOCATION = {"radauIIA3": 3, "gl4": 4, "radauIIA5": 5, "gl6": 6}


class Spiral(torch.nn.Module):
    """A damped rotation."""

    def __init__(self):
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.tensor([[-0.1, 1.0], [-1.0, -0.1]], dtype=torch.float64))
        self.unused = torch.nn.Parameter(torch.ones(3))

    def forward(self, t, y):
        return y @ self.matrix.T

    def exact(self, y0, t):
        return torch.stack([torch.linalg.matrix_exp(self.matrix * (s - t[0])) @ y0 for s in t])


def start(**kwargs):
    return torch.tensor([1.0, 0.5], dtype=torch.float64, **kwargs)


def times(*values, **kwargs):
    return torch.tensor(values or (0.0, 0.5, 1.0, 2.0), dtype=torch.float64, **kwargs)


def times_seen(method, adjoint, **options):
    """The times from 0 to 1 at which a field is evaluated on the way there, and on the way back."""
    seen = []

    def fun(t, y):
        seen.append(t.item())
        return -y

    y0, kwargs = start(requires_grad=True), {"adjoint_params": ()} if adjoint else {}
    ys = (odeint_adjoint if adjoint else odeint)(fun, y0, times(0, 1), method=method, options=options, **kwargs)
    there = set(seen)
    seen.clear()
    ys.sum().backward()
    return there, set(seen)


class TestOdeint:
    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("method", [None, *ADAPTIVE])
    def test_adaptive_methods_keep_the_tolerance(self, method, reverse):
        field, t = Spiral(), times().flip(0) if reverse else times()
        ys = odeint(field, start(), t, method=method, rtol=1e-6, atol=1e-6)
        slack = 1e-2 if method == "fehlberg2" else 1e-4  # its estimate is of an error of order one
        torch.testing.assert_close(ys, field.exact(start(), t), rtol=slack, atol=slack)

    @pytest.mark.parametrize(
        ("method", "order"),
        [("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4), *COLLOCATION.items()],
    )
    def test_fixed_methods_step_by_step_size(self, method, order):
        field = Spiral()
        errors = [
            (
                odeint(field, start(), times(0, 1), method=method, options={"step_size": h})
                - field.exact(start(), times(0, 1))
            )
            .abs()
            .max()
            .item()
            for h in (0.1, 0.05)
        ]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)

    def test_without_an_option_a_fixed_method_steps_from_output_to_output(self):
        ys = odeint(lambda t, y: y, torch.ones(1), torch.tensor([0.0, 0.5, 2.0]), method="euler")
        assert ys.flatten().tolist() == pytest.approx([1.0, 1.5, 1.5 * 2.5])

    def test_a_tuple_comes_back_as_a_tuple(self):
        y0 = (torch.tensor(1.0), torch.ones(2, 3))
        ys = odeint(lambda t, y: [-y[0], y[1]], y0, torch.tensor([0.0, 1.0, 2.0]))
        assert isinstance(ys, tuple)
        assert [y.shape for y in ys] == [(3,), (3, 2, 3)]
        assert ys[0][-1].item() == pytest.approx(math.exp(-2), rel=1e-5)

    def test_one_time_is_y0(self):
        assert torch.equal(odeint(Spiral(), start(), times(3.0)), start()[None])
        assert torch.equal(odeint_adjoint(Spiral(), start(), times(3.0), method="rk4"), start()[None])

    def test_tolerances_may_be_tensors_and_tuples(self):
        fine = odeint(lambda t, y: -y, torch.ones(2), times(0, 1), rtol=torch.tensor([1e-3, 1e-6]), atol=1e-6)
        assert fine[-1, 1].item() == pytest.approx(math.exp(-1), rel=1e-5)
        y0 = (torch.ones(2), torch.ones(()))
        ys = odeint(lambda t, y: (-y[0], -y[1]), y0, times(0, 1), rtol=(1e-3, 1e-6), atol=(1e-4, 1e-6))
        assert ys[1][-1].item() == pytest.approx(math.exp(-1), rel=1e-5)

    def test_tensors_may_be_empty(self):
        y0 = (torch.zeros(0), torch.zeros(0, 2))
        ys = odeint(lambda t, y: (-y[0], -y[1]), y0, times(0, 1), rtol=(1e-3, 1e-3), atol=(1e-6, 1e-6))
        assert [y.shape for y in ys] == [(2, 0), (2, 0, 2)]

    def test_no_warning_that_float32_holds_less_than_the_default(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0])).dtype == torch.float32

    @pytest.mark.parametrize("norm", [{}, {"norm": lambda y: y[1].abs().max()}])
    def test_float32_takes_the_steps_that_a_tolerance_below_what_solve_ivp_takes_asks_for(self, norm):
        def evaluations(dtype, rtol):
            seen, field = [], Spiral().to(dtype)
            y0 = (torch.tensor(2.0, dtype=dtype), start(requires_grad=True).to(dtype))
            fun = lambda t, y: seen.append(t) or (-y[0], 5 * field(t, y[1]))  # noqa: E731
            ys = odeint_adjoint(
                fun, y0, times(0, 3), rtol=rtol, options=norm, adjoint_options={}, adjoint_params=field.parameters()
            )
            forward = len(seen)
            ys[1][-1].sum().backward()
            return forward, len(seen) - forward

        single, double, raised = (evaluations(*x) for x in ((F32, 1e-7), (F64, 1e-7), (F64, 1.2e-6)))
        assert single == pytest.approx(double, rel=0.1)
        assert min(double[0] / raised[0], double[1] / raised[1]) > 1.3

    def test_a_relative_tolerance_of_zero_leaves_the_absolute_one(self):
        ys = odeint(lambda t, y: -y, torch.ones(1, dtype=torch.float64), times(0, 1), rtol=0.0, atol=1e-6)
        assert 1e-9 < abs(ys[-1].item() - math.exp(-1)) < 1e-5

    @pytest.mark.parametrize("method", ["dopri5", "rk4"])
    def test_gradients_of_any_order_to_state_and_times(self, method):
        y0, t = start(requires_grad=True), times(0.0, 0.7, 1.0, requires_grad=True)
        assert torch.autograd.gradcheck(lambda y, t: odeint(Spiral(), y, t, rtol=1e-9), (y0, t))
        cube = lambda y: odeint(lambda t, y: -(y**2), y, times(), method=method)[-1].sum()  # noqa: E731
        assert torch.autograd.gradgradcheck(cube, (y0,))

    def test_dense(self):
        field = Spiral()
        sol = odeint_dense(field, start(), times(0.0)[0], times(3.0)[0])
        t = torch.linspace(0, 3, 7, dtype=torch.float64)
        torch.testing.assert_close(sol(t), field.exact(start(), t), rtol=1e-5, atol=1e-5)


class TestAdjoint:
    @pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3"])
    def test_its_gradients_are_those_of_odeint(self, method):
        gradients = []
        for solve in (odeint, odeint_adjoint):
            field, y0, t = Spiral(), start(requires_grad=True), times(requires_grad=True)
            solve(field, y0, t, method=method, rtol=1e-8, atol=1e-8).pow(2).sum().backward()
            gradients.append((field.matrix.grad, y0.grad, t.grad[1:]))
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)

    def test_a_parameter_that_is_not_used_has_a_gradient_of_zero(self):
        field = Spiral()
        odeint_adjoint(field, start(), times()).sum().backward()
        assert torch.equal(field.unused.grad, torch.zeros(3))

    def test_a_function_must_say_what_needs_a_gradient(self):
        with pytest.raises(ValueError, match=r"adjoint_params=\(\)"):
            odeint_adjoint(lambda t, y: -y, start(), times())
        rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        odeint_adjoint(lambda t, y: -rate * y, start(), times(), adjoint_params=[rate])[-1].sum().backward()
        assert rate.grad.item() == pytest.approx(-1.5 * 2 * math.exp(-1), rel=1e-5)

    def test_options_of_another_method_must_be_given(self):
        with pytest.raises(ValueError, match="give adjoint_options too"):
            odeint_adjoint(Spiral(), start(), times(), options={"first_step": 0.1}, adjoint_method="rk4")

    def test_the_way_back_may_have_its_own_method_tolerances_and_norm(self):
        seen = []

        def norm(state):
            t, y, a, *params = state
            seen.append((t.shape, y.shape, a.shape, [p.shape for p in params]))
            return max(y.abs().max(), a.abs().max())

        field = Spiral()
        odeint_adjoint(field, start(), times(), adjoint_method="bosh3", adjoint_options={"norm": norm}).sum().backward()
        assert seen
        assert all(shapes == ((), (2,), (2,), [(2, 2), (3,)]) for shapes in seen)

    @pytest.mark.parametrize("solver", ["BDF", "LSODA"])
    def test_of_methods_that_may_be_stiff_they_are_exact(self, solver):
        field, y0 = Spiral(), start(requires_grad=True)
        options = {"method": "scipy_solver", "options": {"solver": solver}}
        odeint_adjoint(field, y0, times(0, 1), **options)[-1].sum().backward()
        ys = odeint(Spiral(), again := start(requires_grad=True), times(0, 1), **options)
        ys[-1].sum().backward()
        torch.testing.assert_close(y0.grad, again.grad, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("norm", ["seminorm", None])
    def test_seminorm(self, norm):
        field, options = Spiral(), {} if norm is None else {"norm": norm}
        odeint_adjoint(field, start(), times(), adjoint_options=options).sum().backward()
        assert field.matrix.grad.isfinite().all()


class TestOptions:
    def test_the_default_norm_of_a_tuple_is_the_largest_of_its_tensors(self):
        count = 0

        def fun(t, y):
            nonlocal count
            count += 1
            return (-50 * torch.sin(50 * t), *(torch.zeros_like(x) for x in y[1:]))

        counts = []
        for extra in (0, 100):
            count = 0
            odeint(fun, (torch.ones(()), torch.ones(extra)), times(0, 1), rtol=1e-5, atol=1e-5)
            counts.append(count)
        assert counts[0] == counts[1]  # a mean over all entries would take fewer

    @pytest.mark.parametrize("adjoint", [False, True])
    def test_jump_t_spares_the_search_for_a_jump(self, adjoint):
        seen = []

        def fun(t, y):
            seen.append(t.item())
            return -0.5 * y if t < 0.5 else y**2

        y0, counts = start(requires_grad=True), []
        for options in ({}, {"jump_t": torch.tensor([0.5])}):
            seen.clear()
            solve = odeint_adjoint if adjoint else odeint
            kwargs = {"adjoint_params": ()} if adjoint else {}
            ys = solve(fun, y0, times(0, 1), rtol=1e-6, atol=1e-6, method="dopri5", options=options, **kwargs)
            ys.sum().backward()
            counts.append(len(seen))
        assert counts[1] < counts[0]
        assert 0.5 not in seen

    def test_step_t_is_stepped_onto(self):
        seen = []
        odeint(lambda t, y: (seen.append(t.item()), -y)[1], start(), times(0, 1), options={"step_t": times(0.3)})
        assert 0.3 in seen

    @pytest.mark.parametrize("adjoint", [False, True])
    @pytest.mark.parametrize("method", FIXED)
    def test_perturb_keeps_off_the_grid(self, method, adjoint):
        there, back = times_seen(method, adjoint, step_size=0.5, perturb=True)
        assert not {0.0, 0.5, 1.0} & (there | back)
        assert {round(t, 6) for t in there | back} >= {0.0, 0.5}

    @pytest.mark.parametrize("adjoint", [False, True])
    @pytest.mark.parametrize("method", [*FIXED, "implicit_midpoint", "trapezoid", "sdirk2", "gl4", "gl6"])
    def test_without_perturb_a_step_sees_where_it_begins(self, method, adjoint):
        there, back = times_seen(method, adjoint, step_size=0.5)
        assert {0.0, 0.5} <= there
        assert not adjoint or {1.0, 0.5} <= back

    @pytest.mark.parametrize("adjoint", [False, True])
    def test_grid_constructor(self, adjoint):
        asked = []

        def grid(func, y0, t):
            asked.append(t.tolist())
            return torch.linspace(t[0].item(), t[-1].item(), 11)

        y0 = torch.tensor(1.0, requires_grad=True)
        kwargs = {"adjoint_params": ()} if adjoint else {}
        solve = odeint_adjoint if adjoint else odeint
        options = {"grid_constructor": grid}
        y = solve(lambda t, y: y, y0, torch.tensor([0.0, 1.0]), method="euler", options=options, **kwargs)[-1]
        y.backward()
        assert y.item() == pytest.approx(1.1**10, rel=1e-5)
        assert y0.grad.item() == pytest.approx(1.1**10, rel=1e-5)
        assert asked == ([[0.0, 1.0], [1.0, 0.0]] if adjoint else [[0.0, 1.0]])

    def test_step_size_and_grid_constructor_exclude_each_other(self):
        options = {"step_size": 0.1, "grid_constructor": lambda f, y, t: t}
        with pytest.raises(ValueError, match="exclude each other"):
            odeint(Spiral(), start(), times(), method="rk4", options=options)

    @pytest.mark.parametrize(("name", "few", "many"), [("ifactor", 10.0, 1.5), ("safety", 0.9, 0.5)])
    def test_how_sizes_may_change(self, name, few, many):
        counts = []
        for value in (few, many):
            field, calls = Spiral(), []
            field.callback_step = lambda t0, y0, dt, calls=calls: calls.append(dt.item())
            odeint(field, start(), times(0, 20), rtol=1e-4, atol=1e-4, options={name: value, "first_step": 1e-3})
            counts.append(len(calls))
            if name == "ifactor":
                assert max(b / a for a, b in pairwise(calls)) <= value * (1 + 1e-9)
        assert counts[0] < counts[1]

    def test_max_num_steps(self):
        with pytest.raises(SolveError, match="step limit"):
            odeint(Spiral(), start(), times(), options={"max_num_steps": 2})

    def test_min_step(self):
        counts = []
        for least in (0.0, 0.5):
            field = Spiral()
            calls = []
            field.register_forward_hook(lambda *_, calls=calls: calls.append(1))
            odeint(field, start(), times(0, 4), rtol=1e-12, atol=1e-12, options={"min_step": least})
            counts.append(len(calls))
        assert counts[1] < 60 < counts[0]

    @pytest.mark.parametrize("method", ["dopri5", "rk4"])
    def test_an_unknown_option_is_a_warning(self, method):
        with pytest.warns(UserWarning, match=r"Unexpected arguments \{'colour': 'red'\}"):
            odeint(Spiral(), start(), times(), method=method, options={"colour": "red"})

    def test_scipy_solver(self):
        for solver in ("RK45", "BDF", "LSODA"):
            ys = odeint(Spiral(), start(), times(), method="scipy_solver", options={"solver": solver})
            torch.testing.assert_close(ys, Spiral().exact(start(), times()), rtol=1e-5, atol=1e-5)
        with pytest.raises(ValueError, match="solver must be one of RK45"):
            odeint(Spiral(), start(), times(), method="scipy_solver", options={"solver": "RK99"})


class TestCallbacks:
    NAMES = ("callback_step", "callback_accept_step", "callback_reject_step")

    def watched(self, names, suffix=""):
        field = Spiral()
        calls = {name: [] for name in names}
        for name in names:
            setattr(field, name + suffix, lambda t0, y0, dt, name=name: calls[name].append((t0, y0, dt)))
        return field, calls

    @pytest.mark.parametrize("reverse", [False, True])
    def test_adaptive_methods_have_three(self, reverse):
        field, calls = self.watched(self.NAMES)
        t = times(0, 5).flip(0) if reverse else times(0, 5)
        odeint(field, start(), t, options={"first_step": 5.0})
        tried, kept, thrown = (calls[name] for name in self.NAMES)
        assert len(tried) == len(kept) + len(thrown)
        assert thrown
        assert tried[0][0] == t[0]
        assert tried[0][0].shape == tried[0][2].shape == ()
        assert all(dt > 0 and y0.shape == (2,) for _, y0, dt in tried)

    @pytest.mark.parametrize("method", FIXED)
    def test_fixed_methods_have_one_in_either_direction(self, method):
        field, forward = self.watched(self.NAMES[:1])
        calls = []
        field.callback_step_adjoint = lambda t0, y0, dt: calls.append(t0)
        options = {"step_size": 0.1}
        odeint_adjoint(field, start(), times(0, 1), method=method, options=options).sum().backward()
        assert len(forward["callback_step"]) == len(calls) == 10
        assert calls[0] == 1.0

    def test_a_tuple_is_given_as_a_tuple(self):
        class Field:
            def __call__(self, t, y):
                return -y[0], -y[1]

            def callback_step(self, t0, y0, dt):
                self.seen = y0

        field = Field()
        odeint(field, (torch.ones(()), torch.ones(2)), times(0, 1))
        assert [y.shape for y in field.seen] == [(), (2,)]

    @pytest.mark.parametrize(("method", "name"), [("rk4", NAMES[1]), ("euler", NAMES[2]), ("scipy_solver", NAMES[0])])
    def test_one_that_is_never_called_is_a_warning(self, method, name):
        field, _ = self.watched([name])
        options = {"solver": "RK45"} if method == "scipy_solver" else {}
        with pytest.warns(UserWarning, match=f"'{method}' does not support callbacks .*{name}"):
            odeint(field, start(), times(), method=method, options=options)


def fall(t, y):
    """A ball: height, and speed."""
    return y[1], torch.full_like(y[1], -9.8)


class TestEvents:
    @pytest.mark.parametrize("interface", [odeint, odeint_adjoint])
    def test_a_ball_meets_the_ground(self, interface):
        height = torch.tensor([10.0], dtype=torch.float64, requires_grad=True)
        speed = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
        ground = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        kwargs = {"adjoint_params": ()} if interface is odeint_adjoint else {}
        t, (heights, speeds) = odeint_event(
            fall,
            (height, speed),
            times(0.5, requires_grad=True)[0],
            event_fn=lambda t, y: y[0] - ground,
            odeint_interface=interface,
            **kwargs,
        )
        impact = math.sqrt(1 + 2 * 9.8 * 8)
        assert t.item() == pytest.approx(0.5 + (1 + impact) / 9.8, rel=1e-6)
        assert heights[:, 0].tolist() == pytest.approx([10.0, 2.0], abs=1e-6)
        assert speeds[-1].item() == pytest.approx(-impact, rel=1e-6)
        by_time = torch.autograd.grad(t, (height, speed, ground), retain_graph=True)
        expected = [1 / impact, (1 + 1 / impact) / 9.8, -1 / impact]
        assert [g.item() for g in by_time] == pytest.approx(expected, rel=1e-5)
        by_speed = torch.autograd.grad(speeds[-1].sum(), (height, speed))
        assert [g.item() for g in by_speed] == pytest.approx([-9.8 / impact, -1 / impact], rel=1e-5)

    @pytest.mark.parametrize(("method", "options"), [("dopri5", {}), ("bosh3", {}), ("rk4", {"step_size": 0.01})])
    def test_back_in_time(self, method, options):
        t, ys = odeint_event(
            lambda t, y: y,
            torch.ones(1, dtype=torch.float64),
            times(2.0)[0],
            event_fn=lambda t, y: y - 0.5,
            reverse_time=True,
            method=method,
            options=options,
        )
        assert t.item() == pytest.approx(2 - math.log(2), rel=1e-5)
        assert ys[-1].item() == pytest.approx(0.5, rel=1e-6)

    @pytest.mark.parametrize("interface", [odeint, odeint_adjoint])
    @pytest.mark.parametrize("method", ["rk4", "implicit_midpoint"])
    def test_steps_keep_their_size_however_far_the_event_is(self, method, interface):
        """The gradient is that of the solution by the adjoint, and otherwise that of what was computed."""

        def event_time(y0, perturb=False):
            kwargs = {"adjoint_params": ()} if interface is odeint_adjoint else {}
            options = {"step_size": 0.05, "perturb": perturb}
            event = lambda t, y: y - 0.5  # noqa: E731
            return odeint_event(
                lambda t, y: -y, y0, times(0.0)[0], event_fn=event, odeint_interface=interface, method=method,
                options=options, **kwargs,
            )[0]  # fmt: skip

        found = []
        for perturb in (False, True):
            y0 = torch.tensor([4.0], dtype=torch.float64, requires_grad=True)
            t = event_time(y0, perturb)
            t.backward()
            found.append((t.item(), y0.grad.item()))
        later, earlier = (event_time(torch.tensor([4.0 + shift], dtype=torch.float64)) for shift in (1e-4, -1e-4))
        slope = 1 / 4 if interface is odeint_adjoint else (later - earlier).item() / 2e-4
        assert found[0] == found[1]
        assert found[0] == pytest.approx((math.log(8), slope), rel=1e-3)
        assert slope == pytest.approx(1 / 4, rel=1e-2)

    def test_the_first_of_several_ends_the_solve(self):
        event = lambda t, y: torch.cat([y - 0.2, 1.0 - t.reshape(1), y - 0.1])  # noqa: E731
        t, _ = odeint_event(lambda t, y: -y, torch.ones(1, dtype=torch.float64), times(0.0)[0], event_fn=event)
        assert t.item() == pytest.approx(1.0, rel=1e-6)

    def test_one_that_is_there_at_once(self):
        t, ys = odeint_event(lambda t, y: -y, torch.ones(1), torch.tensor(3.0), event_fn=lambda t, y: y - 1)
        assert t == 3.0
        assert ys.flatten().tolist() == [1.0, 1.0]

    def test_one_that_never_comes(self):
        options = {"max_num_steps": 50}
        with pytest.raises(SolveError, match="no event came: the step limit"):
            odeint_event(Spiral(), start(), times(0.0)[0], event_fn=lambda t, y: y.sum() + 9, options=options)

    def test_what_it_needs(self):
        with pytest.raises(ValueError, match="needs step_size"):
            odeint(Spiral(), start(), times(0, 1), event_fn=lambda t, y: y, method="rk4")
        with pytest.raises(ValueError, match="the start and a time that says the direction"):
            odeint(Spiral(), start(), times(0, 1, 2), event_fn=lambda t, y: y)


class TestAdams:
    @pytest.mark.parametrize(
        ("method", "max_order", "order"),
        [
            ("explicit_adams", None, 5),
            ("explicit_adams", 5, 4),
            ("explicit_adams", 4, 3),
            ("implicit_adams", None, 5),
            ("implicit_adams", 4, 4),
            ("fixed_adams", 5, 5),
        ],
    )
    def test_max_order_chooses_the_order(self, method, max_order, order):
        field, t = Spiral(), times(0, 2)
        options = {} if max_order is None else {"max_order": max_order}
        errors = [
            (odeint(field, start(), t, method=method, options=options | {"step_size": h}) - field.exact(start(), t))
            .abs()
            .max()
            .item()
            for h in (0.05, 0.025)
        ]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.4)

    def test_of_an_order_below_4_they_are_rk4(self):
        with pytest.warns(UserWarning, match="max_order is below 4, so the solver reduces to `rk4`"):
            ys = odeint(Spiral(), start(), times(), method="explicit_adams", options={"max_order": 3})
        assert torch.equal(ys, odeint(Spiral(), start(), times(), method="rk4"))

    @pytest.mark.parametrize("max_order", [13, 4.5])
    def test_of_orders_that_are_none(self, max_order):
        with pytest.raises(ValueError, match="max_order must be an integer and at most 12"):
            odeint(Spiral(), start(), times(), method="implicit_adams", options={"max_order": max_order})

    @pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
    def test_from_output_to_output_however_unequal(self, method):
        """There the weights are those of equal steps; here of the times that there are."""
        field = Spiral()
        t = torch.linspace(0, 1, 41, dtype=torch.float64) ** 2
        torch.testing.assert_close(odeint(field, start(), t, method=method), field.exact(start(), t), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("solve", [odeint, odeint_adjoint])
    def test_gradients(self, solve):
        field, y0, t = Spiral(), start(requires_grad=True), torch.linspace(0, 1, 21, dtype=torch.float64)
        found = torch.autograd.grad(solve(field, y0, t, method="implicit_adams").pow(2).sum(), [y0, field.matrix])
        expected = torch.autograd.grad(field.exact(y0, t).pow(2).sum(), [y0, field.matrix])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


class TestRefusals:
    def test_every_method_is_there(self):
        from thalweg.compat.torchdiffeq import _METHODS
        from thalweg.methods.registry import OF_SCIPY

        known = {method.name for method in methods()}
        orders = {"adams_bashforth": "5", "adams_moulton": "5"}
        translated = {method.name + orders.get(method.name, "") for method in _METHODS.values() if method.name}
        assert translated | set(OF_SCIPY.values()) <= known

    def test_a_method_of_neither_library(self):
        with pytest.raises(ValueError, match="method must be one of dopri8, dopri5"):
            odeint(Spiral(), start(), times(), method="rk45")

    def test_times(self):
        with pytest.raises(ValueError, match="strictly increasing or decreasing"):
            odeint(Spiral(), start(), times(0, 1, 0.5))
        with pytest.raises(ValueError, match="strictly increasing or decreasing"):
            odeint(Spiral(), start(), times(0, 0))
        with pytest.raises(TypeError, match="floating point"):
            odeint(Spiral(), start(), torch.tensor([0, 1]))
        with pytest.raises(ValueError, match="one dimensional"):
            odeint(Spiral(), start(), torch.zeros(2, 2))
        with pytest.raises(ValueError, match="t must be a tensor"):
            odeint(Spiral(), start(), [0.0, 1.0])

    def test_states(self):
        with pytest.raises(ValueError, match="tuple of tensors"):
            odeint(Spiral(), [1.0, 2.0], times())
        with pytest.raises(ValueError, match="tuple of tensors"):
            odeint(Spiral(), (), times())
        with pytest.raises(ValueError, match="must be floating or complex"):
            odeint(Spiral(), torch.tensor([1, 2]), times())


@pytest.mark.parametrize("method", [*ADAPTIVE, *FIXED, *COLLOCATION])
def test_it_agrees_with_torchdiffeq(method):
    torchdiffeq = pytest.importorskip("torchdiffeq")
    if method not in importlib.import_module("torchdiffeq._impl.odeint").SOLVERS:
        pytest.skip("newer than the torchdiffeq that is here")
    options = {} if method in ADAPTIVE else {"step_size": 0.125}
    t = times(0.0, 0.5, 1.0)
    results = []
    for solve in (torchdiffeq.odeint_adjoint, odeint_adjoint):
        field, y0 = Spiral(), start(requires_grad=True)
        ys = solve(field, y0, t, method=method, rtol=1e-5, atol=1e-7, options=options)
        ys.pow(2).sum().backward()
        results.append((ys, y0.grad, field.matrix.grad))
    slack = 1e-6 if method in FIXED else 2e-2 if method == "fehlberg2" else 1e-3
    torch.testing.assert_close(*results, rtol=slack, atol=slack)
