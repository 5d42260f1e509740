"""Diagonally implicit methods: stiff problems, rows that fail alone, and the gradients of solved equations."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp as scipy_solve_ivp

from gradient_checks import assert_gradients_pass_through_pytrees
from thalweg import SolveError, Status, solve_ivp
from thalweg.methods import methods
from thalweg.methods.tableau import DiagonalTableau

F64 = torch.float64
METHODS = [m for m in methods() if isinstance(m.data, DiagonalTableau)]
NAMES = [m.name for m in METHODS]
ADAPTIVE = [m.name for m in METHODS if m.adaptive]
L_STABLE = [m.name for m in METHODS if m.name not in ("implicit_midpoint", "trapezoid")]
BATCHINGS = ["joint", "per_sample"]


def robertson(t, y):
    a, b, c = y.unbind(-1)
    slow, back, fast = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return torch.stack([back - slow, slow - back - fast, fast], -1)


def van_der_pol(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, 1000 * (1 - x * x) * v - x], -1)


def prothero_robinson(t, y):
    return -1e6 * (y - torch.cos(t)) - torch.sin(t)


def radau(fun, t1, y0):
    """SciPy's answer, at tolerances far below those tested."""

    def field(t, y):
        return fun(torch.tensor(t, dtype=F64), torch.from_numpy(y)).numpy()

    return torch.from_numpy(scipy_solve_ivp(field, (0, t1), np.array(y0), "Radau", rtol=1e-9, atol=1e-12).y[:, -1])


