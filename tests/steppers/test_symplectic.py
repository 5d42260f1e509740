"""Symplectic splittings: they keep the form of phase space, go back the way they came, and their energy stays near."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp as scipy_solve_ivp

from gradient_checks import give_room
from thalweg import Event, solve_ivp

F64 = torch.float64
METHODS = ["leapfrog", "yoshida4"]
ORDERS = {"leapfrog": 2, "yoshida4": 4}
BATCHINGS = ["joint", "per_sample"]


def velocity(t, p):
    return p * (1 + 0.3 * torch.sin(2 * t))


def force(t, q):
    """Of a pendulum that is pushed."""
    return torch.cos(3 * t) - 5 * torch.sin(q)


def kepler_force(t, q):
    return -q / q.square().sum(-1, keepdim=True) ** 1.5


def same(t, p):
    return p


def reference(q, p, t):
    """SciPy's answer for one pendulum."""

    def fun(t, y):
        return np.array([y[1] * (1 + 0.3 * np.sin(2 * t)), np.cos(3 * t) - 5 * np.sin(y[0])])

    return scipy_solve_ivp(fun, (0, t), (q, p), "DOP853", rtol=1e-13, atol=1e-13).y[:, -1]


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("method", METHODS)
def test_observed_order_where_both_functions_depend_on_time(method, batching):
    starts = [(1.0, 0.0), (-0.5, 1.0), (0.3, -2.0)]
    q, p = torch.tensor(starts, dtype=F64).unsqueeze(-1).unbind(1)
    exact = torch.tensor(np.array([reference(*start, 2.0) for start in starts]), dtype=F64)
    steps = [2 / n for n in (80, 160, 320)]
    errors = []
    for h in steps:
        sol = solve_ivp((velocity, force), (0, 2), (q, p), method, step_size=h, batching=batching)
        errors.append((torch.cat([part[-1] for part in sol.ys], 1) - exact).norm())
    assert abs(np.polyfit(np.log(steps), np.log(errors), 1)[0] - ORDERS[method]) < 0.2


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("method", METHODS)
def test_a_solve_back_returns_to_the_start_to_rounding(method, batching):
    """Though the way there is rough, and the functions depend on time."""
    start = (torch.randn(3, 2, dtype=F64), torch.randn(3, 2, dtype=F64))
    options = {"step_size": 0.25, "batching": batching}
    there = solve_ivp((velocity, force), (0.5, 20.5), start, method, **options)
    back = solve_ivp((velocity, force), (20.5, 0.5), tuple(part[-1] for part in there.ys), method, **options)
    for found, expected in zip(back.ys, start, strict=True):
        torch.testing.assert_close(found[-1], expected, rtol=1e-8, atol=1e-8)
    fine = solve_ivp((velocity, force), (0.5, 20.5), start, "yoshida4", step_size=0.02)
    assert (fine.ys[0][-1] - there.ys[0][-1]).norm() > 1e-2


@pytest.mark.parametrize("method", METHODS)
def test_the_map_of_a_step_keeps_the_symplectic_form(method):
    """Mᵀ J M = J for M = d(q1, p1)/d(q0, p0), of two bodies that pull each other, at a step that is far too long."""

    def end(y):
        sol = solve_ivp((velocity, kepler_force), (0.2, 1.0), y.chunk(2), method, step_size=0.4, gradient="direct")
        return torch.cat([part[-1] for part in sol.ys])

    matrix = torch.autograd.functional.jacobian(end, torch.tensor([1.0, 0.2, -0.3, 0.8], dtype=F64))
    zero, one = torch.zeros(2, 2, dtype=F64), torch.eye(2, dtype=F64)
    form = torch.cat([torch.cat([zero, one], 1), torch.cat([-one, zero], 1)])
    torch.testing.assert_close(matrix.T @ form @ matrix, form, rtol=1e-12, atol=1e-12)


