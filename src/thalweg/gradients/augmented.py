"""The field of the adjoint's solve, and the integral over the parameters that is summed beside it.

dz/dt = f(t, z, θ),  da/dt = -aᵀ ∂f/∂z; dL/dθ = -∫ aᵀ ∂f/∂θ dt. z: (*shape) in joint, (B, *D) per sample; the augmented
state stacks z and a: (2, *shape) or (B, 2, *D).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..core.arithmetic import Number, across, weighted_sum, where, wide_dtype
from ..core.field import Field, FieldLike
from ..core.step import TakenStep
from ..external.integrate import NODES, WEIGHTS
from ..methods.tableau import Tableau
from ..steppers.dirk import DIRK
from ..steppers.explicit_rk import ExplicitRK
from ..steppers.firk import FIRK
from .base import Accumulator, check_reach

_Gradients: TypeAlias = list[Tensor | None]
"""One for each tensor that the gradient goes to; None where it is not used."""


class AugmentedField:
    """d(z, a)/dt.

    Where one step size serves all, the gradients aᵀ ∂f/∂θ come with the product that da/dt needs anyway, and are kept
    until it is known what a step weighs.

    Attributes
    ----------
    first : list or None
        The gradients of the first evaluation of a solve.
    latest : deque
        Those of the last evaluations: `keep`, as many as a step takes, or none.
    """

    def __init__(self, field: Field, targets: Sequence[Tensor], dim: int, keep: int, retain: bool) -> None:
        self.field, self.targets, self.dim, self.retain = field, targets, dim, retain
        self.kept = targets if keep else ()
        self.first: _Gradients | None = None
        self.latest: deque[_Gradients] = deque(maxlen=keep)
        self.checked = False

    def times(self, t: Number, h: Number, c: Tensor) -> Sequence[Tensor]:
        """As the field takes them."""
        return self.field.times(t, h, c)

    def jacobian(self, t: Tensor, y: Tensor) -> None:
        """The user's is that of the field alone."""

    @property
    def sparsity(self) -> None:
        """The user's is that of the field alone."""

    @property
    def parts(self) -> Sequence[FieldLike]:
        """Itself: a pair is evaluated as a whole."""
        return (self,)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The field, and minus its vector–Jacobian product with a; in a graph where a Jacobian of both is made."""
        recorded = torch.is_grad_enabled()
        z, a = y.unbind(self.dim)
        z = z if recorded else z.detach().requires_grad_()
        with torch.enable_grad():
            slope = self.field(t, z)
        if not (self.checked or recorded):
            check_reach([slope], [z, *self.targets])
            self.checked = True
        product, *gradients = self._products(slope, z, a, recorded)
        if self.kept:
            self.first = self.first or gradients
            self.latest.append(gradients)
        change = torch.zeros_like(a) if product is None else -product
        return torch.stack([slope if recorded else slope.detach(), change], self.dim)

    def _products(self, slope: Tensor, z: Tensor, a: Tensor, recorded: bool) -> _Gradients:
        """aᵀ ∂f/∂z, then aᵀ ∂f/∂θ where they are kept."""
        if not slope.requires_grad:
            return [None] * (1 + len(self.kept))
        wanted, retain = [z, *self.kept], self.retain or recorded
        return list(
            torch.autograd.grad(slope, wanted, a, allow_unused=True, retain_graph=retain, create_graph=recorded)
        )


class JointQuadrature:
    """The integral of aᵀ ∂f/∂θ, from what the evaluations of each accepted step left behind."""

    def __init__(self, field: AugmentedField, tableau: Tableau) -> None:
        self.field, self.tableau = field, tableau
        self.sums = Accumulator(len(field.targets))
        self.evaluations = 0

    def record(self, taken: TakenStep) -> None:
        """Add an accepted step."""
        field = self.field
        if not field.targets:
            return
        nfev, h = taken.step.nfev, taken.h
        assert isinstance(nfev, int)
        stages = list(field.latest)[-nfev:]
        if taken.carry is not None:
            assert field.first is not None
            stages.insert(0, field.first)
        field.first = stages[-1]  # with a carry, the last stage is the first one of the next step
        assert not isinstance(h, Tensor)
        for weight, gradients in zip(self.tableau.b, stages, strict=True):
            if weight:
                self.sums.add(gradients, scale=-h * weight)


class _EvaluatedQuadrature:
    """The integral of aᵀ ∂f/∂θ, from evaluations of its own."""

    def __init__(self, field: Field, targets: list[Tensor], retain: bool) -> None:
        self.field, self.targets, self.retain = field, targets, retain
        self.sums = Accumulator(len(targets))
        self.evaluations = 0

    def _add(self, t: Tensor, z: Tensor, cotangent: Tensor) -> None:
        with torch.enable_grad():
            slope = self.field(t, z)
        self.evaluations += 1
        if not slope.requires_grad:
            return
        check_reach([slope], self.targets)
        self.sums.add(torch.autograd.grad(slope, self.targets, cotangent, allow_unused=True, retain_graph=self.retain))


class GaussQuadrature(_EvaluatedQuadrature):
    """Where another library takes the steps: Gauss's formula in each, as good as the states inside steps are."""

    def record(self, taken: TakenStep) -> None:
        """Add a step."""
        if not self.targets:
            return
        h = taken.h
        assert isinstance(h, float)
        times = self.field.times(taken.t, h, torch.tensor(NODES, dtype=torch.float64, device="cpu"))
        for time, weight, state in zip(times, WEIGHTS, taken.step.stages, strict=True):
            z, a = state.unbind(0)
            self._add(time, z, a * (-h * weight))


