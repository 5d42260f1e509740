"""The figures of a trained model: its encoder puts the boats in, its flow carries them, the figures show it.

x: (N, inputs); z: (…, N, D); places along the line that is drawn: (…, N).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from ..nn import NeuralODE, ResNet
from .flow import flow_figure
from .folder import free_suffix
from .paths import padded_range
from .plane import plane_figure
from .steps import Blocks, steps_figure
from .style import Colouring, save
from .view import Task, View, choose_view
from .voyage import Log, Voyage, euler, keep_log, sail
from .water import Water, exact_plane, exact_water, mean_plane, mean_water

Array = NDArray[np.float64]

_CROWD = 600  # boats that tell where the water runs
_FEW = 8  # boats where each is to be followed by eye


def flow_figures(model: nn.Module, x: Tensor | Array, y: Tensor | NDArray[Any] | Sequence[Any], out_dir: str | Path,
                 task: Task, class_names: Sequence[Any] | None = None, *, boats: int = 40, blocks: int = 6,
                 target: str = "target") -> list[Path]:
    """Draw what a trained model has learnt.

    Figure 1 is the river: the field over the t–z plane, the boats' paths, the solver's steps and evaluations. Figure 2
    sets the discrete steps of a residual network beside the continuous flow: the same field, read by Euler's method in
    `blocks` steps. Figure 3 shows a plane of states at three times. A model whose flow is a `ResNet` has Figure 2
    alone, with blocks of its own.

    Parameters
    ----------
    model : Module
        With `encoder` and `flow`, the latter a `NeuralODE` or a `ResNet`.
    x : (N, inputs)
        What the encoder takes. At most 600 rows, chosen at random with a fixed seed, become boats.
    y : (N,) or (N, outputs)
        Class codes from 0, or targets, of which the first gives the colour.
    out_dir : str or Path
        Where the files go. Nothing is overwritten: where a name is taken, all new files end in the same new number.
    task : {"classification", "regression"}
    class_names : sequence, optional
        The name of each class.
    boats : int
        How many paths to draw.
    blocks : int
        The number of Euler's steps in Figure 2.
    target : str
        The name of the target.

    Returns
    -------
    list of Path
        `figure1-flow`, `figure2-steps` and, where the state has two dimensions or more, `figure3-plane`, each as PNG
        and SVG.

    Raises
    ------
    ValueError
        When the model has no flow, or an argument is not what is described here.
    """
    flow = getattr(model, "flow", None)
    if not isinstance(flow, NeuralODE | ResNet):
        raise ValueError("model.flow must be a NeuralODE or a ResNet for there to be a flow to draw, "
                         f"got {type(flow).__name__}")
    for name, value in (("boats", boats), ("blocks", blocks)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of 1 or more, got {value!r}")
    values, names = _meaning(y, task, class_names)
    if len(values) != len(x) or not len(x):
        raise ValueError(f"x and y must have as many rows as each other, at least one; got {len(x)} and {len(values)}")
    rows = np.sort(np.random.default_rng(0).permutation(len(x))[:_CROWD])
    colours = Colouring(values[rows], names, target)
    z0 = _put_in(model, torch.as_tensor(x)[torch.from_numpy(rows)])
    figures = _draw_river(_River(flow, z0, colours, task), boats, blocks) if isinstance(flow, NeuralODE) \
        else {"figure2-steps": _draw_blocks(flow, z0, colours, task, boats)}
    suffix = free_suffix(out_dir, list(figures))
    return [path for name, figure in figures.items() for path in save(figure, Path(out_dir) / f"{name}{suffix}")]


def _meaning(y: Any, task: Task, class_names: Sequence[Any] | None) -> tuple[NDArray[Any], list[str] | None]:
    """Class codes and names, or target values and None."""
    values = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if task == "regression":
        return values.reshape(len(values), -1)[:, 0].astype(float), None
    if task != "classification":
        raise ValueError(f"task must be 'classification' or 'regression', got {task!r}")
    if not np.issubdtype(values.dtype, np.integer) or (values.size and values.min() < 0):
        raise ValueError("y must hold class codes, integers from 0, for classification; encode the labels first")
    classes = int(values.max(initial=0)) + 1
    names = [str(name) for name in (range(classes) if class_names is None else class_names)]
    if len(names) < classes:
        raise ValueError(f"class_names must name all {classes} classes, got {len(names)} names")
    return values, names


@torch.no_grad()
def _put_in(model: nn.Module, x: Tensor) -> Tensor:
    """z(t0), with the model's dtype and device, and the model left as it was."""
    like = next(model.parameters(), torch.zeros(()))
    training = model.training
    model.eval()
    try:
        z0: Tensor = model.encoder(x.to(like))  # type: ignore[operator]
    finally:
        model.train(training)
    return z0


