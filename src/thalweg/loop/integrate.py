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
    isfinite,
    minimum,
    negate,
    of_rows,
    sign,
    tally,
    where,
)
from ..core.field import Divisible, FieldLike, kept, time_of
from ..core.norms import Tolerance
from ..core.rows import rows_of, stand_ins
from ..core.status import Status
from ..core.step import Carry, Step, Stepper, TakenStep
from ..core.times import Times
from ..output.dense import DenseRecorder, DenseSteps
from ..output.events import Stop
from ..output.progress import SolveProgress
from ..output.saving import EndSaver, JointSaver, RowSaver, Saver
from ..stepsize.controllers import Controller
from ..stepsize.first_step import first_step
from ..stepsize.stops import Stops
from .batching import Batching, PerSample
from .settling import Attempt, Counts, bounded, cause, relative, settling_of
from .shrink import Crowd, Home


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
            y0=self.y0.index_select(0, rows),
            t0=self.t0.index_select(0, rows),
            t1=self.t1.index_select(0, rows),
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
    dense: DenseRecorder | DenseSteps | None
    t: Number
    h: Number
    y: Tensor
    njev: Count = 0
    nlu: Count = 0
    note: str = ""


def integrate(problem: Problem, recorder: Recorder | None = None) -> Result:
    """Carry y0 from t0 to t1."""
    stepper, units, stops = problem.stepper, problem.batching, problem.stops
    t, t1, y = problem.t0, problem.t1, problem.y0
    direction = sign(t1 - t)
    saver = _saver(problem, direction)
    dense = DenseRecorder() if problem.dense else None

    running: Flag = t != t1
    status = units.count(Status.SUCCESS.value)  # of units that do not run
    counts = Counts.of(units)
    going, _, _ = units.read(running)
    h, carry = t * 0.0, None  # as it stays where nothing runs
    if going:
        h, carry, evaluations = _start(problem, direction)
        counts.nfev = counts.nfev + running * evaluations
        begun = isfinite(h)
        if isinstance(begun, Tensor) and torch.is_grad_enabled() and bool(begun.any()) and not bool(begun.all()):
            y, carry = _begun_elsewhere(problem, begun, carry)
        status = where(begun, status, Status.NONFINITE.value)
        running = running & begun
        h = where(begun, h, 0.0)
        going, _, _ = units.read(running)
    settling = settling_of(problem, h, direction)
    home: Home | None = None
    crowd = Crowd()

    for _ in range(problem.max_steps):
        if not going:
            break
        # a unit that has ended takes steps of size 0, as nothing remains, and keeps its h; h is 0 where it failed
        goal = t1 if stops is None else stops.times.next(t, t1)
        proposed, (lands, h) = h, settling.aim(t, h, goal)
        last = lands if stops is None else lands & (goal == t1)
        t_graph, h_graph = _in_graph(problem, t, h, goal, lands, last, running)
        step = tried = stepper.step(problem.field, t_graph, h_graph, y, carry)

        attempt = Attempt(t, h, y, goal, lands, proposed, running)
        verdict = settling.judge(attempt, tried, counts)
        accept, t_next, error = verdict.accept, verdict.t, verdict.error
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

        running, stuck, h_next, going, most, failing = settling.close(attempt, tried, verdict, t_next, t1, due)
        if failing:
            failed = stuck & negate(accept)
            status = where(failed, cause(problem, tried, error), status)
            running = running & negate(failed)
            h_next = where(failed, 0.0, h_next)
            going, _, _ = units.read(running)

        if extended is step and (most or dense is not None):
            extended = stepper.extend(problem.field, t_graph, h_graph, y, step)
        if extended is not step:
            asked = accept if inside else due > 0
            counts.nfev, step = tally(counts.nfev, asked, extended.nfev - step.nfev), extended
        if most:
            saver.save(stepper, step, t_graph, h_graph, y, counts.n_accepted, most)
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
        y, carry = settling.keep(accept, y_next, y, step, carry, counts)
        if stops is not None and stops.jumps is not None:
            carry, spent = past_jumps(problem, stops.jumps, t_next, y, carry, accept & running)
            counts.nfev = counts.nfev + spent
        t, h = t_next, h_next
        if problem.shrink and going and crowd.thins(settling.count(running), len(y)):
            numbers: Any = (t, h, y, status, *counts)
            home = Home(len(y), y.device) if home is None else home
            rows = home.leave(running, numbers)
            numbers, t1, carry, running = rows_of((numbers, t1, carry, running), rows, len(y))
            t, h, y, status, *counted = numbers
            counts = Counts(*counted)
            problem = problem.taken(rows)
            units, stops = problem.batching, problem.stops
            saver.take(rows)
            stepper.take(rows)
            settling.take(problem, rows)

    status = where(running, Status.MAX_STEPS.value, status)
    if home is not None:
        t, h, y, status, *counted = home.gathered((t, h, y, status, *counts))
        counts = Counts(*counted)
    status = where((status == Status.SUCCESS) & negate(units.finite(y.detach())), Status.NONFINITE.value, status)
    ys = saver.finish(y, status == Status.SUCCESS)
    return Result(
        ys, status, counts.n_steps, counts.n_accepted, counts.nfev, saver, dense, t, h, y, counts.njev, counts.nlu
    )


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
        size = bounded(problem, direction * minimum(problem.first_step, span), direction)
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
        lambda x: relative(problem, x, y),
        stepper.error_order,
    )
    size = bounded(problem, size, direction)
    return size, stepper.init(slope), evaluations + len(problem.field.parts)


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
