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

IDLE_SINCE, IDLE_IN_ALL = 0.01, 0.1
"""Rows leave before the evaluations of no use come to more than the first of all that were of use since others left,
as to leave takes as long as a step or two, however many they are; and to no more than the second in all."""


class Home:
    """The numbers and states of the rows that have left, for all rows to be put together again.

    Parameters
    ----------
    rows : int
        How many there are in all.
    device : torch.device
        Where they are.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows = torch.arange(rows, device=device)
        """Which rows are in the batch now."""
        self._left: list[tuple[Tensor, Sequence[Tensor]]] = []

    def leave(self, running: Flag, tensors: Sequence[Any]) -> Tensor:
        """Keep what belongs to the rows that do not run, as they leave the batch; says which of it stay."""
        assert isinstance(running, Tensor)
        end = running.logical_not().nonzero().squeeze(1)
        self._left.append((self.rows.index_select(0, end), [x.index_select(0, end) for x in tensors]))
        stay = running.nonzero().squeeze(1)
        self.rows = self.rows.index_select(0, stay)
        return stay

    def gathered(self, tensors: Sequence[Any]) -> list[Any]:
        """What belongs to all rows, from that of those in the batch."""
        rows, parts = zip(*self._left, (self.rows, tensors), strict=True)
        places = torch.cat(rows).argsort()
        return [torch.cat(pieces).index_select(0, places) for pieces in zip(*parts, strict=True)]


class Crowd:
    """When rows should leave: not one by one, and before much was evaluated in vain."""

    def __init__(self) -> None:
        self._used = self._wasted = self._since = 0  # rows in the steps so far, and since some have left

    def thins(self, running: int, rows: int) -> bool:
        """Whether those of the batch's rows that do not run should leave before the next step."""
        wasted = rows - running
        self._used += running
        if self._since + wasted > IDLE_SINCE * self._used or self._wasted + wasted > IDLE_IN_ALL * self._used:
            self._since = 0
            return True
        self._since += wasted
        self._wasted += wasted
        return False
