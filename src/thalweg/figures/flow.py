"""Figure 1: the river. The field over the t–z plane, the boats' paths, and where the solver stepped and looked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor

from .line import boats_at, check_count, line_water
from .paths import add_heading, add_key, draw_log, draw_paths, draw_steps, log_handles, name_times, padded_range
from .style import DEEP, Colouring, class_colour, new_figure, styled
from .voyage import Log, Voyage, euler, keep_log, sail
from .water import Water, draw_water

Array = NDArray[np.float64]


@styled
def flow_figure(
    water: Water,
    t: Array,
    z: Array,
    colours: Colouring,
    *,
    logs: Sequence[Log] = (),
    crowd: Array | None = None,
    crowd_colours: Colouring | None = None,
    label: str = "state z",
    title: str = "",
    note: str = "",
) -> Figure:
    """Figure 1 from arrays.

    Parameters
    ----------
    water : Water
        Over the t–z plane.
    t : (T,) array
    z : (T, N) array
        The paths of the boats along the line that is drawn.
    colours : Colouring
        Of the boats.
    logs : sequence of Log
        The solver's logs that are marked, on the same line: z of shape (S + 1, 1).
    crowd : (2, M) array, optional
        Where all boats are at t0 and at t1, drawn as the density of each class on both banks.
    crowd_colours : Colouring, optional
        Of the crowd, by class.
    label, title, note : str
        The name of the z axis, the title, and a line below that says what the water is.
    """
    figure = new_figure(10.0, 5.8)
    ax = figure.subplots()
    draw_water(ax, water)
    draw_paths(ax, t, z, colours)
    for log in logs:
        draw_log(ax, log)
    name_times(ax, t)
    ax.set_ylabel(label)
    if crowd is not None and crowd_colours is not None and crowd_colours.names is not None:
        _draw_banks(ax, crowd, crowd_colours)
    colours.add_bar(figure, ax)
    add_heading(figure, title, colours.handles())
    add_key(figure, log_handles() if logs else [], note)
    return figure


def _draw_banks(ax: Axes, places: Array, colours: Colouring) -> None:
    """The density of each class along z, on both banks: where its boats are put in, and where they land."""
    low, high = ax.get_ylim()
    z = np.linspace(low, high, 240)
    for bounds, landed in (((-0.115, 0.0, 0.1, 1.0), places[0]), ((1.02, 0.0, 0.13, 1.0), places[1])):
        bank = ax.inset_axes(bounds, sharey=ax)
        bank.set_axis_off()
        for code in np.unique(colours.values):
            gap = (z[:, None] - landed[colours.values == code]) / (0.025 * (high - low))
            density = np.exp(-0.5 * gap**2).sum(1)
            bank.fill_betweenx(z, density, color=class_colour(int(code)), alpha=0.8, lw=0)
            bank.plot(np.where(density > 0.01 * density.max(), density, np.nan), z, color=DEEP, lw=0.7, alpha=0.7)
        bank.set(ylim=(low, high), xlim=(0.0, bank.get_xlim()[1]))
        if bounds[0] < 0:
            bank.invert_xaxis()
    ax.tick_params(axis="y", length=0, pad=0.115 * 72 * 0.8 * ax.figure.get_figwidth())  # type: ignore[union-attr]


def field_figure(
    fun: Callable[[Tensor, Tensor], Any],
    t_span: tuple[float, float],
    z0_values: Sequence[float] | Array | Tensor,
    *,
    method: str = "tsit5",
    rtol: float = 1e-3,
    atol: float = 1e-6,
    step_size: float | None = None,
    euler_steps: int | None = None,
    show_steps: bool = True,
    title: str = "",
) -> Figure:
    """Draw a field on the line over the t–z plane, and boats that follow it.

    Parameters
    ----------
    fun : callable
        `fun(t, z) -> dz/dt`, for z of shape (batch, 1) and t of the same or 0-d: any function of tensors that works
        element by element, or a module on states of one dimension.
    t_span : (t0, t1)
    z0_values : sequence of float
        Where the boats are put in.
    method, rtol, atol, step_size
        As for `thalweg.solve_ivp`; each boat is solved alone.
    euler_steps : int, optional
        Draw also what Euler's method makes of each boat in so many steps.
    show_steps : bool
        Whether to mark where the solver's steps end and where it asks the field.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Keep it with `thalweg.figures.save(figure, "river")`.

    Raises
    ------
    ValueError
        When no boats are given, t0 and t1 are equal, or an argument is not what is described here.

    Examples
    --------
    >>> import torch
    >>> from thalweg.figures import field_figure
    >>> figure = field_figure(lambda t, z: torch.sin(2 * z) + t, (0.0, 2.0), [-1.0, 0.0, 1.0], euler_steps=4)
    >>> figure.axes[0].get_xlabel()
    'time t'
    """
    z0 = boats_at(fun, z0_values)
    if euler_steps is not None:
        check_count("euler_steps", euler_steps)
    options = {"method": method, "rtol": rtol, "atol": atol, "step_size": step_size, "batching": "per_sample"}
    voyage = sail(fun, t_span, z0, options, times=241)
    logs = [keep_log(fun, t_span, boat[None], options) for boat in z0] if show_steps else []
    steps = None if euler_steps is None else euler(fun, t_span, z0, euler_steps)
    places = voyage.z if steps is None else np.concatenate([voyage.z, steps.z])
    return _draw_field(line_water(fun, z0, voyage.t, padded_range(places)), voyage, logs, steps, title)


@styled
def _draw_field(water: Water, voyage: Voyage, logs: Sequence[Log], steps: Voyage | None, title: str) -> Figure:
    figure = new_figure(10.0, 5.8)
    ax = figure.subplots()
    boats = voyage.z.shape[1]
    draw_water(ax, water)
    draw_paths(ax, voyage.t, voyage.z[..., 0], Colouring.plain(boats))
    handles = [Line2D([], [], color=class_colour(0), lw=2.4, label="path of the solver")]
    if steps is not None:
        draw_steps(ax, steps.t, steps.z[..., 0], Colouring(np.full(boats, 2), ("", "", "Euler")))
        handles.append(
            Line2D(
                [],
                [],
                color=class_colour(2),
                lw=1.8,
                marker="s",
                markersize=5,
                markeredgecolor=DEEP,
                label=f"Euler's method, {len(steps.t) - 1} steps",
            )
        )
    for log in logs:
        draw_log(ax, log)
    name_times(ax, voyage.t)
    ax.set_ylabel("state z")
    add_heading(figure, title)
    add_key(figure, [*handles, *(log_handles() if logs else [])], "Darker water is faster.")
    return figure
