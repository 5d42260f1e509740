"""Figure 3: a plane of states seen from above at a few times, with the boats on it and their wakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .paths import add_heading, add_key, time_text
from .style import DEEP, Colouring, class_colour, class_marker, new_figure, styled
from .water import Water, draw_water, top_speed

Array = NDArray[np.float64]


@styled
def plane_figure(
    waters: Sequence[Water],
    t: Array,
    z: Array,
    stops: Sequence[int],
    colours: Colouring,
    *,
    wakes: Sequence[int] | NDArray[np.intp],
    labels: Sequence[str],
    title: str = "",
    note: str = "",
) -> Figure:
    """The plane of states at a few times.

    Parameters
    ----------
    waters : sequence of Water
        The water at each of the stops.
    t : (T,) array
    z : (T, N, 2) array
        The paths of all boats.
    stops : sequence of int
        The indices into t of the times that are drawn.
    colours : Colouring
        Of all boats.
    wakes : sequence of int
        The boats whose path up to then is drawn.
    labels : pair of str
        The names of the axes.
    title, note : str
        The title, and a line below.
    """
    figure = new_figure(4.0 * len(stops), 5.4)
    axes = figure.subplots(1, len(stops), sharex=True, sharey=True)
    top = top_speed(waters)
    for ax, water, stop in zip(axes, waters, stops, strict=True):
        draw_water(ax, water, top=top, density=0.9)
        for row in wakes:
            ax.plot(
                *z[: stop + 1, row].T,
                color=colours.colour(row),
                lw=1.2,
                zorder=2,
                solid_capstyle="round",
                path_effects=[effects.Stroke(linewidth=2.2, foreground=DEEP, alpha=0.75), effects.Normal()],
            )
        _draw_boats(ax, z[stop], colours)
        ax.set_xlabel(labels[0])
        ax.set_title(f"t = {time_text(t[stop], t)}")
    axes[0].xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))  # shared; more would run into each other
    axes[0].set_ylabel(labels[1])
    colours.add_bar(figure, list(axes))
    add_heading(figure, title, colours.handles())
    add_key(figure, [], note)
    return figure


def _draw_boats(ax: Axes, places: Array, colours: Colouring) -> None:
    look: dict[str, Any] = {"edgecolors": DEEP, "linewidths": 0.5, "s": 15, "zorder": 4}
    if colours.names is None:
        paint = [colours.colour(row) for row in range(len(places))]
        ax.scatter(places[:, 0], places[:, 1], c=paint, marker="o", **look)
        return
    for code in np.unique(colours.values):
        x, y = places[colours.values == code].T
        ax.scatter(x, y, color=class_colour(int(code)), marker=class_marker(int(code)), **look)
