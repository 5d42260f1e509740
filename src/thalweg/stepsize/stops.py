"""Times that no step crosses.

Numbers of a unit: a float in joint, (B,) per sample.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.arithmetic import Number, wide_dtype


class Stops:
    """Times at which steps end, whatever their order and the direction of time.

    Parameters
    ----------
    times : sequence of float
        The times, at least one.
    jumps : sequence of float
        Further ones, at which the field jumps, so that its value there is another for the step that begins.
    own : Tensor (K, B), optional
        Per sample, further ones of each row.
    """

    def __init__(
        self, times: Sequence[float], jumps: Sequence[float], device: torch.device, own: Tensor | None = None
    ) -> None:
        self._times = sorted({*times, *jumps})
        self._jumps = frozenset(jumps)
        shared = torch.tensor(self._times, dtype=wide_dtype(device), device=device)
        self._tensor = shared if own is None else torch.cat([shared.expand(own.shape[1], -1), own.T], 1)

    @classmethod
    def along(cls, ts: Tensor, others: Stops | None) -> Stops:
        """The times of the steps of a solve, (K,) in joint and (K, B) per sample, and others."""
        times, jumps = ([], []) if others is None else (others._times, list(others._jumps))
        if ts.ndim == 2:
            return cls(times, jumps, ts.device, own=ts)
        return cls([*times, *ts.tolist()], jumps, ts.device)

    def next(self, t: Number, t1: Number) -> Number:
        """The first of them after t on the way to t1, or t1."""
        if isinstance(t, Tensor):
            assert isinstance(t1, Tensor)
            return self._next_of_rows(t, t1)
        assert not isinstance(t1, Tensor)
        if t1 > t:
            ahead = bisect_right(self._times, t)
            return min(t1, self._times[ahead]) if ahead < len(self._times) else t1
        ahead = bisect_left(self._times, t) - 1
        return max(t1, self._times[ahead]) if ahead >= 0 else t1

    def jumps_at(self, t: Number) -> bool:
        """Whether the field jumps at t."""
        return t in self._jumps

    def _next_of_rows(self, t: Tensor, t1: Tensor) -> Tensor:
        ahead = (self._tensor - t.unsqueeze(1)) * torch.sign(t1 - t).unsqueeze(1)  # (B, K)
        distance, index = torch.where(ahead > 0, ahead, torch.inf).min(1)
        stops = self._tensor.expand_as(ahead).gather(1, index.unsqueeze(1)).squeeze(1)
        return torch.where(distance < (t1 - t).abs(), stops, t1)
