"""One step of any Adams method, from slopes at any times of the past.

y: (*shape) in joint, (B, *D) per sample. t, h: a float or a 0-d tensor in joint, (B,) per sample. Inside, units are
rows: R of them, B per sample and one in joint, of N entries each. What each row has one of, (R,), lies on the host in
joint, so that its order and its weights are not read from the device.

Past slopes are kept as K modified divided differences phi_i (R, K, N) over the times t_n - past_i, past_0 = 0 (Krogh;
Shampine & Gordon 1975; Hairer, Nørsett & Wanner 1993, III.5). The polynomial through them, at t + s h, is

    sum_i c_i(s) beta_i phi_i,   c_i(s) = prod_{j<i} (s h + past_j) / (h + past_j),

where the c_i are positive and c_i(1) = 1: nothing cancels, however unequal the steps are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.arithmetic import Count, Flag, Number, across, as_list, maximum, minimum, negate, where, wide_dtype
from ..core.derivatives import transformed
from ..core.field import FieldLike
from ..core.norms import Tolerance
from ..core.step import Carry, Step, parts_of
from ..methods.adams import Multistep, VariableAdams
from .explicit_rk import ExplicitRK
from .interpolation import StageInterpolation

_MARGIN = 5.0  # as a step costs so little, there are many more of them, whose errors add up
_WORTH_AN_ORDER = 1e-4  # the least error: one that is smaller asks for longer steps, see docs/design/methods.md


@dataclass(frozen=True)
class _Weights:
    """Of a step, for the K differences that are kept: (R, K), but `integrals`, of c_0 … c_K over the step, (R, K + 1).

    `beta` is 0 where nothing is known. With `alpha` c_{i+1}(s) = c_i(s) (1 - alpha_i + alpha_i s).
    """

    beta: Tensor
    alpha: Tensor
    integrals: Tensor
    stages: int

    @cached_property
    def monomials(self) -> Tensor:
        """The coefficients of s^0 … in c_0, c_1, …, (R, stages, at most K + 1)."""
        row = self.alpha.new_zeros((len(self.alpha), self.stages))
        row[:, 0] = 1.0
        rows = [row]
        for alpha in self.alpha[:, : self.stages - 1].unbind(1):
            shifted = torch.cat([torch.zeros_like(row[:, :1]), row[:, :-1]], 1)
            row = torch.lerp(row, shifted, alpha.unsqueeze(1))
            rows.append(row)
        return torch.stack(rows, 2)


@dataclass(frozen=True, slots=True)
class _Newton:
    """The slope inside a step, sum_{i < order} c_i(s) differences_i + c_order(s) change."""

    differences: Tensor
    weights: _Weights
    change: Tensor
    order: Tensor


@dataclass(frozen=True, slots=True)
class _NewtonStep(Step):
    """A step whose slope is not yet in the form of an interpolant's stages."""

    newton: _Newton | None = None


