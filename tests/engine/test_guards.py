"""A trace is used again only while all that the field read is as it was; fields that change themselves have none."""

import dataclasses
import functools
import gc
import sys
import types
import typing
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from thalweg import solve_ivp
from thalweg.engine.builder import Untraceable
from thalweg.engine.cache import _OWNED, cached_trace
from thalweg.engine.guards import guards_of
from thalweg.engine.trace import trace
from thalweg.nn import MLPField

RATE = 2.0
WEIGHT = torch.rand(3)
settings = types.ModuleType("settings")
settings.power = 2


def helper(y):
    return y * RATE


def by_globals(t, y):
    return helper(y) ** settings.power * WEIGHT


class Options:
    gain = 1.0

    def __init__(self):
        self.scale, self.names = 1.0, ["a", "b"]


class Named(dict):
    """A dict that holds more than its entries."""


class Rich(nn.Module):
    """A module that holds all kinds of things."""

    class Fixed:
        power = 1.0

    factor, of_all, listed = 3.0, Options(), Named()
    powers: typing.ClassVar = {"t": [1.0]}

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 3))
        self.options, self.table, self.act = Options(), {"rates": [1.0, 2.0]}, torch.tanh
        self.helper, self.bare = helper, torch.rand(3)
        self.register_buffer("order", torch.tensor([2, 0, 1]))
        self.scalar = nn.Parameter(torch.tensor(1.0))
        self.part = functools.partial(torch.add, alpha=2)

    def forward(self, t, y):
        return self.part(self.act(self.layers(y)) * self.bare, y) * self.scalar * self.options.scale * self.factor


def two():
    return torch.full((5, 1), 0.3), torch.randn(5, 3)


HOOKS = nn.modules.module._global_forward_hooks

CHANGES = {
    "training": lambda m: m.train(),
    "of a submodule": lambda m: m.layers[1].train(),
    "a number": lambda m: setattr(m.options, "scale", 2.0),
    "of the class": lambda m: setattr(Options, "gain", 2.0),
    "within the class": lambda m: m.powers["t"].__setitem__(0, 2.0),
    "integers": lambda m: m.order.copy_(torch.tensor([0, 1, 2])),
    "of a function": lambda m: setattr(helper, "rate", 2.0),
    "a new attribute": lambda m: setattr(m, "more", 1),
    "a lost attribute": lambda m: delattr(m, "act"),
    "a list": lambda m: m.table["rates"].append(3.0),
    "a list within an object": lambda m: m.options.names.__setitem__(0, "c"),
    "a dict": lambda m: m.table.update(rates=[1.0, 2.0, 3.0]),
    "an object": lambda m: setattr(m, "options", Options()),
    "a tensor": lambda m: setattr(m, "bare", m.bare.clone()),
    "a parameter": lambda m: setattr(m.layers[0], "bias", nn.Parameter(m.layers[0].bias.detach().clone())),
    "a parameter of one number": lambda m: setattr(m, "scalar", nn.Parameter(torch.tensor(1.0))),
    "a lost parameter": lambda m: setattr(m.layers[0], "bias", None),
    "a new buffer": lambda m: m.register_buffer("mean", torch.zeros(3)),
    "a layer": lambda m: m.layers.__setitem__(0, nn.Linear(3, 3)),
    "another layer": lambda m: m.layers.append(nn.Tanh()),
    "an activation": lambda m: setattr(m, "act", torch.sin),
    "a partial": lambda m: setattr(m, "part", functools.partial(torch.add, alpha=3)),
    "a hook": lambda m: m.layers[0].register_forward_hook(lambda *_: None),
    "the dtype": lambda m: m.double(),
    "a shape": lambda m: setattr(m.layers[0].weight, "data", torch.zeros(2, 3)),
    "an object of the class": lambda m: setattr(m.of_all, "scale", 2.0),
    "a class within the class": lambda m: setattr(m.Fixed, "power", 2.0),
    "what a dict holds beside its entries": lambda m: setattr(m.listed, "more", 1.0),
    "what hangs on a tensor": lambda m: setattr(m.bare, "scale", 2.0),
    "a hook of all modules": lambda m: HOOKS.update(more=print),
    "a new attribute of the class": lambda m: setattr(Rich, "more", 1.0),
    "the forward": lambda m: setattr(Rich, "forward", lambda self, t, y: y),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_of_a_module_is_seen(name, monkeypatch):
    monkeypatch.setattr(Rich, "forward", Rich.forward)
    monkeypatch.setattr(Options, "gain", Options.gain)
    monkeypatch.setattr(Rich, "powers", {"t": [1.0]})
    monkeypatch.setattr(helper, "rate", 1.0, raising=False)
    monkeypatch.setattr(Rich, "of_all", Options())
    monkeypatch.setattr(Rich, "listed", Named())
    monkeypatch.setattr(Rich.Fixed, "power", 1.0)
    monkeypatch.delattr(Rich, "more", raising=False)
    module = Rich().eval()
    guards = guards_of(module)
    assert guards.reason is None
    assert guards.hold()
    try:
        CHANGES[name](module)
        assert not guards.hold()
    finally:
        HOOKS.pop("more", None)
        if hasattr(Rich, "more"):
            del Rich.more


class Open:
    """Has attributes of its own choice."""


class Slotted(Open):
    __slots__ = ("rate",)


class OfAnArray(np.ndarray):
    """An array with attributes."""


class ModuleWithSlots(nn.Module):
    __slots__ = ("rate",)


@pytest.mark.parametrize("held", [Slotted(), np.ones(2).view(OfAnArray), ModuleWithSlots()])
def test_what_does_not_stand_in_a_dict_cannot_be_told(held):
    assert "cannot be told" in guards_of(lambda t, y: held and y).reason


def test_what_is_written_into_parameters_is_no_change():
    module = Rich().eval()
    guards = guards_of(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(*two()).sum().backward()
    optimizer.step()
    module.layers.load_state_dict(module.layers.state_dict())
    module.eval()
    assert guards.hold()


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (globals(), "RATE", 3.0),
        (globals(), "WEIGHT", torch.rand(3)),
        (globals(), "helper", lambda y: y),
        (vars(settings), "power", 3),
    ],
)
def test_changes_of_globals_are_seen_also_those_of_functions_that_are_called(owner, name, value, monkeypatch):
    guards = guards_of(by_globals)
    assert guards.hold()
    monkeypatch.setitem(owner, name, value)
    assert not guards.hold()


