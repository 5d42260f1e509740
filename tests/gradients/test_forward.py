"""`forward` has the gradient of `direct` to rounding, to every source, and its memory does not grow with the steps."""

import math

import pytest
import torch
from torch import func

from gradient_checks import (
    F64,
    Nonlinear,
    assert_gradients_pass_through_pytrees,
    assert_rows_that_fail_are_not_felt,
    central_differences,
)
from thalweg import Event, Forward, solve_ivp

LOOSE = {"rtol": 1e-3, "atol": 1e-4}
EXPLICIT = ["tsit5", "dopri8", "rk4", "adams", "rkc"]


def sources(batching, direction, outputs):
    """A field, and all that a gradient can go to."""
    torch.manual_seed(0)
    rows = (3,) if batching == "per_sample" else ()
    start, end = ((0.1, 1.2), (1.3, 0.2))[direction < 0]
    found = {
        "y0": torch.randn(3, 2, dtype=F64),
        "t0": torch.full(rows, start, dtype=F64),
        "t1": torch.full(rows, end, dtype=F64),
        "k": torch.randn(2, dtype=F64),
    }
    if outputs:
        found["t_eval"] = torch.linspace(start, end, 4, dtype=F64)
        found["t_eval"][0] += 0.03 * direction
    return Nonlinear(), {name: x.requires_grad_() for name, x in found.items()}


def solved(field, x, gradient, method="tsit5", **options):
    options = options or LOOSE
    return solve_ivp(
        field, (x["t0"], x["t1"]), x["y0"], method, x.get("t_eval"), args=(x["k"],), gradient=gradient, **options
    )


def gradients(field, x, gradient, **options):
    """Of a loss that weighs every output differently."""
    ys = solved(field, x, gradient, **options).ys
    weights = torch.arange(1.0, ys.numel() + 1, dtype=F64).view(ys.shape)
    found = torch.autograd.grad((ys * weights.sin()).sum() + ys.square().sum(), [*x.values(), field.weight])
    return dict(zip([*x, "weight"], found, strict=True))


def assert_agree(found, expected, rtol=1e-10):
    """Each to rtol, of its own size; that to t1 is what is left of larger parts, where outputs are asked for before."""
    for name, x in expected.items():
        error = (found[name] - x).norm() / (max(x.norm(), 1.0) if name == "t1" else x.norm())
        assert error < rtol, f"the gradient to {name} is off by {error:.1e}"


@pytest.mark.parametrize("outputs", [False, True], ids=["ends", "t_eval"])
@pytest.mark.parametrize("direction", [1, -1], ids=["forth", "back"])
@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_every_source_has_the_gradient_of_direct(batching, direction, outputs):
    """To 1e-10 relative, rejected steps among them, and the solution is the same to the last bit."""
    field, x = sources(batching, direction, outputs)
    options = {**LOOSE, "batching": batching, "first_step": 0.9}
    forward, direct = (solved(field, x, gradient, **options) for gradient in ("forward", "direct"))
    assert int(torch.as_tensor(direct.stats.n_rejected).sum()) > 0
    assert torch.equal(forward.ys, direct.ys)
    assert str(forward.stats) == str(direct.stats)
    assert_agree(gradients(field, x, "forward", **options), gradients(field, x, "direct", **options))


@pytest.mark.parametrize("method", EXPLICIT)
@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_every_explicit_kind_of_method_has_the_gradient_of_direct(method, batching):
    field, x = sources(batching, 1, True)
    options = {"method": method, "batching": batching, **({"step_size": 0.2} if method == "rk4" else LOOSE)}
    assert_agree(gradients(field, x, "forward", **options), gradients(field, x, "direct", **options))


def test_gradients_are_those_of_finite_differences():
    field, x = sources("joint", 1, True)
    options = {"method": "rk4", "step_size": 0.2}
    with torch.no_grad():
        x["t_eval"][-1] -= 0.05

    def value():
        return solved(field, x, None, **options).ys.square().sum().item()

    ys = solved(field, x, "forward", **options).ys
    names = ["y0", "k", "t_eval"]
    found = torch.autograd.grad(ys.square().sum(), [x[name] for name in names] + [field.weight])
    for one, at in zip(found, [*(x[name] for name in names), field.weight], strict=True):
        torch.testing.assert_close(one, central_differences(value, at), rtol=1e-7, atol=1e-8)


def test_tangents_in_several_passes_give_the_same():
    field, x = sources("per_sample", 1, False)
    once, thrice = (gradients(field, x, Forward(at_once=n), batching="per_sample", **LOOSE) for n in (None, 3))
    assert_agree(thrice, once, rtol=1e-14)


