"""One step of any Rosenbrock method.

y, w_i: (*shape) in joint, (B, *D) per sample. t, h: a float or a 0-d tensor in joint, (B,) per sample.
J, M: (N, N) in joint, (B, N, N) per sample.

With u_i = h w_i the equations of `thalweg.methods.rosenbrock` hold no 1 / h, so that a unit whose step has size 0
stands still: with M = I - gamma h J,

    M w_i = gamma (f(t + alpha_i h, y + h sum_{j<i} a_ij w_j) + sum_{j<i} c_ij w_j + gamma_i h f_t),

and y moves by h sum_i m_i w_i.

The w_i are much larger than what they add up to: sums of them are made in float64, whatever the state is of. There are
two ways to these, compared by the tests. Where no graph is recorded, the w_i lie side by side in one buffer (S, N), and
both sums of a stage are one product with it. Where a graph is recorded, every operation makes a new tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..core.arithmetic import Flag, Number, across, weighted_sum, wide_dtype
from ..core.field import FieldLike
from ..core.jacobian import Jacobians, Linearization
from ..core.step import Carry, Step
from ..methods.rosenbrock import Rosenbrock
from .interpolation import StageInterpolation


class RosenbrockStepper(StageInterpolation):
    """The stepper of Rosenbrock methods, made anew for each solve.

    J and f_t are exact and new in every step, since their errors would be errors of order. They bring the field's value
    along, which is the first stage, so that a value of the step before is of no use. Gradients run through J.

    Parameters
    ----------
    method : Rosenbrock
        The method.
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has its own t and h.

    Attributes
    ----------
    jacobian : Tensor
        J of the step that was tried last.

    References
    ----------
    Hairer & Wanner, Solving Ordinary Differential Equations II (1996), IV.7.
    """

    implicit = True
    needs_slope = False

    def __init__(self, method: Rosenbrock, like: Tensor, *, by_row: bool) -> None:
        super().__init__(method.interpolant, like, by_row=by_row)
        self.method = method
        self.stages = method.stages
        self.error_order = method.error_order
        self._alpha = torch.tensor(method.alpha, dtype=wide_dtype(like.device), device=like.device)
        self._gamma_sums = method.gamma_sums
        self._jacobians = Jacobians(like, by_row=by_row)
        self._eye = torch.eye(self._jacobians.size, dtype=like.dtype, device=like.device)
        self._pairs = [*zip(method.a, method.c, strict=True), (method.m, method.m_error)]
        self._buffer: _Buffer | None = None
        self._kept: tuple[Number, Tensor, Linearization] | None = None

    def init(self, slope: Tensor | None, units: Flag = True) -> None:
        """Nothing is carried."""
        self._kept = None

    def step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Carry | None) -> Step:
        """Try a step of size h from (t, y)."""
        times = field.times(t, h, self._alpha)
        at_start, new = self._linearized(field, t, times[0], y)
        self.jacobian = at_start.jacobian
        size = self._shaped(h, y.ndim, y)
        factors, pivots, _ = torch.linalg.lu_factor_ex(
            self._eye - self._shaped(h, 3, y) * self.method.gamma * at_start.jacobian
        )
        drift = None if at_start.time_derivative is None else size * at_start.time_derivative
        stages, sums = list[Tensor](), self._sums(y)
        for i, time in enumerate(times):
            right = at_start.slope
            if i:
                moved, mixed = sums.pair(i)
                right = field(time, y + size * moved) + mixed
            if drift is not None:
                right = torch.add(right, drift, alpha=self._gamma_sums[i])
            rows = (right * self.method.gamma).reshape(*at_start.jacobian.shape[:-1], 1)
            # a singular matrix gives what is not finite, which is rejected as any such step
            stages.append(torch.linalg.lu_solve(factors, pivots, rows).view(y.shape))
            sums.add(i, stages[-1])
        moved, wrong = sums.pair(len(times))
        with torch.no_grad():
            error = size * wrong
        return Step(y + size * moved, error, stages, None, len(times) - (not new), int(new), 1)

    def extend(self, field: FieldLike, t: Number, h: Number, y: Tensor, step: Step) -> Step:
        """The step, which lacks nothing."""
        return step

    def _linearized(self, field: FieldLike, t: Number, time: Tensor, y: Tensor) -> tuple[Linearization, bool]:
        """The field at the start of a step, and whether it had to be made: not after a step that all rejected."""
        kept = self._kept
        if kept is not None and kept[1] is y and not isinstance(t, Tensor) and kept[0] == t:
            return kept[2], False
        made = self._jacobians.at(field, time, y, timed=True)
        self._kept = None if torch.is_grad_enabled() else (t, y, made)
        return made, True

    def _sums(self, y: Tensor) -> _Recorded | _Buffer:
        """What makes the sums of a step from y."""
        if torch.is_grad_enabled():
            return _Recorded(self._pairs, y)
        if self._buffer is None or self._buffer.shape != y.shape:
            self._buffer = _Buffer(self._pairs, y)
        return self._buffer

    def _shaped(self, h: Number, ndim: int, like: Tensor) -> Number:
        """The sizes, to multiply what has `ndim` dimensions."""
        if not isinstance(h, Tensor):
            return h
        h = h.to(like.dtype)
        return across(h, ndim) if self.by_row else h


_Pair: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""The weights of two sums."""


class _Recorded:
    """The sums of a step, each term a tensor of its own."""

    def __init__(self, pairs: Sequence[_Pair], y: Tensor) -> None:
        self._pairs, self._dtype, self._wide = pairs, y.dtype, wide_dtype(y.device)
        self._stages: list[Tensor] = []

    def add(self, i: int, w: Tensor) -> None:
        """Stage i is w."""
        self._stages.append(w.to(self._wide))

    def pair(self, i: int) -> Sequence[Tensor]:
        """Both sums of pair i, which are of the stages so far."""
        return [weighted_sum(row, self._stages).to(self._dtype) for row in self._pairs[i]]


class _Buffer:
    """The same by one product each, with the stages side by side; made once a solve."""

    def __init__(self, pairs: Sequence[_Pair], y: Tensor) -> None:
        self.shape, self._dtype = y.shape, y.dtype
        flat = torch.empty((len(pairs) - 1, y.numel()), dtype=wide_dtype(y.device), device=y.device)
        self.stages = [w.view(y.shape) for w in flat.unbind()]
        self._so_far = [flat[: len(first)] for first, _ in pairs]
        self._weights = [torch.tensor(pair, dtype=flat.dtype, device=flat.device) for pair in pairs]

    def add(self, i: int, w: Tensor) -> None:
        """Stage i is w."""
        self.stages[i].copy_(w)

    def pair(self, i: int) -> Sequence[Tensor]:
        """Both sums of pair i."""
        return torch.mm(self._weights[i], self._so_far[i]).to(self._dtype).view(2, *self.shape).unbind()
