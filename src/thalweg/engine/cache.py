"""Traces that are kept as long as the field is there and nothing that it reads has changed."""

from __future__ import annotations

import types
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.compiled import native
from .builder import Untraceable
from .guards import SIMPLE, Guards, guards_of, signed
from .keys import kind_of
from .trace import Trace, check, leaves_of, refuse_surroundings, trace, trace_under

_KEPT = 8
"""The most traces of one field: it may be used with states and arguments of several shapes."""

_WAYS = 32
"""The most ways to solve with one field."""

_PATIENCE = 3
"""How often in a row a trace is made anew before a field is left alone for a while."""

_LONGEST = 10
"""It is left alone for twice as many solves each time, up to two to that power."""


@dataclass(eq=False)
class _Unrest:
    """How often in a row what a field reads has changed from one solve to the next, and for how many it rests."""

    changes: int = 0
    left: int = 0

    def rests(self) -> bool:
        """Whether it does at this solve, at which it was seen to have changed again."""
        if self.left:
            self.left -= 1
            return True
        self.changes += 1
        self.left = 2 ** min(self.changes, _LONGEST) if self.changes >= _PATIENCE else 0
        return False


@dataclass(eq=False)
class _Entry:
    """A trace or why there is none, what it holds under, and the numbers of rows that it was compared with.

    `told` are the objects by whose identity its key tells it from others: while they live, no other has their identity.
    """

    found: Trace | str
    guards: Guards
    told: list[Any]
    compared: dict[int, str | None] = field(default_factory=dict)
    unrest: _Unrest = field(default_factory=_Unrest)

    def valid(self) -> bool:
        return self.guards.hold() and (isinstance(self.found, str) or self.found.holds())


@dataclass
class _Owned:
    """What is kept as long as its owner lives: entries, and ways to solve, each by its key and with its entry.

    `crowd` tells how often in a row an entry had to go for a new one.
    """

    owner: weakref.ref[Any]
    entries: OrderedDict[Any, _Entry] = field(default_factory=OrderedDict)
    ways: list[tuple[Any, _Entry, Any]] = field(default_factory=list)
    crowd: _Unrest = field(default_factory=_Unrest)


_OWNED: dict[int, _Owned] = {}
"""By the identity of the owner, which may be equal to others, or have no hash."""

_RETURNING: OrderedDict[int, None] = OrderedDict()
"""Those of owners that are reached from what is kept of them, the one used last at the end."""


def cached_trace(
    fun: Callable[..., Any],
    t: Tensor,
    y0: Any,
    args: tuple[Any, ...] = (),
    *,
    by_row: bool,
    rowed: bool = True,
    insist: bool = True,
) -> Trace:
    """The trace of a field, as `trace` makes it, made anew only where it must be.

    Unless a person insists, it is not made at each solve where something that the field reads, such as the number of
    its calls, is another each time, or the state has another shape: the more often that was so in a row, the longer
    such solves are left to PyTorch.

    Raises
    ------
    Untraceable
        Where there is none, or where it cannot be told for how long it would hold.
    """
    refuse_surroundings()
    owner, told = _owner(fun)
    owned = _made_for(owner)
    if owned is None:
        return trace(fun, t, y0, args, by_row=by_row, rowed=rowed)
    key, entries = (*_key(told, y0, args, by_row), rowed), owned.entries
    entry = entries.get(key)
    if entry is None or not entry.valid():
        crowded = entry is None and len(entries) >= _KEPT
        unrest = owned.crowd if crowded else _Unrest() if entry is None else entry.unrest
        if not insist and unrest.rests():
            changed = "the shapes" if crowded else "what the field reads"
            raise Untraceable(f"{changed} changed from each of the last solves to the next")
        entry = entries[key] = _made(fun, t, y0, args, by_row, rowed)
        if not crowded:
            entry.unrest = unrest
        if entry.guards.returns:
            _let_go(id(owner))
        while len(entries) > _KEPT:
            entries.popitem(last=False)
        owned.ways = [way for way in owned.ways if way[1] in entries.values()]
    else:
        entry.unrest, owned.crowd = _Unrest(), _Unrest()
    entries.move_to_end(key)
    if isinstance(entry.found, str):
        raise Untraceable(entry.found)
    rows = _rows(y0, by_row)
    if rows not in entry.compared:
        entry.compared[rows] = _difference(entry.found, fun, t, y0, args, by_row)
    reason = entry.compared[rows]
    if reason is not None:
        raise Untraceable(reason)
    return entry.found


def keep_way(key: Any, fun: Callable[..., Any], args: tuple[Any, ...], trace: Trace, way: Any) -> None:
    """Keep a way to solve with the trace that `cached_trace` has given, where that is kept.

    It may hold the trace, but not the field: both end with that. `key` is for all that the ways of one field and
    arguments of one kind differ in, the shape and dtype of the state among it.
    """
    owner, told = _owner(fun)
    owned = _owned(owner)
    entry = None if owned is None else next((x for x in owned.entries.values() if x.found is trace), None)
    if owned is None or entry is None:
        return
    owned.ways = [(_way_key(key, told, args), entry, way), *owned.ways[: _WAYS - 1]]


