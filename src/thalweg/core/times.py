"""Times that units have of their own: which one comes next, and how far the nearest is.

Numbers of a unit: a float in joint, (B,) per sample.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .arithmetic import Number


class Times(Protocol):
    """What is asked of them, in either direction of time."""

    def next(self, t: Any, t1: Any) -> Any:
        """The first of them after t on the way to t1, or t1."""

    def distance(self, t: Any) -> Number:
        """How far the nearest lies from t; infinite where there is none."""

    def joined(self, more: Tensor) -> Times:
        """They and more, (K,) in joint and (K, B) per sample."""

    def taken(self, rows: Tensor) -> Times:
        """Those of some of the rows, (M,) indices."""


@dataclass(frozen=True)
class WholeTimes:
    """Those of the whole batch, in order.

    Examples
    --------
    >>> times = WholeTimes.of([2.0, 1.0])
    >>> times.next(1.0, 3.0), times.next(1.5, 0.0), times.distance(1.25)
    (2.0, 1.0, 0.25)
    """

    ordered: Sequence[float]

    @classmethod
    def of(cls, times: Iterable[float]) -> WholeTimes:
        """From times in any order."""
        return cls(sorted({*times}))

    def next(self, t: float, t1: float) -> float:
        """The first of them after t on the way to t1, or t1."""
        if t1 > t:
            ahead = bisect_right(self.ordered, t)
            return min(t1, self.ordered[ahead]) if ahead < len(self.ordered) else t1
        ahead = bisect_left(self.ordered, t) - 1
        return max(t1, self.ordered[ahead]) if ahead >= 0 else t1

    def distance(self, t: float) -> float:
        """How far the nearest lies from t."""
        after = bisect_left(self.ordered, t)
        return min((abs(t - time) for time in self.ordered[max(after - 1, 0) : after + 1]), default=math.inf)

    def joined(self, more: Tensor) -> WholeTimes:
        """They and more."""
        return self.of([*self.ordered, *more.tolist()])

    def taken(self, rows: Tensor) -> WholeTimes:
        """All rows have them together."""
        return self


@dataclass(frozen=True)
class RowTimes:
    """Those of each row, (B, K + 2), in order between -inf and inf, which also stands for those that a row lacks.

    Examples
    --------
    >>> import torch
    >>> times = RowTimes.of(torch.tensor([[5.0, 2.0], [1.0, torch.nan]]))
    >>> times.next(torch.tensor([1.0, 3.0]), torch.tensor([9.0, 9.0]))
    tensor([5., 9.])
    >>> times.distance(torch.tensor([1.0, 3.0]))
    tensor([0., 1.])
    """

    ordered: Tensor

    @classmethod
    def of(cls, times: Tensor) -> RowTimes:
        """From times (K, B) in any order, with NaN in place of those that a row lacks."""
        ends = times.new_tensor([-torch.inf, torch.inf]).unsqueeze(1).expand(2, times.shape[1])
        return cls(torch.cat([times.nan_to_num(nan=torch.inf), ends]).T.contiguous().sort(1).values)

    def next(self, t: Tensor, t1: Tensor) -> Tensor:
        """The first of them after t on the way to t1, or t1."""
        direction, now = torch.sign(t1 - t), t.unsqueeze(1).contiguous()
        before = torch.searchsorted(self.ordered, now) - 1
        after = torch.searchsorted(self.ordered, now, right=True)
        found = self.ordered.gather(1, torch.where(direction.unsqueeze(1) > 0, after, before)).squeeze(1)
        return torch.where((found - t1) * direction < 0, found, t1)

    def distance(self, t: Tensor) -> Tensor:
        """How far the nearest lies from t."""
        now = t.unsqueeze(1).contiguous()
        after = torch.searchsorted(self.ordered, now).clamp(max=self.ordered.shape[1] - 1)  # also where t is NaN
        return (self.ordered.gather(1, torch.cat([after - 1, after], 1)) - now).abs().amin(1)

    def joined(self, more: Tensor) -> RowTimes:
        """They and more."""
        return self.of(torch.cat([self.ordered.T[1:-1], more]))

    def taken(self, rows: Tensor) -> RowTimes:
        """Those of some of the rows."""
        return RowTimes(self.ordered[rows])


def times_of(times: Tensor) -> Times:
    """From times (K,) of the whole batch, or (K, B) of its rows, with NaN in place of those that a row lacks."""
    return RowTimes.of(times) if times.ndim == 2 else WholeTimes.of(times.tolist())
