"""What a field read besides its inputs: a trace of it is valid as long as all of that is unchanged."""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import logging
import math
import re
import sys
import sysconfig
import types
import weakref
from collections import namedtuple
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import starmap
from operator import contains
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..core.compiled import native
from ..core.holdings import OPAQUE, PLAIN, codes_of, global_names
from .builder import Untraceable
from .snapshot import Snapshot

SIMPLE = (
    *(*PLAIN, np.generic, enum.Enum, type(Ellipsis), slice, range),
    *(torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format),
)
"""What is compared by value."""

_FIXED = (
    *(types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.ModuleType),
    types.ClassMethodDescriptorType,
    *(np.ufunc, torch._ops.OpOverload, torch._ops.OpOverloadPacket),
)
"""What cannot change."""

_STDLIB = sysconfig.get_path("stdlib")

_UNSEEN = {
    **dict.fromkeys(("eval", "exec", "globals"), "by which it may read what cannot be told"),
    **dict.fromkeys(("is_grad_enabled", "is_inference_mode_enabled"), "and gradients are no matter of the program's"),
}
"""What a function may call by which it learns what is not seen, and why that is so."""

_OF_NO_MATTER = (
    *(types.GetSetDescriptorType, types.MemberDescriptorType, property, functools.cached_property),
    *(type(vars(namedtuple("_", "a"))["a"]), re.Pattern, logging.Logger),
)
"""What stands in a class and says nothing of its objects: how Python looks up attributes, whose functions are read
apart, and what serves no computation."""

_HOOKS_OF_ALL = [
    held
    for name, held in vars(nn.modules.module).items()
    if name.startswith(("_global_forward", "_global_backward")) and isinstance(held, dict)
]
"""The hooks that every module has."""


