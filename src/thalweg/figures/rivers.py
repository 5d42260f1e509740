"""Several rivers beside each other, with the same boats put in: a field before, during and after training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor

from .line import boats_at, line_water
from .paths import add_heading, add_key, draw_miss, draw_paths, miss_handle, name_times, number_text, padded_range
from .style import DEEP, Colouring, mark, new_panels, styled
from .voyage import sail
from .water import Water, draw_water, top_speed

Array = NDArray[np.float64]


def rivers_figure(
    fields: Mapping[str, Callable[[Tensor, Tensor], Any]],
    t_span: tuple[float, float],
    z0_values: Sequence[float] | Array | Tensor,
    targets: Sequence[float] | Array | Tensor | None = None,
    *,
    method: str = "tsit5",
    rtol: float = 1e-3,
    atol: float = 1e-6,
    step_size: float | None = None,
    title: str = "",
) -> Figure:
    """Draw several fields on the line beside each other, and where they carry the same boats.

    Such as one field before, during and after training: keep it each time with `copy.deepcopy`.

    Parameters
    ----------
    fields : mapping of str to callable
        The title of each panel, and the field: `fun(t, z) -> dz/dt` on the line, as for `field_figure`.
    t_span : (t0, t1)
    z0_values : sequence of float
        Where the boats are put in.
    targets : sequence of float, optional
        Where each of the boats is to land. Panels then say how far off they are, on the average.
    method, rtol, atol, step_size
        As for `thalweg.solve_ivp`; each boat is solved alone.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When there are no fields or no boats, t0 and t1 are equal, or targets are not as many as boats.

    Examples
    --------
    >>> import torch
    >>> from thalweg.figures import rivers_figure
    >>> fields = {"still": lambda t, z: 0 * z, "to the left": lambda t, z: -torch.ones_like(z)}
    >>> figure = rivers_figure(fields, (0.0, 1.0), [0.0, 1.0], targets=[-1.0, 0.0])
    >>> [ax.get_title(loc="left") for ax in figure.axes]
    ['still: off by 1', 'to the left: off by 0']
    """
    if not isinstance(fields, Mapping):
        raise ValueError(
            f"fields must be a mapping of titles to fields, {{'before': field}}, got {type(fields).__name__}"
        )
    if not fields:
        raise ValueError("fields must hold at least one field, by the title of its panel; got none")
    options = {"method": method, "rtol": rtol, "atol": atol, "step_size": step_size, "batching": "per_sample"}
    boats = [boats_at(fun, z0_values) for fun in fields.values()]
    wanted = None if targets is None else torch.as_tensor(targets, dtype=torch.float64, device="cpu").flatten().numpy()
    if wanted is not None and len(wanted) != len(boats[0]):
        raise ValueError(f"targets must hold a number for each boat, {len(boats[0])}, got {len(wanted)}")
    voyages = [sail(fun, t_span, z0, options) for fun, z0 in zip(fields.values(), boats, strict=True)]
    times, places = [voyage.t for voyage in voyages], [voyage.z[..., 0] for voyage in voyages]
    z_range = padded_range(np.concatenate([*places, *([] if wanted is None else [wanted[None]])]))
    waters = [line_water(fun, z0, times[0], z_range) for fun, z0 in zip(fields.values(), boats, strict=True)]
    colours = Colouring(np.arange(len(boats[0])), [""] * len(boats[0]))
    note = "Darker water is faster."
    return panels_figure(list(fields), waters, times, places, colours, targets=wanted, title=title, note=note)


@styled
def panels_figure(
    names: Sequence[str],
    waters: Sequence[Water],
    times: Sequence[Array],
    places: Sequence[Array],
    colours: Colouring,
    *,
    targets: Array | None = None,
    handles: Sequence[Line2D] = (),
    width: float = 4.0,
    label: str = "state z",
    title: str = "",
    note: str = "",
) -> Figure:
    """Rivers beside each other from arrays.

    Parameters
    ----------
    names : sequence of str
        The title of each panel.
    waters : sequence of Water
        Over the t–z plane, all of one range of z.
    times : sequence of (T,) array
    places : sequence of (T, N) array
        The boats' paths in each panel.
    colours : Colouring
        Of the boats, the same in all panels.
    targets : (N,) array, optional
        Where each boat is to land.
    handles : sequence of Line2D
        The key to the boats.
    width : float
        Of a panel, in inches.
    label, title, note : str
        The name of the z axis, the title, and a line below that says what the water is.
    """
    figure, axes = new_panels(len(names), width=width, label=label)
    top = top_speed(waters)
    for ax, name, water, t, z in zip(axes, names, waters, times, places, strict=True):
        draw_water(ax, water, top=top, density=0.8)
        draw_paths(ax, t, z, colours)
        name_times(ax, t)
        if targets is not None:
            _draw_targets(ax, t[-1], z[-1], targets, colours)
            name += f": off by {number_text(np.abs(z[-1] - targets).mean(), water.y, '.2g')}"
        ax.set_title(name)
    marks = [mark("o", "none", 7, label="where a boat is to land"), miss_handle("by how much it misses")]
    colours.add_bar(figure, axes)
    add_heading(figure, title, handles)
    add_key(figure, [] if targets is None else marks, note)
    return figure


def _draw_targets(ax: Axes, t: float, landed: Array, wanted: Array, colours: Colouring) -> None:
    """Where each boat is to land, on the bank in its colour and shape, and how far off it is."""
    look: dict[str, Any] = {"markersize": 8, "markeredgecolor": DEEP, "markeredgewidth": 1.2, "clip_on": False}
    for row, (here, there) in enumerate(zip(landed, wanted, strict=True)):
        draw_miss(ax, t, here, there)
        place = {"color": colours.colour(row), "transform": ax.get_yaxis_transform()}
        ax.plot(1.05, there, colours.marker(row), label="_target", **place, **look)
