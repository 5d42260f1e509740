"""A step that was tried, and what takes steps.

y, k_i: (*shape) in joint, (B, *D) per sample. t, h: a float or a 0-d tensor in joint, (B,) per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .arithmetic import Number
from .field import FieldLike


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
        k_1 … k_S. Without a graph they are views of a buffer and hold until the next step is tried.
    carry : Tensor or None
        What the next step needs of this one: the slope at its end for a method with FSAL.
    nfev : int
        The field evaluations that it took.
    """

    y: Tensor
    error: Tensor | None
    stages: Sequence[Tensor]
    carry: Tensor | None
    nfev: int


class Stepper(Protocol):
    """How a family of methods takes one step; made anew for each solve."""

    @property
    def stages(self) -> int:
        """The number of stages of a step."""

    @property
    def error_order(self) -> int:
        """The power of h by which the error estimate of a step shrinks."""

    @property
    def needs_slope(self) -> bool:
        """Whether `init` needs the slope at the start."""

    def init(self, slope: Tensor | None) -> Tensor | None:
        """The carry of the first step, from the slope at the start."""

    def step(self, field: FieldLike, t: Number, h: Number, y: Tensor, carry: Tensor | None) -> Step:
        """Try a step of size h from (t, y)."""

    def interpolate(self, step: Step, y: Tensor, h: Number, theta: Tensor) -> Tensor:
        """States inside a step of size h from y, at the fractions theta of it.

        In joint, theta (m,) gives states (m, *shape); per sample, theta (B,) gives (B, *D), a fraction for each row.
        """

    def interpolate_rows(self, stages: Sequence[Tensor], y: Tensor, h: Tensor, theta: Tensor) -> Tensor:
        """A state inside each of M steps: y and k_i (M, *D), h and theta (M,)."""
