"""How outputs at t0 itself, to which no step leads, move with the times.

Near t0 the solution is y0 + f(t0, y0) (t - t0): an output there moves by f as its own time does, and by -f as t0 does.
No gradient method sees that, as the loop hands out y0 in its place.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..core.arithmetic import sign, tally
from ..core.field import time_of
from ..loop.integrate import Result
from .base import Request


def with_moving_starts(ys: Tensor, result: Result, request: Request) -> tuple[Tensor, Result]:
    """The same outputs (T, *y0.shape), those at t0 as part of the graph of their times, and the evaluation counted.

    The outputs are those at t_eval, or at t0 and t1: then the first is y0 whatever t0 is, and the last alone may move.
    """
    problem, times, field, y0 = request.problem, request.times, request.field, request.y0
    assert times is not None
    own = times.t1.unsqueeze(0) if times.t_eval is None else times.t_eval
    here = own.detach() == times.t0.detach()
    if not bool(here.any()):
        return ys, result
    time = time_of(field, times.t0, y0.device, sign(problem.t1 - problem.t0))
    slope = field(time, y0.view_as(y0))  # a view, as the field may ask for its gradient
    slope = torch.where(torch.isfinite(slope), slope, 0.0)  # infinity times 0 would spoil the output itself
    span = torch.where(here, own - times.t0, 0.0)
    moved = slope * span.view(*span.shape, *(1,) * (ys.ndim - span.ndim)).to(y0.real.dtype)
    ys = torch.cat([ys[:1], ys[1:] + moved]) if times.t_eval is None else ys + moved
    rows = here.any(0) if problem.batching.by_row else True
    return ys, replace(result, nfev=tally(result.nfev, rows, len(field.parts)))
