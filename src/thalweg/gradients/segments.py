"""A solve with events: segments from one change of the state to the next, each an ordinary solve.

Each segment is first solved without a graph, to find its events. Where a gradient is wanted it is then solved once
more by the gradient method, along the same steps and with outputs at the times that were found; these are constants
of that solve. An event at time t* depends on all that g(t*, y(t*)) = 0 does, by the implicit function theorem:

    dt* = -dg / ġ,   ġ = ∂g/∂t + ∂g/∂y ẏ,   dy* = dy + ẏ dt*.

As events are found on the interpolant of a step, ẏ is its slope, which makes these the derivatives of what was
computed; for continuous gradients, which are those of the solution itself, it is the field. So every gradient method
serves as it is, and what happens between segments is part of the graph.

A number of a unit has the shape (U), which is () in joint and (B,) per sample.
y: (*shape) in joint, (B, *D) per sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.arithmetic import Count, Flag, Number, across, tally
from ..core.once import once
from ..core.status import Status
from ..loop.integrate import GraphTimes, Problem, Result
from ..output.dense import DenseRecorder
from ..output.events import Event, EventFunctions, EventWatch, Found, Until
from .adjoint import Continuous
from .base import GradientMethod, Integrate, Request


@dataclass(frozen=True)
class Evented:
    """What came of a solve with events: outputs, when each unit ended, what was found of each event, and the rest."""

    ys: Tensor
    t_end: Tensor
    found: list[Found]
    result: Result


def solve_with_events(
    integrate: Integrate, method: GradientMethod, request: Request, events: tuple[Event, ...]
) -> Evented:
    """Solve with events; the times of the request are there whether or not they need a gradient."""
    return _Solve(integrate, method, request, events).run()


@dataclass(frozen=True)
class _Segment:
    """One segment: outputs at t_eval, the states where its units ended, what was found, and what the loop reported."""

    ys: Tensor | None
    y_end: Tensor
    found: list[Found]
    result: Result


class _Solve:
    """The segments, one after another."""

    def __init__(
        self, integrate: Integrate, method: GradientMethod, request: Request, events: tuple[Event, ...]
    ) -> None:
        assert request.times is not None
        self.integrate, self.method, self.request = integrate, method, request
        self.problem: Problem = request.problem
        self.times: GraphTimes = request.times
        t0, t1 = self.times.t0.detach(), self.times.t1.detach()
        self.direction = torch.sign(t1 - t0)
        self.functions = EventFunctions(events, request.field, self.direction)
        self.continuous = isinstance(method, Continuous)
        exact = torch.is_grad_enabled() and not self.continuous
        with torch.no_grad():
            self.watch = EventWatch(self.functions, t0, request.y0.detach(), self.direction, slopes=exact)
        self.found: list[list[Found]] = [[] for _ in events]
        self.nfev: Count = self.problem.batching.count(0)
        self.njev = self.nlu = self.nfev

    def run(self) -> Evented:
        """All of them."""
        times, y = self.times, self.request.y0
        t, t1, t_end, y_end = times.t0, times.t1, times.t1, y
        live = torch.ones_like(self.direction, dtype=torch.bool)
        status = torch.zeros_like(live, dtype=torch.int64)
        ys = None if times.t_eval is None else y.new_full((len(times.t_eval), *y.shape), torch.nan)
        n_steps = n_accepted = self.problem.batching.count(0)
        dense = DenseRecorder() if self.problem.dense else None
        begins = True
        while True:
            segment = self._segment(t, y, t1)
            result, stopped, over = segment.result, self.watch.stopped, self.watch.ended
            n_steps, n_accepted = n_steps + result.n_steps, n_accepted + result.n_accepted
            self._count(result)
            if dense is not None and isinstance(result.dense, DenseRecorder):
                dense.extend(result.dense)
            for parts, found in zip(self.found, segment.found, strict=True):
                parts.append(found)

            t_stop, y_stop = self._stop(segment)
            if ys is not None and segment.ys is not None:
                ys = self._merge(ys, segment.ys, t, live, begins)
            t_end = torch.where(live & stopped, t_stop, torch.where(live, t1, t_end))
            y_end = self._where(live, y_stop, y_end)
            # an event that does not get away from the one before, in time, has one after another without end
            moved = (t_stop != t) | begins
            again = stopped & ~over & moved & (self._units(n_steps) < self.problem.max_steps)
            cause = torch.where(moved, Status.MAX_STEPS.value, Status.STEP_UNDERFLOW.value)
            status = torch.where(live, self._units(result.status), status)
            status = torch.where(stopped & ~again, torch.where(over, Status.EVENT.value, cause), status)
            begins = False
            if not bool(again.any()):
                break
            y = self._where(again, self._applied(t_stop, y_stop), y_stop.detach())
            t = torch.where(again, t_stop, self._units(result.t).to(t.dtype))
            t1 = torch.where(again, times.t1, t.detach())
            live = again

        if ys is None:
            success = (status == Status.SUCCESS.value) | (status == Status.EVENT.value)
            ys = torch.stack([self.request.y0, self._where(success, y_end, torch.full_like(y_end, torch.nan))])
        result = replace(
            result,
            status=status if status.ndim else int(status),
            n_steps=n_steps,
            n_accepted=n_accepted,
            nfev=self.nfev,
            njev=self.njev,
            nlu=self.nlu,
            dense=dense,
        )
        return Evented(ys, t_end, [Found.join(parts) for parts in self.found], result)

    def _segment(self, t: Tensor, y: Tensor, t1: Tensor) -> _Segment:
        """From (t, y) to each unit's next stop, or to t1."""
        number = self.problem.batching.number
        moving = t.detach() != t1.detach()  # others' solves are over, and cost no more
        begins = moving if moving.ndim else bool(moving)
        graph = self._in_graph(t, y, begins)
        outputs = None if self.times.t_eval is None else self._from(t, self.times.t_eval)
        problem = replace(
            self.problem,
            y0=y.detach(),
            t0=number(t.detach()),
            t1=number(t1.detach()),
            t_eval=None if outputs is None or graph else outputs.detach(),
            watch=self.watch,
        )
        with torch.no_grad():
            self.nfev = self.nfev + self.watch.begin(t.detach(), y.detach()) * begins
            result = self.integrate(problem)
        halted = self._units(result.status) == Status.STOPPED.value  # by the callback
        self.end = torch.where(self.watch.stopped, self.watch.t, t1)
        self.end = torch.where(halted, self._units(result.t).to(t.dtype), self.end)
        found = self.watch.found
        if not graph:
            return _Segment(None if outputs is None else result.ys, result.y, found, result)
        self._count(result)
        recorded = self._recorded(problem, t, y, t1, outputs, found)
        return replace(recorded, result=replace(recorded.result, status=result.status))

    def _recorded(
        self, problem: Problem, t: Tensor, y: Tensor, t1: Tensor, outputs: Tensor | None, found: list[Found]
    ) -> _Segment:
        """The same once more as part of the graph, up to what was found."""
        end = self.end
        wanted = [torch.where(part.there, part.t, t.detach()) for part in found] + [end.unsqueeze(0)]
        if outputs is not None:
            late = (outputs.detach() - end.detach()) * self.direction > 0
            wanted.append(torch.where(late, end.detach(), outputs))
        times = torch.cat(wanted)
        order = torch.argsort(times.detach() * self.direction, dim=0, stable=True)
        ordered = torch.take_along_dim(times, order, 0)
        timed = any(x.requires_grad for x in (t, t1, times))
        problem = replace(
            problem, t_eval=ordered.detach(), watch=Until(end.detach(), self.direction, inside=problem.dense)
        )
        request = Request(
            problem, y, GraphTimes(t, t1, ordered) if timed else None, self.request.stats, self.request.backward
        )
        ys, result = self.method.run(self.integrate, request)
        back = torch.argsort(order, dim=0)
        ys = torch.take_along_dim(ys, back.view(*back.shape, *(1,) * (ys.ndim - back.ndim)), 0)
        parts = ys.split([len(x) for x in wanted])
        count = len(found)
        found = [self._attached(i, replace(found[i], y=parts[i])) for i in range(count)]
        return _Segment(None if outputs is None else parts[-1], parts[count][0], found, result)

    def _in_graph(self, t: Tensor, y: Tensor, begins: Flag) -> bool:
        """Whether a gradient is wanted of anything that a segment from (t, y) of those units computes."""
        if not torch.is_grad_enabled():
            return False
        times = (t, self.times.t1, self.times.t_eval)
        if y.requires_grad or any(x is not None and x.requires_grad for x in times):
            return True
        if not self.direction.numel():
            return False
        self.nfev = tally(self.nfev, begins, self.functions.evaluations)
        return self.functions.slope(t, y).requires_grad or self.functions.values(t, y).requires_grad

    def _attached(self, i: int, found: Found) -> Found:
        """What was found of event i, as a function of all that it depends on."""
        if not len(found.t):
            return found
        pairs = [self._attach(i, *each) for each in zip(found.t, found.y, found.slope, strict=True)]
        if self.continuous:
            count = found.there.sum(0) if found.there.ndim > 1 else len(pairs)
            self.nfev = self.nfev + self.functions.evaluations * count
        t, y = (torch.stack(x) for x in zip(*pairs, strict=True))
        return replace(found, t=t, y=y)

    def _attach(self, i: int, t: Tensor, y: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """One time and state at which event i is zero, by one Newton step whose length is known: zero."""
        if self.continuous:
            with torch.no_grad():
                slope = self.functions.slope(t, y)
        value = self.functions.value(i, t, y)
        if not value.requires_grad:  # it depends on nothing that a gradient goes to, nor does its time
            return t, y
        shift = _Zero.apply(value, self.functions.rate(i, t, y, slope))
        moved = across(shift, y.ndim) if shift.ndim else shift
        return t + shift, y + moved.to(y.real.dtype if y.is_complex() else y.dtype) * slope

    def _stop(self, segment: _Segment) -> tuple[Tensor, Tensor]:
        """When and where each unit stopped, or came to its end."""
        t, y = self.watch.t, segment.y_end
        for found in reversed(segment.found):  # the first in the list where several stop a unit at once
            for k in reversed(range(len(found.t))):
                t, y = torch.where(found.stops[k], found.t[k], t), self._where(found.stops[k], found.y[k], y)
        return t, y

    def _applied(self, t: Tensor, y: Tensor) -> Tensor:
        """The states after what the events do that stopped the units, in the order of the list."""
        for i, event in enumerate(self.functions.events):
            if event.apply is not None and bool((mine := self.watch.fired[i]).any()):
                y = self._where(mine, self.functions.apply(i, t, y), y)
        return y

    def _from(self, t: Tensor, t_eval: Tensor) -> Tensor:
        """The times of the outputs, none before the segment."""
        return torch.where((t_eval.detach() - t.detach()) * self.direction < 0, t.detach(), t_eval)

    def _merge(self, ys: Tensor, new: Tensor, t: Tensor, live: Tensor, begins: bool) -> Tensor:
        """The outputs with those of a segment from t put in: after t, or at t if the solve begins, up to its stop."""
        assert self.times.t_eval is not None
        t_eval = self.times.t_eval.detach()
        since = (t_eval - t.detach()) * self.direction
        mine = live & (since >= 0 if begins else since > 0)
        mine = mine & ((t_eval - self.end.detach()) * self.direction <= 0)
        return torch.where(mine.view(*mine.shape, *(1,) * (ys.ndim - mine.ndim)), new, ys)

    def _count(self, result: Result) -> None:
        self.nfev, self.njev, self.nlu = self.nfev + result.nfev, self.njev + result.njev, self.nlu + result.nlu

    def _units(self, x: Number) -> Tensor:
        return torch.as_tensor(x, device=self.direction.device)

    def _where(self, units: Tensor, this: Tensor, other: Tensor) -> Tensor:
        return torch.where(across(units, this.ndim) if units.ndim else units, this, other)


class _Zero(torch.autograd.Function):
    """-g/ġ at a root of g: zero, and a function of g."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, rate: Tensor) -> Tensor:
        ctx.save_for_backward(value, rate)
        return torch.zeros_like(value)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        value, rate = ctx.saved_tensors
        gradient = torch.where(cotangent == 0, 0.0, -cotangent / rate)
        return *once([gradient], _FIRST_ORDER, [value]), None


_FIRST_ORDER = (
    "times and states of events have first derivatives alone; for second ones, take finite differences of these"
)