class _Adams(StageInterpolation):
    """What both steppers share. Stages of an extended step are the coefficients of s^0 … s^(stages - 1) in the slope.

    Parameters
    ----------
    stages : int
        The number of stages of an extended step.
    kept : int
        The most differences that are kept.
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has its own t and h.
    """

    implicit = False
    needs_slope = True

    def __init__(self, stages: int, kept: int, like: Tensor, *, by_row: bool) -> None:
        super().__init__(np.diag(1 / np.arange(1, stages + 1)).tolist(), like, by_row=by_row)
        self.stages = stages
        self._kept = kept
        self._rows = like.shape[0] if by_row else 1
        self._size = like.numel() // max(self._rows, 1)
        self._dtype = like.dtype
        self._wide = wide_dtype(like.device)
        self._home = like.device if by_row else torch.device("cpu")
        nodes, weights = np.polynomial.legendre.leggauss(kept // 2 + 1)
        self._remaining = self._number(0.5 - 0.5 * nodes).unsqueeze(1)  # 1 - s at the nodes of a quadrature
        self._quadrature = self._number(0.5 * weights)
        self._columns = torch.arange(kept + 1, device=self._home)
        self._index = torch.arange(self._rows, device=self._home)
        self._ends = torch.tensor([0.0, 1.0], dtype=self._wide, device=like.device)
        self._weighed: tuple[Any, _Weights] | None = None

    def take(self, rows: Tensor) -> None:
        """Go on with some of the rows alone."""
        self._rows, self._index = len(rows), self._index[: len(rows)]

    def extend(self, field: FieldLike, t: Number, h: Number, y: Tensor, step: Step) -> Step:
        """The step with the coefficients of its slope as stages."""
        if not isinstance(step, _NewtonStep):
            return step
        assert step.newton is not None
        return Step(**parts_of(step, stages=self._monomials(step.newton).view(self.stages, *y.shape).unbind()))

    def _number(self, x: Any) -> Tensor:
        """What rows have one of."""
        return torch.as_tensor(x, dtype=self._wide, device=self._home)

    def _flat(self, y: Tensor) -> Tensor:
        """A state as rows."""
        return y.reshape(self._rows, self._size)

    def _near(self, weights: Tensor) -> Tensor:
        """Numbers of rows beside the state, in its dtype."""
        return weights.to(device=self.device, dtype=self._dtype)

    def _weigh(self, h: Tensor, past: Tensor, known: Tensor) -> _Weights:
        """Those of a step of size h (R,) from differences of which `known` (R,) are known.

        Where all numbers are on the host they are those of the step before if that was such a step, as with steps of
        one size, which would else take longer to weigh than to take.
        """
        if self.by_row or h.requires_grad or past.requires_grad or transformed():
            return self._weigh_anew(h, past, known)
        step = (h.item(), known.item(), past.tolist())
        if self._weighed is None or self._weighed[0] != step:
            self._weighed = step, self._weigh_anew(h, past, known)
        return self._weighed[1]

    def _weigh_anew(self, h: Tensor, past: Tensor, known: Tensor) -> _Weights:
        """The same; finite also where h is 0."""
        columns = self._columns[: past.shape[1]]
        there = columns < known.unsqueeze(1)
        later = there & (columns > 0)
        reach = h.unsqueeze(1) + past
        ratio = torch.where(later, reach.roll(1, 1) / torch.where(later, past, 1.0), 1.0)
        beta = torch.where(there, ratio.cumprod(1), 0.0)
        alpha = torch.where(later, h.unsqueeze(1) / torch.where(later, reach, 1.0), 1.0)
        factors = 1 - alpha.unsqueeze(1) * self._remaining  # (R, nodes, K)
        integrals = self._quadrature @ factors.cumprod(2)
        integrals = torch.cat([torch.ones_like(h).unsqueeze(1), integrals], 1)
        return _Weights(beta, alpha, integrals, self.stages)

    def _next_differences(self, predicted: Tensor, slope: Tensor, width: int) -> Tensor:
        """Those over the slope at the end and the ones before, of which beta_i phi_i, (R, K, N), is the prediction."""
        sums = predicted[:, : width - 1].cumsum(1)
        slope = self._flat(slope).unsqueeze(1)
        return torch.cat([slope, slope - sums], 1)

    def _next_past(self, h: Tensor, past: Tensor, width: int) -> Tensor:
        """The times before the end of the step at which those are."""
        reach = h.unsqueeze(1) + past[:, : width - 1]
        return torch.cat([torch.zeros_like(reach[:, :1]), reach], 1)

    def _monomials(self, slope: _Newton) -> Tensor:
        """The coefficients of s^0 … in a slope, (stages, R, N)."""
        c, count = slope.weights.monomials, slope.differences.shape[1]
        within = self._columns[:count] < slope.order.unsqueeze(1)
        used = torch.where(within.unsqueeze(1), c[:, :, :count], 0.0)
        last = c.gather(2, slope.order.view(-1, 1, 1).expand(-1, self.stages, 1))
        return (self._near(used) @ slope.differences + self._near(last) * slope.change.unsqueeze(1)).transpose(0, 1)


class MultistepStepper(_Adams):
    """The stepper of Adams methods of one order, made anew for each solve.

    The carry holds the differences (R, K, N), the times before t at which they are (R, K), and how many are known (R,).
    A row that knows too few takes a step of the Runge–Kutta method.

    Parameters
    ----------
    method : Multistep
        The method.
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has its own t and h.

    References
    ----------
    Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I (1993), III.1 and III.5.
    """

    def __init__(self, method: Multistep, like: Tensor, *, by_row: bool) -> None:
        super().__init__(max(method.order, len(method.start.interpolant[0])), method.order, like, by_row=by_row)
        self.method = method
        self.error_order = method.order + 1
        self._start = ExplicitRK(method.start, like, by_row=by_row)
        powers = torch.arange(1, len(method.start.interpolant[0]) + 1, device="cpu")
        self._start_slope = self._near(
            torch.tensor(method.start.interpolant, dtype=torch.float64, device="cpu") * powers
        ).t()

    def init(self, slope: Tensor | None, units: Flag = True) -> Carry | None:
        """The carry of the first step, from the slope at the start."""
        if slope is None:
            return None
        slope = self._flat(slope).unsqueeze(1)
        unknown = slope.new_zeros((self._rows, self._kept - 1, self._size))
        past = torch.zeros((self._rows, self._kept), dtype=self._wide, device=self._home)
        return (torch.cat([slope, unknown], 1), past, torch.ones(self._rows, dtype=torch.int64, device=self._home))

    def step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Carry | None) -> Step:
        """Take a step of size h from (t, y); without a carry it evaluates the slope there itself."""
        start, end = field.times(t, h, self._ends)
        nfev: Count = 0
        if carry is None:
            carry, nfev = self.init(field(start, y)), 1
        assert carry is not None
        differences, past, known = carry
        size = self._number(h).reshape(-1)
        weights = self._weigh(size, past, known)
        predicted = differences * self._near(weights.beta).unsqueeze(2)
        starting = known < self._kept
        some, every = as_list(torch.stack([starting.any(), starting.all()])) if self.by_row else [bool(starting)] * 2
        if not every:
            y_new, newton = self._multistep(field, end, size, y, weights, predicted)
            nfev = nfev + (self.method.stages - 1)
        if some:
            begun = self._start.step(field, t, h, y, (differences[:, 0].reshape(y.shape),))
            stages = self._start_stages(begun)
            if every:
                y_new, nfev = begun.y, nfev + begun.nfev
            else:
                mask = across(starting, y.ndim)
                y_new, nfev = (torch.where(mask, begun.y, y_new), torch.where(starting, begun.nfev, nfev))
                stages = torch.where(mask, stages, self._monomials(newton).view(self.stages, *y.shape))
        slope = field(end, y_new)
        following = (
            self._next_differences(predicted, slope, self._kept),
            self._next_past(size, past, self._kept),
            (known + 1).clamp(max=self._kept) if some else known,
        )
        if some:
            return Step(y_new, None, stages.unbind(), following, nfev + 1)
        return _NewtonStep(y_new, None, (), following, nfev + 1, newton=newton)

    def _multistep(
        self, field: FieldLike, end: Tensor, size: Tensor, y: Tensor, weights: _Weights, predicted: Tensor
    ) -> tuple[Tensor, _Newton]:
        """The state at the end, and the slope on the way."""
        integrals = self._near(weights.integrals[:, :-1] * size.unsqueeze(1))
        step = (integrals.unsqueeze(1) @ predicted).squeeze(1)
        y_new, last = y + step.view(y.shape), predicted[:, -1]
        if self.method.corrector is not None:  # the slope at the end in place of the oldest one
            change = self._flat(field(end, y_new)) - predicted.sum(1)
            y_new, last = (y + (step + integrals[:, -1:] * change).view(y.shape), last + change)
        order = torch.full_like(self._index, self._kept - 1)
        return y_new, _Newton(predicted, weights, last, order)

    def _start_stages(self, step: Step) -> Tensor:
        """The coefficients of the slope on the way of a Runge–Kutta step, (stages, *y.shape)."""
        k = torch.stack(list(step.stages))
        slope = torch.tensordot(self._start_slope, k, 1)
        return torch.cat([slope, slope.new_zeros((self.stages - len(slope), *k.shape[1:]))])


