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

CROWDED = 0.9
"""The share of rows that run above which none leaves: fewer than a tenth of all evaluations are of no use."""


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


def crowded(running: Flag) -> bool:
    """Whether so many rows run that none should leave: one read of the device."""
    assert isinstance(running, Tensor)
    return int(running.sum()) > CROWDED * len(running)
