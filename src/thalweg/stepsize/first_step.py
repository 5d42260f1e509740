"""The size of the first step.

y: (*shape) in joint, (B, *D) per sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.arithmetic import Number, across, wide_dtype
from ..core.field import FieldLike
from ..core.norms import Tolerance, rms


@torch.no_grad()
def first_step(
    field: FieldLike,
    t: Number,
    y: Tensor,
    slope: Tensor,
    span: Number,
    tolerance: Tolerance,
    order: int,
    *,
    by_row: bool,
) -> Tensor:
    """A first step whose error is near the tolerance, from one more field evaluation.

    Parameters
    ----------
    slope : Tensor
        The field at (t, y).
    span : float or Tensor (B,)
        t1 - t0, with its sign.
    order : int
        The power of h by which the error estimate shrinks.

    Returns
    -------
    Tensor
        The signed size, 0-d or (B,), float64; NaN where the state or the field is not finite.

    References
    ----------
    Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I (1993), II.4.
    """
    wide = wide_dtype(y.device)
    span = torch.as_tensor(span, dtype=wide, device=y.device)
    direction, length = span.sign(), span.abs()
    scale = tolerance.scale(y)
    d0 = rms(y / scale, by_row=by_row).to(wide)
    d1 = rms(slope / scale, by_row=by_row).to(wide)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
    h0 = torch.minimum(h0, length)
    h = (direction * h0).to(y.dtype)
    if by_row:
        h = across(h, y.ndim)
    nodes = torch.ones(1, dtype=wide, device=y.device)
    (t_next,) = field.times(t, direction * h0, nodes)
    change = field(t_next, y + h * slope.detach()) - slope
    d2 = rms(change / scale, by_row=by_row).to(wide) / h0
    steepest = torch.maximum(d1, d2)
    h1 = torch.where(steepest <= 1e-15, torch.clamp(h0 * 1e-3, min=1e-6), (0.01 / steepest) ** (1.0 / order))
    # a field that blows up one tentative step ahead says nothing of d2: start from h0 and let the controller see
    h1 = torch.where(torch.isfinite(d2), h1, h0)
    finite = torch.isfinite(d0) & torch.isfinite(d1)
    return torch.where(finite, direction * torch.minimum(torch.minimum(100 * h0, h1), length), torch.nan)
