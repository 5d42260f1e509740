"""The few operations that step-size arithmetic needs, for one number and for one number a row alike.

With `joint` batching a step size is one Python float, kept on the host; with `per_sample` it is a tensor of shape
`(batch,)`, kept on the device. A formula written with these functions serves both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Number: TypeAlias = float | Tensor
"""A float (one unit) or a tensor of shape (batch,) (one a row)."""

Flag: TypeAlias = bool | Tensor
"""A bool (one unit) or a bool tensor of shape (batch,)."""

Count: TypeAlias = int | Tensor
"""An int (one unit) or an int64 tensor of shape (batch,)."""


def where(condition: Flag, this: Any, other: Any) -> Any:
    """Choose `this` where the condition holds, `other` elsewhere."""
    if isinstance(condition, bool):
        return this if condition else other
    return torch.where(condition, this, other)


def clip(x: Number, low: float, high: float) -> Number:
    """`x` held between two floats; NaN stays NaN."""
    if isinstance(x, Tensor):
        return x.clamp(low, high)
    return x if math.isnan(x) else min(max(x, low), high)


def minimum(x: Number, y: Number) -> Number:
    """The smaller of two; NaN where either is NaN."""
    if isinstance(x, Tensor):
        return torch.minimum(x, y) if isinstance(y, Tensor) else x.clamp(max=y)
    assert not isinstance(y, Tensor)
    return x if math.isnan(x) or x < y else y


def maximum(x: Number, y: Number) -> Number:
    """The larger of two; NaN where either is NaN."""
    if isinstance(x, Tensor):
        return torch.maximum(x, y) if isinstance(y, Tensor) else x.clamp(min=y)
    assert not isinstance(y, Tensor)
    return x if math.isnan(x) or x > y else y


def at_least(x: Number, low: Number) -> Number:
    """`x`, but no less than `low`; `low` where `x` is NaN."""
    if isinstance(x, Tensor):
        return torch.fmax(x, low if isinstance(low, Tensor) else x.new_full((), low))
    return x if x > low else low  # NaN is not greater


def of_rows(x: Any) -> Tensor:
    """A number, flag or count that is known to be one for each row."""
    assert isinstance(x, Tensor)
    return x


def tally(total: Count, flag: Flag, count: Count) -> Count:
    """The total, with a count more for the units that are flagged."""
    if isinstance(total, Tensor) and isinstance(flag, Tensor) and not isinstance(count, Tensor):
        return torch.add(total, flag, alpha=count)
    return total + flag * count


def isfinite(x: Number) -> Flag:
    """Whether `x` is neither infinite nor NaN."""
    return torch.isfinite(x) if isinstance(x, Tensor) else math.isfinite(x)


def absolute(x: Number) -> Number:
    """The size of `x`."""
    return x.abs() if isinstance(x, Tensor) else abs(x)


def sign(x: Number) -> Number:
    """-1, 0 or 1."""
    return torch.sign(x) if isinstance(x, Tensor) else float((x > 0) - (x < 0))


def quotient(x: Number, y: Number) -> Number:
    """`x` over `y`, which may be 0; NaN then where they are floats."""
    return x / y if isinstance(y, Tensor) or y else math.nan


def negate(flag: Flag) -> Flag:
    """Not `flag`."""
    return not flag if isinstance(flag, bool) else ~flag


def anywhere(flag: Flag) -> bool:
    """Whether it holds for any unit."""
    return flag if isinstance(flag, bool) else bool(flag.any())


def most(count: Count) -> int:
    """The largest of the units' counts."""
    return int(count.max()) if isinstance(count, Tensor) else count


def as_list(x: Tensor) -> list[Any]:
    """Its numbers (n,), in one read of the device; one by one under `torch.func.jvp` of PyTorch 2.7 and before."""
    try:
        return x.tolist()
    except RuntimeError:
        return [number.item() for number in x.unbind()]


def weighted_sum(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """Sum_j weights_j tensors_j, passing over weights of 0; one of them is another number."""
    total: Tensor | None = None
    for weight, x in zip(weights, tensors, strict=True):
        if weight:
            total = x * weight if total is None else torch.add(total, x, alpha=weight)
    assert total is not None, "all weights are zero"
    return total


def wide_dtype(device: torch.device) -> torch.dtype:
    """The dtype of times and errors inside the loop: float64, but on Apple's GPUs, which have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def across(x: Tensor, ndim: int) -> Tensor:
    """A number of each row (B,), shaped to combine with states of `ndim` dimensions: (B, 1, …, 1)."""
    return x.view(-1, *(1,) * (ndim - 1))


def within_digits(times: Tensor, low: Tensor, high: Tensor, *given: Any) -> Tensor:
    """Times, of which those that an end is too, in the fewest digits in which any of `given` came, lie at that end.

    0.6 in single precision lies beyond the number 0.6, and is the same time.
    """
    dtypes = (torch.as_tensor(t).dtype for t in given if hasattr(t, "dtype"))
    coarsest = max((times.dtype, *(d for d in dtypes if d.is_floating_point)), key=lambda d: torch.finfo(d).eps)
    nearest = torch.minimum(torch.maximum(times, low), high)
    past = torch.where(nearest.to(coarsest) == times.to(coarsest), nearest - times, 0.0)
    return times + past.detach()
