"""From a command's options to a configuration; the options that several commands have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .console import explain, usage_error

if TYPE_CHECKING:
    from ..learn.config import Config

Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="A CSV or Parquet file, arrays (.npz, .npy), a folder in which each folder holds the images of a class, "
        "or one of digits, iris, wine, breast_cancer, diabetes, moons, circles, spirals and mnist. May be left out "
        "where --config names it.",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="The column to predict; the named data sets know theirs, folders of images say it, and of arrays one may "
        "be called y, target or label.",
    ),
]
Task = Annotated[
    Literal["classification", "regression"] | None,
    typer.Option(metavar="TASK", help="classification or regression; decided from the target by default."),
]
Epochs = Annotated[int | None, typer.Option(min=1, metavar="N", help="Passes over the rows.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A YAML file, such as the config.yaml of a run; the other options outweigh it."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any key of a config.yaml; may be given several times."),
]
DataDir = Annotated[Path | None, typer.Option(metavar="DIR", help="The folder with the IDX files of mnist.")]


def of_data(
    data: str | None, target: str | None, task: str | None, data_dir: Path | None, epochs: int | None
) -> dict[str, Any]:
    """The options that say what is learnt from, by their keys."""
    return {
        "data.source": data,
        "data.target": target,
        "data.task": task,
        "data.data_dir": None if data_dir is None else str(data_dir),
        "training.max_epochs": epochs,
    }


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

    given = [_setting(key, value) for key, value in options.items() if value is not None]
    try:
        asked = (Config() if file is None else Config.load(file)).with_overrides([*given, *settings])
    except (ValueError, OSError) as error:
        raise usage_error(explain(error)) from None
    if not asked.data.source:
        raise usage_error(
            "DATA is missing: name a CSV, Parquet or .npz file, a folder of images, or a data set such as iris"
        )
    return asked


def _setting(key: str, value: Any) -> str:
    """KEY=VALUE, with every sign of a text as it is, whatever it means elsewhere in YAML."""
    import yaml

    written = yaml.safe_dump(value, default_style='"', width=math.inf)
    return f"{key}={written}"
