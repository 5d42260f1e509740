"""The course of a training, or of reading images: a live bar on a terminal, and elsewhere a line now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from .console import warnings_as_notes

if TYPE_CHECKING:
    from ..learn.course import EpochRecord

_LINES = 10  # so many lines, about, where there is no terminal,
_SILENCE = 15.0  # but none of the pauses between them longer than so many seconds and an epoch


@contextmanager
def reading(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Read rows: what is to be said of them is said as notes, and for each image there is what shows the progress."""
    bar = _bar(console, transient=True) if console.is_terminal else None
    task, spoke_at = None, time.monotonic()

    def show(read: int, images: int) -> None:
        nonlocal task, spoke_at
        if bar is not None:
            if task is None:
                bar.start()
                task = bar.add_task("images", total=images)
            bar.update(task, completed=read)
        elif time.monotonic() - spoke_at > _SILENCE:
            spoke_at = time.monotonic()
            console.print(f"{read} of {images} images read")

    with warnings_as_notes(console):
        try:
            yield show
        finally:
            if bar is not None:
                bar.stop()


def _bar(console: Console, *, transient: bool = False) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        BarColumn(bar_width=None),
        TextColumn("{task.description}", markup=False),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
        expand=True,
        transient=transient,
    )


class TrainingProgress:
    """Shows each epoch; a context manager.

    Parameters
    ----------
    console : Console
        Where to.
    epochs : int
        How many there will be, at most.
    metric : str
        The name of the score.
    begun : int
        How many were finished before.
    """

    def __init__(self, console: Console, epochs: int, metric: str, begun: int = 0) -> None:
        self.console, self.epochs, self.metric = console, epochs, metric
        self.spoke_at = -math.inf
        self.bar: Progress | None = None
        if console.is_terminal:
            self.bar = _bar(console)
            self.task = self.bar.add_task(f"epoch {begun + 1}", total=epochs, completed=begun)

    def __enter__(self) -> TrainingProgress:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def show(self, record: EpochRecord) -> None:
        """Show an epoch that has ended."""
        if self.bar is not None:
            self.bar.update(self.task, completed=record.epoch, description=self._describe(record))
        elif self._is_due(record.epoch):
            self.spoke_at = time.monotonic()
            self.console.print(f"epoch {record.epoch}/{self.epochs}  {self._describe(record)}  {record.seconds:.2f} s")

    def _is_due(self, epoch: int) -> bool:
        return (
            epoch in (1, self.epochs)
            or epoch % max(1, self.epochs // _LINES) == 0
            or time.monotonic() - self.spoke_at > _SILENCE
        )

    def _describe(self, record: EpochRecord) -> str:
        loss, score = (
            (record.loss, record.score)
            if record.val_loss is None or record.val_score is None
            else (record.val_loss, record.val_score)
        )
        held_out = "held-out " if record.val_loss is not None else ""
        amount = f"{loss:.4f}" if loss < 1000 else f"{loss:.3g}"
        return f"{held_out}loss {amount}  {self.metric} {score:.3f}  {record.nfev:.1f} evals"
