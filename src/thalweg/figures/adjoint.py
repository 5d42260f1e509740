"""The adjoint: what a nudge to the boat is worth, at each time of its way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor

from ..ivp import solve_ivp
from .line import TIGHT, boat_at, check_count, line_water
from .paths import add_heading, add_key, draw_paths, name_times, padded_range
from .style import DEEP, MUTED, Colouring, class_colour, new_figure, styled
from .voyage import FieldFunction, Voyage, sail
from .water import Water, draw_water

Array = NDArray[np.float64]

_SEEN = 0.08  # of the river's breadth: a nudge that the eye can follow
_SMALL = 1e-3  # the same, for one that tells the slope

_BACK = "#10405c"
_EDGE: dict[str, Any] = {"ls": "none", "markeredgecolor": DEEP, "markeredgewidth": 1.0}
_ADJOINT: dict[str, Any] = {"color": _BACK, "lw": 2.4}
_BEGIN: dict[str, Any] = {**_EDGE, "marker": "s", "markersize": 9, "markerfacecolor": "white"}
_SLOPE: dict[str, Any] = {**_EDGE, "marker": "o", "markersize": 8, "markerfacecolor": "#e4542b"}
_PUT_IN: dict[str, Any] = {**_EDGE, "marker": "o", "markersize": 5, "color": class_colour(1), "clip_on": False}
_NUDGED: dict[str, Any] = {
    "color": class_colour(1),
    "lw": 1.3,
    "ls": (0, (4, 2)),
    "zorder": 2,
    "path_effects": [effects.Stroke(linewidth=2.5, foreground=DEEP, alpha=0.75), effects.Normal()],
}


def adjoint_figure(
    fun: Callable[[Tensor, Tensor], Any],
    t_span: tuple[float, float],
    z0: float,
    loss: Callable[[Tensor], Tensor],
    *,
    nudges: int = 4,
    title: str = "What a nudge to the boat is worth: the adjoint a(t) = dL/dz(t)",
) -> Figure:
    """Draw a boat's way, nudges to it, and below by how much each would change the loss.

    Parameters
    ----------
    fun : callable
        `fun(t, z) -> dz/dt` on the line, as for `field_figure`.
    t_span : (t0, t1)
    z0 : float
        Where the boat is put in.
    loss : callable
        `loss(z1)`, element by element: what is lost by landing at z1.
    nudges : int
        At how many times the boat is nudged.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Above the river, below the adjoint: a line by backpropagation through the rest of the way, and points by finite
        differences, from boats that were put in a little to either side.

    Raises
    ------
    ValueError
        When t0 and t1 are equal, or an argument is not what is described here.

    Examples
    --------
    >>> import torch
    >>> from thalweg.figures import adjoint_figure
    >>> figure = adjoint_figure(lambda t, z: z * torch.cos(t), (0.0, 3.0), 1.0, lambda z: (z - 2) ** 2)
    >>> river, adjoint = figure.axes
    >>> adjoint.get_ylabel()
    'dL/dz(t)'
    """
    boat = boat_at(fun, z0)
    check_count("nudges", nudges)
    path = sail(fun, t_span, boat, TIGHT)
    z = torch.from_numpy(path.z[:, 0]).to(boat)  # (T, 1)
    low, high = padded_range(path.z)
    stops = np.linspace(0, len(path.t) - 1, nudges + 1).astype(int)[:-1]
    nudged = [
        sail(fun, (path.t[stop], path.t[-1]), z[stop, None] + way * _SEEN * (high - low), TIGHT)
        for stop in stops
        for way in (-1, 1)
    ]
    water = line_water(fun, boat, path.t, padded_range(np.concatenate([path.z, *(wake.z for wake in nudged)])))
    slopes = _slopes(fun, path.t[stops], z[stops], path.t[-1], loss, _SMALL * (high - low))
    return _draw(water, path, nudged, _adjoint(fun, path.t, z, loss), path.t[stops], slopes, title)


def _lost(fun: FieldFunction, t: Array, z: Tensor, t1: float, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The loss (N, 1) of boats that are put in at (t, z), for t (N,) and z (N, 1), and left to the current."""
    begin = torch.from_numpy(t).to(z)
    z1 = solve_ivp(fun, (begin, torch.full_like(begin, t1)), z, **TIGHT).ys[-1]
    lost = loss(z1)
    if not isinstance(lost, Tensor) or lost.shape != z1.shape:
        got = f"shape {tuple(lost.shape)}" if isinstance(lost, Tensor) else type(lost).__name__
        raise ValueError(f"loss must be taken element by element: of shape {tuple(z1.shape)} it made {got}")
    return lost


