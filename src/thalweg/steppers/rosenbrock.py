"""One step of any Rosenbrock method.

y, w_i: (*shape) in joint, (B, *D) per sample. t, h: a float or a 0-d tensor in joint, (B,) per sample.
J, M: (N, N) in joint, (B, N, N) per sample.

With u_i = h w_i the equations of `thalweg.methods.rosenbrock` hold no 1 / h, so that a unit whose step has size 0
stands still: with M = I - gamma h J,

    M w_i = gamma (f(t + alpha_i h, y + h sum_{j<i} a_ij w_j) + sum_{j<i} c_ij w_j + gamma_i h f_t),

and y moves by h sum_i m_i w_i.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.arithmetic import Number, across, weighted_sum, wide_dtype
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
        self._kept: tuple[Number, Tensor, Linearization] | None = None

    def init(self, slope: Tensor | None) -> None:
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
        stages: list[Tensor] = []
        for i, time in enumerate(times):
            slope = field(time, y + size * weighted_sum(self.method.a[i], stages)) if i else at_start.slope
            right = slope + weighted_sum(self.method.c[i], stages) if i else slope
            if drift is not None:
                right = torch.add(right, drift, alpha=self._gamma_sums[i])
            rows = (right * self.method.gamma).reshape(*at_start.jacobian.shape[:-1], 1)
            # a singular matrix gives what is not finite, which is rejected as any such step
            stages.append(torch.linalg.lu_solve(factors, pivots, rows).view(y.shape))
        y_new = y + size * weighted_sum(self.method.m, stages)
        with torch.no_grad():
            error = size * weighted_sum(self.method.m_error, stages)
        return Step(y_new, error, stages, None, len(times) - (not new), int(new), 1)

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

    def _shaped(self, h: Number, ndim: int, like: Tensor) -> Number:
        """The sizes, to multiply what has `ndim` dimensions."""
        if not isinstance(h, Tensor):
            return h
        h = h.to(like.dtype)
        return across(h, ndim) if self.by_row else h
