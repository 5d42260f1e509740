"""One step of any diagonally implicit Runge–Kutta method."""

from __future__ import annotations

from torch import Tensor

from ..core.field import FieldLike
from ..core.norms import Tolerance
from ..methods.tableau import DiagonalTableau
from .diagonal import DiagonalStepper


class DIRK(DiagonalStepper):
    """The stepper of diagonally implicit Runge–Kutta methods, made anew for each solve; the whole field is solved for.

    Parameters
    ----------
    tableau : DiagonalTableau
        The method.
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has its own t and h.
    tolerance : Tolerance
        That of the solve, by which the iteration stops.
    """

    def __init__(self, tableau: DiagonalTableau, like: Tensor, *, by_row: bool, tolerance: Tolerance) -> None:
        super().__init__(tableau, like, by_row=by_row, tolerance=tolerance)
        self._filtered = tableau.adaptive and not _ends_in_a_stage(tableau)

    def functions(self, field: FieldLike) -> tuple[FieldLike, ...]:
        """The field."""
        return (field,)

    def filtered(self, error: Tensor) -> Tensor:
        """The error estimate, through M⁻¹ where the embedded method does not end in a stage (Hosea & Shampine 1996)."""
        return self._newton.back(error) if self._filtered else error


def _ends_in_a_stage(tableau: DiagonalTableau) -> bool:
    """Whether the embedded method ends in the state of a stage; if not, its estimate grows with the stiffness."""
    assert tableau.b_error is not None
    embedded = [b - e for b, e in zip(tableau.b, tableau.b_error, strict=True)]
    rows = ([*row, *[0.0] * (tableau.stages - len(row))] for row in tableau.a)
    return any(all(abs(x - y) < 1e-12 for x, y in zip(row, embedded, strict=True)) for row in rows)
