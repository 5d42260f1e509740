"""Derivatives of `checkpointed` gradients are those of `direct`, of any order, wherever a gradient goes."""

import pytest
import torch

from gradient_checks import TROUBLE, troubled
from thalweg import Checkpointed, Event, solve_ivp

F64 = torch.float64
BATCHINGS = ["joint", "per_sample"]
WAYS = {"one graph": Checkpointed(), "step by step": Checkpointed(memory_limit=0)}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
both = pytest.mark.parametrize("batching", BATCHINGS)


def leaf(*values):
    return torch.tensor(values if len(values) > 1 else values[0], dtype=F64, requires_grad=True)


class Everywhere:
    """A solve that depends on all that it can; y0, an argument and t1 are computed from what the field captures."""

    def __init__(self):
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double()
        self.x = torch.randn(3, 2, dtype=F64, requires_grad=True)
        self.k, self.scale, self.t0 = leaf(0.7), leaf(1.2), leaf(0.1)
        self.t_eval = leaf(0.2, 0.5, 0.9)
        self.sources = [self.x, self.k, self.scale, self.t0, *self.net.parameters()]

    def solve(self, gradient, method="tsit5", *, inside=True, **options):
        options = {"rtol": 1e-5, "atol": 1e-6, **options}
        return solve_ivp(
            lambda t, y, k: self.net(y) * k * self.scale + torch.sin(t + y),
            (self.t0, self.scale),
            self.x * self.scale,
            method,
            self.t_eval if inside else None,
            args=(self.k * self.scale,),
            gradient=gradient,
            **options,
        )

    def wanted(self, inside):
        return [*self.sources, self.t_eval] if inside else self.sources

    def product(self, gradient, method="tsit5", *, inside=True, **options):
        """The gradient, and the product of the Hessian with a vector of ones."""
        loss = self.solve(gradient, method, inside=inside, **options).ys.sin().sum()
        wanted = self.wanted(inside)
        first = torch.autograd.grad(loss, wanted, create_graph=True)
        return [*first, *torch.autograd.grad(sum(g.sum() for g in first), wanted)]


def assert_equal(found, expected, rtol=1e-10):
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert (one - other).norm() <= rtol * other.norm(), f"part {i}"


@ways
@both
@pytest.mark.parametrize("inside", [True, False], ids=["t_eval", "ends"])
def test_products_with_the_hessian_are_those_of_direct(way, batching, inside):
    """To y0, arguments, what the field holds and all times, also where each of these is computed from another."""
    problem = Everywhere()
    found = problem.product(way, inside=inside, batching=batching)
    assert_equal(found, problem.product("direct", inside=inside, batching=batching))


@pytest.mark.parametrize("method", ["rk4", "dopri8", "rosenbrock23", "adams", "rkc"])
def test_with_other_kinds_of_methods(method):
    problem, options = Everywhere(), {"step_size": 0.2} if method == "rk4" else {"rtol": 1e-3}
    found = problem.product(Checkpointed(memory_limit=0), method, **options)
    assert_equal(found, problem.product("direct", method, **options))


def test_of_a_batch_that_shrinks():
    spread = torch.tensor([[0.1], [1.0], [30.0]], dtype=F64)
    found = []
    for gradient in (Checkpointed(), "direct"):
        y0, k = torch.ones(3, 1, dtype=F64, requires_grad=True), leaf(0.8)
        sol = solve_ivp(
            lambda t, y, r, k: -k * r * y**3, (0, 1), y0, args=(spread, k), batching="per_sample", shrink=True,
            gradient=gradient, rtol=1e-5,
        )  # fmt: skip
        first = torch.autograd.grad(sol.ys[-1].sum(), [y0, k], create_graph=True)
        found.append(torch.autograd.grad(first[0].sum() + first[1], [y0, k]))
    assert_equal(*found)


@ways
@both
def test_they_are_finite_differences_of_gradients(way, batching):
    """A gradient penalty: d/dx of |dL/dx|², by changing x; with fixed steps, which do not change with it."""
    problem = Everywhere()

    def penalty():
        loss = problem.solve(way, batching=batching, step_size=0.15).ys.square().sum()
        first = torch.autograd.grad(loss, problem.sources, create_graph=True)
        return sum(g.square().sum() for g in first)

    found = torch.autograd.grad(penalty(), problem.sources)
    for x, gradient in zip(problem.sources, found, strict=True):
        along, old = torch.randn_like(x), x.detach().clone()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                x.copy_(old + sign * 1e-5 * along)
            values.append(penalty().item())
        with torch.no_grad():
            x.copy_(old)
        expected = (values[0] - values[1]) / 2e-5
        assert (gradient * along).sum().item() == pytest.approx(expected, rel=1e-7, abs=1e-6)