def test_torch_func_jvp_through_the_solve_agrees():
    """<gradient, v> by tangents that are stored, and by one that PyTorch carries through."""
    field, x = sources("joint", 1, True)
    along = torch.randn(2, dtype=F64)
    _, pushed = func.jvp(lambda k: solved(field, {**x, "k": k}, None).ys.square().sum(), (x["k"],), (along,))
    (found,) = torch.autograd.grad(solved(field, x, "forward").ys.square().sum(), [x["k"]])
    torch.testing.assert_close(found @ along, pushed, rtol=1e-10, atol=0)


def test_forward_over_reverse_through_the_solve_is_the_derivative_of_the_gradient():
    """The product of the Hessian with a vector, which `torch.func` makes, against differences of this gradient."""
    field, x = sources("joint", 1, False)
    along = torch.randn(2, dtype=F64)
    options = {"method": "rk4", "step_size": 0.1}

    def loss(k, gradient=None):
        return solved(field, {**x, "k": k}, gradient, **options).ys.square().sum()

    def gradient_at(k):
        k = k.detach().requires_grad_()
        return torch.autograd.grad(loss(k, "forward"), k)[0]

    _, product = func.jvp(func.grad(loss), (x["k"],), (along,))
    differences = (gradient_at(x["k"] + 1e-5 * along) - gradient_at(x["k"] - 1e-5 * along)) / 2e-5
    torch.testing.assert_close(product, differences, rtol=1e-7, atol=1e-8)


def test_gradients_pass_through_pytrees(monkeypatch):
    from thalweg.gradients import GRADIENTS

    monkeypatch.setitem(GRADIENTS, "checkpointed", GRADIENTS["forward"])  # the default, which the check asks for
    assert_gradients_pass_through_pytrees("tsit5")


@pytest.mark.parametrize("shrink", [False, True])
def test_rows_that_fail_are_not_felt(shrink):
    assert_rows_that_fail_are_not_felt("tsit5", "forward", shrink=shrink, max_steps=300)


def test_rows_whose_tangent_is_not_finite_are_not_felt_where_nothing_is_asked_of_them():
    """At 0 the square root has a value and no slope."""
    k = torch.tensor(0.5, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [0.0]], dtype=F64)
    sol = solve_ivp(
        lambda t, y, k: k * torch.sqrt(y), (0.0, 1.0), y0, args=(k,), batching="per_sample", gradient="forward",
        rtol=1e-9, atol=1e-9,
    )  # fmt: skip
    assert sol.success.all()
    (found,) = torch.autograd.grad(sol.ys[-1, 0].sum(), [k])
    assert found.item() == pytest.approx(1.25, rel=1e-7)  # of (1 + k/2)²


def test_complex_states_and_parameters_have_the_gradient_of_direct():
    rate = torch.tensor(-0.3 + 2.0j, dtype=torch.complex128, requires_grad=True)
    y0 = torch.tensor([[1.0 + 0.5j, -0.2 + 1j]], dtype=torch.complex128, requires_grad=True)
    for batching in ("joint", "per_sample"):
        grads = []
        for gradient in ("forward", "direct"):
            sol = solve_ivp(lambda t, y, k: k * y, (0.0, 1.5), y0, args=(rate,), gradient=gradient, batching=batching)
            grads.append(torch.autograd.grad((sol.ys * torch.tensor(0.3 + 1j)).sum().abs() ** 2, [rate, y0]))
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-12)


