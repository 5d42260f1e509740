"""How a solve ended, and what a person can do about it."""

from __future__ import annotations

from copy import deepcopy
from enum import IntEnum
from typing import Any


class Status(IntEnum):
    """How the solve of one unit (the whole batch, or one row of it) ended.

    Examples
    --------
    >>> import thalweg
    >>> thalweg.Status(0)
    <Status.SUCCESS: 0>
    >>> print(thalweg.Status.MAX_STEPS.message)
    the step limit was reached before t1: raise max_steps, loosen rtol and atol, or try a stiff method
    """

    RUNNING = -1
    SUCCESS = 0
    MAX_STEPS = 1
    STEP_UNDERFLOW = 2
    NONFINITE = 3
    NOT_CONVERGED = 4
    STOPPED = 5
    EVENT = 6
    SINGULAR = 7

    @property
    def success(self) -> bool:
        """Whether the solve came as far as was asked: to t1, or to a terminal event."""
        return self in (Status.SUCCESS, Status.EVENT)

    @property
    def message(self) -> str:
        """One sentence: what happened and what to try."""
        return MESSAGES[self]


STATUSES = {int(status): status for status in Status}
"""Each by its number, sooner than `Status(number)` tells."""

MESSAGES = {
    Status.RUNNING: "the solve is still running",
    Status.SUCCESS: "the solver reached t1",
    Status.MAX_STEPS: "the step limit was reached before t1: "
    "raise max_steps, loosen rtol and atol, or try a stiff method",
    Status.STEP_UNDERFLOW: "the step size fell below the spacing of floating-point numbers: "
    "the solution may become infinite there (end t_span before, or bound the field), the field may jump (name the "
    "times in jump_ts, or smooth it) or be too stiff (try method='rodas5p'), events may change the state ever faster, "
    "or the tolerance asks for more than the dtype holds (loosen rtol and atol, or use float64)",
    Status.NONFINITE: "the state or the field became NaN or infinite and no smaller step avoided it: "
    "check the field at the time of failure, bound its output (tanh, weight decay), shorten t_span, or give an "
    "atol above 0 where the state is 0",
    Status.NOT_CONVERGED: "the equations of an implicit step could not be solved, or a stabilised one needs more "
    "stages than rounding allows: check that the field is smooth and the solution does not become infinite there, "
    "give a smaller step_size or first_step, or choose a method that does not iterate, such as 'tsit5'",
    Status.STOPPED: "the callback stopped the solve",
    Status.EVENT: "a terminal event ended the solve",
    Status.SINGULAR: "the Jacobian of the field has no inverse",
}


class SolveError(RuntimeError):
    """A solve that did not reach t1.

    Attributes
    ----------
    solution : Solution or SteadyState
        Everything that was computed: values up to the failure, NaN after it, and the status of each row.
    """

    def __init__(self, message: str, solution: Any) -> None:
        super().__init__(message)
        self.solution = solution

    def __reduce__(self) -> tuple[Any, ...]:
        """How it is copied and pickled, as on the way from another process: with the solution, but not its graph."""
        solution = _without_graph(self.solution)
        return type(self), (*self.args, solution), {**vars(self), "solution": solution}


def _without_graph(solution: Any) -> Any:
    """The same, with new tensors in place of those that were computed in a graph, which cannot leave it."""
    from .holdings import all_tensors  # PyTorch, which the names of statuses need not wait for

    tensors = list(all_tensors(solution))
    if all(tensor.is_leaf for tensor in tensors):
        return solution
    return deepcopy(solution, {id(tensor): tensor if tensor.is_leaf else tensor.detach() for tensor in tensors})
