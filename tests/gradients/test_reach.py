"""Gradients reach every tensor that a field uses; one that cannot be reached is an error, never a silent zero."""

import functools
import threading
import warnings
import weakref

import pytest
import torch

from gradient_checks import give_room
from thalweg import Checkpointed, solve_ivp

F64 = torch.float64
GRADIENTS = ["direct", "checkpointed", "adjoint", "interpolating", "forward", "reversible"]
EXPECTED = -torch.exp(torch.tensor(-1.0, dtype=F64)).item()
SCALE = torch.tensor(1.0, dtype=F64, requires_grad=True)


def decay_of_global(t, y):
    return -SCALE * y


def solve(fun, gradient, y0=None, args=(), **options):
    y0 = torch.ones(1, dtype=F64) if y0 is None else y0
    return solve_ivp(fun, (0.0, 1.0), y0, args=args, rtol=1e-9, atol=1e-9, gradient=gradient, **options)


def rate():
    return torch.tensor(1.0, dtype=F64, requires_grad=True)


def vault_with(k):
    """An object whose k no search finds."""
    hidden = {"k": k}

    class Vault:
        __slots__ = ()

        def __getattr__(self, name):
            return hidden[name]

    return Vault()


@pytest.mark.parametrize("gradient", GRADIENTS)
class TestReached:
    def check(self, fun, gradient, k, args=()):
        (found,) = torch.autograd.grad(solve(fun, gradient, args=args).ys[-1].sum(), [k])
        assert found.item() == pytest.approx(EXPECTED, rel=1e-6)

    def test_a_closure(self, gradient):
        k = rate()
        self.check(lambda t, y: -k * y, gradient, k)

    def test_a_tensor_computed_from_a_leaf(self, gradient):
        leaf = rate()
        k = leaf.exp() / torch.e
        self.check(lambda t, y: -k * y, gradient, k)
        self.check(lambda t, y: -k * y, gradient, k)

    def test_a_leaf_behind_a_computed_tensor(self, gradient):
        leaf = rate()
        k = leaf * 1.0
        self.check(lambda t, y: -k * y, gradient, leaf)

    @pytest.mark.parametrize("memory", ["ample", "none"])
    def test_a_leaf_beside_what_was_computed_from_it(self, gradient, memory, monkeypatch):
        """d/dk of exp(-(k + k²)): the field uses k, and k² that was computed before."""
        if memory == "none":
            give_room(monkeypatch, 0)
        k = rate()
        square = k * k
        end = solve(lambda t, y: -(k + square) * y, gradient).ys[-1].sum()
        (found,) = torch.autograd.grad(end, [k])
        assert found.item() == pytest.approx(-3 * end.item(), rel=1e-6)

    def test_a_global(self, gradient):
        self.check(decay_of_global, gradient, SCALE)

    def test_a_partial(self, gradient):
        k = rate()
        self.check(functools.partial(lambda k, t, y: -k * y, k), gradient, k)

    def test_a_default(self, gradient):
        k = rate()
        self.check(lambda t, y, k=k: -k * y, gradient, k)

    def test_a_method_of_an_object(self, gradient):
        class Model:
            def __init__(self):
                self.k = rate()

            def field(self, t, y):
                return -self.k * y

        model = Model()
        self.check(model.field, gradient, model.k)

    def test_a_container_in_a_closure(self, gradient):
        weights = {"k": [rate()]}
        self.check(lambda t, y: -weights["k"][0] * y, gradient, weights["k"][0])

    def test_a_function_within_a_function(self, gradient):
        k = rate()

        def inner(y):
            return k * y

        self.check(lambda t, y: -inner(y), gradient, k)

    def test_a_module(self, gradient):
        module = torch.nn.Linear(1, 1, bias=False, dtype=F64)
        torch.nn.init.constant_(module.weight, -1.0)
        (found,) = torch.autograd.grad(solve(lambda t, y: module(y), gradient).ys[-1].sum(), [module.weight])
        assert found.item() == pytest.approx(-EXPECTED, rel=1e-6)

    def test_args_nested(self, gradient):
        k = rate()
        self.check(lambda t, y, p: -p["k"][0] * y, gradient, k, args=({"k": [k]},))

    def test_one_tensor_as_argument_and_captured(self, gradient):
        """It counts twice: d exp(-(k * k)) / dk at 1."""
        k = rate()
        (found,) = torch.autograd.grad(solve(lambda t, y, q: -k * q * y, gradient, args=(k,)).ys[-1].sum(), [k])
        assert found.item() == pytest.approx(2 * EXPECTED, rel=1e-6)

    def test_one_that_is_not_used_has_none(self, gradient):
        y0 = torch.ones(1, dtype=F64, requires_grad=True)
        unused = rate()
        sol = solve(lambda t, y, u: -y, gradient, y0, args=(unused,))
        found = torch.autograd.grad(sol.ys[-1].sum(), [y0, unused], allow_unused=True)
        assert found[0].item() == pytest.approx(-EXPECTED, rel=1e-6)
        assert found[1] is None or found[1].item() == 0

    def test_frozen_parameters_have_none(self, gradient):
        module = torch.nn.Linear(2, 2, dtype=F64).requires_grad_(False)
        y0 = torch.ones(2, dtype=F64, requires_grad=True)
        solve(lambda t, y: module(y), gradient, y0).ys[-1].sum().backward()
        assert y0.grad is not None
        assert module.weight.grad is None

    def test_nothing_needs_one(self, gradient):
        assert not solve(lambda t, y: -y, gradient).ys.requires_grad


