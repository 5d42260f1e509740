"""Fully implicit methods: stiff problems, invariants, rows that fail alone, and the gradients of solved equations."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp as scipy_solve_ivp

from gradient_checks import assert_gradients_pass_through_pytrees, assert_rows_that_fail_are_not_felt, give_room
from problems import F64, rober
from testset import STIFF
from thalweg import SolveError, Status, solve_ivp
from thalweg.core.field import Field as CoreField
from thalweg.core.norms import Tolerance
from thalweg.core.state import layout_of
from thalweg.methods import get_method, methods
from thalweg.methods.tableau import FullTableau
from thalweg.steppers.choose import stepper_for

METHODS = [m.name for m in methods() if isinstance(m.data, FullTableau)]
ADAPTIVE = [m.name for m in methods() if isinstance(m.data, FullTableau) and m.adaptive]
FIXED = [name for name in METHODS if name not in ADAPTIVE]
BATCHINGS = ["joint", "per_sample"]
COUNTS = ("n_steps", "n_accepted", "nfev", "njev", "nlu")


def radau(problem, rtol):
    """SciPy's solution by the same method, with exact Jacobians."""

    def fun(t, y):
        return problem.fun(torch.tensor(t, dtype=F64), torch.from_numpy(y)).numpy()

    def jac(t, y):
        at = torch.tensor(t, dtype=F64)
        return torch.autograd.functional.jacobian(lambda z: problem.fun(at, z), torch.from_numpy(y)).numpy()

    return scipy_solve_ivp(
        fun, problem.t_span, np.array(problem.y0), "Radau", rtol=rtol, atol=rtol * problem.scale, jac=jac
    )


class TestStiffProblems:
    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("problem", STIFF, ids=lambda p: p.name)
    def test_to_the_tolerance(self, problem, batching):
        rtol = 1e-4
        atol = rtol * problem.scale
        with torch.no_grad():
            sol = solve_ivp(
                problem.fun, problem.t_span, problem.state()[None], "radau5", rtol=rtol, atol=atol, batching=batching
            )
        error = ((sol.ys[-1, 0] - problem.end).abs() / (atol + rtol * problem.end.abs())).max()
        assert error < 5
        assert sol.stats.n_steps < 500

    @pytest.mark.parametrize("rtol", [1e-4, 1e-6])
    @pytest.mark.parametrize("problem", [p for p in STIFF if p.name in ("rober", "hires")], ids=lambda p: p.name)
    def test_at_the_cost_of_scipys(self, problem, rtol):
        theirs = radau(problem, rtol)
        sol = solve_ivp(problem.fun, problem.t_span, problem.state(), "radau5", rtol=rtol, atol=rtol * problem.scale)
        assert sol.stats.nfev < 1.1 * theirs.nfev
        assert sol.stats.njev <= theirs.njev
        assert sol.stats.nlu <= theirs.nlu
        assert sol.stats.n_accepted <= len(theirs.t)

    def test_a_start_beside_a_stiff_solution_costs_few_steps(self):
        """What a tight tolerance leaves of a component of rate 1e6 is no error of the next step."""
        problem = next(p for p in STIFF if p.name == "prothero_robinson")
        sol = solve_ivp(problem.fun, problem.t_span, problem.state(), "radau5", rtol=1e-9, atol=1e-9)
        assert (sol.ys[-1] - problem.end).abs() < 5e-9  # and where it is one, it is seen
        assert sol.stats.n_steps < 50

    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_states_between_steps_are_as_good(self, batching):
        """Along the slow part of van der Pol's, which the collocation polynomial follows."""
        problem = next(p for p in STIFF if p.name == "van_der_pol")
        t_eval = torch.linspace(0.0, 500.0, 57, dtype=F64)
        peer = scipy_solve_ivp(
            lambda t, y: [y[1], 1000 * (1 - y[0] ** 2) * y[1] - y[0]],
            (0, 500), problem.y0, "Radau", t_eval.numpy(), rtol=1e-10, atol=1e-13,
        )  # fmt: skip
        sol = solve_ivp(
            problem.fun, (0, 500), problem.state()[None], "radau5", t_eval, rtol=1e-6, atol=1e-9, batching=batching
        )
        exact = torch.from_numpy(peer.y.T)
        assert ((sol.ys[:, 0] - exact).abs() / (1e-9 + 1e-6 * exact.abs())).max() < 30
        assert sol.stats.n_steps < len(t_eval) * 2

    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("method", METHODS)
    def test_a_decay_a_million_times_faster_than_the_step_stays_bounded(self, method, batching):
        y0 = torch.ones(2, 1, dtype=F64)
        sol = solve_ivp(lambda t, y: -1e6 * y, (0.0, 10.0), y0, method, step_size=1.0, batching=batching)
        assert (sol.ys[-1].abs() <= (1e-5 if method.startswith("radau") else 1)).all()


