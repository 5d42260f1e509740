"""What becomes of a step that was tried: whether it is kept, how large the next one is, and which units run on.

There are two ways, compared by the tests: by operations on the numbers of the units, which any solve can go, and by
compiled code, in one pass through the numbers of all rows, where nothing but the error has a say.

y: (*shape) in joint, (B, *D) per sample. t, h and every number of a unit: a float in joint, (B,) per sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..core.arithmetic import (
    Count,
    Flag,
    Number,
    absolute,
    clip,
    isfinite,
    maximum,
    most,
    negate,
    of_rows,
    tally,
    where,
)
from ..core.compiled import in_memory, is_compiled, native, select_rows
from ..core.derivatives import beneath_transforms, recorded, unwrapped
from ..core.norms import is_uniform
from ..core.rows import rows_of
from ..core.status import Status
from ..core.step import Carry, Step
from ..steppers.explicit_rk import ExplicitRK
from ..stepsize.controllers import PID
from .batching import Batching

if TYPE_CHECKING:
    from .integrate import Problem

_SLACK = 1e-6  # a step that ends this near its goal, relative to its size, ends there
_SPACING = 10 * 2.0**-52


class Counts:
    """What is counted of each unit, every number in a tensor of its own: compiled code counts on in place."""

    def __init__(self, *counts: Count) -> None:
        self.n_steps, self.n_accepted, self.nfev, self.njev, self.nlu = counts

    @classmethod
    def of(cls, units: Batching) -> Counts:
        """Nothing as yet."""
        return cls(*(units.count(0) for _ in range(5)))

    def __iter__(self) -> Iterator[Count]:
        """In the order in which they are given."""
        return iter((self.n_steps, self.n_accepted, self.nfev, self.njev, self.nlu))

    def tried(self, running: Flag, step: Step, implicit: bool) -> None:
        """Count a step of the units that run."""
        self.n_steps = self.n_steps + running
        self.nfev = tally(self.nfev, running, step.nfev)
        if implicit:
            self.njev, self.nlu = tally(self.njev, running, step.njev), tally(self.nlu, running, step.nlu)


class Attempt(NamedTuple):
    """A step as it is tried.

    Attributes
    ----------
    t, h : Number
        Where it begins, and its size.
    y : Tensor
        The state there.
    goal : Number
        The next time that no step crosses.
    lands : Flag
        Whether it ends there.
    proposed : Number
        Its size before it was cut to do so.
    running : Flag
        Which units have not ended.
    """

    t: Number
    h: Number
    y: Tensor
    goal: Number
    lands: Flag
    proposed: Number
    running: Flag


class Verdict(NamedTuple):
    """Which units keep a step, where the next one begins, its size as it is proposed, and the error of this one."""

    accept: Flag
    t: Number
    h: Number
    error: Number


class Outcome(NamedTuple):
    """What a step leaves.

    Attributes
    ----------
    running, stuck : Flag
        Which units run on, and which can try no smaller step.
    h : Number
        The size of the next one as it is proposed.
    going, failing : bool
        Whether any unit runs on, and whether any is stuck.
    most : int
        The most outputs that are due of any unit.
    """

    running: Flag
    stuck: Flag
    h: Number
    going: bool
    most: int
    failing: bool


class Settling:
    """How the steps of one solve are settled: by operations on the numbers of the units.

    Parameters
    ----------
    problem : Problem
        What is solved.
    h, direction : Number
        The signed size of the first step, and its sign.
    """

    def __init__(self, problem: Problem, h: Number, direction: Number) -> None:
        self._problem, self._direction = problem, direction
        self._floor = _SPACING * absolute(h)  # no step is smaller: relative to the first one, and to the time
        self._state = problem.controller.init(h)

    def aim(self, t: Number, h: Number, goal: Number) -> tuple[Flag, Number]:
        """Whether a step of size h from t ends at the goal, and its size so that it does not go beyond."""
        remaining = goal - t
        lands = remaining / h <= 1 + _SLACK
        return lands, where(lands, remaining, h)

    def judge(self, tried: Attempt, step: Step, counts: Counts) -> Verdict:
        """Count the step, keep it or not, by its error, and propose the next one."""
        problem, controller = self._problem, self._problem.controller
        error = measured(problem, step, tried.y)
        order = problem.stepper.error_order if step.error_order is None else step.error_order
        decision = controller.adapt(error, tried.h, self._state, order)
        self._state = decision.state
        counts.tried(tried.running, step, problem.stepper.implicit)
        accept = _accepted(problem, decision.accept, tried, step, error)
        t = where(accept, where(tried.lands, tried.goal, tried.t + tried.h), tried.t)
        return Verdict(accept, t, decision.h, error)

    def close(self, tried: Attempt, step: Step, verdict: Verdict, t_next: Number, t1: Number, due: Count) -> Outcome:
        """See what is left to do: one read of the device.

        Parameters
        ----------
        t_next, t1 : Number
            Where the next step begins, and where the solve ends, as far as is known now.
        due : Count
            How many outputs lie in the step.
        """
        problem, h = self._problem, verdict.h
        stuck = _stuck(problem, tried, verdict, self._floor)
        if problem.stops is not None:  # a step cut short by a stop says little of the next one's size
            shorter = verdict.accept & tried.lands & (absolute(h) < absolute(tried.proposed))
            h = where(shorter, tried.proposed, h)
        h = where(tried.running, bounded(problem, h, self._direction), tried.proposed)
        running = tried.running & (t_next != t1)
        going, due_of_any, failing = problem.batching.read(running, due, stuck)
        return Outcome(running, stuck, h, going, due_of_any, failing)

    def keep(
        self, accept: Flag, y_next: Tensor, y: Tensor, step: Step, carry: Carry | None, counts: Counts
    ) -> tuple[Tensor, Carry | None]:
        """Count the units that accept; the state and the carry that the next step begins with."""
        counts.n_accepted = counts.n_accepted + accept
        return self._problem.batching.select(accept, y_next, y), next_carry(self._problem, step, carry, accept)

    def count(self, running: Flag) -> int:
        """How many rows run on: one read of the device."""
        assert isinstance(running, Tensor)
        return int(running.sum())

    def take(self, problem: Problem, rows: Tensor) -> None:
        """Go on with some of the rows alone, (M,) indices; the problem is what remains of it."""
        numbers, whole = (self._direction, self._floor, self._state), len(of_rows(self._floor))
        self._problem = problem
        self._direction, self._floor, self._state = rows_of(numbers, rows, whole)


class CompiledSettling(Settling):
    """The same by compiled code, of rows that nothing but the error has a say in.

    All that becomes of a step is known as soon as it is judged, and at what the next one aims as well.
    """

    def __init__(self, problem: Problem, h: Number, direction: Number) -> None:
        super().__init__(problem, h, direction)
        controller = problem.controller
        assert isinstance(controller, PID)
        power = -controller.icoeff / problem.stepper.error_order
        self._settle = native.Settler(
            controller.safety, controller.factor_min, controller.factor_max, power, _SPACING, _SLACK
        )
        self._limit = of_rows(self._state.limit)
        self._prepare(problem)

    @staticmethod
    def suits(problem: Problem) -> bool:
        """Whether that may be done."""
        controller, t0 = problem.controller, problem.t0
        alone = (
            *(problem.stops is None, problem.watch is None, problem.min_step == 0, problem.max_step == math.inf),
            *(type(controller) is PID, type(problem.stepper) is ExplicitRK),
        )
        if not all(alone) or not isinstance(t0, Tensor) or not is_compiled(t0):
            return False
        assert isinstance(controller, PID)
        return not (controller.pcoeff or controller.dcoeff)

    def _prepare(self, problem: Problem) -> None:
        """What all steps of those rows share."""
        y, tolerance = problem.y0, problem.tolerance
        self._rows, self._entries = len(y), y.numel() // len(y)
        self._states = is_compiled(y)  # otherwise they are left to PyTorch, as is how large errors are
        self._measure = native.measure_float if y.dtype is torch.float32 else native.measure_double
        self._measures = self._states and is_uniform(tolerance, y.dtype)
        self._goal = in_memory(of_rows(problem.t1))
        self._ahead: tuple[Tensor, Tensor] | None = None
        self._numbers = self._limit.new_empty((5, self._rows))
        self._marks = self._limit.new_empty((4, self._rows), dtype=torch.bool)

    def aim(self, t: Number, h: Number, goal: Number) -> tuple[Flag, Number]:
        """As it is known from the step before."""
        return super().aim(t, h, goal) if self._ahead is None else self._ahead

    def judge(self, tried: Attempt, step: Step, counts: Counts) -> Verdict:
        """All that becomes of the step."""
        numbers, marks = torch.empty_like(self._numbers), torch.empty_like(self._marks)
        error, t, h, limit, h_ahead = numbers.unbind()
        accept, running, stuck, lands_ahead = marks.unbind()
        if self._measures and step.error_coarse is None:
            self._measure_into(error, step, tried.y)
        else:
            error = of_rows(measured(self._problem, step, tried.y))
        evaluations: Any = step.nfev
        read: Any = (in_memory(of_rows(tried.t)), tried.h, error, self._goal, tried.proposed)
        read += (self._floor, self._limit, tried.lands, tried.running)
        self._going, self._failing = self._settle(
            self._rows, evaluations, [x.data_ptr() for x in read], t.data_ptr(), accept.data_ptr(),
            of_rows(counts.n_steps).data_ptr(), of_rows(counts.nfev).data_ptr(),
        )  # fmt: skip
        self._running, self._stuck, self._limit = running, stuck, limit
        self._ahead = None if self._failing else (lands_ahead, h_ahead)
        return Verdict(accept, t, h, error)

    def close(self, tried: Attempt, step: Step, verdict: Verdict, t_next: Number, t1: Number, due: Count) -> Outcome:
        """What is known already."""
        return Outcome(self._running, self._stuck, verdict.h, self._going > 0, most(due), self._failing)

    def keep(
        self, accept: Flag, y_next: Tensor, y: Tensor, step: Step, carry: Carry | None, counts: Counts
    ) -> tuple[Tensor, Carry | None]:
        """The same."""
        if not self._states:
            return super().keep(accept, y_next, y, step, carry, counts)
        marks = of_rows(accept)
        native.count_rows(marks.data_ptr(), self._rows, of_rows(counts.n_accepted).data_ptr())
        y = select_rows(marks, y_next, y)
        if step.carry is None or carry is None:  # nothing is carried
            return y, None
        return y, tuple(map(select_rows, repeat(marks), step.carry, carry))

    def count(self, running: Flag) -> int:
        """As it was counted, but where some have failed since."""
        return self._going if running is self._running else super().count(running)

    def take(self, problem: Problem, rows: Tensor) -> None:
        """Go on with some of the rows alone."""
        self._problem = problem
        self._floor, self._limit = (of_rows(x).index_select(0, rows) for x in (self._floor, self._limit))
        self._prepare(problem)

    def _measure_into(self, error: Tensor, step: Step, y: Tensor) -> None:
        """How large the error of each row is, relative to the tolerance."""
        tolerance, y, x = self._problem.tolerance, in_memory(y), step.error
        assert x is not None
        self._measure(
            x.data_ptr(), y.data_ptr(), step.y.data_ptr(), tolerance.atol.data_ptr(), tolerance.rtol,
            self._rows, self._entries, error.data_ptr(),
        )  # fmt: skip


def settling_of(problem: Problem, h: Number, direction: Number) -> Settling:
    """How the steps of a problem are settled, the first of which has size h."""
    kind = CompiledSettling if CompiledSettling.suits(problem) else Settling
    return kind(problem, h, direction)


def measured(problem: Problem, step: Step, y: Tensor) -> Number:
    """The error of each unit relative to what is allowed; infinite where the equations of the step were not solved.

    Of a step whose size is given, 0 where it is finite.
    """
    if problem.controller.adaptive:
        assert step.error is not None, "an adaptive controller needs a method with an error estimate"
        error = relative(problem, step.error, y, step.y)
        if step.error_coarse is not None:
            error = _tempered(error, relative(problem, step.error_coarse, y, step.y))
    else:
        error = problem.batching.blemish(step.y, step.error)  # the error sees stages that the end does not
    return error if step.converged is True else where(step.converged, error, math.inf)


def relative(problem: Problem, x: Tensor, *states: Tensor) -> Number:
    """How large x is for each unit, relative to the tolerance; nobody differentiates that."""
    if not recorded():
        return problem.batching.reduce(x, problem.tolerance, *states)
    given = [unwrapped(y.detach()) for y in (x, *states)]
    with beneath_transforms():
        return problem.batching.reduce(given[0], problem.tolerance, *given[1:])


def bounded(problem: Problem, h: Number, direction: Number) -> Number:
    """A size within min_step and max_step."""
    if problem.max_step < math.inf:
        h = where(absolute(h) > problem.max_step, direction * problem.max_step, h)
    if problem.min_step > 0:
        h = where(absolute(h) < problem.min_step, direction * problem.min_step, h)
    return h


def cause(problem: Problem, step: Step, error: Number) -> Count:
    """Why each unit that can go no further fails."""
    units = problem.batching
    found = where(isfinite(error), Status.STEP_UNDERFLOW.value, units.count(Status.NONFINITE.value))
    if step.converged is True:
        return found
    unsolved = where(units.finite(step.y.detach()), Status.NOT_CONVERGED.value, units.count(Status.NONFINITE.value))
    return where(step.converged, found, unsolved)


def next_carry(problem: Problem, step: Step, carry: Carry | None, accept: Flag) -> Carry | None:
    """What the next step has of this one, where it was accepted."""
    if step.carry is None:
        return None
    if carry is None:
        return step.carry if accept is True else None
    return tuple(map(problem.batching.select, repeat(accept), step.carry, carry))


def _tempered(error: Number, coarse: Number) -> Number:
    """E² / sqrt(e² + d²/100) (Hairer, Nørsett & Wanner 1993, II.10), which is 0 where e is."""
    ratio = clip(coarse / where(error == 0, 1.0, error), 0.0, 1e100)
    return error / (1 + 0.01 * ratio**2) ** 0.5


def _accepted(problem: Problem, fits: Flag, tried: Attempt, step: Step, error: Number) -> Flag:
    """Which running units keep the step: where it fits the tolerance, or is as small as it may be; none unsolved."""
    accept = fits & tried.running
    if problem.min_step > 0:
        least = absolute(tried.h) <= problem.min_step * (1 + _SLACK)
        accept = accept | (tried.running & isfinite(error) & least)
    return accept if step.converged is True else accept & step.converged


def _stuck(problem: Problem, tried: Attempt, verdict: Verdict, floor: Number) -> Flag:
    """Which units, if they reject the step, can try no smaller one."""
    running = tried.running
    if not problem.controller.adaptive:  # no other size is allowed
        fits = verdict.error <= 1
        return False if fits is True else running & negate(fits)
    stuck = running & (absolute(verdict.h) <= maximum(absolute(tried.t) * _SPACING, floor))
    return stuck if problem.min_step == 0 else stuck | (running & (absolute(tried.h) <= problem.min_step))