def scripted(module, y0):
    return torch.jit.script(module)


def traced(module, y0):
    return torch.jit.trace(module, y0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("made", [scripted, traced])
class TestScriptedModules:
    """They keep their parameters where Python does not see them."""

    def start(self, made):
        y0 = torch.ones(3, 2, dtype=F64)
        module = made(torch.nn.Linear(2, 2, dtype=F64), y0)
        return module, y0, list(module.parameters())

    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    @pytest.mark.parametrize("gradient", ["checkpointed", Checkpointed(memory_limit=0), "adjoint", "reversible"])
    def test_parameters_have_the_gradient_of_direct(self, made, gradient, batching):
        module, y0, parameters = self.start(made)
        found = [
            torch.autograd.grad(solve(lambda t, y: module(y), way, y0, batching=batching).ys[-1].sum(), parameters)
            for way in ("direct", gradient)
        ]
        torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)

    def test_forward_is_refused_where_it_would_not_see_them_used(self, made):
        module, y0, parameters = self.start(made)
        with pytest.raises(ValueError, match="cannot see what happens inside of scripted"):
            solve(lambda t, y: module(y), "forward", y0)
        for parameter in parameters:
            parameter.requires_grad_(False)
        (found,) = torch.autograd.grad(solve(lambda t, y: module(y), "forward", y0.requires_grad_()).ys[-1].sum(), y0)
        assert found.norm() > 0


