"""`steady_state` finds roots to the tolerance, the one that the water reaches where asked, with exact gradients."""

import numpy as np
import pytest
import scipy.optimize
import torch

from gradient_checks import central_differences
from thalweg import SolveError, Status, steady_state

F64 = torch.float64
METHODS = ["flow", "newton", "krylov", "anderson"]
BATCHINGS = ["joint", "per_sample"]


class Layer(torch.nn.Module):
    """g(y, x) - y with a g that contracts: the layer of a deep equilibrium model."""

    def __init__(self, size=4, dtype=F64):
        super().__init__()
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(0.3 * torch.randn(size, size, dtype=dtype))
        self.bias = torch.nn.Parameter(torch.randn(size, dtype=dtype))

    def forward(self, t, y, x):
        return torch.tanh(y @ self.weight + self.bias + x + 0.1 * t) - y


def inputs(rows=3, size=4, dtype=F64):
    return torch.randn(rows, size, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()


def unrolled(field, x, t=0.0):
    """Direct backpropagation through a hundred steps of Newton's method, a row at a time."""
    ends = []
    for row in x:
        y = torch.zeros_like(row)
        for _ in range(100):
            jacobian = torch.func.jacrev(lambda z, row=row: field(t, z, row))(y)
            y = y - torch.linalg.solve(jacobian, field(t, y, row))
        ends.append(y)
    return torch.stack(ends)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("method", METHODS)
class TestALayer:
    def test_its_root_is_that_of_scipy(self, method, batching):
        field, x = Layer(), inputs()
        found = steady_state(field, torch.zeros(3, 4, dtype=F64), args=(x,), method=method, batching=batching)
        for y, row in zip(found.y, x, strict=True):
            numbers = scipy.optimize.root(
                lambda z, row=row: field(0.0, torch.from_numpy(z), row).detach().numpy(), np.zeros(4), tol=1e-13
            )
            assert numbers.success
            torch.testing.assert_close(y.detach(), torch.from_numpy(numbers.x), rtol=1e-8, atol=1e-9)
        assert bool(torch.as_tensor(found.success).all())
        assert torch.as_tensor(found.residual).max() < 1e-8

    def test_its_gradients_are_those_of_backpropagation_through_newton_steps(self, method, batching):
        """To parameters that are captured, to args and to t, at once."""
        field, x, t = Layer(), inputs(), torch.tensor(0.7, dtype=F64, requires_grad=True)
        sources = [field.weight, field.bias, x, t]
        y = steady_state(
            lambda t, y, x: field(t, y, x), torch.zeros(3, 4, dtype=F64), args=(x,), t=t, method=method,
            batching=batching, rtol=1e-11, atol=1e-12,
        ).y  # fmt: skip
        found = torch.autograd.grad(y.sin().sum() + y.square().sum(), sources)
        y = unrolled(field, x, t)
        expected = torch.autograd.grad(y.sin().sum() + y.square().sum(), sources)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)

    def test_its_gradients_are_those_of_finite_differences(self, method, batching):
        field, x = Layer(), inputs()
        options = {"method": method, "batching": batching, "rtol": 1e-12, "atol": 1e-13}

        def y():
            return steady_state(field, torch.zeros(3, 4, dtype=F64), args=(x,), **options).y

        found = torch.autograd.grad(y().square().sum(), [x, field.weight])
        for one, at in zip(found, [x, field.weight], strict=True):
            expected = central_differences(lambda: y().square().sum().item(), at)
            torch.testing.assert_close(one, expected, rtol=1e-7, atol=1e-8)

    def test_float32(self, method, batching):
        field, x = Layer(dtype=torch.float32), inputs(dtype=torch.float32)
        y = steady_state(field, torch.zeros(3, 4), args=(x,), method=method, batching=batching).y
        found = torch.autograd.grad(y.sum(), [field.weight, x])
        double = Layer()
        double.load_state_dict({name: value.double() for name, value in field.state_dict().items()})
        x64 = x.detach().double().requires_grad_()
        expected = torch.autograd.grad(unrolled(double, x64).sum(), [double.weight, x64])
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-4)

    def test_a_second_derivative_is_an_error(self, method, batching):
        field, x = Layer(), inputs()
        y = steady_state(field, torch.zeros(3, 4, dtype=F64), args=(x,), method=method, batching=batching).y
        (first,) = torch.autograd.grad(y.sum(), [field.weight], create_graph=True)
        with pytest.raises(RuntimeError, match="computed once"):
            torch.autograd.grad(first.sum(), [field.weight])