class TestStiffProblems:
    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("method", ADAPTIVE)
    def test_robertson(self, method, batching):
        """Rates from 0.04 to 3e7: as SciPy's Radau, with fewer Jacobians than steps."""
        y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64)
        sol = solve_ivp(robertson, (0, 100), y0, method, rtol=1e-4, atol=1e-8, batching=batching)
        torch.testing.assert_close(sol.ys[-1, 0], radau(robertson, 100, [1.0, 0.0, 0.0]), rtol=5e-3, atol=1e-7)
        assert 0 < int(sol.stats.njev) < int(sol.stats.n_steps)

    @pytest.mark.parametrize("method", ["trbdf2", "kvaerno3", "kvaerno5"])
    def test_van_der_pol(self, method):
        """Stiffness of 1000, through one relaxation."""
        sol = solve_ivp(van_der_pol, (0, 820.0), torch.tensor([2.0, 0.0], dtype=F64), method, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(sol.ys[-1], radau(van_der_pol, 820.0, [2.0, 0.0]), rtol=2e-2, atol=1e-4)
        assert sol.stats.n_steps < 1500

    @pytest.mark.parametrize("method", ADAPTIVE)
    def test_prothero_robinson(self, method):
        """Y = cos t on a slope of -1e6, from a start beside it, with few steps."""
        y0 = torch.tensor([2.0], dtype=F64)
        sol = solve_ivp(prothero_robinson, (0.0, 3.0), y0, method, rtol=1e-5)
        assert abs(sol.ys[-1].item() - math.cos(3.0)) < 1e-4
        assert sol.stats.n_steps < 400

    @pytest.mark.parametrize("method", ADAPTIVE)
    def test_prothero_robinson_between_steps(self, method):
        """The estimate sees the ends of steps, which are exact where the field is stiff: bound the steps."""
        times = torch.linspace(0.5, 3, 9, dtype=F64)
        y0 = torch.tensor([2.0], dtype=F64)
        sol = solve_ivp(prothero_robinson, (0.0, 3.0), y0, method, times, rtol=1e-5, max_step=0.1)
        torch.testing.assert_close(sol.ys[:, 0], times.cos(), rtol=0, atol=2e-3)

    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("method", NAMES)
    def test_a_decay_a_million_times_faster_than_the_step_stays_bounded(self, method, batching):
        y0 = torch.ones(2, 1, dtype=F64)
        sol = solve_ivp(lambda t, y: -1e6 * y, (0.0, 10.0), y0, method, step_size=1.0, batching=batching)
        assert (sol.ys[-1].abs() <= (1e-5 if method in L_STABLE else 1)).all()


@pytest.mark.parametrize("method", NAMES)
def test_all_begins_anew_where_the_field_jumps(method):
    """Y' = -y until t = 0.5 and 2 y from there on: as in two solves."""
    y0 = torch.ones(1, dtype=F64)
    options = {"step_size": 0.05, "rtol": 1e-10, "atol": 1e-10}

    def field(t, y):
        return torch.where(t < 0.5, -1.0, 2.0) * y

    found = solve_ivp(field, (0.0, 1.0), y0, method, jump_ts=[0.5], **options).ys[-1]
    middle = solve_ivp(lambda t, y: -y, (0.0, 0.5), y0, method, **options).ys[-1]
    torch.testing.assert_close(
        found, solve_ivp(lambda t, y: 2 * y, (0.5, 1.0), middle, method, **options).ys[-1], rtol=1e-9, atol=0
    )


class TestRows:
    STARTS = torch.tensor([[1.0, 0.1], [0.3, 50.0], [-1.0, 1e4], [0.5, 3.0]], dtype=F64)

    @staticmethod
    def field(t, y):
        """The second component says how stiff a row is."""
        z, k = y[:, :1], y[:, 1:]
        return torch.cat([-k * (z**3 - torch.cos(t)), 0 * k], 1)

    @pytest.mark.parametrize("method", ADAPTIVE)
    def test_counts_and_answers_are_each_rows_own(self, method):
        def solve(y0):
            return solve_ivp(self.field, (0.0, 1.0), y0, method, batching="per_sample", rtol=1e-5, atol=1e-7)

        together = solve(self.STARTS)
        assert len(set(together.stats.n_steps.tolist())) == 4
        for row in range(4):
            alone = solve(self.STARTS[row : row + 1])
            torch.testing.assert_close(together.ys[:, row], alone.ys[:, 0], rtol=1e-10, atol=1e-12)
            for name in ("nfev", "njev", "nlu", "n_steps"):
                assert getattr(together.stats, name)[row] == getattr(alone.stats, name)[0], name

    @pytest.mark.parametrize(("method", "step_size"), [("implicit_euler", 0.1), ("kvaerno3", None)])
    def test_a_row_whose_equations_have_no_solution_fails_alone(self, method, step_size):
        """A slope that jumps back over the state: no step ends there."""

        def field(t, y):
            return torch.where(y > 0, -1.0, 2.0) * (y.detach().abs() < 5) - 0.1 * y

        y0 = torch.tensor([[0.25], [9.0]], dtype=F64)
        sol = solve_ivp(
            field, (0, 2), y0, method, step_size=step_size, batching="per_sample", on_failure="return", max_steps=200
        )
        assert sol.success.tolist() == [False, True]
        assert sol.status[0] in (Status.NOT_CONVERGED, Status.STEP_UNDERFLOW, Status.MAX_STEPS)
        if step_size:
            assert sol.status[0] == Status.NOT_CONVERGED
            assert "smaller step_size" in sol.message
        torch.testing.assert_close(sol.ys[-1, 1], y0[1] * math.exp(-0.2), rtol=2e-2, atol=0)

    def test_nan_is_not_said_to_be_a_failure_to_converge(self):
        def field(t, y):
            return torch.where(t > 0.5, math.nan, -1.0) * y

        for options in ({"step_size": 0.1}, {}):
            sol = solve_ivp(field, (0, 1), torch.ones(1, dtype=F64), "kvaerno3", on_failure="return", **options)
            assert sol.status is Status.NONFINITE

    def test_an_error_in_the_field_is_the_persons_own(self):
        def field(t, y):
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            solve_ivp(field, (0, 1), torch.ones(1), "kvaerno3")

    def test_one_that_cannot_be_solved_says_what_to_do(self):
        def field(t, y):
            return 0 * y + torch.where(y > 0, -100.0, 100.0)

        with pytest.raises(SolveError, match="could not be solved"):
            solve_ivp(field, (0, 1), torch.ones(1, dtype=F64), "implicit_euler", step_size=0.1)


class TestGradients:
    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("direction", [1, -1])
    @pytest.mark.parametrize("method", ["implicit_euler", "trapezoid", "trbdf2", "kvaerno5"])
    def test_are_those_of_finite_differences(self, method, direction, batching):
        """Of coarse fixed steps: to a parameter, y0, both times and those of the outputs."""
        k = torch.tensor([1.5, 0.7], dtype=F64, requires_grad=True)
        y0 = torch.tensor([[1.0, -0.5], [0.2, 0.8], [-0.4, 0.3]], dtype=F64, requires_grad=True)
        t0, t1 = (torch.tensor(x * direction, dtype=F64, requires_grad=True) for x in (0.1, 1.0))
        t_eval = (direction * torch.tensor([0.25, 0.6, 0.97], dtype=F64)).requires_grad_()

        def field(t, y, k):
            return torch.sin(k * y.flip(-1) + t) - 0.3 * y

        def loss(k, y0, t0, t1, t_eval, gradient="direct"):
            sol = solve_ivp(
                field,
                (t0, t1),
                y0,
                method,
                t_eval,
                args=(k,),
                step_size=0.2,
                batching=batching,
                gradient=gradient,
                rtol=1e-11,
                atol=1e-11,
            )
            return sol.ys.square().sum()

        sources = [k, y0, t0, t1, t_eval]
        assert torch.autograd.gradcheck(loss, sources, eps=1e-5, atol=1e-6, rtol=1e-6, fast_mode=True)
        direct = torch.autograd.grad(loss(*sources), sources)
        found = torch.autograd.grad(loss(*sources, "checkpointed"), sources)
        for one, other in zip(found, direct, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_through_adaptive_steps_on_a_stiff_field(self, gradient, batching):
        """Y' = -k (y - 1) with k = 1e4: the end forgets the start, and k."""
        k = torch.tensor(1e4, dtype=F64, requires_grad=True)
        y0 = torch.tensor([[2.0], [3.0]], dtype=F64, requires_grad=True)

        def field(t, y, k):
            return -k * (y - torch.sqrt(1 + t))

        sol = solve_ivp(field, (0, 1), y0, "kvaerno5", args=(k,), batching=batching, gradient=gradient, rtol=1e-7)
        to_k, to_y0 = torch.autograd.grad(sol.ys[-1].sum(), [k, y0])
        assert to_y0.abs().max() < 1e-6
        torch.testing.assert_close(to_k, torch.tensor(2 * 0.5 / 2**0.5 / 1e8, dtype=F64), rtol=1e-2, atol=0)

    def test_pytrees(self):
        assert_gradients_pass_through_pytrees("kvaerno5")

    @pytest.mark.parametrize("method", ["kvaerno3", "radau5"])
    def test_a_second_derivative_is_an_error_and_not_wrong(self, method):
        """Also where PyTorch goes no further than to y0, and the cotangent is a constant."""
        y0 = torch.ones(1, dtype=F64, requires_grad=True)
        sol = solve_ivp(lambda t, y: -(y**3), (0, 1), y0, method, gradient="direct")
        (first,) = torch.autograd.grad(sol.ys[-1].sum(), y0, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiate"):
            first.sum().backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="differentiate"):
            torch.autograd.grad(first.sum(), y0)

    def test_complex_states_are_refused_at_the_door(self):
        with pytest.raises(ValueError, match="complex"):
            solve_ivp(lambda t, y: -y, (0, 1), torch.ones(1, dtype=torch.complex64), "kvaerno5")


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("method", [m.name for m in methods() if m.kind in ("dirk", "firk")])
def test_steps_of_a_given_size_solve_their_equations_to_the_tolerance(method, batching):
    """Of a field that is a constant where the solution is, so that the first step says nothing of the next ones."""

    def field(t, y):
        return 0.2 + (y - (0.2 * t + 3.0)) ** 5

    y0 = torch.full((1, 1), 3.2, dtype=F64)
    sol = solve_ivp(field, (1.0, 8.0), y0, method, rtol=1e-7, atol=1e-9, step_size=0.78, batching=batching)
    torch.testing.assert_close(sol.ys[-1], torch.full((1, 1), 4.6, dtype=F64), rtol=1e-7, atol=0)
