"""Whether derivatives go through what is computed: then each operation makes a new tensor, and none is written over."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad


def transformed() -> bool:
    """Whether a transform of `torch.func` is at work, or forward-mode differentiation."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def recorded() -> bool:
    """Whether there is a graph of what is computed, or tangents may go along, which `torch.no_grad()` does not end."""
    return torch.is_grad_enabled() or transformed()


def unwrapped(x: Tensor) -> Tensor:
    """The values themselves, below what transforms have wrapped them in."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    return x


def beneath_transforms() -> AbstractContextManager[Any]:
    """A context in which none is at work, for what is computed from unwrapped values: new tensors are not wrapped."""
    if torch._C._functorch.peek_interpreter_stack() is None:
        return nullcontext()
    return temporarily_clear_interpreter_stack()
