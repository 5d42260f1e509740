"""One step of any diagonally implicit Runge–Kutta method.

y, k_i: (*shape) in joint, (B, *D) per sample. t, h: a float or a 0-d tensor in joint, (B,) per sample. What each row
has one of: (R,), R being B per sample and 1 in joint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.arithmetic import Count, Number, weighted_sum, wide_dtype
from ..core.field import FieldLike
from ..core.norms import Tolerance
from ..core.step import Carry, Step
from ..methods.tableau import DiagonalTableau
from .interpolation import StageInterpolation
from .newton import Correction, Newton


@dataclass(frozen=True, slots=True)
class _Stages:
    """The slopes k_i, the increments w_i = gamma h k_i of the implicit ones, the last state, and who converged."""

    slopes: list[Tensor]
    increments: list[Tensor]
    last: Tensor
    solved: Tensor


class DIRK(StageInterpolation):
    """The stepper of diagonally implicit Runge–Kutta methods, made anew for each solve.

    A stage is solved by the simplified Newton iteration, each row on its own. Where it fails with a Jacobian from an
    earlier step, the step is tried once more with a new one; where it fails with that, the step has not converged.
    Gradients are those of the solved equations, by the implicit function theorem: the iteration is in no graph, but for
    one more with the exact Jacobian.

    Parameters
    ----------
    tableau : DiagonalTableau
        The method.
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has its own t and h.
    tolerance : Tolerance
        That of the solve, by which the iteration stops.

    References
    ----------
    Hairer & Wanner, Solving Ordinary Differential Equations II (1996), IV.6 and IV.8.
    """

    implicit = True

    def __init__(self, tableau: DiagonalTableau, like: Tensor, *, by_row: bool, tolerance: Tolerance) -> None:
        super().__init__(tableau.interpolant, like, by_row=by_row)
        self.tableau = tableau
        self.stages = tableau.stages
        self.error_order = tableau.error_order
        self.needs_slope = tableau.fsal
        self._c = torch.tensor([0.0, *tableau.c], dtype=wide_dtype(like.device), device=like.device)
        self._newton = Newton(like, by_row=by_row, tolerance=tolerance, adaptive=tableau.adaptive)
        self._filtered = tableau.adaptive and not _ends_in_a_stage(tableau)

    def init(self, slope: Tensor | None) -> Carry | None:
        """The carry of the first step, from the slope at the start."""
        self._newton.forget()
        return (slope,) if self.tableau.fsal and slope is not None else None

    def extend(self, field: FieldLike, t: Number, h: Number, y: Tensor, step: Step) -> Step:
        """The step, which lacks nothing."""
        return step

    def step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Carry | None) -> Step:
        """Try a step of size h from (t, y)."""
        tableau, newton, recorded = self.tableau, self._newton, torch.is_grad_enabled()
        start, *times = field.times(t, h, self._c)
        size = torch.as_tensor(h, dtype=y.dtype, device=y.device).reshape(-1)  # (R,)
        if recorded:
            newton.forget()
        with torch.no_grad():
            found = self._solve(field, start, times, size.detach(), y.detach(), carry)
        solved = found.solved
        if recorded:
            found = self._in_graph(field, times, size, y, carry, found)
        h_each = newton.each(size, y)
        y_new = found.last if tableau.stiffly_accurate else y + h_each * weighted_sum(tableau.b, found.slopes)
        error = None
        if tableau.b_error is not None:
            with torch.no_grad():
                error = h_each * weighted_sum(tableau.b_error, found.slopes)
                error = newton.back(error) if self._filtered else error
        return Step(
            y_new,
            error,
            found.slopes,
            (found.slopes[-1],) if tableau.fsal else None,
            self._count(newton.nfev),
            self._count(newton.njev),
            self._count(newton.nlu),
            converged=solved if self.by_row else bool(solved),
        )

    def _solve(
        self, field: FieldLike, start: Tensor, times: Sequence[Tensor], size: Tensor, y: Tensor, carry: Carry | None
    ) -> _Stages:
        """All stages; those rows once more that failed with an old Jacobian."""
        newton = self._newton
        newton.begin(field, start, y, self.tableau.gamma * size)
        found = self._attempt(field, times, size, y, carry, torch.ones_like(newton.fresh))
        again = ~found.solved & ~newton.fresh
        if bool(again.any()):
            newton.renew(field, start, y, again, torch.zeros_like(again))
            found = self._merged(again, self._attempt(field, times, size, y, carry, again), found)
        newton.end(found.solved)
        return found

    def _attempt(
        self,
        field: FieldLike,
        times: Sequence[Tensor],
        size: Tensor,
        y: Tensor,
        carry: Carry | None,
        active: Tensor,
    ) -> _Stages:
        """The stages of the active rows."""
        newton, slopes, increments, state = self._newton, [] if carry is None else [carry[0].detach()], [], y
        scale = newton.each(self.tableau.gamma * size, y)
        for i in range(len(slopes), self.stages):
            phi = self._begun(i, size, y, slopes)
            guess = scale * slopes[-1] if slopes else torch.zeros_like(y)
            w, active = newton.solve(_SlopeAt(field, times[i], phi), guess, active)
            increments.append(w)
            slopes.append(_divided(w, scale))
            state = phi + w
        return _Stages(slopes, increments, state, active)

    def _in_graph(
        self,
        field: FieldLike,
        times: Sequence[Tensor],
        size: Tensor,
        y: Tensor,
        carry: Carry | None,
        found: _Stages,
    ) -> _Stages:
        """The same stages as functions of y, carry, h and of what the field depends on."""
        newton, slopes, state = self._newton, [] if carry is None else list(carry), y
        scale = newton.each(self.tableau.gamma * size, y)
        for i, w in zip(range(len(slopes), self.stages), found.increments, strict=True):
            phi = self._begun(i, size, y, slopes)
            with torch.no_grad():
                factors = newton.exact(field, times[i].detach(), phi.detach() + w)
            w = w + Correction.apply(scale * field(times[i], phi + w) - w, *factors)
            slopes.append(_divided(w, scale))
            state = phi + w
        return _Stages(slopes, found.increments, state, found.solved)

    def _begun(self, i: int, size: Tensor, y: Tensor, slopes: Sequence[Tensor]) -> Tensor:
        """What of the state of stage i the stages before have settled."""
        return y + self._newton.each(size, y) * weighted_sum(self.tableau.a[i][:i], slopes) if i else y

    def _merged(self, rows: Tensor, new: _Stages, old: _Stages) -> _Stages:
        """The new stages in those rows, the old ones in the others."""

        def pick(x: Tensor, other: Tensor) -> Tensor:
            return torch.where(self._newton.each(rows, x), x, other)

        return _Stages(
            [pick(x, other) for x, other in zip(new.slopes, old.slopes, strict=True)],
            [pick(x, other) for x, other in zip(new.increments, old.increments, strict=True)],
            pick(new.last, old.last),
            torch.where(rows, new.solved, old.solved),
        )

    def _count(self, each: Tensor) -> Count:
        return each if self.by_row else int(each)


@dataclass(frozen=True, slots=True)
class _SlopeAt:
    """f(t, phi + w), as a function of w."""

    field: FieldLike
    time: Tensor
    phi: Tensor

    def __call__(self, w: Tensor) -> Tensor:
        return self.field(self.time, self.phi + w)


def _ends_in_a_stage(tableau: DiagonalTableau) -> bool:
    """Whether the embedded method ends in the state of a stage; if not, its estimate grows with the stiffness."""
    assert tableau.b_error is not None
    embedded = [b - e for b, e in zip(tableau.b, tableau.b_error, strict=True)]
    rows = ([*row, *[0.0] * (tableau.stages - len(row))] for row in tableau.a)
    return any(all(abs(x - y) < 1e-12 for x, y in zip(row, embedded, strict=True)) for row in rows)


def _divided(w: Tensor, scale: Tensor) -> Tensor:
    """W / (gamma h), and 0 in a step of size 0, where w is."""
    return w / torch.where(scale == 0, 1.0, scale)
