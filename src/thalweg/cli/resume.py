"""`thalweg resume`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .configure import DataDir
from .console import console, count, ending_at_once
from .train import carry_out


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder whose training was stopped.")],
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Where the rows are now; by default where they were. They must be the same."),
    ] = None,
    data_dir: DataDir = None,
    figures: Annotated[bool, typer.Option(help="Draw the flow and the course of training.")] = True,
) -> None:
    """Go on with a training that was stopped, by Ctrl-C or by whatever killed it.

    It goes on as if it had not been: the model and its epochs come out the same, to the last bit. Where training
    stands is saved about once a second, or less often where saving takes long, and when it is asked to end; what came
    after that is computed again. The rows are read from where they were, and must not have changed.

    For example: `thalweg resume runs/iris-1`
    """
    with ending_at_once():
        from ..learn.runs import find_stopped, resume_run
        from .progress import reading

    screen = console()
    with reading(screen) as on_image:
        folder = None if data_dir is None else str(data_dir)
        stopped = find_stopped(run, source=data, data_dir=folder, on_image=on_image)
    epochs = stopped.config.training.max_epochs
    screen.print(f"{run}: {stopped.epochs} of {count(epochs, 'epoch')} finished\n")
    carry_out(screen, partial(resume_run, stopped), stopped.config, stopped.data, begun=stopped.epochs, figures=figures)
