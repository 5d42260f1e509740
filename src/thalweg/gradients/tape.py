"""The accepted steps of a solve, kept for a backward pass.

y, carry: (*shape) in joint, (B, *D) per sample. Level n of a tape is the n-th accepted step; per sample, of every row
that has so many, whenever it took it, so that a backward pass has as many levels as the row with the most steps.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.arithmetic import Flag, Number, of_rows, where
from ..core.step import Carry, Step, Stepper, TakenStep
from ..output.saving import EndSaver, JointSaver, RowSaver, Saver


class Level(NamedTuple):
    """One accepted step of each unit; `valid` where there is one, `last` where it ends at t1.

    `rows` are those in the batch, None for all.
    """

    t: Number
    h: Number
    y: Tensor
    carry: Carry | None
    last: Flag
    valid: Flag
    rows: Tensor | None = None


def bare(y: Tensor, carry: Carry | None) -> tuple[Tensor, Carry | None]:
    """A state and a carry without their graph."""
    return y.detach(), None if carry is None else tuple(x.detach() for x in carry)


class JointTape:
    """The steps of the whole batch."""

    def __init__(self) -> None:
        self._levels: list[Level] = []

    def record(self, taken: TakenStep) -> None:
        """Keep where the step began, without its graph."""
        y, carry = bare(taken.y, taken.carry)
        self._levels.append(Level(taken.t, taken.h, y, carry, taken.last, True))

    def close(self) -> int:
        """The number of levels."""
        return len(self._levels)

    def at(self, n: int) -> Level:
        """Level n."""
        return self._levels[n]


class JointTimes:
    """When the whole batch took each step, without the states: as few bytes as that takes."""

    def __init__(self, no_state: Tensor) -> None:
        self._no_state = no_state
        self._times, self._last = array("d"), bytearray()

    def record(self, taken: TakenStep) -> None:
        """Keep when the step was taken."""
        self._times.extend((float(taken.t), float(taken.h)))
        self._last.append(bool(taken.last))

    def close(self) -> int:
        """The number of levels."""
        return len(self._last)

    def at(self, n: int) -> Level:
        """Level n, without a state."""
        t, h = self._times[2 * n : 2 * n + 2]
        return Level(t, h, self._no_state, None, bool(self._last[n]), True)


class RowTape:
    """The steps of each row, its n-th beside the others' n-th."""

    def __init__(self, y0: Tensor) -> None:
        self._rows = torch.arange(y0.shape[0], device=y0.device)
        self._calls: list[Level] = []  # as they came; `valid` where the row accepted
        self._total: int | None = None

    def record(self, taken: TakenStep) -> None:
        """Keep where the step of each accepting row began, without its graph."""
        y, carry = bare(taken.y, taken.carry)
        self._calls.append(Level(taken.t, taken.h, y, carry, taken.last, taken.accept, taken.rows))

    def close(self) -> int:
        """The number of levels; rows that have fewer are given a step that is known to be finite in their place."""
        if self._total is None:
            self._total = self._align() if self._calls else 0
        return self._total

    def _align(self) -> int:
        """Put every row's n-th step beside the others' n-th."""
        accepted, where = self._places()
        counts = accepted.sum(0)
        total = int(counts.max())
        self._in_step = bool(accepted[:total].all()) and len(self._calls) == total
        if self._in_step or total == 0:
            return total
        # the call at which each row took its n-th step; beyond its last one, the first of a row that took one
        level = torch.where(accepted, accepted.cumsum(0) - 1, total)
        call = torch.zeros((total + 1, len(self._rows)), dtype=torch.int64, device=self._rows.device)
        numbers = torch.arange(len(self._calls), device=self._rows.device).unsqueeze(1).expand_as(level)
        call.scatter_(0, level, numbers)
        self._valid = torch.arange(total, device=self._rows.device).unsqueeze(1) < counts
        donor = torch.where(counts > 0, self._rows, torch.argmax(counts))
        call = torch.where(self._valid, call[:-1], call[0, donor])
        self._place = where[call, torch.where(self._valid, self._rows, donor)]

        def column(values: Iterable[Any]) -> Tensor:
            return torch.cat([of_rows(value) for value in values])

        self._columns = [column(getattr(call, name) for call in self._calls) for name in ("t", "h", "y", "last")]
        carries = [call.carry for call in self._calls]
        self._carries = None if carries[0] is None else [column(part) for part in zip(*carries, strict=True)]
        self._calls = []
        return total

    def _places(self) -> tuple[Tensor, Tensor]:
        """Whether each row accepted a step at each call, and where among those of all calls, one after the other."""
        calls, rows = self._calls, self._rows
        accepted = torch.zeros((len(calls), len(rows)), dtype=torch.bool, device=rows.device)
        where = torch.zeros((len(calls), len(rows)), dtype=torch.int64, device=rows.device)
        first = 0
        for i, call in enumerate(calls):
            here = slice(None) if call.rows is None else call.rows
            accepted[i, here] = of_rows(call.valid)
            where[i, here] = torch.arange(first, first + len(call.y), device=rows.device)
            first += len(call.y)
        return accepted, where

    def at(self, n: int) -> Level:
        """Level n."""
        if self._in_step:
            return self._calls[n]
        place = self._place[n]
        t, h, y, last = (column[place] for column in self._columns)
        carry = None if self._carries is None else tuple(column[place] for column in self._carries)
        return Level(t, h, y, carry, last & self._valid[n], self._valid[n])


class OutputIndex:
    """Which outputs lie in the step of each level, of the units that are asked for, and their values."""

    def __init__(self, saver: Saver, stepper: Stepper, times: Tensor | None, asked: Flag = True) -> None:
        self._stepper = stepper
        self._times = times
        self._slices: dict[int, slice] = {}
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}
        if isinstance(saver, JointSaver):
            self._slices = {level: slice(first, end) for level, first, end in saver.levels}
        elif isinstance(saver, RowSaver):
            levels = where(asked, saver.levels[:-1], -1)
            flat = levels.flatten()
            order = torch.argsort(flat, stable=True)
            counts = torch.bincount(flat + 1).tolist()
            start = counts[0] if counts else 0
            for level, count in enumerate(counts[1:]):
                chosen = order[start : start + count]
                self._pairs[level] = (chosen // levels.shape[1], chosen % levels.shape[1])
                start += count
        else:
            assert isinstance(saver, EndSaver)

    def at(self, n: int) -> tuple[slice | Tensor, ...] | None:
        """An index into the outputs, or None where the level has none."""
        if n in self._slices:
            return (self._slices[n],)
        pairs = self._pairs.get(n)
        return pairs if pairs is not None and pairs[0].numel() else None

    def values(
        self, index: tuple[slice | Tensor, ...], step: Step, t: Number, h: Number, y: Tensor, times: Tensor
    ) -> Tensor:
        """The outputs of that index, whose times are `times`, from a step of size h at (t, y)."""
        if len(index) == 1:
            return self._stepper.interpolate(step, y, h, (times - t) / h)
        rows = index[1]
        assert isinstance(t, Tensor)
        assert isinstance(h, Tensor)
        theta = (times - t[rows]) / h[rows]
        return self._stepper.interpolate_rows([k[rows] for k in step.stages], y[rows], h[rows], theta)
