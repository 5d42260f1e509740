"""How far a solve has come: a bar over time, with the steps taken and the size of the last."""

from __future__ import annotations

import time
from types import TracebackType

from torch import Tensor

from ..core.arithmetic import Number

_PAUSE = 0.1  # seconds between two looks at the numbers, each of which is a read of the device


class SolveProgress:
    """A bar on standard error; a context manager.

    Parameters
    ----------
    span : float or Tensor (B,)
        t1 - t0; of rows, the bar shows the one that has the longest way to go.
    """

    def __init__(self, span: Number) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._span = _largest(span)
        self._steps, self._looked_at = 0, 0.0
        self._bar = Progress(
            TextColumn("t = {task.fields[t]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[steps]} steps, h = {task.fields[h]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=Console(stderr=True),
            expand=True,
        )
        self._task = self._bar.add_task("", total=1.0, t="…", steps=0, h="…")

    def __enter__(self) -> SolveProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, t: Number, t1: Number, h: Number, *, ended: bool) -> None:
        """A step was tried: the solve is at t on its way to t1; the next step, if it has not ended, has size h."""
        self._steps += 1
        now = time.monotonic()
        if now - self._looked_at < _PAUSE and not ended:
            return
        self._looked_at = now
        done = 1.0 - (_largest(t1 - t) / self._span if self._span else 0.0)
        self._bar.update(self._task, completed=done, t=_range(t), steps=self._steps, h=_range(h))


def _largest(x: Number) -> float:
    """The largest absolute value of any unit."""
    if not isinstance(x, Tensor):
        return abs(x)
    return float(x.abs().max()) if x.numel() else 0.0


def _range(x: Number) -> str:
    """One number, or those of the first and the last row by size."""
    if not isinstance(x, Tensor):
        return f"{x:.3g}"
    low, high = x.min().item(), x.max().item()
    return f"{low:.3g}" if low == high else f"{low:.3g} … {high:.3g}"