class Gain:
    """How an attribute is looked up: by what is a global here."""

    def __get__(self, instance, owner):
        return RATE


class Described(nn.Module):
    gain = Gain()

    def forward(self, t, y):
        return self.gain * y


def imports(t, y):
    import physics.constants

    return physics.constants.decay * y


def imports_a_name(t, y):
    from physics.constants import decay

    return decay * y


class Kind(type):
    factor = 1.0


class OfAKind(metaclass=Kind):
    def __call__(self, t, y):
        return type(self).factor * y


def test_changes_of_a_metaclass_are_seen(monkeypatch):
    guards = guards_of(OfAKind())
    assert guards.hold()
    monkeypatch.setattr(Kind, "factor", 2.0)
    assert not guards.hold()


def test_changes_of_what_is_named_by_text_are_seen(monkeypatch):
    guards = guards_of(lambda t, y: getattr(settings, "power") * y)  # noqa: B009
    assert guards.hold()
    monkeypatch.setattr(settings, "power", 3)
    assert not guards.hold()


@pytest.mark.parametrize("fun", [lambda t, y: eval("RATE") * y, lambda t, y: globals()["RA" + "TE"] * y])
def test_what_reads_globals_that_it_does_not_name_has_no_trace(fun):
    assert "by which it may read" in guards_of(fun).reason


@pytest.fixture
def physics(monkeypatch):
    package, module = types.ModuleType("physics"), types.ModuleType("physics.constants")
    package.constants, module.decay = module, 1.0
    monkeypatch.setitem(sys.modules, "physics", package)
    monkeypatch.setitem(sys.modules, "physics.constants", module)
    return module


@pytest.mark.parametrize("fun", [imports, imports_a_name])
def test_changes_of_what_a_function_imports_are_seen(fun, physics, monkeypatch):
    guards = guards_of(fun)
    assert guards.hold()
    physics.unused = 1.0
    assert guards.hold()
    monkeypatch.setattr(physics, "decay", 2.0)
    assert not guards.hold()


def test_changes_of_what_a_descriptor_reads_are_seen(monkeypatch):
    guards = guards_of(Described())
    assert guards.reason is None
    assert guards.hold()
    monkeypatch.setitem(globals(), "RATE", 3.0)
    assert not guards.hold()


