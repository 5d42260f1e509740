"""`thalweg predict`."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import console, count, ending_at_once, plain_table
from .files import check_out
from .scores import say_classes

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from ..learn.runs import Run

_STANDARD_OUTPUT = Path("-")
_ROWS = 10  # of a preview
_CLASSES = 6  # whose probabilities fit a line
_IDENTIFIERS = 3
_LETTERS = 24  # of an identifier
_OTHER_KINDS = (
    *(".xlsx", ".xls", ".ods", ".json", ".jsonl", ".tsv", ".gz", ".bz2", ".xz", ".zip"),
    *(".pq", ".feather", ".arrow", ".npz", ".npy", ".pkl"),
)


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as thalweg train makes one.")],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A CSV or Parquet file of rows, arrays (.npz, .npy), an image or a folder of images, the name of a "
            "data set, or - for standard input.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            *("-o", "--out"),
            metavar="FILE",
            help="A CSV file, or Parquet where it ends in .parquet; - is standard output.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Predict new rows with a trained model.

    The columns may come in any order and with others between. Each row of DATA gets a row: the columns that training
    left out as identifiers, such as a name, then prediction and, for classes, the probability p(CLASS) of each. Without
    -o, the first rows are shown. Where DATA has the target too, so is the score. A missing number counts as the median
    of the rows that were learnt from; a category that training did not see counts as none of those it saw, and is
    named. Of images, the first column, file, says which.

    For example: `thalweg predict runs/iris-1 flowers.csv -o answers.csv`
    """
    piped = out == _STANDARD_OUTPUT
    if out is not None and not piped:
        check_out(out, force)
        if out.suffix.lower() in _OTHER_KINDS:
            raise ValueError(
                f"{out} has the name of a file that is no CSV; choose one for -o that ends in .csv, or in .parquet"
            )

    with ending_at_once():
        from ..core.files import write_whole
        from ..learn.runs import Run
        from .progress import reading

    screen = console(stderr=piped)  # rows alone go where rows are read
    trained = Run.load(run)
    with reading(screen) as on_image:
        frame = trained.rows(data, on_image)
    predicted = trained.predict(frame)
    answers = trained.named(predicted, frame)
    for name, values in trained.unseen(frame).items():
        known = ", ".join(repr(value) for value in values[:3]) + (", …" if len(values) > 3 else "")
        screen.print(f"note: column {name!r} holds {known}, which training did not see")
    if out is None:
        screen.print(_preview(answers, len(answers.columns) - len(predicted.columns)))
        if len(answers) > _ROWS:
            screen.print(f"and {count(len(answers) - _ROWS, 'more row')}; -o FILE.csv writes all of them")
    elif piped:
        sys.stdout.buffer.write(_encoded(answers, out))
        sys.stdout.flush()
    else:
        write_whole(out, _encoded(answers, out))
        screen.print(f"{count(len(answers), 'prediction')} in {out}")
    _show_score(screen, trained, frame, data)


def _preview(answers: pd.DataFrame, identifiers: int) -> Table:
    """The first rows; of many identifiers the first, and of many classes the probability of the predicted one alone."""
    columns = [str(name) for name in answers]
    names, probabilities = columns[:identifiers][:_IDENTIFIERS], columns[identifiers + 1 :]
    shown = answers.head(_ROWS)
    shown = shown.assign(**{name: shown[name].astype(object).fillna("").map(_cut) for name in names})
    if len(probabilities) > _CLASSES:
        shown, probabilities = shown.assign(probability=shown[probabilities].max(axis=1)), ["probability"]
    shown = shown[[*names, "prediction", *probabilities]]
    rows = range(1, len(shown) + 1) if _counts_rows(answers) else shown.index
    table = plain_table(str(shown.index.name or "row"), *map(str, shown.columns))
    first = "i" if _counts_rows(answers) else "O"
    for column, kind in zip(table.columns, [first, *(shown[name].dtype.kind for name in shown.columns)], strict=True):
        column.justify = "right" if kind in "iuf" else "left"
    for row, values in zip(rows, zip(*(_texts(shown[name]) for name in shown.columns), strict=True), strict=True):
        table.add_row(str(row), *values)
    return table


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"


def _counts_rows(answers: pd.DataFrame) -> bool:
    """Whether rows have numbers, and not the names of images."""
    return answers.index.name is None


def _texts(values: pd.Series) -> list[str]:
    """Values as text: probabilities with three decimals, numbers with as many as give the largest five digits."""
    if values.dtype.kind != "f":
        return [str(value) for value in values]
    largest = float(values.abs().max())
    if values.name == "prediction" and 0 < largest < 1e-3:  # which decimals would round to zeros
        return [f"{value:.4e}" for value in values]
    largest = max(largest, 1e-3)  # all may be 0
    decimals = 3 if values.name != "prediction" else max(0, 4 - math.floor(math.log10(largest)))
    return [f"{value:.{decimals}f}" for value in values]


def _encoded(answers: pd.DataFrame, out: Path) -> bytes:
    if not _counts_rows(answers):
        answers = answers.reset_index()
    if out.suffix.lower() == ".parquet":
        words = [str(name) for name in answers if answers[name].dtype == object]  # and whole numbers beyond 64 bits
        text = {name: answers[name].map(str, na_action="ignore") for name in words}
        return answers.assign(**text).to_parquet(index=False)
    return answers.to_csv(index=False).encode()


def _show_score(screen: Console, run: Run, frame: pd.DataFrame, source: str) -> None:
    """Where the rows have their target, say how well they were predicted."""
    if run.target.name not in frame.columns:
        return
    try:
        score = run.score(frame)
    except ValueError as error:
        screen.print(f"no score: {error}")
    else:
        screen.print(score.describe(), style="bold")
        if run.learnt_from(source):
            apart = "" if run.result is None else f"; on those kept apart from it: {run.result.test.describe()}"
            screen.print(f"this flatters, as some of these rows were learnt from{apart}")
        say_classes(screen, score)
