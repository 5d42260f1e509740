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

from .builder import Untraceable
from .guards import IDENTITY, SIMPLE, Guards, guards_of
from .trace import Trace, check, leaves_of, refuse_surroundings, trace, trace_under

_KEPT = 8
"""The most traces of one field: it may be used with states and arguments of several shapes."""


@dataclass
class _Entry:
    """A trace or why there is none, what it holds under, and the numbers of rows that it was compared with.

    `told` are the objects by whose identity its key tells it from others: while they live, no other has their identity.
    """

    found: Trace | str
    guards: Guards
    told: list[Any]
    compared: dict[int, str | None] = field(default_factory=dict)

    def valid(self) -> bool:
        return self.guards.hold() and (isinstance(self.found, str) or self.found.holds())


_HASH: Any = object.__hash__
"""How objects are looked up that do not say otherwise."""

_ENTRIES: weakref.WeakKeyDictionary[Any, OrderedDict[Any, _Entry]] = weakref.WeakKeyDictionary()


def cached_trace(fun: Callable[..., Any], t: Tensor, y0: Any, args: tuple[Any, ...] = (), *, by_row: bool) -> Trace:
    """The trace of a field, as `trace` makes it, made anew only where it must be.

    Raises
    ------
    Untraceable
        Where there is none, or where it cannot be told for how long it would hold.
    """
    refuse_surroundings()
    owner, key = _owner(fun)
    if not _told_apart(owner):
        return trace(fun, t, y0, args, by_row=by_row)
    key = _whole_key(key, y0, args, by_row)
    entries = _ENTRIES.setdefault(owner, OrderedDict())
    entry = entries.get(key)
    if entry is None or not entry.valid():
        entry = entries[key] = _made(fun, t, y0, args, by_row)
        while len(entries) > _KEPT:
            entries.popitem(last=False)
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


def valid_trace(fun: Callable[..., Any], y0: Any, args: tuple[Any, ...], *, by_row: bool) -> Trace | None:
    """The trace that `cached_trace` would give, where it has one and need not look at the field's numbers."""
    owner, key = _owner(fun)
    if not _told_apart(owner):
        return None
    entries = _ENTRIES.get(owner)
    entry = None if entries is None else entries.get(_whole_key(key, y0, args, by_row))
    if entry is None or isinstance(entry.found, str) or not entry.valid():
        return None
    return entry.found if entry.compared.get(_rows(y0, by_row), "") is None else None


def _whole_key(key: tuple[Any, ...], y0: Any, args: Any, by_row: bool) -> tuple[Any, ...]:
    return (*key, torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), *_key(y0, args, by_row))


def _made(fun: Callable[..., Any], t: Tensor, y0: Any, args: tuple[Any, ...], by_row: bool) -> _Entry:
    guards = guards_of(fun, args)
    told = [*_told(fun), *(x for x in pytree.tree_leaves(args) if not isinstance(x, Tensor))]
    if guards.reason is not None:
        return _Entry(guards.reason, guards, told)
    try:
        found = trace_under(guards, fun, t, y0, args, by_row=by_row)
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


def _told_apart(owner: Any) -> bool:
    """Whether an owner can be looked up, and is equal to none but itself."""
    try:
        weakref.ref(owner)
    except TypeError:
        return False
    return isinstance(owner, types.CodeType) or (type(owner).__eq__ is IDENTITY and type(owner).__hash__ is _HASH)


def _key(y0: Any, args: Any, by_row: bool) -> tuple[Any, ...]:
    """The shapes, dtypes and structure of a state and arguments, and the arguments that are no tensors."""
    states, spec = ([y0], None) if isinstance(y0, Tensor) else pytree.tree_flatten(y0)
    rows = len(states[0]) if by_row else -1
    shapes = tuple((x.shape[1:] if by_row else x.shape, x.dtype) for x in states)
    if not args:
        return by_row, _hashable(spec), shapes
    leaves = leaves_of(args)
    structure = None if leaves is args else _hashable(pytree.tree_structure(args))
    return by_row, _hashable(spec), shapes, structure, tuple(_leaf(x, rows) for x in leaves)


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
    return own, x.shape[1:] if own else x.shape, x.dtype


def _identity(x: Any) -> Any:
    """What tells a value from others: itself where it is simple; an object is kept alive by the entry."""
    return (type(x), x) if isinstance(x, SIMPLE) and not isinstance(x, slice) else id(x)
