"""Whose error counts together: all samples' (`joint`), or each its own (`per_sample`).

A *unit* is what has a time and a step size of its own: the whole batch, or one row of it. In joint its numbers are
Python floats, at the price of one read from the device a step; per sample they are tensors of shape (batch,).
"""

from __future__ import annotations

import cmath
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..core.arithmetic import Count, Flag, Number, across, as_list, wide_dtype
from ..core.compiled import is_compiled, select_rows
from ..core.norms import Tolerance, relative_to, rms, rms_of_rows, wide_enough


class Batching(Protocol):
    """What the loop asks of a batching policy."""

    @property
    def by_row(self) -> bool:
        """Whether each row is a unit."""

    def number(self, x: Tensor) -> Number:
        """The numbers of the units, from a 0-d tensor or one of shape (batch,)."""

    def count(self, n: int) -> Count:
        """The integer n for every unit."""

    def reduce(self, error: Tensor, tolerance: Tolerance, *states: Tensor) -> Number:
        """The error of each unit relative to what is allowed; overwrites it."""

    def select(self, accept: Flag, new: Tensor, old: Tensor) -> Tensor:
        """`new` for the units that accept, `old` for the others."""

    def finite(self, y: Tensor) -> Flag:
        """Whether every entry of each unit is finite."""

    def blemish(self, x: Tensor, also: Tensor | None = None) -> Number:
        """NaN for each unit of which an entry, here or there, is not finite, 0 for the others."""

    def read(self, running: Flag, due: Count = 0, stuck: Flag = False) -> tuple[bool, int, bool]:
        """Whether any unit runs on, the most that is due of any, and whether any is stuck: one read of the device."""


@dataclass(frozen=True)
class Joint:
    """One step size for all: right for every field.

    Parameters
    ----------
    norm : callable, optional
        How large an error relative to what is allowed is, in place of the root mean square.
    by_leaf : bool
        Whether that norm is the largest of the root mean squares of the state's leaves.
    """

    norm: Callable[[Tensor], float | Tensor] | None = None
    by_leaf: bool = False
    by_row = False

    def number(self, x: Tensor) -> float:
        """As a float."""
        return float(x)

    def count(self, n: int) -> int:
        """As it is."""
        return n

    def reduce(self, error: Tensor, tolerance: Tolerance, *states: Tensor) -> float:
        """Root mean square over all entries, or the norm of its own."""
        if self.norm is None and (size := relative_to(error, tolerance, states, None)) is not None:
            return size.item()
        error = wide_enough(error).div_(tolerance.scale(*states))
        if self.norm is None:
            return rms(error)
        with torch.no_grad():  # it may read what needs a gradient
            return float(self.norm(error))

    def select(self, accept: Flag, new: Tensor, old: Tensor) -> Tensor:
        """One or the other."""
        return new if accept else old

    def finite(self, y: Tensor) -> bool:
        """Of all entries."""
        return bool(torch.isfinite(y).all())

    def blemish(self, x: Tensor, also: Tensor | None = None) -> float:
        """None is looked for: no other unit feels it, and it would be a read of the device."""
        return 0.0

    def read(self, running: Flag, due: Count = 0, stuck: Flag = False) -> tuple[bool, int, bool]:
        """Nothing to read: all are on the host."""
        return bool(running), int(due), bool(stuck)


@dataclass(frozen=True)
class PerSample:
    """A step size for each row of the first dimension: no sample's answer depends on its neighbours."""

    rows: int
    device: torch.device
    by_row = True

    def number(self, x: Tensor) -> Tensor:
        """One for each row."""
        return x.expand(self.rows)

    def count(self, n: int) -> Tensor:
        """One for each row."""
        return torch.full((self.rows,), n, dtype=torch.int64, device=self.device)

    def reduce(self, error: Tensor, tolerance: Tolerance, *states: Tensor) -> Tensor:
        """Root mean square over each row."""
        if (sizes := relative_to(error, tolerance, states, self.rows)) is not None:
            return sizes
        return rms_of_rows(wide_enough(error).div_(tolerance.scale(*states))).to(wide_dtype(self.device))

    def select(self, accept: Flag, new: Tensor, old: Tensor) -> Tensor:
        """Row by row."""
        if isinstance(accept, bool):
            return new if accept else old
        if is_compiled(new):
            return select_rows(accept, new, old)
        return torch.where(across(accept, new.ndim), new, old)

    def finite(self, y: Tensor) -> Tensor:
        """Of each row."""
        return torch.isfinite(y).flatten(1).all(1) if y.ndim > 1 else torch.isfinite(y)

    def blemish(self, x: Tensor, also: Tensor | None = None) -> Number:
        """Of each row: infinity times 0 is NaN."""
        x = x.detach() if also is None else x.detach() + also
        if x.is_cpu and cmath.isfinite(x.sum().item()):  # as nearly always; it is no wait where it is read at once
            return 0.0
        nothing = (x * 0).abs()
        return nothing.flatten(1).sum(1) if x.ndim > 1 else nothing

    def read(self, running: Flag, due: Count = 0, stuck: Flag = False) -> tuple[bool, int, bool]:
        """All in one read."""
        if self.rows == 0:
            return False, 0, False
        assert isinstance(running, Tensor)
        columns = [running, *(x for x in (due, stuck) if isinstance(x, Tensor))]
        if len(columns) == 1:
            return bool(running.any()), int(due), bool(stuck)
        most = [int(x) for x in as_list(torch.stack(columns).amax(1))]
        return (
            bool(most[0]),
            most[1] if isinstance(due, Tensor) else int(due),
            (bool(most[-1]) if isinstance(stuck, Tensor) else bool(stuck)),
        )
