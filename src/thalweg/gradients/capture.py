"""Which tensors a field uses without being given them: parameters, and what a function captured.

A gradient method that makes its own backward pass must name every tensor that the gradient goes to. They are looked
for where Python keeps them; a tensor that hides elsewhere is found by `unreached` in the backward pass, and is an
error there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from ..core.holdings import all_tensors


def captured_tensors(fun: Any) -> tuple[list[Tensor], bool]:
    """The tensors that require a gradient and that `fun` holds, each once, so that none is part of another's history.

    Told as well is whether any of those that `fun` holds was computed: a backward pass then runs into its graph.
    """
    return independent(held_tensors(all_tensors(fun)))


def held_tensors(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Those that require a gradient, each once, also where one was computed from another.

    Raises
    ------
    ValueError
        When one of them is spread over processes, or has no shape yet.
    """
    found: dict[int, Tensor] = {}
    for value in tensors:
        if value.requires_grad:
            _refuse_spread(value)
            if is_lazy(value):
                raise ValueError(
                    "the field holds a parameter that has no shape before the field is called, as lazy modules do: "
                    "call the field once, as fun(t0, y0), before the solve"
                )
            found.setdefault(id(value), value)
    return list(found.values())


def _refuse_spread(tensor: Tensor) -> None:
    """Refuse a tensor of which each process holds a part: what the field computes with is then another one."""
    if type(tensor).__module__.startswith("torch.distributed."):
        raise ValueError(
            f"the field holds a {type(tensor).__name__} of shape {tuple(tensor.shape)} that needs a gradient, as "
            "fully_shard makes of parameters: shard the module that holds the whole solve, and not the field on its "
            "own, or use gradient='direct'"
        )


def unreached(outputs: Iterable[Tensor], known: Iterable[Tensor]) -> list[Tensor]:
    """The leaves in the graph of `outputs` that are neither known nor part of a known tensor's history.

    A leaf that needs no gradient any more was asked for one by the field itself, as its time may be.
    """
    known = list(known)
    stop = {tensor.grad_fn for tensor in known if tensor.grad_fn is not None}
    leaves = {id(tensor) for tensor in known}
    found = _leaves((out.grad_fn for out in outputs), stop)
    return [leaf for leaf in found if leaf.requires_grad and id(leaf) not in leaves]


def check_reach(outputs: Sequence[Tensor], known: Sequence[Tensor]) -> None:
    """Refuse a field that uses a tensor whose gradient would be lost.

    Raises
    ------
    RuntimeError
        When the graph of the outputs ends in a tensor that is not known.
    """
    lost = unreached(outputs, known)
    if lost:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in lost)
        raise RuntimeError(
            f"the field uses {len(lost)} tensor(s) of shape {shapes} that need a gradient and that thalweg could not "
            "find; pass them in args, make them parameters of the field's module, or use gradient='direct'"
        )


def independent(tensors: list[Tensor]) -> tuple[list[Tensor], bool]:
    """Those tensors, each whose history holds another of them replaced by the leaves of that history.

    Told as well is whether any was computed.
    """
    if all(tensor.is_leaf for tensor in tensors):
        return tensors, False
    ids = {id(tensor) for tensor in tensors}
    nodes = {tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None}
    result: dict[int, Tensor] = {}
    for tensor in tensors:
        history = [tensor]
        if tensor.grad_fn is not None:
            below = [node for node, _ in tensor.grad_fn.next_functions if node is not None]
            leaves = list(_leaves(below, set()))
            if any(id(leaf) in ids for leaf in leaves) or any(node in nodes for node in nodes_of(below)):
                history = leaves
        for part in history:
            result.setdefault(id(part), part)
    return list(result.values()), True


def nodes_of(starts: Iterable[Any], stop: Iterable[Any] = ()) -> Iterator[Any]:
    """The nodes of a graph, but those in `stop` and what lies only behind them."""
    stack, seen = list(starts), {None, *stop}
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            yield node
            stack += [below for below, _ in node.next_functions]


def _leaves(starts: Iterable[Any], stop: set[Any]) -> Iterator[Tensor]:
    """The leaf tensors of a graph."""
    for node in nodes_of(starts, stop):
        if not node.next_functions and (leaf := getattr(node, "variable", None)) is not None:
            yield leaf