class VariableAdamsStepper(_Adams):
    """The stepper of Adams methods whose order changes, made anew for each solve.

    The carry holds the differences (R, K, N), the times before t at which they are (R, K), and of each row the order of
    the step to come and how many differences are known (R, 2). In joint K is no more than are known.

    The order follows the errors that a step would have had with the orders around its own (Shampine & Gordon 1975): up
    where the next higher one errs less, down where the two lower ones err no more; up from the start for as long as the
    history is too short to tell. It stays where the error is next to nothing.

    Parameters
    ----------
    method : VariableAdams
        The method.
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has its own t and h.
    tolerance : Tolerance
        That of the solve, relative to which errors of different orders are measured.

    References
    ----------
    Shampine & Gordon, Computer Solution of Ordinary Differential Equations (1975).
    Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I (1993), III.5 and III.7.
    """

    error_order = 2  # of the first step, which has order 1

    def __init__(self, method: VariableAdams, like: Tensor, *, by_row: bool, tolerance: Tolerance) -> None:
        super().__init__(method.order + 1, method.order + 1, like, by_row=by_row)
        self.method = method
        self._tolerance = tolerance
        self._around = torch.arange(-2, 2, device=self._home)

    def take(self, rows: Tensor) -> None:
        """Go on with some of the rows alone."""
        super().take(rows)
        self._tolerance = self._tolerance.taken(rows)

    def init(self, slope: Tensor | None, units: Flag = True) -> Carry | None:
        """The carry of the first step, from the slope at the start."""
        if slope is None:
            return None
        differences = self._flat(slope).unsqueeze(1)
        if self.by_row:
            unknown = differences.new_zeros((self._rows, self._kept - 1, self._size))
            differences = torch.cat([differences, unknown], 1)
        past = torch.zeros(differences.shape[:2], dtype=self._wide, device=self._home)
        return (differences, past, torch.ones((self._rows, 2), dtype=torch.int64, device=self._home))

    def step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Carry | None) -> Step:
        """Try a step of size h from (t, y); without a carry it evaluates the slope there itself."""
        start, end = field.times(t, h, self._ends)
        nfev = 2
        if carry is None:
            carry, nfev = self.init(field(start, y)), 3
        assert carry is not None
        differences, past, counts = carry
        order, known = counts.unbind(1)
        size = self._number(h).reshape(-1)
        weights = self._weigh(size, past, known)
        predicted = differences * self._near(weights.beta).unsqueeze(2)

        within = self._columns[: past.shape[1]] < order.unsqueeze(1)
        integrals = weights.integrals * size.unsqueeze(1)
        sums = torch.stack([torch.where(within, integrals[:, :-1], 0.0), within.to(self._wide)], 1)
        step, slope_sum = (self._near(sums) @ predicted).unbind(1)
        change = self._flat(field(end, y + step.view(y.shape))) - slope_sum
        last, beyond = integrals.gather(1, torch.stack([order - 1, order], 1)).unsqueeze(2).unbind(1)
        step = step + self._near(beyond) * change
        y_new = y + step.view(y.shape)
        slope = field(end, y_new)
        with torch.no_grad():
            error = (self._near(_MARGIN * (beyond - last)) * change).view(y.shape)
            error = torch.add(error, slope, alpha=0.0)  # NaN where the slope is not finite, from which none goes on

        width = min(past.shape[1] + 1, self._kept)
        differences = self._next_differences(predicted, slope, width)
        with torch.no_grad():
            errors = self._errors(order, integrals.detach(), differences.detach(), y.detach(), y_new.detach())
            if self.by_row:
                after = self._next_order(order, known, errors)
                assert isinstance(after, Tensor)
                known = torch.minimum(known + 1, after + 2).clamp(max=self._kept)
                counts = torch.stack([after, known], 1)
            else:
                after = self._next_order(int(order), int(known), errors)
                assert isinstance(after, int)
                width = min(int(known) + 1, after + 2, self._kept)
                counts = torch.tensor([[after, width]], device=self._home)
        following = (differences[:, :width], self._next_past(size, past, width), counts)
        shrinks = (order + 1).to(self._wide) if self.by_row else float(order + 1)
        newton = _Newton(predicted, weights, change, order)
        return _NewtonStep(y_new, error, (), following, nfev, error_order=shrinks, newton=newton)

    def _errors(
        self, order: Tensor, integrals: Tensor, differences: Tensor, y: Tensor, y_new: Tensor
    ) -> Sequence[Number]:
        """Those of this step with orders k - 2 … k + 1, relative to what is allowed; clamped to those known."""
        scale = self._flat(self._tolerance.scale(y, y_new).expand(y.shape)).unsqueeze(1)
        last = differences.shape[1] - 1
        if not self.by_row:
            k = int(order)
            first = max(k - 2, 0)
            sizes = as_list(torch.linalg.vector_norm(differences[:, first : k + 2] / scale, dim=2)[0])
            g = as_list(integrals[0])
            places = [min(max(q, 0), last) for q in range(k - 2, k + 2)]
            return [abs(g[q] - g[max(q - 1, 0)]) * sizes[q - first] / max(self._size, 1) ** 0.5 for q in places]
        columns = (order.unsqueeze(1) + self._around).clamp(0, last)
        norms = torch.linalg.vector_norm(differences[self._index.unsqueeze(1), columns] / scale, dim=2)
        weights = (integrals.gather(1, columns) - integrals.gather(1, (columns - 1).clamp(min=0))).abs()
        return (weights * norms.to(weights) / max(self._size, 1) ** 0.5).unbind(1)

    def _next_order(self, order: Count, known: Count, errors: Sequence[Number]) -> Count:
        """The orders of the next step."""
        lowest, lower, same, higher = errors
        down = where(order > 2, maximum(lowest, lower) <= same, (order == 2) & (lower <= 0.5 * same))
        down = down | ((order > 1) & (known > order) & (lower <= minimum(same, higher)))
        up = (known == order) | (higher < where(order > 1, same, 0.5 * same))
        up = up & negate(down) & (order < self.method.order) & (same > _WORTH_AN_ORDER)
        return where(up, order + 1, where(down, order - 1, order))
