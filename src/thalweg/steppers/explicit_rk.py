"""One step of any explicit Runge–Kutta method.

y, k_i: (*shape) in joint, (B, *D) per sample. t, h: a float or a 0-d tensor in joint, (B,) per sample.

There are two ways through, compared by the tests. Where no graph is recorded, the stages lie side by side in one
buffer K (S, N) and each combination of stages is one matrix–vector product. Where a graph is recorded, every
operation makes a new tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.arithmetic import Number, across, wide_dtype
from ..core.field import FieldLike
from ..core.step import Step
from ..methods.tableau import Tableau


class ExplicitRK:
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

    def __init__(self, tableau: Tableau, like: Tensor, *, by_row: bool) -> None:
        self.tableau = tableau
        self.by_row = by_row
        self.device = like.device
        self._first = 1 if tableau.fsal else 0  # the first stage that a step evaluates itself
        rows = [*tableau.a, tableau.b]
        if tableau.b_error is not None:
            rows.append(tableau.b_error)
        stages = tableau.stages
        padded = [list(row) + [0.0] * (stages - len(row)) for row in rows]
        exact = torch.tensor(padded, dtype=torch.float64, device="cpu")
        self._rows = exact.to(device=like.device, dtype=like.dtype)
        self._c = torch.tensor(tableau.c[self._first :], dtype=wide_dtype(like.device), device=like.device)
        self._interpolant = torch.tensor(tableau.interpolant, dtype=self._c.dtype, device=like.device)  # (S, degree)
        self._used = [i for i, row in enumerate(tableau.interpolant) if any(row)]
        self._buffer: _Buffer | None = None

    @property
    def stages(self) -> int:
        """The number of stages of a step."""
        return self.tableau.stages

    @property
    def error_order(self) -> int:
        """The power of h by which the error estimate of a step shrinks."""
        return self.tableau.error_order

    @property
    def needs_slope(self) -> bool:
        """Whether `init` needs the slope at the start."""
        return self.tableau.fsal

    def init(self, slope: Tensor | None) -> Tensor | None:
        """The carry of the first step, from the slope at the start."""
        return slope if self.tableau.fsal else None

    def step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Tensor | None) -> Step:
        """Try a step of size h from (t, y)."""
        times = field.times(t, h, self._c)
        if torch.is_grad_enabled():
            return self._step_recorded(field, times, h, y, carry)
        return self._step_buffered(field, times, h, y, carry)

    def stage_state(self, i: int, y: Tensor, h: Number, stages: Sequence[Tensor]) -> Tensor:
        """The state at which stage i was evaluated."""
        return self._combine(y, h, self.tableau.a[i], stages[:i]) if i else y

    def interpolate(self, step: Step, y: Tensor, h: Number, theta: Tensor) -> Tensor:
        """States inside a step of size h from y, at the fractions theta of it.

        In joint, theta (m,) gives states (m, *shape); per sample, theta (B,) gives (B, *D), a fraction for each row.
        """
        if not self.by_row:
            weights = (self._weights(theta) * h).to(y.dtype)  # (S, m)
            return y + torch.tensordot(weights.t(), torch.stack(list(step.stages)), dims=1)
        assert isinstance(h, Tensor)
        return self.interpolate_rows(step.stages, y, h, theta)

    def interpolate_rows(self, stages: Sequence[Tensor], y: Tensor, h: Tensor, theta: Tensor) -> Tensor:
        """A state inside each of M steps: y and k_i (M, *D), h and theta (M,)."""
        weights = (self._weights(theta) * h).to(y.dtype)
        weights = weights.view(*weights.shape, *(1,) * (y.ndim - 1))
        for i in self._used:
            y = y + weights[i] * stages[i]
        return y

    def _weights(self, theta: Tensor) -> Tensor:
        """b_i(theta) for theta (M,), as (S, M)."""
        powers = torch.stack([theta**n for n in range(1, self._interpolant.shape[1] + 1)])
        return self._interpolant @ powers

    def _step_recorded(
        self, field: FieldLike, times: Sequence[Tensor], h: Number, y: Tensor, carry: Tensor | None
    ) -> Step:
        tableau = self.tableau
        stages: list[Tensor] = [] if carry is None else [carry]
        state = y
        for i, t in enumerate(times, start=self._first):
            state = y if i == 0 else self._combine(y, h, tableau.a[i], stages)
            stages.append(field(t, state))
        y_new = state if tableau.fsal else self._combine(y, h, tableau.b, stages)
        error = None
        if tableau.b_error is not None:
            with torch.no_grad():
                error = self._weighted(h, y, tableau.b_error, stages)
        return Step(y_new, error, stages, stages[-1] if tableau.fsal else None, len(times))

    def _combine(self, y: Tensor, h: Number, row: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
        """Y + h sum_j row_j k_j."""
        if isinstance(h, Tensor):
            return y + self._weighted(h, y, row, stages)
        for weight, k in zip(row, stages, strict=True):
            if weight:
                y = torch.add(y, k, alpha=h * weight)
        return y

    def _weighted(self, h: Number, y: Tensor, row: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
        """H sum_j row_j k_j."""
        total: Tensor | None = None
        for weight, k in zip(row, stages, strict=True):
            if weight:
                total = k * weight if total is None else torch.add(total, k, alpha=weight)
        assert total is not None, "a row of a tableau is zero"
        return total * self._expand(h, y)

    def _step_buffered(
        self, field: FieldLike, times: Sequence[Tensor], h: Number, y: Tensor, carry: Tensor | None
    ) -> Step:
        tableau = self.tableau
        buffer = self._buffer
        if buffer is None or buffer.shape != y.shape:
            buffer = self._buffer = _Buffer(self._rows, y)
        if isinstance(h, Tensor):
            scale: Tensor | None = self._expand(h, y)
        else:
            scale = None
            torch.mul(self._rows, h, out=buffer.rows)
        if carry is not None:
            buffer.stages[0].copy_(carry)
        state, flat = y, y.flatten()
        for i, t in enumerate(times, start=self._first):
            state = y if i == 0 else buffer.combine(i, flat, y, scale)
            buffer.stages[i].copy_(field(t, state))
        y_new = state if self._first else buffer.combine(tableau.stages, flat, y, scale)
        error = None if tableau.b_error is None else buffer.error(scale)
        # a copy: the field may hand out one tensor of its own again and again
        carry = buffer.stages[-1].clone() if self._first else None
        return Step(y_new, error, buffer.stages, carry, len(times))

    def _expand(self, h: Number, y: Tensor) -> Tensor:
        """H as a tensor that multiplies a state."""
        if not isinstance(h, Tensor):
            return torch.tensor(h, dtype=y.dtype, device=y.device)
        h = h.to(y.dtype)
        return across(h, y.ndim) if self.by_row else h


class _Buffer:
    """The stages side by side, with every view that a step needs made once."""

    def __init__(self, rows: Tensor, y: Tensor) -> None:
        count, stages = rows.shape
        self.shape = y.shape
        flat = torch.empty((stages, y.numel()), dtype=y.dtype, device=y.device)
        self.stages = [k.view(y.shape) for k in flat.unbind()]
        self.rows = rows.clone()  # times h in joint; as they are per sample
        self._row = [self.rows[i, : min(i, stages)] for i in range(count)]
        self._columns = [flat[: min(i, stages)].t() for i in range(count)]

    def combine(self, i: int, flat: Tensor, y: Tensor, scale: Tensor | None) -> Tensor:
        """Y + [scale] sum_j row_ij k_j, in a tensor of its own: the user's field may keep it; `flat` is y in a row."""
        if scale is None:
            return torch.addmv(flat, self._columns[i], self._row[i]).view(self.shape)
        total = torch.mv(self._columns[i], self._row[i]).view(self.shape)
        return torch.addcmul(y, scale, total)

    def error(self, scale: Tensor | None) -> Tensor:
        """[scale] sum_j e_j k_j."""
        total = torch.mv(self._columns[-1], self._row[-1]).view(self.shape)
        return total if scale is None else total.mul_(scale)
