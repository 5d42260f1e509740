"""How large an error is: root mean square over the entries of one unit, relative to the tolerance.

y: (*shape) in joint, (B, *D) per sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .compiled import in_memory, is_read, native


@dataclass(frozen=True)
class Tolerance:
    """The error allowed in each entry: `atol + rtol * |y|`; both shaped as y, or atol 0-d and rtol a number."""

    rtol: float | Tensor
    atol: Tensor

    def taken(self, rows: Tensor) -> Tolerance:
        """Those rows, where each entry of y has its own."""
        rtol = self.rtol[rows] if isinstance(self.rtol, Tensor) else self.rtol
        return Tolerance(rtol, self.atol[rows] if self.atol.ndim else self.atol)

    def scale(self, *states: Tensor) -> Tensor:
        """The allowed error, from the largest absolute value among the states, entry by entry; no less than float32."""
        size = wide_enough(states[0]).abs()
        for y in states[1:]:
            torch.maximum(size, wide_enough(y).abs(), out=size)
        if isinstance(self.rtol, Tensor):
            return size.mul_(self.rtol).add_(self.atol)
        return torch.add(self.atol, size, alpha=self.rtol, out=size)


@dataclass(frozen=True)
class AsGiven:
    """A relative tolerance that is taken as it is, where a dtype holds no such digits too."""

    rtol: float | Tensor


@dataclass(frozen=True)
class LargestOfLeaves:
    """The largest of the root mean squares of a pytree's leaves, or of several; NaN where one of them is.

    Examples
    --------
    >>> import torch
    >>> LargestOfLeaves()((torch.ones(2), torch.tensor([2.0, -2.0, 2.0, -2.0])))
    2.0
    """

    def __call__(self, *errors: Any) -> float:
        """How large errors are."""
        sizes = [rms(x) for x in pytree.tree_leaves(errors)]
        return math.nan if any(map(math.isnan, sizes)) else max(sizes, default=0.0)


def is_uniform(tolerance: Tolerance, dtype: torch.dtype) -> bool:
    """Whether it is two numbers, in that dtype, for all entries."""
    return not isinstance(tolerance.rtol, Tensor) and tolerance.atol.ndim == 0 and tolerance.atol.dtype is dtype


def relative_to(x: Tensor, tolerance: Tolerance, states: Sequence[Tensor], rows: int | None) -> Tensor | None:
    """The root mean square of x over each of so many rows, or over all of it, relative to what is allowed.

    By compiled code, (rows,) or 0-d, float64; None where that cannot be. It overwrites x. None is part of a graph.
    """
    if not is_uniform(tolerance, x.dtype) or not is_read(x):
        return None
    atol, rtol = tolerance.atol, tolerance.rtol
    x, y, z = (in_memory(state) for state in (x, states[0], states[-1]))
    found = torch.empty(() if rows is None else (rows,), dtype=torch.float64, device="cpu")
    measure = native.measure_float if x.dtype is torch.float32 else native.measure_double
    count = 1 if rows is None else rows
    measure(
        x.data_ptr(), y.data_ptr(), z.data_ptr(), atol.data_ptr(), rtol, count, x.numel() // count,
        found.data_ptr(),
    )  # fmt: skip
    return found


def rms(x: Tensor) -> float:
    """Root mean square over all of `x`: one read of the device."""
    return torch.linalg.vector_norm(x).item() / max(x.numel(), 1) ** 0.5


def rms_of_rows(x: Tensor) -> Tensor:
    """Root mean square over each row, of shape (B,)."""
    if x.ndim == 1:
        return x.abs()
    entries = max(math.prod(x.shape[1:]), 1)
    return torch.linalg.vector_norm(x.flatten(1), dim=1) / entries**0.5


def wide_enough(x: Tensor) -> Tensor:
    """The same in float32 at least: in 16 bits a tolerance vanishes, and so do squares of what is not far from 1."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
