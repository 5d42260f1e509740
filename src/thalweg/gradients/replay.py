"""The accepted steps of a solve of which only so many beginnings are kept: the others are computed again.

A step is one call of the stepper that some unit accepted, of the whole batch at once; where each has its own times, not
all rows accept each. What is small is kept of each, its time and size, and which units accepted it: so a step is taken
again just as it was, and none that all units rejected.

y, carry: (*shape) in joint, (B, *D) per sample. t, h, accept, last: of the whole batch, or (B,).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from ..core.arithmetic import Flag, Number, across, most, negate, of_rows
from ..core.field import Field
from ..core.rows import stand_ins
from ..core.solution import Stats
from ..core.step import Carry, TakenStep
from ..loop.integrate import Problem, past_jumps
from ..loop.settling import next_carry
from .schedule import Places
from .tape import Level, bare

_State: TypeAlias = tuple[Tensor, Carry | None]
"""What a step begins with: y and carry."""


@dataclass(frozen=True, slots=True)
class _Call:
    """When a step was taken, how long it is, who accepted it, and for whom it is the last."""

    t: Number
    h: Number
    accept: Flag
    last: Flag


class ReplayTape:
    """The steps as they came, and the beginnings of no more than `count` of them, that of the first not counted.

    Parameters
    ----------
    count : int
        How many states may be kept.
    problem : Problem
        The solve.
    field : Field
        The field whose steps are taken again.
    stats : Stats
        Where evaluations are counted.
    """

    def __init__(self, count: int, problem: Problem, field: Field, stats: Stats) -> None:
        self._problem, self._stats = replace(problem, field=field), stats
        self._places = Places(count)
        self._calls: list[_Call] = []
        self._states: dict[int, _State] = {}

    def record(self, taken: TakenStep) -> None:
        """Keep when a step was taken, and perhaps where it began."""
        if isinstance(taken.accept, Tensor) and not bool(taken.accept.any()):
            return
        n = len(self._calls)
        self._calls.append(_Call(taken.t, taken.h, taken.accept, taken.last))
        given_up = self._places.add(n) if n else None
        if given_up != n:
            self._states[n] = bare(taken.y, taken.carry)
        if given_up is not None:
            self._states.pop(given_up, None)

    def close(self) -> int:
        """The number of steps."""
        return len(self._calls)

    def at(self, n: int) -> Level:
        """Step n; rows that did not accept it stand still where they began."""
        for later in [m for m in self._states if m > n]:
            del self._states[later]
        begin, stops = self._places.way_to(n)
        state = self._states[begin]
        for i in range(begin, n):
            state = self._again(i, *state)
            if i + 1 in stops:
                self._states[i + 1] = state
                self._places.keep(i + 1)
        call, (y, carry) = self._calls[n], state
        if not isinstance(call.accept, Tensor):
            return Level(call.t, call.h, y, carry, call.last, True)
        return self._standing(call, y, carry)

    def numbers_of(self, levels: Tensor) -> Tensor:
        """The numbers of the steps that are the levels-th of their rows, (N, B); -1, for none, stays."""
        if not self._calls:
            return levels
        accepted = self._accepted
        places = torch.where(accepted, accepted.cumsum(0) - 1, len(accepted))
        numbers = torch.arange(len(accepted), device=levels.device).unsqueeze(1).expand_as(places)
        steps = torch.zeros((len(accepted) + 1, levels.shape[1]), dtype=torch.int64, device=levels.device)
        return torch.where(levels < 0, levels, steps.scatter(0, places, numbers).gather(0, levels.clamp(min=0)))

    def _again(self, i: int, y: Tensor, carry: Carry | None) -> _State:
        """The beginning of step i + 1, from that of step i."""
        problem, call = self._problem, self._calls[i]
        problem.stepper.forget()  # as when the step was taken
        step = problem.stepper.step(problem.field, call.t, call.h, y, carry)
        self._stats.nfev_backward += most(step.nfev)
        y, carry = problem.batching.select(call.accept, step.y, y), next_carry(problem, step, carry, call.accept)
        if problem.stops is not None and problem.stops.jumps is not None:
            going, t = call.accept & negate(call.last), self._calls[i + 1].t
            carry, evaluations = past_jumps(problem, problem.stops.jumps, t, y, carry, going)
            self._stats.nfev_backward += most(evaluations)
        return y, carry

    def _standing(self, call: _Call, y: Tensor, carry: Carry | None) -> Level:
        """A step of size 0 from the start for the rows that did not accept: it is finite, and nothing is asked of it.

        A row that never took a step, whose own start may not be finite, stands where one began that took some.
        """
        accept, first, (y0, carry0) = call.accept, self._calls[0], self._states[0]
        assert isinstance(accept, Tensor)
        assert isinstance(first.t, Tensor)
        rows = self._rows

        def own(x: Tensor, start: Tensor) -> Tensor:
            return torch.where(across(accept, x.ndim), x, start[rows])

        t, h = torch.where(accept, call.t, first.t[rows]), torch.where(accept, call.h, 0.0)
        carry = None if carry is None or carry0 is None else tuple(map(own, carry, carry0))
        return Level(t, h, own(y, y0), carry, call.last & accept, accept)

    @cached_property
    def _rows(self) -> Tensor:
        """Every row that took a step, and one such row in place of each that took none, (B,)."""
        return stand_ins(self._accepted.any(0))

    @cached_property
    def _accepted(self) -> Tensor:
        """Who accepted which step, (N, B)."""
        return torch.stack([of_rows(call.accept) for call in self._calls])
