"""What steppers share whose stages are solved for one after the other: diagonally implicit and IMEX methods.

y, k_i: (*shape) in joint, (B, *D) per sample. t, h: a float or a 0-d tensor in joint, (B,) per sample. What each row
has one of: (R,), R being B per sample and 1 in joint.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..core.arithmetic import Count, Flag, Number, weighted_sum, wide_dtype
from ..core.field import FieldLike, kept
from ..core.norms import Tolerance
from ..core.step import Carry, Step
from ..methods.tableau import DiagonalTableau
from .interpolation import StageInterpolation
from .newton import Newton, Solved, divided

Slopes: TypeAlias = tuple[Tensor, ...]
"""Of one stage: that of the stiff function, which is solved for, and those of the others."""


@dataclass(frozen=True, slots=True)
class _Stages:
    """The slopes of all stages, the increments w_i = gamma h g_i of the implicit ones, the last state, who converged.

    `evaluations` are those of functions that are not solved for.
    """

    slopes: list[Slopes]
    increments: list[Tensor]
    last: Tensor
    solved: Tensor
    evaluations: Tensor


class DiagonalStepper(StageInterpolation):
    """A stepper whose stage i solves y_i = phi_i + gamma h g(t + c_i h, y_i), phi_i being known from those before.

    A stage is solved by the simplified Newton iteration, each row on its own. Where it fails with a Jacobian from an
    earlier step, the step is tried once more with a new one; where it fails with that, the step has not converged.
    Gradients are those of the solved equations, by the implicit function theorem, with the exact Jacobian; the
    iteration is in no graph.

    Parameters
    ----------
    tableau : DiagonalTableau
        The method of g.
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has its own t and h.
    tolerance : Tolerance
        That of the solve, by which the iteration stops.
    others : sequence of rows of `a`
        The coefficients of each function that is added to g and is not solved for; nodes and weights are those of g.

    References
    ----------
    Hairer & Wanner, Solving Ordinary Differential Equations II (1996), IV.6 and IV.8.
    """

    implicit = True

    def __init__(
        self,
        tableau: DiagonalTableau,
        like: Tensor,
        *,
        by_row: bool,
        tolerance: Tolerance,
        others: Sequence[tuple[tuple[float, ...], ...]] = (),
    ) -> None:
        super().__init__(tableau.interpolant, like, by_row=by_row)
        self.tableau = tableau
        self.stages = tableau.stages
        self.error_order = tableau.error_order
        # with others the last stage's state is not the step's end, and nothing is carried
        self.needs_slope = tableau.fsal and not others
        self._ends_in_last = tableau.stiffly_accurate and not others
        self._tables = (tableau.a, *others)
        self._c = torch.tensor([0.0, *tableau.c], dtype=wide_dtype(like.device), device=like.device)
        self._newton = Newton(like, by_row=by_row, tolerance=tolerance, adaptive=tableau.adaptive)

    @abstractmethod
    def functions(self, field: FieldLike) -> tuple[FieldLike, ...]:
        """G, and the functions that are not solved for."""

    def filtered(self, error: Tensor) -> Tensor:
        """The error estimate, where it would grow with the stiffness without limit, held back."""
        return error

    def init(self, slope: Tensor | None, units: Flag = True) -> Carry | None:
        """The carry of the first step, from the slope at the start."""
        self._newton.forget(units)
        return (slope,) if self.needs_slope and slope is not None else None

    def forget(self, units: Flag = True) -> None:
        """Forget the Jacobian and its factors."""
        self._newton.forget(units)

    def take(self, rows: Tensor) -> None:
        """Go on with some of the rows alone."""
        self._newton.take(rows)

    def extend(self, field: FieldLike, t: Number, h: Number, y: Tensor, step: Step) -> Step:
        """The step, which lacks nothing."""
        return step

    def step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Carry | None) -> Step:
        """Try a step of size h from (t, y); without a carry it evaluates the slope there itself, if it needs it."""
        tableau, newton, recorded = self.tableau, self._newton, torch.is_grad_enabled()
        functions = self.functions(field)
        start, *times = field.times(t, h, self._c)
        size = torch.as_tensor(h, dtype=y.dtype, device=y.device).reshape(-1)  # (R,)
        known = [] if carry is None else [carry]
        if tableau.explicit_first and not known:
            known = [tuple(kept(function(start, y)) for function in functions)]
        evaluations = 0 if carry is not None else sum(map(len, known))
        if recorded:
            self.forget()
        with torch.no_grad():
            found = self._solve(functions, start, times, size.detach(), y.detach(), _detached(known))
        solved = found.solved
        if recorded:
            found = self._in_graph(functions, times, size, y, known, found)
        h_each = newton.each(size, y)
        slopes = [sum(rest, g) for g, *rest in found.slopes]
        y_new = found.last if self._ends_in_last else y + h_each * weighted_sum(tableau.b, slopes)
        error = None
        if tableau.b_error is not None:
            with torch.no_grad():
                error = self.filtered(h_each * weighted_sum(tableau.b_error, slopes))
        return Step(
            y_new,
            error,
            slopes,
            (slopes[-1],) if self.needs_slope else None,
            self._count(newton.nfev + found.evaluations + evaluations),
            self._count(newton.njev),
            self._count(newton.nlu),
            converged=solved if self.by_row else bool(solved),
        )

    def _solve(
        self,
        functions: tuple[FieldLike, ...],
        start: Tensor,
        times: Sequence[Tensor],
        size: Tensor,
        y: Tensor,
        known: list[Slopes],
    ) -> _Stages:
        """All stages; those rows once more that failed with an old Jacobian."""
        newton = self._newton
        newton.begin(functions[0], start, y, self.tableau.gamma * size)
        found = self._attempt(functions, times, size, y, known, torch.ones_like(newton.fresh))
        again = ~found.solved & ~newton.fresh
        if bool(again.any()):
            newton.renew(functions[0], start, y, again, torch.zeros_like(again))
            found = self._merged(again, self._attempt(functions, times, size, y, known, again), found)
        newton.end(found.solved)
        return found

    def _attempt(
        self,
        functions: tuple[FieldLike, ...],
        times: Sequence[Tensor],
        size: Tensor,
        y: Tensor,
        known: list[Slopes],
        rows: Tensor,
    ) -> _Stages:
        """The stages of those rows."""
        newton, slopes, increments, state, active = self._newton, list(known), list[Tensor](), y, rows
        (g, *others), scale = functions, newton.each(self.tableau.gamma * size, y)
        for i in range(len(slopes), self.stages):
            phi = self._begun(i, size, y, slopes)
            guess = scale * slopes[-1][0] if slopes else torch.zeros_like(y)
            w, active = newton.solve(_SlopeAt(g, times[i], phi), guess, active)
            increments.append(w)
            state = phi + w
            slopes.append((divided(w, scale), *(kept(other(times[i], state)) for other in others)))
        return _Stages(slopes, increments, state, active, rows * (len(others) * len(increments)))

    def _in_graph(
        self,
        functions: tuple[FieldLike, ...],
        times: Sequence[Tensor],
        size: Tensor,
        y: Tensor,
        known: list[Slopes],
        found: _Stages,
    ) -> _Stages:
        """The same stages as functions of y, of those known, of h and of what the field depends on."""
        newton, slopes, state = self._newton, list(known), y
        (g, *others), scale = functions, newton.each(self.tableau.gamma * size, y)
        for i, w in zip(range(len(slopes), self.stages), found.increments, strict=True):
            phi = self._begun(i, size, y, slopes)
            with torch.no_grad():
                factors = newton.exact(g, times[i].detach(), phi.detach() + w)
            w = Solved.apply(w, scale * g(times[i], phi + w) - w, *factors)
            state = phi + w
            slopes.append((divided(w, scale), *(kept(other(times[i], state)) for other in others)))
        evaluations = found.evaluations + len(others) * len(found.increments)
        return _Stages(slopes, found.increments, state, found.solved, evaluations)

    def _begun(self, i: int, size: Tensor, y: Tensor, slopes: Sequence[Slopes]) -> Tensor:
        """What of the state of stage i the stages before have settled."""
        if not i:
            return y
        moved, *more = (
            weighted_sum(a[i][:i], column) for a, column in zip(self._tables, zip(*slopes, strict=True), strict=True)
        )
        return y + self._newton.each(size, y) * sum(more, moved)

    def _merged(self, rows: Tensor, new: _Stages, old: _Stages) -> _Stages:
        """The new stages in those rows, the old ones in the others."""

        def pick(x: Tensor, other: Tensor) -> Tensor:
            return torch.where(self._newton.each(rows, x), x, other)

        return _Stages(
            [tuple(map(pick, one, other)) for one, other in zip(new.slopes, old.slopes, strict=True)],
            list(map(pick, new.increments, old.increments)),
            pick(new.last, old.last),
            torch.where(rows, new.solved, old.solved),
            old.evaluations + new.evaluations,
        )

    def _count(self, each: Tensor) -> Count:
        return each if self.by_row else int(each)


@dataclass(frozen=True, slots=True)
class _SlopeAt:
    """g(t, phi + w), as a function of w."""

    function: FieldLike
    time: Tensor
    phi: Tensor

    def __call__(self, w: Tensor) -> Tensor:
        return self.function(self.time, self.phi + w)


def _detached(known: list[Slopes]) -> list[Slopes]:
    return [tuple(slope.detach() for slope in slopes) for slopes in known]
