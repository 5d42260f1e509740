"""What becomes of a step of each row, in one pass by compiled code, where nothing but the error has a say in it.

The formulas are those of `integrate`, which does everything else by PyTorch's operations. All numbers are (B,).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from ..core.arithmetic import Count, Flag, Number, of_rows
from ..core.compiled import is_compiled, native
from ..steppers.explicit_rk import ExplicitRK
from ..stepsize.controllers import PID, PIDState

if TYPE_CHECKING:
    from .integrate import Problem


class Settled(NamedTuple):
    """What became of a step.

    Attributes
    ----------
    accept, stuck, running : Tensor
        Which rows keep it, which can try no smaller one, and which run on.
    t, h : Tensor
        Where the next one begins, and its size as it is proposed.
    h_tried, lands : Tensor
        Its size as it is tried, and whether it ends at t1.
    state : PIDState
    going, failing : bool
        Whether any row runs on, and whether any is stuck.
    """

    accept: Tensor
    stuck: Tensor
    running: Tensor
    t: Tensor
    h: Tensor
    h_tried: Tensor
    lands: Tensor
    state: PIDState
    going: bool
    failing: bool


class Settler:
    """How the steps of one solve are settled."""

    def __init__(self, controller: PID, order: float, spacing: float, slack: float) -> None:
        power = -controller.icoeff / order
        self._settle = native.Settler(
            controller.safety, controller.factor_min, controller.factor_max, power, spacing, slack
        )

    @classmethod
    def of(cls, problem: Problem, spacing: float, slack: float) -> Settler | None:
        """That of a problem; None where something else has a say, or PyTorch must compute it."""
        controller, t0 = problem.controller, problem.t0
        alone = (
            *(problem.stops is None, problem.watch is None, problem.min_step == 0, problem.max_step == math.inf),
            *(type(controller) is PID, type(problem.stepper) is ExplicitRK),
        )
        if not all(alone) or not isinstance(t0, Tensor) or not is_compiled(t0):
            return None
        assert isinstance(controller, PID)
        if controller.pcoeff or controller.dcoeff:
            return None
        return cls(controller, problem.stepper.error_order, spacing, slack)

    def __call__(
        self,
        numbers: tuple[Number, Number, Number, Number, Number, Number],
        flags: tuple[Flag, Flag],
        state: PIDState,
        evaluations: Count,
        n_steps: Count,
        nfev: Count,
    ) -> Settled:
        """Settle a step, and count on in place.

        Parameters
        ----------
        numbers : (t, h, error, goal, proposed, floor)
            Where the step began, its size and its error; t1; its size before it was cut to end there; the least size.
        flags : (lands, running)
            Which rows it takes to t1, and which have not ended.
        """
        read = [of_rows(x) for x in (*numbers, state.limit, *flags)]
        rows = read[0].shape[0]
        made, marks = read[0].new_empty((4, rows)), read[-1].new_empty((4, rows))
        assert isinstance(evaluations, int)
        going, failing = self._settle(
            rows, evaluations, [x.data_ptr() for x in read], made.data_ptr(), marks.data_ptr(),
            of_rows(n_steps).data_ptr(), of_rows(nfev).data_ptr(),
        )  # fmt: skip
        t, h, limit, h_tried = made.unbind()
        accept, running, stuck, lands = marks.unbind()
        state = PIDState(state.before, state.two_before, limit, state.factors)
        return Settled(accept, stuck, running, t, h, h_tried, lands, state, going, failing)
