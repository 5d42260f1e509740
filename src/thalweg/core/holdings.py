"""What can be reached from a value: the tensors that a function uses without being given them.

They are looked for where Python keeps them: modules, closures, defaults, globals that the code names, partial
functions, bound methods, attributes of callable objects, and lists, tuples, sets and dicts of all these.
"""

from __future__ import annotations

import functools
import types
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

OPAQUE = {"builtins", "numpy", "pandas", "torch", "typing", "scipy", "sklearn"}
"""Libraries whose objects, modules of torch aside, hold no tensor that a field could use."""

PLAIN = (bool, int, float, complex, str, bytes, type(None))
"""What holds nothing."""

_MAY_BE_EMPTY = {type(None), bool, dict, OrderedDict, set}
"""What says at once whether it holds nothing, and runs no person's code for it."""


def all_tensors(value: Any) -> Iterator[Tensor]:
    """All tensors that can be reached from a value, also those that need no gradient."""
    return (part for part in _reached(value) if isinstance(part, Tensor))


def scripted_tensors(value: Any) -> Iterator[Tensor]:
    """Those of them that scripted and traced modules hold, whose use no one sees who watches PyTorch's operations."""
    return (x for part in _reached(value) if isinstance(part, torch.jit.ScriptModule) for x in _parts(part))


def _reached(value: Any) -> Iterator[Any]:
    """A value and all that can be reached from it by way of what may hold tensors, each once."""
    stack, seen = [value], set[int]()
    while stack:
        value = stack.pop()
        if isinstance(value, PLAIN) or id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if not isinstance(value, Tensor):
            stack += _parts(value)


def _parts(value: Any) -> Iterable[Any]:
    """What a value is made of, as far as tensors may hide there."""
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, torch.jit.ScriptModule):  # keeps them out of Python's sight
        return (*value.parameters(), *value.buffers())
    if isinstance(value, nn.Module):  # most of what it has is empty: hooks that there are none of
        return [part for part in vars(value).values() if type(part) not in _MAY_BE_EMPTY or part]
    if isinstance(value, functools.partial):
        return (value.func, value.args, value.keywords)
    if isinstance(value, types.MethodType):
        return (value.__self__, value.__func__)
    if isinstance(value, types.FunctionType):
        return _function_parts(value)
    # slots and properties are not looked into, and nothing here may run a person's code
    if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType) or not type(value).__dictoffset__:
        return ()
    if type(value).__module__.split(".")[0] in OPAQUE:
        return ()
    return (vars(value), *(vars(kind).get("__call__") for kind in type(value).__mro__))


def _function_parts(function: types.FunctionType) -> Iterator[Any]:
    """A function's closure, defaults, and the globals that its code names."""
    if (function.__module__ or "").split(".")[0] == "torch":
        return
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield function.__defaults__
    yield function.__kwdefaults__
    for name in global_names(function.__code__):
        if name in function.__globals__:
            yield function.__globals__[name]


def global_names(code: types.CodeType) -> Iterator[str]:
    """The names that a function's code looks up, and those of the functions within it."""
    for part in codes_of(code):
        yield from part.co_names


def codes_of(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code, and that of the functions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_of(constant)
