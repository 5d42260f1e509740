"""One step of a pair of methods, of the one that the unit is in; and when a unit goes over to the other.

y: (*shape) in joint, (B, *D) per sample. t, h: a float or a 0-d tensor in joint, (B,) per sample. What each unit has
one of: (U), which is () in joint and (B,) per sample.

Stiff is a field for the explicit method where h times the largest eigenvalue of J is as large as that method is stable
with. Its last two stages show that eigenvalue, as their slopes differ by J times what their states differ by, and the
difference holds most of what J magnifies most (Hairer & Wanner 1996, IV.2). For the Rosenbrock method J itself is at
hand. A unit changes once enough of its accepted steps have said so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..core.arithmetic import Flag, Number, across, as_list, weighted_sum, wide_dtype
from ..core.field import FieldLike
from ..core.norms import Tolerance, rms_of_rows
from ..core.step import Carry, Step, parts_of
from ..methods.auto import Switching
from .explicit_rk import ExplicitRK
from .interpolation import StageInterpolation
from .rosenbrock import RosenbrockStepper

_VOTES = 8  # of more stiff steps than others, after which a unit goes over to the stiff method
_VOTES_BACK = 5  # of more steps that are not, after which it comes back
_NEAR = 0.6  # the share of the stability limit from which on a step is stiff: a controller may keep well below it
_FAR = 0.4  # the share below which it is not: less, as a change costs steps


@dataclass(frozen=True, slots=True)
class _Switched(Step):
    """A step of a pair: what each of the two took, None where no unit was in its mode, and which units are stiff."""

    explicit: Step | None = None
    stiff: Step | None = None
    mode: Tensor | None = None


class AutoStepper(StageInterpolation):
    """The stepper of a pair of methods, made anew for each solve.

    The carry is the slope at the start and m (U), an integer: where m >= 0 the unit's step is explicit, and m of its
    steps more were stiff than not; where m < 0 it is one of the stiff method, and -1 - m steps more were not stiff than
    were. Per sample, a row that is in the other's mode takes a step of size 0.

    Stages of an extended step are increments over h at as many places in the step as the interpolants' degree, which
    is a form that both methods have.

    Parameters
    ----------
    pair : Switching
        The two methods.
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has its own t and h.
    tolerance : Tolerance
        That of the solve, relative to which J is measured.

    References
    ----------
    Hairer & Wanner, Solving Ordinary Differential Equations II (1996), IV.2.
    Petzold, "Automatic selection of methods for solving stiff and nonstiff systems of ordinary differential equations",
    SIAM Journal on Scientific and Statistical Computing 4 (1983).
    """

    implicit = True
    needs_slope = True

    def __init__(self, pair: Switching, like: Tensor, *, by_row: bool, tolerance: Tolerance) -> None:
        rows = pair.explicit.interpolant, pair.stiff.interpolant
        degree = max(len(row[0]) for row in rows)
        powers = np.linspace(0, 1, degree + 1)[1:, None] ** np.arange(1, degree + 1)  # (place, power)
        super().__init__(np.linalg.inv(powers).T.tolist(), like, by_row=by_row)
        self.stages, self.error_order = degree, pair.error_order
        self._explicit = ExplicitRK(pair.explicit, like, by_row=by_row)
        self._stiff = RosenbrockStepper(pair.stiff, like, by_row=by_row)
        self._weights_explicit, self._weights_stiff = (
            (powers[:, : len(row[0])] @ np.transpose(row)).tolist() for row in rows
        )
        *_, before, last = pair.explicit.a
        self._apart = [x - y for x, y in zip(last, (*before, 0.0), strict=True)]
        self._limit = pair.limit
        self._tolerance = tolerance
        self._end = torch.ones(1, dtype=wide_dtype(like.device), device=like.device)

    def init(self, slope: Tensor | None, units: Flag = True) -> Carry | None:
        """The carry of the first step, explicit, from the slope at the start."""
        self._stiff.init(slope, units)
        return None if slope is None else (slope, self._zero(slope))

    def take(self, rows: Tensor) -> None:
        """Go on with some of the rows alone."""
        self._explicit.take(rows)
        self._stiff.take(rows)
        self._tolerance = self._tolerance.taken(rows)

    def step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Carry | None) -> Step:
        """Try a step of size h from (t, y)."""
        start, m = (None, self._zero(y)) if carry is None else ((carry[0],), carry[1])
        mode = m < 0
        if not self.by_row:
            step = self._take_stiff(field, t, h, y, m) if bool(mode) else self._take_explicit(field, t, h, y, start, m)
            return replace(step, mode=mode)
        assert isinstance(h, Tensor)
        moving = h != 0
        stiff, explicit = as_list(torch.stack([(mode & moving).any(), (~mode & moving).any()]))
        if not stiff:
            return replace(self._take_explicit(field, t, h, y, start, m), mode=torch.zeros_like(mode))
        if not explicit:
            return replace(self._take_stiff(field, t, h, y, m), mode=torch.ones_like(mode))
        one = self._take_explicit(field, t, torch.where(mode, 0.0, h), y, start, m)
        other = self._take_stiff(field, t, torch.where(mode, h, 0.0), y, m)
        return self._merged(mode, other, one)

    def extend(self, field: FieldLike, t: Number, h: Number, y: Tensor, step: Step) -> Step:
        """The step with its increments at the places of the interpolant."""
        assert isinstance(step, _Switched)
        mode, found, nfev = step.mode, [], step.nfev
        assert mode is not None
        if step.explicit is not None:
            whole = self._explicit.extend(field, t, h, y, step.explicit)
            nfev = nfev + (whole.nfev - step.explicit.nfev) * (~mode if self.by_row else 1)
            found.append(_combined(self._weights_explicit, whole.stages))
        if step.stiff is not None:
            found.append(_combined(self._weights_stiff, step.stiff.stages))
        if len(found) == 1:
            return replace(step, stages=found[0], nfev=nfev)
        explicit, stiff = found
        rows = self._each(mode, y)
        return replace(step, stages=[torch.where(rows, x, z) for x, z in zip(stiff, explicit, strict=True)], nfev=nfev)

    def _take_explicit(
        self, field: FieldLike, t: Number, h: Number, y: Tensor, start: Carry | None, m: Tensor
    ) -> _Switched:
        """A step of the explicit method."""
        step = self._explicit.step(field, t, h, y, start)
        assert step.carry is not None
        with torch.no_grad():
            scale = self._tolerance.scale(y)
            change = self._size((step.stages[-1] - step.stages[-2]).div_(scale))
            apart = self._size(weighted_sum(self._apart, step.stages[:-1]).div_(scale))
            stiff = change > _NEAR * self._limit * apart
            m = torch.where(stiff, m + 1, (m - 1).clamp(min=0))
            m = torch.where(m < _VOTES, m, -1)
        return _Switched(**parts_of(step, carry=(step.carry[0], m)), explicit=step)

    def _take_stiff(self, field: FieldLike, t: Number, h: Number, y: Tensor, m: Tensor) -> _Switched:
        """A step of the stiff method, and the slope at its end of the units that come back."""
        step = self._stiff.step(field, t, h, y, None)
        with torch.no_grad():
            size = torch.as_tensor(h, dtype=y.dtype, device=y.device).abs()
            calm = (size > 0) & (size * self._radius(y) < _FAR * self._limit)
            m = torch.where(calm, m - 1, (m + 1).clamp(max=-1))
            back = m < -_VOTES_BACK
            m = torch.where(back, 0, m)
        slope, nfev = torch.zeros_like(y), step.nfev
        if bool(back.any()):
            (time,) = field.times(t, h, self._end)
            slope = torch.where(self._each(back, y), field(time, step.y), slope)
            nfev = nfev + back if self.by_row else nfev + 1
        return _Switched(**parts_of(step, carry=(slope, m), nfev=nfev), stiff=step)

    def _merged(self, mode: Tensor, stiff: _Switched, explicit: _Switched) -> _Switched:
        """The one step in rows of the stiff mode, the other in the others."""

        def pick(x: Tensor, other: Tensor) -> Tensor:
            return torch.where(self._each(mode, x), x, other)

        return _Switched(
            pick(stiff.y, explicit.y),
            pick(stiff.error, explicit.error),  # type: ignore[arg-type]
            explicit.stages,
            tuple(map(pick, stiff.carry, explicit.carry)),  # type: ignore[arg-type]
            torch.where(mode, stiff.nfev, explicit.nfev),
            torch.where(mode, stiff.njev, 0),
            torch.where(mode, stiff.nlu, 0),
            explicit=explicit.explicit,
            stiff=stiff.stiff,
            mode=mode,
        )

    def _size(self, x: Tensor) -> Tensor:
        """How large x is (U)."""
        return rms_of_rows(x) if self.by_row else torch.linalg.vector_norm(x)

    def _radius(self, y: Tensor) -> Tensor:
        """The absolute value of the largest eigenvalue of J (U), from above: ‖J⁴‖^(1/4), relative to the tolerance."""
        jacobian = self._stiff.jacobian
        scale = self._tolerance.scale(y).reshape(*jacobian.shape[:-1], 1)
        matrix = jacobian * scale.transpose(-1, -2) / scale
        whole = torch.linalg.matrix_norm(matrix)
        matrix = matrix / self._each(whole.clamp(min=torch.finfo(y.dtype).tiny), matrix)
        for _ in range(2):
            matrix = matrix @ matrix
        return whole * torch.linalg.matrix_norm(matrix) ** 0.25

    def _each(self, x: Tensor, like: Tensor) -> Tensor:
        """What each unit has one of, to combine with what has the dimensions of `like`."""
        return across(x, like.ndim) if self.by_row else x

    def _zero(self, y: Tensor) -> Tensor:
        return torch.zeros(y.shape[:1] if self.by_row else (), dtype=torch.int64, device=y.device)


def _combined(weights: Sequence[Sequence[float]], stages: Sequence[Tensor]) -> list[Tensor]:
    """Sum_i weights_ji k_i for each j."""
    return [weighted_sum(row, stages) for row in weights]
