"""What is compiled, where it was built, and when the loop's own arithmetic may be done by it.

A sum of stages, or a measure of an error, is one pass through the numbers then, where PyTorch takes one for each of
several operations. What comes of it is the same, to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .derivatives import recorded

try:
    from . import _native
except ImportError:  # installed where there was no compiler
    _native = None  # type: ignore[assignment]

native: Any = _native
"""The extension module, None where it was not built."""

_LARGEST = 2**14
"""The most numbers that one thread goes through; PyTorch takes all threads for more."""


def in_memory(x: Tensor) -> Tensor:
    """The same numbers as they are read by address: one after the other, their signs in them, and zeros there too."""
    if x.is_contiguous() and not x.is_neg() and x.data_ptr():  # zeros that are nowhere lie at 0
        return x
    return torch.zeros_like(x) if x._is_zerotensor() else x.resolve_neg().contiguous()


def are_in_memory(tensors: list[Tensor], dtype: torch.dtype) -> bool:
    """Whether all are of that dtype and lie there so; without compiled code, which would read them, they do not."""
    return native is not None and native.in_place(tensors, dtype)


def is_read(x: Tensor) -> bool:
    """Whether compiled code may read a tensor that is part of no graph, and others of its kind.

    It is small, of float32 or float64 and on the CPU, no transform has wrapped it, and nobody looks on.
    """
    return (
        type(x) is Tensor
        and x.is_cpu
        and (x.dtype is torch.float32 or x.dtype is torch.float64)
        and 0 < x.numel() <= _LARGEST
        and native is not None
        and not torch._C._len_torch_dispatch_stack()
    )


def is_compiled(x: Tensor) -> bool:
    """Whether what is computed from a tensor, and others of its kind, may be computed by compiled code.

    It may be read, and nobody records a graph.
    """
    return is_read(x) and not recorded()


def select_rows(marks: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The rows of a where they are marked (B,), and those of b elsewhere; a and b are of one shape and dtype."""
    marks, a, b = in_memory(marks), in_memory(a), in_memory(b)
    out, rows = torch.empty_like(a), a.shape[0]
    size = a.numel() // rows * a.element_size()
    native.select_rows(marks.data_ptr(), a.data_ptr(), b.data_ptr(), rows, size, out.data_ptr())
    return out


def stage_times(t: Tensor, h: Tensor, c: Tensor, out: Tensor) -> Tensor:
    """The times t + c h of stages c (S,), for rows at t with steps of h (B,), all float64; in `out`, (S, B, …)."""
    t, h, c = in_memory(t), in_memory(h), in_memory(c)
    fill = native.stage_times_float if out.dtype is torch.float32 else native.stage_times_double
    fill(t.data_ptr(), h.data_ptr(), c.data_ptr(), c.shape[0], t.shape[0], out.data_ptr())
    return out