class TestLongSolves:
    def test_the_energy_of_a_pendulum_stays_near_where_that_of_rk4_drifts(self):
        """3000 steps: as near in the last third as in the first, where rk4 has lost three times what it had by then."""
        q, p = torch.tensor([2.0], dtype=F64), torch.tensor([0.0], dtype=F64)
        times = torch.arange(0, 1501, 5, dtype=F64)

        def off(q, p):
            energy = (p**2 / 2 - torch.cos(q)).squeeze(-1)
            return (energy - energy[0]).abs()

        kept = off(*solve_ivp((same, lambda t, q: -q.sin()), (0, 1500), (q, p), "leapfrog", times, step_size=0.5).ys)
        lost = off(
            *solve_ivp(
                lambda t, y: torch.stack([y[1], -torch.sin(y[0])]), (0, 1500), torch.stack([q, p]), "rk4", times,
                step_size=0.5,
            ).ys.unbind(1)
        )  # fmt: skip
        assert kept[201:].max() < 1.1 * kept[:101].max()
        assert lost[-1] > 2.5 * lost[100]
        assert lost[-1] > 5 * kept.max()

    def test_a_planet_keeps_to_its_ellipse(self):
        """Kepler's problem of eccentricity 0.3 over 60 revolutions: angular momentum to rounding, energy near."""
        q = torch.tensor([0.7, 0.0], dtype=F64)
        p = torch.tensor([0.0, math.sqrt(1.3 / 0.7)], dtype=F64)
        t1 = 120 * math.pi
        steps = []
        solve_ivp(
            (same, kepler_force),
            (0, t1),
            (q, p),
            "yoshida4",
            step_size=0.15,
            callback=lambda step: steps.append(step.y),
        )
        q, p = (torch.stack(part) for part in zip(*steps, strict=True))
        momentum = q[:, 0] * p[:, 1] - q[:, 1] * p[:, 0]
        torch.testing.assert_close(momentum, momentum[:1].expand_as(momentum), rtol=1e-12, atol=0)
        energy = p.square().sum(1) / 2 - 1 / q.norm(dim=1)
        third = len(energy) // 3
        off = (energy - energy[0]).abs()
        assert off[-third:].max() < 1.2 * off[:third].max()
        assert off.max() < 5e-3