def double_well(t, y):
    """Water runs from 0 to -1 or 1."""
    return y - y**3


class TestTheWater:
    @pytest.mark.parametrize("start", [0.01, 0.5, 0.57, 0.6, 1.4, 30.0])
    def test_goes_to_the_side_that_it_is_on(self, start):
        """Where Newton's method alone goes elsewhere: from 0.01 to 0, where nothing stays."""
        y0 = torch.tensor([[start], [-start]], dtype=F64)
        y = steady_state(double_well, y0, batching="per_sample").y
        torch.testing.assert_close(y, torch.tensor([[1.0], [-1.0]], dtype=F64), rtol=1e-12, atol=0)

    def test_newton_goes_to_a_root_that_repels(self):
        y = steady_state(double_well, torch.tensor([0.01], dtype=F64), method="newton").y
        assert abs(y.item()) < 1e-12

    def test_stays_where_it_stands_still(self):
        found = steady_state(double_well, torch.zeros(1, dtype=F64))
        assert found.y.item() == 0
        assert found.stats.n_steps == 0

    def test_leaves_a_saddle_that_it_passes(self):
        """Down to the saddle at 0 along x, and then along v to 1."""
        y = steady_state(lambda t, y: torch.stack([-y[0], y[1] - y[1] ** 3]), torch.tensor([2.0, 1e-9], dtype=F64)).y
        torch.testing.assert_close(y, torch.tensor([0.0, 1.0], dtype=F64), rtol=1e-10, atol=1e-9)

    def test_is_followed_where_the_field_is_stiff(self):
        """Two rates, nine orders apart; the root lies at (1, 2)."""

        def field(t, y):
            return torch.stack([-1e6 * (y[0] - 1), -1e-3 * (y[1] - 2 * y[0] ** 3)])

        y = steady_state(field, torch.tensor([-5.0, 40.0], dtype=F64)).y
        torch.testing.assert_close(y, torch.tensor([1.0, 2.0], dtype=F64), rtol=1e-9, atol=0)

    def test_rests_where_something_is_conserved(self):
        """A reaction a <-> b keeps a + b: of a line of roots the one that the start leads to."""

        def field(t, y):
            flow = 2 * y[..., 0] - y[..., 1]
            return torch.stack([-flow, flow], -1)

        found = steady_state(field, torch.tensor([[3.0, 0.0], [0.0, 6.0]], dtype=F64), batching="per_sample")
        torch.testing.assert_close(found.y, torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=F64), rtol=1e-6, atol=0)

    def test_that_circles_comes_to_no_rest(self):
        """Newton's method finds the middle of the circle, to which nothing goes."""

        def circle(t, y):
            return torch.stack([y[1] - 1, -y[0]])

        y0 = torch.tensor([1.0, 1.0], dtype=F64)
        found = steady_state(circle, y0, on_failure="return", max_steps=200)
        assert found.status == Status.MAX_STEPS
        assert torch.isnan(found.y).all()
        middle = steady_state(circle, y0, method="newton").y
        torch.testing.assert_close(middle, torch.tensor([0.0, 1.0], dtype=F64), rtol=0, atol=1e-12)