def test_a_scripted_module_is_a_field_itself():
    class Decay(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.k = torch.nn.Parameter(torch.ones(1, dtype=F64))

        def forward(self, t, y):
            return -self.k * y

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        field = torch.jit.script(Decay())
    (found,) = torch.autograd.grad(solve(field, "adjoint").ys[-1].sum(), [field.k])
    assert found.item() == pytest.approx(EXPECTED, rel=1e-6)


@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint", "forward", "reversible"])
class TestRefused:
    @pytest.mark.parametrize("known", [True, False], ids=["with y0", "alone"])
    def test_a_tensor_out_of_sight(self, gradient, known):
        """One that no search through the function finds is noticed at the latest in the backward pass."""
        vault = vault_with(rate())
        y0 = torch.ones(1, dtype=F64, requires_grad=known)
        with pytest.raises(RuntimeError, match="args"):
            solve(lambda t, y: -vault.k * y, gradient, y0).ys[-1].sum().backward()

    def test_a_parameter_changed_in_between(self, gradient):
        """The backward pass would compute with other values than the forward pass did."""
        k = rate()
        end = solve(lambda t, y, k: k * -y, gradient, args=(k,), backend="eager").ys[-1].sum()
        with torch.no_grad():
            k.mul_(2.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            end.backward()

    def test_a_captured_parameter_changed_in_between(self, gradient):
        k = rate()
        end = solve(lambda t, y: k * -y, gradient, backend="eager").ys[-1].sum()
        with torch.no_grad():
            k.mul_(2.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            end.backward()


@pytest.mark.parametrize("gradient", ["checkpointed", "adjoint", "forward", "reversible"])
def test_a_lazy_module_must_be_called_once_before(gradient):
    """Its parameters have no shape until then."""
    module, y0 = torch.nn.LazyLinear(2, dtype=F64), torch.ones(3, 2, dtype=F64)

    def field(t, y):
        return module(y)

    with pytest.raises(ValueError, match="call the field once"):
        solve(field, gradient, y0)
    field(0.0, y0)
    solve(field, gradient, y0).ys[-1].sum().backward()
    assert module.weight.grad.norm() > 0


@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_a_parameter_changed_after_a_solve_of_one_step(gradient, batching):
    k, y0 = rate(), torch.ones(1, dtype=F64, requires_grad=True)
    options = {"step_size": 1.0, "batching": batching, "gradient": gradient, "backend": "eager"}
    sol = solve_ivp(lambda t, y: k * -y, (0.0, 1.0), y0, "euler", **options)
    with torch.no_grad():
        k.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        sol.ys[-1].sum().backward()


class TestOutOfSightAndLate:
    """The first steps do not use the tensor that no search finds."""

    def solve(self, vault, gradient, **options):
        y0 = torch.ones(1, dtype=F64, requires_grad=True)
        return solve_ivp(
            lambda t, y: torch.where(t < 0.3, -y, -vault.k * y) if (t >= 0.3).any() else -y,
            (0.0, 1.0), y0, "rk4", step_size=0.05, gradient=gradient, backend="eager", **options,
        )  # fmt: skip

    def test_it_has_its_gradient_where_the_graph_is_whole(self):
        found = []
        for gradient in ("direct", "checkpointed"):
            k = rate()
            found += torch.autograd.grad(self.solve(vault_with(k), gradient).ys[-1].sum(), [k])
        assert found[0] == found[1] != 0

    @pytest.mark.parametrize("gradient", [Checkpointed(memory_limit=0), Checkpointed(memory_limit=500)])
    def test_it_is_refused_where_steps_are_computed_again(self, gradient):
        with pytest.raises(RuntimeError, match="args"):
            self.solve(vault_with(rate()), gradient).ys[-1].sum().backward()

    def test_it_is_refused_per_sample(self):
        with pytest.raises(RuntimeError, match="args"):
            self.solve(vault_with(rate()), "checkpointed", batching="per_sample")


@pytest.mark.parametrize("gradient", ["adjoint", "forward"])
def test_second_derivatives_of_the_adjoint_and_of_forward_are_refused(gradient):
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    (first,) = torch.autograd.grad(solve(lambda t, y: -y * y, gradient, y0).ys[-1].sum(), [y0], create_graph=True)
    with pytest.raises(RuntimeError, match="'checkpointed' and gradient='direct' have derivatives of any order"):
        first.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="'checkpointed' and gradient='direct' have derivatives of any order"):
        torch.autograd.grad(first.sum(), [y0])


def test_direct_has_second_derivatives():
    """d²/dy0² of y0 / (1 + y0), the flow of -y² at 1."""
    y0 = torch.ones(1, dtype=F64, requires_grad=True)
    (first,) = torch.autograd.grad(solve(lambda t, y: -y * y, "direct", y0).ys[-1].sum(), [y0], create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), [y0])
    assert first.item() == pytest.approx(1 / 4, rel=1e-7)
    assert second.item() == pytest.approx(-2 / 8, rel=1e-6)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_graph_can_be_kept_and_used_again(gradient):
    k = rate()
    end = solve(lambda t, y: -k * y, gradient).ys[-1].sum()
    for _ in range(2):
        (found,) = torch.autograd.grad(end, [k], retain_graph=True)
        assert found.item() == pytest.approx(EXPECTED, rel=1e-6)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_solve_that_is_not_needed_any_more_is_gone(gradient):
    """At once, and not when cycles are looked for: what it holds on to may be large."""
    k = rate()

    class Decay:
        def __call__(self, t, y):
            return -k * y

    fun = Decay()
    ys, alive = solve(fun, gradient).ys, weakref.ref(fun)
    assert ys.requires_grad
    del ys, fun
    assert alive() is None


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_two_solves_of_one_module_in_one_graph(gradient):
    """The second solve starts where the first one ended."""
    k = rate()
    middle = solve_ivp(
        lambda t, y: -k * y, (0.0, 0.4), torch.ones(1, dtype=F64), rtol=1e-9, atol=1e-9, gradient=gradient
    ).ys[-1]
    end = solve_ivp(lambda t, y: -k * y, (0.4, 1.0), middle, rtol=1e-9, atol=1e-9, gradient=gradient).ys[-1]
    (found,) = torch.autograd.grad(end.sum(), [k])
    assert found.item() == pytest.approx(EXPECTED, rel=1e-6)


def test_a_long_graph_is_freed_step_after_step():
    """Not within one another: a thread of little stack has enough for a thousand steps."""
    y0, k, found = torch.ones(1, dtype=F64, requires_grad=True), rate(), []

    def work():
        sol = solve_ivp(lambda t, y: -k * y, (0.0, 1.0), y0, "midpoint", step_size=1e-3, backend="eager")
        found.extend(torch.autograd.grad(sol.ys[-1].sum(), [k]))

    usual = threading.stack_size(2**19)
    try:
        thread = threading.Thread(target=work)
        thread.start()
    finally:
        threading.stack_size(usual)
    thread.join()
    assert found[0].item() == pytest.approx(EXPECTED, rel=1e-6)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize(
    "options",
    [
        {"gradient": "checkpointed"},
        {"gradient": Checkpointed(memory_limit=0)},
        {"gradient": Checkpointed(checkpoints=3)},
        {"gradient": "reversible"},
        {"gradient": "checkpointed", "method": "kvaerno3"},
        {"gradient": "checkpointed", "method": "rodas5p"},
    ],
    ids=str,
)
def test_a_time_whose_gradient_the_field_asks_for_is_its_own_affair(options, batching):
    """It begins a graph that the solve knows nothing of, and needs no gradient when the field has what it wants."""
    k, seen = rate(), []

    def field(t, y):
        with torch.enable_grad():
            (slope,) = torch.autograd.grad((k * torch.sin(t.requires_grad_())).sum(), t, create_graph=True)
        seen.append(t)
        return -y * slope

    def gradient(gradient="direct", method="tsit5"):
        sol = solve(field, gradient, torch.ones(2, 1, dtype=F64), method=method, batching=batching)
        return torch.autograd.grad(sol.ys[-1].sum(), k)

    torch.testing.assert_close(gradient(**options), gradient(), rtol=1e-5, atol=1e-7)
    assert not any(t.requires_grad and t.is_leaf for t in seen)
