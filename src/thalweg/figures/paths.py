"""The parts that several figures share: paths, steps, the solver's marks, the axis of time, the key.

t: (T,); z: (T, N) along the line that is drawn. A label that begins with `_` names a line, and keeps it out of the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import Formatter, MaxNLocator
from matplotlib.transforms import Bbox, TransformedBbox
from numpy.typing import NDArray

from .style import DEEP, INK, MUTED, Colouring
from .voyage import Log

Array = NDArray[np.float64]

_FAR = 7  # the power of ten from which on times are written by one

_DOT: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 4.0,
    "markerfacecolor": DEEP,
    "markeredgecolor": "white",
    "markeredgewidth": 1.0,
    "path_effects": [effects.Stroke(linewidth=1.8, foreground=DEEP), effects.Normal()],
}
_RING: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 7.5,
    "markerfacecolor": "none",
    "markeredgecolor": "white",
    "markeredgewidth": 1.4,
    "path_effects": [effects.Stroke(linewidth=2.6, foreground=DEEP), effects.Normal()],
}
_MISS: dict[str, Any] = {
    "color": "white",
    "lw": 2.6,
    "solid_capstyle": "butt",
    "path_effects": [effects.Stroke(linewidth=4.4, foreground=DEEP), effects.Normal()],
}


def draw_paths(ax: Axes, t: Array, z: Array, colours: Colouring) -> None:
    """Each boat's path, thinner where there are many, with a small mark at its start and a large one at its end."""
    boats = z.shape[1]
    width, size = (1.3, 5.5) if boats > 20 else (1.9, 7.5)
    for row in range(boats):
        colour, shape = colours.colour(row), colours.marker(row)
        ax.plot(
            t,
            z[:, row],
            color=colour,
            lw=width,
            zorder=3,
            solid_capstyle="round",
            label="_path",
            path_effects=[effects.Stroke(linewidth=width + 1.4, foreground=DEEP, alpha=0.75), effects.Normal()],
        )
        for end, grown in ((0, 0.65), (-1, 1.0)):
            ax.plot(
                t[end],
                z[end, row],
                shape,
                color=colour,
                markersize=grown * size,
                markeredgecolor=DEEP,
                markeredgewidth=0.9,
                clip_on=False,
                zorder=5,
            )


def draw_steps(ax: Axes, t: Array, z: Array, colours: Colouring) -> None:
    """Straight from step to step, with a mark at each."""
    for row in range(z.shape[1]):
        colour = colours.colour(row)
        ax.plot(
            t,
            z[:, row],
            color=colour,
            lw=1.6,
            zorder=3,
            marker="s",
            markersize=4.5,
            markeredgecolor=DEEP,
            markeredgewidth=0.8,
            clip_on=False,
            label="_blocks",
            path_effects=[effects.Stroke(linewidth=2.8, foreground=DEEP, alpha=0.75), effects.Normal()],
        )


def draw_log(ax: Axes, log: Log) -> None:
    """Where the solver's steps end, and where it asked the field."""
    ends = ax.plot(log.t[1:-1], log.z[1:-1, 0], **_RING, zorder=6, label="_step")
    asked = ax.plot(log.t_asked, log.z_asked[:, 0], **_DOT, zorder=7, label="_evaluation")
    for line in ends + asked:  # whole at t0 and t1, but cut at the banks, beyond which a rejected step may look
        line.set_clip_box(TransformedBbox(Bbox.from_extents(-0.02, 0.0, 1.02, 1.0), ax.transAxes))


def draw_miss(ax: Axes, t: float, landed: float, wanted: float) -> None:
    """From where a boat landed to where it was to be."""
    ax.plot([t, t], [landed, wanted], **_MISS, zorder=4, clip_on=False, label="_miss")


def miss_handle(label: str) -> Line2D:
    """The key to what `draw_miss` draws."""
    return Line2D([], [], **_MISS, label=label)


def log_handles() -> list[Line2D]:
    """The key to the solver's marks."""
    return [Line2D([], [], **_RING, label="end of a solver step"), Line2D([], [], **_DOT, label="field evaluation")]


