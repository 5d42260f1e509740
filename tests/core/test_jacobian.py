"""Jacobians are those of calculus, whichever way they are made."""

import pytest
import torch

from thalweg.core import jacobian
from thalweg.core.field import Field
from thalweg.core.jacobian import Jacobians
from thalweg.core.state import layout_of

F64 = torch.float64
RATES = torch.tensor([[0.5, 2.0], [1.0, -1.0], [3.0, 0.1]], dtype=F64)


def nonlinear(t, y, k):
    """By row: (k1 sin(t) x y, k2 x² + t² y)."""
    x, v = y.unbind(-1)
    t = t[..., 0] if t.ndim else t
    k1, k2 = k.unbind(-1)
    return torch.stack([k1 * torch.sin(t) * x * v, k2 * x * x + t * t * v], -1)


def exact(t, y, k):
    """J and f_t of `nonlinear`."""
    x, v = y.unbind(-1)
    k1, k2 = k.unbind(-1)
    s, c = torch.sin(t) * torch.ones_like(x), torch.cos(t) * torch.ones_like(x)
    rows = [torch.stack([k1 * s * v, k1 * s * x], -1), torch.stack([2 * k2 * x, t * t * torch.ones_like(x)], -1)]
    return torch.stack(rows, -2), torch.stack([k1 * c * x * v, 2 * t * v], -1)


def linearized(fun, y, t=0.7, *, by_row=True, args=(), jac=None, timed=True):
    layout, packed = layout_of(y, by_row=by_row)
    field = Field(fun, args, layout, packed, jac)
    if not isinstance(t, torch.Tensor):
        (t,) = field.times(torch.full(packed.shape[:1], t, dtype=F64) if by_row else t, 0.0, torch.zeros(1, dtype=F64))
    return Jacobians(packed, by_row=by_row).at(field, t, packed, timed=timed)


@pytest.fixture
def y():
    return torch.randn(3, 2, dtype=F64)


def only(way, monkeypatch):
    """Let all ways before this one fail."""

    def fail(*args):
        raise RuntimeError

    for name in ("_batched", "_one_by_one")[: ("batched", "one by one", "differences").index(way)]:
        monkeypatch.setattr(Jacobians, name, fail)
    return 1e-6 if way == "differences" else 1e-12


@pytest.mark.parametrize("way", ["batched", "one by one", "differences"])
class TestEveryWay:
    def test_of_each_row(self, way, monkeypatch, y):
        bound = only(way, monkeypatch)
        found = linearized(nonlinear, y, args=(RATES,))
        matrix, change = exact(torch.tensor(0.7, dtype=F64), y, RATES)
        assert torch.equal(found.slope, nonlinear(torch.tensor(0.7, dtype=F64), y, RATES))
        torch.testing.assert_close(found.jacobian, matrix, rtol=bound, atol=bound)
        torch.testing.assert_close(found.time_derivative, change, rtol=bound, atol=bound)

    def test_of_the_whole_state(self, way, monkeypatch, y):
        """Which has the rows' blocks on its diagonal where they do not talk to each other."""
        bound = only(way, monkeypatch)
        found = linearized(nonlinear, y, by_row=False, args=(RATES,))
        matrix, change = exact(torch.tensor(0.7, dtype=F64), y, RATES)
        torch.testing.assert_close(found.jacobian, torch.block_diag(*matrix), rtol=bound, atol=bound)
        torch.testing.assert_close(found.time_derivative, change, rtol=bound, atol=bound)

    @pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 2, 3), (4, 0)])
    def test_of_any_shape(self, way, monkeypatch, shape):
        """y' = sin(y): a diagonal."""
        bound = only(way, monkeypatch)
        y = torch.randn(shape, dtype=F64)
        found = linearized(lambda t, y: torch.sin(y), y)
        torch.testing.assert_close(
            found.jacobian, torch.diag_embed(torch.cos(y).reshape(len(y), y[:1].numel())), rtol=bound, atol=bound
        )
        assert found.time_derivative is None
        whole = linearized(lambda t, y: torch.sin(y), y, by_row=False)
        torch.testing.assert_close(whole.jacobian, torch.diag(torch.cos(y).flatten()), rtol=bound, atol=bound)


@pytest.mark.parametrize("way", ["batched", "one by one"])
@pytest.mark.parametrize("by_row", [True, False])
def test_derivatives_of_j_and_f_t(way, by_row, monkeypatch, y):
    """To y, t and arguments: second derivatives of the field, which finite differences confirm."""
    only(way, monkeypatch)
    rates, y = RATES.clone().requires_grad_(), y.requires_grad_()
    t = torch.full((3, 1) if by_row else (), 0.7, dtype=F64, requires_grad=True)

    def outputs(y, t, rates):
        found = linearized(nonlinear, y, t, args=(rates,), by_row=by_row)
        return found.slope, found.jacobian, found.time_derivative

    assert torch.autograd.gradcheck(outputs, (y, t, rates))


def test_only_the_fields_own_use_of_y_counts():
    """Not that of an argument which was computed from y."""
    y = torch.ones(2, 1, dtype=F64, requires_grad=True)
    found = linearized(lambda t, y, k: k * y, y, args=(y * y,))
    assert torch.equal(found.jacobian, torch.ones(2, 1, 1, dtype=F64))


def test_a_recorded_graph_gets_no_new_beginning(y):
    """Its leaves are those that were given: one more would look like a tensor whose gradient is lost."""
    from thalweg.gradients.capture import unreached

    y.requires_grad_()
    found = linearized(nonlinear, y, args=(RATES,))
    assert unreached([found.slope, found.jacobian, found.time_derivative], [y]) == []