def _adjoint(fun: FieldFunction, t: Array, z: Tensor, loss: Callable[[Tensor], Tensor]) -> Array:
    """dL/dz(t) (T,) along a path, by backpropagation through what is left of the way at each time."""
    z = z.detach().requires_grad_()
    lost = _lost(fun, t, z, t[-1], loss).sum()
    if not lost.requires_grad:
        raise ValueError(
            "loss must be computed from z1 by PyTorch, so that it has a slope; this one does not depend on it"
        )
    (worth,) = torch.autograd.grad(lost, z)
    return worth.to("cpu", torch.float64).numpy()[:, 0]


@torch.no_grad()
def _slopes(
    fun: FieldFunction, t: Array, z: Tensor, t1: float, loss: Callable[[Tensor], Tensor], nudge: float
) -> Array:
    """The same by finite differences."""
    above, below = (_lost(fun, t, z + way * nudge, t1, loss) for way in (1, -1))
    return ((above - below) / (2 * nudge)).to("cpu", torch.float64).numpy()[:, 0]


@styled
def _draw(
    water: Water, path: Voyage, nudged: Sequence[Voyage], worth: Array, t: Array, slopes: Array, title: str
) -> Figure:
    figure = new_figure(10.0, 7.6)
    river, ax = figure.subplots(2, 1, height_ratios=(3, 2))
    draw_water(river, water)
    for wake in nudged:
        river.plot(wake.t, wake.z[:, 0, 0], **_NUDGED, label="_nudged")
        river.plot(wake.t[0], wake.z[0, 0, 0], **_PUT_IN)
    draw_paths(river, path.t, path.z[..., 0], Colouring.plain(1))
    river.set_ylabel("state z")
    ax.axhline(0.0, color=MUTED, lw=0.8)
    ax.plot(path.t, worth, **_ADJOINT, label="_adjoint", zorder=3)
    _draw_arrow(ax, path.t, worth)
    ax.plot(t, slopes, **_SLOPE, label="_slopes", zorder=5, clip_on=False)
    ax.plot(path.t[-1], worth[-1], **_BEGIN, label="_begin", zorder=5, clip_on=False)
    ax.set_ylabel("dL/dz(t)")
    for each in (river, ax):
        name_times(each, path.t)
    handles = [
        Line2D([], [], color=class_colour(0), lw=2.4, label="the boat's path"),
        Line2D([], [], **_NUDGED, label="a boat nudged, and left to the current"),
        Line2D([], [], **_ADJOINT, label="the adjoint"),
        Line2D([], [], **_BEGIN, label="where it begins: the slope of the loss"),
        Line2D([], [], **_SLOPE, label="by nudges (finite differences)"),
    ]
    add_heading(figure, title)
    add_key(figure, handles, "Darker water is faster.")
    return figure


def _draw_arrow(ax: Axes, t: Array, worth: Array) -> None:
    """Which way the adjoint runs: from t1 to t0."""
    tip, tail = ((t[k], worth[k]) for k in (5 * len(t) // 8, 5 * len(t) // 8 + 2))  # between two of four nudges
    ax.annotate("", tip, tail, arrowprops={"arrowstyle": "-|>", "color": _BACK, "lw": 2.4, "mutation_scale": 22})