class TestInvariants:
    """A rigid body (Euler's equations), whose energy and angular momentum are quadratic."""

    MOMENTS = torch.tensor([2.0, 1.0, 2 / 3], dtype=F64)
    START = torch.tensor([[math.cos(1.1), 0.0, math.sin(1.1)], [0.6, 0.0, -0.8]], dtype=F64)

    def drift(self, method, batching):
        def field(t, y):
            return torch.linalg.cross(y, y / self.MOMENTS)

        sol = solve_ivp(
            field, (0.0, 100.0), self.START, method, step_size=0.5, batching=batching, rtol=1e-13, atol=1e-13
        )
        invariants = torch.stack([sol.ys.square().sum(-1), (sol.ys.square() / self.MOMENTS).sum(-1)])
        return (invariants[:, -1] - invariants[:, 0]).abs().max()

    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("method", ["gl4", "gl6"])
    def test_gauss_methods_keep_quadratic_ones(self, method, batching):
        assert self.drift(method, batching) < 1e-12

    def test_radau_methods_do_not(self):
        assert self.drift("radau5", "joint") > 1e-6


RATES = torch.tensor([0.04, 3e7, 1e4], dtype=F64) * torch.tensor(
    [[1.0, 1.0, 1.0], [2.0, 0.5, 1.0], [0.1, 3.0, 0.2], [1.0, 0.01, 5.0]], dtype=F64
)


class TestRows:
    @pytest.mark.parametrize("t1", [1e5, torch.tensor([1e5, 1e2, 0.0, 1e-2], dtype=F64)], ids=["one end", "own ends"])
    def test_reactions_with_their_own_rates_are_each_as_if_alone(self, t1):
        """Values to 1e-10, and the same counts; rows that have ended are not touched."""
        y0 = torch.tensor([1.0, 0.0, 0.0], dtype=F64).repeat(4, 1)
        ends = torch.as_tensor(t1, dtype=F64).expand(4)

        def solve(rows):
            return solve_ivp(
                rober, (0.0, ends[rows]), y0[rows], "radau5", args=(RATES[rows],), rtol=1e-4, atol=1e-8,
                batching="per_sample",
            )  # fmt: skip

        together = solve([0, 1, 2, 3])
        assert together.success.all()
        assert len(set(together.stats.n_steps.tolist())) > 1
        for row in range(4):
            alone = solve([row])
            torch.testing.assert_close(together.ys[:, row], alone.ys[:, 0], rtol=1e-10, atol=1e-14)
            for count in COUNTS:
                assert getattr(together.stats, count)[row] == getattr(alone.stats, count)[0], count

    @pytest.mark.parametrize("method", METHODS)
    def test_a_row_whose_equations_have_no_solution_fails_alone(self, method):
        """A slope that jumps back over the state: no step ends there."""

        def field(t, y):
            return torch.where(y > 0, -1.0, 2.0) * (y.detach().abs() < 5) - 0.1 * y

        y0 = torch.tensor([[0.25], [9.0]], dtype=F64)
        sol = solve_ivp(field, (0, 2), y0, method, step_size=0.1, batching="per_sample", on_failure="return")
        assert sol.success.tolist() == [False, True]
        assert sol.status[0] == Status.NOT_CONVERGED
        assert "smaller step_size" in sol.message
        torch.testing.assert_close(sol.ys[-1, 1], y0[1] * math.exp(-0.2), rtol=1e-5, atol=0)

    @pytest.mark.parametrize("method", METHODS)
    def test_nan_is_not_said_to_be_a_failure_to_converge(self, method):
        def field(t, y):
            return torch.where(t > 0.5, math.nan, -1.0) * y

        for options in ({"step_size": 0.1}, {}) if method in ADAPTIVE else ({"step_size": 0.1},):
            sol = solve_ivp(field, (0, 1), torch.ones(1, dtype=F64), method, on_failure="return", **options)
            assert sol.status is Status.NONFINITE

    def test_a_row_that_is_not_finite_leaves_the_others_right(self):
        y0 = torch.tensor([[1.0], [math.nan], [2.0], [3.0]], dtype=F64)

        def field(t, y):
            return torch.where(y > 2.5, math.inf, -y)

        sol = solve_ivp(field, (0, 1), y0, "radau5", batching="per_sample", rtol=1e-5, atol=1e-8, on_failure="return")
        assert sol.success.tolist() == [True, False, True, False]
        torch.testing.assert_close(sol.ys[-1, [0, 2]], y0[[0, 2]] / math.e, rtol=1e-3, atol=0)
        assert sol.ys[-1, [1, 3]].isnan().all()

    def test_an_error_in_the_field_is_the_persons_own(self):
        def field(t, y):
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            solve_ivp(field, (0, 1), torch.ones(1), "radau5")

    def test_one_that_cannot_be_solved_says_what_to_do(self):
        def field(t, y):
            return 0 * y + torch.where(y > 0, -100.0, 100.0)

        with pytest.raises(SolveError, match="could not be solved"):
            solve_ivp(field, (0, 1), torch.ones(1, dtype=F64), "gl6", step_size=0.1)

    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("method", METHODS)
    def test_single_precision(self, method, batching):
        size = {} if method in ADAPTIVE else {"step_size": 0.1}
        y0 = torch.full((2, 1), 0.5)
        sol = solve_ivp(lambda t, y: 5 * y * (1 - y), (0, 1), y0, method, batching=batching, rtol=1e-4, **size)
        assert sol.ys.dtype == torch.float32
        torch.testing.assert_close(sol.ys[-1], torch.full((2, 1), 1 / (1 + math.exp(-5))), rtol=1e-3, atol=0)