class _River:
    """A flow, the boats on it, and the side from which it is seen."""

    def __init__(self, flow: NeuralODE, z0: Tensor, colours: Colouring, task: Task) -> None:
        self.flow, self.z0, self.colours = flow, z0, colours
        self.crowd = sail(flow.field, flow.t_span, z0, flow.options)
        self.dims = self.crowd.z.shape[-1]
        self.view = choose_view(self.crowd.z[-1], colours.values, task)
        self.places = self.view.line(self.crowd.z)

    def water(self, voyage: Voyage, z_range: tuple[float, float], rows: int = 121) -> Water:
        """The water at the times of a voyage: of the field where the state is a line, else from the boats."""
        if self.dims == 1:
            return exact_water(lambda t, z: self.velocity(t, z[:, None])[:, 0], voyage.t, z_range, rows)
        return mean_water(voyage.t, self.view.line(voyage.z), self.view.line(voyage.v), z_range, rows)

    @torch.no_grad()
    def velocity(self, t: float, z: Array) -> Array:
        """The field at states (M, D)."""
        state = torch.from_numpy(z).to(self.z0)
        dz: Tensor = self.flow.field(torch.tensor(t).to(self.z0), state)
        return dz.to("cpu", torch.float64).numpy()

    def log(self, row: int) -> Log:
        """The solver's log of one boat, along the line."""
        log = keep_log(self.flow.field, self.flow.t_span, self.z0[row : row + 1], self.flow.options)
        return log.along(self.view.line)

    def choose(self, boats: int) -> NDArray[np.intp]:
        """So many boats, of all classes and from all over the river."""
        return _spread(self.places[0], self.colours, boats)

    def note(self) -> str:
        """What the water is."""
        if self.dims == 1:
            return "The deeper the colour, the faster the water."
        return (f"The deeper the colour, the faster the water: the mean water of the boats nearby, "
                f"as the state has {self.dims} dimensions.")


def _draw_river(river: _River, boats: int, blocks: int) -> dict[str, Figure]:
    figures = {"figure1-flow": _draw_flow(river, boats), "figure2-steps": _draw_steps(river, boats, blocks)}
    if river.dims > 1:
        figures["figure3-plane"] = _draw_plane(river, boats)
    return figures


def _draw_flow(river: _River, boats: int) -> Figure:
    drawn = river.choose(boats)
    followed = drawn[np.unique(np.linspace(0, len(drawn) - 1, 3).round().astype(int))]
    z_range = _range(river.places, drawn)
    return flow_figure(
        river.water(river.crowd, z_range), river.crowd.t, river.places[:, drawn], river.colours.pick(drawn),
        logs=[river.log(row) for row in followed], crowd=river.places[[0, -1]], crowd_colours=river.colours,
        label=river.view.labels[0], title="The river that training made: each boat is one sample", note=river.note(),
    )