def test_changes_of_closures_and_defaults_are_seen():
    def made():
        rate = 1.0

        def change(to):
            nonlocal rate
            rate = to

        return lambda t, y, weights=[1.0]: y * rate * weights[0], change

    fun, change = made()
    guards = guards_of(fun)
    assert guards.hold()
    change(2.0)
    assert not guards.hold()
    change(1.0)
    assert guards.hold()
    fun.__defaults__[0][0] = 2.0
    assert not guards.hold()


@pytest.mark.parametrize("held", [np.zeros(3), torch.Generator(), iter([1]), torch.jit.script(nn.Tanh())])
def test_what_cannot_be_watched_is_told(held):
    guards = guards_of(lambda t, y: held and y)
    assert type(held).__name__ in guards.reason or "ScriptModule" in guards.reason
    with pytest.raises(Untraceable, match="it cannot be told whether it changes"):
        cached_trace(lambda t, y: held and y, *two(), by_row=True)


def test_compiled_fields_are_refused_at_once():
    compiled = torch.compile(nn.Tanh(), backend="eager"), torch.compile(helper, backend="eager")
    for fun in compiled:
        with pytest.raises(Untraceable, match="that was compiled"):
            cached_trace(lambda t, y, fun=fun: fun(y), *two(), by_row=True)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls, self.times, self.seen = 0, [], {}
        self.last = None

    def forward(self, t, y):
        self.calls += 1
        self.times.append(t)
        self.seen[self.calls] = y
        self.last = y
        return -y


def test_a_field_that_counts_its_calls_is_refused_and_has_counted_none():
    field, calls = Counting(), 0

    def counting(t, y):
        nonlocal calls
        calls += 1
        return -y

    for fun in (field, counting):
        for find in (trace, cached_trace):
            with pytest.raises(Untraceable, match="changes its own attributes"):
                find(fun, *two(), by_row=True)
    assert (field.calls, field.times, field.seen, field.last, calls) == (0, [], {}, None, 0)


def test_a_set_has_not_changed_where_its_copy_has_another_order():
    """As that of one has from which much was taken."""
    powers = set(range(100))
    powers -= set(range(100)) - {3, 64}
    assert list(powers) != list(powers.copy())
    field = lambda t, y: -y * len(powers)  # noqa: E731
    first = cached_trace(field, *two(), by_row=True)
    assert cached_trace(field, *two(), by_row=True) is first
    powers.add(5)
    assert cached_trace(field, *two(), by_row=True) is not first


def test_a_trace_is_made_once_and_anew_after_a_change():
    module, (t, y) = Rich().eval(), two()
    first = cached_trace(module, t, y, by_row=True)
    assert cached_trace(module, t, y, by_row=True) is first
    assert cached_trace(module, t[:2], y[:2], by_row=True) is first
    assert cached_trace(module.forward, t, y, by_row=True) is cached_trace(module.forward, t, y, by_row=True)
    module.options.scale = 2.0
    second = cached_trace(module, t, y, by_row=True)
    assert second is not first
    module.train()
    with pytest.raises(Untraceable, match="random"):
        cached_trace(module, t, y, by_row=True)
    module.eval()
    assert cached_trace(module, t, y, by_row=True).program == second.program


def test_functions_made_anew_share_a_trace_where_they_hold_the_same():
    module, (t, y) = MLPField(3, width=4), two()

    def made(scale):
        return lambda t, y: module(t, y) * scale

    first = cached_trace(made(2.0), t, y, by_row=True)
    assert cached_trace(made(2.0), t, y, by_row=True) is first
    assert cached_trace(made(3.0), t, y, by_row=True) is not first
    assert cached_trace(made(2.0), t, y, by_row=True) is first


def test_equal_code_of_two_modules_is_told_apart():
    made = [{"w": torch.tensor(1.0)}, {"w": torch.tensor(2.0)}]
    for namespace in made:
        exec("def fun(t, y): return y * w", namespace)
    assert made[0]["fun"].__code__ == made[1]["fun"].__code__
    found = [cached_trace(namespace["fun"], *two(), by_row=True) for namespace in made]
    assert [trace.shared(())[0].item() for trace in found] == [1.0, 2.0]


