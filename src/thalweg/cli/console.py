"""How the commands speak: on a terminal, in a pipe, and of errors."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

INTERRUPTED = 130  # is the exit code after Ctrl-C
UsageError: Any = typer.BadParameter.__mro__[1]  # an old Typer takes Click's, a new one brings its own


def console(*, stderr: bool = False) -> Console:
    """Where a command prints; what it prints is never taken for markup, as names of columns may hold brackets."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=not _is_terminal(stderr))


def say_error(message: str) -> None:
    """One sentence on standard error, on one line wherever it is not read from a terminal."""
    from rich.text import Text

    console(stderr=True).print(Text("error: ", style="bold red") + Text(message, style="not bold default"))


def usage_error(message: str) -> Exception:
    """What to raise where the command was called in a way that cannot be."""
    return UsageError(message)


def plain_table(*headings: str) -> Table:
    """A table with a rule below its head and no other lines; what it holds is never taken for markup."""
    from rich import box
    from rich.table import Table

    return Table(*headings, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)


@contextmanager
def warnings_as_notes(screen: Console) -> Iterator[None]:
    """Say each warning of what is done inside once, as a sentence among the others."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(str(warning.message) for warning in heard):
        screen.print(f"note: {text}")


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process while modules are imported, as some of those swallow it or break by it."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield  # it is ignored, or another's to handle
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def count(number: int, noun: str) -> str:
    """A number of things.

    Examples
    --------
    >>> count(1, "row"), count(2000, "row")
    ('1 row', '2000 rows')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def as_word(path: Path) -> str:
    """A path as it is to be typed, in quotes where a shell would make two words of it.

    Examples
    --------
    >>> as_word(Path("runs/iris-1"))
    'runs/iris-1'
    """
    return subprocess.list2cmdline([str(path)]) if sys.platform == "win32" else shlex.quote(str(path))


def explain(error: BaseException) -> str:
    """An error in one sentence."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror[0].lower()}{error.strerror[1:]}{_REMEDIES.get(error.errno or 0, '')}"
    if isinstance(error, MemoryError):
        return "there is not enough memory; use fewer rows or a smaller model"
    return text or type(error).__name__


_REMEDIES = {
    13: "; choose a place that you may read and write",  # EACCES
    28: "; free some space, or choose a place on another disk",  # ENOSPC
    30: "; choose a place that can be written to",  # EROFS
}


def _is_terminal(stderr: bool) -> bool:
    return (sys.stderr if stderr else sys.stdout).isatty()
