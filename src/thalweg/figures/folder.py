"""Where figures go: beside what is there, never over it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path


def free_suffix(folder: str | Path, names: Sequence[str]) -> str:
    """The first of nothing, `-2`, `-3` … with which none of the names is taken by a PNG or an SVG.

    Raises
    ------
    ValueError
        When the folder is something else.

    Examples
    --------
    >>> free_suffix("no-such-folder", ["figure1-flow"])
    ''
    """
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ValueError(f"out_dir must be a folder, or a name for a new one; {folder} is a file")
    for number in count(1):
        suffix = "" if number == 1 else f"-{number}"
        if not any((Path(folder) / f"{name}{suffix}.{kind}").exists() for name in names for kind in ("png", "svg")):
            return suffix
    raise AssertionError("numbers do not end")
