"""Figure 2: the discrete steps of a residual network beside the continuous flow of a neural ODE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from .paths import add_key, draw_log, draw_paths, draw_steps, log_handles, name_times
from .style import CURRENT, DEEP, WATER, Colouring, new_figure, styled
from .voyage import Log
from .water import Water, draw_water

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Blocks:
    """What a residual network does to N boats, along the line that is drawn.

    Attributes
    ----------
    t : (depth + 1,)
        The depths.
    z : (depth + 1, N)
    water : Water
        The field at the depths alone: its x are t[:-1].
    """

    t: Array
    z: Array
    water: Water


@styled
def steps_figure(blocks: Blocks, colours: Colouring, titles: Sequence[str], *, label: str = "state z", note: str = "",
                 flow: tuple[Water, Array, Array, Sequence[Log]] | None = None) -> Figure:
    """Figure 2 from arrays.

    Parameters
    ----------
    blocks : Blocks
        The left panel.
    colours : Colouring
        Of the boats, the same in both panels.
    titles : sequence of str
        Of each panel.
    label, note : str
        The name of the z axis, and a line below.
    flow : (Water, t, z, logs), optional
        The right panel: the water, times (T,), paths (T, N) and the solver's logs; without it, the blocks alone.
    """
    figure = new_figure(11.5 if flow else 7.5, 5.6)
    axes = figure.subplots(1, 2 if flow else 1, sharey=True, squeeze=False)[0]
    _draw_blocks(axes[0], blocks, colours, "time t, at discrete depths" if flow else "depth")
    handles = [Line2D([], [], color=CURRENT, marker="s", markersize=5, markeredgecolor=DEEP, lw=1.6, label="a block")]
    if flow is not None:
        water, t, z, logs = flow
        draw_water(axes[1], water)
        draw_paths(axes[1], t, z, colours)
        for log in logs:
            draw_log(axes[1], log)
        name_times(axes[1], t, "time t, everywhere")
        handles += log_handles()
    axes[0].set_ylabel(label)
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(title)
    colours.add_bar(figure, list(axes))
    add_key(figure, [*colours.handles(), *handles], note)
    return figure


def _draw_blocks(ax: Axes, blocks: Blocks, colours: Colouring, label: str) -> None:
    """Arrows at each depth, nothing between them, and boats that go straight from depth to depth."""
    water, t = blocks.water, blocks.t
    ax.set_facecolor(WATER(0.62))
    step = (t[-1] - t[0]) / (len(t) - 1)
    for depth in t[:-1]:
        ax.axvline(depth, color=CURRENT, lw=1.0, alpha=0.35, zorder=1)
    place_t, place_z = np.meshgrid(t[:-1], water.y)
    known = water.cover > 0.4
    ax.quiver(place_t[known], place_z[known], np.full(known.sum(), 0.45 * step), 0.45 * step * water.v[known],
              angles="xy", scale_units="xy", scale=1.0, color=CURRENT, alpha=0.7, width=0.0035, headwidth=4.5, zorder=2)
    draw_steps(ax, t, blocks.z, colours)
    ax.set_ylim(water.y[0], water.y[-1])
    name_times(ax, t, label)