def name_times(ax: Axes, t: Array, label: str = "time t") -> None:
    """The axis of time, from t0 to t1 as the boats go, with as many times between as have room."""
    t0, t1 = float(t[0]), float(t[-1])
    ax.set_xlim(t0, t1)
    room = 11 * ax.bbox.width / ax.figure.dpi  # in letters, of which an inch takes so many
    plenty = ax.get_xticks()
    letters = max(len(time_text(x, t)) for x in plenty)
    parts = min(len(plenty) - 1, int(room / (letters + 2)))
    ticks = MaxNLocator(max(parts, 1), steps=[1, 2, 2.5, 5, 10]).tick_values(*sorted((t0, t1)))
    ends = [time_text(x, t) for x in (t0, t1)]
    first, last = (max(0.12, ((len(end) + 4 + letters) / 2 + 1) / room) for end in ends)
    inner = [x for x in ticks if first < (x - t0) / (t1 - t0) < 1 - last]
    names = [f"$t_{k}$ = {end}" for k, end in enumerate(ends)]
    ax.set_xticks([t0, *inner, t1], [names[0], *(time_text(x, t) for x in inner), names[1]])
    ax.set_xlabel(label)


def time_text(time: float, t: Array) -> str:
    """A time on the way from t0 to t1, in the digits that tell it from others there, and all that are before its point.

    Examples
    --------
    >>> years = np.array([1990.0, 2025.0])
    >>> time_text(2025.0, years), time_text(2012.5, years), time_text(123456.0, np.array([0.0, 123456.0]))
    ('2025', '2012.5', '123456')
    """
    largest, span = (int(np.floor(np.log10(x))) for x in (np.abs(t).max(), np.ptp(t)))
    after = 2 - span if largest >= _FAR else max(2 - span, 0)
    return number_text(time, t, f".{largest + 1 + after}g")


def number_text(number: float, among: Array, form: str = ".3g") -> str:
    """A number among others, written as axes write numbers; what beside them is but rounding is 0.

    Examples
    --------
    >>> number_text(-0.5, np.array([-1.0, 1.0])), number_text(1e-17, np.array([-1.0, 1.0]))
    ('−0.5', '0')
    """
    nothing = abs(number) < 1e-9 * np.abs(among).max()
    return Formatter.fix_minus(format(0.0 if nothing else number, form))


def name_depths(ax: Axes, depth: int) -> None:
    """The axis of a residual network's depth."""
    ax.set_xlim(0, depth)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    ax.set_xlabel("depth")


def padded_range(z: Array, pad: float = 0.07) -> tuple[float, float]:
    """The range of z with some water round it."""
    low, high = float(np.min(z)), float(np.max(z))
    room = pad * (high - low) or 0.5
    return low - room, high + room


def add_heading(figure: Figure, title: str, handles: Sequence[Line2D] = ()) -> None:
    """The title, and the key to the classes below it, on top of the figure."""
    if title or handles:
        key = _legend(figure, handles, "outside upper left", title)
        key.get_title().set(fontsize=14.0, color=INK)


def add_key(figure: Figure, handles: Sequence[Line2D], note: str = "") -> None:
    """A line of words and the key to the marks, below the figure."""
    if note or handles:
        key = _legend(figure, handles, "outside lower left", note)
        key.get_title().set(color=MUTED)


def _legend(
    figure: Figure, handles: Sequence[Line2D], place: Literal["outside upper left", "outside lower left"], title: str
) -> Legend:
    labels = [str(handle.get_label()).replace(r"\$", "$") for handle in handles]  # as they are shown
    columns = _columns([len(label) for label in labels], int(10 * figure.get_figwidth()))
    return figure.legend(
        handles=list(handles), loc=place, ncols=columns, title=title or None, alignment="left", borderpad=0.1
    )


def _columns(lengths: Sequence[int], room: int) -> int:
    """The most columns of a key, filled downwards, that fit in a line of `room` letters.

    A mark and the gaps round it take the room of six.
    """
    for columns in range(len(lengths), 1, -1):
        if sum(int(max(part)) + 6 for part in np.array_split(lengths, columns)) <= room:
            return columns
    return 1