def _draw_steps(river: _River, boats: int, blocks: int) -> Figure:
    drawn = river.choose(min(boats, _FEW))
    stepped = euler(river.flow.field, river.flow.t_span, river.z0, blocks)
    places = river.view.line(stepped.z)
    z_range = _range(np.concatenate([places, river.places]), drawn)
    logs = [river.log(row) for row in drawn]
    asked = np.mean([len(log.t_asked) for log in logs])
    titles = (f"Residual network of {blocks} blocks\n{blocks} evaluations a boat",
              f"Neural ODE, {river.flow.options['method']}\n{asked:.0f} evaluations a boat")
    water = river.water(Voyage(stepped.t[:-1], stepped.z[:-1], stepped.v[:-1]), z_range, rows=25)
    return steps_figure(
        Blocks(stepped.t, places[:, drawn], water), river.colours.pick(drawn), titles, label=river.view.labels[0],
        flow=(river.water(river.crowd, z_range), river.crowd.t, river.places[:, drawn], logs),
        note="The same learnt field: on the left read at discrete depths by Euler's method, on the right everywhere.",
    )


def _draw_plane(river: _River, boats: int) -> Figure:
    flat = river.dims == 2
    view = View(np.eye(2), ("state $z_1$", "state $z_2$")) if flat else river.view
    z, v = view(river.crowd.z), view(river.crowd.v)
    stops = [0, len(z) // 2, len(z) - 1]
    x_range, y_range = _square(z)
    waters = [exact_plane(partial(river.velocity, river.crowd.t[k]), x_range, y_range) if flat
              else mean_plane(z[k], v[k], x_range, y_range) for k in stops]
    note = "Each point is a sample. " + ("The water is the field itself." if flat else river.note())
    return plane_figure(waters, river.crowd.t, z, stops, river.colours, wakes=river.choose(boats), labels=view.labels,
                        note=note)


def _draw_blocks(flow: ResNet, z0: Tensor, colours: Colouring, task: Task, boats: int) -> Figure:
    with torch.no_grad():
        z = flow.trajectory(z0).flatten(2).to("cpu", torch.float64).numpy()
    view = choose_view(z[-1], colours.values, task)
    places = view.line(z)
    drawn = _spread(places[0], colours, min(boats, 3 * _FEW))
    water = mean_water(np.arange(len(z) - 1.0), places[:-1], np.diff(places, axis=0), _range(places, drawn), rows=25)
    return steps_figure(
        Blocks(np.arange(float(len(z))), places[:, drawn], water), colours.pick(drawn),
        [f"Residual network of {len(z) - 1} blocks"], label=view.labels[0],
        note="Arrows: the mean step of the boats nearby. Between the depths there is no field.",
    )


def _spread(places: Array, colours: Colouring, boats: int) -> NDArray[np.intp]:
    """The rows of so many boats: as many of each class, from all over its places; or of all target values."""
    groups = [np.arange(len(places))]
    by = colours.values
    if colours.names is not None:
        groups = [np.flatnonzero(colours.values == code) for code in np.unique(colours.values)]
        by = places
    share = np.diff(np.linspace(0, boats, len(groups) + 1).astype(int))
    chosen = []
    for group, count in zip(groups, share, strict=True):
        order = group[np.argsort(by[group], kind="stable")]
        chosen.append(order[np.unique((len(order) * (np.arange(count) + 0.5) / max(count, 1)).astype(int))])
    return np.concatenate(chosen)


def _range(places: Array, drawn: NDArray[np.intp]) -> tuple[float, float]:
    """All that the drawn boats see, and nearly all that the others do."""
    crowd = np.quantile(places, [0.005, 0.995])
    return padded_range(np.concatenate([places[:, drawn].ravel(), crowd]))


def _square(z: Array) -> tuple[tuple[float, float], tuple[float, float]]:
    """A square window (x_range, y_range) on nearly all of z, (T, N, 2)."""
    low, high = np.quantile(z, [0.002, 0.998], axis=(0, 1))
    centre, half = (low + high) / 2, 0.54 * float(np.max(high - low)) or 0.5
    return (centre[0] - half, centre[0] + half), (centre[1] - half, centre[1] + half)