@dataclasses.dataclass
class Equal:
    rate: float

    def __call__(self, t, y):
        return y * self.rate


def test_fields_that_equal_others_are_told_apart():
    field = Equal(2.0)
    assert cached_trace(field, *two(), by_row=True).shared(())[0].item() == 2.0
    field.rate = 3.0
    assert cached_trace(field, *two(), by_row=True).shared(())[0].item() == 3.0


def test_a_field_that_has_no_hash_is_watched_once():
    field, equal = Equal(2.0), Equal(2.0)
    first = cached_trace(field, *two(), by_row=True)
    assert cached_trace(field, *two(), by_row=True) is first
    assert cached_trace(equal, *two(), by_row=True) is not first


def test_shapes_dtypes_and_arguments_have_traces_of_their_own():
    def fun(t, y, rate=1.0, power=1):
        return (y * rate) ** power

    t, y = two()
    found = [
        cached_trace(fun, t, y, by_row=True),
        cached_trace(fun, t[0, 0], y, by_row=False),
        cached_trace(fun, t, y[:, :2], by_row=True),
        cached_trace(fun, t.double(), y.double(), by_row=True),
        cached_trace(fun, t, y, (2.0,), by_row=True),
        cached_trace(fun, t, y, (3.0,), by_row=True),
        cached_trace(fun, t, y, (torch.rand(5, 1),), by_row=True),
        cached_trace(fun, t, y, (torch.rand(3),), by_row=True),
    ]
    assert len(set(map(id, found))) == len(found)
    assert [x.batched for x in found[-2:]] == [(0,), ()]
    again = cached_trace(fun, t[:4], y[:4], (torch.rand(4, 1),), by_row=True)
    assert again is found[-2]


def test_a_number_of_rows_that_the_field_looks_at_is_refused_when_it_comes():
    def fun(t, y):
        return y if len(y) > 3 else -y

    t, y = two()
    cached_trace(fun, t, y, by_row=True)
    for _ in range(2):
        with pytest.raises(Untraceable, match="number of samples"):
            cached_trace(fun, t[:2], y[:2], by_row=True)
    cached_trace(fun, t, y, by_row=True)


def test_a_refusal_is_remembered(capsys):
    def fun(t, y):
        print("called")
        return torch.special.bessel_j0(y)

    for expected in (True, False):
        with pytest.raises(Untraceable, match="aten::special_bessel_j0"):
            cached_trace(fun, *two(), by_row=True)
        assert ("called" in capsys.readouterr().out) is expected


def test_inference_mode_has_traces_and_transforms_have_none():
    module, (t, y) = MLPField(3, width=4), two()
    with torch.inference_mode():
        found = cached_trace(lambda t, y, rates: module(t, y) * rates, t.clone(), y.clone(), (y.clone(),), by_row=True)
    assert found.batched == (0,)

    def inside(scale):
        with pytest.raises(Untraceable, match="part of a transform"):
            cached_trace(module, t, y, by_row=True)
        return scale

    torch.func.vmap(inside)(torch.rand(2))
    cached_trace(module, t, y, by_row=True)


def test_the_cache_keeps_no_module_alive():
    module = Rich().eval()
    cached_trace(module, *two(), by_row=True)
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None


def test_what_is_kept_of_a_solve_ends_with_its_field():
    module, y0 = MLPField(2, width=4), torch.rand(3, 2)
    for _ in range(3):
        solve_ivp(module, (0.0, 1.0), y0, backend="native")
    number, gone = id(module), weakref.ref(module)
    assert len(_OWNED[number].ways) == 1
    del module
    gc.collect()
    assert gone() is None
    assert number not in _OWNED


def test_a_solve_whose_arguments_have_changed_their_kind_is_another():
    def decay(t, y, rate):
        return -rate * y

    y0 = torch.ones(3, 2, dtype=torch.float64)
    rates = [torch.tensor(1.0).double(), torch.full((3, 1), 2.0).double(), 0.5, torch.full((2,), 3.0).double(), 1]
    for rate in (*rates, *rates):
        end = solve_ivp(decay, (0.0, 1.0), y0, args=(rate,), rtol=1e-8, atol=1e-10, backend="native").ys[-1]
        expected = torch.exp(-torch.as_tensor(rate, dtype=torch.float64)).expand(3, 2)
        torch.testing.assert_close(end, expected, rtol=1e-6, atol=0)