def test_events_have_the_gradients_of_direct():
    """A ball that bounces, d(time and height)/d(gravity)."""
    grads = []
    for gradient in ("forward", "direct"):
        g = torch.tensor(9.8, dtype=F64, requires_grad=True)
        bounce = Event(lambda t, y, g: y[0], direction=-1, apply=lambda t, y, g: torch.stack([y[0] * 0, -0.8 * y[1]]))
        sol = solve_ivp(
            lambda t, y, g: torch.stack([y[1], -g]), (0.0, 2.0), torch.tensor([1.0, 0.0], dtype=F64), args=(g,),
            events=bounce, gradient=gradient,
        )  # fmt: skip
        grads.append(torch.autograd.grad(sol.ys[-1, 0] + sol.t_events[0].sum(), [g])[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=0)


class Hamiltonian(torch.nn.Module):
    """A field that differentiates inside, which PyTorch cannot batch: its tangents go one after the other."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[1.0, 0.3], [0.2, 0.8]], dtype=F64))

    def forward(self, t, y):
        with torch.enable_grad():
            y = y.requires_grad_() if not y.requires_grad else y
            energy = (torch.tanh(y @ self.weight) ** 2).sum()
            (slope,) = torch.autograd.grad(energy, y, create_graph=True)
        return slope.flip(-1) * torch.tensor([1.0, -1.0], dtype=F64)


def test_a_field_that_differentiates_inside_has_the_gradient_of_direct():
    field, y0 = Hamiltonian(), torch.tensor([[0.5, 0.1], [0.2, -0.3]], dtype=F64, requires_grad=True)
    grads = []
    for gradient in ("forward", "direct"):
        ys = solve_ivp(field, (0.0, 1.0), y0, "tsit5", gradient=gradient).ys
        grads.append(torch.autograd.grad(ys[-1].square().sum(), [y0, field.weight]))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("inside", [False, True], ids=["plain", "differentiates inside"])
def test_nothing_is_kept_of_a_step(inside):
    """What the outputs hold on to is the same after 5 steps and after 50, whatever graphs a field makes inside."""
    field = Hamiltonian() if inside else torch.nn.Linear(2, 2, dtype=F64)
    y0 = torch.ones(1, 2, dtype=F64, requires_grad=True)

    def nodes(step_size):
        ys = solve_ivp(
            lambda t, y: field(t, y) if inside else field(y), (0.0, 1.0), y0, "rk4", step_size=step_size,
            gradient="forward",
        ).ys  # fmt: skip
        seen, stack = set(), [ys.grad_fn]
        while stack:
            node = stack.pop()
            if node is not None and node not in seen:
                seen.add(node)
                stack += [below for below, _ in node.next_functions]
        return len(seen)

    assert nodes(0.02) == nodes(0.2)


def _refusing(*args):
    raise RuntimeError("no batching rule")


def test_one_by_one_gives_the_same_as_batched(monkeypatch):
    field, x = sources("per_sample", -1, True)
    expected = gradients(field, x, "forward", batching="per_sample", **LOOSE)
    monkeypatch.setattr(func, "vmap", lambda *args, **options: _refusing)
    assert_agree(gradients(field, x, "forward", batching="per_sample", **LOOSE), expected, rtol=1e-12)


def test_per_sample_a_tangent_serves_all_rows():
    """1000 rows of one number each, their ends, and a rate: four tangents."""
    y0, t1 = (torch.ones(1000, *rest, dtype=F64, requires_grad=True) for rest in ((1,), ()))
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    sol = solve_ivp(
        lambda t, y, k: -k * y, (0.0, t1), y0, args=(rate,), batching="per_sample", gradient=Forward(limit=3),
        rtol=1e-9, atol=1e-9,
    )  # fmt: skip
    found = torch.autograd.grad(sol.ys[-1].sum(), [y0, t1, rate])
    end = math.exp(-0.7)
    for one, expected in zip(found, (end, -0.7 * end, -1000 * end), strict=True):
        torch.testing.assert_close(one, torch.full_like(one, expected), rtol=1e-7, atol=0)


class TestRefused:
    def test_more_numbers_than_the_limit(self):
        field = torch.nn.Linear(20, 20, dtype=F64)
        with pytest.raises(ValueError, match=r"here 420, and its limit is 100.*'checkpointed'.*Forward\(limit=420\)"):
            solve_ivp(lambda t, y: field(y), (0, 1), torch.ones(20, dtype=F64), gradient="forward")

    @pytest.mark.parametrize("method", ["kvaerno5", "rodas5p", "radau5", "auto"])
    def test_methods_with_jacobians(self, method):
        y0 = torch.ones(2, dtype=F64, requires_grad=True)
        with pytest.raises(ValueError, match="cannot go through the Jacobians"):
            solve_ivp(lambda t, y: -y, (0, 1), y0, method, gradient="forward")

    def test_transforms_of_torch_func(self):
        with pytest.raises(ValueError, match="as gradient='direct' does"):
            func.grad(lambda y: solve_ivp(lambda t, y: -y, (0, 1), y, gradient="forward").ys.sum())(torch.ones(2))

    def test_a_second_derivative(self):
        y0 = torch.ones(2, dtype=F64, requires_grad=True)
        ys = solve_ivp(lambda t, y: -(y**2), (0, 1), y0, gradient="forward").ys
        (once,) = torch.autograd.grad(ys[-1].sum(), y0, create_graph=True)
        with pytest.raises(RuntimeError, match="computed once"):
            once.sum().backward()

    @pytest.mark.parametrize("value", [0, -1, 2.5, True])
    def test_a_limit_that_is_none(self, value):
        with pytest.raises(ValueError, match="must be a positive integer"):
            Forward(limit=value)