@ways
@pytest.mark.parametrize("order", [2, 3, 4])
def test_derivatives_of_any_order(way, order):
    """y(1) = y0 / (1 + y0), the flow of -y²: the n-th derivative is -(-1)ⁿ n! / (1 + y0)ⁿ⁺¹."""
    y0 = leaf(1.0).reshape(1)
    value = solve_ivp(lambda t, y: -y * y, (0, 1), y0, gradient=way, rtol=1e-10, atol=1e-10).ys[-1]
    expected = -1.0
    for n in range(1, order + 1):
        (value,) = torch.autograd.grad(value.sum(), y0, create_graph=True)
        expected *= -n
    assert value.item() == pytest.approx(expected / 2 ** (order + 1), rel=1e-6)


def test_a_physics_informed_loss():
    """u(t) is a solve; what its derivative by t lacks to obey another equation trains the field."""
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 2).double()
    found = []
    for gradient in (Checkpointed(), "direct"):
        times = torch.linspace(0.1, 1, 5, dtype=F64).requires_grad_()
        u = solve_ivp(
            lambda t, y: torch.tanh(net(y)), (0, 1), torch.tensor([1.0, 0.5], dtype=F64), t_eval=times,
            gradient=gradient, rtol=1e-6, atol=1e-6,
        ).ys  # fmt: skip
        rates = [torch.autograd.grad(u[:, i].sum(), times, create_graph=True)[0] for i in range(2)]
        residual = torch.stack(rates, -1) - u.flip(-1)
        found.append(torch.autograd.grad(residual.square().sum(), net.parameters()))
    assert_equal(*found)


@both
def test_the_norm_of_the_jacobian_of_a_flow(batching):
    """Row by row d y(t1) / d y0, squared, and its gradient to the parameters."""
    found = []
    for gradient in (Checkpointed(), "direct"):
        problem = Everywhere()
        end = problem.solve(gradient, inside=False, batching=batching).ys[-1]
        rows = [torch.autograd.grad(end[:, i].sum(), problem.x, create_graph=True)[0] for i in range(2)]
        found.append(torch.autograd.grad(torch.stack(rows).square().sum(), problem.net.parameters()))
    assert_equal(*found)


def test_rows_that_fail_are_not_felt():
    found = []
    for gradient in (Checkpointed(), "direct"):
        k = leaf(3.0)
        sol = solve_ivp(
            troubled, (0.0, 1.0), TROUBLE, args=(k,), rtol=1e-4, batching="per_sample", gradient=gradient,
            on_failure="return",
        )  # fmt: skip
        (first,) = torch.autograd.grad(sol.ys[-1, sol.success].square().sum(), k, create_graph=True)
        found.append(torch.autograd.grad(first, k))
    assert found[0][0].isfinite()
    assert_equal(*found)


def test_states_beyond_an_event_have_them():
    """A ball that bounces at a time that does not depend on what is varied: the damping after it."""
    bounce = Event(lambda t, y, k: t - 0.5, apply=lambda t, y, k: -k * y)
    found = []
    for gradient in (Checkpointed(), "direct"):
        k = leaf(0.8)
        sol = solve_ivp(
            lambda t, y, k: -k * y**2, (0.0, 1.0), torch.ones(1, dtype=F64), args=(k,), events=bounce,
            gradient=gradient, rtol=1e-8, atol=1e-8,
        )  # fmt: skip
        (first,) = torch.autograd.grad(sol.ys[-1].sum(), k, create_graph=True)
        found.append(torch.autograd.grad(first, k))
    assert_equal(*found)


@pytest.mark.parametrize("last", [None, 3])
def test_a_callback_sees_each_step_once_and_stops_at_the_same_one(last):
    found = []
    for gradient in (Checkpointed(), "direct"):
        y0, seen = leaf(1.0).reshape(1), []
        sol = solve_ivp(
            lambda t, y: -y * y, (0, 2), y0, t_eval=[0.1, 0.2, 2.0], gradient=gradient, rtol=1e-6, on_failure="return",
            callback=lambda step, seen=seen: seen.append(step) or len(seen) == last,
        )  # fmt: skip
        count = len(seen)
        (first,) = torch.autograd.grad(sol.ys[:2].sum(), y0, create_graph=True)
        found.append(torch.autograd.grad(first.sum(), y0))
        assert len(seen) == count
    assert_equal(*found)


@pytest.mark.parametrize("memory_limit", [0, 2**28])
def test_a_first_derivative_costs_no_second_solve(memory_limit):
    """Nothing is computed again before it is differentiated, and that is counted."""
    problem = Everywhere()
    sol = problem.solve(Checkpointed(memory_limit=memory_limit), backend="eager")
    (first,) = torch.autograd.grad(sol.ys.sum(), problem.k, create_graph=True)
    again = sol.stats.nfev_backward
    assert (again == 0) == (memory_limit > 0)
    torch.autograd.grad(first, problem.k)
    assert sol.stats.nfev_backward - again == (0 if memory_limit else sol.stats.nfev)
