"""The loop: tries steps, accepts or rejects them, and ends. There is no other.

y: (*shape) in joint, (B, *D) per sample. t, h and every number of a unit: a float in joint, (B,) per sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ..core.arithmetic import (
    Count,
    Flag,
    Number,
    absolute,
    across,
    anywhere,
    clip,
    isfinite,
    maximum,
    minimum,
    negate,
    of_rows,
    sign,
    tally,
    where,
)
from ..core.arithmetic import most as most_of
from ..core.compiled import in_memory
from ..core.derivatives import recorded
from ..core.field import Divisible, FieldLike, kept, time_of
from ..core.norms import Tolerance
from ..core.rows import rows_of, stand_ins
from ..core.status import Status
from ..core.step import Carry, Step, Stepper, TakenStep
from ..core.times import Times
from ..output.dense import DenseRecorder
from ..output.events import Stop
from ..output.progress import SolveProgress
from ..output.saving import EndSaver, JointSaver, RowSaver, Saver
from ..stepsize.controllers import Controller
from ..stepsize.first_step import first_step
from ..stepsize.stops import Stops
from .batching import Batching, PerSample
from .settling import Settler
from .shrink import Home, crowded

_SLACK = 1e-6  # a step that ends this near t1, relative to its size, ends there
_SPACING = 10 * 2.0**-52


@dataclass(frozen=True)
class GraphTimes:
    """The times as tensors, where a gradient to them is wanted: 0-d or (B,); t_eval (T,) or (T, B)."""

    t0: Tensor
    t1: Tensor
    t_eval: Tensor | None


@dataclass(frozen=True)
class Problem:
    """All that the loop needs to know.

    Attributes
    ----------
    first_step : float, Tensor (B,) or None
        The size of the first step, without sign; None: chosen from the field.
    stops : Stops or None
        The times that no step crosses.
    callback : callable or None
        callback(step, t, h, y, accept) of each step that was tried; true to stop.
    graph_times : GraphTimes or None
        The times again, as part of the graph that is being recorded. The sizes of all steps but the last are
        constants of that graph; the last one ends at t1, and one that ends at a stop ends there wherever t0 is.
    watch : Watch or None
        Sees each step that is accepted, and may end units with it.
    shrink : bool
        Whether rows that have ended leave the batch; not with `dense`, a callback or a watch.
    progress : SolveProgress or None
        What shows a person how far the solve has come.
    """

    field: FieldLike
    stepper: Stepper
    controller: Controller
    batching: Batching
    tolerance: Tolerance
    y0: Tensor
    t0: Number
    t1: Number
    t_eval: Tensor | None = None
    first_step: Number | None = None
    max_step: float = math.inf
    min_step: float = 0.0
    max_steps: int = 10_000
    stops: Stops | None = None
    callback: Callable[[Step, Number, Number, Tensor, Flag], bool | None] | None = None
    dense: bool = False
    graph_times: GraphTimes | None = None
    watch: Watch | None = None
    shrink: bool = False
    progress: SolveProgress | None = None

    def taken(self, rows: Tensor) -> Problem:
        """What is still to be known of it where only those rows remain; the stepper follows by itself."""
        times = self.graph_times
        assert isinstance(self.t0, Tensor)
        assert isinstance(self.t1, Tensor)
        return replace(
            self,
            field=cast(Divisible, self.field).taken(rows),
            batching=PerSample(len(rows), rows.device),
            tolerance=self.tolerance.taken(rows),
            y0=self.y0[rows],
            t0=self.t0[rows],
            t1=self.t1[rows],
            stops=None if self.stops is None else self.stops.taken(rows),
            graph_times=None if times is None else replace(times, t0=times.t0[rows], t1=times.t1[rows]),
        )

    @cached_property
    def first_stop(self) -> Number:
        """The end of the steps that move with t0: the first time that no step crosses, or t1."""
        return self.t1 if self.stops is None else self.stops.times.next(self.t0, self.t1)

    def behind_stop(self, t: Number) -> Flag:
        """Whether a step from t begins at or behind the first stop, and so does not move with t0."""
        return self.stops is not None and (t - self.first_stop) * sign(self.t1 - self.t0) >= 0

    def with_graph(self, y0: Tensor, times: GraphTimes | None) -> Problem:
        """The same problem with the tensors that a graph starts from."""
        return replace(self, y0=y0, graph_times=times)


class Watch(Protocol):
    """What may end a unit before t1; `inside` where it needs the states inside a step."""

    inside: bool

    def see(
        self, stepper: Stepper, step: Step, t: Number, h: Number, y: Tensor, t_next: Number, accept: Flag
    ) -> Stop | None:
        """See a step of size h from (t, y) to t_next; says which units end with it, and when and where."""


class Recorder(Protocol):
    """What a gradient method may ask of the loop: to be shown each step that some unit accepts."""

    def record(self, taken: TakenStep) -> None:
        """See a step."""


@dataclass(frozen=True)
class Result:
    """What came of a solve.

    Attributes
    ----------
    ys : Tensor (T, *y0.shape)
    status : int or Tensor (B,)
    saver : Saver
        Which step holds which output.
    t : float or Tensor (B,)
        Where it ended.
    h : float or Tensor (B,)
        The size that the next step would have had, signed.
    y : Tensor
        The state where it ended.
    note : str
        What a solver of another library says where it failed.
    """

    ys: Tensor
    status: Count
    n_steps: Count
    n_accepted: Count
    nfev: Count
    saver: Saver
    dense: DenseRecorder | None
    t: Number
    h: Number
    y: Tensor
    njev: Count = 0
    nlu: Count = 0
    note: str = ""


def integrate(problem: Problem, recorder: Recorder | None = None) -> Result:
    """Carry y0 from t0 to t1."""
    stepper, controller, units, stops = problem.stepper, problem.controller, problem.batching, problem.stops
    t, t1, y = problem.t0, problem.t1, problem.y0
    direction = sign(t1 - t)
    saver = _saver(problem, direction)
    dense = DenseRecorder() if problem.dense else None

    running: Flag = t != t1
    status = units.count(Status.SUCCESS.value)  # of units that do not run
    n_accepted = nfev = njev = nlu = units.count(0)
    n_steps = units.count(0)  # of its own, as a settler counts on in place
    going, _, _ = units.read(running)
    h, carry = t * 0.0, None  # as it stays where nothing runs
    if going:
        h, carry, evaluations = _start(problem, direction)
        nfev = nfev + running * evaluations
        begun = isfinite(h)
        if isinstance(begun, Tensor) and torch.is_grad_enabled() and bool(begun.any()) and not bool(begun.all()):
            y, carry = _begun_elsewhere(problem, begun, carry)
        status = where(begun, status, Status.NONFINITE.value)
        running = running & begun
        h = where(begun, h, 0.0)
        going, _, _ = units.read(running)
    floor = _SPACING * absolute(h)  # no step is smaller: relative to the first one, and to the time
    state = controller.init(h)
    home: Home | None = None
    accept: Flag
    stuck: Flag
    t_next: Number
    h_next: Number
    ahead: tuple[Flag, Number] | None = None  # whether the next step lands, and its size, where that is known
    settler = Settler.of(problem, _SPACING, _SLACK)
    if settler is not None:
        t, t1 = in_memory(of_rows(t)), in_memory(of_rows(t1))

    for _ in range(problem.max_steps):
        if not going:
            break
        # a unit that has ended takes steps of size 0, as nothing remains, and keeps its h; h is 0 where it failed
        goal = t1 if stops is None else stops.times.next(t, t1)
        proposed = h
        if ahead is None:
            remaining = goal - t
            lands = remaining / h <= 1 + _SLACK
            h = where(lands, remaining, h)
        else:
            lands, h = ahead
        last = lands if stops is None else lands & (goal == t1)
        t_graph, h_graph = _in_graph(problem, t, h, goal, lands, last, running)
        step = tried = stepper.step(problem.field, t_graph, h_graph, y, carry)

        error = _error(problem, step, y)
        order = stepper.error_order if step.error_order is None else step.error_order
        settled = None
        if settler is not None and isinstance(error, Tensor):
            tried_by = (t, h, error, goal, proposed, floor)
            settled = settler(tried_by, (lands, running), state, tried.nfev, n_steps, nfev)
            accept, t_next, h_next, state_next = settled.accept, settled.t, settled.h, settled.state
        else:
            decision = controller.adapt(error, h, state, order)
            h_next, state_next = decision.h, decision.state
            accept = _accepted(problem, decision.accept, running, step, error, h)
            t_next = where(accept, where(lands, goal, t + h), t)
        if isinstance(error, Tensor) and torch.is_grad_enabled() and not bool((sound := torch.isfinite(error)).all()):
            # in the graph even a step that is thrown away must be finite, as 0 * inf is NaN: let those rows stand
            # still, where one can; what was tried is what is told and counted
            start = _stand_in(sound, of_rows(t_graph), y, carry)
            step = stepper.step(problem.field, start[0], where(accept, h_graph, 0.0), *start[1:])
        y_next = step.y
        extended, inside = step, dense is not None
        if problem.watch is not None and accept is not False:
            inside = inside or problem.watch.inside
            if problem.watch.inside:
                extended = stepper.extend(problem.field, t_graph, h_graph, y, step)
            stop = problem.watch.see(stepper, extended, t, h, y, t_next, accept)
            if stop is not None:  # there is where it ends: nothing remains
                t_next, t1 = where(stop.units, stop.t, t_next), where(stop.units, stop.t, t1)
                y_next = units.select(stop.units, stop.y, step.y)
        due = saver.due(t_next, accept)

        if settled is not None:
            stuck, running = settled.stuck, settled.running
            going, failing = settled.going, settled.failing
            most, ahead = most_of(due), (settled.lands, settled.h_tried)
        else:
            n_steps = n_steps + running
            nfev = tally(nfev, running, tried.nfev)
            if stepper.implicit:
                njev, nlu = tally(njev, running, tried.njev), tally(nlu, running, tried.nlu)
            stuck = _stuck(problem, running, error, t, h, h_next, floor)
            if stops is not None:  # a step cut short by a stop says little of the next one's size
                h_next = where(accept & lands & (absolute(h_next) < absolute(proposed)), proposed, h_next)
            h_next = where(running, _bounded(problem, h_next, direction), proposed)
            running = running & (t_next != t1)
            going, most, failing = units.read(running, due, stuck)
        if failing:
            failed = stuck & negate(accept)
            status = where(failed, _cause(problem, tried, error), status)
            running, ahead = running & negate(failed), None
            h_next = where(failed, 0.0, h_next)
            going, _, _ = units.read(running)

        if extended is step and (most or dense is not None):
            extended = stepper.extend(problem.field, t_graph, h_graph, y, step)
        if extended is not step:
            asked = accept if inside else due > 0
            nfev, step = tally(nfev, asked, extended.nfev - step.nfev), extended
        if most:
            saver.save(stepper, step, t_graph, h_graph, y, n_accepted, most)
        if recorder is not None and accept is not False:
            rows = None if home is None else home.rows
            recorder.record(TakenStep(step, t, h, y, carry, accept, last, rows))
        if dense is not None:
            dense.record(step, t_graph, h_graph, y, accept)
        if problem.progress is not None:
            problem.progress.advance(t_next, t1, h_next, ended=not going)
        if problem.callback is not None and problem.callback(step, t, h, y, accept):
            status = where(running, Status.STOPPED.value, status)
            running, going = running & False, False
        if stops is not None and stepper.implicit:  # a Jacobian from before a kink may not serve behind it
            stepper.forget(accept & lands & negate(last))
        y = units.select(accept, y_next, y)
        carry = next_carry(problem, step, carry, accept)
        if stops is not None and stops.jumps is not None:
            carry, spent = past_jumps(problem, stops.jumps, t_next, y, carry, accept & running)
            nfev = nfev + spent
        n_accepted = n_accepted + accept
        t, h, state = t_next, h_next, state_next
        if problem.shrink and going and not crowded(running):
            numbers: Any = (t, h, y, status, n_steps, n_accepted, nfev, njev, nlu)
            home = Home(numbers) if home is None else home
            rows = home.leave(running, numbers)
            numbers, rest = rows_of((numbers, (t1, carry, state, running, floor, direction)), rows, len(y))
            t, h, y, status, n_steps, n_accepted, nfev, njev, nlu = numbers
            t1, carry, state, running, floor, direction = rest
            ahead = None
            problem = problem.taken(rows)
            units, stops = problem.batching, problem.stops
            saver.take(rows)
            stepper.take(rows)

    status = where(running, Status.MAX_STEPS.value, status)
    if home is not None:
        numbers = home.keep((t, h, y, status, n_steps, n_accepted, nfev, njev, nlu))
        t, h, y, status, n_steps, n_accepted, nfev, njev, nlu = numbers
    status = where((status == Status.SUCCESS) & negate(units.finite(y.detach())), Status.NONFINITE.value, status)
    ys = saver.finish(y, status == Status.SUCCESS)
    return Result(ys, status, n_steps, n_accepted, nfev, saver, dense, t, h, y, njev, nlu)


def _error(problem: Problem, step: Step, y: Tensor) -> Number:
    """The error of each unit relative to what is allowed; infinite where the equations of the step were not solved.

    Of a step whose size is given, 0 where it is finite.
    """
    if problem.controller.adaptive:
        assert step.error is not None, "an adaptive controller needs a method with an error estimate"
        error = _relative(problem, step.error, y, step.y)
        if step.error_coarse is not None:
            error = _tempered(error, _relative(problem, step.error_coarse, y, step.y))
    else:
        error = problem.batching.blemish(step.y, step.error)  # the error sees stages that the end does not
    return error if step.converged is True else where(step.converged, error, math.inf)


def _accepted(problem: Problem, fits: Flag, running: Flag, step: Step, error: Number, h: Number) -> Flag:
    """Which running units keep the step: where it fits the tolerance, or is as small as it may be; none unsolved."""
    accept = fits & running
    if problem.min_step > 0:
        accept = accept | (running & isfinite(error) & (absolute(h) <= problem.min_step * (1 + _SLACK)))
    return accept if step.converged is True else accept & step.converged


def _stuck(
    problem: Problem,
    running: Flag,
    error: Number,
    t: Number,
    h: Number,
    h_next: Number,
    floor: Number,
) -> Flag:
    """Which units, if they reject the step, can try no smaller one."""
    if not problem.controller.adaptive:  # no other size is allowed
        fits = error <= 1
        return False if fits is True else running & negate(fits)
    stuck = running & (absolute(h_next) <= maximum(absolute(t) * _SPACING, floor))
    return stuck if problem.min_step == 0 else stuck | (running & (absolute(h) <= problem.min_step))


def _relative(problem: Problem, x: Tensor, *states: Tensor) -> Number:
    """How large x is for each unit, relative to the tolerance; nobody differentiates that."""
    given = [y.detach() for y in (x, *states)] if recorded() else [x, *states]
    return problem.batching.reduce(given[0], problem.tolerance, *given[1:])


def _tempered(error: Number, coarse: Number) -> Number:
    """E² / sqrt(e² + d²/100) (Hairer, Nørsett & Wanner 1993, II.10), which is 0 where e is."""
    ratio = clip(coarse / where(error == 0, 1.0, error), 0.0, 1e100)
    return error / (1 + 0.01 * ratio**2) ** 0.5


def _cause(problem: Problem, step: Step, error: Number) -> Count:
    """Why each unit that can go no further fails."""
    units = problem.batching
    cause = where(isfinite(error), Status.STEP_UNDERFLOW.value, units.count(Status.NONFINITE.value))
    if step.converged is True:
        return cause
    unsolved = where(units.finite(step.y.detach()), Status.NOT_CONVERGED.value, units.count(Status.NONFINITE.value))
    return where(step.converged, cause, unsolved)


def _saver(problem: Problem, direction: Number) -> Saver:
    times = problem.t_eval
    if problem.graph_times is not None:
        times = problem.graph_times.t_eval
    if times is None:
        return EndSaver(problem.y0)
    if isinstance(problem.t0, Tensor):
        assert isinstance(direction, Tensor)
        return RowSaver(times, problem.t0, direction, problem.y0)
    assert not isinstance(direction, Tensor)
    return JointSaver(times, problem.t0, direction, problem.y0)


def _start(problem: Problem, direction: Number) -> tuple[Number, Carry | None, int]:
    """The signed size of the first step, the stepper's first carry, and the evaluations that they took."""
    stepper, y = problem.stepper, problem.y0
    choose = problem.first_step is None
    slope, evaluations = None, 0
    t_graph, _ = _in_graph(problem, problem.t0, 0.0, problem.t1, False, False, True)
    if choose or stepper.needs_slope:
        slope = kept(problem.field(time_of(problem.field, t_graph, y.device, direction), y))
        evaluations += len(problem.field.parts)
    if problem.first_step is not None:
        span = absolute(problem.t1 - problem.t0)  # of a longer one, the least size would be too large
        size = _bounded(problem, direction * minimum(problem.first_step, span), direction)
        if slope is not None:  # where it is not finite, no step from here will be
            size = size + problem.batching.blemish(slope)
        return size, stepper.init(slope), evaluations
    assert slope is not None
    size = first_step(
        problem.field,
        problem.t0,
        y.detach(),
        slope.detach(),
        problem.t1 - problem.t0,
        lambda x: _relative(problem, x, y),
        stepper.error_order,
    )
    size = _bounded(problem, size, direction)
    return size, stepper.init(slope), evaluations + len(problem.field.parts)


