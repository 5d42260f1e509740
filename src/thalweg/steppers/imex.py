"""One step of any IMEX method, for dy/dt = f(t, y) + g(t, y) with a stiff g."""

from __future__ import annotations

from torch import Tensor

from ..core.field import FieldLike
from ..core.norms import Tolerance
from ..methods.imex import Imex
from .diagonal import DiagonalStepper


class ImexStepper(DiagonalStepper):
    """The stepper of IMEX methods, made anew for each solve; g alone is solved for, with its Jacobian.

    The last stage ends in the state that the step moves to but for the weights of f, so that the next step evaluates
    both functions at its start.

    Parameters
    ----------
    method : Imex
        The method.
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has its own t and h.
    tolerance : Tolerance
        That of the solve, by which the iteration stops.

    References
    ----------
    Kennedy & Carpenter, Additive Runge–Kutta schemes for convection–diffusion–reaction equations (2003).
    """

    def __init__(self, method: Imex, like: Tensor, *, by_row: bool, tolerance: Tolerance) -> None:
        super().__init__(method.implicit, like, by_row=by_row, tolerance=tolerance, others=[method.explicit.a])

    def functions(self, field: FieldLike) -> tuple[FieldLike, ...]:
        """G, and f."""
        f, g = field.parts
        return g, f
