"""Times that no step crosses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.times import Times, times_of


@dataclass(frozen=True)
class Stops:
    """Times at which steps end, whatever their order and the direction of time.

    Attributes
    ----------
    times : Times
        All of them.
    jumps : Times or None
        Those at which the field jumps, so that its value there is another for the step that begins.
    """

    times: Times
    jumps: Times | None = None

    @classmethod
    def of(cls, steps: Tensor | None, jumps: Tensor | None) -> Stops | None:
        """From times (K,) in joint, (K, B) per sample, at which the field does not jump, and at which it does."""
        given = [times for times in (steps, jumps) if times is not None]
        return cls(times_of(torch.cat(given)), None if jumps is None else times_of(jumps)) if given else None

    @classmethod
    def along(cls, ts: Tensor, others: Stops | None) -> Stops:
        """The times of the steps of a solve, (K,) in joint and (K, B) per sample, and others."""
        return cls(times_of(ts)) if others is None else replace(others, times=others.times.joined(ts))

    def taken(self, rows: Tensor) -> Stops:
        """Those of some of the rows."""
        return Stops(self.times.taken(rows), None if self.jumps is None else self.jumps.taken(rows))