class TestCosts:
    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_are_counted(self, batching):
        """All that calls the field but what brings a Jacobian along, and each Jacobian."""
        calls, jacobians = [], []

        def field(t, y):
            calls.append(t)
            return -50.0 * (y**3 - torch.cos(t))

        def jac(t, y):
            jacobians.append(t)
            return (-150.0 * y**2).reshape(1, 1, 1) if batching == "per_sample" else (-150.0 * y**2).reshape(1, 1)

        with torch.no_grad():
            sol = solve_ivp(
                field, (0.0, 3.0), torch.zeros(1, 1, dtype=F64), "radau5", jac=jac, first_step=1.0, batching=batching
            )
        assert int(sol.stats.n_rejected) > 0
        assert int(sol.stats.njev) == len(jacobians)
        assert int(sol.stats.nfev) == len(calls) - len(jacobians)
        assert int(sol.stats.nlu) <= int(sol.stats.n_steps) + len(jacobians)

    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_a_jacobian_with_which_a_step_failed_serves_the_next_try(self, batching):
        by_row = batching == "per_sample"
        y = torch.tensor([[1.0, 0.3], [0.2, -1.0]], dtype=F64)
        layout, _ = layout_of(y, by_row=by_row)
        field = CoreField(lambda t, y: -5 * y.flip(-1) ** 3 + torch.cos(t), (), layout, y)
        h = torch.tensor([0.6, 0.6], dtype=F64) if by_row else 0.6
        stepper = stepper_for(
            get_method("radau5").data, y, by_row=by_row, tolerance=Tolerance(1e-5, torch.tensor(1e-5))
        )
        with torch.no_grad():
            failed, again = (stepper.step(field, 0 * h, size, y, None) for size in (h, 0.1 * h))
        assert not torch.as_tensor(failed.converged).any()
        assert torch.as_tensor(again.converged).all()
        assert torch.as_tensor(failed.njev).tolist() == torch.as_tensor(again.nlu).tolist()
        assert not torch.as_tensor(again.njev).any()

    def test_a_step_begins_where_the_last_ones_polynomial_leads(self):
        """It leads to within the tolerance where steps are small: one iteration more shows that, and none is needed."""

        def field(t, y):
            return torch.stack([y[1], -torch.sin(y[0])])

        y0 = torch.tensor([1.0, 0.0], dtype=F64)
        sol = solve_ivp(field, (0.0, 5.0), y0, "gl6", step_size=0.05, rtol=1e-6, atol=1e-6)
        assert sol.stats.nfev <= 2 * 3 * sol.stats.n_steps
        assert sol.stats.njev == 1
        assert sol.stats.nlu <= 2  # the last step's size is rounded

    def test_a_step_again_from_the_same_place_begins_at_its_own_polynomial(self):
        """After a rejection: no more iterations than where nothing was tried before."""
        y = torch.tensor([1.0, 0.0], dtype=F64)
        layout, _ = layout_of(y, by_row=False)
        field = CoreField(lambda t, y: torch.stack([y[1], -torch.sin(y[0])]), (), layout, y)
        used, new = (
            stepper_for(get_method("gl4").data, y, by_row=False, tolerance=Tolerance(1e-9, torch.tensor(1e-9)))
            for _ in range(2)
        )
        with torch.no_grad():
            used.step(field, 0.0, 1.0, y, None)
            again, first = used.step(field, 0.0, 0.9, y, None), new.step(field, 0.0, 0.9, y, None)
        assert again.nfev < first.nfev
        torch.testing.assert_close(again.y, first.y, rtol=1e-10, atol=1e-10)


