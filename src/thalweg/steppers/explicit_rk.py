"""One step of any explicit Runge–Kutta method.

y, k_i: (*shape) in joint, (B, *D) per sample. t, h: a float or a 0-d tensor in joint, (B,) per sample.

There are two ways through, compared by the tests. Where no graph is recorded, and no tangents go along, the stages lie
side by side in one buffer K (S, N) and each combination of stages is one matrix–vector product. Otherwise every
operation makes a new tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from ..core.arithmetic import Flag, Number, across, weighted_sum
from ..core.compiled import in_memory, is_compiled, native
from ..core.derivatives import recorded
from ..core.field import FieldLike, kept
from ..core.step import Carry, Step
from ..methods.tableau import Tableau
from .interpolation import StageInterpolation

_SMALL = 2**13
"""The entries of a state up to which a number for each entry costs less than one that is spread over its row."""


class ExplicitRK(StageInterpolation):
    """The stepper of explicit Runge–Kutta methods, made anew for each solve.

    Parameters
    ----------
    tableau : Tableau
        The method.
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has its own t and h.
    """

    implicit = False

    def __init__(self, tableau: Tableau, like: Tensor, *, by_row: bool) -> None:
        super().__init__(tableau.interpolant, like, by_row=by_row)
        self.tableau = tableau
        self._dtype = like.dtype
        self._c = self._numbers(tableau.c)
        self._c_carried = self._c[1:]  # of the stages that a step evaluates which carries its first
        self._last = tableau.stages - 1 if tableau.fsal else None  # the stage that is evaluated at the step's end
        self._buffer: _Buffer | None = None

    # what not every solve needs is made when it is asked for

    @cached_property
    def _rows(self) -> _Rows:
        return _Rows(self.tableau, self._dtype, self.device)

    @cached_property
    def _dense_c(self) -> Tensor:
        return self._numbers(self.tableau.dense_c)

    @property
    def stages(self) -> int:
        """The number of stages of an extended step."""
        return len(self.tableau.interpolant)

    @property
    def error_order(self) -> int:
        """The power of h by which the error estimate of a step shrinks."""
        return self.tableau.error_order

    @property
    def needs_slope(self) -> bool:
        """Whether `init` needs the slope at the start."""
        return self.tableau.fsal

    def init(self, slope: Tensor | None, units: Flag = True) -> Carry | None:
        """The carry of the first step, from the slope at the start."""
        return (slope,) if self.tableau.fsal and slope is not None else None

    def step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Carry | None) -> Step:
        """Try a step of size h from (t, y); without a carry it evaluates the slope there itself."""
        times = field.times(t, h, self._c if carry is None else self._c_carried)
        if recorded():
            return self._step_recorded(field, times, h, y, carry)
        return self._step_buffered(field, times, h, y, carry)

    def extend(self, field: FieldLike, t: Number, h: Number, y: Tensor, step: Step) -> Step:
        """The step with the extra stages of the interpolant."""
        rows = self.tableau.dense_a
        if not rows:
            return step
        times = field.times(t, h, self._dense_c)
        buffer = self._buffer
        if buffer is not None and step.stages is buffer.own and not recorded():
            stages = buffer.stages
            buffer.begin(h, y)
            for i, time in enumerate(times):
                buffer.put(self.tableau.stages + i, field(time, buffer.combine(self._rows.dense + i)))
        else:
            stages = list(step.stages)
            for row, time in zip(rows, times, strict=True):
                stages.append(kept(field(time, self._combine(y, h, row, stages))))
        return replace(step, stages=stages, nfev=step.nfev + len(rows))

    def stage_state(self, i: int, y: Tensor, h: Number, stages: Sequence[Tensor]) -> Tensor:
        """The state at which stage i was evaluated."""
        return self._combine(y, h, self.tableau.a[i], stages[:i]) if i else y

    def _step_recorded(
        self, field: FieldLike, times: Sequence[Tensor], h: Number, y: Tensor, carry: Carry | None
    ) -> Step:
        tableau = self.tableau
        stages: list[Tensor] = [] if carry is None else list(carry)
        state = y
        for i, t in enumerate(times, start=len(stages)):
            if i == self._last:
                state = self._end(y, h, tableau.a[i], stages)
            elif i:
                state = self._combine(y, h, tableau.a[i], stages)
            stages.append(kept(field(t, state)))
        y_new = state if tableau.fsal else self._end(y, h, tableau.b, stages)
        with torch.no_grad():
            error, coarse = (
                None if row is None else self._weighted(h, y, row, stages)
                for row in (tableau.b_error, tableau.b_coarse)
            )
        return Step(y_new, error, stages, (stages[-1],) if tableau.fsal else None, len(times), error_coarse=coarse)

    def _combine(self, y: Tensor, h: Number, row: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
        """Y + h sum_j row_j k_j."""
        if isinstance(h, Tensor):
            return self._end(y, h, row, stages)
        for weight, k in zip(row, stages, strict=True):
            if weight:
                y = torch.add(y, k, alpha=h * weight)
        return y

    def _end(self, y: Tensor, h: Number, row: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
        """The same, rounded but once to the size of y: what a step adds to the state is summed before it is added."""
        return y + self._weighted(h, y, row, stages)

    def _weighted(self, h: Number, y: Tensor, row: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
        """H sum_j row_j k_j."""
        if isinstance(h, Tensor):
            return weighted_sum(row, stages) * self._expand(h, y)
        return weighted_sum([h * weight for weight in row], stages)

    def _step_buffered(
        self, field: FieldLike, times: Sequence[Tensor], h: Number, y: Tensor, carry: Carry | None
    ) -> Step:
        buffer = self._buffer
        if buffer is None or not buffer.fits(y):
            buffer = self._buffer = (_CompiledBuffer if is_compiled(y) else _Buffer)(self._rows, y, self.by_row)
        buffer.begin(h, y)
        if carry is not None:
            buffer.put(0, carry[0])
        state, rows = y, self._rows
        for i, t in enumerate(times, start=0 if carry is None else 1):
            if i == self._last:
                state = buffer.end(i)
            elif i:
                state = buffer.combine(i)
            buffer.put(i, field(t, state))
        y_new = state if self.tableau.fsal else buffer.end(rows.end)
        error, coarse = (None if i is None else buffer.error(i) for i in (rows.error, rows.coarse))
        # a copy: the buffer is written anew by the next step
        end = (buffer.own[-1].clone(),) if self.tableau.fsal else None
        return Step(y_new, error, buffer.own, end, len(times), error_coarse=coarse)

    def _expand(self, h: Tensor, y: Tensor) -> Tensor:
        """H as a tensor that multiplies a state."""
        return _expanded(h, y, self.by_row)


def _expanded(h: Tensor, y: Tensor, by_row: bool) -> Tensor:
    h = h.to(y.dtype)
    return across(h, y.ndim) if by_row else h


class _Rows:
    """All rows of a tableau under each other, and which is which.

    Attributes
    ----------
    values : Tensor (rows, S), S with the extra stages
    lengths : list of int
        How many stages each row combines.
    end, error, coarse, dense : int or None
        The rows of the end, of its errors, and the first one of the extra stages; those before are the stages'.
    """

    def __init__(self, tableau: Tableau, dtype: torch.dtype, device: torch.device) -> None:
        self.stages = tableau.stages
        total = self.stages + len(tableau.dense_a)
        rows = [*tableau.a, tableau.b]
        self.end = self.stages
        self.error = self.coarse = None
        if tableau.b_error is not None:
            self.error = len(rows)
            rows.append(tableau.b_error)
        if tableau.b_coarse is not None:
            self.coarse = len(rows)
            rows.append(tableau.b_coarse)
        self.dense = len(rows)
        rows += tableau.dense_a
        self.lengths = [len(row) for row in rows]
        padded = [list(row) + [0.0] * (total - len(row)) for row in rows]
        exact = torch.tensor(padded, dtype=torch.float64, device="cpu")
        self.values = exact.to(device=device, dtype=dtype)


class _Buffer:
    """The stages side by side, with every view that a step needs made once.

    Attributes
    ----------
    stages, own : list of Tensor
        All stages, and those without the extra ones.
    """

    def __init__(self, rows: _Rows, y: Tensor, by_row: bool) -> None:
        self._by_row = by_row
        self._flat = torch.empty((rows.values.shape[1], y.numel()), dtype=y.dtype, device=y.device)
        self.stages = [k.view(y.shape) for k in self._flat.unbind()]
        self.own = self.stages[: rows.stages]
        self._y = y
        self._plan(rows)

    def _plan(self, rows: _Rows) -> None:
        self._values = rows.values
        self._rows = rows.values.clone()  # times h in joint; as they are per sample
        self._row = [self._rows[i, :length] for i, length in enumerate(rows.lengths)]
        self._columns = [self._flat[:length].t() for length in rows.lengths]

    def fits(self, y: Tensor) -> bool:
        """Whether it can take a step from y."""
        return self._y.shape == y.shape

    def begin(self, h: Number, y: Tensor) -> None:
        """From here on steps of size h from y are meant."""
        self._y, self._line, self._scale = y, y.flatten(), None
        if not isinstance(h, Tensor):
            torch.mul(self._values, h, out=self._rows)
            return
        scale = _expanded(h, y, self._by_row)
        self._scale = scale.expand_as(y).contiguous() if y.numel() <= _SMALL else scale

    def put(self, i: int, slope: Tensor) -> None:
        """That is stage i."""
        self.stages[i].copy_(slope)

    def combine(self, i: int) -> Tensor:
        """Y + h sum_j row_ij k_j, in a tensor of its own: the user's field may keep it."""
        y, scale = self._y, self._scale
        if scale is None:
            return torch.addmv(self._line, self._columns[i], self._row[i]).view_as(y)
        return torch.addcmul(y, scale, torch.mv(self._columns[i], self._row[i]).view_as(y))

    def end(self, i: int) -> Tensor:
        """The same, rounded but once to the size of y: what a step adds to the state is summed before it is added."""
        return self.error(i).add_(self._y)

    def error(self, i: int) -> Tensor:
        """H sum_j row_ij k_j, shaped as y."""
        total = torch.mv(self._columns[i], self._row[i]).view_as(self._y)
        return total if self._scale is None else total.mul_(self._scale)


