"""The figures of a trained model: its encoder puts the boats in, its flow carries them, the figures show it.

x: (N, inputs); z: (…, N, D); places along the line that is drawn: (…, N).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
from .rivers import panels_figure
from .steps import Blocks, steps_figure
from .style import Colouring, save
from .view import Task, View, choose_view
from .voyage import Log, Voyage, euler, keep_log, sail, velocity
from .water import Water, exact_plane, exact_water, mean_plane, mean_water

Array = NDArray[np.float64]

_CROWD = 600  # boats that tell where the water runs
_OF_EACH = 5  # boats of a class, at least, where there are so many rows of it
_FEW = 8  # boats where each is to be followed by eye
_AT_MOST = 12  # the same, where there are more classes


def flow_figures(
    model: nn.Module,
    x: Tensor | Array,
    y: Tensor | NDArray[Any] | Sequence[Any],
    out_dir: str | Path,
    task: Task,
    class_names: Sequence[Any] | None = None,
    *,
    boats: int = 40,
    blocks: int = 6,
    target: str = "target",
    before: nn.Module | None = None,
) -> list[Path]:
    """Draw what a trained model has learnt, and write it as PNG and SVG.

    Figure 1 is the river: the field over the t–z plane, the boats' paths, the solver's steps and evaluations. Figure 2
    sets the discrete steps of a residual network beside the continuous flow: the same field, read by Euler's method in
    `blocks` steps. Figure 3 shows a plane of states at three times. Figure 4 sets the river before training beside it,
    where the model is given as it was then. A model whose flow is a `ResNet` has Figure 2 alone, with blocks of its
    own.

    Parameters
    ----------
    model : Module
        With `encoder` and `flow`, the latter a `NeuralODE` or a `ResNet`.
    x : (N, inputs)
        What the encoder takes. At most 600 rows, chosen at random with a fixed seed, become boats: of each class five
        at least, as far as there is room.
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
    before : Module, optional
        The model as it was before training.

    Returns
    -------
    list of Path
        `figure1-flow`, `figure2-steps` and, where the state has two dimensions or more, `figure3-plane`, each as PNG
        and SVG; with `before`, `figure4-training` too.

    Raises
    ------
    ValueError
        When the model has no flow, or an argument is not what is described here.

    Examples
    --------
    >>> import tempfile, torch
    >>> from thalweg.figures import flow_figures
    >>> from thalweg.learn.config import ModelConfig, SolverConfig
    >>> from thalweg.learn.model import build_model
    >>> model = build_model(ModelConfig(state_dim=1, width=4), SolverConfig(), n_inputs=2, n_outputs=2, seed=0)
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in flow_figures(model, x, [0, 0, 1], folder, "classification", ["low", "high"])]
    ['figure1-flow.png', 'figure1-flow.svg', 'figure2-steps.png', 'figure2-steps.svg']
    """
    figures = draw_flow(model, x, y, task, class_names, boats=boats, blocks=blocks, target=target, before=before)
    suffix = free_suffix(out_dir, list(figures))
    return [path for name, figure in figures.items() for path in save(figure, Path(out_dir) / f"{name}{suffix}")]


def draw_flow(
    model: nn.Module,
    x: Tensor | Array,
    y: Tensor | NDArray[Any] | Sequence[Any],
    task: Task,
    class_names: Sequence[Any] | None = None,
    *,
    boats: int = 40,
    blocks: int = 6,
    target: str = "target",
    before: nn.Module | None = None,
) -> dict[str, Figure]:
    """The figures of `flow_figures`, by the names of their files."""
    flow = getattr(model, "flow", None)
    if not isinstance(flow, NeuralODE | ResNet):
        raise ValueError(
            f"model.flow must be a NeuralODE or a ResNet for there to be a flow to draw, got {type(flow).__name__}; "
            "thalweg.learn.model.FlowModel(encoder, flow, decoder) makes such a model of three modules"
        )
    for name, value in (("boats", boats), ("blocks", blocks)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of 1 or more, got {value!r}")
    values, names = _meaning(y, task, class_names)
    if len(values) != len(x) or not len(x):
        raise ValueError(f"x and y must have as many rows as each other, at least one; got {len(x)} and {len(values)}")
    rows = _crowd(values if names else np.zeros(len(x), int))
    values = values[rows]
    colours = Colouring(values, names, target)
    if names is None:
        low, high = _reach(values[None].astype(np.float64))
        colours = replace(colours, scale=(float(low), float(high)))
    with _evaluating(model):
        z0 = _put_in(model, x, rows)
        if isinstance(flow, ResNet):
            if before is not None:
                raise ValueError("before is for a model whose flow is a NeuralODE; this one's is a ResNet")
            return {"figure2-steps": _draw_blocks(flow, z0, colours, task, boats)}
        river = _River(flow, z0, colours, task)
        figures = _draw_river(river, boats, blocks)
        if before is not None:
            with _evaluating(before):
                figures["figure4-training"] = _draw_training(_river_before(before, x, rows, river), river, boats)
        return figures


def _river_before(model: nn.Module, x: Tensor | Array, rows: NDArray[np.intp], after: _River) -> _River:
    """The river that the same samples were put into before training, seen from the same side."""
    flow = getattr(model, "flow", None)
    if not isinstance(flow, NeuralODE):
        raise ValueError(f"before.flow must be a NeuralODE, as model.flow is, got {type(flow).__name__}")
    z0 = _put_in(model, x, rows)
    if z0.shape != after.z0.shape:
        raise ValueError(
            f"before must make states like those of model, {tuple(after.z0.shape[1:])}, got {tuple(z0.shape[1:])}"
        )
    return _River(flow, z0, after.colours, after.view)


def _crowd(codes: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
    """The rows that become boats: at random, but of each class a few, however rare it is."""
    order = np.random.default_rng(0).permutation(len(codes))
    by_class = order[np.argsort(codes[order], kind="stable")]
    met = np.empty(len(codes), int)  # how many of its class come before a row
    met[by_class] = np.arange(len(codes)) - np.searchsorted(codes[by_class], codes[by_class])
    first = order[np.argsort(met[order] >= _OF_EACH, kind="stable")]
    return np.sort(first[:_CROWD])


def _meaning(y: Any, task: Task, class_names: Sequence[Any] | None) -> tuple[NDArray[Any], list[str] | None]:
    """Class codes and names, or target values and None."""
    if task not in ("classification", "regression"):
        raise ValueError(f"task must be 'classification' or 'regression', got {task!r}")
    values = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    numeric = np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)
    if task == "regression":
        if not numeric or values.ndim == 0 or not np.isfinite(values).all():
            raise ValueError(
                f"y must hold finite numbers of shape (N,) or (N, outputs) for regression; got {_describe(values)}"
            )
        return values.reshape(len(values), -1)[:, 0].astype(float), None
    if values.ndim != 1 or (len(values) and (not np.issubdtype(values.dtype, np.integer) or values.min() < 0)):
        raise ValueError(
            "y must hold class codes, integers from 0 of shape (N,), for classification; encode the labels first; "
            f"got {_describe(values)}"
        )
    classes = int(values.max(initial=-1)) + 1
    names = [str(name) for name in (range(classes) if class_names is None else class_names)]
    if len(names) < classes:
        raise ValueError(f"class_names must name all {classes} classes, got {len(names)} names")
    return values, names


def _describe(values: NDArray[Any]) -> str:
    """An array in a few words."""
    return f"{values.dtype} of shape {values.shape} that begins with {values.ravel()[:3].tolist()}"


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and the like, and afterwards each part in the mode that it was in."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@torch.no_grad()
def _put_in(model: nn.Module, x: Tensor | Array, rows: NDArray[np.intp]) -> Tensor:
    """z(t0) of some rows, with the model's dtype and device."""
    like = next(model.parameters(), torch.zeros((), device="cpu"))
    try:
        z0: Tensor = model.encoder(torch.as_tensor(x, device="cpu")[torch.from_numpy(rows)].to(like))  # type: ignore[operator]
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"x must be what model.encoder takes, got shape {tuple(np.shape(x))}: {error}") from error
    if not bool(torch.isfinite(z0).all()):
        raise ValueError("x must give finite states, but model.encoder makes some infinite or NaN; look for NaN in x")
    return z0


