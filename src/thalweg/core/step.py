"""A step that was tried, and what takes steps.

y, k_i: (*shape) in joint, (B, *D) per sample. t, h: a float or a 0-d tensor in joint, (B,) per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, TypeAlias

from torch import Tensor

from .arithmetic import Count, Flag, Number
from .field import FieldLike

Carry: TypeAlias = tuple[Tensor, ...]
"""What one step hands to the next, (*any) in joint and (B, *any) per sample: the slope where they meet, for most."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was tried.

    Attributes
    ----------
    y : Tensor
        The state at its end.
    error : Tensor or None
        The estimated error of `y`, never part of a graph; None when the method has no estimate.
    stages : sequence of Tensor
        k_1 … k_S, and those that `Stepper.extend` adds. Without a graph they are views of a buffer and hold until the
        next step is tried.
    carry : tuple of Tensor or None
        What the next step needs of this one: the slope at its end for a method with FSAL.
    nfev, njev, nlu : int or Tensor (B,)
        The field evaluations, Jacobians and factorisations that it took, of each unit.
    error_coarse : Tensor or None
        A second estimate, of lower order, which tempers the first (see `thalweg.methods.Tableau`).
    converged : bool or Tensor (B,)
        Whether its equations were solved; a step whose equations were not is rejected.
    error_order : float or Tensor (B,), optional
        The power of h by which its error shrinks, of a method whose order changes; the stepper's where it is left out.
    """

    y: Tensor
    error: Tensor | None
    stages: Sequence[Tensor]
    carry: Carry | None
    nfev: Count
    njev: Count = 0
    nlu: Count = 0
    error_coarse: Tensor | None = None
    converged: Flag = True
    error_order: Number | None = None


def parts_of(step: Step, **changes: Any) -> dict[str, Any]:
    """The parts of a step, some of them changed: what a step of a kind of its own shares with all."""
    return {part.name: getattr(step, part.name) for part in fields(Step)} | changes


@dataclass(frozen=True, slots=True)
class TriedStep:
    """A step that was tried, as a callback of `solve_ivp` sees it; nothing of it is part of a graph.

    Attributes
    ----------
    t, h : float or Tensor (B,)
        The time at which it began, and its size, negative back in time.
    y, y_new : Tensor or pytree of Tensor
        The states at its beginning and at its end.
    accepted : bool or Tensor (B,)
        Whether it was kept.
    """

    t: Number
    h: Number
    y: Any
    y_new: Any
    accepted: Flag


class TakenStep(NamedTuple):
    """A step that some unit accepted, as one that keeps steps sees it.

    Attributes
    ----------
    step : Step
        What came of it; it holds until the next step is tried.
    t, h : float, or Tensor (B,)
        Where it began, and its size.
    y : Tensor
        The state where it began.
    carry : tuple of Tensor or None
        What it had of the step before.
    accept, last : bool, or Tensor (B,)
        Which units accepted it, and for which it ends at t1.
    rows : Tensor or None
        Which rows are in the batch, where it has shrunk.
    """

    step: Step
    t: Number
    h: Number
    y: Tensor
    carry: Carry | None
    accept: Flag
    last: Flag
    rows: Tensor | None = None


class Stepper(Protocol):
    """How a family of methods takes one step; made anew for each solve.

    What the next step must have of this one is the step's `carry`, which the loop selects as it does the state, and
    through which gradients go. What only makes the next step cheaper (a Jacobian, its factors, a buffer) a stepper
    keeps to itself; `init` and `forget` forget it. Where a graph is recorded nothing of it is used, so that a step that
    is taken again comes out the same, with a graph or, once all is forgotten, without.
    """

    @property
    def stages(self) -> int:
        """The number of stages of an extended step."""

    @property
    def error_order(self) -> int:
        """The power of h by which the error estimate of a step shrinks; of the first step, if the order changes."""

    @property
    def implicit(self) -> bool:
        """Whether its steps count Jacobians."""

    @property
    def needs_slope(self) -> bool:
        """Whether `init` needs the slope at the start."""

    def init(self, slope: Tensor | None, units: Flag = True) -> Carry | None:
        """Begin anew with those units; returns the carry of a first step, a function of the slope at its start alone.

        Where the slope is not known, as the field has just jumped, there is none.
        """

    def forget(self, units: Flag = True) -> None:
        """Forget all that it keeps to itself of those units: their next step is a function of its arguments alone."""

    def take(self, rows: Tensor) -> None:
        """Go on with some of the rows alone, (M,) indices: forget what it keeps to itself of the others."""

    def step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Carry | None) -> Step:
        """Try a step of size h from (t, y); no carry means that nothing is known of what came before."""

    def extend(self, field: FieldLike, t: Number, h: Number, y: Tensor, step: Step) -> Step:
        """The step with all that `interpolate` needs, and with the evaluations that this took.

        It is called once of an accepted step, and of no other, where a state inside it is asked for; the step itself
        comes back where nothing is missing.
        """

    def interpolate(self, step: Step, y: Tensor, h: Number, theta: Tensor) -> Tensor:
        """States inside an extended step of size h from y, at the fractions theta of it.

        In joint, theta (m,) gives states (m, *shape); per sample, theta (B,) gives (B, *D), a fraction for each row.
        """

    def interpolate_rows(self, stages: Sequence[Tensor], y: Tensor, h: Tensor, theta: Tensor) -> Tensor:
        """A state inside each of M steps: y and k_i (M, *D), h and theta (M,)."""