class TestBetweenSteps:
    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("method", METHODS)
    def test_states_and_slopes_at_the_ends_of_steps_are_the_solvers(self, method, batching):
        start = (torch.randn(2, 1, dtype=F64), torch.randn(2, 1, dtype=F64))
        options = {"step_size": 0.25, "batching": batching}
        sol = solve_ivp((velocity, force), (0, 1), start, method, dense_output=True, **options)
        for t in (0.25, 0.5, 0.75):
            grid = solve_ivp((velocity, force), (0, t), start, method, **options).ys
            for found, expected in zip(sol(t), grid, strict=True):
                torch.testing.assert_close(found, expected[-1], rtol=1e-13, atol=1e-13)
            time = torch.tensor(t, dtype=F64)
            slopes = (velocity(time, grid[1][-1]), force(time, grid[0][-1]))
            for side in (-1e-6, 1e-6):
                for after, at, slope in zip(sol(t + side), sol(t), slopes, strict=True):
                    torch.testing.assert_close((after - at) / side, slope, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("method", METHODS)
    def test_every_evaluation_of_either_function_is_counted(self, method, batching):
        calls = [0, 0]

        def v(t, p):
            calls[0] += 1
            return velocity(t, p)

        def f(t, q):
            calls[1] += 1
            return force(t, q)

        start = (torch.ones(1, 2, dtype=F64), torch.zeros(1, 2, dtype=F64))
        stages = {"leapfrog": 1, "yoshida4": 3}[method]
        for t_eval, inside in ((None, 0), ([0.32, 0.33, 0.87], 2)):
            calls[:] = [0, 0]
            sol = solve_ivp((v, f), (0, 1), start, method, t_eval, step_size=0.1, batching=batching)
            # both at the start; v at both ends of steps with outputs
            assert calls == [1 + 10 * stages + 2 * inside, 1 + 10 * stages]
            assert int(sol.stats.nfev) == sum(calls)

    def test_events_are_found(self):
        """A pendulum hangs straight after a quarter of its period."""
        pair = (same, lambda t, q: -q)
        start = (torch.tensor([1.0], dtype=F64), torch.tensor([0.0], dtype=F64))
        down = Event(lambda t, y: y[0], terminal=True)
        sol = solve_ivp(pair, (0, 3), start, "yoshida4", step_size=0.05, events=down)
        assert abs(sol.t_events[0].item() - math.pi / 2) < 1e-6
        torch.testing.assert_close(sol.y_events[0][1], torch.tensor([[-1.0]], dtype=F64), rtol=1e-5, atol=0)

    @pytest.mark.parametrize("method", METHODS)
    def test_a_force_that_jumps_at_a_known_time(self, method):
        """The kick before the jump is of the old force, the one after it of the new one: exact for constant forces."""
        pair = (same, lambda t, q: torch.where(t < 0.5, 1.0, -3.0) + 0 * q)
        start = (torch.zeros(1, dtype=F64), torch.zeros(1, dtype=F64))
        q, p = solve_ivp(pair, (0, 1), start, method, step_size=0.2, jump_ts=[0.5]).ys
        assert abs(p[-1].item() - (0.5 - 1.5)) < 1e-12
        assert abs(q[-1].item() - (0.125 + 0.25 - 0.375)) < 1e-12


class TestRows:
    @pytest.mark.parametrize("method", METHODS)
    def test_each_over_its_own_times_is_the_row_alone(self, method):
        q, p = torch.randn(4, 2, dtype=F64), torch.randn(4, 2, dtype=F64)
        t0, t1 = torch.tensor([0.0, 1.0, 0.5, 0.0], dtype=F64), torch.tensor([1.0, -1.0, 0.5, 0.55], dtype=F64)
        share = torch.tensor([[0.0], [0.31], [0.8]], dtype=F64)

        def solve(rows):
            times = torch.lerp(t0[rows], t1[rows], share)
            span = (t0[rows], t1[rows])
            return solve_ivp(
                (velocity, force), span, (q[rows], p[rows]), method, times, step_size=0.1, batching="per_sample"
            )

        together = solve([0, 1, 2, 3])
        assert together.stats.n_steps.tolist() == [10, 20, 0, 6]
        for row in range(4):
            alone = solve([row])
            for one, other in zip(together.ys, alone.ys, strict=True):
                torch.testing.assert_close(one[:, row], other[:, 0], rtol=1e-13, atol=1e-13)
            assert together.stats.nfev[row] == alone.stats.nfev[0]

    def test_a_row_that_is_not_finite_fails_alone(self):
        pair = (same, lambda t, q: torch.where(q > 2, math.nan, 1.0 + 0 * q))
        start = (torch.tensor([[1.5], [-9.0]], dtype=F64), torch.ones(2, 1, dtype=F64))
        sol = solve_ivp(pair, (0, 1), start, "leapfrog", step_size=0.1, batching="per_sample", on_failure="return")
        assert sol.success.tolist() == [False, True]
        torch.testing.assert_close(sol.ys[0][-1, 1], torch.tensor([-7.5], dtype=F64), rtol=1e-12, atol=0)


class TestStates:
    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_pairs_of_pytrees(self, batching):
        """As the one tensor of their parts."""
        q, p = torch.randn(3, 2, dtype=F64), torch.randn(3, 2, dtype=F64)

        def parts(y):
            return {"a": y[:, :1], "b": [y[:, 1:]]}

        options = {"method": "yoshida4", "step_size": 0.1, "batching": batching, "t_eval": [0.33, 1.0]}
        tree = solve_ivp(
            (
                lambda t, p: {"a": velocity(t, p["a"]), "b": [p["b"][0]]},
                lambda t, q: {"a": -q["a"] * q["b"][0], "b": [force(t, q["b"][0])]},
            ),
            (0, 1), (parts(q), parts(p)), **options,
        )  # fmt: skip
        flat = solve_ivp(
            (
                lambda t, p: torch.cat([velocity(t, p[:, :1]), p[:, 1:]], 1),
                lambda t, q: torch.cat([-q[:, :1] * q[:, 1:], force(t, q[:, 1:])], 1),
            ),
            (0, 1), (q, p), **options,
        )  # fmt: skip
        for one, other in zip(tree.ys, flat.ys, strict=True):
            torch.testing.assert_close(torch.cat([one["a"], one["b"][0]], -1), other, rtol=1e-13, atol=1e-13)

    @pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
    def test_shapes_and_dtypes_are_kept(self, shape, dtype):
        q, p = torch.ones(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        sol = solve_ivp((same, lambda t, q: -q), (0, 1), [q, p], "yoshida4", [0.5, 1.0], step_size=0.05)
        for found, exact in zip(sol.ys, (math.cos(1), -math.sin(1)), strict=True):
            assert found.shape == (2, *shape)
            assert found.dtype == dtype
            torch.testing.assert_close(found[-1], exact * q, rtol=1e-5, atol=0)

    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_a_function_may_reuse_its_output(self, batching):
        out = torch.empty(2, 1, dtype=F64)
        start = (torch.ones(2, 1, dtype=F64), torch.zeros(2, 1, dtype=F64))
        reused = solve_ivp(
            (lambda t, p: torch.mul(p, 1.0, out=out), lambda t, q: torch.mul(q, -1.0, out=out)),
            (0, 1), start, "yoshida4", [0.5, 1.0], step_size=0.1, batching=batching,
        )  # fmt: skip
        fresh = solve_ivp(
            (same, lambda t, q: -q), (0, 1), start, "yoshida4", [0.5, 1.0], step_size=0.1, batching=batching
        )
        for one, other in zip(reused.ys, fresh.ys, strict=True):
            assert torch.equal(one, other)

    @pytest.mark.parametrize(
        "y0",
        [
            torch.ones(2),
            (torch.ones(2), torch.ones(3)),
            (torch.ones(2), torch.ones(2), torch.ones(2)),
            {"q": torch.ones(2), "p": torch.ones(2)},
            (torch.ones(2), [torch.ones(2)]),
            (torch.ones(2), torch.ones(2, 1)),
        ],
    )
    def test_what_is_no_pair_is_refused(self, y0):
        with pytest.raises(ValueError, match=r"needs y0=\(q, p\), two tensors of one shape"):
            solve_ivp((same, same), (0, 1), y0, "leapfrog", step_size=0.1)

    def test_they_need_a_step_size(self):
        y0 = (torch.ones(1), torch.ones(1))
        with pytest.raises(ValueError, match="'leapfrog' has no error estimate; give step_size="):
            solve_ivp((same, same), (0, 1), y0, "leapfrog")
        with pytest.warns(UserWarning, match="makes no use of jac"):
            solve_ivp((same, same), (0, 1), y0, "leapfrog", step_size=0.5, jac=torch.eye(2))


class TestGradients:
    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("direction", [1, -1])
    @pytest.mark.parametrize("method", METHODS)
    def test_are_those_of_finite_differences(self, method, direction, batching, monkeypatch):
        """Of coarse steps: to what each function captured, args, q0, p0, both times and those of the outputs."""
        a, b, k = (torch.tensor([x, 0.7], dtype=F64, requires_grad=True) for x in (0.3, -0.4, 1.5))
        q0, p0 = (torch.randn(2, 2, dtype=F64, requires_grad=True) for _ in range(2))
        t0, t1 = (torch.tensor(x * direction, dtype=F64, requires_grad=True) for x in (0.1, 1.0))
        t_eval = (direction * torch.tensor([0.25, 0.6, 0.97], dtype=F64)).requires_grad_()

        def loss(a, b, k, q0, p0, t0, t1, t_eval, gradient="direct"):
            sol = solve_ivp(
                (
                    lambda t, p, k: p * k + torch.sin(a * p.flip(-1) * t),
                    lambda t, q, k: torch.cos(b * t) * k - torch.sin(q.flip(-1)),
                ),
                (t0, t1),
                (q0, p0),
                method,
                t_eval,
                args=(k,),
                step_size=0.37,
                batching=batching,
                gradient=gradient,
            )
            return sol.ys[0].square().sum() + sol.ys[1].sin().sum()

        sources = [a, b, k, q0, p0, t0, t1, t_eval]
        assert torch.autograd.gradcheck(loss, sources, eps=1e-5, atol=1e-6, rtol=1e-6)
        direct = torch.autograd.grad(loss(*sources), sources)
        for room in (2**28, 0):  # in one graph, and step by step
            give_room(monkeypatch, room)
            found = torch.autograd.grad(loss(*sources, "checkpointed"), sources)
            for one, other in zip(found, direct, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)

    @pytest.mark.parametrize("ends", [False, True])
    def test_steps_that_are_taken_again_are_counted(self, ends, monkeypatch):
        give_room(monkeypatch, 0)
        calls = []

        def f(t, q):
            calls.append(t)
            return -q.sin()

        def v(t, p):
            calls.append(t)
            return p

        q, p = (torch.ones(2, dtype=F64, requires_grad=True) for _ in range(2))
        sol = solve_ivp((v, f), (0, 1), (q, p), "leapfrog", None if ends else [0.1, 0.77], step_size=0.2)
        sol.ys[0].sum().backward()
        assert sol.stats.nfev + sol.stats.nfev_backward == len(calls)
