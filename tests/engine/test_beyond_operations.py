"""Fields that are more than the operations they call: the engine's answer is PyTorch's, or PyTorch gives it."""

import copy
import functools
import random

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from thalweg import explain, solve_ivp
from thalweg.engine import tracer

WIDE = torch.float64
Y0 = torch.tensor([1.0, 2.0], dtype=WIDE)


def weights(*values):
    return torch.tensor(values, dtype=WIDE, requires_grad=True)


def solved(field, y0=Y0, backend="auto", **options):
    return solve_ivp(field, (0.0, 1.0), y0, rtol=1e-8, atol=1e-8, backend=backend, **options)


def both(field, y0=Y0, **options):
    """The ends by what auto takes and by the eager loop."""
    return [solved(field, y0, backend, **options).ys[-1] for backend in ("auto", "eager")]


def gradients(field, *wanted):
    """The same of the gradients of the end's sum."""
    return [torch.autograd.grad(end.sum(), wanted) for end in both(field)]


def agree(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


# derivatives of one's own


class Rounded(torch.autograd.Function):
    """Rounds, and lets gradients pass."""

    @staticmethod
    def forward(ctx, w):
        return torch.round(w * 8) / 8

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent


class Reversed(torch.autograd.Function):
    """Turns gradients round."""

    @staticmethod
    def forward(ctx, w):
        return w.view_as(w)

    @staticmethod
    def backward(ctx, cotangent):
        return -cotangent


OF_WEIGHTS = {
    "rounded": Rounded.apply,
    "reversed": Reversed.apply,
}


@pytest.mark.parametrize("of_weights", OF_WEIGHTS.values(), ids=OF_WEIGHTS)
def test_derivatives_of_ones_own_reach_weights(of_weights):
    w, b = weights(-0.5, -0.25), weights(0.1, 0.2)
    agree(*gradients(lambda t, y: of_weights(w) * y + b, w, b))


@pytest.mark.parametrize("of_weights", OF_WEIGHTS.values(), ids=OF_WEIGHTS)
@pytest.mark.parametrize("size", [1, 3])
def test_derivatives_of_ones_own_reach_arguments(of_weights, size):
    y0, k = Y0.expand(3, 2), weights(*[1.2] * size).view(size, 1)
    ends = [solved(lambda t, y, k: -of_weights(k) * y, y0, backend, args=(k,)).ys[-1] for backend in ("auto", "eager")]
    agree(*(torch.autograd.grad(end.sum(), k) for end in ends))


def test_weights_that_need_a_gradient_later_get_it_by_a_derivative_of_ones_own():
    w = weights(-0.5, -0.25).detach()

    def field(t, y):
        return Rounded.apply(w) * y

    assert solved(field).stats.backend == "native"
    w.requires_grad_()
    agree(*gradients(field, w))


def hooked(k):
    z = k * 2
    if z.requires_grad:
        z.register_hook(torch.zeros_like)
    return z


def test_hooks_on_tensors_are_heard():
    k = weights(1.0, 1.0)
    for field in (lambda t, y: hooked(k) * y, lambda t, y: -hooked(k * y)):
        found, expected = gradients(field, k)
        agree(found, expected)
        assert not found[0].any()


@pytest.mark.parametrize("field", [lambda t, y, k: -k * hooked(y), lambda t, y, k: -hooked(k) * y])
@pytest.mark.parametrize("size", [1, 3])
def test_hooks_are_heard_on_what_needs_a_gradient_in_a_solve(field, size):
    """The state and arguments, each sample's own or shared, need none while the field is watched."""
    y0, k = Y0.expand(3, 2).clone().requires_grad_(), weights(*[1.0] * size).view(size, 1)
    ends = [solved(field, y0, backend, args=(k,)).ys[-1] for backend in ("auto", "eager")]
    agree(*(torch.autograd.grad(end.sum(), (y0, k)) for end in ends))


# errors that a field catches, and what it looks at that is no number


def catching(call):
    def field(t, y):
        try:
            return -call(y)
        except Exception:
            return -y * 1.0001

    return field


LOOKING = {
    "an operation": catching(lambda y: torch.special.bessel_j0(y)),
    "a cut": catching(lambda y: y.detach()),
    "a type": lambda t, y: -y if type(y) is torch.Tensor else -y * 1.0001,
    "a flag": lambda t, y: -y * 1.0001 if y.requires_grad else -y,
}


@pytest.mark.parametrize("field", LOOKING.values(), ids=LOOKING)
def test_small_differences_of_what_was_watched_are_seen_in_single_precision_too(field):
    y0 = torch.rand(3, 2).sort(-1).values
    found, expected = (solve_ivp(field, (0.0, 1.0), y0, backend=backend).ys for backend in ("auto", "eager"))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


# random numbers that are not PyTorch's


@pytest.mark.parametrize(
    "draw",
    [lambda: random.random(), lambda: np.random.random()],  # noqa: NPY002
    ids=["random", "numpy"],
)
def test_fields_that_draw_random_numbers_are_asked_no_more_than_they_must_be(draw):
    """Also one that seldom makes use of them, so that a look at a few values finds no difference."""

    def field(t, y):
        return -y if draw() < 0.9 else y

    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = [draw() for _ in range(4)]
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert "draws random numbers" in str(explain(field, Y0))
    assert [draw() for _ in range(4)] == expected


# tensors that a field holds and writes into


def test_a_buffer_that_an_operation_gives_its_result_to_is_written_into():
    """As `spectral_norm` has two, which come nearer to what they estimate at each call."""
    plain = torch.nn.Linear(4, 4, dtype=WIDE)
    with torch.no_grad():
        plain.weight.copy_(torch.diag(torch.tensor([1.0, 0.9, 0.8, 0.7])) + 0.1)
    module = torch.nn.utils.parametrizations.spectral_norm(plain)
    ends, buffers = [], []
    for backend in ("auto", "eager"):
        copied = copy.deepcopy(module)
        ends.append(solved(lambda t, y, copied=copied: copied(y), torch.ones(2, 4, dtype=WIDE), backend).ys[-1])
        buffers.append(copied.parametrizations.weight[0]._u)
    agree(*ends)
    agree(*buffers)


# states that are trees


TREES = {
    "another order": lambda y: {"v": -y["x"], "x": y["v"]},
    "other names": lambda y: {"x": y["v"], "u": -y["x"]},
    "other shapes": lambda y: {"x": -y["v"], "v": y["x"]},
    "one tensor": lambda y: -torch.cat([y["x"], y["v"]]),
}


@pytest.mark.parametrize("field", TREES.values(), ids=TREES)
def test_a_slope_of_another_structure_is_not_the_engines(field):
    size = 2 if field is TREES["other shapes"] else 1
    y0 = {"x": torch.ones(1, dtype=WIDE), "v": torch.ones(size, dtype=WIDE)}
    found = explain(lambda t, y: field(y), y0)
    assert found.backend == "eager"
    assert "structure" in str(found)


# what a field keeps


@functools.lru_cache
def rates(n):
    return -torch.ones(n, dtype=WIDE)


RATE = None


def by_a_cache(t, y):
    return rates(y.shape[-1]) * y


def by_a_global(t, y):
    global RATE
    if RATE is None:
        RATE = -torch.ones(2, dtype=WIDE)
    return RATE * y


def by_a_new_global(t, y):
    global NEW_RATE
    try:
        return NEW_RATE * y
    except NameError:
        NEW_RATE = -torch.ones(2, dtype=WIDE)
        return NEW_RATE * y


class ByItsClass(torch.nn.Module):
    def forward(self, t, y):
        if not hasattr(type(self), "rate"):
            type(self).rate = -torch.ones(2, dtype=WIDE)
        return type(self).rate * y


@pytest.mark.parametrize("field", [by_a_cache, by_a_global, by_a_new_global, ByItsClass()])
def test_what_a_field_keeps_is_no_tensor_that_was_only_watched(field):
    """Whatever it made while it was watched is gone, and what it makes then serves it."""
    explain(field, Y0)
    assert type(field(0.0, Y0)) is torch.Tensor
    for _ in range(3):
        agree(*both(field))
    assert solved(field).stats.backend == "native"


def test_what_is_put_where_nobody_looks_is_noticed(monkeypatch):
    drawer = {"held": None}
    monkeypatch.setattr(tracer, "_drawer", drawer, raising=False)

    def field(t, y):
        tracer._drawer["held"] = y
        return -y

    assert "keeps a tensor" in str(explain(field, Y0))
    agree(*both(field))


COUNT = 0


def counting(t, y):
    global COUNT
    COUNT += 1
    return -y


def test_a_count_in_a_global_counts_what_was_asked_of_the_field_alone(monkeypatch):
    monkeypatch.setitem(globals(), "COUNT", 0)
    assert solved(counting).stats.nfev == COUNT


# transforms within a field


LAYER = torch.nn.Linear(2, 1).double()

TRANSFORMED = {
    "grad": lambda y: torch.func.vmap(torch.func.grad(lambda x: torch.tanh(LAYER(x)).sum()))(y),
    "vjp": lambda y: torch.func.vjp(lambda x: torch.tanh(LAYER(x)), y)[1](torch.ones_like(y[:, :1]))[0],
    "jacrev": lambda y: torch.func.vmap(torch.func.jacrev(lambda x: torch.tanh(LAYER(x))))(y)[:, 0],
    "jvp": lambda y: torch.func.jvp(lambda x: torch.sin(x) * LAYER.weight, (y,), (torch.ones_like(y),))[1],
    "jvp of a constant": lambda y: torch.func.jvp(lambda x: x @ torch.ones(2, 2, dtype=WIDE), (y,), (y,))[1],
}


@pytest.mark.parametrize("options", [{}, {"batching": "per_sample"}, {"method": "kvaerno3"}], ids=str)
@pytest.mark.parametrize("field", TRANSFORMED.values(), ids=TRANSFORMED)
def test_fields_may_use_transforms(field, options):
    y0 = torch.tensor([[0.3, -0.2], [0.5, 0.1], [1.0, 2.0]], dtype=WIDE, requires_grad=True)
    found = []
    for gradient, backend in (("checkpointed", "auto"), ("checkpointed", "eager"), ("direct", "eager")):
        end = solved(lambda t, y: -field(y), y0, backend, gradient=gradient, **options).ys[-1]
        found.append((end.detach(), *torch.autograd.grad(end.sum(), [y0, LAYER.weight], allow_unused=True)))
    agree(found[0], found[2])
    agree(found[1], found[2])


CUT = {
    "compared": (lambda y: torch.where(y.detach() > 0.3, y, y * y), "native"),
    "compared aside": (lambda y: torch.where(torch.no_grad()(lambda: y > 0.3)(), y, y * y), "native"),
    "computed with": (lambda y: y * y.detach(), "eager"),
    "in a transform": (torch.func.vmap(lambda z: z * z.detach()), "eager"),
    "in a derivative": (torch.func.vmap(torch.func.grad(lambda z: (z * z.detach()).sum())), "eager"),
}


@pytest.mark.parametrize(("field", "backend"), CUT.values(), ids=CUT)
def test_what_is_cut_from_the_graph_may_serve_to_compare_alone(field, backend):
    y0 = torch.tensor([[0.3, -0.2], [0.5, 0.1], [1.0, 2.0]], dtype=WIDE, requires_grad=True)
    assert explain(lambda t, y: -field(y), y0).backend == backend
    agree(*(torch.autograd.grad(end.sum(), y0) for end in both(lambda t, y: -field(y), y0)))


# the numbers of tensors as they lie in memory


NEGATIVE = torch._neg_view(torch.tensor([2.0, 4.0], dtype=WIDE))  # as the imaginary part of a conjugate is


def test_tensors_whose_sign_is_a_flag_are_read_as_what_they_are():
    assert NEGATIVE.is_neg()
    agree(*both(lambda t, y: -y, NEGATIVE))
    agree(*both(lambda t, y: NEGATIVE * y))
    agree(*both(lambda t, y, a: a * y, Y0.view(2, 1), args=(NEGATIVE.view(2, 1),), batching="per_sample"))
    y0 = Y0.clone().requires_grad_()
    agree(*(torch.autograd.grad(end, y0, NEGATIVE) for end in both(lambda t, y: -y, y0)))


IN_SINGLE = {
    "filled": lambda y: torch.full((len(y), 1), 0.1, dtype=torch.float32),
    "filled later": lambda y: torch.ones_like(y, dtype=torch.float32).fill_(0.1),
    "padded": lambda y: torch.nn.functional.pad(y.new_ones(len(y), 1, dtype=torch.float32), (0, 1), value=0.1),
    "chosen": lambda y: torch.where(y > 1.5, 0.1, 0.2),
    "written": lambda y: y.new_zeros(len(y), 2, dtype=torch.float32).copy_(y),
    "added": lambda y: y.new_zeros(len(y), 2, dtype=torch.float32).add_(y * 0.1),
}


@pytest.mark.parametrize("factor", IN_SINGLE.values(), ids=IN_SINGLE)
def test_numbers_of_single_precision_in_a_field_of_double(factor):
    agree(*both(lambda t, y: -5 * y * factor(y), Y0.view(2, 1).expand(2, 2) + 0.1))


# modes


class Doubled(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return 2 * out if func is torch.Tensor.neg else out


def test_modes_see_what_they_change_and_count():
    def field(t, y):
        return torch.nn.functional.linear(y.neg(), torch.eye(2, dtype=WIDE))

    y0 = torch.ones(3, 2, dtype=WIDE)
    assert solved(field, y0).stats.backend == "native"
    with Doubled():
        agree(*both(field, y0))
    with FlopCounterMode(display=False) as counter:
        solved(field, y0)
    assert counter.get_total_flops() > 0


def test_whether_gradients_are_recorded_is_as_the_field_sees_it():
    def field(t, y):
        return -y * (1.0 if torch.is_grad_enabled() else 2.0)

    with torch.no_grad():
        agree(*both(field))


@pytest.mark.skipif(
    not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"), reason="this PyTorch does not tell of hooks"
)
def test_a_solve_may_be_checkpointed_before_its_field_has_ever_been_watched():
    """`torch.utils.checkpoint` runs it twice, and asks that autograd saves as much the second time as the first."""
    k, y0 = weights(1.0, 2.0), Y0.clone().requires_grad_()

    def end(y0):
        sol = solved(lambda t, y: -k * torch.tanh(y), y0)
        assert sol.stats.backend == "native"
        return sol.ys[-1]

    found = torch.autograd.grad(checkpoint(end, y0, use_reentrant=False).sum(), (k, y0))
    agree(found, torch.autograd.grad(end(y0).sum(), (k, y0)))


# derivatives at kinks, and many at once


def test_the_derivative_of_sinc_at_0_is_that_of_pytorch():
    y0 = torch.zeros(2, dtype=WIDE, requires_grad=True)
    agree(*(torch.autograd.grad(end.sum(), y0) for end in both(lambda t, y: torch.sinc(y) - 1, y0)))


def test_what_is_no_number_stays_none():
    for backend in ("auto", "eager"):
        sol = solved(lambda t, y: torch.nn.functional.softshrink(y.sqrt()) - 5, Y0, backend, on_failure="return")
        assert not sol.success


def test_the_derivative_of_xlogy_is_a_logarithm_also_where_its_value_is_0():
    y0 = torch.tensor([0.0, 0.0, 1.0], dtype=WIDE, requires_grad=True)
    for field in (lambda t, y: torch.xlogy(y, 2.0), lambda t, y: torch.xlogy(y, y + 2)):
        assert solved(field, y0).stats.backend == "native"
        found, expected = (torch.autograd.grad(end.sum(), y0) for end in both(field, y0))
        agree(found, expected)


def test_a_field_that_prints_its_time_does_so_at_each_evaluation(capsys):
    def telling(t, y):
        print(t)
        return -y

    sol = solved(telling)
    told = capsys.readouterr().out
    assert sol.stats.backend == "eager"
    assert told.count("tensor(") == sol.stats.nfev


def test_many_gradients_at_once():
    k, y0 = weights(1.0, 2.0), Y0.clone().requires_grad_()
    cotangents = torch.randn(3, 2, dtype=WIDE)
    found = [
        torch.autograd.grad(end, (k, y0), cotangents, is_grads_batched=True)
        for end in both(lambda t, y: -k * torch.tanh(y), y0)
    ]
    agree(*found)


def test_the_gradient_of_no_outputs_is_0():
    y0 = Y0.clone().requires_grad_()
    solved(lambda t, y: -y, y0, t_eval=[]).ys.sum().backward()
    assert not y0.grad.any()