def _bounded(problem: Problem, h: Number, direction: Number) -> Number:
    """A size within min_step and max_step."""
    if problem.max_step < math.inf:
        h = where(absolute(h) > problem.max_step, direction * problem.max_step, h)
    if problem.min_step > 0:
        h = where(absolute(h) < problem.min_step, direction * problem.min_step, h)
    return h


def next_carry(problem: Problem, step: Step, carry: Carry | None, accept: Flag) -> Carry | None:
    """What the next step has of this one, where it was accepted."""
    if step.carry is None:
        return None
    if carry is None:
        return step.carry if accept is True else None
    return tuple(map(problem.batching.select, repeat(accept), step.carry, carry))


def past_jumps(
    problem: Problem, jumps: Times, t: Number, y: Tensor, carry: Carry | None, going: Flag
) -> tuple[Carry | None, Count]:
    """What steps from (t, y) have of those before, nothing where the field jumps in between; and the evaluations.

    In joint the next step then makes a slope of its own. A row's is made here, as other rows have theirs already.
    """
    anew = going & (jumps.distance(t) == 0)
    if not anywhere(anew):
        return carry, 0
    if anew is True:
        return problem.stepper.init(None), 0
    return begun_anew(problem, t, y, carry, anew), anew * (len(problem.field.parts) * problem.stepper.needs_slope)