def test_without_a_graph_nothing_needs_a_gradient(y):
    rates = RATES.clone().requires_grad_()
    with torch.no_grad():
        found = linearized(nonlinear, y, args=(rates,))
    assert not any(x.requires_grad for x in (found.slope, found.jacobian, found.time_derivative))


class TestFieldsOfManyKinds:
    def test_one_that_branches_and_differentiates(self):
        """Data-dependent control flow, and autograd inside the field."""

        def pull(t, y):
            with torch.enable_grad():
                y = y if y.requires_grad else y.requires_grad_()
                energy = (y**4).sum() if float(y.detach().sum()) > 0 else (y**2).sum()
                (force,) = torch.autograd.grad(energy, y, create_graph=True)
            return -force

        y = torch.rand(3, 2, dtype=F64) + 0.1
        torch.testing.assert_close(linearized(pull, y).jacobian, torch.diag_embed(-12 * y**2))
        torch.testing.assert_close(linearized(pull, -y).jacobian, torch.diag_embed(torch.full_like(y, -2.0)))

    def test_one_with_an_operation_of_the_persons_own(self, y):
        """Without a batching rule."""

        class Cube(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x**3

            @staticmethod
            def backward(ctx, a):
                (x,) = ctx.saved_tensors
                return a * 3 * x**2

        torch.testing.assert_close(linearized(lambda t, y: Cube.apply(y), y).jacobian, torch.diag_embed(3 * y**2))

    def test_one_that_leaves_pytorch(self, y):
        """No graph: finite differences, of y and of t."""

        def field(t, y):
            return torch.from_numpy((t.detach() ** 2 * y.detach() ** 3).numpy())

        found = linearized(field, y)
        torch.testing.assert_close(found.jacobian, torch.diag_embed(0.49 * 3 * y**2), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.time_derivative, 1.4 * y**3, rtol=1e-6, atol=1e-6)

    def test_any_in_inference_mode(self, y):
        """Where nothing is differentiated: by differences."""
        with torch.inference_mode():
            found = linearized(nonlinear, y, args=(RATES,))
        matrix, change = exact(torch.tensor(0.7, dtype=F64), y, RATES)
        torch.testing.assert_close(found.jacobian, matrix, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.time_derivative, change, rtol=1e-6, atol=1e-6)

    def test_one_that_does_not_depend_on_y(self, y):
        found = linearized(lambda t, y: torch.cos(t) * torch.ones_like(y), y)
        assert torch.equal(found.jacobian, torch.zeros(3, 2, 2, dtype=F64))

    def test_a_row_that_is_not_finite_leaves_the_others_right(self, y):
        expected = linearized(nonlinear, y, args=(RATES,)).jacobian
        y[1, 0] = torch.nan
        found = linearized(nonlinear, y, args=(RATES,)).jacobian
        assert torch.equal(found[[0, 2]], expected[[0, 2]])

    def test_pytrees(self):
        """In the order of the packed state."""
        tree = {"a": torch.randn(3, 1, dtype=F64), "b": torch.randn(3, dtype=F64)}
        found = linearized(lambda t, y: {"a": y["b"][:, None] ** 2, "b": y["a"][:, 0]}, tree)
        expected = torch.zeros(3, 2, 2, dtype=F64)
        expected[:, 0, 1], expected[:, 1, 0] = 2 * tree["b"], 1.0
        torch.testing.assert_close(found.jacobian, expected)

    @pytest.mark.parametrize("by_row", [True, False])
    def test_products_in_several_parts(self, by_row, monkeypatch):
        monkeypatch.setattr(jacobian, "_AT_ONCE", 20)
        y, matrix = torch.randn(2, 5, dtype=F64), torch.randn(5, 5, dtype=F64)
        found = linearized(lambda t, y: y @ matrix.T, y, by_row=by_row).jacobian
        torch.testing.assert_close(found, matrix.expand(2, 5, 5) if by_row else torch.block_diag(matrix, matrix))


class TestThePersonsOwn:
    def test_is_taken(self, y):
        found = linearized(nonlinear, y, args=(RATES,), jac=lambda t, y, k: exact(t[:, 0], y, k)[0] + 1)
        torch.testing.assert_close(found.jacobian, exact(torch.tensor(0.7, dtype=F64), y, RATES)[0] + 1)
        torch.testing.assert_close(found.time_derivative, exact(torch.tensor(0.7, dtype=F64), y, RATES)[1])

    def test_may_be_one_matrix(self, y):
        matrix = torch.randn(2, 2, dtype=F64)
        found = linearized(lambda t, y: y @ matrix.T, y, jac=matrix).jacobian
        assert torch.equal(found, matrix.expand(3, 2, 2))

    def test_is_not_taken_where_a_gradient_could_not_pass_through_it(self, y):
        y.requires_grad_()
        found = linearized(nonlinear, y, args=(RATES,), jac=lambda t, y, k: exact(t[:, 0], y, k)[0].detach())
        assert found.jacobian.requires_grad

    @pytest.mark.parametrize(
        ("jac", "message"),
        [
            (lambda t, y: torch.zeros(2, 2, dtype=F64), r"jac must return shape \(3, 2, 2\)"),
            (lambda t, y: torch.zeros(3, 2, 2), "jac must return the dtype"),
            (lambda t, y: [[0.0]], "jac must return a tensor"),
        ],
    )
    def test_is_checked(self, jac, message, y):
        with pytest.raises(ValueError, match=message):
            linearized(lambda t, y: -y, y, jac=jac)


@pytest.mark.parametrize(("by_row", "message"), [(False, "per_sample"), (True, "explicit method")])
def test_a_state_that_is_too_long_is_refused(by_row, message):
    with pytest.raises(ValueError, match=message):
        Jacobians(torch.zeros(1, 5000), by_row=by_row)