def kept_way(key: Any, fun: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """That way, where all that the field reads is as it was; None otherwise."""
    owner, told = _owner(fun)
    owned = _owned(owner)
    found = native.found_by(owned.ways, _way_key(key, told, args)) if owned is not None and owned.ways else None
    if owned is None or found is None or not found[1].valid():
        return None
    _, entry, way = found
    if entry.unrest.changes or owned.crowd.changes:
        entry.unrest, owned.crowd = _Unrest(), _Unrest()
    return way


def _way_key(key: Any, told: tuple[Any, ...], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What `_key` asks of shapes row by row, by whole shapes: there are more such keys, but they are made sooner."""
    leaves = leaves_of(args)
    structure = None if leaves is args else _hashable(pytree.tree_structure(args))
    kinds = [kind_of(x) if isinstance(x, Tensor) else _identity(x) for x in leaves]
    return key, told, _defaults(), structure, tuple(kinds)


def _contexts(y0: Any) -> list[Any]:
    """What nodes of a state's structure know of themselves, which a field may read."""
    if isinstance(y0, Tensor):
        return []
    found, stack = [], [pytree.tree_structure(y0)]
    while stack:
        spec = stack.pop()
        found.append(spec.context)
        stack += spec.children() if hasattr(spec, "children") else spec.children_specs
    return found


def _owned(owner: Any) -> _Owned | None:
    found = _OWNED.get(id(owner))
    return found if found is not None and found.owner() is owner else None


def _made_for(owner: Any) -> _Owned | None:
    """What is kept for an owner, made where there is nothing; None where nobody would hear of its end."""
    found, number = _owned(owner), id(owner)
    if found is None:
        forget = _OWNED.pop  # which is there also while Python ends
        try:
            found = _OWNED[number] = _Owned(weakref.ref(owner, lambda _: forget(number, None)))
        except TypeError:
            return None
    return found


def _let_go(number: int) -> None:
    """Forget owners that are reached from what is kept of them, and so do not end by themselves, but for the last."""
    _RETURNING[number] = None
    _RETURNING.move_to_end(number)
    while len(_RETURNING) > _KEPT:
        _OWNED.pop(_RETURNING.popitem(last=False)[0], None)


def _made(fun: Callable[..., Any], t: Tensor, y0: Any, args: tuple[Any, ...], by_row: bool, rowed: bool) -> _Entry:
    guards = guards_of(fun, (args, *_contexts(y0)))
    told = [*_told(fun), *(x for x in pytree.tree_leaves(args) if not isinstance(x, Tensor))]
    if guards.reason is not None:
        return _Entry(guards.reason, guards, told)
    try:
        found = trace_under(guards, fun, t, y0, args, by_row=by_row, rowed=rowed)
    except Untraceable as error:
        return _Entry(str(error), guards, told)
    return _Entry(found, guards, told, {_rows(y0, by_row): None})


def _difference(found: Trace, fun: Callable[..., Any], t: Tensor, y0: Any, args: Any, by_row: bool) -> str | None:
    """How the field differs from its trace at this number of rows."""
    try:
        check(found, fun, t, y0, args, by_row=by_row)
    except Untraceable as error:
        return str(error)
    return None


def _rows(y0: Any, by_row: bool) -> int:
    """The number of rows, where a trace holds for any."""
    if not by_row:
        return -1
    return len(y0 if isinstance(y0, Tensor) else pytree.tree_leaves(y0)[0])


def _owner(fun: Any) -> tuple[Any, tuple[Any, ...]]:
    """What the traces of a field live as long as, and what tells it from others of the same owner.

    A function that is made anew at each call, as a lambda is, shares its code with those before it.
    """
    if isinstance(fun, types.MethodType):
        return fun.__self__, (fun.__func__,)
    if isinstance(fun, types.FunctionType):
        return fun.__code__, tuple(map(_identity, _told(fun)))
    return fun, ()


def _told(fun: Any) -> list[Any]:
    """What tells a function from others of the same code, which may be another module's."""
    if not isinstance(fun, types.FunctionType):
        return []
    held = [cell.cell_contents for cell in fun.__closure__ or ()]
    return [*held, fun.__defaults__, fun.__kwdefaults__, fun.__globals__]


def _defaults() -> tuple[Any, ...]:
    """What PyTorch was told outside of the field."""
    return torch.get_default_dtype(), torch.is_autocast_enabled("cpu")


def _key(told: tuple[Any, ...], y0: Any, args: Any, by_row: bool) -> tuple[Any, ...]:
    """What tells a field from others, and the shapes, dtypes and structure of a state and arguments."""
    states, spec = ([y0], None) if isinstance(y0, Tensor) else pytree.tree_flatten(y0)
    leaves, structure = pytree.tree_flatten(args)
    rows = len(states[0]) if by_row else -1
    shapes = tuple((x.shape[1:] if by_row else x.shape, x.dtype) for x in states)
    kinds = tuple(_leaf(x, rows) for x in leaves)
    return told, *_defaults(), by_row, _hashable(spec), shapes, _hashable(structure), kinds


def _has_hash(spec: Any) -> bool:
    try:
        hash(spec)
    except TypeError:
        return False
    return True


_STRUCTURES_HAVE_HASHES = _has_hash(pytree.tree_structure({}))
"""Those of older PyTorch hold lists."""


def _hashable(spec: Any) -> Any:
    """A structure, or what is equal where it is equal and only there."""
    if _STRUCTURES_HAVE_HASHES or spec is None:
        return spec
    return spec.type, _without_lists(spec.context), tuple(map(_hashable, spec.children_specs))


def _without_lists(context: Any) -> Any:
    """What a node of a structure knows of itself; what has no hash is equal to nothing."""
    if isinstance(context, list | tuple):
        return type(context), tuple(map(_without_lists, context))
    return context if _has_hash(context) else object()


def _leaf(x: Any, rows: int) -> Any:
    if not isinstance(x, Tensor):
        return _identity(x)
    own = x.ndim > 0 and len(x) == rows
    return type(x), own, x.shape[1:] if own else x.shape, x.dtype, x.layout


def _identity(x: Any) -> Any:
    """What tells a value from others: itself where it is simple; an object is kept alive by the entry."""
    return (type(x), x, signed(x)) if isinstance(x, SIMPLE) and not isinstance(x, slice) else id(x)
