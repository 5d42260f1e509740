"""One step of the stabilised method, by as many stages as keep it stable.

y, f_j, G_j: (*shape) in joint, (B, *D) per sample. t, h: a float or a 0-d tensor in joint, (B,) per sample. What each
unit has one of: (R,), R being B per sample and one in joint, where a unit is a row of N entries.

With G_j = (g_j - y) / h the equations of `thalweg.methods.rkc` hold no difference of states:

    G_1 = mu_dot_1 f_0,   G_j = mu_j G_{j-1} + nu_j G_{j-2} + mu_dot_j f_{j-1} + gamma_dot_j f_0,   g_j = y + h G_j.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..core.arithmetic import Count, Flag, Number, across, as_list, weighted_sum, wide_dtype
from ..core.field import FieldLike, kept
from ..core.norms import Tolerance
from ..core.step import Carry, Step
from ..methods.rkc import Stabilised, rkc, stages_for
from .interpolation import CUBIC, StageInterpolation

_SAFETY = 1.2  # as an iteration finds the spectral radius from below
_AGREED = 0.01  # the change of the radius, relative to it, at which the iteration ends
_ITERATIONS = 50  # where nothing is known yet
_MORE = 3  # in a later step
_MARGIN = 1.5  # of the estimate, which is of a linear field's error: its authors take a safety of 0.8, not of 0.9

_Weights: TypeAlias = tuple[float, ...] | tuple[Tensor, ...]
"""mu, nu, mu_dot and gamma_dot of one stage, and where the stage before it was evaluated: (R,) where rows differ."""


class StabilisedStepper(StageInterpolation):
    """The stepper of the stabilised method, made anew for each solve.

    How many stages a step needs follows from h and the spectral radius of the Jacobian. That is found by power
    iteration on differences of the field, from a vector that holds every frequency; each step goes on with the
    last one's vector, one evaluation as a rule, until the radius stays. Per sample, each row has its own number of
    stages: one that is done stands still while the others go on. A step that would need so many stages that their
    rounding is seen is rejected.

    The carry is the slope at the start, the radius (R,), 0 where it is not known yet, and the vector.

    Parameters
    ----------
    method : Stabilised
        The method.
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has its own t and h.
    tolerance : Tolerance
        That of the solve, by which the number of stages is bounded.

    References
    ----------
    Sommeijer, Shampine & Verwer, "RKC: an explicit solver for parabolic PDEs", J. Comput. Appl. Math. 88 (1998).
    """

    implicit = False
    needs_slope = True
    stages = len(CUBIC)

    def __init__(self, method: Stabilised, like: Tensor, *, by_row: bool, tolerance: Tolerance) -> None:
        super().__init__(CUBIC, like, by_row=by_row)
        self.error_order = method.error_order
        self._rows = like.shape[0] if by_row else 1
        self._size = like.numel() // max(self._rows, 1)
        self._wide = wide_dtype(like.device)
        self._ends = torch.tensor([0.0, 1.0], dtype=self._wide, device=like.device)
        self._eps = torch.finfo(like.dtype).eps
        rtol = tolerance.rtol
        least = rtol if not isinstance(rtol, Tensor) else min(rtol.flatten().tolist(), default=1.0)
        # the rounding of s stages is s² eps (Sommeijer, Shampine & Verwer)
        self._most = max(2, int(math.sqrt(least / (10 * self._eps))))

    def init(self, slope: Tensor | None, units: Flag = True) -> Carry | None:
        """The carry of the first step, from the slope at the start."""
        if slope is None:
            return None
        steep, all_frequencies = self._unit(slope.detach()), self._all_frequencies(slope)
        inner = (steep.conj() * all_frequencies).real.reshape(self._rows, self._size).sum(1)
        # with the sign that lets them not cancel
        vector = steep + all_frequencies * self._per_unit(torch.where(inner < 0, -1.0, 1.0), slope)
        return slope, torch.zeros(self._rows, dtype=self._wide, device=self.device), vector

    def step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Carry | None) -> Step:
        """Try a step of size h from (t, y); without a carry it evaluates the slope there itself."""
        start, end = field.times(t, h, self._ends)
        nfev: Count = 0
        if carry is None:
            carry, nfev = self.init(kept(field(start, y))), 1
        assert carry is not None
        slope, radius, vector = carry
        with torch.no_grad():
            radius, vector, evaluations = self._radius(field, start, y.detach(), slope.detach(), radius, vector)
            stages, possible = self._stages(h, radius)
        if possible is not True:  # stand still, and be rejected
            h = torch.where(possible, h, 0.0) if isinstance(possible, Tensor) else h * 0.0
        mean = self._advance(field, t, h, y, slope, stages)
        size = self._beside(h, y)
        y_new = y + size * mean
        after = kept(field(end, y_new))
        with torch.no_grad():
            error = size * weighted_sum((-0.8 * _MARGIN, 0.4 * _MARGIN, 0.4 * _MARGIN), (mean, slope, after))
        nfev = nfev + (evaluations if self.by_row else int(evaluations))
        nfev = nfev + (torch.tensor(stages, device=self.device) if self.by_row else stages[0])
        following = (after, radius, vector)
        return Step(y_new, error, (mean, slope, after), following, nfev, converged=possible)

    def take(self, rows: Tensor) -> None:
        """Go on with some of the rows alone."""
        self._rows = len(rows)

    def extend(self, field: FieldLike, t: Number, h: Number, y: Tensor, step: Step) -> Step:
        """The step, which lacks nothing."""
        return step

    def _advance(
        self, field: FieldLike, t: Number, h: Number, y: Tensor, slope: Tensor, stages: Sequence[int]
    ) -> Tensor:
        """The mean slope of a step, G_s."""
        size, latest = self._beside(h, y), slope
        before, mean = torch.zeros_like(y), torch.zeros_like(y)
        for j, (*weights, c) in enumerate(self._weights_of(stages), start=1):
            if j > 1:
                latest = field(self._time(field, t, h, c), y + size * mean)
            if isinstance(weights[0], Tensor):
                mu, nu, mu_dot, gamma_dot = (across(w.to(y.dtype), y.ndim) for w in weights)
                before, mean = mean, mu * mean + nu * before + mu_dot * latest + gamma_dot * slope
            else:
                before, mean = mean, weighted_sum(weights, (mean, before, latest, slope))
        return mean

    def _weights_of(self, stages: Sequence[int]) -> Sequence[_Weights]:
        """Those of each stage; a row that has fewer stages than others stands still after its last one."""
        columns = {}
        most = max(stages, default=2)
        for s in set(stages):
            data = rkc(s)
            c = (0.0, *data.c[:-1])
            rows = list(zip(data.mu, data.nu, data.mu_dot, data.gamma_dot, c, strict=True))[1:]
            columns[s] = rows + [(1.0, 0.0, 0.0, 0.0, 1.0)] * (most - s)
        if len(columns) == 1:
            return columns[most]
        table = torch.tensor(list(columns.values()), dtype=self._wide, device=self.device)  # (numbers, stages, 5)
        index = {s: i for i, s in enumerate(columns)}
        rows_of = table[torch.tensor([index[s] for s in stages], device=self.device)]
        return [tuple(stage.unbind(1)) for stage in rows_of.unbind(1)]

    def _time(self, field: FieldLike, t: Number, h: Number, c: float | Tensor) -> Tensor:
        """The time t + c h."""
        (time,) = field.times(t, h, c.unsqueeze(0) if isinstance(c, Tensor) else torch.full_like(self._ends[:1], c))
        return time

    def _stages(self, h: Number, radius: Tensor) -> tuple[list[int], Flag]:
        """How many stages each row needs, and whether that many are possible."""
        size = h.detach().abs() if isinstance(h, Tensor) else abs(h)
        needed = [stages_for(x) for x in as_list(_SAFETY * size * radius)]
        possible = [s <= self._most for s in needed]
        stages = [s if fits else 2 for s, fits in zip(needed, possible, strict=True)]
        if all(possible):
            return stages, True
        return stages, torch.tensor(possible, device=self.device) if self.by_row else False

    def _radius(
        self, field: FieldLike, time: Tensor, y: Tensor, slope: Tensor, radius: Tensor, vector: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The spectral radius of each row's Jacobian, the vector that shows it, and the evaluations that it took."""
        norm = self._norm(y)
        distance = self._eps**0.5 * torch.where(norm > 0, norm, 1.0)
        evaluations = torch.zeros(self._rows, dtype=torch.int64, device=self.device)
        most = torch.where(radius > 0, _MORE, _ITERATIONS)
        largest, going = torch.zeros_like(radius), most > 0
        for n in range(1, _ITERATIONS + 1):
            moved = y + self._unit(vector) * self._per_unit(distance, y)
            change = field(time, moved) - slope
            found = torch.nan_to_num(self._norm(change) / distance, 0.0, 0.0)
            evaluations = evaluations + going
            # where nothing changes, the direction is kept for when something does
            vector = torch.where(self._per_unit(going & (found > 0), y), change, vector)
            agreed = (found - radius).abs() <= _AGREED * found
            # complex eigenvalues let it swing for ever
            largest = torch.maximum(largest, found)
            ends = going & (n == most) & ~agreed
            radius = torch.where(going, torch.where(ends, largest, found), radius)
            going = going & ~agreed & ~ends
            if not bool(going.any()):
                break
        return radius, vector, evaluations

    def _all_frequencies(self, like: Tensor) -> Tensor:
        """A vector that is not orthogonal to what the field magnifies most: a chirp, for each unit the same."""
        n = torch.arange(self._size, dtype=self._wide, device=self.device)
        return self._unit(torch.cos(0.7 * n * n).to(like.dtype).expand(self._rows, -1).reshape(like.shape))

    def _norm(self, x: Tensor) -> Tensor:
        """Root mean square of each unit."""
        flat = x.reshape(self._rows, self._size).to(torch.promote_types(x.dtype, torch.float32))
        return (torch.linalg.vector_norm(flat, dim=1) / max(self._size, 1) ** 0.5).to(self._wide)

    def _unit(self, x: Tensor) -> Tensor:
        """The same direction with a root mean square of 1; zero where it is zero."""
        norm = self._norm(x)
        return x / self._per_unit(torch.where(norm > 0, norm, 1.0), x)

    def _per_unit(self, x: Tensor, like: Tensor) -> Tensor:
        """Numbers or flags of units, to combine with a state."""
        x = x if x.dtype == torch.bool else x.to(like.dtype)
        return across(x, like.ndim) if self.by_row else x.reshape(())

    def _beside(self, h: Number, y: Tensor) -> Number:
        """The size of a step, to multiply a state."""
        return self._per_unit(h, y) if isinstance(h, Tensor) else h