class TestGradients:
    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("direction", [1, -1])
    @pytest.mark.parametrize("method", METHODS)
    def test_are_those_of_finite_differences(self, method, direction, batching, monkeypatch):
        """Of coarse fixed steps: to a parameter, y0, both times and those of the outputs."""
        k = torch.tensor([1.5, 0.7], dtype=F64, requires_grad=True)
        y0 = torch.tensor([[1.0, -0.5], [0.2, 0.8]], dtype=F64, requires_grad=True)
        t0, t1 = (torch.tensor(x * direction, dtype=F64, requires_grad=True) for x in (0.1, 1.0))
        t_eval = (direction * torch.tensor([0.25, 0.97], dtype=F64)).requires_grad_()

        def loss(k, y0, t0, t1, t_eval, gradient="checkpointed"):
            sol = solve_ivp(
                lambda t, y, k: torch.sin(k * y.flip(-1) + t) - 0.3 * y, (t0, t1), y0, method, t_eval, args=(k,),
                step_size=0.4, batching=batching, gradient=gradient, rtol=1e-11, atol=1e-11,
            )  # fmt: skip
            return sol.ys.square().sum()

        sources = [k, y0, t0, t1, t_eval]
        assert torch.autograd.gradcheck(loss, sources, eps=1e-5, atol=1e-7, rtol=1e-7, fast_mode=True, nondet_tol=1e-12)
        direct, recorded = (torch.autograd.grad(loss(*sources, way), sources) for way in ("direct", "checkpointed"))
        give_room(monkeypatch, 0)
        again = torch.autograd.grad(loss(*sources), sources)
        for found in (recorded, again):
            torch.testing.assert_close(found, direct, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("outputs", [None, (0.3, 1.0)], ids=["end", "t_eval"])
    @pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_through_adaptive_steps_on_a_stiff_field(self, gradient, batching, outputs):
        """Y' = -k (y - sqrt(1 + t)) with k = 1e4: the end forgets the start, and nearly k."""
        k = torch.tensor(1e4, dtype=F64, requires_grad=True)
        y0 = torch.tensor([[2.0], [3.0]], dtype=F64, requires_grad=True)

        def field(t, y, k):
            return -k * (y - torch.sqrt(1 + t))

        sol = solve_ivp(
            field, (0, 1), y0, "radau5", outputs, args=(k,), batching=batching, gradient=gradient, rtol=1e-7
        )
        to_k, to_y0 = torch.autograd.grad(sol.ys[-1].sum(), [k, y0])
        assert to_y0.abs().max() < 1e-6
        torch.testing.assert_close(to_k, torch.tensor(2 * 0.5 / 2**0.5 / 1e8, dtype=F64), rtol=1e-2, atol=0)

    def test_of_adaptive_steps_to_the_rates_of_a_reaction(self):
        """Relative to their sizes; each row's are its own, and both ways agree."""
        y0 = torch.tensor([1.0, 0.0, 0.0], dtype=F64).repeat(2, 1)
        log_rates = RATES[:2].log().requires_grad_()

        def end(log_rates, gradient="checkpointed"):
            return solve_ivp(
                rober, (0.0, 40.0), y0, "radau5", args=(log_rates.exp(),), rtol=1e-7, atol=1e-11,
                batching="per_sample", gradient=gradient,
            ).ys[-1, :, 0]  # fmt: skip

        found, direct = (
            torch.autograd.grad(end(log_rates, way).sum(), [log_rates])[0] for way in ("checkpointed", "direct")
        )
        torch.testing.assert_close(found, direct, rtol=1e-10, atol=1e-12)
        for j in range(3):
            with torch.no_grad():
                step = torch.zeros_like(log_rates)
                step[:, j] = 1e-3
                expected = (end(log_rates + step) - end(log_rates - step)) / 2e-3
            torch.testing.assert_close(found[:, j], expected, rtol=1e-2, atol=1e-4)

    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_a_step_that_is_taken_again_is_the_same_to_the_bit(self, batching):
        """Whatever the stepper did before, where a graph is recorded."""
        by_row = batching == "per_sample"
        y = torch.tensor([[1.0, 0.3], [0.2, -1.0]], dtype=F64)
        layout, _ = layout_of(y, by_row=by_row)
        field = CoreField(lambda t, y: -2 * y.flip(-1) ** 3 + torch.cos(t), (), layout, y)
        h = torch.tensor([0.3, 0.2], dtype=F64) if by_row else 0.3
        used, new = (
            stepper_for(get_method("radau5").data, y, by_row=by_row, tolerance=Tolerance(1e-2, torch.tensor(1e-2)))
            for _ in range(2)
        )
        with torch.no_grad():
            assert torch.as_tensor(used.step(field, 0 * h, h, y, None).converged).all()
        leaf = y.clone().requires_grad_()
        one, other = used.step(field, h, h, leaf, None), new.step(field, h, h, leaf, None)
        assert torch.equal(one.y, other.y)
        assert all(torch.equal(a, b) for a, b in zip(one.stages, other.stages, strict=True))

    @pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
    def test_do_not_feel_rows_that_fail(self, gradient):
        """To an argument that all rows share: one row turns NaN, one meets a pole, and one is never finite."""
        assert_rows_that_fail_are_not_felt("radau5", gradient, max_steps=60)

    def test_pytrees(self):
        assert_gradients_pass_through_pytrees("radau5")

    def test_a_second_derivative_is_an_error_and_not_wrong(self):
        y0 = torch.ones(1, dtype=F64, requires_grad=True)
        sol = solve_ivp(lambda t, y: -(y**3), (0, 1), y0, "radau5", gradient="direct")
        (first,) = torch.autograd.grad(sol.ys[-1].sum(), y0, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiate"):
            first.sum().backward()


@pytest.mark.parametrize("method", METHODS)
class TestRefusals:
    def test_complex_states(self, method):
        with pytest.raises(ValueError, match="complex"):
            solve_ivp(lambda t, y: -y, (0, 1), torch.ones(1, dtype=torch.complex64), method, step_size=0.1)

    def test_a_joint_state_that_is_too_long(self, method):
        with pytest.raises(ValueError, match="per_sample"):
            solve_ivp(lambda t, y: -y, (0, 1), torch.ones(5000, 1), method, step_size=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_a_state_that_is_one_number(method):
    y0 = torch.tensor(1.0, dtype=F64, requires_grad=True)
    sol = solve_ivp(lambda t, y: -y, (0, 1), y0, method, [0.35, 1.0], step_size=0.1)
    torch.testing.assert_close(sol.ys, torch.tensor([-0.35, -1.0], dtype=F64).exp(), rtol=1e-4, atol=0)
    assert torch.autograd.grad(sol.ys[-1], y0)[0].item() == pytest.approx(math.exp(-1), rel=1e-4)


class TestAMethodOfOnesOwn:
    """Its stages need eigenvalues that differ, none of which is 0; and an estimate may do without the slope."""

    @staticmethod
    def solve(a, **coefficients):
        b = a[-1]
        tableau = FullTableau(2, a, b, tuple((weight,) for weight in b), 1, **coefficients)
        stepper = stepper_for(
            tableau, torch.ones(2, dtype=F64), by_row=False, tolerance=Tolerance(1e-9, torch.tensor(1e-9))
        )
        layout, y = layout_of(torch.ones(2, dtype=F64), by_row=False)
        field = CoreField(lambda t, y: -3 * y, (), layout, y)
        with torch.no_grad():
            return stepper.step(field, 0.0, 0.1, y, None)

    def test_lobatto_iiic(self):
        """Two stages, conjugate eigenvalues: R(z) = 1 / (1 - z + z²/2)."""
        step = self.solve(((0.5, -0.5), (0.5, 0.5)), b_error=(0.5, -0.5), embedded_order=1)
        assert step.y.tolist() == pytest.approx([1 / (1.3 + 0.045)] * 2, rel=1e-9)
        slopes = step.stages
        torch.testing.assert_close(step.error, 0.05 * (slopes[0] - slopes[1]), rtol=1e-9, atol=0)
        assert step.nfev % 2 == 0

    @pytest.mark.parametrize(
        "a", [((0.0, 0.0), (0.5, 0.5)), ((0.5, 0.0), (0.5, 0.5))], ids=["explicit first stage", "one gamma"]
    )
    def test_what_another_stepper_is_for_is_refused(self, a):
        with pytest.raises(ValueError, match="DiagonalTableau"):
            self.solve(a)


@pytest.mark.parametrize("method", FIXED)
def test_a_method_without_an_estimate_asks_for_a_step_size(method):
    with pytest.raises(ValueError, match="step_size"):
        solve_ivp(lambda t, y: -y, (0, 1), torch.ones(1), method)
