"""Which stepper takes the steps of which method."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..core.norms import Tolerance
from ..core.step import Stepper
from ..methods.adams import Multistep, VariableAdams
from ..methods.auto import Switching
from ..methods.imex import Imex
from ..methods.registry import MethodData
from ..methods.rkc import Stabilised
from ..methods.rosenbrock import Rosenbrock
from ..methods.symplectic import Splitting
from ..methods.tableau import DiagonalTableau, FullTableau, Tableau
from .adams import MultistepStepper, VariableAdamsStepper
from .auto import AutoStepper
from .dirk import DIRK
from .explicit_rk import ExplicitRK
from .firk import FIRK
from .imex import ImexStepper
from .rkc import StabilisedStepper
from .rosenbrock import RosenbrockStepper
from .symplectic import SplittingStepper


def stepper_for(data: MethodData, like: Tensor, *, by_row: bool, tolerance: Tolerance, fixed: bool = False) -> Stepper:
    """A stepper for one solve.

    Parameters
    ----------
    data : MethodData
        The method's coefficients.
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has its own t and h.
    tolerance : Tolerance
        That of the solve, by which iterations stop.
    fixed : bool
        Whether the size of a step is given, so that a smaller one is no way out of equations that are hard to solve.
    """
    if fixed and isinstance(data, DiagonalTableau | FullTableau):
        data = replace(data, b_error=None, embedded_order=None)  # nobody asks for its estimate
    if isinstance(data, Tableau):
        return ExplicitRK(data, like, by_row=by_row)
    if isinstance(data, DiagonalTableau):
        return DIRK(data, like, by_row=by_row, tolerance=tolerance)
    if isinstance(data, FullTableau):
        return FIRK(data, like, by_row=by_row, tolerance=tolerance)
    if isinstance(data, Rosenbrock):
        return RosenbrockStepper(data, like, by_row=by_row)
    if isinstance(data, Switching):
        return AutoStepper(data, like, by_row=by_row, tolerance=tolerance)
    if isinstance(data, Multistep):
        return MultistepStepper(data, like, by_row=by_row)
    if isinstance(data, VariableAdams):
        return VariableAdamsStepper(data, like, by_row=by_row, tolerance=tolerance)
    if isinstance(data, Imex):
        return ImexStepper(data, like, by_row=by_row, tolerance=tolerance)
    if isinstance(data, Splitting):
        return SplittingStepper(data, like, by_row=by_row)
    if isinstance(data, Stabilised):
        return StabilisedStepper(data, like, by_row=by_row, tolerance=tolerance)
    raise NotImplementedError(f"no stepper takes the steps of {type(data).__name__}")
