"""`thalweg flow`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import console, ending_at_once, warnings_as_notes

if TYPE_CHECKING:
    import pandas as pd

    from ..learn.runs import Run


def flow(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as thalweg train makes one.")],
    boats: Annotated[int, typer.Option(min=1, metavar="N", help="How many paths to draw.")] = 40,
    blocks: Annotated[
        int, typer.Option(min=1, metavar="N", help="Blocks of the residual network that is set beside the flow.")
    ] = 6,
    before: Annotated[
        bool, typer.Option("--before", help="Draw also the river before training, beside what training made of it.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the figures go; by default into the run folder.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="The rows to put in as boats; by default those that the run was made from."),
    ] = None,
) -> None:
    """Draw what a trained model has learnt: the river, and how its samples float down it.

    Three figures, each as PNG and SVG: the field over time and state with the paths of the boats, the flow beside a
    residual network of the same field, and a plane of states at three times. With --before a fourth, the river before
    training beside the one after. No file is written over.

    For example: `thalweg flow runs/iris-1 --boats 20`
    """
    with ending_at_once():
        from ..learn.runs import Run
        from .progress import reading

    screen = console()
    trained = Run.load(run)
    if trained.config.model.flow == "none":
        raise ValueError(f"{run} has no flow to draw: it was trained with model.flow=none")
    with reading(screen) as on_image:
        frame = trained.frame(data, on_image=on_image)
    with warnings_as_notes(screen), screen.status("drawing the flow"):
        folder = trained.figures if out is None else out
        paths = draw_flow(trained, frame, folder, boats=boats, blocks=blocks, before=before)
    for path in paths:
        screen.print(str(path))


def draw_flow(
    run: Run, frame: pd.DataFrame, out: Path, *, boats: int = 40, blocks: int = 6, before: bool = False
) -> list[Path]:
    """The figures of a run's flow, with rows as boats."""
    from ..figures import flow_figures

    samples = run.samples(frame)
    classes = run.target.classes or None
    y = samples.y if classes else run.target.decode(samples.y.numpy())
    untrained = run.untrained() if before else None
    return flow_figures(
        *(run.model, samples.x, y, out, run.task, classes),
        boats=boats,
        blocks=blocks,
        target=run.target.name,
        before=untrained,
    )