class _River:
    """A flow, the boats on it, and the side from which it is seen."""

    def __init__(self, flow: NeuralODE, z0: Tensor, colours: Colouring, view: View | Task) -> None:
        self.flow, self.z0, self.colours = flow, z0, colours
        self.crowd = sail(flow.field, flow.t_span, z0, flow.options)
        self.dims = self.crowd.z.shape[-1]
        self.view = view if isinstance(view, View) else choose_view(self.crowd.z[-1], colours.values, view)
        self.places = self.view.line(self.crowd.z)

    def water(self, voyage: Voyage, z_range: tuple[float, float], rows: int = 121) -> Water:
        """The water at the times of a voyage: of the field where the state is a line, else from the boats."""
        if self.dims == 1:
            return exact_water(lambda t, z: self.velocity(t, z[:, None])[:, 0], voyage.t, z_range, rows)
        return mean_water(voyage.t, self.view.line(voyage.z), self.view.line(voyage.v), z_range, rows)

    @torch.no_grad()
    def velocity(self, t: float, z: Array) -> Array:
        """The field at states (M, D)."""
        return velocity(self.flow.field, t, torch.from_numpy(z).to(self.z0)).to("cpu", torch.float64).numpy()

    def log(self, row: int) -> Log:
        """The solver's log of one boat, along the line."""
        log = keep_log(self.flow.field, self.flow.t_span, self.z0[row : row + 1], self.flow.options)
        return log.along(self.view.line)

    def choose(self, boats: int) -> NDArray[np.intp]:
        """So many boats, of all classes and from all over the river."""
        return _spread(self.places[0], self.colours, boats)

    def few(self, boats: int) -> NDArray[np.intp]:
        """Boats for the eye to follow, one of each class where that is not too many."""
        classes = len(np.unique(self.colours.values)) if self.colours.names else 0
        return self.choose(min(boats, max(_FEW, min(classes, _AT_MOST))))

    def note(self, seen: int) -> str:
        """What the water is, where so many dimensions are seen."""
        if self.dims == seen:
            return "Darker water is faster."
        shown = f"{'One' if seen == 1 else 'Two'} of {self.dims} dimensions shown"
        return f"Darker water is faster (mean of the boats nearby). {shown}: paths cross in this view alone."