class _CompiledBuffer(_Buffer):
    """The same, whose sums are one pass each by compiled code."""

    def _plan(self, rows: _Rows) -> None:
        make = native.StagesFloat if self._y.dtype is torch.float32 else native.StagesDouble
        count = len(self._y) if self._by_row else 1
        self._values, self._lengths = rows.values, rows.lengths
        self._sums = make(
            self._flat.data_ptr(), count, self._y.numel() // count, self._values.data_ptr(), self._values.shape[1]
        )

    def fits(self, y: Tensor) -> bool:
        """Whether it can take a step from y."""
        return super().fits(y) and is_compiled(y)

    def begin(self, h: Number, y: Tensor) -> None:
        """From here on steps of size h from y are meant."""
        self._y = in_memory(y)
        if not isinstance(h, Tensor):
            self._sums.resize(h)
        elif h.ndim:
            sizes = in_memory(h.double())
            self._sums.resize_rows(sizes.data_ptr())
        else:
            self._sums.resize(h.item())

    def put(self, i: int, slope: Tensor) -> None:
        """That is stage i."""
        if type(slope) is Tensor:
            slope = in_memory(slope)
            self._sums.put(i, slope.data_ptr())
        else:
            super().put(i, slope)

    def combine(self, i: int) -> Tensor:
        """Y + h sum_j row_ij k_j, in a tensor of its own."""
        out = torch.empty_like(self._y)
        self._sums.sum(i, self._lengths[i], self._y.data_ptr(), out.data_ptr())
        return out

    end = combine

    def error(self, i: int) -> Tensor:
        """H sum_j row_ij k_j, shaped as y."""
        out = torch.empty_like(self._y)
        self._sums.sum(i, self._lengths[i], 0, out.data_ptr())
        return out
