"""Whether derivatives go through what is computed: then each operation makes a new tensor, and none is written over."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def transformed() -> bool:
    """Whether a transform of `torch.func` is at work, or forward-mode differentiation."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def recorded() -> bool:
    """Whether there is a graph of what is computed, or tangents may go along, which `torch.no_grad()` does not end."""
    return torch.is_grad_enabled() or transformed()
