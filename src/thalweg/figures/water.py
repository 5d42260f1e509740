"""The water: the slope of the river over a plane of two coordinates, known exactly or from the boats nearby.

grid: x (X,), y (Y,); u, v, cover: (Y, X).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from .style import CURRENT, WATER

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Water:
    """Velocities on a grid.

    Attributes
    ----------
    x, y : (X,), (Y,)
        Equally spaced.
    u, v : (Y, X)
        Which way the currents run.
    speed : (Y, X)
        How fast the state changes there.
    cover : (Y, X)
        Between 0 and 1: how well this is known.
    """

    x: Array
    y: Array
    u: Array
    v: Array
    speed: Array
    cover: Array


def exact_water(
    slope: Callable[[float, Array], Array], t: Array, z_range: tuple[float, float], rows: int = 121
) -> Water:
    """The water of a field on the line, over the t–z plane.

    Parameters
    ----------
    slope : callable
        dz/dt at (t, z) for z of shape (Y,).
    t : (X,)
        Equally spaced times, in either direction.
    z_range : (float, float)
    rows : int
        The number of points along z.
    """
    z = np.linspace(*z_range, rows)
    v = np.stack([slope(float(time), z) for time in t], axis=1)
    return _over_time(t, z, v, np.ones_like(v))


def mean_water(t: Array, z: Array, v: Array, z_range: tuple[float, float], rows: int = 121) -> Water:
    """The mean velocity of the boats near each point of the t–z plane, by Gaussian kernel regression in z.

    Parameters
    ----------
    t : (X,)
        Equally spaced times, in either direction.
    z, v : (X, N)
        The places and velocities of N boats at those times, along the line that is drawn.
    z_range : (float, float)
    rows : int
        The number of points along z.
    """
    grid = np.linspace(*z_range, rows)
    width = _bandwidth(z_range, z.shape[1])
    means, covers = zip(
        *(_regress(grid[:, None], zk[:, None], vk[:, None], width) for zk, vk in zip(z, v, strict=True)), strict=True
    )
    return _over_time(t, grid, np.concatenate(means, axis=1), np.stack(covers, axis=1))


def _over_time(t: Array, z: Array, slope: Array, cover: Array) -> Water:
    """Water over the t–z plane; where time runs backwards, so do the currents."""
    way = 1.0 if t[-1] >= t[0] else -1.0
    if way < 0:
        t, slope, cover = t[::-1], slope[:, ::-1], cover[:, ::-1]
    return Water(t, z, np.full_like(slope, way), way * slope, np.abs(slope), cover)


def mean_plane(
    z: Array, v: Array, x_range: tuple[float, float], y_range: tuple[float, float], shape: tuple[int, int] = (81, 81)
) -> Water:
    """The mean velocity of the boats near each point of a plane of states, at one time.

    Parameters
    ----------
    z, v : (N, 2)
        The places and velocities of N boats in the plane.
    x_range, y_range : (float, float)
    shape : (Y, X)
    """
    x, y = np.linspace(*x_range, shape[1]), np.linspace(*y_range, shape[0])
    scale = np.array([x_range[1] - x_range[0], y_range[1] - y_range[0]])
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    mean, cover = _regress(grid / scale, z / scale, v, 1.4 * _bandwidth((0.0, 1.0), len(z)))
    u, w = (part.reshape(shape) for part in mean.T)
    return Water(x, y, u, w, np.hypot(u, w), cover.reshape(shape))


def exact_plane(
    velocity: Callable[[Array], Array],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    shape: tuple[int, int] = (81, 81),
) -> Water:
    """The water of a field on the plane, at one time; `velocity` takes states (M, 2) and returns as many slopes."""
    x, y = np.linspace(*x_range, shape[1]), np.linspace(*y_range, shape[0])
    u, w = (part.reshape(shape) for part in velocity(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)).T)
    return Water(x, y, u, w, np.hypot(u, w), np.ones(shape))


def _bandwidth(z_range: tuple[float, float], boats: int) -> float:
    """Narrow where many boats tell, wider where few do."""
    return (z_range[1] - z_range[0]) * float(np.clip(0.12 * boats**-0.2, 0.025, 0.08))


def _regress(grid: Array, places: Array, values: Array, width: float) -> tuple[Array, Array]:
    """The kernel mean of values (N, k) at grid points (G, d), and its cover: whole by a boat, none two widths off."""
    gap = ((grid[:, None, :] - places[None, :, :]) ** 2).sum(-1) / (2 * width**2)
    nearest = gap.min(1)
    # far from all boats the nearest one speaks, so that the currents run smoothly out under the bank
    weight = np.exp(nearest[:, None] - gap)
    return weight @ values / weight.sum(1, keepdims=True), np.clip(2.0 - np.sqrt(2.0 * nearest), 0.0, 1.0)


def draw_water(ax: Axes, water: Water, *, top: float | None = None, density: float = 1.1) -> None:
    """The water's speed as its depth of colour, `top` and above the deepest, and its direction as currents."""
    rgba = water_colours(water, top_speed([water]) if top is None else top)
    extent = (water.x[0], water.x[-1], water.y[0], water.y[-1])
    ax.imshow(rgba, extent=extent, origin="lower", aspect="auto", interpolation="bilinear", zorder=0)
    ax.set(xlim=extent[:2], ylim=extent[2:])
    u, v = (np.where(water.cover > 0.4, part, np.nan) for part in (water.u, water.v))
    lines = ax.streamplot(
        water.x, water.y, u, v, density=density, color=CURRENT, linewidth=0.7, arrowsize=0.8, arrowstyle="-|>", zorder=1
    )
    lines.lines.set_alpha(0.55)


def water_colours(water: Water, top: float) -> Array:
    """The colour (Y, X, 4) of water, opaque where it is known."""
    rgba: Array = WATER(np.clip(water.speed / top, 0.0, 1.0))
    rgba[..., 3] = water.cover
    return rgba


def top_speed(waters: Sequence[Water]) -> float:
    """The speed that all but the fastest water keeps to."""
    speeds = np.concatenate([water.speed[water.cover > 0.05] for water in waters])
    return (float(np.quantile(speeds, 0.98)) if len(speeds) else 0.0) or 1.0