def begun_anew(problem: Problem, t: Number, y: Tensor, carry: Carry | None, anew: Flag) -> Carry | None:
    """The carry, that of a first step from (t, y) in the rows that begin anew."""
    slope = None
    if problem.stepper.needs_slope:
        # others are left out by taking the place of one that begins: theirs might not be finite
        rows = stand_ins(of_rows(anew))
        t, y = of_rows(t)[rows], y[rows]
        slope = kept(problem.field(time_of(problem.field, t, y.device, sign(problem.t1 - t)), y))
    fresh = problem.stepper.init(slope, anew)
    if fresh is None or carry is None:
        return fresh
    return tuple(map(problem.batching.select, repeat(anew), fresh, carry))


def _stand_in(sound: Tensor, t: Tensor, y: Tensor, carry: Carry | None) -> tuple[Tensor, Tensor, Carry | None]:
    """Time, state and carry, with those of a sound row in place of each that is not."""
    rows = stand_ins(sound)

    def put(x: Tensor) -> Tensor:
        return torch.where(across(sound, x.ndim), x, x.detach()[rows])

    return put(t), put(y), None if carry is None else tuple(map(put, carry))


def _begun_elsewhere(problem: Problem, begun: Tensor, carry: Carry | None) -> tuple[Tensor, Carry | None]:
    """The state and the first carry, with a row that can begin in place of each that cannot.

    Those rows have failed, but in a graph their field would still turn the gradients that rows share into NaN: 0 * inf.
    """
    _, y, _ = _stand_in(begun, of_rows(problem.t0), problem.y0, None)
    if carry is None:
        return y, None
    t, _ = _in_graph(problem, problem.t0, 0.0, problem.t1, False, False, True)
    return y, problem.stepper.init(problem.field(time_of(problem.field, t, y.device), y))


def _in_graph(
    problem: Problem, t: Number, h: Number, goal: Number, lands: Flag, last: Flag, running: Flag
) -> tuple[Number, Number]:
    """The same t and h, as part of the graph where it holds the times; h is 0 where a unit has ended before its t1."""
    times = problem.graph_times
    if times is None:
        return t, h
    t_graph = where(problem.behind_stop(t), t, times.t0 + (t - problem.t0))
    if problem.stops is not None:
        h = where(lands & running, goal - t_graph, h)
    return t_graph, where(last & running, times.t1 - t_graph, h)
