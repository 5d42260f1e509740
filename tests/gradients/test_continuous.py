"""Continuous gradients: near those of `direct` by every family of methods, and as far from the truth as the method.

`adjoint` solves states back with the adjoint; `interpolating` and `gauss` have them from the way there, and differ in
how they integrate over parameters: by explicit Runge–Kutta methods alone, for which one has the method's own weights.
"""

import math
from functools import cache

import pytest
import torch

from gradient_checks import Nonlinear, assert_rows_that_fail_are_not_felt
from pairs import solve
from thalweg import Adjoint, Gauss, Interpolating, solve_ivp
from thalweg.core.field import Field
from thalweg.core.state import layout_of
from thalweg.gradients.back import BackField, BackState
from thalweg.methods import get_method

F64 = torch.float64
CONTINUOUS = ["adjoint", "interpolating", "gauss"]
BATCHINGS = ["joint", "per_sample"]
FAMILIES = ["tsit5", "kvaerno3", "radau5", "rodas5p", "adams", "rkc", "auto", "kencarp4"]


def ways(method):
    """The gradients that differ."""
    return CONTINUOUS if get_method(method).kind == "explicit" else CONTINUOUS[:2]


class Case:
    """Gradients to parameters, an argument, the start and times, in one vector: of outputs between, or of the end."""

    def __init__(self, batching, direction):
        torch.manual_seed(0)
        self.field, self.batching = Nonlinear(), batching
        self.between = (batching == "joint") == (direction > 0)
        self.k = torch.tensor(0.7, dtype=F64, requires_grad=True)
        self.y0 = torch.tensor([[0.4, -0.3], [1.0, 0.5]], dtype=F64, requires_grad=True)
        t0, t1 = torch.tensor(0.1, dtype=F64), torch.tensor(0.7, dtype=F64)
        t_eval = torch.tensor([0.3, 0.6], dtype=F64)
        if batching == "per_sample":
            t1, t_eval = t1 + torch.tensor([0.0, 0.2], dtype=F64), t_eval[:, None] + torch.tensor([0.0, 0.1])
        self.t0, self.t1, self.t_eval = ((direction * x).requires_grad_() for x in (t0, t1, t_eval))

    def gradients(self, method, gradient, **options):
        t_eval = self.t_eval if self.between else None
        sol = solve(
            self.field, (self.t0, self.t1), self.y0, method, t_eval, args=(self.k,), batching=self.batching,
            gradient=gradient, **options,
        )  # fmt: skip
        ys = sol.ys if self.between else sol.ys[1:]
        loss = (ys * torch.tensor([1.0, -2.0])).cos().sum()
        last = self.t_eval if self.between else self.t1
        found = torch.autograd.grad(loss, [self.field.weight, self.k, self.y0, self.t0, last])
        return torch.cat([x.flatten() for x in found])


@cache
def truth(batching, direction):
    return Case(batching, direction).gradients("dopri8", "checkpointed", rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("batching", "direction"), [("per_sample", 1), ("joint", -1)])
@pytest.mark.parametrize("method", FAMILIES)
def test_they_agree_with_direct_and_come_nearer_as_the_tolerance_tightens(method, batching, direction):
    """To ten times the tolerance, or ten times what `direct` itself is off where the method's errors add up to more.

    Per sample, rows begin together and have ends and outputs of their own.
    """
    true = truth(batching, direction)
    distances = {way: [] for way in ways(method)}
    for tolerance in (1e-3, 1e-6 if get_method(method).order < 4 else 1e-7):
        case, sizes = Case(batching, direction), {"rtol": tolerance, "atol": tolerance}
        direct = case.gradients(method, "direct", **sizes)
        own = ((direct - true).norm() / true.norm()).item()
        for way, found in distances.items():
            found.append(((case.gradients(method, way, **sizes) - direct).norm() / true.norm()).item())
            assert found[-1] < 10 * max(tolerance, own), f"{way} at {tolerance}: {found[-1]:.1e}, direct {own:.1e}"
    for way, (loose, tight) in distances.items():
        assert tight < loose / 20, f"{way}: {loose:.1e} and {tight:.1e}"


def cosine(t, y, k):
    return torch.sin(k * y + t) - k * y * torch.cos(t)


