"""Figure 2: the discrete steps of a residual network beside the continuous flow of a neural ODE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from .paths import add_heading, add_key, draw_log, draw_paths, draw_steps, log_handles, name_depths, name_times
from .style import BANK, CURRENT, DEEP, Colouring, new_figure, styled
from .voyage import Log
from .water import Water, draw_water, top_speed, water_colours

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Blocks:
    """What a residual network does to N boats, along the line that is drawn.

    Attributes
    ----------
    t : (depth + 1,)
        The times of the depths, equally spaced.
    z : (depth + 1, N)
    water : Water
        The field at the depths where a block starts: its x are t[:-1], ascending.
    """

    t: Array
    z: Array
    water: Water


@styled
def steps_figure(
    blocks: Blocks,
    colours: Colouring,
    titles: Sequence[str],
    *,
    label: str = "state z",
    title: str = "",
    note: str = "",
    flow: tuple[Water, Array, Array, Sequence[Log]] | None = None,
) -> Figure:
    """Figure 2 from arrays.

    Parameters
    ----------
    blocks : Blocks
        The left panel.
    colours : Colouring
        Of the boats, the same in both panels.
    titles : sequence of str
        Of each panel.
    label, title, note : str
        The name of the z axis, the title, and a line below.
    flow : (Water, t, z, logs), optional
        The right panel: the water, times (T,), paths (T, N) and the solver's logs; without it, the blocks alone.
    """
    figure = new_figure(11.5 if flow else 8.5, 6.0)
    axes = figure.subplots(1, 2 if flow else 1, sharey=True, squeeze=False)[0]
    figure.set_layout_engine("constrained", wspace=0.05)  # room between t1 of one panel and t0 of the next
    top = top_speed([blocks.water, *(flow[:1] if flow else ())])
    _draw_blocks(axes[0], blocks, colours, top)
    handles = [Line2D([], [], color=CURRENT, marker="s", markersize=5, markeredgecolor=DEEP, lw=1.6, label="block")]
    if flow is None:
        name_depths(axes[0], len(blocks.t) - 1)
    else:
        name_times(axes[0], blocks.t)
        _draw_flow(axes[1], flow, colours, top)
        handles += log_handles()
    axes[0].set_ylabel(label)
    for ax, words in zip(axes, titles, strict=True):
        ax.set_title(words)
    colours.add_bar(figure, list(axes))
    add_heading(figure, title, colours.handles())
    add_key(figure, handles, note)
    return figure


def _draw_flow(ax: Axes, flow: tuple[Water, Array, Array, Sequence[Log]], colours: Colouring, top: float) -> None:
    water, t, z, logs = flow
    draw_water(ax, water, top=top)
    draw_paths(ax, t, z, colours)
    for log in logs:
        draw_log(ax, log)
    name_times(ax, t)


def _draw_blocks(ax: Axes, blocks: Blocks, colours: Colouring, top: float) -> None:
    """Each block's water, which runs straight on from where the field was read, and the boats' steps."""
    water, depth = blocks.water, len(blocks.t) - 1
    step = abs(blocks.t[-1] - blocks.t[0]) / depth
    paint, bank = water_colours(water, top), np.array(to_rgba(BANK))
    paint = bank + paint[..., 3:] * (paint - bank)  # opaque, as see-through patches would show their seams
    paint[..., 3] = 1.0
    for k, start in enumerate(water.x):
        t = start + step * np.stack([np.zeros_like(water.y), water.u[:, k]], axis=1)
        z = water.y[:, None] + step * np.stack([np.zeros_like(water.y), water.v[:, k]], axis=1)
        ax.pcolormesh(t, z, paint[:, [k, k]], shading="gouraud", rasterized=True, zorder=0)
        ax.axvline(start, color=CURRENT, lw=0.8, alpha=0.5, zorder=1)
    _draw_arrows(ax, water, 0.4 * step)
    draw_steps(ax, blocks.t, blocks.z, colours)
    ax.set_ylim(water.y[0], water.y[-1])


def _draw_arrows(ax: Axes, water: Water, length: float) -> None:
    """The field where it is read: at the depths alone."""
    rows = slice(3, None, 6)
    t, z = np.meshgrid(water.x, water.y[rows])
    known = water.cover[rows] > 0.4
    u, v = (length * part[rows][known] for part in (water.u, water.v))
    arrows: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1.0, "width": 0.0035, "headwidth": 4.5}
    ax.quiver(t[known], z[known], u, v, color=CURRENT, alpha=0.8, zorder=2, **arrows)