class StageQuadrature(_EvaluatedQuadrature):
    """With the weights of an implicit method, whose evaluations are many more than its stages."""

    def __init__(self, field: Field, targets: list[Tensor], stepper: DIRK | FIRK, retain: bool) -> None:
        super().__init__(field, targets, retain)
        self.tableau = stepper.tableau
        self._c = torch.tensor(self.tableau.c, dtype=torch.float64, device="cpu")

    def record(self, taken: TakenStep) -> None:
        """Add an accepted step."""
        if not self.targets:
            return
        h, stages, tableau = taken.h, taken.step.stages, self.tableau
        assert isinstance(h, float)
        times = self.field.times(taken.t, h, self._c)
        for time, weight, row in zip(times, tableau.b, tableau.a, strict=True):
            if weight:
                moved = weighted_sum(row, stages[: len(row)]) if any(row) else 0.0
                z, a = (taken.y + h * moved).unbind(0)
                self._add(time, z, a * (-h * weight))


class RowQuadrature(_EvaluatedQuadrature):
    """The integral of aᵀ ∂f/∂θ where each row has a step size of its own.

    What a row's evaluation weighs is not known before the row accepts the step, and gradients are summed over rows, so
    the stages of an accepted step are evaluated again, weighed.
    """

    def __init__(self, field: Field, targets: list[Tensor], stepper: ExplicitRK, retain: bool) -> None:
        super().__init__(field, targets, retain)
        self.stepper = stepper
        b = stepper.tableau.b
        self._weights = [(i, weight) for i, weight in enumerate(b) if weight]
        self._c = torch.tensor(stepper.tableau.c, dtype=wide_dtype(stepper.device), device=stepper.device)

    def record(self, taken: TakenStep) -> None:
        """Add an accepted step; the rows that reject it, or have ended, add nothing."""
        if not self.targets:
            return
        t, h, y, accept = taken.t, taken.h, taken.y, taken.accept
        times = self.field.times(t, h, self._c)
        mask = across(torch.as_tensor(accept), y.ndim)
        for i, weight in self._weights:
            state = self.stepper.stage_state(i, y, h, taken.step.stages)
            state = torch.where(mask, state, y)  # others may not be finite
            scale = across(torch.as_tensor(where(accept, h * -weight, 0.0)).to(y.dtype), y.ndim - 1)
            z, a = state.unbind(1)
            self._add(times[i], z, a * scale)
