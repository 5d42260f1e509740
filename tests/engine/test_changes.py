"""What a field reads may change between two solves in any way that Python has: the next is by what is there then."""

import gc
import types
import weakref
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from thalweg import SolveError, explain, solve_ivp
from thalweg.compat.torchdiffeq import odeint
from thalweg.engine.cache import _OWNED

pytest.importorskip("thalweg.core._native", reason="the native engine was not built")

F64 = torch.float64
Y0 = torch.linspace(0.5, 1, 6, dtype=F64).view(3, 2)


def assert_seen(fun, change, y0=Y0, before=(), after=()):
    """As the eager loop sees it, before and after; there is a difference."""
    ends = []
    for args, changed in ((before, False), (after, True)):
        if changed:
            change()
        for _ in range(3):
            ours = solve_ivp(fun, (0.0, 1.0), y0, args=args, rtol=1e-8).ys
        theirs = solve_ivp(fun, (0.0, 1.0), y0, args=args, rtol=1e-8, backend="eager").ys
        ours, theirs = (pytree.tree_leaves(ys)[0] for ys in (ours, theirs))
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        ends.append(theirs[-1])
    assert not torch.allclose(*ends, rtol=1e-3)


def nothing():
    pass


def test_the_order_of_modules():
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh()).double()
    assert_seen(lambda t, y: net(y), lambda: net._modules.__setitem__("0", net._modules.pop("0")))


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_the_order_of_a_dict(kind):
    rates = kind(a=1.0, b=2.0)
    change = (lambda: rates.move_to_end("a")) if kind is OrderedDict else lambda: rates.update(a=rates.pop("a"))
    assert_seen(lambda t, y: -next(iter(rates.values())) * y, change)


def test_the_class_of_a_module():
    class Slow(nn.Module):
        rate = 1.0

        def forward(self, t, y):
            return -self.rate * y

    class Fast(Slow):
        rate = 3.0

    net = Slow()
    assert_seen(net, lambda: setattr(net, "__class__", Fast))
    held = Slow()
    assert_seen(lambda t, y: held(t, y), lambda: setattr(held, "__class__", Fast))


@pytest.mark.parametrize("part", ["defaults", "keyword defaults", "in the keyword defaults", "code"])
def test_what_a_function_that_is_called_is_made_of(part):
    def helper(y, rate=1.0, *, more=0.0):
        return -(rate + more) * y

    def other(y, rate=1.0, *, more=0.0):
        return -(rate + more) * y * y

    def change():
        if part == "defaults":
            helper.__defaults__ = (2.0,)
        elif part == "keyword defaults":
            helper.__kwdefaults__ = {"more": 1.0}
        elif part == "code":
            helper.__code__ = other.__code__
        else:
            helper.__kwdefaults__["more"] = 1.0

    assert_seen(lambda t, y: helper(y), change)


def test_a_name_of_pythons_that_a_module_begins_to_have():
    held = {"torch": torch}
    fun = types.FunctionType((lambda t, y: -y * max(1.0, 2.0)).__code__, held)
    assert_seen(fun, lambda: held.update(max=min))


class Node:
    def __init__(self, x, settings):
        self.x, self.settings = x, settings


pytree.register_pytree_node(
    Node, lambda n: ([n.x], n.settings), lambda parts, c: Node(parts[0], c), serialized_type_name="tests.Node"
)


def test_what_a_node_of_the_state_knows_of_itself():
    settings = {"rate of it": 1.0}

    def fun(t, n):
        return Node(-n.settings["rate of it"] * n.x, n.settings)

    assert_seen(fun, lambda: settings.update({"rate of it": 2.0}), Node(Y0, settings))


def test_the_sign_of_zero():
    def fun(t, y, k):
        return torch.copysign(y, torch.tensor(k, dtype=F64))

    assert_seen(fun, nothing, before=(0.0,), after=(-0.0,))
    held = [0.0]
    assert_seen(lambda t, y: fun(t, y, held[0]), lambda: held.__setitem__(0, -0.0))


