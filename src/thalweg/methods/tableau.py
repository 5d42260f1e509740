"""A Runge–Kutta method as a table of coefficients, and everything that follows from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

Coefficient: TypeAlias = float | Fraction


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge–Kutta method.

    One step of size h from (t, y) evaluates the stages

        k_i = f(t + c_i h, y + h sum_j a_ij k_j)

    and moves to y + h sum_i b_i k_i. Where outputs fall in the step, the extra stages of the interpolant, if any, are
    evaluated in the same way after the others.

    Parameters
    ----------
    order : int
        The order of the method.
    a : sequence of rows
        The rows of the lower triangle: row i holds the i coefficients of stage i, so the first row is empty.
    b : sequence
        The weights.
    interpolant : sequence of rows
        Row i holds the coefficients of theta, theta², … in b_i(theta); y(t + theta h) = y + h sum_i b_i(theta) k_i,
        over the stages and the extra stages.
    interpolant_order : int
        The order of the interpolant, uniformly in theta.
    b_error : sequence, optional
        The weights minus those of the embedded method; None when the method has no error estimate.
    embedded_order : int, optional
        The order of the embedded method.
    dense_a : sequence of rows, optional
        The rows of the extra stages of the interpolant: row j holds the coefficients of all stages before it.
    b_coarse : sequence, optional
        The weights minus those of a second embedded method, of lower order. With e and d the norms of the errors by
        `b_error` and by `b_coarse`, the error of the step is then e² / sqrt(e² + d²/100).
    coarse_order : int, optional
        The order of that second embedded method.
    """

    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    interpolant: tuple[tuple[float, ...], ...]
    interpolant_order: int
    b_error: tuple[float, ...] | None = None
    embedded_order: int | None = None
    dense_a: tuple[tuple[float, ...], ...] = ()
    b_coarse: tuple[float, ...] | None = None
    coarse_order: int | None = None

    def __post_init__(self) -> None:
        stages = len(self.b)
        if [len(row) for row in self.a] != list(range(stages)):
            raise ValueError(
                f"row i of a must hold i coefficients, one row a stage ({stages}), "
                f"got rows of {[len(row) for row in self.a]}"
            )
        total = stages + len(self.dense_a)
        if [len(row) for row in self.dense_a] != list(range(stages, total)):
            raise ValueError(
                f"row j of dense_a must hold a coefficient of each of the {stages} + j stages before it, "
                f"got rows of {[len(row) for row in self.dense_a]}"
            )
        if len(self.interpolant) != total:
            raise ValueError(f"interpolant must have one row a stage ({total}), got {len(self.interpolant)}")
        if len({len(row) for row in self.interpolant}) != 1:
            raise ValueError("the rows of interpolant must have equal lengths; pad them with zeros")
        if (self.b_error is None) != (self.embedded_order is None):
            raise ValueError("b_error and embedded_order come together")
        if self.b_error is not None and len(self.b_error) != stages:
            raise ValueError(f"b_error must have one weight a stage ({stages}), got {len(self.b_error)}")
        if (self.b_coarse is None) != (self.coarse_order is None):
            raise ValueError("b_coarse and coarse_order come together")
        if self.b_coarse is not None:
            if self.b_error is None:
                raise ValueError("b_coarse corrects b_error, which is missing")
            if len(self.b_coarse) != stages:
                raise ValueError(f"b_coarse must have one weight a stage ({stages}), got {len(self.b_coarse)}")

    @property
    def stages(self) -> int:
        """The number of stages."""
        return len(self.b)

    @property
    def c(self) -> tuple[float, ...]:
        """The nodes: each the sum of its row."""
        return tuple(math.fsum(row) for row in self.a)

    @property
    def dense_c(self) -> tuple[float, ...]:
        """The nodes of the extra stages."""
        return tuple(math.fsum(row) for row in self.dense_a)

    @property
    def fsal(self) -> bool:
        """Whether the last stage is the first one of the next step."""
        return self.stages > 1 and self.b[-1] == 0 and self.a[-1] == self.b[:-1]

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return self.b_error is not None

    @property
    def error_order(self) -> int:
        """The power of h by which the error estimate of a step shrinks."""
        if self.embedded_order is not None and self.coarse_order is not None:
            return 2 * (self.embedded_order + 1) - (self.coarse_order + 1)
        return min(self.order, self.embedded_order or self.order) + 1

    @property
    def evaluations(self) -> int:
        """Field evaluations a step, after the first."""
        return self.stages - self.fsal

    @property
    def dense_evaluations(self) -> int:
        """Further field evaluations of a step in which outputs fall."""
        return len(self.dense_a)


def tableau(
    order: int,
    a: Sequence[Sequence[Coefficient]],
    b: Sequence[Coefficient],
    *,
    interpolant: Sequence[Sequence[Coefficient]],
    interpolant_order: int,
    b_error: Sequence[Coefficient] | None = None,
    embedded_order: int | None = None,
    dense_a: Sequence[Sequence[Coefficient]] = (),
    b_coarse: Sequence[Coefficient] | None = None,
    coarse_order: int | None = None,
) -> Tableau:
    """A `Tableau` from numbers of any kind, each rounded to float64 once."""
    width = max(len(row) for row in interpolant)
    return Tableau(
        order=order,
        a=tuple(_floats(row) for row in a),
        b=_floats(b),
        interpolant=tuple(_floats(row) + (0.0,) * (width - len(row)) for row in interpolant),
        interpolant_order=interpolant_order,
        b_error=None if b_error is None else _floats(b_error),
        embedded_order=embedded_order,
        dense_a=tuple(_floats(row) for row in dense_a),
        b_coarse=None if b_coarse is None else _floats(b_coarse),
        coarse_order=coarse_order,
    )


def _floats(row: Sequence[Coefficient]) -> tuple[float, ...]:
    return tuple(float(x) for x in row)
