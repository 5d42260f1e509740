"""What a person may say of the steps: their norm, where they end, their bounds, and who watches them."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from gradient_checks import give_room
from pairs import taken
from thalweg import Adjoint, Checkpointed, Event, SolveError, Status, solve_ivp
from thalweg.methods import as_method, methods

NAN = math.nan
GRADIENTS = ["direct", "checkpointed", "adjoint", "interpolating"]


def oscillate(t, y):
    return torch.stack([y[1], -y[0]])


def start(**kwargs):
    return torch.tensor([1.0, 0.0], dtype=torch.float64, **kwargs)


def tried(fun, span, y0, **kwargs):
    """All steps that were tried."""
    steps = []
    sol = solve_ivp(fun, span, y0, callback=steps.append, **kwargs)
    return sol, steps


class Jump:
    """dy/dt = -y before the jump, which is at 0.5, and y after it; remembers the times that it saw."""

    def __init__(self):
        self.times = []

    def __call__(self, t, y):
        self.times.append(t.item())
        return torch.where(t < 0.5, -y, y)


class TestNorm:
    def test_a_norm_that_is_ten_times_as_large_is_a_tolerance_of_a_tenth(self):
        plain = solve_ivp(oscillate, (0, 5), start(), rtol=1e-7, atol=1e-9)
        largest = solve_ivp(
            oscillate, (0, 5), start(), rtol=1e-6, atol=1e-8, norm=lambda e: 10 * e.pow(2).mean().sqrt()
        )
        assert largest.stats.n_steps == plain.stats.n_steps
        torch.testing.assert_close(largest.ys, plain.ys)

    def test_it_is_given_the_structure_of_the_state(self):
        def norm(error):
            assert set(error) == {"q", "p"}
            assert error["p"].shape == (2,)
            return error["q"].abs()  # p may err as it likes

        y0 = {"q": torch.tensor(1.0), "p": torch.ones(2)}
        fun = lambda t, y: {"q": -y["q"], "p": -50 * torch.cos(50 * t) * y["p"]}  # noqa: E731
        assert solve_ivp(fun, (0, 1), y0, norm=norm).stats.nfev < solve_ivp(fun, (0, 1), y0).stats.nfev / 5

    def test_rows_have_a_norm_each(self):
        with pytest.raises(ValueError, match="norm is one for all rows"):
            solve_ivp(oscillate, (0, 1), torch.ones(2, 2), batching="per_sample", norm=torch.linalg.norm)

    def test_the_adjoint_is_judged_by_the_norm_of_its_own(self):
        def norm(y, a):
            assert y.shape == a.shape == (2,)
            return max(y.abs().max(), a.abs().max()) * 1e-3

        y0, counts = start(requires_grad=True), []
        for gradient in (Adjoint(), Adjoint(norm=norm)):
            sol = solve_ivp(oscillate, (0, 5), y0, rtol=1e-8, atol=1e-8, gradient=gradient)
            sol.ys[-1].sum().backward()
            counts.append(sol.stats.nfev_backward)
        assert counts[1] < counts[0]


class TestTolerances:
    def test_rtol_may_differ_by_entry(self):
        fun = lambda t, y: torch.stack([50 * torch.cos(50 * t), -y[1]])  # noqa: E731
        strict = torch.tensor([1e-9, 1e-9], dtype=torch.float64)
        one = solve_ivp(fun, (0, 3), start() + 1, rtol=1e-9, atol=1e-9)
        many = solve_ivp(fun, (0, 3), start() + 1, rtol=strict, atol=1e-9)
        torch.testing.assert_close(one.ys, many.ys, rtol=1e-10, atol=0)
        loose = torch.tensor([1.0, 1e-9], dtype=torch.float64)
        assert solve_ivp(fun, (0, 3), start() + 1, rtol=loose, atol=1e-9).stats.nfev < one.stats.nfev / 2

    @pytest.mark.parametrize("rtol", [0.0, -1.0, torch.tensor([1e-3, 0.0]), "tight"])
    def test_what_is_no_tolerance_is_refused(self, rtol):
        with pytest.raises(ValueError, match="rtol must"):
            solve_ivp(oscillate, (0, 1), start(), rtol=rtol)


class TestStops:
    @pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)])
    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_no_step_crosses_one(self, span, batching):
        stops = [0.7, 0.1, 0.3, 2.0, -1.0]
        y0 = torch.ones(2, 1, dtype=torch.float64)
        _, steps = tried(lambda t, y: -y, span, y0, step_ts=stops, batching=batching, rtol=1e-4)
        for step in steps:
            low, high = sorted((torch.as_tensor(step.t), torch.as_tensor(step.t + step.h)), key=lambda t: t.sum())
            for stop in stops:
                assert not ((low + 1e-12 < stop) & (stop < high - 1e-12)).any()

    def test_the_step_after_a_stop_is_not_smaller_for_it(self):
        free = solve_ivp(oscillate, (0, 10), start())
        stopped = solve_ivp(oscillate, (0, 10), start(), step_ts=[5.0 - 1e-6])
        assert stopped.stats.n_steps <= free.stats.n_steps + 2

    def test_a_grid(self):
        grid = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=torch.float64)
        sol, steps = tried(lambda t, y: y, (0, 1), torch.ones(1), method="euler", step_ts=grid, step_size=1.0)
        assert [step.t for step in steps] == pytest.approx([0.0, 0.1, 0.5])
        assert sol.ys[-1].item() == pytest.approx(1.1 * 1.4 * 1.5)

    @pytest.mark.parametrize("name", ["step_ts", "jump_ts"])
    @pytest.mark.parametrize("times", [[], [0.25], [0.25, 0.5]])
    @pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
    def test_they_come_as_any_sequence(self, kind, times, name):
        fun = Jump()
        solve_ivp(fun, (0, 1), start(), rtol=0.1, **{name: kind(times)})
        assert all(min(abs(t - time) for t in fun.times) < 1e-12 for time in times)

    @pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)])
    @pytest.mark.parametrize("method", ["implicit_midpoint", "sdirk2", "gl4", "radau5"])
    def test_a_jacobian_is_made_anew_at_each(self, span, method):
        y0, grid = torch.tensor([1.0], dtype=torch.float64), torch.linspace(0, 1, 5)
        smooth = solve_ivp(lambda t, y: -y, span, y0, method, step_size=0.25)
        assert smooth.stats.njev == 1
        assert solve_ivp(lambda t, y: -y, span, y0, method, step_size=1.0, step_ts=grid).stats.njev == 4

    @pytest.mark.parametrize("method", ["kvaerno3", "radau5"])
    def test_the_jacobian_of_a_row_is_made_anew_by_its_own_steps(self, method):
        y0 = torch.tensor([[1.0, 2.0], [30.0, 2.0], [3.0, 1.0]], dtype=torch.float64)

        def kinked(t, y):
            return torch.stack([-y[:, 0] * (1 + 40 * (t[:, 0] - 0.5).abs()), torch.sin(y[:, 0]) - y[:, 1]], 1)

        options = {"method": method, "rtol": 1e-5, "atol": 1e-7, "batching": "per_sample"}
        together = solve_ivp(kinked, (0, 1), y0, step_ts=[0.5], **options)
        for i in range(3):
            alone = solve_ivp(kinked, (0, 1), y0[i : i + 1], step_ts=[0.5], **options)
            for count in ("n_steps", "nfev", "njev", "nlu"):
                assert getattr(together.stats, count)[i] == getattr(alone.stats, count)[0]
            torch.testing.assert_close(together.ys[:, i], alone.ys[:, 0], rtol=1e-12, atol=1e-14)
        assert (together.stats.njev > solve_ivp(kinked, (0, 1), y0, **options).stats.njev).any()

    @pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)])
    @pytest.mark.parametrize("method", ["tsit5", "bosh3", "fehlberg2"])
    def test_a_jump_is_seen_from_either_side(self, span, method):
        y0, field = torch.tensor([1.0], dtype=torch.float64), Jump()
        sol = solve_ivp(field, span, y0, method, jump_ts=[0.5], rtol=1e-8, atol=1e-10)
        assert 0.5 not in field.times
        torch.testing.assert_close(sol.ys[-1], torch.ones(1, dtype=torch.float64), rtol=1e-6, atol=1e-6)
        assert int(sol.stats.n_rejected) <= 1

    def test_each_evaluation_is_counted(self):
        field = Jump()
        assert solve_ivp(field, (0, 1), torch.ones(1), jump_ts=[0.5]).stats.nfev == len(field.times)

    @pytest.mark.parametrize("gradient", GRADIENTS)
    @pytest.mark.parametrize("room", [2**28, 0])
    def test_gradients_go_through_a_jump(self, gradient, room, monkeypatch):
        give_room(monkeypatch, room)
        rate = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
        y0 = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
        fun = lambda t, y, k: torch.where(t < 0.5, -k * y, k * k * y)  # noqa: E731
        sol = solve_ivp(
            fun, (0, 1), y0, args=(rate,), jump_ts=[0.5], rtol=1e-9, atol=1e-10, gradient=gradient, t_eval=[0.2, 0.9, 1]
        )
        sol.ys[-1].sum().backward()
        growth = math.exp(0.5 * (1.5**2 - 1.5))
        assert y0.grad.item() == pytest.approx(growth, rel=1e-6)
        assert rate.grad.item() == pytest.approx(2 * growth * (1.5 - 0.5), rel=1e-6)

    @pytest.mark.parametrize("gradient", [*GRADIENTS, "forward", "reversible", Checkpointed(0), Checkpointed(0, 1)])
    @pytest.mark.parametrize(("t0", "t1", "to_t0", "to_t1"), [(0.5, 1.5, -1, 2), (0.5, 1, -1, 1), (1, 1.5, -2, 2)])
    @pytest.mark.parametrize("direction", [1, -1])
    def test_a_jump_stays_where_it_is_as_the_ends_move(self, gradient, t0, t1, to_t0, to_t1, direction):
        """dy/dt = 1 before 1, and 2 after it: a step at an end sees its own side."""
        t0, t1 = (torch.tensor(direction * t, dtype=torch.float64, requires_grad=True) for t in (t0, t1))
        fun = lambda t, y: torch.where(t * direction < 1, 1.0, 2.0).expand_as(y) + 0 * y  # noqa: E731
        y0 = torch.zeros(1, dtype=torch.float64)
        sol = solve_ivp(fun, (t0, t1), y0, jump_ts=[direction], max_step=0.2, gradient=gradient)
        found = torch.autograd.grad(sol.ys[-1].sum(), (t0, t1))
        assert [x.item() for x in found] == pytest.approx([to_t0, to_t1], rel=1e-9)

    @pytest.mark.parametrize("gradient", ["direct", "checkpointed", "forward", Checkpointed(0), Checkpointed(0, 1)])
    def test_of_rows_that_begin_apart_each_meets_a_stop_where_it_is(self, gradient):
        """Euler's method sees but the beginnings of steps: 1 before the stop at 1, and 3 from there on."""
        t0 = torch.tensor([0.1, 0.6, 1.0, 1.2], dtype=torch.float64, requires_grad=True)
        fun = lambda t, y: torch.where(t < 1, 1.0, 3.0).expand_as(y) + 0 * y  # noqa: E731
        y0, options = torch.zeros(4, 1, dtype=torch.float64), {"step_size": 0.3, "batching": "per_sample"}
        sol = solve_ivp(fun, (t0, 2.0), y0, "euler", step_ts=[1.0, 1.7], gradient=gradient, **options)
        (found,) = torch.autograd.grad(sol.ys[-1].sum(), t0)
        assert found.tolist() == pytest.approx([-1, -1, -3, -3], rel=1e-9)

    def test_a_jump_stays_where_it_is_as_an_event_before_it_moves(self):
        """A clock that begins anew when y0 is 1, at 1 / k, and runs twice as fast from 2 on."""
        k = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
        fun = lambda t, y: torch.stack([k + 0 * y[0], torch.where(t < 2, 1.0, 2.0) + 0 * y[1]])  # noqa: E731
        reached = Event(lambda t, y: y[0] - 1, apply=lambda t, y: torch.zeros_like(y) - torch.tensor([9.0, 0.0]))
        y0 = torch.zeros(2, dtype=torch.float64)
        sol = solve_ivp(fun, (0.0, 3.0), y0, events=reached, jump_ts=[2.0])
        (found,) = torch.autograd.grad(sol.ys[-1, 1], k)
        assert found.item() == pytest.approx(1 / 0.8**2, rel=1e-9)

    @pytest.mark.parametrize(
        ("stops", "message"),
        [
            ("soon", "must be real"),
            (torch.tensor([0.5 + 0j]), "must be real"),
            ([[0.5], [0.6, 0.7]], r"must be real numbers of shape \(K,\)"),
            ([NAN], "must be finite"),
            (
                [[0.5], [0.7]],
                r"must be .* shape \(K,\), got shape \(2, 1\); times of their own .* batching='per_sample'",
            ),
        ],
    )
    def test_what_is_no_time_is_refused(self, stops, message):
        with pytest.raises(ValueError, match=f"step_ts {message}"):
            solve_ivp(oscillate, (0, 1), start(), step_ts=stops)

    def test_a_gradient_to_the_time_of_a_jump_is_refused_and_an_event_has_it(self):
        """dy/dt = 1 before tau, and 2 after it."""
        tau = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
        y0 = torch.tensor([0.0, 1.0], dtype=torch.float64)
        with pytest.raises(ValueError, match=r"jump_ts needs a gradient.*jump_ts.detach\(\).*an event"):
            solve_ivp(lambda t, y: torch.where(t < tau, 1.0, 2.0) + 0 * y, (0, 1), y0, jump_ts=tau)
        with torch.no_grad():
            assert solve_ivp(lambda t, y: torch.where(t < tau, 1.0, 2.0) + 0 * y, (0, 1), y0, jump_ts=tau).success
        change = Event(lambda t, y: t - tau, apply=lambda t, y: y + torch.tensor([0.0, 1.0]))
        sol = solve_ivp(lambda t, y: torch.stack([y[1], 0 * y[1]]), (0, 1), y0, events=change)
        torch.testing.assert_close(sol.ys[-1, 0], 2 - tau[0])
        assert torch.autograd.grad(sol.ys[-1, 0], tau)[0].item() == pytest.approx(-1)