def test_the_layout_and_the_class_of_an_argument():
    class Twice(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            found = super().__torch_function__(func, types, args, kwargs or {})
            return 2 * found.as_subclass(torch.Tensor) if func is torch.mul else found

    matrix = torch.eye(2, dtype=F64)
    for given in (matrix.to_sparse(), 2 * matrix.to_sparse()):
        for args in ((matrix,), (given,)):
            end = solve_ivp(lambda t, y, a: -(a @ y.T).T, (0.0, 1.0), Y0, args=args, rtol=1e-8).ys[-1]
            rate = args[0].to_dense()[0, 0]
            torch.testing.assert_close(end, Y0 * torch.exp(-rate), rtol=1e-6, atol=1e-6)
    one = torch.ones(2, dtype=F64)
    assert_seen(lambda t, y, a: -torch.mul(y, a), nothing, before=(one,), after=(one.as_subclass(Twice),))


def test_a_state_of_another_layout_is_refused_in_words_each_time():
    for y0 in (Y0, (Y0, Y0)):
        fun = lambda t, y: pytree.tree_map(torch.neg, y)  # noqa: E731
        solve_ivp(fun, (0.0, 1.0), y0)
        for _ in range(2):
            with pytest.raises(ValueError, match=r"y0 has layout torch\.sparse_coo"):
                solve_ivp(fun, (0.0, 1.0), pytree.tree_map(lambda x: x.to_sparse(), y0))


class Counted(nn.Module):
    """What is in the examples of many: the field counts its calls."""

    def __init__(self):
        super().__init__()
        self.net, self.calls = nn.Linear(2, 2).double(), 0

    def forward(self, t, y):
        self.calls += 1
        return self.net(y)


def test_a_field_that_changes_at_each_solve_is_not_watched_at_each():
    """A watch leaves nothing behind in the field; how often there was one is seen by the entries that were made."""
    fun = Counted()
    made = []
    for _ in range(40):
        solve_ivp(fun, (0.0, 1.0), Y0)
        odeint(fun, Y0, torch.tensor([0.0, 1.0], dtype=F64))
        (entry,) = _OWNED[id(fun)].entries.values()
        made.append(entry)
    assert len(set(map(id, made))) <= 6
    assert "changes its own attributes" in explain(fun, Y0).reason
    fun.forward = types.MethodType(lambda self, t, y: self.net(y), fun)  # and not any more: a person may insist
    assert solve_ivp(fun, (0.0, 1.0), Y0, backend="native").stats.backend == "native"
    assert solve_ivp(fun, (0.0, 1.0), Y0).stats.backend == "native"


def test_a_field_that_is_changed_now_and_then_stays_with_the_engine():
    rate = [1.0]

    def fun(t, y):
        return -rate[0] * y

    for i in range(30):
        rate[0] = 1.0 + i // 3
        sol = solve_ivp(fun, (0.0, 1.0), Y0, rtol=1e-8)
        assert sol.stats.backend == "native"
        torch.testing.assert_close(sol.ys[-1], Y0 * torch.exp(torch.tensor(-rate[0])), rtol=1e-5, atol=1e-6)


def test_ever_new_shapes_are_left_to_pytorch_and_known_ones_are_not():
    fun = lambda t, y: -y  # noqa: E731
    backends = [solve_ivp(fun, (0.0, 1.0), torch.ones(n, 2)).stats.backend for n in range(1, 60)]
    assert backends[:8] == ["native"] * 8
    assert backends.count("native") < 20
    for n in (3, 4):
        solve_ivp(fun, (0.0, 1.0), torch.ones(n, 2), backend="native")
    assert [solve_ivp(fun, (0.0, 1.0), torch.ones(n, 2)).stats.backend for n in (3, 4, 3)] == ["native"] * 3


class Returning(nn.Module):
    """A module that holds a method of its own, and so itself."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2).double()
        self.step = self.other

    def other(self, t, y):
        return self.net(y)

    def forward(self, t, y):
        return self.net(y)


@pytest.mark.parametrize("taken", [lambda fun: fun, lambda fun: fun.other])
def test_what_is_kept_of_modules_that_hold_themselves_is_bounded(taken):
    gone = []
    for _ in range(30):
        fun = Returning()
        for _ in range(2):
            assert solve_ivp(taken(fun), (0.0, 1.0), Y0).stats.backend == "native"
        gone.append(weakref.ref(fun))
        del fun
    gc.collect()
    assert sum(there() is not None for there in gone) <= 9


def test_states_of_namedtuples_and_steps_from_output_to_output_are_torchdiffeqs():
    from typing import NamedTuple

    class Pair(NamedTuple):
        q: torch.Tensor
        p: torch.Tensor

    t = torch.linspace(0, 1, 5, dtype=F64)
    q, p = odeint(lambda t, s: (s[1], -s[0]), Pair(Y0, 0 * Y0), t, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q[-1], Y0 * torch.cos(t[-1]), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(p[-1], -Y0 * torch.sin(t[-1]), rtol=1e-7, atol=1e-7)
    t = torch.linspace(0, 5, 50, dtype=F64)
    odeint(lambda t, y: torch.sin(20 * t) * y, Y0, t, options={"max_num_steps": 20})
    with pytest.raises(SolveError):
        odeint(lambda t, y: torch.sin(20 * t) * y, Y0, t[[0, -1]], options={"max_num_steps": 20})


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
def test_steps_from_output_to_output_end_there_however_far_apart_they_are(method, dtype):
    """Equally far apart is one size of steps, which the engine takes; the answer is that of steps that stop there."""
    fun = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)
    for t in (torch.linspace(0.3, 7.7, 101), torch.linspace(2, -1, 40), torch.linspace(0, 1, 9) ** 2):
        t, y = t.to(dtype), Y0.to(dtype)
        ys = odeint(lambda t, y: fun(y) * torch.cos(t), y, t, method=method)
        grid = {"step_ts": t.double(), "step_size": 100.0, "backend": "eager"}
        name = {"rk4": "rk38"}.get(method, method)
        expected = solve_ivp(lambda t, y: fun(y) * torch.cos(t), (t[0], t[-1]), y, name, t_eval=t, **grid).ys
        close = {"rtol": 1e-4, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
        torch.testing.assert_close(ys, expected, **close)
