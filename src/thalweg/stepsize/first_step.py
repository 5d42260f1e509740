"""The size of the first step.

y: (*shape) in joint, (B, *D) per sample. Numbers of a unit: a float in joint, (B,) per sample.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..core.arithmetic import Number, absolute, across, isfinite, maximum, minimum, sign, where, wide_dtype
from ..core.field import FieldLike


@torch.no_grad()
def first_step(
    field: FieldLike, t: Number, y: Tensor, slope: Tensor, span: Number, size: Callable[[Tensor], Number], order: int
) -> Number:
    """A first step whose error is near the tolerance, from one more field evaluation.

    Parameters
    ----------
    slope : Tensor
        The field at (t, y).
    span : float or Tensor (B,)
        t1 - t0, with its sign.
    size : callable
        How large a tensor like y is, of each unit, relative to the tolerance; may overwrite it.
    order : int
        The power of h by which the error estimate shrinks.

    Returns
    -------
    float or Tensor (B,)
        The signed size; NaN where the state or the field is not finite.

    References
    ----------
    Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I (1993), II.4.
    """
    direction, length = sign(span), absolute(span)
    d0, d1 = size(y.clone()), size(slope.clone())
    h0 = where((d0 < 1e-5) | (d1 < 1e-5), length * 0 + 1e-6, 0.01 * d0 / maximum(d1, 1e-5))
    h0 = minimum(h0, length)
    nodes = torch.ones(1, dtype=wide_dtype(y.device), device=y.device)
    (t_next,) = field.times(t, direction * h0, nodes)
    d2 = size(field(t_next, _euler(y, direction * h0, slope)) - slope) / h0
    steepest = maximum(d1, d2)
    h1 = where(steepest <= 1e-15, maximum(h0 * 1e-3, 1e-6), (0.01 / maximum(steepest, 1e-15)) ** (1.0 / order))
    # a field that blows up one tentative step ahead says nothing of d2: start from h0 and let the controller see
    h1 = where(isfinite(d2), h1, h0)
    finite = isfinite(d0) & isfinite(d1)
    return where(finite, direction * minimum(minimum(100 * h0, h1), length), length * torch.nan)


def _euler(y: Tensor, h: Number, slope: Tensor) -> Tensor:
    """Y + h slope."""
    if isinstance(h, Tensor):
        return y + across(h.to(slope.real.dtype), y.ndim) * slope
    return torch.add(y, slope, alpha=h)
