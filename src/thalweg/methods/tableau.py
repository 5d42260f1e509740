"""A Runge–Kutta method as a table of coefficients, and everything that follows from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeAlias

Coefficient: TypeAlias = float | Fraction

_ROUNDING = 1e-12  # what the sum of a row may miss: the longest add up numbers as large as 1e2


@dataclass(frozen=True)
class RungeKutta:
    """What all Runge–Kutta methods share; each kind has its own shape of `a`.

    One step of size h from (t, y) has the stages

        k_i = f(t + c_i h, y + h sum_j a_ij k_j)

    and moves to y + h sum_i b_i k_i.

    Parameters
    ----------
    order : int
        The order of the method.
    a : sequence of rows
        The coefficients of the stages.
    b : sequence
        The weights.
    interpolant : sequence of rows
        Row i holds the coefficients of theta, theta², … in b_i(theta); y(t + theta h) = y + h sum_i b_i(theta) k_i.
    interpolant_order : int
        The order of the interpolant, uniformly in theta.
    b_error : sequence, optional
        The weights minus those of the embedded method; None when the method has no error estimate.
    embedded_order : int, optional
        The order of the embedded method.
    """

    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    interpolant: tuple[tuple[float, ...], ...]
    interpolant_order: int
    b_error: tuple[float, ...] | None = None
    embedded_order: int | None = None

    def __post_init__(self) -> None:
        stages = len(self.b)
        self._check_rows()
        total = self._interpolant_rows()
        if len(self.interpolant) != total:
            raise ValueError(f"interpolant must have one row a stage ({total}), got {len(self.interpolant)}")
        if len({len(row) for row in self.interpolant}) != 1:
            raise ValueError("the rows of interpolant must have equal lengths; pad them with zeros")
        if (self.b_error is None) != (self.embedded_order is None):
            raise ValueError("b_error and embedded_order come together")
        if self.b_error is not None and len(self.b_error) != stages:
            raise ValueError(f"b_error must have one weight a stage ({stages}), got {len(self.b_error)}")

    def _check_rows(self) -> None:
        """Refuse an `a` of a wrong shape."""
        raise NotImplementedError

    def _interpolant_rows(self) -> int:
        return len(self.b)

    def _expect_rows(self, lengths: Sequence[int], meaning: str) -> None:
        if [len(row) for row in self.a] != list(lengths):
            raise ValueError(
                f"row i of a must hold {meaning}, one row a stage ({len(self.b)}), "
                f"got rows of {[len(row) for row in self.a]}"
            )

    @property
    def stages(self) -> int:
        """The number of stages."""
        return len(self.b)

    @cached_property
    def c(self) -> tuple[float, ...]:
        """The nodes: each the sum of its row."""
        return nodes(self.a)

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return self.b_error is not None

    @cached_property
    def error_order(self) -> int:
        """The power of h by which the error estimate of a step shrinks."""
        return min(self.order, self.embedded_order or self.order) + 1


@dataclass(frozen=True)
class Tableau(RungeKutta):
    """An explicit Runge–Kutta method: row i of `a` holds the i coefficients of stage i, so the first row is empty.

    Where outputs fall in the step, the extra stages of the interpolant, if any, are evaluated in the same way after
    the others; the interpolant then has rows for these too.

    Parameters
    ----------
    dense_a : sequence of rows, optional
        The rows of the extra stages of the interpolant: row j holds the coefficients of all stages before it.
    b_coarse : sequence, optional
        The weights minus those of a second embedded method, of lower order. With e and d the norms of the errors by
        `b_error` and by `b_coarse`, the error of the step is then e² / sqrt(e² + d²/100).
    coarse_order : int, optional
        The order of that second embedded method.
    """

    dense_a: tuple[tuple[float, ...], ...] = ()
    b_coarse: tuple[float, ...] | None = None
    coarse_order: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.b_coarse is None) != (self.coarse_order is None):
            raise ValueError("b_coarse and coarse_order come together")
        if self.b_coarse is not None:
            if self.b_error is None:
                raise ValueError("b_coarse corrects b_error, which is missing")
            if len(self.b_coarse) != self.stages:
                raise ValueError(f"b_coarse must have one weight a stage ({self.stages}), got {len(self.b_coarse)}")

    def _check_rows(self) -> None:
        stages = len(self.b)
        self._expect_rows(range(stages), "i coefficients")
        if [len(row) for row in self.dense_a] != list(range(stages, stages + len(self.dense_a))):
            raise ValueError(
                f"row j of dense_a must hold a coefficient of each of the {stages} + j stages before it, "
                f"got rows of {[len(row) for row in self.dense_a]}"
            )

    def _interpolant_rows(self) -> int:
        return len(self.b) + len(self.dense_a)

    @cached_property
    def dense_c(self) -> tuple[float, ...]:
        """The nodes of the extra stages."""
        return nodes(self.dense_a)

    @cached_property
    def fsal(self) -> bool:
        """Whether the last stage is the first one of the next step."""
        return self.stages > 1 and self.b[-1] == 0 and self.a[-1] == self.b[:-1]

    @cached_property
    def error_order(self) -> int:
        """The power of h by which the error estimate of a step shrinks."""
        if self.embedded_order is not None and self.coarse_order is not None:
            return 2 * (self.embedded_order + 1) - (self.coarse_order + 1)
        return super().error_order

    @property
    def evaluations(self) -> int:
        """Field evaluations a step, after the first."""
        return self.stages - self.fsal

    @property
    def dense_evaluations(self) -> int:
        """Further field evaluations of a step in which outputs fall."""
        return len(self.dense_a)


@dataclass(frozen=True)
class DiagonalTableau(RungeKutta):
    """A diagonally implicit method: row i of `a` holds the i + 1 coefficients of stage i.

    Its diagonal holds one number, `gamma`, and perhaps a 0 at its head: all stages of a step solve with I - gamma h J.
    """

    def _check_rows(self) -> None:
        self._expect_rows(range(1, len(self.b) + 1), "i + 1 coefficients")
        diagonal = [row[-1] for row in self.a]
        if not all(x == diagonal[-1] > 0 for x in (diagonal if diagonal[0] else diagonal[1:])) or diagonal[-1] == 0:
            raise ValueError(f"the diagonal of a must be one positive number, but for a 0 at its head, got {diagonal}")

    @property
    def gamma(self) -> float:
        """The number on the diagonal."""
        return self.a[-1][-1]

    @property
    def explicit_first(self) -> bool:
        """Whether the first stage is the slope at the start."""
        return self.a[0][0] == 0

    @property
    def stiffly_accurate(self) -> bool:
        """Whether the step ends at the state of the last stage."""
        return self.a[-1] == self.b

    @cached_property
    def fsal(self) -> bool:
        """Whether the last stage is the first one of the next step."""
        return self.explicit_first and self.stiffly_accurate


@dataclass(frozen=True)
class FullTableau(RungeKutta):
    """A fully implicit method: each row of `a` holds a coefficient of every stage.

    Parameters
    ----------
    slope_error : float, optional
        The weight in the error estimate, beside `b_error`, of the slope at the start of the step.
    """

    slope_error: float = 0.0

    def _check_rows(self) -> None:
        self._expect_rows([len(self.b)] * len(self.b), "a coefficient of each stage")

    @property
    def stiffly_accurate(self) -> bool:
        """Whether the step ends at the state of the last stage."""
        return self.a[-1] == self.b


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
    return Tableau(
        **_rounded(order, a, b, interpolant, interpolant_order, b_error, embedded_order),
        dense_a=tuple(floats(row) for row in dense_a),
        b_coarse=None if b_coarse is None else floats(b_coarse),
        coarse_order=coarse_order,
    )


def diagonal_tableau(
    order: int,
    a: Sequence[Sequence[Coefficient]],
    b: Sequence[Coefficient],
    *,
    interpolant: Sequence[Sequence[Coefficient]],
    interpolant_order: int,
    b_error: Sequence[Coefficient] | None = None,
    embedded_order: int | None = None,
) -> DiagonalTableau:
    """A `DiagonalTableau` from numbers of any kind, each rounded to float64 once."""
    return DiagonalTableau(**_rounded(order, a, b, interpolant, interpolant_order, b_error, embedded_order))


def _rounded(
    order: int,
    a: Sequence[Sequence[Coefficient]],
    b: Sequence[Coefficient],
    interpolant: Sequence[Sequence[Coefficient]],
    interpolant_order: int,
    b_error: Sequence[Coefficient] | None,
    embedded_order: int | None,
) -> dict[str, Any]:
    return {
        "order": order,
        "a": tuple(floats(row) for row in a),
        "b": floats(b),
        "interpolant": padded(interpolant),
        "interpolant_order": interpolant_order,
        "b_error": None if b_error is None else floats(b_error),
        "embedded_order": embedded_order,
    }


def nodes(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The sum of each row; one that is an end of the step but for rounding is that end, as a field may end there too.

    Examples
    --------
    >>> nodes([[0.1, 0.2], [0.1, 0.2, 0.7000000000000004]])
    (0.30000000000000004, 1.0)
    """
    sums = [math.fsum(row) for row in rows]
    return tuple(end if abs(c - (end := float(round(c)))) < _ROUNDING else c for c in sums)


def floats(row: Sequence[Coefficient]) -> tuple[float, ...]:
    """The numbers of a row, each rounded to float64."""
    return tuple(float(x) for x in row)


def padded(rows: Sequence[Sequence[Coefficient]]) -> tuple[tuple[float, ...], ...]:
    """The rows, rounded to float64 and filled with zeros to one length."""
    width = max(len(row) for row in rows)
    return tuple(floats(row) + (0.0,) * (width - len(row)) for row in rows)
