"""How training went: loss, score and field evaluations, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from .folder import free_suffix
from .style import MUTED, new_figure, save, styled

_PANELS = (
    ("loss", (("loss", "training"), ("val_loss", "held out"))),
    ("score", (("score", "training"), ("val_score", "held out"))),
    ("field evaluations", (("nfev", "forward"), ("nfev_backward", "backward"))),
)
_FIRST, _SECOND = ("#10405c", "-"), ("#e4542b", "--")
_LOOKS = {"training": _FIRST, "held out": _SECOND, "forward": _FIRST, "backward": _SECOND}
_STEPS = [1, 2, 5, 10]
_FAR_BELOW = -1.0  # an R² that has no room where there are others: the first may be -1e5


def training_figure(records: Sequence[Mapping[str, Any]], out_dir: str | Path, *, metric: str = "score") -> list[Path]:
    """Draw loss, score and field evaluations of each epoch, as PNG and SVG.

    Parameters
    ----------
    records : sequence of mapping
        A row for each epoch, with any of the keys epoch, loss, val_loss, score, val_score, nfev, nfev_backward; what
        is missing or None is left out.
    out_dir : str or Path
        Where `training.png` and `training.svg` go; files that are there already are kept, and the new ones numbered.
    metric : str
        What the score is, such as accuracy.

    Returns
    -------
    list of Path

    Raises
    ------
    ValueError
        When no record holds anything to draw.

    Examples
    --------
    >>> import tempfile
    >>> from thalweg.figures import training_figure
    >>> records = [{"epoch": 1, "loss": 0.7, "score": 0.5}, {"epoch": 2, "loss": 0.4, "score": 0.8}]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in training_figure(records, folder)]
    ['training.png', 'training.svg']
    """
    return save(draw_training(records, metric), Path(out_dir) / f"training{free_suffix(out_dir, ['training'])}")


@styled
def draw_training(records: Sequence[Mapping[str, Any]], metric: str = "score") -> Figure:
    """The figure of `training_figure`."""
    panels = [(name, lines) for name, keys in _PANELS if (lines := _lines(records, keys))]
    if not panels:
        raise ValueError("records must hold at least one epoch with a loss, a score or field evaluations; got none")
    figure = new_figure(4.2 * len(panels), 3.6)
    for ax, (name, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_panel(ax, name, lines, metric if name == "score" else name)
    return figure


def _lines(records: Sequence[Mapping[str, Any]], keys: Sequence[tuple[str, str]]) -> dict[str, NDArray[Any]]:
    """Each line that has points, (E, 2) of epoch and value."""
    lines = {}
    for key, label in keys:
        points = [
            (record.get("epoch", n + 1), record[key])
            for n, record in enumerate(records)
            if record.get(key) is not None and np.isfinite(record[key])
        ]
        if points and (any(value != 0 for _, value in points) or not key.startswith("nfev")):  # no field, no cost
            lines[label] = np.array(points, dtype=float)
    return lines


def _draw_panel(ax: Axes, name: str, lines: Mapping[str, NDArray[Any]], title: str) -> None:
    most = max(len(points) for points in lines.values())
    look: dict[str, Any] = {"lw": 2.0 if most < 500 else 1.0, "marker": "o" if most < 25 else "", "markersize": 4}
    for label, points in lines.items():
        colour, dash = _LOOKS[label]
        ax.plot(*points.T, dash, color=colour, label=label, **look)
    values = np.concatenate([points[:, 1] for points in lines.values()])
    if name == "loss" and 0 < 10 * values.min() < values.max():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if values.max() < 100 * values.min() else (1,)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    if name == "field evaluations":
        ax.set_ylim(0, 1.15 * values.max())
        ax.yaxis.set_major_locator(MaxNLocator("auto", steps=_STEPS, integer=True))
    if name == "score" and values.min() < _FAR_BELOW <= values.max():
        ax.set_ylim(_FAR_BELOW, max(values.max(), 0.0) + 0.08)
        title += f", from {Formatter.fix_minus(f'{_FAR_BELOW:g}')} up"
    ax.set_title(title)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator("auto", steps=_STEPS, integer=True, min_n_ticks=1))
    ax.grid(color=MUTED, alpha=0.18)
    ax.legend()
