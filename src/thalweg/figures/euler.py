"""Euler's method step by step, beside the path that it is to follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor

from .line import TIGHT, boat_at, check_count, line_water
from .paths import (
    add_heading,
    add_key,
    draw_miss,
    draw_paths,
    draw_steps,
    miss_handle,
    name_times,
    number_text,
    padded_range,
)
from .style import DEEP, Colouring, class_colour, new_panels, styled
from .voyage import Voyage, euler, sail
from .water import Water, draw_water

Array = NDArray[np.float64]

_STEPS = Colouring(np.array([2]), ("", "", "Euler"))


def euler_figure(
    fun: Callable[[Tensor, Tensor], Any],
    t_span: tuple[float, float],
    z0: float,
    steps: Sequence[int] = (3, 6, 12),
    *,
    title: str = "Euler's method: straight on from where the water was last looked at",
) -> Figure:
    """Draw what Euler's method makes of a boat in few steps and in more, beside the path that it is to follow.

    Parameters
    ----------
    fun : callable
        `fun(t, z) -> dz/dt` on the line, as for `field_figure`.
    t_span : (t0, t1)
    z0 : float
        Where the boat is put in.
    steps : sequence of int
        The number of steps in each panel.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Its panels say by how much the last step misses the end of the path.

    Raises
    ------
    ValueError
        When t0 and t1 are equal, or an argument is not what is described here.

    Examples
    --------
    >>> import torch
    >>> from thalweg.figures import euler_figure
    >>> figure = euler_figure(lambda t, z: z * torch.cos(t), (0.0, 3.0), 1.0, steps=(3, 6))
    >>> [ax.get_title(loc="left") for ax in figure.axes]
    ['3 steps: off by 0.647', '6 steps: off by 0.196']
    """
    boat = boat_at(fun, z0)
    if not isinstance(steps, Iterable):
        raise ValueError(f"steps must be a sequence of numbers of steps, such as (3, 6, 12), got {steps!r}")
    if not steps:
        raise ValueError("steps must hold at least one number of steps; got none")
    for count in steps:
        check_count("steps", count)
    path = sail(fun, t_span, boat, TIGHT)
    walks = [euler(fun, t_span, boat, count) for count in steps]
    z_range = padded_range(np.concatenate([path.z, *(walk.z for walk in walks)]))
    return _draw(line_water(fun, boat, path.t, z_range), path, walks, title)


@styled
def _draw(water: Water, path: Voyage, walks: Sequence[Voyage], title: str) -> Figure:
    figure, axes = new_panels(len(walks))
    for ax, walk in zip(axes, walks, strict=True):
        draw_water(ax, water, density=0.8)
        draw_paths(ax, path.t, path.z[..., 0], Colouring.plain(1))
        draw_steps(ax, walk.t, walk.z[..., 0], _STEPS)
        draw_miss(ax, walk.t[-1], walk.z[-1, 0, 0], path.z[-1, 0, 0])
        name_times(ax, path.t)
        count = len(walk.t) - 1
        miss = abs(walk.z[-1, 0, 0] - path.z[-1, 0, 0])
        ax.set_title(f"{count} step{'' if count == 1 else 's'}: off by {number_text(miss, water.y)}")
    handles = [
        Line2D([], [], color=class_colour(0), lw=2.4, label="the path"),
        Line2D(
            [], [], color=class_colour(2), lw=1.8, marker="s", markersize=5, markeredgecolor=DEEP, label="Euler's steps"
        ),
        miss_handle("by how much they miss"),
    ]
    add_heading(figure, title)
    add_key(figure, handles, "Darker water is faster.")
    return figure
