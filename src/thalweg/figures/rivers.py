"""Several rivers beside each other, with the same boats put in: a field before, during and after training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from .line import boats_at, line_water
from .paths import add_heading, add_key, draw_miss, draw_paths, miss_handle, name_times, number_text, padded_range
from .style import DEEP, Colouring, mark, new_panels, styled
from .voyage import Voyage, sail
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
    if not fields:
        raise ValueError("fields must hold at least one field, by the title of its panel; got none")
    options = {"method": method, "rtol": rtol, "atol": atol, "step_size": step_size, "batching": "per_sample"}
    boats = [boats_at(fun, z0_values) for fun in fields.values()]
    wanted = None if targets is None else torch.as_tensor(targets, dtype=torch.float64, device="cpu").flatten().numpy()
    if wanted is not None and len(wanted) != len(boats[0]):
        raise ValueError(f"targets must hold a number for each boat, {len(boats[0])}, got {len(wanted)}")
    voyages = [sail(fun, t_span, z0, options) for fun, z0 in zip(fields.values(), boats, strict=True)]
    places = [voyage.z.ravel() for voyage in voyages]
    z_range = padded_range(np.concatenate([*places, *([] if wanted is None else [wanted])]))
    waters = [
        line_water(fun, z0, voyage.t, z_range) for fun, z0, voyage in zip(fields.values(), boats, voyages, strict=True)
    ]
    return _draw(list(fields), waters, voyages, wanted, title)


@styled
def _draw(
    names: Sequence[str], waters: Sequence[Water], voyages: Sequence[Voyage], wanted: Array | None, title: str
) -> Figure:
    figure, axes = new_panels(len(names))
    top = top_speed(waters)
    boats = voyages[0].z.shape[1]
    colours = Colouring(np.arange(boats), [""] * boats)
    for ax, name, water, voyage in zip(axes, names, waters, voyages, strict=True):
        draw_water(ax, water, top=top, density=0.8)
        draw_paths(ax, voyage.t, voyage.z[..., 0], colours)
        name_times(ax, voyage.t)
        landed = voyage.z[-1, :, 0]
        if wanted is not None:
            _draw_targets(ax, voyage.t[-1], landed, wanted, colours)
            name += f": off by {number_text(np.abs(landed - wanted).mean(), water.y, '.2g')}"
        ax.set_title(name)
    handles = [mark("o", "none", 7, label="where a boat is to land"), miss_handle("by how much it misses")]
    add_heading(figure, title)
    add_key(figure, [] if wanted is None else handles, "Darker water is faster.")
    return figure


def _draw_targets(ax: Axes, t: float, landed: Array, wanted: Array, colours: Colouring) -> None:
    """Where each boat is to land, on the bank in its colour and shape, and how far off it is."""
    look: dict[str, Any] = {"markersize": 8, "markeredgecolor": DEEP, "markeredgewidth": 1.2, "clip_on": False}
    for row, (here, there) in enumerate(zip(landed, wanted, strict=True)):
        draw_miss(ax, t, here, there)
        place = {"color": colours.colour(row), "transform": ax.get_yaxis_transform()}
        ax.plot(1.05, there, colours.marker(row), label="_target", **place, **look)
