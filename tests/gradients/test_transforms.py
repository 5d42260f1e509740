"""torch.func's transforms and forward-mode differentiation: right, or refused in words."""

import pytest
import torch
from torch import func
from torch.autograd import forward_ad

from thalweg import NeuralODE, solve_ivp
from thalweg.methods import methods

F64 = torch.float64
Y0 = torch.tensor([[1.0, 2.0]], dtype=F64)
RATE = torch.tensor(1.3, dtype=F64)
PLAIN = [method for method in methods() if method.pair is None]
THROUGH = ("explicit", "adams", "stabilised")
"""The kinds of methods that transforms go through."""


def end(y0, rate=RATE, method="tsit5", t_eval=(0.3, 1.0), **options):
    options = options or {"rtol": 1e-7, "atol": 1e-7}
    return solve_ivp(
        lambda t, y, k: -k * y**2 + torch.sin(t), (0.0, 1.0), y0, method, t_eval, args=(rate,), **options
    ).ys


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("method", [method for method in PLAIN if method.kind in THROUGH])
def test_forward_and_reverse_mode_agree(method, batching):
    """To y0 and to an argument, outputs inside steps among them."""
    size = {"rtol": 1e-6, "atol": 1e-6} if method.adaptive else {"step_size": 0.05}

    def solved(y0, rate):
        return end(y0, rate, method.name, batching=batching, **size)

    along = (torch.full_like(Y0, 0.7), torch.tensor(-0.4, dtype=F64))
    _, forward = func.jvp(solved, (Y0, RATE), along)
    to_y0, to_rate = func.jacrev(solved, (0, 1))(Y0, RATE)
    reverse = torch.einsum("tbdij,ij->tbd", to_y0, along[0]) + to_rate * along[1]
    torch.testing.assert_close(forward, reverse, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("gradient", [None, "direct"])
class TestKnownDerivatives:
    """Of dy/dt = -y², y(1) = y0 / (1 + y0)."""

    def end(self, gradient):
        return lambda y0: solve_ivp(lambda t, y: -(y**2), (0.0, 1.0), y0, rtol=1e-9, atol=1e-9, gradient=gradient).ys[
            -1
        ]

    @pytest.mark.parametrize("transform", [func.jacrev, func.jacfwd])
    def test_jacobians(self, transform, gradient):
        y0 = Y0[0]
        torch.testing.assert_close(
            transform(self.end(gradient))(y0), torch.diag(1 / (1 + y0) ** 2), rtol=1e-7, atol=1e-9
        )

    def test_hessian(self, gradient):
        y0 = Y0[0]
        found = func.hessian(lambda y: self.end(gradient)(y).sum())(y0)
        torch.testing.assert_close(found, torch.diag(-2 / (1 + y0) ** 3), rtol=1e-6, atol=1e-8)

    def test_dual_numbers(self, gradient):
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(self.end(gradient)(forward_ad.make_dual(Y0[0], torch.ones(2, dtype=F64))))
        torch.testing.assert_close(found.tangent, 1 / (1 + Y0[0]) ** 2, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("times", ["ends", "outputs"])
def test_times_have_derivatives_of_either_mode_and_of_second_order(times, batching):
    """Of dy/dt = 1/y, whose solution from y0 at t0 is y² = y0² + 2 (t - t0)."""
    y0 = torch.tensor([[1.0], [2.0]], dtype=F64)

    def exact(t):
        return torch.sqrt(y0**2 + 2 * (t[1] - t[0])).squeeze(-1)

    def solved(t):
        span, t_eval = ((t[0], t[1]), None) if times == "ends" else ((t[0], 1.5), t)
        return solve_ivp(lambda t, y: 1 / y, span, y0, "vern8", t_eval, batching=batching, rtol=1e-10, atol=1e-10).ys[
            -1, :, 0
        ]

    t = torch.tensor([0.1, 1.2], dtype=F64)
    expected, second = func.jacrev(exact)(t), func.hessian(lambda t: exact(t).sum())(t)
    for transform in (func.jacrev, func.jacfwd):
        torch.testing.assert_close(transform(solved)(t), expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(func.hessian(lambda t: solved(t).sum())(t), second, rtol=1e-7, atol=1e-8)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(solved(forward_ad.make_dual(t, torch.tensor([1.0, 2.0], dtype=F64)))).tangent
    torch.testing.assert_close(found, expected[:, 0] + 2 * expected[:, 1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("method", ["vern7", "adams"])
def test_under_no_grad_values_and_tangents_are_the_same(method, batching):
    """What `torch.no_grad()` ends is the graph; tangents go on, through outputs at t0 and inside steps too."""

    def pushed():
        def solved(y0, rate):
            return end(y0, rate, method, (0.0, 0.3, 1.0), batching=batching, rtol=1e-6, atol=1e-6)

        found = func.jvp(solved, (Y0, RATE), (Y0, RATE))
        with forward_ad.dual_level():
            dual = solved(*(forward_ad.make_dual(x, torch.full_like(x, 0.7)) for x in (Y0, RATE)))
            return *found, *forward_ad.unpack_dual(dual)

    expected = pushed()
    with torch.no_grad():
        torch.testing.assert_close(pushed(), expected, rtol=1e-13, atol=0)


def test_linearize_is_refused():
    with pytest.raises(ValueError, match=r"cannot be written down by torch\.func\.linearize or make_fx"):
        func.linearize(end, Y0)


@pytest.mark.parametrize("transform", [func.grad, func.jacfwd])
def test_events_are_refused(transform):
    """Forward mode had left the move of their times out."""
    with pytest.raises(ValueError, match=r"events do not go with torch\.func.*differentiate by torch\.autograd"):
        transform(lambda y: end(y, t_eval=None, events=lambda t, y, k: y[0, 0] - 0.5).sum())(Y0)


@pytest.mark.parametrize("transform", ["vmap", "vmap of grad", "grad of vmap"])
def test_vmap_is_refused(transform):
    transforms = {
        "vmap": func.vmap(end),
        "vmap of grad": func.vmap(func.grad(lambda y: end(y).sum())),
        "grad of vmap": func.grad(lambda y: func.vmap(end)(y).sum()),
    }
    with pytest.raises(ValueError, match=r"under torch\.func\.vmap.*batching='per_sample'"):
        transforms[transform](Y0.repeat(3, 1))


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_vmap_over_what_a_field_holds_is_refused(batching):
    """As over an ensemble's parameters, by functional_call or a closure."""
    field = torch.nn.Linear(2, 2, dtype=F64)
    y0 = torch.ones(3, 2, dtype=F64)

    def flow(weight, y0=y0):
        def called(t, y):
            return func.functional_call(field, {"weight": weight}, y)

        return solve_ivp(called, (0.0, 1.0), y0, batching=batching).ys[-1]

    with pytest.raises(ValueError, match=r"under torch\.func\.vmap.*an ensemble's vmap inside of the field"):
        func.vmap(flow)(torch.zeros(4, 2, 2, dtype=F64))


@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint"])
def test_methods_with_a_backward_pass_of_their_own_are_refused(gradient):
    with pytest.raises(ValueError, match="as gradient='direct' does"):
        func.jvp(lambda y: end(y, gradient=gradient, rtol=1e-3), (Y0,), (Y0,))


@pytest.mark.parametrize("method", [method for method in PLAIN if method.kind not in THROUGH])
def test_methods_with_jacobians_are_refused(method):
    options = {"rtol": 1e-3} if method.adaptive else {"step_size": 0.1}
    with pytest.raises(ValueError, match="makes Jacobians"):
        func.grad(lambda y: end(y, method=method.name, **options).sum())(Y0)


@pytest.mark.parametrize("backend", ["eager", "native"])
@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_a_backward_pass_carries_the_tangent_of_its_cotangent(batching, backend):
    """A gradient is linear in the cotangent: its tangent is the gradient of the cotangent's."""
    y0 = Y0.clone().requires_grad_()
    ys = solve_ivp(lambda t, y: -(y**2), (0.0, 1.0), y0, batching=batching, backend=backend).ys
    cotangent, tangent = torch.randn(2, *ys.shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(cotangent, tangent)
        (found,) = torch.autograd.grad(ys, y0, dual, retain_graph=True)
        found = forward_ad.unpack_dual(found)
    for x, given in zip(found, (cotangent, tangent), strict=True):
        torch.testing.assert_close(x, torch.autograd.grad(ys, y0, given, retain_graph=True)[0], rtol=1e-9, atol=0)


@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint", "gauss"])
@pytest.mark.parametrize("transform", ["vmap", "is_grads_batched"])
def test_a_backward_pass_that_no_transform_goes_through_says_so(transform, gradient):
    """That of the eager loop, per sample."""
    y0 = Y0.clone().requires_grad_()
    ys = end(y0, batching="per_sample", backend="eager", gradient=gradient, rtol=1e-3)
    cotangents = torch.ones(3, *ys.shape, dtype=F64)

    def pulled(cotangent, **options):
        return torch.autograd.grad(ys, y0, cotangent, retain_graph=True, **options)

    with pytest.raises(RuntimeError, match=r"cannot go through the backward pass of this solve; .*'direct'"):
        func.vmap(pulled)(cotangents) if transform == "vmap" else pulled(cotangents, is_grads_batched=True)


class Swirl(torch.nn.Linear):
    """A field of its own weights."""

    def forward(self, t, y):
        return torch.tanh(super().forward(y))


def test_a_module_by_functional_call():
    flow = NeuralODE(Swirl(2, 2)).double()
    weights = dict(flow.named_parameters())
    along = {name: torch.ones_like(x) for name, x in weights.items()}
    _, forward = func.jvp(lambda w: func.functional_call(flow, w, (Y0,)), (weights,), (along,))
    reverse = func.jacrev(lambda w: func.functional_call(flow, w, (Y0,)))(weights)
    expected = sum(part.flatten(Y0.ndim).sum(-1) for part in reverse.values())
    torch.testing.assert_close(forward, expected, rtol=1e-9, atol=1e-10)
