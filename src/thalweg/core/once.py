"""Gradients that cannot be differentiated again, and say so: without it a second derivative would be silently wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class _Once(torch.autograd.Function):
    """Passes gradients on, and refuses to be differentiated."""

    @staticmethod
    def forward(ctx: Any, message: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.message = message
        return tuple(gradient.clone() for gradient in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(ctx.message)


def once(
    gradients: Sequence[Tensor | None], message: str, sources: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The same gradients; where a graph is recorded of them, one that meets an error on its way to the sources.

    The sources are what the gradients depend on, and must be in the graph themselves: PyTorch goes no other way.
    """
    if not torch.is_grad_enabled():
        return tuple(gradients)
    found = [g.detach() for g in gradients if g is not None]
    present = iter(_Once.apply(message, len(found), *found, *(x for x in sources if x is not None)))
    return tuple(None if gradient is None else next(present) for gradient in gradients)
