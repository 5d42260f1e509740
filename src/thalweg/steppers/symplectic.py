"""One step of any symplectic splitting.

y = (q, p): packed, (2 N,) in joint, (B, 2 N) per sample; q, p, v, f: (N,) or (B, N). t, h: a float or a 0-d tensor in
joint, (B,) per sample.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from ..core.arithmetic import Flag, Number, across, wide_dtype
from ..core.field import FieldLike, halves, kept
from ..core.step import Carry, Step
from ..methods.symplectic import Splitting
from .interpolation import CUBIC, StageInterpolation


class SplittingStepper(StageInterpolation):
    """The stepper of symplectic splittings, made anew for each solve.

    The field's parts are v and f of dq/dt = v(t, p), dp/dt = f(t, q). A kick by f moves p at the time that q has
    reached, a drift by v moves q at the time that p has reached. f of the last kick is that of the next step's first
    one, and is carried. Slopes at the ends of a step are evaluated where a state inside it is asked for.

    Parameters
    ----------
    splitting : Splitting
        The method.
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has its own t and h.

    References
    ----------
    Hairer, Lubich & Wanner, Geometric Numerical Integration (2006), I.3 and II.4.
    """

    implicit = False
    needs_slope = True
    stages = len(CUBIC)

    def __init__(self, splitting: Splitting, like: Tensor, *, by_row: bool) -> None:
        super().__init__(CUBIC, like, by_row=by_row)
        self.splitting = splitting
        self.error_order = splitting.order + 1
        wide = wide_dtype(like.device)
        # a kick and a drift in turn: the times that q has reached at the kicks, and p at the drifts
        nodes = [0.0] * (len(splitting.kick) + len(splitting.drift))
        nodes[::2] = [0.0, *accumulate(splitting.drift)]
        nodes[1::2] = accumulate(splitting.kick[:-1])
        self._c = torch.tensor(nodes, dtype=wide, device=like.device)
        self._ends = torch.tensor([0.0, 1.0], dtype=wide, device=like.device)

    def init(self, slope: Tensor | None, units: Flag = True) -> Carry | None:
        """The carry of the first step: f at the start."""
        return None if slope is None else (halves(slope)[1],)

    def step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Carry | None) -> Step:
        """Try a step of size h from (t, y); without a carry it evaluates f there itself."""
        v, f = field.parts
        times, size = field.times(t, h, self._c), self._shaped(h, y)
        q0, p0 = halves(y)
        first = last = kept(f(times[0], q0)) if carry is None else carry[0]
        # what a step adds is summed before it is added: one rounding to the size of the state
        moved_q, moved_p = torch.zeros_like(q0), self.splitting.kick[0] * first
        for drift, kick, t_drift, t_kick in zip(
            self.splitting.drift, self.splitting.kick[1:], times[1::2], times[2::2], strict=True
        ):
            moved_q = moved_q + drift * v(t_drift, p0 + size * moved_p)
            last = f(t_kick, q0 + size * moved_q)
            moved_p = moved_p + kick * last
        mean = torch.cat([moved_q, moved_p], -1)
        evaluations = 2 * self.splitting.stages + (carry is None)
        return Step(y + size * mean, None, (mean, first), (kept(last),), evaluations)

    def extend(self, field: FieldLike, t: Number, h: Number, y: Tensor, step: Step) -> Step:
        """The step with the slopes at both its ends, of which f was evaluated."""
        v, _ = field.parts
        mean, first = step.stages
        assert step.carry is not None
        slopes = [
            torch.cat([v(time, halves(state)[1]), kick], -1)
            for time, state, kick in zip(
                field.times(t, h, self._ends), (y, step.y), (first, step.carry[0]), strict=True
            )
        ]
        return replace(step, stages=(mean, *slopes), nfev=step.nfev + 2)

    def _shaped(self, h: Number, y: Tensor) -> Number:
        """The sizes, to multiply states."""
        if not isinstance(h, Tensor):
            return h
        h = h.to(y.real.dtype if y.is_complex() else y.dtype)
        return across(h, y.ndim) if self.by_row else h
