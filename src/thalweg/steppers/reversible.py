"""One step of an explicit Runge–Kutta method made reversible.

y, z, d = z - y: (*shape) in joint, (B, *D) per sample. t, h: a float or a 0-d tensor in joint, (B,) per sample. What
each unit has one of: (U), which is () in joint and (B,) per sample.

With S_h(t, y) what the method makes of y in a step of size h, and λ the coupling, a step takes two states to two,

    y' = S_h(t, z) - λ d,   d' = z - S_{-h}(t + h, y'),   z = y + d,

and each line can be solved for the one unknown that it has on the way back:

    z = S_{-h}(t + h, y') + d',   d = (S_h(t, z) - y') / λ,   y = z - d.

The answer is y. The difference d is what is carried, not z: it begins as zero, whatever y0 is. Where the flow
contracts, y' forgets, and d' remembers: it grows as the flow would back in time. So that it spoils neither the answer
nor the way back, the two states are joined again, d = 0, once it is too large; whoever goes back must know where, and
both states there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.arithmetic import Flag, Number, across, wide_dtype
from ..core.field import FieldLike
from ..core.norms import Tolerance, rms_of_rows
from ..core.step import Carry, Step, parts_of
from ..methods.tableau import Tableau
from .explicit_rk import ExplicitRK


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReversibleStep(Step):
    """A step, the step of the method from z that it holds, and z."""

    there: Step
    z: Tensor


class ReversibleStepper:
    """The stepper of an explicit Runge–Kutta method made reversible, made anew for each solve.

    The error estimate is that of the method's step from z, whose increment is what y gains. Inside a step
    y(t + θ h) = y + θ (1 - λ) d + h sum_i b_i(θ) k_i with the stages of the step from z: y at θ = 0, y' at θ = 1. The
    stages of a step are those, and d as one more.

    The carry is d; whether the states are joined (U), so that the next step begins with d = 0; and (U) how large d was
    in the first step after that, and the product of y and dy/dt. They are joined where d is larger than the tolerance,
    or where it has grown too much, or that product has, by which is seen how much the flow expands.

    Parameters
    ----------
    tableau : Tableau
        The method.
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has its own t and h.
    tolerance : Tolerance
        That of the solve, relative to which d is measured.
    coupling : float
        λ, between 0 and 1.
    fixed : bool
        Whether the size of a step is given, so that nobody asks for its error.

    Attributes
    ----------
    evaluations_back : int
        How many evaluations `reverse` takes.
    growth : float
        How many times as large as in the first step after they were joined d may become, or the product; as many times
        may rounding grow on the way back, so that two thirds of its digits remain.

    References
    ----------
    McCallum & Foster, "Efficient, accurate and stable gradients for neural ODEs", arXiv:2410.11648 (2024): there
    y' = λ y + (1 - λ) z + Ψ_h(t, z) and z' = z - Ψ_{-h}(t + h, y'), with Ψ_h(t, y) = S_h(t, y) - y. That they join
    again is not theirs.
    """

    implicit = False
    needs_slope = False

    def __init__(
        self,
        tableau: Tableau,
        like: Tensor,
        *,
        by_row: bool,
        tolerance: Tolerance,
        coupling: float,
        fixed: bool = False,
    ) -> None:
        self.stages, self.error_order = len(tableau.interpolant) + 1, tableau.error_order
        self.coupling = coupling
        self._by_row, self._like, self._tolerance = by_row, like, tolerance
        self._noise = torch.finfo(like.dtype).eps
        self.growth = self._noise ** (-1 / 3)
        bare = _bare(tableau)
        self.evaluations_back = 2 * bare.stages
        self._there = ExplicitRK(bare if fixed else tableau, like, by_row=by_row)
        self._back = ExplicitRK(bare, like, by_row=by_row)  # its own: the stages of the other are still needed

    def init(self, slope: Tensor | None, units: Flag = True) -> Carry | None:
        """The first carry, of states that are joined; in joint none says so."""
        return self.carry(torch.zeros_like(self._like), True) if self._by_row else None

    def carry(self, apart: Tensor, joined: Flag) -> Carry:
        """The carry of a step that begins with this d, or, where they are joined, with d = 0."""
        units = apart.shape[:1] if self._by_row else ()
        one = torch.ones(units, dtype=wide_dtype(apart.device), device=apart.device)
        return apart, torch.as_tensor(joined, device=apart.device).expand(units), one, one

    def forget(self, units: Flag = True) -> None:
        """Nothing is kept."""

    def take(self, rows: Tensor) -> None:
        """Go on with some of the rows alone."""
        self._like = self._like[rows]
        self._tolerance = self._tolerance.taken(rows)

    def step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Carry | None) -> Step:
        """Try a step of size h from (t, y); without a carry the states are joined."""
        apart, joined, *since = self.carry(torch.zeros_like(y), True) if carry is None else carry
        apart = torch.where(self._each(joined, y), 0.0, apart)
        z = y + apart
        there = self._there.step(field, t, h, z, None)
        y_new = torch.sub(there.y, apart, alpha=self.coupling)
        back = self._back.step(field, t + h, -h, y_new, None)
        apart_new = z - back.y
        with torch.no_grad():
            scale = self._tolerance.scale(y_new)
            size, noise = self._size(apart_new / scale), self._size(self._noise * y_new / scale)
            pace = self._size(y) * self._size(there.stages[0])
            first, slow = (
                torch.where(joined, now, then)
                for now, then in zip((torch.maximum(size, noise), pace), since, strict=True)
            )
            join = (size > torch.clamp(self.growth * first, max=1.0)) | (pace > self.growth * slow)
            # where the step back cannot be made, neither can this one
            error = torch.where(torch.isfinite(apart_new), 0.0 if there.error is None else there.error, torch.nan)
        parts = parts_of(
            there,
            y=y_new,
            error=error,
            stages=(*there.stages, apart),
            carry=(apart_new, join, first, slow),
            nfev=there.nfev + back.nfev,
        )
        return _ReversibleStep(**parts, there=there, z=z)

    def reverse(self, field: FieldLike, t: Number, h: Number, y: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
        """Y and d where the step of size h from t began that ended with these."""
        z = self._back.step(field, t + h, -h, y, None).y + apart
        apart = (self._back.step(field, t, h, z, None).y - y) / self.coupling
        return z - apart, apart

    def extend(self, field: FieldLike, t: Number, h: Number, y: Tensor, step: Step) -> Step:
        """The step with the extra stages of the interpolant."""
        assert isinstance(step, _ReversibleStep)
        there = self._there.extend(field, t, h, step.z, step.there)
        if there is step.there:
            return step
        stages = (*there.stages, step.stages[-1])
        return replace(step, stages=stages, nfev=step.nfev + there.nfev - step.there.nfev, there=there)

    def interpolate(self, step: Step, y: Tensor, h: Number, theta: Tensor) -> Tensor:
        """States inside an extended step of size h from y, at the fractions theta of it.

        In joint, theta (m,) gives states (m, *shape); per sample, theta (B,) gives (B, *D), a fraction for each row.
        """
        *stages, apart = step.stages
        inside = self._there.interpolate(replace(step, stages=stages), y, h, theta)
        return inside + self._closer(theta, apart, inside.ndim)

    def interpolate_rows(self, stages: Sequence[Tensor], y: Tensor, h: Tensor, theta: Tensor) -> Tensor:
        """A state inside each of M steps: y and k_i (M, *D), h and theta (M,)."""
        *stages, apart = stages
        return self._there.interpolate_rows(stages, y, h, theta) + self._closer(theta, apart, y.ndim)

    def _closer(self, theta: Tensor, apart: Tensor, ndim: int) -> Tensor:
        """θ (1 - λ) d."""
        return across((theta * (1 - self.coupling)).to(apart.dtype), ndim) * apart

    def _size(self, x: Tensor) -> Tensor:
        """Root mean square (U)."""
        size = rms_of_rows(x) if self._by_row else torch.linalg.vector_norm(x) / max(x.numel(), 1) ** 0.5
        return size.to(wide_dtype(x.device))

    def _each(self, x: Tensor, like: Tensor) -> Tensor:
        """What each unit has one of, to combine with a state."""
        return across(x, like.ndim) if self._by_row else x


def _bare(tableau: Tableau) -> Tableau:
    """The method without an error, and with a last stage that a step moves without as one of its interpolant alone."""
    tableau = replace(tableau, b_error=None, embedded_order=None, b_coarse=None, coarse_order=None)
    if not tableau.fsal:
        return tableau
    return replace(tableau, a=tableau.a[:-1], b=tableau.b[:-1], dense_a=(tableau.a[-1], *tableau.dense_a))
