"""From a command's options to a configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import explain, usage_error

if TYPE_CHECKING:
    from ..learn.config import Config


def configure(file: Path | None, options: Mapping[str, Any], settings: Sequence[str]) -> Config:
    """The configuration of a file, the options and the settings, each of them stronger than the one before.

    Parameters
    ----------
    file : Path or None
        A YAML file.
    options : mapping
        From keys such as `training.max_epochs` to values; None where an option was not given.
    settings : sequence of str
        Each KEY=VALUE.

    Raises
    ------
    UsageError
        When a key or value cannot be, or no data are named.
    """
    from ..learn.config import Config

    given = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    try:
        asked = (Config() if file is None else Config.load(file)).with_overrides([*given, *settings])
    except (ValueError, OSError) as error:
        raise usage_error(explain(error)) from None
    if not asked.data.source:
        raise usage_error("DATA is missing: name a CSV or Parquet file, or a data set such as iris")
    return asked
