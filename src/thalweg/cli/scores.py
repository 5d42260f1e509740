"""What is said of scores: class by class where sizes differ much, and in words of a model that has learnt nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .console import plain_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..learn.files import Result
    from ..learn.judging import Score

_CLASSES = 12  # of a table; the best told apart are left out


def say_result(screen: Console, result: Result, *, weighted: bool) -> None:
    """What a trained model is worth on the rows kept apart, beside what one knows without it."""
    test, guess = result.test, result.baseline
    screen.print(f"test {test.describe()}", style="bold")
    if guess.metric == "accuracy":
        balanced = f", balanced accuracy {guess.balanced:.3f}" if guess.is_uneven else ""
        screen.print(f"the commonest class, always: accuracy {guess.value:.3f}{balanced}")
    else:
        screen.print(f"the mean, always: root mean squared error {guess.rmse:.4g}")
    told = verdict(test, guess, weighted=weighted)
    if told is not None:
        screen.print(told)
    say_classes(screen, test)
    screen.print()


def verdict(test: Score, guess: Score, *, weighted: bool = False) -> str | None:
    """What a model has learnt that does no better than a guess; None of a better one."""
    if test.beats(guess):
        return None
    if test.balanced is not None and guess.balanced is not None and test.balanced > guess.balanced:
        return "the model is right no more often than that, but it finds rows of other classes"
    advice = "; --class-weight balanced lets classes count alike" if test.is_uneven and not weighted else ""
    return f"the model does no better than that{advice}"


def say_classes(screen: Console, score: Score) -> None:
    """How well each class is told from the others, where some are much rarer than others."""
    if score.is_uneven:
        screen.print()
        screen.print(_table(score))


def _table(score: Score) -> Table:
    table = plain_table("class", "rows", "precision", "recall")
    for column in table.columns[1:]:
        column.justify = "right"
    worst = sorted(score.classes, key=lambda one: -1.0 if one.recall is None else one.recall)[:_CLASSES]
    for one in score.classes:
        if one in worst:
            table.add_row(str(one.label), str(one.rows), _share(one.precision), _share(one.recall))
    left_out = len(score.classes) - len(worst)
    if left_out:
        table.caption = f"and {left_out} more classes, of better recall" if left_out > 1 else "and one more class"
    return table


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
