"""The water: the slope of the river over a plane of two coordinates, known exactly or from the boats nearby.

grid: x (X,), y (Y,); u, v, cover: (Y, X).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from .style import CURRENT, WATER

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Water:
    """Velocities (u, v) on a grid; `cover`, between 0 and 1, says how well they are known at each point."""

    x: Array
    y: Array
    u: Array
    v: Array
    cover: Array


def exact_water(slope: Callable[[float, Array], Array], t_span: tuple[float, float], z_range: tuple[float, float],
                shape: tuple[int, int] = (121, 121)) -> Water:
    """The water of a field on the line, over the t–z plane.

    Parameters
    ----------
    slope : callable
        dz/dt at (t, z) for z of shape (Y,).
    t_span, z_range : (float, float)
        The two sides of the plane.
    shape : (Y, X)
    """
    t = np.linspace(min(t_span), max(t_span), shape[1])
    z = np.linspace(*z_range, shape[0])
    v = np.stack([slope(float(time), z) for time in t], axis=1)
    return Water(t, z, np.ones_like(v), v, np.ones_like(v))


def mean_water(t: Array, z: Array, v: Array, z_range: tuple[float, float], rows: int = 121) -> Water:
    """The mean velocity of the boats near each point of the t–z plane, by Gaussian kernel regression in z.

    Parameters
    ----------
    t : (X,)
        Equally spaced times.
    z, v : (X, N)
        The places and velocities of N boats at those times, along the line that is drawn.
    z_range : (float, float)
    rows : int
        The number of points along z.
    """
    grid = np.linspace(*z_range, rows)
    width = _bandwidth(z_range, z.shape[1])
    means, crowds = zip(*(_regress(grid[:, None], zk[:, None], vk[:, None], width)
                          for zk, vk in zip(z, v, strict=True)), strict=True)
    slope = np.stack([m[:, 0] for m in means], axis=1)
    order = np.argsort(t)
    slope, crowd = slope[:, order], np.stack(crowds, axis=1)[:, order]
    return Water(t[order], grid, np.ones_like(slope), slope, _cover(crowd))


def mean_plane(z: Array, v: Array, x_range: tuple[float, float], y_range: tuple[float, float],
               shape: tuple[int, int] = (81, 81)) -> Water:
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
    mean, crowd = _regress(grid / scale, z / scale, v, 2.0 * _bandwidth((0.0, 1.0), len(z)))
    u, w = (part.reshape(shape) for part in mean.T)
    return Water(x, y, u, w, _cover(crowd).reshape(shape))


def _bandwidth(z_range: tuple[float, float], boats: int) -> float:
    """Narrow where many boats tell, wider where few do."""
    return (z_range[1] - z_range[0]) * float(np.clip(0.12 * boats**-0.2, 0.025, 0.08))


def _regress(grid: Array, places: Array, values: Array, width: float) -> tuple[Array, Array]:
    """The kernel mean of values (N, k) at grid points (G, d), and how many boats each mean rests on."""
    gap = ((grid[:, None, :] - places[None, :, :]) ** 2).sum(-1) / (2 * width**2)
    weight = np.exp(-gap)
    crowd = weight.sum(1)
    # far from all boats the nearest one speaks, so that the currents run smoothly out under the bank
    weight = np.exp(-(gap - gap.min(1, keepdims=True)))
    return weight @ values / weight.sum(1, keepdims=True), crowd


def _cover(crowd: Array) -> Array:
    """From dry (no boat within reach) to certain (one boat's full weight)."""
    return np.clip((crowd - 0.02) / 0.5, 0.0, 1.0)


def draw_water(ax: Axes, water: Water, *, density: float = 1.1) -> None:
    """The water's speed as its depth of colour, and its direction as currents."""
    speed = np.hypot(water.u, water.v) if not np.all(water.u == 1.0) else np.abs(water.v)
    wet = water.cover > 0.05
    top = float(np.quantile(speed[wet], 0.98)) if wet.any() else 1.0
    rgba = WATER(np.clip(speed / (top or 1.0), 0.0, 1.0))
    rgba[..., 3] = water.cover
    extent = (water.x[0], water.x[-1], water.y[0], water.y[-1])
    ax.imshow(rgba, extent=extent, origin="lower", aspect="auto", interpolation="bilinear", zorder=0)
    ax.set(xlim=extent[:2], ylim=extent[2:])
    if wet.any():
        u, v = (np.where(water.cover > 0.4, part, np.nan) for part in (water.u, water.v))
        lines = ax.streamplot(water.x, water.y, u, v, density=density, color=CURRENT, linewidth=0.7, arrowsize=0.8,
                              arrowstyle="-|>", zorder=1)
        lines.lines.set_alpha(0.55)
