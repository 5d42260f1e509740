"""IMEX methods: f explicitly and g implicitly, their order together, rows that fail alone, and gradients to both."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp as scipy_solve_ivp

from gradient_checks import give_room
from thalweg import Adjoint, Status, solve_ivp

F64 = torch.float64
BATCHINGS = ["joint", "per_sample"]


def pushing(t, y):
    """One half of a pushed pendulum."""
    t = t[..., 0] if t.ndim else t
    x, v = y.unbind(-1)
    return torch.stack([v, torch.cos(3 * t) * (1 + x)], -1)


def pulling(t, y):
    """The other half."""
    x, v = y.unbind(-1)
    return torch.stack([-0.1 * x * x, -0.25 * v - 5 * torch.sin(x)], -1)


def whole(f, g):
    """The sum, for SciPy."""

    def fun(t, y):
        t, y = torch.tensor(t, dtype=F64), torch.from_numpy(y)
        return (f(t, y) + g(t, y)).numpy()

    return fun


def reference(f, g, t_span, y0, method="Radau"):
    """The end, at tolerances far below those tested."""
    return torch.from_numpy(scipy_solve_ivp(whole(f, g), t_span, y0, method, rtol=1e-11, atol=1e-11).y[:, -1])


@pytest.mark.parametrize("halves", [(pushing, pulling), (pulling, pushing)], ids=["one way", "the other"])
def test_order_4_of_two_different_functions(halves):
    """Whichever half is taken implicitly."""
    exact = reference(*halves, (0, 2), [1.0, 0.0], "DOP853")
    steps = [2 / n for n in (16, 32, 64)]
    errors = [
        (
            solve_ivp(
                halves, (0, 2), torch.tensor([1.0, 0.0], dtype=F64), "kencarp4", step_size=h, rtol=1e-13, atol=1e-13
            ).ys[-1]
            - exact
        ).norm()
        for h in steps
    ]
    assert abs(np.polyfit(np.log(steps), np.log(errors), 1)[0] - 4) < 0.2


class Brusselator:
    """u' = 1 + u² w - 4 u + u'' / 50, w' = 3 u - u² w + w'' / 50 on n points, fast where they are close."""

    def __init__(self, n):
        x = torch.linspace(0, 1, n + 2, dtype=F64)[1:-1]
        self.y0 = torch.cat([1 + torch.sin(2 * math.pi * x), torch.full((n,), 3.0, dtype=F64)])
        second = torch.diag(torch.full((n,), -2.0, dtype=F64))
        second += torch.diag(torch.ones(n - 1, dtype=F64), 1) + torch.diag(torch.ones(n - 1, dtype=F64), -1)
        self.matrix = second * (n + 1) ** 2 / 50
        self.ends = torch.zeros(n, dtype=F64)
        self.ends[[0, -1]] = (n + 1) ** 2 / 50

    def reaction(self, t, y):
        u, w = y.chunk(2, -1)
        return torch.cat([1 + u * u * w - 4 * u, 3 * u - u * u * w], -1)

    def diffusion(self, t, y):
        u, w = y.chunk(2, -1)
        return torch.cat([u @ self.matrix + self.ends, w @ self.matrix + 3 * self.ends], -1)

    def jac(self, t, y):
        return torch.block_diag(self.matrix, self.matrix)


class TestStiffProblems:
    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_a_reaction_with_diffusion(self, batching):
        """The reaction explicitly, the diffusion implicitly: SciPy's answer, in fewer steps than an explicit method."""
        model = Brusselator(40)
        y0 = model.y0.unsqueeze(0)
        options = {"rtol": 1e-4, "atol": 1e-4, "batching": batching}
        sol = solve_ivp((model.reaction, model.diffusion), (0, 5), y0, "kencarp4", **options)
        exact = reference(model.reaction, model.diffusion, (0, 5), model.y0.numpy())
        torch.testing.assert_close(sol.ys[-1, 0], exact, rtol=1e-3, atol=1e-3)
        explicit = solve_ivp(lambda t, y: model.reaction(t, y) + model.diffusion(t, y), (0, 5), y0, "tsit5", **options)
        assert 3 * int(sol.stats.n_steps) < int(explicit.stats.n_steps)
        assert int(sol.stats.njev) <= 2  # it is linear

    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_a_mild_push_towards_a_curve_that_pulls_hard(self, batching):
        """The solution is cos t, and so is its start but for what dies out at once."""
        sol = solve_ivp(
            (lambda t, y: -torch.sin(t) + 0 * y, lambda t, y: -1e6 * (y - torch.cos(t))),
            (0.0, 3.0),
            torch.tensor([[2.0]], dtype=F64),
            "kencarp4",
            rtol=1e-5,
            batching=batching,
        )
        assert abs(sol.ys[-1].item() - math.cos(3.0)) < 1e-4
        assert int(sol.stats.n_steps) < 200

    def test_jac_is_that_of_the_stiff_part(self):
        model = Brusselator(10)
        pair = (model.reaction, model.diffusion)
        options = {"method": "kencarp4", "rtol": 1e-6}
        found = solve_ivp(pair, (0, 1), model.y0, **options)
        for jac in (model.jac, model.jac(None, None)):
            given = solve_ivp(pair, (0, 1), model.y0, jac=jac, **options)
            torch.testing.assert_close(given.ys, found.ys, rtol=1e-12, atol=1e-12)
            assert given.stats.nfev == found.stats.nfev

    def test_the_mild_part_is_not_differentiated(self):
        """It may be anything that returns a tensor."""

        def f(t, y):
            return torch.from_numpy(np.sin(y.numpy()))

        def g(t, y):
            return -50 * y**3

        y0 = torch.tensor([1.0, -0.3], dtype=F64)
        sol = solve_ivp((f, g), (0, 2), y0, "kencarp4", rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(sol.ys[-1], reference(f, g, (0, 2), y0.numpy()), rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("place", [0, 1])
    def test_either_part_may_jump_at_a_known_time(self, place):
        """Y' = y until t = 0.5 and -3 y from there on, less y throughout."""
        pair = [lambda t, y: -y, lambda t, y: -y]
        pair[place] = lambda t, y: torch.where(t < 0.5, 1.0, -3.0) * y
        y0 = torch.ones(1, dtype=F64)
        sol = solve_ivp(pair, (0.0, 1.0), y0, "kencarp4", jump_ts=[0.5], rtol=1e-8, atol=1e-8)
        assert abs(sol.ys[-1].item() - math.exp(-2)) < 1e-7
        assert sol.stats.njev == 2

    def test_single_precision(self):
        y0 = torch.ones(3)
        sol = solve_ivp((lambda t, y: -y, lambda t, y: -1000 * (y - 1)), (0, 1), y0, "kencarp4", rtol=1e-4)
        assert sol.ys.dtype == torch.float32
        torch.testing.assert_close(sol.ys[-1], torch.full((3,), 1000 / 1001), rtol=1e-3, atol=1e-3)


class TestRows:
    STARTS = torch.tensor([[1.0, 0.1], [0.3, 50.0], [-1.0, 1e4], [0.5, 3.0]], dtype=F64)

    @staticmethod
    def mild(t, y):
        return torch.cat([torch.sin(2 * t) + y[:, :1] ** 2 / 4, 0 * y[:, 1:]], 1)

    @staticmethod
    def stiff(t, y):
        """The second component says how stiff a row is."""
        z, k = y[:, :1], y[:, 1:]
        return torch.cat([-k * (z**3 - torch.cos(t)), 0 * k], 1)

    def test_counts_and_answers_are_each_rows_own(self):
        def solve(y0):
            return solve_ivp(
                (self.mild, self.stiff), (0.0, 1.0), y0, "kencarp4", batching="per_sample", rtol=1e-5, atol=1e-7
            )

        together = solve(self.STARTS)
        assert len(set(together.stats.n_steps.tolist())) == 4
        for row in range(4):
            alone = solve(self.STARTS[row : row + 1])
            torch.testing.assert_close(together.ys[:, row], alone.ys[:, 0], rtol=1e-10, atol=1e-12)
            for name in ("nfev", "njev", "nlu", "n_steps"):
                assert getattr(together.stats, name)[row] == getattr(alone.stats, name)[0], name

    def test_a_row_whose_equations_have_no_solution_fails_alone(self):
        """A slope that jumps back over the state: no step ends there."""

        def g(t, y):
            return torch.where(y > 0, -1.0, 2.0) * (y.detach().abs() < 5) - 0.1 * y

        sol = solve_ivp(
            (lambda t, y: 0.05 * y, g), (0, 2), torch.tensor([[0.25], [9.0]], dtype=F64), "kencarp4",
            batching="per_sample", on_failure="return", max_steps=200,
        )  # fmt: skip
        assert sol.success.tolist() == [False, True]
        assert sol.status[0] in (Status.NOT_CONVERGED, Status.STEP_UNDERFLOW, Status.MAX_STEPS)
        torch.testing.assert_close(sol.ys[-1, 1], torch.tensor([9 * math.exp(-0.1)], dtype=F64), rtol=1e-4, atol=0)

    @pytest.mark.parametrize(("batching", "recorded"), [("joint", False), ("joint", True), ("per_sample", False)])
    def test_every_evaluation_of_either_function_is_counted(self, batching, recorded):
        """But those that come with a Jacobian; stages that are tried twice, with a new Jacobian, are among them."""
        calls = {"f": 0, "g": 0}

        def f(t, y):
            calls["f"] += 1
            return torch.stack([y[..., 1], 0 * y[..., 1]], -1)

        def g(t, y):
            calls["g"] += 1
            x, v = y.unbind(-1)
            return torch.stack([0 * x, 300 * (1 - x * x) * v - x], -1)

        y0 = torch.tensor([[2.0, 0.0]], dtype=F64, requires_grad=recorded)
        with torch.set_grad_enabled(recorded):
            sol = solve_ivp((f, g), (0, 260), y0, "kencarp4", rtol=1e-3, batching=batching, gradient="direct")
        assert int(sol.stats.nfev) + int(sol.stats.njev) == calls["f"] + calls["g"]
        assert calls["f"] > 2 + 6 * int(sol.stats.n_steps)


class TestGradients:
    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("direction", [1, -1])
    def test_are_those_of_finite_differences(self, direction, batching, monkeypatch):
        """Of coarse fixed steps: to what each function captured, args, y0, both times and those of the outputs."""
        a, b, k = (torch.tensor([x, 0.7], dtype=F64, requires_grad=True) for x in (0.3, -0.4, 1.5))
        y0 = torch.tensor([[1.0, -0.5], [0.2, 0.8]], dtype=F64, requires_grad=True)
        t0, t1 = (torch.tensor(x * direction, dtype=F64, requires_grad=True) for x in (0.1, 1.0))
        t_eval = (direction * torch.tensor([0.25, 0.6, 0.97], dtype=F64)).requires_grad_()

        def loss(a, b, k, y0, t0, t1, t_eval, gradient="direct"):
            sol = solve_ivp(
                (
                    lambda t, y, k: torch.sin(k * y.flip(-1) + t * a),
                    lambda t, y, k: -0.5 * y * torch.cos(b * y.flip(-1)) + k * torch.cos(t),
                ),
                (t0, t1),
                y0,
                "kencarp4",
                t_eval,
                args=(k,),
                step_size=0.37,
                batching=batching,
                gradient=gradient,
                rtol=1e-11,
                atol=1e-11,
            )
            return sol.ys.square().sum()

        sources = [a, b, k, y0, t0, t1, t_eval]
        assert torch.autograd.gradcheck(loss, sources, eps=1e-5, atol=1e-6, rtol=1e-6)
        direct = torch.autograd.grad(loss(*sources), sources)
        for room in (2**28, 0):  # in one graph, and step by step
            give_room(monkeypatch, room)
            found = torch.autograd.grad(loss(*sources, "checkpointed"), sources)
            for one, other in zip(found, direct, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_through_adaptive_steps_on_a_stiff_field(self, gradient, batching):
        """Y' = 1 / (2 sqrt(1 + t)) - k (y - sqrt(1 + t)) + c, whose end is sqrt(2) + c / k and forgets the start."""
        k, c = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (1e4, 3.0))
        y0 = torch.tensor([[2.0], [3.0]], dtype=F64, requires_grad=True)
        sol = solve_ivp(
            (
                lambda t, y: 0.5 / torch.sqrt(1 + t) + c + 0 * y,
                lambda t, y: -k * (y - torch.sqrt(1 + t)),
            ),
            (0, 1), y0, "kencarp4", batching=batching, gradient=gradient, rtol=1e-6,
        )  # fmt: skip
        to_k, to_c, to_y0 = torch.autograd.grad(sol.ys[-1].sum(), [k, c, y0])
        assert to_y0.abs().max() < 1e-6
        torch.testing.assert_close(to_c, torch.tensor(2e-4, dtype=F64), rtol=1e-2, atol=0)
        torch.testing.assert_close(to_k, torch.tensor(-2 * 3e-8, dtype=F64), rtol=2e-2, atol=0)

    def test_the_adjoint_goes_back_through_the_sum(self):
        """With its own method, each function's share by what takes it, or with another's."""
        k = torch.tensor(1.3, dtype=F64, requires_grad=True)
        y0 = torch.tensor([0.5, 1.0], dtype=F64)
        pair = (lambda t, y: torch.sin(k * y), lambda t, y: -k * y)
        tight = {"rtol": 1e-10, "atol": 1e-10}
        found = [
            torch.autograd.grad(solve_ivp(pair, (0, 1), y0, "kencarp4", gradient=g, **tight).ys[-1].sum(), k)[0]
            for g in ("direct", "adjoint", "interpolating", Adjoint(method="tsit5"))
        ]
        for other in found[1:]:
            torch.testing.assert_close(found[0], other, rtol=1e-7, atol=0)

    def test_pytrees(self):
        y0 = {"x": torch.ones(3, 2, dtype=F64, requires_grad=True), "v": torch.zeros(3, 2, dtype=F64)}
        for batching in BATCHINGS:
            sol = solve_ivp(
                (lambda t, y: {"x": y["v"], "v": 0 * y["v"]}, lambda t, y: {"x": 0 * y["x"], "v": -y["x"]}),
                (1.0, 0.0), y0, "kencarp4", batching=batching, rtol=1e-8, atol=1e-8,
            )  # fmt: skip
            (found,) = torch.autograd.grad(sol.ys["x"][-1].sum(), [y0["x"]])
            torch.testing.assert_close(found, torch.full((3, 2), math.cos(1.0), dtype=F64), rtol=1e-5, atol=1e-5)
