"""A batch that shrinks to the rows that still run.

A row that has ended takes steps of size 0 until the last one ends, and its field is evaluated in each. Where that is
dear, those rows leave: what remains is a smaller batch, whose arithmetic is the same, row by row.

What leaves: numbers (B,), states (B, *D).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.arithmetic import Flag

IDLE_NOW, IDLE_IN_ALL = 0.3, 0.1
"""Rows leave where a share as large as the first of them has ended, for to leave takes as long as a step or two; and
where the evaluations of no use would come to more than the second of all that were of use."""


class Home:
    """The numbers and states of all rows, for those that leave to be kept in.

    Parameters
    ----------
    tensors : sequence of Tensor
        One for each quantity, with all rows.
    """

    def __init__(self, tensors: Sequence[Any]) -> None:
        self._kept = list(tensors)
        self.rows = torch.arange(tensors[0].shape[0], device=tensors[0].device)
        """Which rows are in the batch now."""

    def keep(self, tensors: Sequence[Any]) -> list[Any]:
        """Put the batch's numbers where they belong; all rows' come back."""
        self._kept = [
            old.index_copy(0, self.rows, new.to(old.dtype)) for old, new in zip(self._kept, tensors, strict=True)
        ]
        return self._kept

    def leave(self, running: Flag, tensors: Sequence[Any]) -> Tensor:
        """Keep the batch's numbers as they are when all but the running rows leave it; says which stay."""
        assert isinstance(running, Tensor)
        self.keep(tensors)
        stay = running.nonzero().squeeze(1)
        self.rows = self.rows[stay]
        return stay


class Crowd:
    """When rows should leave: not one by one, and before much was evaluated in vain."""

    def __init__(self) -> None:
        self._used = self._wasted = 0  # rows in the steps so far

    def thins(self, running: Flag) -> bool:
        """Whether those that do not run should leave before the next step: one read of the device."""
        assert isinstance(running, Tensor)
        used = int(running.sum())
        wasted = len(running) - used
        self._used += used
        if wasted > IDLE_NOW * len(running) or self._wasted + wasted > IDLE_IN_ALL * self._used:
            return True
        self._wasted += wasted
        return False
