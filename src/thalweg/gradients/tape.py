"""The accepted steps of a solve, kept for a backward pass.

y, carry: (*shape) in joint, (B, *D) per sample. Level n of a tape is the n-th accepted step; per sample, of every row
that has so many, whenever it took it, so that a backward pass has as many levels as the row with the most steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.arithmetic import Count, Flag, Number
from ..output.saving import EndSaver, JointSaver, RowSaver, Saver
from ..steppers.explicit_rk import ExplicitRK, Step


@dataclass(frozen=True, slots=True)
class Level:
    """One accepted step of each unit; `valid` where there is one, `last` where it ends at t1."""

    t: Number
    h: Number
    y: Tensor
    carry: Tensor | None
    last: Flag
    valid: Flag


class JointTape:
    """The steps of the whole batch."""

    def __init__(self) -> None:
        self._levels: list[Level] = []

    def record(self, step: Step, t: Number, h: Number, y: Tensor, carry: Tensor | None, accept: Flag, last: Flag,
               level: Count) -> None:
        """Keep where the step began."""
        self._levels.append(Level(t, h, y, carry, last, True))

    def close(self) -> int:
        """The number of levels."""
        return len(self._levels)

    def at(self, n: int) -> Level:
        """Level n."""
        return self._levels[n]


class RowTape:
    """The steps of each row, its n-th beside the others' n-th."""

    def __init__(self, y0: Tensor) -> None:
        self._rows = torch.arange(y0.shape[0], device=y0.device)
        self._capacity = 0
        self._calls = 0
        self._counts = torch.zeros_like(self._rows)
        self._columns: list[Tensor] = []  # t, h, last, y and carry, each (capacity + 1, B, …); the last row is for none

    def record(self, step: Step, t: Number, h: Number, y: Tensor, carry: Tensor | None, accept: Flag, last: Flag,
               level: Count) -> None:
        """Keep where the step of each accepting row began."""
        values = [v for v in (t, h, last, y, carry) if isinstance(v, Tensor)]
        if self._calls == self._capacity:
            self._grow(values)
        self._calls += 1
        assert isinstance(accept, Tensor)
        assert isinstance(level, Tensor)
        index = torch.where(accept, level, self._capacity)
        for column, value in zip(self._columns, values, strict=True):
            column[index, self._rows] = value
        self._counts = level + accept

    def _grow(self, values: list[Tensor]) -> None:
        """Make room for as many levels as there can be calls; nan shows what was never written."""
        capacity = max(16, 2 * self._capacity)
        columns = []
        for i, value in enumerate(values):
            column = value.new_full((capacity + 1, *value.shape), float("nan") if value.dtype != torch.bool else False)
            if self._columns:
                column[: self._capacity] = self._columns[i][: self._capacity]
            columns.append(column)
        self._columns, self._capacity = columns, capacity

    def close(self) -> int:
        """The number of levels; rows that have fewer are given a step that is known to be finite in their place."""
        total = int(self._counts.max()) if self._counts.numel() else 0
        if total:
            donor = torch.argmax(self._counts)
            whole = torch.where(self._counts > 0, self._rows, donor)
            self._filler = [column[0, whole] for column in self._columns]
        return total

    def at(self, n: int) -> Level:
        """Level n."""
        valid = n < self._counts
        t, h, last, y, *carry = (
            torch.where(valid.view(-1, *(1,) * (column.ndim - 2)), column[n], filler)
            for column, filler in zip(self._columns, self._filler, strict=True)
        )
        return Level(t, h, y, carry[0] if carry else None, last & valid, valid)


class OutputIndex:
    """Which outputs lie in the step of each level, and their values and cotangents."""

    def __init__(self, saver: Saver, stepper: ExplicitRK, times: Tensor | None) -> None:
        self._stepper = stepper
        self._times = times
        self._slices: dict[int, slice] = {}
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}
        if isinstance(saver, JointSaver):
            self._slices = {level: slice(first, end) for level, first, end in saver.levels}
        elif isinstance(saver, RowSaver):
            levels = saver.levels[:-1]
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

    def values(self, index: tuple[slice | Tensor, ...], step: Step, t: Number, h: Number, y: Tensor,
               times: Tensor) -> Tensor:
        """The outputs of that index, whose times are `times`, from a step of size h at (t, y)."""
        if len(index) == 1:
            return self._stepper.interpolate(step, y, h, (times - t) / h)
        rows = index[1]
        assert isinstance(t, Tensor)
        assert isinstance(h, Tensor)
        theta = (times - t[rows]) / h[rows]
        return self._stepper.interpolate_rows([k[rows] for k in step.stages], y[rows], h[rows], theta)
