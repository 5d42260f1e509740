"""Every gradient method agrees with central differences in float64, to everything a solve depends on."""

import pytest
import torch

from gradient_checks import differences_along, give_room
from pairs import solve
from thalweg import solve_ivp
from thalweg.gradients import GRADIENTS
from thalweg.methods import methods

F64 = torch.float64
TIGHT = {"rtol": 1e-11, "atol": 1e-11}
BOUND = 1e-6


def generator(seed):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed):
    return torch.randn(*shape, dtype=F64, generator=generator(seed))


class Field(torch.nn.Module):
    """Nonlinear in y, in t and in its parameters."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(randn(3, 3, seed=1))
        self.bias = torch.nn.Parameter(randn(3, seed=2))

    def forward(self, t, y, other):
        return torch.tanh(y @ self.weight + t * self.bias) - 0.3 * y * torch.sin(t + y @ other)


def times(direction, batching, outputs):
    """t0, t1 and t_eval; per sample, t1 and t_eval may have a value for each row."""
    t0, t1 = torch.tensor(0.2, dtype=F64), torch.tensor(1.3, dtype=F64)
    t_eval = None
    if batching == "per_sample":
        t1 = t1 + torch.rand(4, dtype=F64, generator=generator(3))
    if outputs is not None:
        t_eval = torch.linspace(0.3, 1.2, 4, dtype=F64)
    if outputs == "of each row":
        t_eval = t_eval[:, None] + 0.1 * torch.rand(4, dtype=F64, generator=generator(4))
    if direction == "back":
        t0, t1 = t1, t0
        t_eval = None if t_eval is None else t_eval.flip(0)
    return [
        t0.clone().requires_grad_(),
        t1.clone().requires_grad_(),
        t_eval if t_eval is None else t_eval.requires_grad_(),
    ]


CASES = [
    ("joint", None),
    ("joint", "of all"),
    ("per_sample", None),
    ("per_sample", "of all"),
    ("per_sample", "of each row"),
]


@pytest.mark.parametrize("direction", ["forward", "back"])
@pytest.mark.parametrize(("method", "batching", "outputs"), [
    *(("tsit5", *case) for case in CASES),
    ("dopri8", "joint", None),  # these two have extra stages for outputs
    ("dopri8", "per_sample", "of each row"),
    ("vern7", "joint", "of all"),
])  # fmt: skip
def test_gradients_are_those_of_finite_differences(method, batching, outputs, direction):
    """Parameters, args, y0, t0, t1 and t_eval; all gradient methods; 1e-6 relative."""
    field, y0, other = Field(), randn(4, 3, seed=5).requires_grad_(), (0.5 * randn(3, 3, seed=6)).requires_grad_()
    t0, t1, t_eval = times(direction, batching, outputs)
    weights = randn(1 if outputs is None else 4, 4, 3, seed=7)

    def loss(gradient):
        sol = solve_ivp(
            field,
            (t0, t1),
            y0,
            method,
            t_eval,
            args=(other,),
            batching=batching,
            gradient=gradient,
            max_steps=100_000,
            **TIGHT,
        )
        ys = sol.ys[1:] if outputs is None else sol.ys
        return (ys.sin() * weights).sum()

    sources = {"weight": field.weight, "bias": field.bias, "args": other, "y0": y0, "t0": t0, "t1": t1}
    if t_eval is not None:
        sources["t_eval"] = t_eval
    if outputs is not None:  # t1 is the end of the last step, which no output feels but through its size
        del sources["t1"]
    grads = {
        gradient: dict(zip(sources, torch.autograd.grad(loss(gradient), list(sources.values())), strict=True))
        for gradient in ("direct", "checkpointed", "adjoint", "interpolating" if direction == "forward" else "gauss")
    }
    for name, x in sources.items():
        ways, expected = differences_along(lambda: loss("direct"), x)
        for gradient, found in grads.items():
            error = (ways @ found[name].flatten() - expected).norm() / expected.norm()
            assert error < BOUND, f"{gradient}: gradient to {name} is off by {error:.1e}"


@pytest.mark.parametrize("method", [m.name for m in methods()])
@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_discrete_gradients_are_exact_at_any_step_size(method, batching):
    """With fixed steps, however coarse, `checkpointed` is the derivative of what was computed."""
    field, y0, other = Field(), randn(4, 3, seed=5).requires_grad_(), 0.5 * randn(3, 3, seed=6)
    t_eval = torch.tensor([0.1, 0.55, 1.0], dtype=F64)

    def loss(gradient):
        sol = solve(
            field,
            (0.0, 1.0),
            y0,
            method,
            t_eval,
            args=(other,),
            step_size=0.3,
            batching=batching,
            gradient=gradient,
            rtol=1e-12,
            atol=1e-12,
            backend="eager",
        )
        return sol.ys.square().sum()

    sources = [field.weight, y0]
    found = torch.autograd.grad(loss("checkpointed"), sources)
    direct = torch.autograd.grad(loss("direct"), sources)
    for x, one, other_way in zip(sources, found, direct, strict=True):
        ways, expected = differences_along(lambda: loss("checkpointed"), x)
        assert (ways @ one.flatten() - expected).norm() / expected.norm() < 1e-8
        torch.testing.assert_close(one, other_way, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-5])
def test_checkpointed_equals_direct_at_loose_tolerances_too(batching, tolerance):
    """Adaptive steps, rejected ones among them: both differentiate the accepted steps and nothing else."""
    field, y0, other = Field(), (3 * randn(4, 3, seed=5)).requires_grad_(), 0.5 * randn(3, 3, seed=6)
    grads = []
    for gradient in ("direct", "checkpointed"):
        sol = solve_ivp(
            field,
            (0.0, 6.0),
            y0,
            "dopri5",
            torch.linspace(0, 6, 7),
            args=(other,),
            rtol=tolerance,
            atol=tolerance,
            batching=batching,
            gradient=gradient,
            first_step=3.0,
        )
        assert int(torch.as_tensor(sol.stats.n_rejected).sum()) > 0
        grads.append(torch.autograd.grad(sol.ys.square().sum(), [field.weight, field.bias, y0]))
    for one, other_way in zip(*grads, strict=True):
        torch.testing.assert_close(one, other_way, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint", "interpolating"])
def test_memory_of_the_forward_pass_is_not_that_of_a_graph(gradient, monkeypatch):
    """Nothing that a field computes in the forward pass is recorded, where memory is not ample."""
    give_room(monkeypatch, 0)
    recorded = []

    def field(t, y):
        recorded.append(torch.is_grad_enabled())
        return -y

    solve_ivp(field, (0, 1), torch.ones(2, dtype=F64, requires_grad=True), gradient=gradient)
    assert recorded
    assert not any(recorded)


@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint", "interpolating", "gauss"])
def test_complex_states_have_gradients(gradient):
    """In PyTorch's convention, against the closed form exp((a + ib) t) y0."""
    rate = torch.tensor(-0.3 + 2.0j, dtype=torch.complex128, requires_grad=True)
    y0 = torch.tensor([1.0 + 0.5j, -0.2 + 1j], dtype=torch.complex128, requires_grad=True)
    weights = torch.tensor([0.3 + 1j, 2.0 - 0.7j], dtype=torch.complex128)

    def loss(end):
        return (end * weights).sum().abs() ** 2

    sol = solve_ivp(lambda t, y, k: k * y, (0.0, 1.5), y0, args=(rate,), gradient=gradient, **TIGHT)
    found = torch.autograd.grad(loss(sol.ys[-1]), [rate, y0])
    expected = torch.autograd.grad(loss(torch.exp(rate * 1.5) * y0), [rate, y0])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint", "interpolating", "gauss"])
