"""Files that a command is asked to write."""

from __future__ import annotations

import os
from pathlib import Path


def check_out(out: Path, force: bool | None = None) -> None:
    """See that a file can be made, before there is anything to lose.

    Parameters
    ----------
    out : Path
        What -o named.
    force : bool, optional
        Whether a file that is there may be written over; left out where a command never does that.

    Raises
    ------
    ValueError
        When a file is there already, or the folder is not.
    """
    if out.is_dir():
        raise ValueError(f"{out} is a folder; give -o the name of a file")
    is_pipe = out.exists() and not out.is_file()  # or a device: there is nothing to lose
    if os.path.lexists(out) and not is_pipe and not force:
        hint = "" if force is None else ", or write over it with --force"
        raise ValueError(f"{out} exists already; choose another name for -o{hint}")
    if not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent} to write {out.name} into; make it, or choose another for -o")