def cosine_gradients(method, gradient, h, batching="joint"):
    """To a parameter and to the start, with steps of size h."""
    k, y0 = torch.tensor(1.3, dtype=F64, requires_grad=True), torch.tensor([[0.4]], dtype=F64, requires_grad=True)
    tight = {"rtol": 1e-12, "atol": 1e-12}
    steps = tight if h is None else {"step_size": h} | tight
    sol = solve(cosine, (0.0, 1.0), y0, method, args=(k,), gradient=gradient, batching=batching, **steps)
    return torch.stack([x.sum() for x in torch.autograd.grad(sol.ys[-1].square().sum(), [k, y0])])


EQUAL_STEPS = [
    *((method, "joint") for method in ("vern7", "adams_moulton4", "kvaerno5", "radau5", "gl6", "kencarp4")),
    *((method, "per_sample") for method in ("rk4", "trbdf2", "gl4", "leapfrog")),
]


@cache
def cosine_truth():
    return cosine_gradients("dopri8", "checkpointed", None)


@pytest.mark.parametrize(("method", "batching"), EQUAL_STEPS)
def test_the_error_of_equal_steps_shrinks_as_that_of_the_method(method, batching):
    """By Gauss's formula in each step too, of collocation methods as well, whose states inside steps are worse."""
    order = get_method(method).order
    h = 0.1 if order < 4 else 0.125 if order < 6 else 0.25
    for way in ways(method):
        found = [cosine_gradients(method, way, size, batching) for size in (h, h / 2)]
        errors = [(x - cosine_truth()).abs().max().item() for x in found]
        assert math.log2(errors[0] / errors[1]) > order - 0.3, f"{way}: {errors}"


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("method", ["leapfrog", "yoshida4", "gl4", "gl6", "implicit_midpoint"])
def test_the_adjoint_of_a_symplectic_method_is_the_gradient_of_what_it_computed(method, batching):
    """However coarse the steps, and not only as they shrink (Sanz-Serna 2016): it goes back where it came from."""
    case, options = Case(batching, 1), {"step_size": 0.25, "rtol": 1e-12, "atol": 1e-12, "args": (0.7,)}
    found = [
        torch.autograd.grad(
            solve(case.field, (0.0, 1.0), case.y0, method, batching=batching, gradient=way, **options)
            .ys[-1].sin().sum(),
            case.y0,
        )[0]
        for way in ("direct", "adjoint")
    ]  # fmt: skip
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gradient", CONTINUOUS[:2])
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize(("method", "bound"), [("leapfrog", 3e-3), ("yoshida4", 1e-6)])
def test_a_pair_goes_back_by_the_method_that_it_came_by(method, bound, batching, gradient):
    """A pendulum whose weight changes; per sample, each row over times of its own."""
    k = torch.tensor(1.3, dtype=F64, requires_grad=True)
    q, p = (torch.tensor(x, dtype=F64, requires_grad=True) for x in ([[0.4], [1.1]], [[-0.3], [0.8]]))
    t1 = torch.tensor([1.0, 1.7], dtype=F64) if batching == "per_sample" else 1.7
    pair = (lambda t, p: {"x": p["x"] * (1 + 0.2 * torch.cos(t))}, lambda t, q: {"x": -k * torch.sin(q["x"])})

    def gradients(method, **options):
        sol = solve_ivp(pair, (0.0, t1), ({"x": q}, {"x": p}), method, batching=batching, **options)
        at_q, at_p = (part["x"][-1] for part in sol.ys)
        return torch.cat([x.flatten() for x in torch.autograd.grad((at_q - 2 * at_p**2).sum(), [k, q, p])])

    true = gradients("yoshida4", step_size=0.02, gradient="checkpointed")
    found = gradients(method, step_size=0.04, gradient=gradient)
    assert (found - true).norm() / true.norm() < bound