def test_pytree_states_have_gradients(gradient, batching):
    y0 = {"x": torch.ones(3, 2, dtype=F64, requires_grad=True), "v": torch.zeros(3, 2, dtype=F64, requires_grad=True)}
    sol = solve_ivp(
        lambda t, y: {"x": y["v"], "v": -y["x"]}, (0.0, 1.0), y0, gradient=gradient, batching=batching, **TIGHT
    )
    found = torch.autograd.grad(sol.ys["x"][-1].sum(), [y0["x"], y0["v"]])
    torch.testing.assert_close(found[0], torch.full((3, 2), 1.0, dtype=F64).cos(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1], torch.full((3, 2), 1.0, dtype=F64).sin(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint", "interpolating", "gauss"])
def test_equal_times_pass_the_gradient_through(gradient):
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    sol = solve_ivp(lambda t, y: -y, (1.0, 1.0), y0, gradient=gradient)
    (found,) = torch.autograd.grad(sol.ys[-1].sum(), [y0])
    assert torch.equal(found, torch.ones(2, dtype=F64))


class TestOutputsAtTheStart:
    """To which no step leads: y(t) = y0 + f(t0, y0) (t - t0) there, so that an output moves by f with its time."""

    def solve(self, t0, t1, t_eval=None, **options):
        field = lambda t, y: -y * torch.cos(t)  # noqa: E731
        y0 = torch.tensor([[1.0, 2.0], [3.0, -4.0]], dtype=F64, requires_grad=True)
        t0 = torch.tensor(t0, dtype=F64, requires_grad=True)
        sol = solve_ivp(field, (t0, t1), y0, t_eval=t_eval, **options)
        return sol, y0, t0, field(t0, y0).detach()

    @pytest.mark.parametrize("gradient", list(GRADIENTS))
    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    @pytest.mark.parametrize("backend", ["eager", "auto"])
    def test_a_span_without_length(self, gradient, batching, backend):
        t1 = torch.tensor(0.3, dtype=F64, requires_grad=True)
        sol, y0, t0, slope = self.solve(0.3, t1, gradient=gradient, batching=batching, backend=backend)
        assert torch.equal(sol.ys, torch.stack([y0, y0]))
        found = torch.autograd.grad(sol.ys[-1].square().sum(), [y0, t0, t1])
        rate = (2 * y0.detach() * slope).sum()
        for one, expected in zip(found, (2 * y0.detach(), -rate, rate), strict=True):
            torch.testing.assert_close(one, expected)
        (at_t0,) = torch.autograd.grad(self.solve(0.3, t1, gradient=gradient)[0].ys[0].sum(), t1, allow_unused=True)
        assert at_t0 is None or at_t0.item() == 0  # the first output is y0, whatever the times are

    @pytest.mark.parametrize("gradient", list(GRADIENTS))
    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    @pytest.mark.parametrize("t1", [0.3, 1.0, -1.0])
    def test_a_time_of_t_eval(self, gradient, batching, t1):
        t_eval = torch.tensor([0.3, 0.3], dtype=F64, requires_grad=True)
        sol, _, t0, slope = self.solve(0.3, t1, t_eval, gradient=gradient, batching=batching)
        to_eval, to_t0 = torch.autograd.grad((sol.ys[0] - 3 * sol.ys[1]).sum(), [t_eval, t0])
        torch.testing.assert_close(to_eval, torch.stack([slope.sum(), -3 * slope.sum()]))
        torch.testing.assert_close(to_t0, 2 * slope.sum())

    @pytest.mark.parametrize("gradient", list(GRADIENTS))
    def test_rows_that_go_nowhere_beside_others(self, gradient):
        """The gradient of the others is what it is without them."""
        t1 = torch.tensor([0.3, 1.0], dtype=F64, requires_grad=True)
        sol, _, _, slope = self.solve(0.3, t1, gradient=gradient, batching="per_sample", rtol=1e-9, atol=1e-9)
        (found,) = torch.autograd.grad(sol.ys[-1].sum(), [t1])
        at_end = (-sol.ys[-1, 1] * torch.cos(t1[1])).sum().detach()
        torch.testing.assert_close(found, torch.stack([slope[0].sum(), at_end]), rtol=1e-5, atol=0)

    def test_beside_events(self):
        t1, events = torch.tensor(0.3, dtype=F64, requires_grad=True), lambda t, y: y[0, 0] - 9.0
        sol, _, _, slope = self.solve(0.3, t1, events=events)
        torch.testing.assert_close(torch.autograd.grad(sol.ys[-1].sum(), [t1])[0], slope.sum())

    @pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
    def test_second_derivatives(self, gradient):
        """d²y(t1) / dt1 dy0 = ∂f/∂y."""
        t1 = torch.tensor(0.3, dtype=F64, requires_grad=True)
        sol, y0, _, _ = self.solve(0.3, t1, gradient=gradient)
        (first,) = torch.autograd.grad(sol.ys[-1].sum(), [t1], create_graph=True)
        (second,) = torch.autograd.grad(first, [y0])
        torch.testing.assert_close(second, -torch.cos(t1).detach().expand(2, 2))

    def test_an_infinite_slope_leaves_the_output_as_it_is(self):
        y0, t1 = torch.zeros(1, dtype=F64), torch.tensor(0.0, dtype=F64, requires_grad=True)
        assert solve_ivp(lambda t, y: 1 / y, (0.0, t1), y0).ys[-1].item() == 0

    def test_the_evaluation_is_counted(self):
        calls, t1 = [], torch.tensor([0.3, 1.0], dtype=F64, requires_grad=True)

        def field(t, y):
            calls.append(t)
            return -y

        for span, batching in (((0.3, t1[0]), "joint"), ((0.3, t1), "per_sample")):
            sol = solve_ivp(field, span, torch.ones(2, 1, dtype=F64), batching=batching, backend="eager")
            nfev = torch.as_tensor(sol.stats.nfev)
            assert int(nfev.flatten()[0]) == 1
            assert batching == "per_sample" or len(calls) == 1
