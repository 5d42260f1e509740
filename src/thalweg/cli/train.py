"""`thalweg train`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .configure import ConfigFile, Data, DataDir, Epochs, Settings, Target, Task, configure, of_data
from .console import INTERRUPTED, as_word, console, count, ending_at_once, plain_table, warnings_as_notes
from .scores import say_result

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ..learn.config import Config
    from ..learn.data import Schema
    from ..learn.runs import Prepared, Run

_MANY = 20  # columns, from which on they are summed up
_NOTES = 5  # of one kind


def train(
    data: Data = None,
    target: Target = None,
    task: Task = None,
    epochs: Epochs = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Decides the split, the first weights and the order of the rows."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run folder, a new one; by default runs/DATA-1, or the next free number."),
    ] = None,
    class_weight: Annotated[
        str | None,
        typer.Option(
            metavar="WEIGHT",
            help="balanced: classes count alike, however many rows each has; or weights, such as '{spam: 5, ham: 1}'.",
        ),
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    data_dir: DataDir = None,
    figures: Annotated[bool, typer.Option(help="Draw the flow and the course of training.")] = True,
) -> None:
    """Train a neural ODE to predict a column of a table, or which folder an image is in.

    What each column holds is found out and shown. Some rows are kept apart, and the trained model is judged by them.
    Everything is kept in a run folder, which is never written over. Ctrl-C ends training, not the run: the best model
    so far is kept, judged and drawn, and `thalweg resume` goes on from there.

    For example:

    `thalweg train iris`

    `thalweg train houses.csv --target price --epochs 100 --set model.width=128`

    `thalweg train photos`
    """
    options = of_data(data, target, task, data_dir, epochs) | {"seed": seed}
    weights = [] if class_weight is None else [f"training.class_weight={class_weight}"]
    asked = configure(config, options, [*weights, *(settings or [])])
    screen = console()

    with ending_at_once():
        from ..learn.journal import check_free
        from ..learn.runs import prepare, read_table, train_run
        from .progress import reading

    if out is not None:
        check_free(out)
    with reading(screen) as on_image:
        table = read_table(asked, on_image=on_image)
    prepared = prepare(asked, table)
    _introduce(screen, asked, prepared)
    carry_out(screen, partial(train_run, asked, out, data=prepared), asked, prepared, figures=figures)


def carry_out(
    screen: Console, training: Callable[..., Run], asked: Config, data: Prepared, *, begun: int = 0, figures: bool
) -> None:
    """Train, from the start or from where `begun` epochs are finished, show its course and say what came of it."""
    from .progress import TrainingProgress

    weighted = asked.training.class_weight is not None
    metric = "R²" if data.task == "regression" else "weighted accuracy" if weighted else "accuracy"
    with _ending_as_ctrl_c():
        with TrainingProgress(screen, asked.training.max_epochs, metric, begun) as progress:
            run = training(on_epoch=progress.show)
        result = run.result
        assert result is not None
        screen.print(f"\n{result.ended} after {count(result.epochs, 'epoch')} in {result.seconds:.1f} s")
        say_result(screen, result, weighted=weighted)
        if figures:
            _draw(screen, run, data, metric)
    _suggest(screen, run)
    if run.history.interrupted:
        raise typer.Exit(INTERRUPTED)


@contextmanager
def _ending_as_ctrl_c() -> Iterator[None]:
    """Let a request to end, or a terminal that is closed, do what Ctrl-C does."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        names = []  # which alone can listen
    before = {name: signal.signal(getattr(signal, name), signal.default_int_handler) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _introduce(screen: Console, asked: Config, data: Prepared) -> None:
    """Say what was read, and what it was taken for."""
    from ..learn.training import count_held_out

    columns, target = data.schema.columns, data.schema.target
    rows = f"{len(data.table.frame)} rows, {count(len(columns), 'column')} and the target"
    if data.table.images is not None:
        rows += f"; images are seen as {data.table.images.describe()}"
    screen.print(f"{asked.data.source}: {rows}")
    screen.print(f"{target.name}: {target.describe()}\n")
    screen.print(_sum_up(data.schema) if len(columns) > _MANY else _list(data.schema))
    screen.print()
    _note_squeezed(screen, data)
    if data.without_target:
        screen.print(
            f"{count(data.without_target, 'row')} without a target left out "
            "(in a CSV file NA, NaN, null and ? are none; a class needs another name)"
        )
    fraction = asked.training.validation_fraction
    held_out = count_held_out(len(data.train), fraction) if fraction else 0
    choosing = f" (of which {held_out} held out, to choose the best epoch)" if held_out else ""
    screen.print(f"{count(len(data.train), 'row')} to learn from{choosing}, {len(data.test)} kept apart to judge by\n")


def _note_squeezed(screen: Console, data: Prepared) -> None:
    """Name columns in which a few values, such as a -999 for none, leave the others hardly any spread."""
    rows = len(data.train) + len(data.test)
    found = data.schema.squeezed(data.train.x.numpy(), data.test.x.numpy())
    for name, values in list(found.items())[:_NOTES]:
        screen.print(
            f"note: column {name!r} holds {values} of {rows} rows, so far off that the others are squeezed together; "
            "leave it empty where it stands for none, and mend what is mistyped"
        )
    if len(found) > _NOTES:
        screen.print(f"note: so do {count(len(found) - _NOTES, 'more column')}")


def _list(schema: Schema) -> RenderableType:
    table = plain_table("column", "taken as")
    for column in schema.columns:
        table.add_row(column.name, column.describe())
    return table


def _sum_up(schema: Schema) -> RenderableType:
    """Many columns: as many of each kind, and a few of their names."""
    groups: dict[str, list[str]] = {}
    for column in schema.columns:
        kind = f"left out: {column.reason}" if column.role == "ignored" else column.describe().split(" of ")[0]
        groups.setdefault(kind, []).append(column.name)
    table = plain_table("columns", "taken as", "such as")
    for kind, names in groups.items():
        table.add_row(str(len(names)), kind, ", ".join(names[:4]) + (", …" if len(names) > 4 else ""))
    return table


def _draw(screen: Console, run: Run, data: Prepared, metric: str) -> None:
    """Draw the flow and the course of training; a model without a flow, or a run without an epoch, lacks its part."""
    from ..figures import training_figure
    from .flow import draw_flow

    with warnings_as_notes(screen), screen.status("drawing the flow"):
        if run.config.model.flow != "none":
            draw_flow(run, data.frame, run.figures)
        if run.history.records:
            training_figure([asdict(record) for record in run.history.records], run.figures, metric=metric)


def _suggest(screen: Console, run: Run) -> None:
    screen.print(f"run folder {run.path}")
    folder = as_word(run.path)
    if run.history.interrupted:
        screen.print(f"go on with it:    thalweg resume {folder}")
    screen.print(f"predict new rows: thalweg predict {folder} FILE")
    if run.config.model.flow != "none":
        screen.print(f"draw its river:   thalweg flow {folder}")