class Guards:
    """All that was found, and what it was.

    Attributes
    ----------
    reason : str or None
        Why it cannot be told whether something has changed; None where it can.
    returns : bool
        Whether what the function holds, or the object whose method it is, leads back there: what is kept of it then
        keeps itself.
    before : Snapshot
        What is put back after the field was watched; lists, sets and closures must hold what they did.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.returns = False
        self.before = Snapshot()
        self._entries: list[tuple[Mapping[Any, Any], int, tuple[Any, ...], tuple[Any, ...]]] = []
        self._attributes: list[tuple[Tensor, str, Any]] = []
        self._whole: list[Tensor] = []
        self._numbers: list[Tensor] = []
        self._absent: list[tuple[dict[str, Any], str]] = []
        self._functions: list[tuple[types.FunctionType, types.CodeType, Any, Any]] = []
        self._types: list[tuple[weakref.ref[Any], type]] = []

    def hold(self) -> bool:
        """Whether nothing has changed."""
        try:
            return (self._is_the_same() or self._is_equal()) and all(map(torch.equal, self._whole, self._numbers))
        except Exception:  # what cannot be compared with what was there is something else
            return False

    def _is_the_same(self) -> bool:
        """Whether everything holds the very objects that it held, which is told in a microsecond."""
        before = self.before
        return native is not None and native.as_it_was(
            self._entries,
            self._attributes,
            before.sequences,
            before.cells,
            self._absent,
            self._functions,
            self._types,
        )

    def _is_equal(self) -> bool:
        """The same of objects that may have been put there anew."""
        return (
            all(
                size in (_ANY_SIZE, len(mapping))
                and _same_elements([mapping[key] for key in keys], values)
                and (size != len(keys) or list(mapping) == list(keys))
                for mapping, size, keys, values in self._entries
            )
            and all(getattr(tensor, name) == then for tensor, name, then in self._attributes)
            and all(starmap(_same_elements, self.before.sequences))
            and all(starmap(_same_cell, self.before.cells))
            and not any(starmap(contains, self._absent))
            and all(_made_of(function) == then for function, *then in self._functions)
            and all((found := there()) is None or type(found) is then for there, then in self._types)
        )

    def entries(self, mapping: Mapping[Any, Any], keys: Sequence[Any], *, whole: bool = False) -> None:
        """Watch some entries of a mapping, or the `whole` of it."""
        size = len(mapping) if whole else _ANY_SIZE
        self._entries.append((mapping, size, tuple(keys), tuple(mapping[key] for key in keys)))

    def function(self, function: types.FunctionType) -> None:
        """Watch what a function is made of, which can be changed in place."""
        self._functions.append((function, function.__code__, function.__defaults__, function.__kwdefaults__))

    def kind(self, value: Any) -> None:
        """Watch of which class an object is, without keeping it."""
        with suppress(TypeError):  # there are no weak references to it, and a class that is fixed
            self._types.append((weakref.ref(value), type(value)))

    def attributes(self, tensor: Tensor, *names: str) -> None:
        """Watch attributes of a tensor."""
        self._attributes += [(tensor, name, getattr(tensor, name)) for name in names]


def _made_of(function: types.FunctionType) -> list[Any]:
    return [function.__code__, function.__defaults__, function.__kwdefaults__]


_ANY_SIZE = -1
"""That of a mapping of which some entries are watched."""


def signed(x: Any) -> Any:
    """The sign of a number, as 0.0 equals -0.0."""
    return math.copysign(1.0, x) if isinstance(x, float) else None


def _same(found: Any, then: Any) -> bool:
    if found is then:
        return True
    alike = isinstance(then, SIMPLE) and type(found) is type(then) and bool(found == then)
    return alike and signed(found) == signed(then)


def _same_elements(found: Collection[Any], then: Collection[Any]) -> bool:
    return len(found) == len(then) and all(map(_same, found, then))


def _same_cell(cell: types.CellType, then: Any) -> bool:
    return _same(cell.cell_contents, then)


def guards_of(fun: Any, args: Any = ()) -> Guards:
    """What a function holds, and the arguments and the like that are no tensors.

    Looked through are modules, closures, defaults, globals that the code names, partial functions, bound methods,
    attributes of callable objects and of their classes, and lists, tuples, sets and dicts of all these.
    """
    guards = Guards()
    owner = fun.__self__ if isinstance(fun, types.MethodType) else fun
    stack, seen = [fun, args, *(x for held in _HOOKS_OF_ALL for x in _held_beside(guards, held))], set[int]()
    while stack and guards.reason is None:
        value = stack.pop()
        if isinstance(value, SIMPLE) or id(value) in seen:
            guards.returns = guards.returns or value is owner
            continue
        seen.add(id(value))
        stack += _watched(guards, value)
    return guards


def _watched(guards: Guards, value: Any) -> Iterable[Any]:
    """Note what a value is, and return what it is made of."""
    if not isinstance(value, type | types.FunctionType | types.ModuleType) and _classes(value):
        guards.kind(value)
    for kind, watch in _WATCHES:
        if isinstance(value, kind):
            return watch(guards, value)
    # nothing here may run a person's code, as a look at an attribute may
    if _is_open(type(value)) and type(value).__module__.split(".")[0] not in OPAQUE - {"torch"}:
        return [*_mapping(guards, vars(value)), *_classes(value)]
    return _untold(guards, value)


def _untold(guards: Guards, value: Any) -> Iterable[Any]:
    guards.reason = f"the field holds a {type(value).__name__}, of which it cannot be told whether it changes"
    return ()


def _is_open(kind: type) -> bool:
    """Whether all that an object of a class holds stands in its `__dict__`: not in slots, nor in what C has made."""
    if not kind.__dictoffset__ or any(_has_slots(part) for part in kind.__mro__):
        return False
    makers = [vars(part).get("__new__") for part in kind.__mro__ if part not in (object, types.SimpleNamespace)]
    return not any(isinstance(maker, types.BuiltinFunctionType) for maker in makers)


def _has_slots(kind: type) -> bool:
    """Whether a class made in Python names attributes that do not stand in a `__dict__`."""
    return any(isinstance(x, types.MemberDescriptorType) and k != "__dict__" for k, x in vars(kind).items())


def _tensor(guards: Guards, tensor: Tensor) -> Iterable[Any]:
    if is_lazy(tensor):
        guards.reason = "the field holds a parameter that has no shape before the field is called"
        return ()
    guards.attributes(tensor, "dtype", "shape")
    if not (tensor.is_floating_point() or tensor.is_complex()):  # Python may have read them, as sizes or places
        guards._whole.append(tensor)
        guards._numbers.append(tensor.detach().clone())
    return _held_beside(guards, vars(tensor))


def _held_beside(guards: Guards, attributes: dict[str, Any]) -> Iterable[Any]:
    """What a person may hang on something that is watched for what it is."""
    return _mapping(guards, attributes)


def _module(guards: Guards, module: nn.Module) -> Iterable[Any]:
    if isinstance(module, torch.jit.ScriptModule):
        guards.reason = "the field holds a ScriptModule, of which it cannot be told whether it changes"
        return ()
    _refuse_compiled(module)
    held = vars(module)
    own = [name for name in held if not (name in _MODULE and isinstance(held[name], dict | set))]
    guards.entries(held, own, whole=True)
    guards.before.keep_dict(held)
    parts = [held[name] for name in held if name in _MODULE and isinstance(held[name], dict)]
    found = [x for part in parts for x in _mapping(guards, part)]
    if any(_has_slots(kind) for kind in _classes(module)):
        return _untold(guards, module)
    return [*found, *(held[name] for name in own), *_classes(module)]


def _mapping(guards: Guards, mapping: dict[Any, Any]) -> Iterable[Any]:
    """A dict of which all entries matter."""
    guards.entries(mapping, list(mapping), whole=True)
    guards.before.keep_dict(mapping)
    return list(mapping.values())


def _sequence(guards: Guards, sequence: Any) -> Iterable[Any]:
    if isinstance(sequence, list | set):
        guards.before.keep_sequence(sequence)
    return list(sequence)


def _container(watch: Callable[[Guards, Any], Iterable[Any]]) -> Callable[[Guards, Any], Iterable[Any]]:
    """How a container is watched, with what those of a person's own class hold beside their entries."""

    def watched(guards: Guards, value: Any) -> Iterable[Any]:
        if any(_has_slots(kind) for kind in _classes(value)):
            return _untold(guards, value)
        beside = _held_beside(guards, vars(value)) if type(value).__dictoffset__ else ()
        return [*watch(guards, value), *beside, *_classes(value)]

    return watched