class TestRows:
    @pytest.mark.parametrize("method", METHODS)
    def test_do_not_feel_their_neighbours(self, method):
        """Values, gradients and costs of a row are those that it has alone."""
        field, x = Layer(), inputs(5)
        scale = torch.tensor([[1.0], [0.0], [3.0], [10.0], [0.1]], dtype=F64)

        def found(rows):
            given = (x.detach() * scale)[rows].requires_grad_()
            sol = steady_state(
                field, torch.zeros(len(rows), 4, dtype=F64), args=(given,), method=method, batching="per_sample"
            )
            return sol.y, torch.autograd.grad(sol.y.square().sum(), [given])[0], sol.stats

        y, gradient, stats = found([0, 1, 2, 3, 4])
        for row in range(5):
            y_alone, gradient_alone, stats_alone = found([row])
            torch.testing.assert_close(y[row], y_alone[0], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(gradient[row], gradient_alone[0], rtol=1e-10, atol=1e-12)
            assert stats.nfev[row] == stats_alone.nfev[0]
            assert stats.n_steps[row] == stats_alone.n_steps[0]

    @pytest.mark.parametrize("method", METHODS)
    def test_that_fail_are_a_status_and_not_felt(self, method):
        """Rows: well; NaN at once; without a root; well. The gradient to what all share is that of the good ones."""

        def solve(kinds):
            k = torch.tensor(0.5, dtype=F64, requires_grad=True)
            kind = torch.tensor(kinds).unsqueeze(1)

            def field(t, z, k):
                slope = torch.where(kind == 1, torch.nan, k * torch.tanh(z) + 1 - 2 * z)
                return torch.where(kind == 2, 1 + z**2, slope)

            y0 = torch.zeros(len(kinds), 1, dtype=F64)
            sol = steady_state(
                field, y0, args=(k,), method=method, batching="per_sample", on_failure="return", max_steps=60
            )
            (gradient,) = torch.autograd.grad(sol.y[sol.success].sum(), [k])
            return sol, gradient

        sol, gradient = solve([0, 1, 2, 0])
        assert sol.success.tolist() == [True, False, False, True]
        assert sol.status[1] == Status.NONFINITE
        assert torch.isnan(sol.y[1:3]).all()
        assert "row 1" in sol.message or "rows 1, 2" in sol.message
        _, alone = solve([0, 0])
        torch.testing.assert_close(gradient, alone, rtol=1e-12, atol=0)

    def test_have_times_of_their_own(self):
        t = torch.tensor([1.0, 4.0], dtype=F64, requires_grad=True)
        y = steady_state(lambda t, y: t - y**2, torch.ones(2, 1, dtype=F64), t=t, batching="per_sample").y
        torch.testing.assert_close(y.detach().flatten(), t.detach().sqrt(), rtol=1e-10, atol=0)
        (found,) = torch.autograd.grad(y.sum(), [t])
        torch.testing.assert_close(found, 0.5 / t.detach().sqrt(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batching", BATCHINGS)
def test_pytrees(method, batching):
    a = torch.tensor([[2.0, 3.0]], dtype=F64, requires_grad=True)
    y0 = {"x": torch.ones(1, 2, dtype=F64), "v": torch.ones(1, 1, dtype=F64)}
    y = steady_state(
        lambda t, y, a: {"x": 0.2 * (a - y["x"] ** 2), "v": y["x"].sum(-1, keepdim=True) - y["v"]},
        y0, args=(a,), method=method, batching=batching,
    ).y  # fmt: skip
    torch.testing.assert_close(y["x"].detach(), a.detach().sqrt(), rtol=1e-8, atol=0)
    (found,) = torch.autograd.grad(y["v"].sum(), [a])
    torch.testing.assert_close(found, 0.5 / a.detach().sqrt(), rtol=1e-8, atol=0)


def test_large_states_go_without_a_matrix():
    """Heat on a thousand points with a source, held at its ends: the gradient is that of the banded solve."""
    n = 1000
    matrix = -2.0 * torch.eye(n, dtype=F64) + torch.diag(torch.ones(n - 1, dtype=F64), 1)
    matrix = matrix + torch.diag(torch.ones(n - 1, dtype=F64), -1) - 0.05 * torch.eye(n, dtype=F64)
    source = torch.linspace(0, 1, n, dtype=F64).requires_grad_()
    found = steady_state(lambda t, y, s: matrix @ y - 0.1 * y**3 + s, torch.zeros(n, dtype=F64), args=(source,))
    assert found.stats.njev == 0
    jacobian = matrix - torch.diag(0.3 * found.y.detach() ** 2)
    (gradient,) = torch.autograd.grad(found.y.square().sum(), [source])
    expected = -torch.linalg.solve(jacobian.t(), 2 * found.y.detach())
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-8)


def test_a_deep_equilibrium_layer_learns():
    """An encoder, y = tanh(W y + x) with |W| < 1, and a decoder learn the products of signs."""
    torch.manual_seed(0)
    x = torch.randn(64, 2)
    target = (x[:, 0] * x[:, 1] > 0).float()
    encoder, inner, decoder = torch.nn.Linear(2, 8), torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 1)

    def layer(t, y, x):
        weight = inner.weight / torch.linalg.matrix_norm(inner.weight, 2)
        return torch.tanh(0.9 * y @ weight + x) - y

    optimiser = torch.optim.Adam([p for m in (encoder, inner, decoder) for p in m.parameters()], 0.05)
    losses = []
    for _ in range(80):
        y = steady_state(layer, torch.zeros(64, 8), args=(encoder(x),), method="newton", batching="per_sample").y
        loss = torch.nn.functional.binary_cross_entropy_with_logits(decoder(y).squeeze(1), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


class TestTrouble:
    def test_no_root_is_an_error_that_carries_what_was_found(self):
        y0 = torch.tensor([[1.0], [2.0]], dtype=F64)
        with pytest.raises(SolveError, match=r"no steady state was found: 1 of 2 samples \(row 1\)") as raised:
            steady_state(
                lambda t, y: torch.where(y > 1.5, torch.nan, 1.1 - y), y0, batching="per_sample", method="newton"
            )
        assert raised.value.solution.success.tolist() == [True, False]

    def test_a_singular_jacobian_is_a_status(self):
        found = steady_state(lambda t, y: y**2 - 1, torch.zeros(1, dtype=F64), method="newton", on_failure="return")
        assert found.status == Status.SINGULAR
        assert "start elsewhere" in found.message

    def test_a_gradient_at_a_root_that_is_not_isolated_is_an_error(self):
        k = torch.tensor(1.0, dtype=F64, requires_grad=True)
        y0 = torch.tensor([3.0, 0.0], dtype=F64)
        y = steady_state(lambda t, y, k: k * (y[0] - y[1]) * torch.tensor([-1.0, 1.0], dtype=F64), y0, args=(k,)).y
        with pytest.raises(RuntimeError, match="no inverse"):
            y.sum().backward()

    @pytest.mark.parametrize("method", ["krylov", "anderson"])
    def test_so_it_is_without_a_matrix(self, method):
        k = torch.tensor(0.0, dtype=F64, requires_grad=True)
        y = steady_state(lambda t, y, k: k.expand(2), torch.ones(2, dtype=F64), args=(k,), method=method).y
        with pytest.raises(RuntimeError, match="near to having no inverse"):
            y.sum().backward()

    def test_newton_halves_steps_that_go_too_far(self):
        """arctan, from where whole steps run away."""
        y = steady_state(lambda t, y: -torch.arctan(y), torch.tensor([10.0], dtype=F64), method="newton").y
        assert abs(y.item()) < 1e-10

    @pytest.mark.parametrize("method", ["newton", "krylov"])
    def test_a_multiple_root_is_found_slowly(self, method):
        found = steady_state(lambda t, y: -(y**3), torch.ones(1, dtype=F64), method=method)
        assert abs(found.y.item()) < 1e-8

    @pytest.mark.parametrize("method", ["newton", "krylov"])
    def test_entries_may_be_of_very_different_sizes(self, method):
        """The small one fed by the large one: y1 = 1.5 large, y2³ = 1 + y1 / (10 large)."""
        large = 1e12
        field = lambda t, y: torch.stack([1.5 * large - y[0], 1 + y[0] / (10 * large) - y[1] ** 3])  # noqa: E731
        y = steady_state(field, torch.tensor([0.9 * large, 0.5], dtype=F64), method=method).y
        expected = torch.tensor([1.5 * large, 1.15 ** (1 / 3)], dtype=F64)
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=0)

    @pytest.mark.parametrize("method", METHODS)
    def test_a_field_without_a_root_fails(self, method):
        found = steady_state(
            lambda t, y: 1 + y * y, torch.zeros(1, dtype=F64), method=method, on_failure="return", max_steps=300
        )
        assert not found.success
        assert torch.isnan(found.y).all()

    def test_a_parameter_changed_before_the_backward_pass_is_felt_as_an_error_or_not_at_all(self):
        """d/dk of the root of k - y² at k = 4, though k is another by then: what J is made of was kept."""
        k = torch.tensor(4.0, dtype=F64, requires_grad=True)
        y = steady_state(lambda t, y, k: k - y**2, torch.ones(1, dtype=F64), args=(k,)).y
        with torch.no_grad():
            k.mul_(9.0)
        (found,) = torch.autograd.grad(y.sum(), [k])
        assert found.item() == pytest.approx(0.25, rel=1e-10)

    def test_nothing_that_needs_a_gradient_gives_none(self):
        y0 = torch.ones(1, dtype=F64, requires_grad=True)
        for method in METHODS:
            assert not steady_state(lambda t, y: 1 - y, y0, method=method).y.requires_grad

    def test_an_empty_batch_is_at_rest(self):
        found = steady_state(lambda t, y: -y, torch.zeros(0, 3), batching="per_sample")
        assert found.y.shape == (0, 3)
        assert found.success.shape == (0,)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"method": "secant"}, "method must be one of 'flow'"),
            ({"batching": "rows"}, "batching must be one of"),
            ({"on_failure": "ignore"}, "on_failure must be one of"),
            ({"max_steps": 0}, "max_steps must be a positive integer, got 0"),
            ({"y0": torch.ones(2, dtype=torch.complex64)}, "float32 or float64, got torch.complex64"),
            ({"y0": torch.ones(2, dtype=torch.int64)}, "must be floating"),
            ({"fun": 3}, "fun must be callable"),
            ({"t": "noon"}, "t must be a real number"),
            ({"rtol": -1.0}, "rtol must be a positive number"),
            ({"fun": lambda t, y: y[:1]}, "must return the shape of y"),
        ],
    )
    def test_arguments_that_cannot_be(self, change, message):
        given = {"fun": lambda t, y: -y, "y0": torch.ones(2), **change}
        with pytest.raises(ValueError, match=message):
            steady_state(given.pop("fun"), given.pop("y0"), **given)

    def test_transforms_are_refused(self):
        with pytest.raises(ValueError, match=r"torch\.autograd alone"):
            torch.func.grad(lambda a: steady_state(lambda t, y: a - y, torch.zeros(1)).y.sum())(torch.ones(1))


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("method", METHODS)
def test_a_field_may_write_all_slopes_into_one_tensor(method, batching):
    out = torch.empty(3, 2, dtype=F64)

    def field(t, y):
        return out.copy_((torch.cos(y) - y).detach())

    with torch.no_grad():
        rest = steady_state(field, torch.linspace(0, 1, 6, dtype=F64).view(3, 2), method=method, batching=batching)
    torch.testing.assert_close(rest.y, torch.full((3, 2), 0.7390851332151607, dtype=F64), rtol=1e-8, atol=0)