class TestStopsOfRows:
    """dy/dt = -k y before a row's jump and k² y after it; two rows have none in the span, one has two stops more."""

    JUMPS = torch.tensor([[0.5, NAN, 0.7, 2.0], [NAN, NAN, 0.3, NAN], [0.5, NAN, NAN, NAN]], dtype=torch.float64)
    AT = torch.tensor([0.5, math.inf, 0.7, math.inf], dtype=torch.float64).unsqueeze(1)

    @staticmethod
    def field(t, y, k, at):
        return torch.where(t < at, -k * y, k * k * y)

    def solve(self, rows=(0, 1, 2, 3), k=1.5, t_span=(0.0, 1.0), y0=2.0, **options):
        rows = list(rows)
        y0 = torch.full((len(rows), 1), y0, dtype=torch.float64) if isinstance(y0, float) else y0
        given = {"jump_ts": self.JUMPS[:, rows], "batching": "per_sample", "rtol": 1e-9, "atol": 1e-10, **options}
        return solve_ivp(self.field, t_span, y0, args=(torch.as_tensor(k).double(), self.AT[rows]), **given)

    def exact(self, t, t0, k=1.5):
        """y(t) / y0, where t and t0 are numbers or of rows."""
        behind = lambda t: torch.clamp(t - self.AT[:, 0], min=0.0)  # noqa: E731
        return torch.exp(-k * (t - t0) + (k + k * k) * (behind(t) - behind(t0)))

    @pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)])
    @pytest.mark.parametrize("method", [m.name for m in methods() if m.pair is None])
    def test_a_row_takes_the_steps_that_it_takes_alone(self, method, span):
        step_size = None if as_method(method).adaptive else 0.2
        options = {"method": method, "t_span": span, "rtol": 1e-2, "atol": 1e-3, "step_size": step_size}
        together = self.solve(**options)
        for row in range(4):
            alone = self.solve([row], **options)
            for count in ("n_steps", "n_accepted", "nfev"):
                assert getattr(together.stats, count)[row] == getattr(alone.stats, count)[0], count
            torch.testing.assert_close(together.ys[:, row], alone.ys[:, 0], rtol=1e-12, atol=1e-14)
            own = self.JUMPS[:, row][self.JUMPS[:, row].isfinite()].tolist()
            scalar = lambda t, y, k, at=self.AT[row]: self.field(t, y, k, at)  # noqa: E731
            joint = solve_ivp(scalar, y0=alone.ys[0, 0], args=(1.5,), jump_ts=own, **options)
            assert joint.stats.n_steps == together.stats.n_steps[row]
            torch.testing.assert_close(joint.ys, alone.ys[:, 0], rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)])
    @pytest.mark.parametrize("kind", ["step_ts", "jump_ts"])
    def test_it_stops_at_its_own_and_at_no_other(self, kind, span):
        """Bit for bit where they are."""
        seen, every = [], {t for t in self.JUMPS.flatten().tolist() if 0 < t < 1}
        self.solve(t_span=span, callback=seen.append, **{"step_ts": (), "jump_ts": (), kind: self.JUMPS})
        ends = torch.stack([step.t for step in seen])
        for row in range(4):
            assert every & set(ends[:, row].tolist()) == every & set(self.JUMPS[:, row].tolist())

    @pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)])
    def test_outputs_are_exact_at_a_jump_and_on_both_its_sides(self, span):
        rows = [[0.0, 0.4, 0.5, 1.0], [0.0, 0.5, 0.6, 1.0], [0.0, 0.69, 0.7, 0.71], [0.0, 0.1, NAN, NAN]]
        times = torch.tensor(rows, dtype=torch.float64).T
        times = times if span[0] == 0 else 1 - times
        sol = self.solve(t_span=span, t_eval=times, dense_output=True)
        expected = 2 * self.exact(times, torch.tensor(span[0]))
        for found in (sol.ys[..., 0], torch.where(times.isnan(), times, sol(times.nan_to_num(nan=0.2))[..., 0])):
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8, equal_nan=True)

    @pytest.mark.parametrize(
        "gradient", [*GRADIENTS, "gauss", "forward", "reversible", Checkpointed(0), Checkpointed(0, 1)]
    )
    @pytest.mark.parametrize("backward", [False, True])
    @pytest.mark.parametrize("ends", [False, True])
    def test_gradients_are_those_of_the_solution(self, gradient, backward, ends):
        """To the rate, to y0 and to the times, each row's own."""
        t0, t1 = torch.tensor([[0.1, 0.0, 0.5, 0.2], [0.9, 1.0, 1.1, 1.0]], dtype=torch.float64)
        t0, t1 = (x.requires_grad_() for x in ((t1, t0) if backward else (t0, t1)))
        y0 = torch.tensor([[2.0], [1.0], [-1.0], [3.0]], dtype=torch.float64, requires_grad=True)
        k, weights = torch.tensor(0.8, dtype=torch.float64, requires_grad=True), y0.detach()[:, 0].sin()
        sources = (k, y0, t0, t1)
        middle = torch.lerp(t0.detach(), t1.detach(), 0.6)
        sol = self.solve(
            k=k, y0=y0, t_span=(t0, t1), gradient=gradient, t_eval=None if ends else torch.stack([middle, t1])
        )
        found = torch.autograd.grad((sol.ys[..., 0] * weights).sum(), sources)
        at = (t0, t1) if ends else (middle, t1)
        expected = torch.autograd.grad(sum((y0[:, 0] * self.exact(t, t0, k) * weights).sum() for t in at), sources)
        for x, y in zip(found, expected, strict=True):
            torch.testing.assert_close(x, y, rtol=2e-6, atol=2e-6)

    @pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint", "reversible", Checkpointed(0)])
    def test_rows_may_leave(self, gradient):
        found = []
        for shrink in (False, True):
            y0 = torch.tensor([[2.0], [1.0], [-1.0], [3.0]], dtype=torch.float64, requires_grad=True)
            k = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
            sol = self.solve(
                k=k, y0=y0, gradient=gradient, shrink=shrink, t_span=(0.0, torch.tensor([1.0, 0.2, 4.0, 2.5]))
            )
            found.append((sol.ys.detach(), *torch.autograd.grad(sol.ys[-1].sum(), [y0, k])))
        torch.testing.assert_close(*found, rtol=1e-11, atol=1e-12)

    @pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint"])
    def test_a_neighbour_that_is_not_finite_spoils_nothing(self, gradient):
        y0 = torch.tensor([[2.0], [NAN], [-1.0], [math.inf]], dtype=torch.float64, requires_grad=True)
        k = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
        sol = self.solve(k=k, y0=y0, gradient=gradient, on_failure="return")
        assert sol.success.tolist() == [True, False, True, False]
        found = torch.autograd.grad(sol.ys[-1, [0, 2], 0].sum(), [y0, k])
        expected = torch.autograd.grad((y0[[0, 2], 0] * self.exact(1.0, 0.0, k)[[0, 2]]).sum(), [y0, k])
        for x, y in zip(found, expected, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("gradient", ["direct", "checkpointed", "interpolating", Checkpointed(0, 1)])
    def test_events_move_but_not_the_jumps_behind_them(self, gradient):
        """A clock that begins anew when y0 is 1, at 1 / k, and runs twice as fast from a time of each row on."""
        k = torch.tensor([0.8, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
        at = torch.tensor([2.0, 2.5, NAN], dtype=torch.float64)

        known = at.nan_to_num(nan=2.0)

        def fun(t, y, k):
            return torch.stack([k + 0 * y[:, 0], torch.where(t[:, 0] < at.nan_to_num(nan=9.0), 1.0, 2.0)], 1)

        reached = Event(lambda t, y, k: y[:, 0] - 1, apply=lambda t, y, k: torch.zeros_like(y) - y.new_tensor([9.0, 0]))
        sol = solve_ivp(
            fun, (0.0, 3.0), torch.zeros(3, 2, dtype=torch.float64), args=(k,), events=reached, jump_ts=at[None],
            batching="per_sample", gradient=gradient, t_eval=torch.stack([known, known * 0 + 3]),
        )  # fmt: skip
        torch.testing.assert_close(sol.t_events[0][0], 1 / k)
        clock = sol.ys[:, :, 1]
        torch.testing.assert_close(clock[0], known - 1 / k)
        torch.testing.assert_close(clock[1], 3 - 1 / k + (3 - at).nan_to_num(nan=0.0))
        (found,) = torch.autograd.grad(clock.sum(), k)
        torch.testing.assert_close(found, 2 / k.detach() ** 2)

    @pytest.mark.parametrize(
        ("times", "message"),
        [
            (torch.ones(2, 4), r"shape \(K,\) or \(K, 2\), got shape \(2, 4\)"),
            (torch.ones(1, 2, 3), r"\(K,\) or \(K, 2\)"),
            (torch.tensor([[1.0, math.inf]]), "finite times, .* with NaN for those that a row lacks"),
            ([NAN], "finite times"),
        ],
    )
    def test_others_are_refused(self, times, message):
        with pytest.raises(ValueError, match=f"jump_ts must be .*{message}"):
            solve_ivp(oscillate, (0, 1), torch.ones(2, 2), batching="per_sample", jump_ts=times)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize(
    ("name", "sparsity"),
    [
        *((method.name, None) for method in methods()),
        *((name, ("banded", 0, 0)) for name in ("trbdf2", "rosenbrock23")),
    ],
)
def test_a_field_may_write_all_slopes_into_one_tensor(name, sparsity, batching):
    """As one does that calls another program; here beside one that computes the same anew, neither in a graph."""
    method = as_method(name)

    def anew(fun):
        return lambda t, y: fun(t, y).detach()

    def into_its_own(fun):
        out = torch.empty(0, dtype=torch.float64)
        return lambda t, y: out.resize_(y.shape).copy_(fun(t, y).detach())

    def end(wrapped):
        y0 = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
        fun, y0 = taken(lambda t, y: -(1 + t) * y, y0, name)
        fun = tuple(map(wrapped, fun)) if method.pair else wrapped(fun)
        sizes = {} if method.adaptive else {"step_size": 0.1}
        return solve_ivp(
            fun, (0.0, 1.0), y0, name, (0.0, 0.3, 1.0), jump_ts=(0.5,), jac_sparsity=sparsity, batching=batching,
            backend="eager", **sizes,
        ).ys  # fmt: skip

    for recorded in (False, True):
        with torch.set_grad_enabled(recorded):
            torch.testing.assert_close(end(into_its_own), end(anew), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["trbdf2", "radau5"])
def test_all_jacobians_may_be_written_into_one_tensor(name):
    """Rows keep theirs from step to step, and a gradient asks for one of each stage."""
    stiffness, out = torch.tensor([1.0, 5.0, 30.0], dtype=torch.float64), torch.empty(3, 2, 2, dtype=torch.float64)

    def van_der_pol(t, y):
        x, v = y.unbind(1)
        return torch.stack([v, stiffness * (1 - x**2) * v - x], 1)

    def jacobian(t, y):
        x, v = y.detach().unbind(1)
        rows = [torch.stack([0 * x, x**0], 1), torch.stack([-2 * stiffness * x * v - 1, stiffness * (1 - x**2)], 1)]
        return torch.stack(rows, 1)

    def solved(jac):
        y0 = torch.tensor([[2.0, 0.0]] * 3, dtype=torch.float64, requires_grad=True)
        ys = solve_ivp(van_der_pol, (0.0, 1.0), y0, name, jac=jac, batching="per_sample").ys[-1]
        with torch.no_grad():
            alone = solve_ivp(van_der_pol, (0.0, 1.0), y0, name, jac=jac, batching="per_sample").ys[-1]
        return alone, *torch.autograd.grad(ys.sum(), y0)

    torch.testing.assert_close(solved(lambda t, y: out.copy_(jacobian(t, y))), solved(jacobian), rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", [m.name for m in methods() if m.pair is None])
def test_a_stage_at_the_end_of_a_step_is_there_to_the_last_digit(method):
    seen, ends = set(), torch.linspace(0, 1, 5, dtype=torch.float64)

    def fun(t, y):
        seen.add(t.item())
        return -t * y

    solve_ivp(fun, (0, 1), start(), method, step_size=0.25, t_eval=[0.1, 0.6, 1.0])
    apart = (torch.tensor(sorted(seen), dtype=torch.float64)[:, None] - ends).abs()
    assert not bool(((apart > 0) & (apart < 1e-9)).any())


class TestBounds:
    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_no_step_but_the_last_is_smaller_than_min_step(self, batching):
        y0 = torch.ones(2, 1, dtype=torch.float64)
        sol, steps = tried(lambda t, y: -y, (0, 2.05), y0, rtol=1e-12, atol=1e-12, min_step=0.1, batching=batching)
        assert bool(torch.as_tensor(sol.success).all())
        assert len(steps) == 21
        assert all(bool(torch.as_tensor(step.accepted).all()) for step in steps)

    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_a_field_that_is_not_finite_still_fails(self, batching):
        fun = lambda t, y: torch.where(t > 0.5, torch.nan, -y)  # noqa: E731
        with pytest.raises(SolveError, match="NaN"):
            solve_ivp(fun, (0, 1), torch.ones(2, 1), min_step=0.01, batching=batching)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("step_size", math.inf),
            ("first_step", math.inf),
            ("max_step", NAN),
            ("min_step", "small"),
            ("max_steps", True),
            ("callback", 3),
        ],
    )
    def test_what_is_no_bound_is_refused_by_its_name(self, name, value):
        with pytest.raises(ValueError, match=f"^{name} must "):
            solve_ivp(oscillate, (0, 1), start(), **{name: value})

    def test_it_must_not_exceed_max_step(self):
        with pytest.raises(ValueError, match="min_step must lie between"):
            solve_ivp(oscillate, (0, 1), start(), min_step=0.2, max_step=0.1)


class TestCallback:
    @pytest.mark.parametrize("gradient", GRADIENTS)
    def test_it_sees_each_step_once(self, gradient):
        y0 = start(requires_grad=True)
        sol, steps = tried(oscillate, (0, 20), y0, gradient=gradient, first_step=5.0)
        assert len(steps) == sol.stats.n_steps
        assert sum(step.accepted for step in steps) == sol.stats.n_accepted < sol.stats.n_steps
        assert not any(step.y.requires_grad or step.y_new.requires_grad for step in steps)
        kept = [step for step in steps if step.accepted]
        for before, after in pairwise(kept):
            assert after.t == before.t + before.h
            assert torch.equal(after.y, before.y_new)
        sol.ys[-1].sum().backward()
        assert len(steps) == sol.stats.n_steps

    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_it_may_stop_the_solve(self, batching):
        y0 = torch.ones(2, 2)
        stop = lambda step: bool((torch.as_tensor(step.t) > 0.2).any())  # noqa: E731
        kwargs = {"callback": stop, "batching": batching, "max_step": 0.1}
        sol = solve_ivp(lambda t, y: -y, (0, 1), y0, t_eval=[0.1, 1.0], on_failure="return", **kwargs)
        assert (torch.as_tensor(sol.status) == Status.STOPPED).all()
        assert sol.ys[0].isfinite().all()
        assert sol.ys[1].isnan().all()
        with pytest.raises(SolveError, match="the callback stopped the solve"):
            solve_ivp(lambda t, y: -y, (0, 1), y0, **kwargs)

    def test_the_adjoint_has_one_of_its_own(self):
        back = []
        y0 = {"q": torch.ones(2, requires_grad=True)}
        sol = solve_ivp(lambda t, y: {"q": -y["q"]}, (0, 1), y0, gradient=Adjoint(callback=back.append))
        assert not back
        sol.ys["q"][-1].sum().backward()
        assert next(step.t for step in back) == 1.0
        assert all(step.h < 0 and step.y["q"].shape == (2,) for step in back)


class TestAdjoint:
    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_the_solve_back_has_its_own_tolerance_and_method(self, batching):
        y0, costs = torch.ones(3, 2, dtype=torch.float64, requires_grad=True), []
        for gradient in (Adjoint(), Adjoint(rtol=1e-10, atol=1e-10), Adjoint(method="bosh3")):
            sol = solve_ivp(lambda t, y: -y, (0, 2), y0, gradient=gradient, batching=batching, rtol=1e-5)
            (grad,) = torch.autograd.grad(sol.ys[-1].sum(), y0)
            torch.testing.assert_close(grad, torch.full_like(grad, math.exp(-2)), rtol=1e-3, atol=1e-3)
            costs.append(sol.stats.nfev_backward)
        assert costs[0] < costs[1]
        assert costs[0] != costs[2]

    def test_equal_steps_forward_may_be_adaptive_back(self):
        y0 = start(requires_grad=True)
        for forward, back in (({"step_size": 0.1}, Adjoint(controller="i")), ({}, Adjoint(step_size=0.1))):
            sol = solve_ivp(oscillate, (0, 1), y0, gradient=back, **forward)
            (grad,) = torch.autograd.grad(sol.ys[-1, 0], y0)
            torch.testing.assert_close(grad, start().new_tensor([math.cos(1), math.sin(1)]), rtol=1e-4, atol=1e-4)

    def test_what_is_no_gradient_method_is_refused(self):
        with pytest.raises(ValueError, match="gradient must be one of"):
            solve_ivp(oscillate, (0, 1), start(), gradient=3)
