"""The integral over the parameters, ∫ aᵀ ∂f/∂θ dt, summed over the accepted steps of a solve back in time.

The state of that solve: see `back`. t, h: a float in joint, (B,) per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..core.arithmetic import across, most, where, wide_dtype
from ..core.step import Stepper, TakenStep
from ..external.integrate import NODES, WEIGHTS, ExternalStepper
from ..methods.tableau import Tableau
from ..steppers.explicit_rk import ExplicitRK
from .back import BackField
from .base import Accumulator
from .capture import check_reach


class Quadrature(Protocol):
    """What is shown the steps of a solve back, and sums.

    Attributes
    ----------
    sums : Accumulator
        The integral up to now.
    evaluations : int
        Those of the field that it took.
    """

    sums: Accumulator
    evaluations: int

    def record(self, taken: TakenStep) -> None:
        """Add an accepted step."""


class KeptQuadrature:
    """With the weights of an explicit method, from what the evaluations of each step left behind: joint alone."""

    def __init__(self, field: BackField, tableau: Tableau) -> None:
        self.field, self.tableau = field, tableau
        field.keep(tableau.stages)
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
    """From evaluations of its own.

    What a row's evaluation weighs is not known before the row accepts the step, and gradients are summed over rows, so
    that a weight multiplies the adjoint of each row.
    """

    def __init__(self, field: BackField) -> None:
        self.field = field
        self.sums = Accumulator(len(field.targets))
        self.evaluations = 0

    def _add(self, time: Tensor, state: Tensor, weight: float, taken: TakenStep) -> None:
        """Add the evaluation at a time and state inside a step; the rows that reject it, or have ended, add nothing."""
        field, scale = self.field, where(taken.accept, taken.h * -weight, 0.0)
        if isinstance(taken.accept, Tensor):
            state = torch.where(across(taken.accept, state.ndim), state, taken.y)  # others may not be finite
        z, a = field.at(time, state)
        scale = across(scale.to(a.dtype), a.ndim) if isinstance(scale, Tensor) else scale
        z = z.detach().requires_grad_()  # as the solve back gives it: a field that differentiates by z asks it for that
        with torch.enable_grad():
            slope = field.field(time, z)
        self.evaluations += 1
        if not slope.requires_grad:
            return
        check_reach([slope], [time, z, *field.targets])
        self.sums.add(
            torch.autograd.grad(slope, field.targets, a * scale, allow_unused=True, retain_graph=field.retain)
        )


class RowQuadrature(_EvaluatedQuadrature):
    """With the weights of an explicit method, whose stages are evaluated again: per sample alone."""

    def __init__(self, field: BackField, stepper: ExplicitRK) -> None:
        super().__init__(field)
        self.stepper = stepper
        self._weights = [(i, weight) for i, weight in enumerate(stepper.tableau.b) if weight]
        self._c = torch.tensor(stepper.tableau.c, dtype=wide_dtype(stepper.device), device=stepper.device)

    def record(self, taken: TakenStep) -> None:
        """Add an accepted step."""
        if not self.field.targets:
            return
        times = self.field.times(taken.t, taken.h, self._c)
        for i, weight in self._weights:
            self._add(times[i], self.stepper.stage_state(i, taken.y, taken.h, taken.step.stages), weight, taken)


class GaussQuadrature(_EvaluatedQuadrature):
    """Gauss's formula in each step, with the states of the stepper's own interpolant: for any method.

    With n nodes it is exact to degree 2n - 1, and its error over a solve is that of the states inside steps, or
    O(h^(2n)); so half as many nodes as the method has orders, rounded up, keep the order. Of collocation methods the
    interpolant's error is orthogonal to what is integrated, to as high an order as the step itself has.

    Parameters
    ----------
    field : BackField
        The field of the solve back.
    stepper : Stepper or ExternalStepper
        What takes its steps. One of another library shows the states at nodes of its own.
    order : int
        That of the method.
    """

    def __init__(self, field: BackField, stepper: Stepper | ExternalStepper, order: int, device: torch.device) -> None:
        super().__init__(field)
        self.stepper: Any = stepper
        self._external = isinstance(stepper, ExternalStepper)
        self._weights, nodes = WEIGHTS, NODES
        if not self._external:
            points, shares = np.polynomial.legendre.leggauss((order + 1) // 2)
            self._weights, nodes = (shares / 2).tolist(), ((points + 1) / 2).tolist()
        self._nodes = torch.tensor(nodes, dtype=wide_dtype(device), device=device)

    def record(self, taken: TakenStep) -> None:
        """Add an accepted step."""
        if not self.field.targets:
            return
        times = self.field.times(taken.t, taken.h, self._nodes)
        for time, weight, state in zip(times, self._weights, self._inside(taken), strict=True):
            self._add(time, state, weight, taken)

    def _inside(self, taken: TakenStep) -> Sequence[Tensor]:
        """The states at the nodes."""
        if self._external:
            return taken.step.stages
        stepper, (t, h, y) = self.stepper, (taken.t, taken.h, taken.y)
        step = stepper.extend(self.field, t, h, y, taken.step)
        self.evaluations += most(step.nfev) - most(taken.step.nfev)
        if not self.field.state.by_row:
            return stepper.interpolate(step, y, h, self._nodes).unbind(0)
        return [stepper.interpolate(step, y, h, node.expand(len(y))) for node in self._nodes]


def quadrature_for(field: BackField, stepper: Any, order: int, device: torch.device, *, exact: bool) -> Quadrature:
    """What sums beside a solve back; `exact`: with the weights of an explicit method where it has them."""
    if exact and isinstance(stepper, ExplicitRK):
        return RowQuadrature(field, stepper) if field.state.by_row else KeptQuadrature(field, stepper.tableau)
    return GaussQuadrature(field, stepper, order, device)