class TestAContractingFlow:
    """dz/dt = -k (z + z³ - cos t), k = 50: solved back, what an error leaves of z grows without bound."""

    def gradients(self, gradient, method, batching):
        k = torch.tensor(50.0, dtype=F64, requires_grad=True)
        y0 = torch.tensor([[1.0], [0.0]], dtype=F64, requires_grad=True)
        sol = solve_ivp(
            lambda t, z, k: -k * (z + z**3 - torch.cos(t)), (0, 1), y0, method, [0.2, 1.0], args=(k,), rtol=1e-6,
            atol=1e-8, batching=batching, gradient=gradient,
        )  # fmt: skip
        return torch.cat([x.flatten() for x in torch.autograd.grad(sol.ys.square().sum(), [k, y0])])

    @pytest.mark.parametrize(("method", "batching"), [("tsit5", "per_sample"), ("rodas5p", "joint")])
    def test_has_its_gradient_where_states_come_from_the_way_there(self, method, batching):
        true = self.gradients("direct", method, batching)
        for way in ("interpolating", "gauss"):
            torch.testing.assert_close(self.gradients(way, method, batching), true, rtol=1e-3, atol=1e-7)
        with pytest.raises(RuntimeError, match="gradient='interpolating' takes the states from the way there"):
            self.gradients("adjoint", method, batching)


