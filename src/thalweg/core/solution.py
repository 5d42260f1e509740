"""What a solve returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .arithmetic import Count, anywhere
from .status import MESSAGES, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass
class Stats:
    """What a solve cost. Each count is an int in joint, and of shape (batch,) per sample.

    Attributes
    ----------
    nfev : int or Tensor
        Field evaluations, as SciPy counts them, without those that a Jacobian took; of a pair, either function counts.
    njev, nlu : int or Tensor
        Jacobians, and factorisations of matrices made of them; 0 for explicit methods.
    n_steps, n_accepted, n_rejected : int or Tensor
        Steps tried, kept and thrown away.
    nfev_backward : int
        Field evaluations of the backward passes that have run so far, each of the whole batch.
    backend : str
        What ran the loop.
    """

    nfev: Count = 0
    n_steps: Count = 0
    n_accepted: Count = 0
    nfev_backward: int = 0
    backend: str = "eager"
    njev: Count = 0
    nlu: Count = 0

    @property
    def n_rejected(self) -> Count:
        """Steps thrown away."""
        return self.n_steps - self.n_accepted

    @property
    def _has_jacobians(self) -> bool:
        return anywhere(self.njev > 0)

    def __repr__(self) -> str:
        def show(count: Count) -> str:
            if not isinstance(count, Tensor):
                return str(count)
            if count.numel() == 0:
                return "none"
            low, high = (int(x) for x in torch.aminmax(count))
            return str(low) if low == high else f"{low}..{high}"

        implicit = f"njev={show(self.njev)}, nlu={show(self.nlu)}, " if self._has_jacobians else ""
        return (
            f"Stats(nfev={show(self.nfev)}, {implicit}"
            f"n_steps={show(self.n_steps)}, n_accepted={show(self.n_accepted)}, "
            f"n_rejected={show(self.n_rejected)}, nfev_backward={self.nfev_backward}, backend={self.backend!r})"
        )


@dataclass
class Solution:
    """The solution of an initial-value problem.

    Attributes
    ----------
    ts : Tensor
        The times of the outputs: (T,), or (T, batch) where rows have times of their own.
    ys : Tensor or pytree of Tensor
        The states at those times, (T, *y0.shape); NaN where the solve did not come.
    status : Status or Tensor
        How it ended; per sample, an int64 tensor of shape (batch,) of `Status` values.
    stats : Stats
        What it cost.
    t_events, y_events : list of Tensor, or None
        With `events`, the times and the states of each event, in its order: (K,) and (K, *y0.shape) in joint,
        (K, batch) and (K, batch, …) per sample, where K is the most that any row had, and NaN stands after a row's
        last.
    sol : callable or None
        With `dense_output=True`, the solution as a function of time (see `thalweg.DenseOutput`), which calling the
        solution itself calls.
    note : str
        What a solver of another library said where it failed; part of the message.

    Examples
    --------
    >>> import torch, thalweg
    >>> sol = thalweg.solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.ones(2))
    >>> sol.ys.shape, sol.success, sol.message
    (torch.Size([2, 2]), True, 'the solver reached t1')
    """

    ts: Tensor
    ys: Any
    status: Status | Tensor
    stats: Stats
    sol: Callable[[float | Tensor], Any] | None = None
    t_events: list[Tensor] | None = None
    y_events: list[Any] | None = None
    note: str = ""

    def __call__(self, t: float | Tensor) -> Any:
        """The state at the time or times t, where the solve was asked for `dense_output=True`.

        Raises
        ------
        ValueError
            When it was not, or a time lies outside the solution's.
        """
        if self.sol is None:
            raise ValueError("this solution holds its outputs alone; solve with dense_output=True to call it")
        return self.sol(t)

    @property
    def success(self) -> bool | Tensor:
        """Whether t1 or a terminal event was reached; per sample, of shape (batch,)."""
        if isinstance(self.status, Tensor):
            return (self.status == Status.SUCCESS.value) | (self.status == Status.EVENT.value)
        return self.status.success

    @property
    def message(self) -> str:
        """How it ended, and what to try where that was not at t1."""
        return told(self.status, MESSAGES) + (f" ({self.note})" if self.note else "")


def told(status: Status | Tensor, messages: Mapping[Status, str]) -> str:
    """How it ended, in the messages given; per sample, each way of failing that occurred, with its rows."""
    if not isinstance(status, Tensor):
        return messages[status]
    failed = list(_failures(status))
    if not failed:
        ended = bool((status == Status.EVENT.value).any())
        return messages[Status.EVENT if ended else Status.SUCCESS]
    return "; ".join(f"{_name_rows(rows, len(status))}: {messages[way]}" for way, rows in failed)


def _failures(status: Tensor) -> Iterator[tuple[Status, list[int]]]:
    """Each way of failing that occurred, and its rows."""
    for way in Status:
        if not way.success:
            rows = torch.nonzero(status == way.value).flatten().tolist()
            if rows:
                yield way, rows


def _name_rows(rows: list[int], total: int) -> str:
    """The rows in words, at most five by number."""
    shown = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
    return f"{len(rows)} of {total} samples (row{'s' if len(rows) > 1 else ''} {shown})"