def _draw_river(river: _River, boats: int, blocks: int) -> dict[str, Figure]:
    figures = {"figure1-flow": _draw_flow(river, boats), "figure2-steps": _draw_steps(river, boats, blocks)}
    if river.dims > 1:
        figures["figure3-plane"] = _draw_plane(river, boats)
    return figures


def _draw_flow(river: _River, boats: int) -> Figure:
    drawn = river.choose(boats)
    followed = drawn[np.unique(np.linspace(0, len(drawn) - 1, 3).round().astype(int))]
    return flow_figure(
        river.water(river.crowd, _range(river.places, drawn)),
        river.crowd.t,
        river.places[:, drawn],
        river.colours.pick(drawn),
        logs=[river.log(row) for row in followed],
        crowd=river.places[[0, -1]],
        crowd_colours=river.colours,
        label=river.view.labels[0],
        title="The river that training made: each boat is one sample",
        note=river.note(1),
    )


def _draw_steps(river: _River, boats: int, blocks: int) -> Figure:
    drawn = river.few(boats)
    flow = river.flow
    stepped = euler(flow.field, flow.t_span, river.z0, blocks, batching=flow.options["batching"])
    places = river.view.line(stepped.z)
    z_range = _range(np.concatenate([places, river.places]), drawn)
    logs = [river.log(row) for row in drawn]
    asked = np.mean([len(log.t_asked) for log in logs])
    plural = "" if blocks == 1 else "s"
    return steps_figure(
        Blocks(stepped.t, places[:, drawn], river.water(stepped.until_last(), z_range)),
        river.colours.pick(drawn),
        (
            f"Residual network: {blocks} block{plural}, {blocks} evaluation{plural}",
            f"Neural ODE: {flow.options['method']}, {asked:.0f} evaluations",
        ),
        label=river.view.labels[0],
        title="One learnt field, in discrete steps and as a continuous flow",
        flow=(river.water(river.crowd, z_range), river.crowd.t, river.places[:, drawn], logs),
        note="Left: the field is read at the depths alone, and each block runs straight on (Euler's method). "
        "Right: it is read wherever the solver asks.",
    )