def _cached(guards: Guards, function: Any) -> Iterable[Any]:
    """A function with a cache; what that holds is not looked at."""
    guards.before.keep_cache(function)
    return [function.__wrapped__]


def _classes(value: Any) -> Iterable[Any]:
    """The classes of an object that are a person's own."""
    return [kind for kind in type(value).__mro__ if _own(kind)]


def _own(thing: Any) -> bool:
    """Whether a class, function or module is neither Python's, nor a library's, nor thalweg's."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__ or ""
    return not _is_library(name.split(".")[0])


@functools.cache
def _is_library(package: str) -> bool:
    """Whether it is one whose functions, classes and modules do not change; a person's own may be called `test`."""
    if package in OPAQUE | {"thalweg"}:
        return True
    path = getattr(sys.modules.get(package), "__file__", None) or _STDLIB
    return package in sys.stdlib_module_names and path.startswith(_STDLIB)


def _class(guards: Guards, kind: type) -> Iterable[Any]:
    """A class: its functions, and what it says of all its objects."""
    if not _own(kind):
        return ()
    held = vars(kind)
    functions = {k: v for k, v in held.items() if isinstance(v, types.FunctionType | staticmethod | classmethod)}
    others = {k: v for k, v in held.items() if k not in functions and not (k.startswith("__") or _of_no_matter(v))}
    guards.entries(held, [*functions, *others], whole=True)
    guards.before.keep_class(kind)
    read = [x.fget for x in held.values() if isinstance(x, property)]
    read += [x.func for x in held.values() if isinstance(x, functools.cached_property)]
    own = (getattr(function, "__func__", function) for function in functions.values())
    return [*own, *others.values(), *read, *_classes(kind)]


def _of_no_matter(value: Any) -> bool:
    return isinstance(value, _OF_NO_MATTER) or type(value).__module__ == "_abc"


