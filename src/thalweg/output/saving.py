"""The states at the times that were asked for, from each step's interpolant: a solve never steps onto them.

y: (*shape) in joint, (B, *D) per sample; ys: (T, *y.shape).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..core.arithmetic import Count, Flag, Number, across, as_list, of_rows
from ..core.derivatives import recorded, transformed
from ..core.step import Step, Stepper


class Saver(Protocol):
    """What the loop asks of one that keeps outputs."""

    def due(self, t: Number, accept: Flag) -> Count:
        """How many outputs lie in the accepted step of each unit, which ends at t."""

    def save(self, stepper: Stepper, step: Step, t: Number, h: Number, y: Tensor, level: Count, most: int) -> None:
        """Keep the outputs that are due, at most `most` of any unit; `level` counts the steps accepted before."""

    def take(self, rows: Tensor) -> None:
        """Go on with some of the rows alone, (M,) indices."""

    def finish(self, y: Tensor, success: Flag) -> Tensor:
        """All outputs, NaN where the solve did not come; y is the state at the end. They are kept no longer."""


class EndSaver:
    """The states at t0 and t1 alone."""

    def __init__(self, y0: Tensor) -> None:
        self._y0 = y0

    def due(self, t: Number, accept: Flag) -> int:
        """Nothing on the way."""
        return 0

    def save(self, stepper: Stepper, step: Step, t: Number, h: Number, y: Tensor, level: Count, most: int) -> None:
        """Nothing on the way."""

    def take(self, rows: Tensor) -> None:
        """Nothing to leave behind."""

    def finish(self, y: Tensor, success: Flag) -> Tensor:
        """Both ends."""
        if isinstance(success, Tensor):
            y = torch.where(across(success, y.ndim), y, torch.nan)
        elif not success:
            y = torch.full_like(y, torch.nan)
        return torch.stack([self._y0, y])


class JointSaver:
    """The states at the same times for the whole batch.

    Parameters
    ----------
    times : Tensor (T,)
        Ordered in the direction of time; may need a gradient.
    """

    def __init__(self, times: Tensor, t0: float, direction: float, y0: Tensor) -> None:
        self._times = times
        self._host: Sequence[float] = as_list(times)
        self._direction = direction
        self._saved = sum(t == t0 for t in self._host)
        self._due = 0
        self._parts = [y0.expand(self._saved, *y0.shape)]
        self.levels: list[tuple[int, int, int]] = []
        """(accepted steps before, first output, one past the last) of each step that has outputs."""

    def due(self, t: Number, accept: Flag) -> int:
        """The times up to t that are not saved yet."""
        self._due = 0
        if accept:
            while (i := self._saved + self._due) < len(self._host) and self._direction * (self._host[i] - t) <= 0:
                self._due += 1
        return self._due

    def save(self, stepper: Stepper, step: Step, t: Number, h: Number, y: Tensor, level: Count, most: int) -> None:
        """All outputs of the step at once."""
        first, end = self._saved, self._saved + most
        self._parts.append(stepper.interpolate(step, y, h, self._fractions(first, end, t, h)))
        assert isinstance(level, int)
        self.levels.append((level, first, end))
        self._saved = end

    def _fractions(self, first: int, end: int, t: Number, h: Number) -> Tensor:
        """Where outputs lie in a step of size h from t."""
        times = self._times
        if isinstance(t, Tensor) or isinstance(h, Tensor) or times.requires_grad or not times.is_cpu or transformed():
            return (times[first:end] - t) / h
        # one operation in place of three
        return torch.tensor([(time - t) / h for time in self._host[first:end]], dtype=times.dtype, device="cpu")

    def take(self, rows: Tensor) -> None:
        """One time serves all rows, and none leaves."""

    def finish(self, y: Tensor, success: Flag) -> Tensor:
        """In the order of the times."""
        missing = len(self._host) - self._saved
        parts, self._parts = self._parts, []
        return torch.cat([*parts, torch.full((missing, *y.shape), torch.nan, dtype=y.dtype, device=y.device)])


class RowSaver:
    """The states at each row's own times.

    Without a graph they go to their places in one buffer. With a graph, or tangents, they are kept as they come and
    gathered at the end, since a buffer in a graph would be copied at each step.

    Parameters
    ----------
    times : Tensor (T, B)
        Ordered in each row's direction of time; may need a gradient.
    t0, direction : Tensor (B,)
        The row's start, and its direction, -1, 0 or 1.
    """

    def __init__(self, times: Tensor, t0: Tensor, direction: Tensor, y0: Tensor) -> None:
        count, rows = times.shape
        self._times = times
        self._signed = times.detach() * direction
        self._direction = direction
        self._rows = torch.arange(rows, device=y0.device)
        start = times.detach() == t0
        self._saved = start.sum(0)
        self._due = torch.zeros_like(self._saved)
        self.levels = torch.full((count + 1, rows), -1, dtype=torch.int64, device=y0.device)
        """The accepted steps before the one that holds each output, -1 for none; the last row is for nothing."""
        shape = (count, rows, *(1,) * (y0.ndim - 1))
        self._y0 = torch.where(start.view(shape), y0.detach(), torch.nan)
        self._start = start.view(shape)
        self._initial = y0
        self._recorded = recorded()
        if self._recorded:
            self._parts: list[Tensor] = []
            self._length = 0  # of all parts, one after the other
            self._entry = torch.full((count + 1, rows), -1, dtype=torch.int64, device=y0.device)
        else:
            self._ys = torch.cat([self._y0, torch.empty_like(y0).unsqueeze(0)])

    def due(self, t: Number, accept: Flag) -> Tensor:
        """Each row's times up to its t that are not saved yet."""
        reached = (self._signed <= t * self._direction).sum(0) - self._saved
        self._due = torch.where(of_rows(accept), reached, 0)
        return self._due

    def save(self, stepper: Stepper, step: Step, t: Number, h: Number, y: Tensor, level: Count, most: int) -> None:
        """The first output of every row that has one, then the second, and so on."""
        count = self._times.shape[0]
        for j in range(most):
            mine = j < self._due
            index = torch.where(mine, self._saved + j, count)  # the others' go to the place for nothing
            time = self._times.gather(0, index.clamp(max=count - 1).unsqueeze(0)).squeeze(0)
            theta = torch.where(mine, (time - t) / torch.where(mine, h, 1.0), 0.0)
            value = stepper.interpolate(step, y, h, theta)
            self.levels[index, self._rows] = of_rows(level)
            if self._recorded:
                self._entry[index, self._rows] = torch.arange(self._length, self._length + len(value), device=y.device)
                self._parts.append(value)
                self._length += len(value)
            else:
                self._ys[index, self._rows] = value
        self._saved = self._saved + self._due

    def take(self, rows: Tensor) -> None:
        """Go on with some of the rows alone; the outputs of all have their places already."""
        self._rows, self._saved, self._due = self._rows[rows], self._saved[rows], self._due[rows]
        self._times, self._signed, self._direction = self._times[:, rows], self._signed[:, rows], self._direction[rows]

    def finish(self, y: Tensor, success: Flag) -> Tensor:
        """In the order of the times."""
        count = self._times.shape[0]
        if not self._recorded:
            return self._ys[:count]
        entry = self._entry[:count]
        ys = torch.where(self._start, self._initial, torch.nan)
        parts, self._parts = self._parts, []
        if not parts:
            return ys
        kept = torch.cat(parts)[entry.clamp(min=0)]
        return torch.where((entry >= 0).view(self._start.shape), kept, ys)
