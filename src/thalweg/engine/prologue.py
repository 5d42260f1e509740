"""What a field computes from parameters, constants and shared arguments alone: run by PyTorch before each solve.

A slot is a tensor of the prologue: one that the field captured, an argument, or what a call made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Slot:
    """Which tensor of the prologue stands here among the arguments of a call."""

    number: int


@dataclass(frozen=True)
class Call:
    """One call of PyTorch: where the results go, and whether a graph was to be recorded."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[int, ...]
    recorded: bool

    @property
    def reads(self) -> list[int]:
        """The slots among its arguments."""
        return _slots((self.args, self.kwargs))


class Prologue:
    """The calls in order, and the slots.

    Attributes
    ----------
    values : list of Tensor
        The tensor of each slot when the field was traced.
    captured : dict of int to Tensor
        Those slots that hold what the field captured; the tensors themselves, so that what is written into them later
        is seen.
    arguments : dict of int to int
        Those slots that are arguments, and which leaves of all arguments.
    """

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self.captured: dict[int, Tensor] = {}
        self.arguments: dict[int, int] = {}
        self.calls: list[Call] = []
        self._known: dict[int, int] = {}
        self._roots: list[frozenset[int]] = []
        self._makers: dict[int, Call] = {}

    def capture(self, tensor: Tensor) -> int:
        """The slot of a tensor that the field holds, or has made of numbers."""
        if id(tensor) not in self._known:
            number = self._known[id(tensor)] = self._add(tensor, None)
            self.captured[number] = tensor
        return self._known[id(tensor)]

    def argument(self, leaf: int, tensor: Tensor) -> int:
        """A new slot for an argument."""
        number = self._add(tensor, None)
        self.arguments[number] = leaf
        return number

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The results of a call, each tensor as its slot."""
        given, known = pytree.tree_map(self._value, (args, kwargs)), len(self.values)
        leaves, spec = pytree.tree_flatten(function(*given[0], **given[1]))
        roots = frozenset[int]().union(*(self._roots[x] for x in _slots((args, kwargs))))
        results = [Slot(self._add(x, roots)) if isinstance(x, Tensor) else x for x in leaves]
        call = Call(function, args, kwargs, tuple(range(known, len(self.values))), torch.is_grad_enabled())
        self.calls.append(call)
        self._makers.update(dict.fromkeys(call.results, call))
        return pytree.tree_unflatten(results, spec)

    def maker(self, slot: int) -> Call | None:
        """The call that made it."""
        return self._makers.get(slot)

    def roots(self, slot: int) -> list[Tensor] | None:
        """The captured tensors that it was computed from; None where an argument is among them."""
        roots = self._roots[slot]
        return None if roots & self.arguments.keys() else [self.captured[root] for root in roots]

    def needed(self, slots: Sequence[int]) -> None:
        """Forget all that those slots do not need, and the values."""
        if not any(_writes(call.function) for call in self.calls):
            wanted, kept = set(slots), []
            for call in reversed(self.calls):
                if wanted.intersection(call.results):
                    wanted.update(call.reads)
                    kept.append(call)
            self.calls = kept[::-1]
        read = {*slots, *(x for call in self.calls for x in call.reads)}
        self.captured = {slot: tensor for slot, tensor in self.captured.items() if slot in read}
        self.arguments = {slot: leaf for slot, leaf in self.arguments.items() if slot in read}
        self.values, self._known, self._roots, self._makers = [], {}, [], {}

    def run(self, arguments: Sequence[Any]) -> dict[int, Tensor]:
        """The tensor of each slot, with a graph where one is recorded; `arguments` are all leaves of them."""
        if not self.calls and not self.arguments:
            return self.captured
        tensors = {**self.captured, **{slot: arguments[leaf] for slot, leaf in self.arguments.items()}}

        def value(x: Any) -> Any:
            return tensors[x.number] if isinstance(x, Slot) else x

        for call in self.calls:
            args, kwargs = pytree.tree_map(value, (call.args, call.kwargs))
            with nullcontext() if call.recorded else torch.no_grad():
                made = [x for x in pytree.tree_leaves(call.function(*args, **kwargs)) if isinstance(x, Tensor)]
            tensors.update(zip(call.results, made, strict=True))
        return tensors

    def _value(self, x: Any) -> Any:
        return self.values[x.number] if isinstance(x, Slot) else x

    def _add(self, tensor: Tensor, roots: frozenset[int] | None) -> int:
        number = len(self.values)
        self.values.append(torch.zeros_like(tensor) if tensor._is_zerotensor() else tensor)
        self._roots.append(frozenset([number]) if roots is None else roots)
        return number


def _slots(tree: Any) -> list[int]:
    return [x.number for x in pytree.tree_leaves(tree) if isinstance(x, Slot)]


def _writes(function: Callable[..., Any]) -> bool:
    """Whether it writes into one of its arguments."""
    schema = getattr(function, "_schema", None)
    return schema is not None and schema.is_mutable
