"""Rosenbrock methods: stiff problems, exact gradients, costs, and rows that leave each other alone."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp as scipy_solve_ivp

from gradient_checks import Nonlinear, assert_rows_that_fail_are_not_felt, differences_along, give_room
from problems import F64, rober
from testset import STIFF
from thalweg import SolveError, Status, solve_ivp
from thalweg.core.field import Field as CoreField
from thalweg.core.state import layout_of
from thalweg.methods import get_method, methods
from thalweg.methods.rosenbrock import RODAS5P, Rosenbrock
from thalweg.steppers.rosenbrock import RosenbrockStepper

METHODS = [m.name for m in methods() if isinstance(m.data, Rosenbrock)]
BATCHINGS = ["joint", "per_sample"]
TOLERANCE = {"rosenbrock23": 1e-4, "rodas5p": 1e-6}
FACTOR = {"rosenbrock23": 300, "rodas5p": 5}
"""How much larger than the tolerance an error at the end may be; at 1e-4, ode23s of the Oregonator is off by 200."""


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", STIFF, ids=lambda p: p.name)
def test_stiff_problems_to_the_tolerance(problem, method, batching):
    """Within a factor of it, in few steps: an explicit method would take a million."""
    rtol = TOLERANCE[method]
    atol = rtol * problem.scale
    with torch.no_grad():
        sol = solve_ivp(
            problem.fun, problem.t_span, problem.state()[None], method, rtol=rtol, atol=atol, batching=batching
        )
    error = ((sol.ys[-1, 0] - problem.end).abs() / (atol + rtol * problem.end.abs())).max()
    assert error < FACTOR[method]
    assert sol.stats.n_steps < 1500


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("method", METHODS)
def test_buffered_and_recorded_steps_agree(method, dtype, by_row):
    layout, y = layout_of(torch.randn(5, 2, dtype=dtype), by_row=by_row)
    field = CoreField(lambda t, y: torch.cos(t) - 3 * y**3, (), layout, y)
    t = torch.rand(5, dtype=F64) if by_row else 0.3
    h = 0.1 + 0.1 * torch.rand(5, dtype=F64) if by_row else 0.2
    recorded, stepper = (RosenbrockStepper(get_method(method).data, y, by_row=by_row) for _ in range(2))
    one = recorded.step(field, t, h, y, None)
    with torch.no_grad():
        stepper.step(field, t, h, torch.full_like(y, torch.nan), None)
        other = stepper.step(field, t, h, y, None)  # over a buffer full of NaN
    assert not one.error.requires_grad
    largest = max(abs(x) for row in (*stepper.method.a, *stepper.method.c) for x in row)
    bound = largest * torch.finfo(F64).eps + 4 * torch.finfo(dtype).eps  # of sums that cancel, made in float64
    for a, b in [(one.y, other.y), (one.error, other.error), *zip(one.stages, other.stages, strict=True)]:
        torch.testing.assert_close(a, b, rtol=bound, atol=bound)


@pytest.mark.parametrize("gradient", [False, True])
def test_in_float32_sums_of_large_stages_keep_the_digits_of_the_state(gradient):
    """20 steps of a rotation; summed in float32 they were off by 120 units of the last place."""
    torch.manual_seed(0)
    matrix = 0.1 * torch.randn(10, 10, dtype=F64)
    matrix, y0 = matrix - matrix.T, torch.ones(10, dtype=F64)
    with torch.set_grad_enabled(gradient):
        y = y0.float().requires_grad_(gradient)
        end = solve_ivp(lambda t, y: y @ matrix.to(y), (0.0, 7.0), y, "rodas5p", rtol=1.2e-6, atol=1e-9).ys[-1]
    assert (end.double() - y0 @ torch.linalg.matrix_exp(7 * matrix)).abs().max() < 4e-6


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("method", METHODS)
def test_states_between_steps_are_as_good(method, batching):
    """The interpolant where the problem is stiff, on the way into and along the slow part of van der Pol."""
    problem = next(p for p in STIFF if p.name == "van_der_pol")
    t_eval = torch.linspace(0.0, 500.0, 57, dtype=F64)
    reference = scipy_solve_ivp(
        lambda t, y: [y[1], 1000 * (1 - y[0] ** 2) * y[1] - y[0]],
        (0, 500),
        problem.y0,
        "Radau",
        t_eval.numpy(),
        rtol=1e-10,
        atol=1e-13,
    )
    rtol = TOLERANCE[method]
    sol = solve_ivp(
        problem.fun, (0, 500), problem.state()[None], method, t_eval, rtol=rtol, atol=rtol / 1e3, batching=batching
    )
    exact = torch.from_numpy(reference.y.T)
    assert ((sol.ys[:, 0] - exact).abs() / (rtol / 1e3 + rtol * exact.abs())).max() < 30
    assert sol.stats.n_steps < len(t_eval) * 2


RATES = torch.tensor([0.04, 3e7, 1e4], dtype=F64) * torch.tensor(
    [[1.0, 1.0, 1.0], [2.0, 0.5, 1.0], [0.1, 3.0, 0.2], [1.0, 0.01, 5.0]], dtype=F64
)


@pytest.mark.parametrize("method", METHODS)
def test_reactions_with_their_own_rates_are_each_as_if_alone(method):
    """Values to 1e-10, and the same number of steps."""
    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=F64).repeat(4, 1)

    def solve(rows):
        return solve_ivp(
            rober,
            (0.0, 1e5),
            y0[rows],
            method,
            args=(RATES[rows],),
            rtol=1e-4,
            atol=1e-8,
            batching="per_sample",
        )

    together = solve([0, 1, 2, 3])
    assert len(set(together.stats.n_steps.tolist())) > 1
    for row in range(4):
        alone = solve([row])
        torch.testing.assert_close(together.ys[:, row], alone.ys[:, 0], rtol=1e-10, atol=1e-14)
        for count in ("n_steps", "n_accepted", "nfev", "njev", "nlu"):
            assert getattr(together.stats, count)[row] == getattr(alone.stats, count)[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_row_that_is_not_finite_leaves_the_others_right(method):
    y0 = torch.tensor([[1.0], [math.nan], [2.0], [3.0]], dtype=F64)

    def field(t, y):
        return torch.where(y > 2.5, math.inf, -y)

    sol = solve_ivp(field, (0, 1), y0, method, batching="per_sample", rtol=1e-5, atol=1e-8, on_failure="return")
    assert sol.success.tolist() == [True, False, True, False]
    torch.testing.assert_close(sol.ys[-1, [0, 2]], y0[[0, 2]] / math.e, rtol=1e-3, atol=0)
    assert sol.ys[-1, [1, 3]].isnan().all()


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("method", METHODS)
class TestSingularMatrix:
    """y' = y / (gamma h) makes I - gamma h J zero."""

    @staticmethod
    def size_and_rate(method):
        """An h, and a k of which h gamma k is 1 to the last bit."""
        gamma = next(m.data.gamma for m in methods() if m.name == method)
        sizes = (n / 1000 for n in range(100, 200))
        return next((h, 1.0 / (h * gamma)) for h in sizes if h * gamma * (1.0 / (h * gamma)) == 1.0)

    def test_of_an_adaptive_step_is_rejected(self, method, batching):
        h, k = self.size_and_rate(method)
        sol = solve_ivp(
            lambda t, y: k * y,
            (0.0, 0.2),
            torch.ones(1, 1, dtype=F64),
            method,
            first_step=h,
            rtol=1e-6,
            atol=1e-9,
            batching=batching,
        )
        assert sol.ys[-1].item() == pytest.approx(math.exp(0.2 * k), rel=1e-3)
        assert sol.stats.n_rejected > 0

    def test_of_a_fixed_step_is_a_status(self, method, batching):
        h, k = self.size_and_rate(method)
        sol = solve_ivp(
            lambda t, y: k * y,
            (0.0, 0.5),
            torch.ones(1, 1, dtype=F64),
            method,
            step_size=h,
            batching=batching,
            on_failure="return",
        )
        assert int(sol.status) == Status.NONFINITE


