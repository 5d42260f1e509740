"""One step of any fully implicit Runge–Kutta method, whose stages are solved together.

y: (*shape) in joint, (B, *D) per sample. t, h: a float or a 0-d tensor in joint, (B,) per sample. What each row has
one of: (R,), R being B per sample and 1 in joint. N is the length of what a Jacobian acts on. What each stage has one
of has them side by side: Z (s, *shape) in joint, (B, s, *D) per sample, and (R, s, N) as rows.

Unknown are the increments Z_i = z_i - y, of Z = h (A ⊗ I) F(y + Z). Where A = T diag(mu) T⁻¹, the matrix of the
simplified Newton iteration for them, I - h A ⊗ J, falls apart into I - h mu_i J: one real, and pairs of conjugates, of
which one is solved (Hairer & Wanner 1996, IV.8). Nothing is divided by h, so that a row which has ended stands still.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..core.arithmetic import Count, Flag, Number, across, where, wide_dtype
from ..core.field import FieldLike, kept
from ..core.norms import Tolerance, rms_of_rows
from ..core.step import Carry, Step
from ..methods.tableau import FullTableau
from .interpolation import StageInterpolation
from .newton import Factors, SimplifiedNewton, Solved, divided, factorised, solved_with

if TYPE_CHECKING:
    from numpy.typing import NDArray  # a tenth of a second

_DISTINCT = 1e-6  # eigenvalues nearer to 0 or to each other cost half of the digits
_FARTHEST = 10.0  # steps ahead, to which the last step's polynomial says something of the next one's


class FIRK(StageInterpolation):
    """The stepper of fully implicit Runge–Kutta methods, made anew for each solve.

    All stages are solved together by the simplified Newton iteration, each row on its own, from the polynomial of the
    step before, continued. Where it fails with a Jacobian from an earlier step, the step is tried once more with a new
    one; where it fails with that, the step has not converged. Gradients are those of the solved equations, by the
    implicit function theorem, with the exact Jacobians of all stages: the iteration is in no graph.

    Parameters
    ----------
    tableau : FullTableau
        The method.
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has its own t and h.
    tolerance : Tolerance
        That of the solve, by which the iteration stops.

    References
    ----------
    Hairer & Wanner, Solving Ordinary Differential Equations II (1996), IV.8.
    """

    implicit = True
    needs_slope = False

    def __init__(self, tableau: FullTableau, like: Tensor, *, by_row: bool, tolerance: Tolerance) -> None:
        super().__init__(tableau.interpolant, like, by_row=by_row)
        self.tableau = tableau
        self.stages = tableau.stages
        self.error_order = tableau.error_order
        self._tolerance = tolerance
        wide = like.new_empty(0, dtype=wide_dtype(like.device))
        self._c = wide.new_tensor([0.0, *tableau.c])
        self._weights_at_end = wide.new_tensor(tableau.b)
        self._newton = _Newton(tableau, like, by_row=by_row, tolerance=tolerance)
        inverse = np.linalg.inv(np.array(tableau.a))
        self._inverse = torch.from_numpy(inverse).to(like)
        self._b = None if tableau.stiffly_accurate else torch.from_numpy(tableau.b @ inverse).to(like)
        self._b_error = None if tableau.b_error is None else torch.from_numpy(tableau.b_error @ inverse).to(like)
        self._axis = self._newton.axis
        self._past: _Past | None = None
        self._tried = wide.new_full((like.shape[0] if by_row else 1,), torch.nan)  # where each row's last step began

    def init(self, slope: Tensor | None, units: Flag = True) -> None:
        """Nothing is carried."""
        self.forget(units)
        self._tried = where(units, torch.full_like(self._tried, torch.nan), self._tried)

    def forget(self, units: Flag = True) -> None:
        """Forget the Jacobian and its factors, and the last step's polynomial."""
        self._newton.forget(units)
        if isinstance(units, Tensor):
            self._past = None if self._past is None else replace(self._past, solved=self._past.solved & ~units)
        elif units:
            self._past = None

    def take(self, rows: Tensor) -> None:
        """Go on with some of the rows alone."""
        self._newton.take(rows)
        self._tolerance = self._tolerance.taken(rows)
        if self._past is not None:
            self._past = _Past(*(x[rows] for x in (self._past.size, self._past.slopes, self._past.solved)))
        self._tried = self._tried[rows]

    def extend(self, field: FieldLike, t: Number, h: Number, y: Tensor, step: Step) -> Step:
        """The step, which lacks nothing."""
        return step

    def step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Carry | None) -> Step:
        """Try a step of size h from (t, y)."""
        newton, recorded = self._newton, torch.is_grad_enabled()
        start, *times = field.times(t, h, self._c)
        size = torch.as_tensor(h, dtype=y.dtype, device=y.device).reshape(-1)  # (R,)
        if recorded:
            self.forget()
        with torch.no_grad():
            now = torch.as_tensor(t, dtype=self._c.dtype, device=y.device).reshape(-1)
            moved = (now - self._tried).abs() > 0  # not where it has tried none
            self._tried = now
            z, solved = self._solve(field, start, times, moved, size.detach(), y.detach())
        if recorded:
            z = self._in_graph(field, times, size, y, z)
        slopes = newton.mixed(self._inverse, z)  # h k_i
        h_each = newton.each(size, z)
        y_new = y + (z.select(self._axis, -1) if self._b is None else self._summed(self._b, z))
        with torch.no_grad():
            error = self._error(field, start, size, y, z, y_new, solved & ~moved)
            if not recorded:
                self._past = _Past(size, slopes, solved)
        return Step(
            y_new,
            error,
            divided(slopes, h_each).unbind(self._axis),
            None,
            self._count(newton.nfev),
            self._count(newton.njev),
            self._count(newton.nlu),
            converged=solved if self.by_row else bool(solved),
        )

    def _solve(
        self, field: FieldLike, start: Tensor, times: Sequence[Tensor], moved: Tensor, size: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Z, and which rows converged; those once more that failed with an old Jacobian."""
        newton, slope = self._newton, _Slopes(self._newton, field, times, y)
        guess = self._continued(moved, size, y)
        newton.begin(field, start, y, size)
        z, solved = newton.solve(slope, guess, torch.ones_like(newton.fresh))
        again = ~solved & ~newton.fresh
        if bool(again.any()):
            newton.renew(field, start, y, again, torch.zeros_like(again))
            better, solved_again = newton.solve(slope, guess, again)
            z = torch.where(newton.each(again, z), better, z)
            solved = solved | solved_again
        newton.end(solved)
        return z, solved

    def _continued(self, moved: Tensor, size: Tensor, y: Tensor) -> Tensor:
        """Where to begin: at the last step's polynomial, or at 0 where it says nothing.

        The polynomial lies ahead of a row that has moved on since, and around one that tries again.
        """
        shape = (*y.shape[: self._axis], self.stages, *y.shape[self._axis :])
        past, newton = self._past, self._newton
        if past is None:
            return y.new_zeros(shape)
        ratio, ahead = (size / past.size).to(self._c.dtype), moved.to(self._c.dtype)
        usable = past.solved & (ratio > 0) & (ratio <= _FARTHEST)
        theta = ahead[:, None] + torch.where(usable, ratio, 0.0)[:, None] * self._c[1:]  # (R, s)
        weights = self._weights(theta.reshape(-1)).view(self.stages, *theta.shape).permute(1, 2, 0)
        weights = (weights - ahead[:, None, None] * self._weights_at_end).to(y.dtype)
        slopes = torch.where(newton.each(usable, past.slopes), past.slopes, 0.0)
        return newton.mixed(weights, slopes)

    def _in_graph(self, field: FieldLike, times: Sequence[Tensor], size: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """The same Z as a function of y, h and of what the field depends on."""
        with torch.no_grad():
            states = (y.unsqueeze(self._axis) + z).unbind(self._axis)
            factors = self._newton.exact(field, [time.detach() for time in times], states)
        slopes = _Slopes(self._newton, field, times, y)(z)
        return Solved.apply(z, self._newton.each(size, z) * slopes - z, *factors)

    def _error(
        self, field: FieldLike, start: Tensor, size: Tensor, y: Tensor, z: Tensor, y_new: Tensor, doubted: Tensor
    ) -> Tensor | None:
        """The estimate, filtered; where it would reject a doubted step, once more with the slope where y should be.

        A start beside the solution makes it too large in stiff components. In doubt are a first step and one that is
        tried again: elsewhere this would hide errors that are none of the start's (Hairer & Wanner 1996, IV.8).
        """
        if self._b_error is None:
            return None
        newton, drift = self._newton, self._summed(self._b_error, z)
        if not self.tableau.slope_error:
            return newton.filtered(drift)
        weight = newton.each(size, y) * self.tableau.slope_error
        error = newton.filtered(drift + weight * field(start, y))
        norm = rms_of_rows((error / self._tolerance.scale(y, y_new)).reshape(len(doubted), -1))
        doubted = doubted & (norm >= 1) & torch.isfinite(norm)
        newton.nfev = newton.nfev + 1 + doubted
        if not bool(doubted.any()):
            return error
        rows = newton.each(doubted, y)
        slope = field(start, y - torch.where(rows, error, 0.0))
        return torch.where(rows, newton.filtered(drift + weight * slope), error)

    def _summed(self, weights: Tensor, x: Tensor) -> Tensor:
        """Sum_i weights_i x_i, shaped as y."""
        return (weights @ self._newton.as_rows(x)).view((*x.shape[: self._axis], *x.shape[self._axis + 1 :]))

    def _count(self, each: Tensor) -> Count:
        return each if self.by_row else int(each)


@dataclass(frozen=True, slots=True)
class _Past:
    """The last step: its size, h k_i, and whether it was solved."""

    size: Tensor
    slopes: Tensor
    solved: Tensor


@dataclass(frozen=True, slots=True)
class _Slopes:
    """(A ⊗ I) F(y + Z), as a function of Z."""

    newton: _Newton
    field: FieldLike
    times: Sequence[Tensor]
    y: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        axis = self.newton.axis
        states = (self.y.unsqueeze(axis) + z).unbind(axis)
        slopes = [kept(self.field(time, state)) for time, state in zip(self.times, states, strict=True)]
        return self.newton.mixed(self.newton.a, torch.stack(slopes, axis))


@dataclass(frozen=True, slots=True)
class _Part:
    """An eigenvalue mu of A, its row of T⁻¹ and its column of T, doubled where it stands for its conjugate too."""

    value: float | complex
    row: Tensor
    column: Tensor


class _Newton(SimplifiedNewton):
    """Solves all stages together: slope(Z) = (A ⊗ I) F(y + Z) and M = I - h A ⊗ J."""

    def __init__(self, tableau: FullTableau, like: Tensor, *, by_row: bool, tolerance: Tolerance) -> None:
        super().__init__(
            like, by_row=by_row, tolerance=tolerance, adaptive=tableau.adaptive, evaluations=tableau.stages
        )
        self.axis = int(by_row)  # that of the stages
        self.a = torch.tensor(tableau.a, dtype=like.dtype, device=like.device)
        self._parts = _parts(np.array(tableau.a), like)

    def as_rows(self, x: Tensor) -> Tensor:
        """What each stage has one of, as (R, s, N)."""
        return x.reshape(self._rows, self._evaluations, -1)

    def mixed(self, matrix: Tensor, x: Tensor) -> Tensor:
        """Sum_j matrix_ij x_j for each stage i."""
        return (matrix @ self.as_rows(x)).view(x.shape)

    def back(self, x: Tensor) -> Tensor:
        """M⁻¹ x."""
        rows, total = self.as_rows(x), torch.zeros_like(x)
        for part, factors in zip(self._parts, self._factors, strict=True):
            found = solved_with(*factors, part.row @ rows.to(part.row.dtype))  # (R, N)
            total = total + (part.column[:, None] * found[:, None]).real.view(x.shape)
        return total

    def filtered(self, x: Tensor) -> Tensor:
        """(I - h mu J)⁻¹ x, x shaped as y, where A has a real eigenvalue mu; x where it has none."""
        return solved_with(*self._factors[0], x) if isinstance(self._parts[0].value, float) else x

    def exact(self, field: FieldLike, times: Sequence[Tensor], states: Sequence[Tensor]) -> Factors:
        """The factors of I - h A ⊗ J_i with the Jacobians of all stages themselves, as a gradient needs it."""
        count = self._evaluations
        found = [self._jacobians.at(field, time, y).jacobian for time, y in zip(times, states, strict=True)]
        jacobians = torch.stack([jacobian.view(self._rows, *self._eye.shape) for jacobian in found])
        self.njev, self.nlu, self.nfev = self.njev + count, self.nlu + 1, self.nfev + count
        size = count * self._jacobians.size
        coupled = torch.einsum("ij,jrnm->rinjm", self.a, jacobians).reshape(self._rows, size, size)
        return factorised(torch.eye(size, dtype=coupled.dtype, device=coupled.device) - across(self._size, 3) * coupled)

    def _decomposed(self, jacobian: Tensor) -> tuple[Factors, ...]:
        scaled = across(self._size, 3) * jacobian
        return tuple(factorised(self._eye - part.value * scaled) for part in self._parts)

    def _allowed(self, y: Tensor) -> Tensor:
        return super()._allowed(y).unsqueeze(self.axis)


def _parts(a: NDArray[np.float64], like: Tensor) -> list[_Part]:
    """The real eigenvalues, then those of positive imaginary part."""
    values, t = np.linalg.eig(a)
    if min(abs(values)) < _DISTINCT * max(abs(values)) or np.linalg.cond(t) * _DISTINCT > 1:
        raise ValueError(
            "a fully implicit method is solved for by the eigenvalues of its a, which must differ from 0 and from each "
            f"other, got {', '.join(f'{value:.4g}' for value in values)}; a method whose first stage is explicit or "
            "whose stages follow each other is a DiagonalTableau"
        )
    inverse = np.linalg.inv(t)
    parts = []
    for i in np.argsort(values.imag):
        if abs(values[i].imag) < 1e-12:
            row, column = (torch.from_numpy(x.real.copy()).to(like) for x in (inverse[i], t[:, i]))
            parts.append(_Part(float(values[i].real), row, column))
        elif values[i].imag > 0:
            row, column = (
                torch.from_numpy(x).to(like.device, like.dtype.to_complex()) for x in (inverse[i], 2 * t[:, i])
            )
            parts.append(_Part(complex(values[i]), row, column))
    return parts