def _draw_plane(river: _River, boats: int) -> Figure:
    flat = river.dims == 2
    view = View(np.eye(2), ("state $z_1$", "state $z_2$")) if flat else river.view
    z, v = view(river.crowd.z), view(river.crowd.v)
    stops = [0, len(z) // 2, len(z) - 1]
    low, high = _reach(z[stops])
    x_range, y_range = (padded_range(ends, 0.1) for ends in np.stack([low, high]).T)
    beyond = int(((z[stops] < low) | (z[stops] > high)).any(axis=(0, 2)).sum())
    waters = [
        exact_plane(partial(river.velocity, river.crowd.t[k]), x_range, y_range)
        if flat
        else mean_plane(z[k], v[k], x_range, y_range)
        for k in stops
    ]
    return plane_figure(
        waters,
        river.crowd.t,
        z,
        stops,
        river.colours,
        wakes=river.choose(boats),
        labels=view.labels,
        title="The states seen from above: each point is one sample",
        note=river.note(2) + (f" Far off and not shown: {beyond}." if beyond else ""),
    )


def _draw_training(before: _River, after: _River, boats: int) -> Figure:
    drawn = after.choose(boats)
    z_range = _range(np.concatenate([before.places, after.places]), drawn)
    return panels_figure(
        ["before training", "after training"],
        [river.water(river.crowd, z_range) for river in (before, after)],
        [river.crowd.t for river in (before, after)],
        [river.places[:, drawn] for river in (before, after)],
        after.colours.pick(drawn),
        handles=after.colours.handles(),
        width=5.0,
        label=after.view.labels[0],
        title="What training made of the river: each boat is one sample",
        note=after.note(1),
    )


def _draw_blocks(flow: ResNet, z0: Tensor, colours: Colouring, task: Task, boats: int) -> Figure:
    with torch.no_grad():
        z = flow.trajectory(z0).flatten(2).to("cpu", torch.float64).numpy()
    depth = len(z) - 1
    if depth == 0:
        raise ValueError("model.flow must have at least one residual block for there to be a flow to draw, got none")
    view = choose_view(z[-1], colours.values, task)
    places = view.line(z)
    drawn = _spread(places[0], colours, min(boats, 3 * _FEW))
    water = mean_water(np.arange(float(depth)), places[:-1], np.diff(places, axis=0), _range(places, drawn))
    return steps_figure(
        Blocks(np.arange(depth + 1.0), places[:, drawn], water),
        colours.pick(drawn),
        [""],
        label=view.labels[0],
        title=f"What training made of {depth} residual block{'' if depth == 1 else 's'}: each boat is one sample",
        note="Darker water is faster (mean of the boats nearby): there the step is larger.",
    )


def _spread(places: Array, colours: Colouring, boats: int) -> NDArray[np.intp]:
    """The rows of so many boats: as many of each class, where it has so many, from all over its places or targets."""
    groups = [np.arange(len(places))]
    by = colours.values
    if colours.names is not None:
        groups = [np.flatnonzero(colours.values == code) for code in np.unique(colours.values)]
        by = places
    chosen = []
    for group, count in zip(groups, _shares([len(group) for group in groups], boats), strict=True):
        order = group[np.argsort(by[group], kind="stable")]
        chosen.append(order[(len(order) * (np.arange(count) + 0.5) / max(count, 1)).astype(int)])
    return np.concatenate(chosen)


def _shares(sizes: Sequence[int], boats: int) -> list[int]:
    """How many boats each group gives: what small ones lack is given by the others.

    Examples
    --------
    >>> _shares([50, 50, 50], 40), _shares([5, 90, 60], 41), _shares([2, 3], 40)
    ([13, 13, 14], [5, 18, 18], [2, 3])
    """
    shares = [0] * len(sizes)
    for done, group in enumerate(np.argsort(sizes, kind="stable")):
        shares[group] = min(sizes[group], (boats - sum(shares)) // (len(sizes) - done))
    return shares


def _range(places: Array, drawn: NDArray[np.intp]) -> tuple[float, float]:
    """All that the drawn boats see, and nearly all that the others do."""
    return padded_range(np.append(places[:, drawn], _reach(places[[0, -1]])), 0.1)


def _reach(places: Array) -> Array:
    """From where to where places (T, N, …) reach, (2, …), but for a hundredth of the boats far from all others."""
    low, high = places.min(0), places.max(0)  # (N, …)
    boats = len(low)
    few = min(-(-boats // 100), boats // 20)  # of hardly any boats all are shown
    near = np.sort(low, axis=0)[few], np.sort(high, axis=0)[boats - 1 - few]
    room = near[1] - near[0]
    return np.stack(
        [
            low.min(0, where=low >= near[0] - room, initial=np.inf),
            high.max(0, where=high <= near[1] + room, initial=-np.inf),
        ]
    )
