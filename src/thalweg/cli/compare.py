"""`thalweg compare`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .configure import ConfigFile, Data, DataDir, Epochs, Settings, Target, Task, configure, of_data
from .console import console, ending_at_once, plain_table
from .files import check_out

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..learn.compare import Contender, Standing, Trial


def compare(
    data: Data = None,
    target: Target = None,
    task: Task = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="How many splits, each with weights of its own.")] = 5,
    epochs: Epochs = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Keep every trial in a new JSON file.")
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    data_dir: DataDir = None,
) -> None:
    """Set the neural ODE beside what else there is, on the same rows.

    Beside it stand a ResNet of the same width, the same encoder and decoder with nothing between, scikit-learn's
    multilayer perceptron, and a linear model. Each learns the same splits. Shown are the score on the rows kept apart
    with its standard deviation over the splits, the numbers learnt, the field evaluations of a forward pass, the
    seconds of training, and the memory that training took at its peak.

    For example: `thalweg compare iris --seeds 3`
    """
    asked = configure(config, of_data(data, target, task, data_dir, epochs), settings or [])
    if out is not None:
        check_out(out)

    with ending_at_once():
        from ..core.files import write_whole
        from ..learn.compare import CONTENDERS
        from ..learn.compare import compare as run_comparison
        from ..learn.runs import read_table
        from .progress import reading

    screen = console()
    with reading(screen) as on_image:
        table = read_table(asked, on_image=on_image)
    chosen = range(asked.seed, asked.seed + seeds)
    waiting = screen.status(f"the first of {len(CONTENDERS)} contenders") if screen.is_terminal else nullcontext()
    with waiting as status:

        def say(contender: Contender, seed: int, trial: Trial) -> None:
            line = f"{contender.name}, split {seed - asked.seed + 1} of {seeds}: {trial.score:.3f}"
            if status is not None:
                status.update(line)
            else:
                screen.print(line)

        standings = run_comparison(asked, list(chosen), on_trial=say, table=table)
    _show(screen, standings, seeds)
    if out is not None:
        write_whole(out, json.dumps([asdict(standing) for standing in standings], indent=1).encode() + b"\n")
    if not any(standing.trials for standing in standings):
        raise ValueError("no contender could be trained, for the reasons above")


def _show(screen: Console, standings: list[Standing], seeds: int) -> None:
    """The table, why some are not in it, and what it says."""
    screen.print(_table(standings, seeds))
    failed = [standing for standing in standings if not standing.trials]
    if failed:
        screen.print()
    for standing in failed:
        screen.print(f"{standing.contender.name} failed: {standing.failure}")
    if len(failed) < len(standings):
        screen.print(f"\n{verdict(standings)}")


def _table(standings: list[Standing], seeds: int) -> Table:
    regression = any(trial.rmse is not None for standing in standings for trial in standing.trials)
    score = "R²" if regression else "accuracy"
    headings = ["", f"{score} ({seeds} split{'s' if seeds > 1 else ''})", *(["RMSE"] if regression else [])]
    table = plain_table(*headings, "parameters", "evals", "seconds", "peak MB")
    if regression:
        table.padding = (0, 0, 0, 1)  # that a column more fits in 80 letters
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    for standing in standings:
        name = standing.contender.name
        if standing.trials:
            table.add_row(name, *_cells(standing, regression))
        else:
            table.add_row(name, "failed")
    return table


def _cells(standing: Standing, regression: bool) -> list[str]:
    def number(of: str, form: str) -> str:
        value: Any = standing.mean(of)
        return form.format(value) if value else "–"

    memory = "–" if standing.peak_memory is None else f"{standing.peak_memory / 1e6:.1f}"
    return [
        f"{standing.mean('score'):.4f}" + (f" ± {standing.spread('score'):.4f}" if len(standing.trials) > 1 else ""),
        *([_rmse(standing.mean("rmse"))] if regression else []),
        number("parameters", "{:,.0f}"),
        number("nfev", "{:.1f}"),
        number("seconds", "{:.2f}"),
        memory,
    ]


def _rmse(value: float) -> str:
    """An error in the target's unit, in few letters.

    Examples
    --------
    >>> _rmse(53.2), _rmse(0.012345), _rmse(12345.6), _rmse(1.2345e7), _rmse(0.0)
    ('53.20', '0.01235', '12,346', '1.23e+07', '0.000')
    """
    if 999.95 <= value < 999_999.5:
        return f"{value:,.0f}"
    return f"{value:#.4g}" if 0.001 <= value < 1000 or not value else f"{value:.2e}"


def verdict(standings: list[Standing]) -> str:
    """Who did best, and whether by more than the spread."""
    ran = [standing for standing in standings if standing.trials]
    if not ran:
        return "No contender could be trained."
    best = max(ran, key=lambda standing: standing.mean("score"))
    ode = next((standing for standing in ran if standing.contender.kind == "ode"), None)
    if ode is None:
        return f"The best is {best.contender.name}; the neural ODE could not be trained."
    others = [standing for standing in ran if standing is not ode]
    if not others:
        return "The neural ODE stands alone."
    rival = max(others, key=lambda standing: standing.mean("score"))
    gap = ode.mean("score") - rival.mean("score")
    spread = max(ode.spread("score"), rival.spread("score"))
    sure = "" if abs(gap) > spread or not gap else ", which is within the spread of the splits"
    relation = f"{abs(gap):.4f} {'above' if gap > 0 else 'below'}" if gap else "level with"
    return f"The neural ODE is {relation} {rival.contender.name}, the best of the others{sure}."