class TestRows:
    @pytest.mark.parametrize("gradient", CONTINUOUS)
    @pytest.mark.parametrize("method", ["tsit5", "kvaerno3", "rodas5p", "adams", "auto"])
    def test_that_fail_are_not_felt(self, method, gradient):
        """To an argument that all rows share: one row turns NaN, one meets a pole, and one is never finite."""
        if gradient in ways(method):
            assert_rows_that_fail_are_not_felt(method, gradient, max_steps=60)

    @pytest.mark.parametrize("gradient", CONTINUOUS)
    @pytest.mark.parametrize("method", ["tsit5", "radau5", "rodas5p", "adams", "rkc", "auto"])
    def test_have_the_gradient_that_they_have_alone(self, method, gradient):
        """Among rows that need many more steps, end at other times and have other outputs."""
        if gradient not in ways(method):
            return
        starts, rates = torch.tensor([[0.5], [1.0], [2.0]], dtype=F64), torch.tensor([[1.0], [3.0], [6.0]], dtype=F64)
        ends = torch.tensor([2.0, 0.5, 1.0], dtype=F64)

        def gradients(rows):
            y0, rate = starts[rows].requires_grad_(), rates[rows].requires_grad_()
            sol = solve_ivp(
                lambda t, y, rate: torch.sin(rate * (y + t)), (0, ends[rows]), y0, method,
                ends[rows] * torch.tensor([[0.4], [1.0]]), args=(rate,), rtol=1e-4, atol=1e-4, batching="per_sample",
                gradient=gradient,
            )  # fmt: skip
            return torch.cat(torch.autograd.grad(sol.ys.square().sum(), [y0, rate]), 1)

        together = gradients([0, 1, 2])
        for row in range(3):
            torch.testing.assert_close(together[row], gradients([row])[0], rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("gradient", [Adjoint, Interpolating, Gauss])
    @pytest.mark.parametrize("method", ["tsit5", "rodas5p"])
    def test_that_reject_a_step_back_add_nothing_of_it(self, method, gradient):
        """A first step that is too large for one row, whose states are then not even finite: y' = k sqrt(y)."""
        if gradient.__name__.lower() not in ways(method):
            return
        rate, k = torch.tensor([[0.01], [2.0]], dtype=F64), torch.tensor(1.0, dtype=F64, requires_grad=True)
        y0, tight = torch.ones(2, 1, dtype=F64), {"rtol": 1e-7, "atol": 1e-7}
        tried = []
        back = gradient(
            first_step=3.9, rtol=1e-9, atol=1e-9, callback=lambda step: tried.append(step.accepted.tolist())
        )
        sol = solve_ivp(
            lambda t, y: k * rate * torch.sqrt(y), (0, 4), y0, method, batching="per_sample", gradient=back, **tight
        )
        (found,) = torch.autograd.grad(sol.ys[-1].sum(), k)
        expected = (rate * 4 * (1 + rate * 2)).sum()  # y = (1 + k rate t / 2)²
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
        assert [True, False] in tried


@pytest.mark.parametrize("gradient", ["adjoint", "interpolating", "gauss"])
@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("method", ["tsit5", "rodas5p", "adams"])
def test_where_the_adjoint_rests_and_the_field_does_not(method, batching, gradient):
    """y' = Σ p cos(k t), along which a = 1 and ∂y/∂p = sin(k t) / k: steps back must see what those there saw."""
    k = 6 * torch.arange(1.0, 6.0, dtype=F64)
    p = torch.linspace(-1, 1, 5, dtype=F64).requires_grad_()

    def field(t, y):
        return (p * torch.cos(k * t.reshape(-1, 1))).sum(-1, keepdim=True).expand_as(y)

    y0, options = torch.zeros(2, 1, dtype=F64), {"batching": batching, "rtol": 1e-7, "atol": 1e-7}
    sol = solve_ivp(field, (0.0, 2.0), y0, method, gradient=gradient, **options)
    (found,) = torch.autograd.grad(sol.ys[-1].sum(), p)
    torch.testing.assert_close(found, 2 * torch.sin(2 * k) / k, rtol=0, atol=1e-5)


@pytest.mark.parametrize("gradient", [Interpolating, Gauss])
@pytest.mark.parametrize("back", ["scipy:RK45", "scipy:LSODA", "scipy:Radau", "fehlberg2", "trbdf2", "rkc"])
def test_another_way_back_sees_what_the_way_there_saw(back, gradient):
    """The same field: y' = Σ p cos(k t), along which the adjoint rests."""
    if back.startswith("scipy"):
        pytest.importorskip("scipy")
    k = 6 * torch.arange(1.0, 6.0, dtype=F64)
    p = torch.linspace(-1, 1, 5, dtype=F64).requires_grad_()
    y0, options = torch.zeros(1, dtype=F64), {"rtol": 1e-7, "atol": 1e-7}
    field = lambda t, y: (p * torch.cos(k * t)).sum().expand_as(y)  # noqa: E731
    sol = solve_ivp(field, (0.0, 2.0), y0, gradient=gradient(method=back), **options)
    (found,) = torch.autograd.grad(sol.ys[-1].sum(), p)
    torch.testing.assert_close(found, torch.sin(2 * k) / k, rtol=0, atol=1e-5)


class _Once(torch.autograd.Function):
    """A cube whose slope has no derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * cotangent


class TestFields:
    @pytest.mark.parametrize("gradient", ["adjoint", "interpolating"])
    @pytest.mark.parametrize("method", ["kvaerno3", "rodas5p"])
    def test_that_cannot_be_differentiated_twice_go_back_by_implicit_methods(self, method, gradient):
        """Dy/dt = -k y³, y = y0 / sqrt(1 + 2 k t y0²)."""
        k, y0 = (torch.ones((), dtype=F64, requires_grad=True) for _ in range(2))
        sol = solve_ivp(
            lambda t, y, k: -k * _Once.apply(y), (0, 1), y0, method, args=(k,), rtol=1e-8, gradient=gradient
        )
        found = torch.autograd.grad(sol.ys[-1], [k, y0])
        torch.testing.assert_close(torch.stack(found), torch.tensor([-1.0, 1.0], dtype=F64) / 3**1.5, rtol=1e-5, atol=0)

    @pytest.mark.parametrize("gradient", CONTINUOUS)
    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("method", ["tsit5", "kvaerno3", "scipy:RK45"])
    @pytest.mark.parametrize("leaves", [1, 2])
    def test_that_differentiate_inside_have_the_gradient_of_direct(self, leaves, method, batching, gradient):
        """As those of energies do, by the state and the time that they are given: these then begin a graph."""
        external = ":" in method
        if (batching, gradient) != ("joint", "adjoint") if external else gradient not in ways(method):
            return
        w = torch.tensor([[1.0, 0.2], [0.3, 2.0]], dtype=F64, requires_grad=True)

        def field(t, y):
            with torch.enable_grad():
                energy = (torch.tanh(y.requires_grad_() @ w).square() * torch.cos(t.requires_grad_())).sum()
                by_time, by_state = torch.autograd.grad(energy, (t, y), create_graph=True)
            return by_time / len(y) - by_state

        def fields(t, ys):
            return [field(t, y) for y in ys]

        y0, options = torch.tensor([[1.0, 0.5], [0.3, -0.2]], dtype=F64), {"batching": batching, "rtol": 1e-7}
        start = y0 if leaves == 1 else [y0, -y0]
        found = []
        for how, way in (("tsit5" if external else method, "direct"), (method, gradient)):
            ys = solve_ivp(field if leaves == 1 else fields, (0, 0.5), start, how, gradient=way, **options).ys
            found.append(torch.autograd.grad((ys if leaves == 1 else ys[0] + ys[1] ** 2)[-1].square().sum(), w))
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("gradient", CONTINUOUS)
    @pytest.mark.parametrize("method", ["tsit5", "rodas5p", "adams"])
    def test_that_do_not_depend_on_the_state_have_the_gradient_of_an_integral(self, method, gradient):
        k = torch.tensor(2.0, dtype=F64, requires_grad=True)
        y0 = torch.zeros(1, dtype=F64, requires_grad=True)
        sol = solve_ivp(lambda t, y, k: k * t + 0 * y.detach(), (0, 2), y0, method, args=(k,), gradient=gradient)
        to_k, to_y0 = torch.autograd.grad(sol.ys[-1].sum(), [k, y0])
        assert to_k.item() == pytest.approx(2.0)
        assert to_y0.item() == 1.0

    @pytest.mark.parametrize("gradient", ["interpolating", "gauss"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
    def test_of_other_dtypes(self, gradient, dtype):
        k = torch.tensor(0.6, dtype=dtype, requires_grad=True)
        y0 = torch.tensor([1.0, -2.0], dtype=dtype)
        sol = solve_ivp(lambda t, y, k: -k * y, (0.1, 1.1), y0, args=(k,), gradient=gradient, rtol=1e-5, atol=1e-5)
        (found,) = torch.autograd.grad(sol.ys[-1].sum().abs(), [k])
        torch.testing.assert_close(found, torch.tensor(-math.exp(-0.6), dtype=dtype), rtol=1e-4, atol=0)

    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("given", [True, False])
    def test_have_of_the_adjoint_alone_the_transposed_jacobian_with_its_sign_turned(self, given, batching):
        """The user's, where there is one; it is what differentiating the products would find."""
        matrix = torch.tensor([[-1.0, 3.0], [0.5, -4.0]], dtype=F64)
        z, a = torch.randn(2, 3, 2, dtype=F64)
        if batching == "joint":
            z, a = z[0], a[0]
        layout, like = layout_of(z, by_row=batching == "per_sample")
        fun, jac = (lambda t, z: z @ matrix.T, matrix) if given else (lambda t, z: t * torch.tanh(z @ matrix.T), None)
        field = Field(fun, (), layout, like, jac)
        back = BackField(field, (), BackState(False, layout.by_row), lambda t: z)
        (time,) = field.times(*(torch.full((3,), 0.7), torch.zeros(3)) if layout.by_row else (0.7, 0.0), torch.zeros(1))
        found = back.jacobian(time, a)
        whole = torch.autograd.functional.jacobian(lambda a: back(time, a), a)
        expected = whole.diagonal(dim1=0, dim2=2).movedim(-1, 0) if layout.by_row else whole
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("gradient", CONTINUOUS)
@pytest.mark.parametrize("method", ["tsit5", "rodas5p"])
def test_a_second_derivative_is_an_error(method, gradient):
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    sol = solve_ivp(lambda t, y: -(y**3), (0, 1), y0, method, gradient=gradient)
    (first,) = torch.autograd.grad(sol.ys[-1].sum(), y0, create_graph=True)
    with pytest.raises(RuntimeError, match="not differentiated again"):
        first.sum().backward()


def test_gauss_evaluates_the_field_less_often_than_stages_are_weighed():
    """Where each row has steps of its own, and what a stage weighs is not known as it is evaluated."""
    counts = []
    for gradient in ("interpolating", "gauss"):
        case = Case("per_sample", 1)
        sol = solve_ivp(case.field, (0, 2), case.y0, args=(case.k,), batching="per_sample", gradient=gradient)
        sol.ys.sum().backward()
        counts.append(sol.stats.nfev_backward)
    assert counts[1] < counts[0]


class TestOptions:
    def test_the_norm_of_an_interpolating_gradient_is_that_of_the_adjoint_alone(self):
        def norm(a):
            assert a["y"].shape == (2,)
            return a["y"].abs().max() * 1e-3

        y0, counts = torch.ones(2, dtype=F64, requires_grad=True), []
        for gradient in (Interpolating(), Interpolating(norm=norm)):
            sol = solve_ivp(lambda t, y: {"y": -y["y"]}, (0, 5), {"y": y0}, rtol=1e-8, atol=1e-8, gradient=gradient)
            sol.ys["y"][-1].sum().backward()
            counts.append(sol.stats.nfev_backward)
        assert counts[1] < counts[0]

    def test_tolerances_of_entries_reach_their_adjoints_also_of_a_pair_that_changes_places(self):
        """The state of leapfrog's way back holds the adjoint of p beside q."""
        loose = torch.tensor([1.0, 1.0, 1e-9, 1e-9], dtype=F64)
        seen = []

        def norm(y, a):
            seen.append((y, a))
            return 0.0

        q, p = (torch.ones(2, dtype=F64, requires_grad=True) for _ in range(2))
        gradient = Adjoint(method="tsit5", rtol=1e-6, atol=loose, norm=norm, first_step=0.5)
        sol = solve_ivp((lambda t, p: p, lambda t, q: -q), (0, 1), (q, p), "leapfrog", step_size=0.1, gradient=gradient)
        sol.ys[0][-1].sum().backward()
        for y, a in seen:
            for part in (y, a):
                assert part[0].abs().max() < 1e-3
                assert part[1].abs().max() > 1e-3

    def test_a_way_back_by_a_method_for_pairs_needs_one(self):
        y0 = torch.ones(2, 2)
        with pytest.raises(ValueError, match=r"'kencarp4', which takes two .* thalweg.Adjoint\(method='tsit5'\)"):
            solve_ivp(lambda t, y: -y, (0, 1), y0, gradient=Gauss(method="kencarp4"))
        pair = (lambda t, y: -y, lambda t, y: -y)
        with pytest.raises(ValueError, match="'leapfrog', which takes two functions"):
            solve_ivp(pair, (0, 1), y0, "kencarp4", gradient=Adjoint(method="leapfrog", step_size=0.1))

    @pytest.mark.parametrize("way_back", ["scipy:LSODA", "scipy:RK45", "rodas5p"])
    def test_the_way_back_may_be_anothers(self, way_back):
        """Along a path of tsit5: by another library, or by an implicit method."""
        k, y0 = torch.tensor(1.5, dtype=F64, requires_grad=True), torch.ones(1, dtype=F64, requires_grad=True)
        gradient = Gauss(method=way_back)
        sol = solve_ivp(lambda t, y, k: -k * y**2, (0, 2), y0, args=(k,), rtol=1e-8, atol=1e-8, gradient=gradient)
        found = torch.stack([x.sum() for x in torch.autograd.grad(sol.ys[-1].sum(), [k, y0])])
        torch.testing.assert_close(found, torch.tensor([-2 / 16, 1 / 16], dtype=F64), rtol=1e-5, atol=0)

    @pytest.mark.parametrize("gradient", CONTINUOUS)
    @pytest.mark.parametrize(("batching", "shape"), [("joint", ()), ("joint", (0,)), ("per_sample", (0, 2))])
    def test_states_may_be_one_number_or_none(self, batching, shape, gradient):
        y0 = torch.ones(shape, dtype=F64, requires_grad=True)
        sol = solve_ivp(lambda t, y: -y, (0, 1), y0, gradient=gradient, batching=batching, rtol=1e-7, atol=1e-7)
        (found,) = torch.autograd.grad(sol.ys[-1].sum(), y0)
        torch.testing.assert_close(found, torch.full(shape, math.exp(-1), dtype=F64), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("gradient", ["interpolating", Gauss(rtol=1e-3)])
    def test_a_batch_that_shrinks_has_no_path_to_go_back_along(self, gradient):
        with pytest.raises(ValueError, match="shrink=True does not go with gradient="):
            solve_ivp(lambda t, y: -y, (0, 1), torch.ones(2, 1), batching="per_sample", shrink=True, gradient=gradient)

    @pytest.mark.parametrize("gradient", CONTINUOUS)
    def test_a_way_back_that_fails_says_what_to_do(self, gradient):
        y0 = torch.ones(1, dtype=F64, requires_grad=True)
        few = {"adjoint": Adjoint, "interpolating": Interpolating, "gauss": Gauss}[gradient](max_steps=2, rtol=1e-9)
        sol = solve_ivp(lambda t, y: torch.sin(9 * y), (0, 9), y0, gradient=few)
        with pytest.raises(RuntimeError, match=r"back in time failed: the step limit .*'checkpointed' does not"):
            sol.ys[-1].sum().backward()