@pytest.mark.parametrize("outputs", [False, True], ids=["end", "t_eval"])
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("method", METHODS)
class TestGradients:
    """Those of finite differences, through J, to parameters, arguments, the start and all times."""

    def check(self, method, batching, outputs, monkeypatch, *, back, sizes, bound):
        field = Nonlinear()
        y0, k = torch.randn(3, 2, dtype=F64), torch.rand(3, 2, dtype=F64)
        t0, t1 = torch.tensor(0.2, dtype=F64), torch.tensor(1.1, dtype=F64)
        t_eval = torch.tensor([0.31, 0.74, 1.02], dtype=F64) if outputs else None
        if back:
            t0, t1, t_eval = t1, t0, None if t_eval is None else t_eval.flip(0)
        sources = [field.weight, k, y0, t0, t_eval if outputs else t1]
        for x in sources:
            x.requires_grad_()

        def loss(gradient):
            sol = solve_ivp(
                field, (t0, t1), y0, method, t_eval, args=(k,), batching=batching, gradient=gradient, **sizes
            )
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

    @pytest.mark.parametrize("back", [False, True], ids=["forward", "back"])
    def test_of_fixed_steps_are_exact(self, method, batching, outputs, back, monkeypatch):
        """However coarse: the derivative of what was computed, and the last step is a shorter one."""
        sizes = {"step_size": 0.4}
        self.check(method, batching, outputs, monkeypatch, back=back, sizes=sizes, bound=1e-8)

    def test_of_adaptive_steps_are_the_flows(self, method, batching, outputs, monkeypatch):
        tolerance, bound = {"rosenbrock23": (1e-5, 1e-2), "rodas5p": (1e-8, 1e-5)}[method]
        sizes = {"rtol": tolerance, "atol": tolerance}
        self.check(method, batching, outputs, monkeypatch, back=False, sizes=sizes, bound=bound)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_a_stiff_solve(method):
    """To the rates of a reaction, relative to their sizes; each row's are its own."""
    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=F64).repeat(2, 1)
    log_rates = RATES[:2].log().requires_grad_()

    def end(log_rates):
        sol = solve_ivp(
            rober,
            (0.0, 40.0),
            y0,
            method,
            args=(log_rates.exp(),),
            rtol=TOLERANCE[method],
            atol=TOLERANCE[method] / 1e4,
            batching="per_sample",
        )
        return sol.ys[-1, :, 0]

    (found,) = torch.autograd.grad(end(log_rates).sum(), [log_rates])
    for j in range(3):
        with torch.no_grad():
            step = torch.zeros_like(log_rates)
            step[:, j] = 1e-3
            expected = (end(log_rates + step) - end(log_rates - step)) / 2e-3
        torch.testing.assert_close(found[:, j], expected, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_second_derivatives_by_direct(method):
    """d²/dk² exp(-k) = exp(-k), of what fixed steps make of it to 1e-4."""
    k = torch.tensor(0.7, dtype=F64, requires_grad=True)
    sol = solve_ivp(
        lambda t, y, k: -k * y, (0, 1), torch.ones(1, dtype=F64), method, args=(k,), step_size=0.02, gradient="direct"
    )
    (first,) = torch.autograd.grad(sol.ys[-1].sum(), [k], create_graph=True)
    (second,) = torch.autograd.grad(first, [k])
    assert second.item() == pytest.approx(math.exp(-0.7), rel=1e-4)


class TestCosts:
    def test_are_counted(self):
        """J brings the first stage along; after a rejected step it is kept, where one step size serves all."""
        calls, jacobians = [], []

        def field(t, y):
            calls.append(t)
            return -50.0 * (y - torch.cos(t))

        def jac(t, y):
            jacobians.append(t)
            return torch.full((1, 1), -50.0, dtype=F64)

        with torch.no_grad():
            sol = solve_ivp(field, (0.0, 3.0), torch.zeros(1, dtype=F64), "rodas5p", jac=jac, first_step=1.0)
        stats = sol.stats
        assert stats.n_rejected > 0
        assert stats.nfev == len(calls)
        assert stats.njev == len(jacobians) == stats.n_accepted
        assert stats.nlu == stats.n_steps
        assert f"njev={stats.njev}" in repr(stats)

    def test_of_explicit_methods_have_no_jacobians(self):
        sol = solve_ivp(lambda t, y: -y, (0, 1), torch.ones(1))
        assert sol.stats.njev == sol.stats.nlu == 0


class TestJac:
    @pytest.mark.parametrize("batching", BATCHINGS)
    def test_gives_the_same_solution(self, batching):
        """Of a pytree too, in the order of its parts."""
        y0 = {"a": torch.ones(3, 1, dtype=F64), "b": torch.zeros(3, 1, dtype=F64)}
        k = torch.tensor(40.0, dtype=F64)

        def field(t, y, k):
            return {"a": y["b"], "b": -k * y["a"] - y["b"] ** 3}

        def jac(t, y, k):
            a = torch.zeros_like(y["a"])
            rows = [torch.cat([a, a + 1], 1), torch.cat([a - k, -3 * y["b"] ** 2], 1)]
            blocks = torch.stack(rows, 1)
            if batching == "per_sample":
                return blocks
            whole = torch.zeros(6, 6, dtype=F64)  # a of all rows, then b of all rows
            for i in range(2):
                for j in range(2):
                    whole[3 * i : 3 * i + 3, 3 * j : 3 * j + 3] = blocks[:, i, j].diag()
            return whole

        options = {"args": (k,), "batching": batching, "rtol": 1e-6}
        given = solve_ivp(field, (0, 1), y0, "rodas5p", jac=jac, **options)
        made = solve_ivp(field, (0, 1), y0, "rodas5p", **options)
        for name in y0:
            torch.testing.assert_close(given.ys[name], made.ys[name], rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
    def test_gradients_pass_through_it_or_past_it(self, gradient):
        """One that is cut off from the field's parameters is not used."""
        k = torch.tensor([3.0], dtype=F64, requires_grad=True)
        y0 = torch.full((2, 1), 0.5, dtype=F64)

        def end(jac):
            sol = solve_ivp(
                lambda t, y: -k * y**3, (0, 1), y0, "rosenbrock23", jac=jac, step_size=0.25, gradient=gradient
            )
            return torch.autograd.grad(sol.ys[-1].sum(), [k])[0]

        made = end(None)
        through = end(lambda t, y: torch.diag_embed((-3 * k * y**2).flatten()))
        past = end(lambda t, y: torch.diag_embed((-3 * k * y**2).flatten()).detach())
        torch.testing.assert_close(through, made, rtol=1e-12, atol=0)
        torch.testing.assert_close(past, made, rtol=1e-12, atol=0)

    def test_gradients_to_what_it_alone_uses(self):
        """Two-stage methods are off by what J is off, and `checkpointed` knows it as `direct` does."""
        scale = torch.tensor(0.8, dtype=F64, requires_grad=True)
        y0 = torch.full((2, 1), 0.5, dtype=F64)

        def to_scale(gradient):
            sol = solve_ivp(
                lambda t, y: -(y**3),
                (0, 1),
                y0,
                "rosenbrock23",
                jac=lambda t, y: torch.diag_embed((-3 * scale * y**2).flatten()),
                step_size=0.25,
                gradient=gradient,
            )
            return torch.autograd.grad(sol.ys[-1].sum(), [scale])[0]

        assert to_scale("direct") != 0
        torch.testing.assert_close(to_scale("checkpointed"), to_scale("direct"), rtol=1e-12, atol=0)

    def test_a_matrix_serves_everywhere(self):
        matrix = torch.tensor([[-1.0, 0.5], [0.0, -100.0]], dtype=F64)
        y0 = torch.ones(3, 2, dtype=F64)
        sol = solve_ivp(
            lambda t, y: y @ matrix.T, (0, 1), y0, "rodas5p", jac=matrix, batching="per_sample", rtol=1e-9, atol=1e-12
        )
        torch.testing.assert_close(sol.ys[-1], y0 @ torch.matrix_exp(matrix).T, rtol=1e-8, atol=1e-11)

    @pytest.mark.parametrize(
        ("jac", "message"),
        [([[1.0]], "jac must be callable"), (torch.zeros(3, 3), "jac must return shape"), (0, "jac must be callable")],
    )
    def test_what_is_none_is_refused(self, jac, message):
        with pytest.raises(ValueError, match=message):
            solve_ivp(lambda t, y: -y, (0, 1), torch.ones(2), "rodas5p", jac=jac)

    def test_an_explicit_method_says_that_it_makes_no_use_of_it(self):
        with pytest.warns(UserWarning, match="makes no use of jac"):
            solve_ivp(lambda t, y: -y, (0, 1), torch.ones(2), jac=-torch.eye(2))


@pytest.mark.parametrize("method", METHODS)
class TestRefusals:
    @pytest.mark.parametrize("dtype", [torch.complex64, torch.bfloat16])
    def test_dtypes(self, method, dtype):
        with pytest.raises(ValueError, match="view_as_real"):
            solve_ivp(lambda t, y: -y, (0, 1), torch.ones(2, dtype=dtype), method, rtol=0.1)

    def test_a_joint_state_that_is_too_long(self, method):
        with pytest.raises(ValueError, match="per_sample"):
            solve_ivp(lambda t, y: -y, (0, 1), torch.ones(5000, 1), method)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("method", METHODS)
def test_single_precision(method, batching):
    sol = solve_ivp(lambda t, y: -1e4 * (y - 1), (0, 1), torch.zeros(2, 1), method, batching=batching, rtol=1e-4)
    assert sol.ys.dtype == torch.float32
    torch.testing.assert_close(sol.ys[-1], torch.ones(2, 1), rtol=1e-3, atol=0)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("method", METHODS)
def test_the_solution_is_the_same_whether_gradients_might_be_wanted(method, batching):
    """Bit by bit, where there is nothing that a gradient could go to."""
    y0 = torch.rand(3, 2, dtype=F64)

    def end():
        return solve_ivp(lambda t, y: torch.sin(5 * y + t), (0, 1), y0, method, step_size=0.2, batching=batching).ys[-1]

    with torch.no_grad():
        expected = end()
    assert torch.equal(end(), expected)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_hidden_time_is_noticed(batching):
    """A field that takes its time out of the graph keeps its order."""

    def field(t, y):
        return -y + torch.sin(3 * t.detach())

    exact = scipy_solve_ivp(lambda t, y: -y + math.sin(3 * t), (0, 2), [1.0], rtol=1e-12, atol=1e-12).y[0, -1]
    errors = [
        abs(
            solve_ivp(field, (0, 2), torch.ones(1, 1, dtype=F64), "rodas5p", step_size=h, batching=batching)
            .ys[-1]
            .item()
            - exact
        )
        for h in (0.1, 0.05)
    ]
    assert math.log2(errors[0] / errors[1]) > 4.5


def test_the_step_limit_and_underflow_are_what_they_are_elsewhere():
    with pytest.raises(SolveError, match="raise max_steps"):
        solve_ivp(lambda t, y: -y, (0, 1), torch.ones(1, dtype=F64), "rodas5p", rtol=1e-10, atol=1e-12, max_steps=2)
    sol = solve_ivp(lambda t, y: y * y, (0, 2), torch.ones(1, dtype=F64), "rodas5p", on_failure="return")
    assert sol.status in (Status.STEP_UNDERFLOW, Status.NONFINITE)


@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_do_not_feel_rows_that_fail(method, gradient):
    """To an argument that all rows share: one row turns NaN, one meets a pole, and one is never finite."""
    assert_rows_that_fail_are_not_felt(method, gradient)


@pytest.mark.parametrize("again", [(0.0, 1.0), (0.5, 0.0)], ids=["state", "time"])
def test_what_is_kept_of_a_step_serves_that_point_alone(again):
    """Another state at the same time, or the same one at another time, has a Jacobian of its own."""
    t, moved = again
    y = torch.ones(2, dtype=F64)
    layout, _ = layout_of(y, by_row=False)
    field = CoreField(lambda t, y: -torch.exp(t) * y**3, (), layout, y)
    used, new = (RosenbrockStepper(RODAS5P, y, by_row=False) for _ in range(2))
    with torch.no_grad():
        used.step(field, 0.0, 0.1, y, None)
        y = y if moved == 0.0 else y + moved
        assert torch.equal(used.step(field, t, 0.1, y, None).y, new.step(field, t, 0.1, y, None).y)