def _refuse_compiled(value: Any) -> None:
    """Watching a compiled function would compile it anew."""
    if type(value).__module__.startswith("torch._dynamo") or hasattr(value, "_torchdynamo_orig_callable"):
        raise Untraceable("the field is compiled by torch.compile; give the function or module that was compiled")


def _function(guards: Guards, function: types.FunctionType) -> Iterable[Any]:
    _refuse_compiled(function)
    found: list[Any] = [function.__defaults__, function.__kwdefaults__]
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
        guards.before.keep_cell(cell)
    if not _own(function):  # a library's does not change, but what it was made with is a person's: `torch.vmap(f)`
        return found
    guards.function(function)
    if function.__kwdefaults__:
        found += _mapping(guards, function.__kwdefaults__)
    if function.__dict__:
        found += _mapping(guards, function.__dict__)
    names, seen = set(global_names(function.__code__)), set[int]()
    if unseen := sorted(names & _UNSEEN.keys()):
        guards.reason = f"the field calls {unseen[0]}, {_UNSEEN[unseen[0]]}"
        return ()
    names |= set(_texts(function.__code__))
    held = function.__globals__
    absent = [name for name in _set_globally(function.__code__) if name not in held]
    # names of Python's own, until a module has them too
    builtin = [name for name in global_names(function.__code__) if name not in held and name in vars(builtins)]
    guards._absent += [(held, name) for name in (*absent, *builtin)]
    guards.before.keep_globals(held, (), absent)
    found += _named(guards, held, names, seen)
    for module in _imported(function):
        if id(vars(module)) not in seen:
            found += _named(guards, vars(module), names, seen)
    return found


def _imported(function: types.FunctionType) -> Iterable[types.ModuleType]:
    """The modules of a person's own that a function imports while it runs."""
    package = function.__globals__.get("__package__")
    paths = [path for code in codes_of(function.__code__) for path in _imports(code)]
    for path in [*paths, *(f"{package}.{path}" for path in paths)]:
        parts = path.split(".")
        modules = (sys.modules.get(".".join(parts[:n])) for n in range(1, len(parts) + 1))
        yield from (module for module in modules if isinstance(module, types.ModuleType) and _own(module))


def _texts(code: types.CodeType) -> Iterable[str]:
    """What stands in a function's code as text, and may be the name of what it reads, as for `getattr`."""
    return (text for part in codes_of(code) for text in part.co_consts if isinstance(text, str))


def _set_globally(code: types.CodeType) -> Iterable[str]:
    """The globals that a function's code sets."""
    steps = (step for part in codes_of(code) for step in dis.get_instructions(part))
    return {step.argval for step in steps if step.opname == "STORE_GLOBAL"}


def _imports(code: types.CodeType) -> Iterable[str]:
    return (step.argval for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME")


def _named(guards: Guards, mapping: dict[str, Any], names: set[str], seen: set[int]) -> Iterable[Any]:
    """Those entries of a module's globals, and of the modules among them, that a function names."""
    seen.add(id(mapping))
    found = {name: mapping[name] for name in names & mapping.keys()}
    modules = [value for value in found.values() if isinstance(value, types.ModuleType)]
    others = [name for name, value in found.items() if not isinstance(value, _FIXED)]
    guards.entries(mapping, others)
    guards.before.keep_globals(mapping, others)
    inner = [vars(module) for module in modules if _own(module) and id(vars(module)) not in seen]
    return [*(found[name] for name in others), *(x for held in inner for x in _named(guards, held, names, seen))]


_MODULE = frozenset(vars(nn.Module()))
"""What every module holds: its parameters, buffers, submodules and hooks."""

_WATCHES: tuple[tuple[Any, Callable[[Guards, Any], Iterable[Any]]], ...] = (
    (Tensor, _tensor),
    (nn.Module, _module),
    (types.FunctionType, _function),
    (types.MethodType, lambda guards, method: (method.__self__, method.__func__)),
    (functools._lru_cache_wrapper, _cached),
    (functools.partial, lambda guards, partial: (partial.func, partial.args, partial.keywords)),
    (dict, _container(_mapping)),
    ((list, tuple, set, frozenset), _container(_sequence)),
    (type, _class),
    (_FIXED, lambda guards, value: ()),
)
"""How each kind of value is looked through."""
