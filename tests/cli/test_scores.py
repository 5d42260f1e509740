"""What is said of scores."""

import io

import pytest
from rich.console import Console

from thalweg.cli.scores import say_classes, say_result, verdict
from thalweg.learn.files import Result
from thalweg.learn.judging import ClassScore, Score


def of_classes(value, balanced, rows=(90, 10)):
    classes = [
        ClassScore(label=label, rows=n, precision=0.5, recall=0.25) for label, n in zip("abc", rows, strict=False)
    ]
    return Score(rows=100, metric="accuracy", value=value, loss=1.0, balanced=balanced, classes=classes)


def printed(say, *args, **options):
    text = io.StringIO()
    say(Console(file=text, width=100), *args, **options)
    return text.getvalue()


@pytest.mark.parametrize(
    ("value", "balanced", "rows", "weighted", "said"),
    [
        (0.91, 0.55, (90, 10), False, None),
        (
            0.9,
            0.5,
            (90, 10),
            False,
            "the model does no better than that; --class-weight balanced lets classes count alike",
        ),
        (0.9, 0.5, (90, 10), True, "the model does no better than that"),
        (0.4, 0.5, (50, 50), False, "the model does no better than that"),
        (0.8, 0.7, (90, 10), True, "the model is right no more often than that, but it finds rows of other classes"),
    ],
)
def test_a_model_that_does_no_better_than_the_commonest_class_is_told_in_words(value, balanced, rows, weighted, said):
    assert (
        verdict(of_classes(value, balanced, rows), of_classes(0.9 if rows[0] > 50 else 0.5, 0.5), weighted=weighted)
        == said
    )


def test_a_model_that_does_no_better_than_the_mean_is_told_in_words():
    near, far = (Score(rows=9, metric="R²", value=1 - loss, loss=loss, rmse=loss, mae=loss) for loss in (1.0, 1.1))
    result = Result(ended="finished", epochs=1, best_epoch=1, seconds=0.1, parameters=3, test=far, baseline=near)
    assert "the mean, always: root mean squared error 1\nthe model does no better than that\n" in printed(
        say_result, result, weighted=False
    )
    assert verdict(near, far) is None


def test_classes_are_listed_where_sizes_differ_much_and_the_worst_of_many():
    assert printed(say_classes, of_classes(0.9, 0.5, (50, 50))) == ""
    assert "b         10       0.500    0.250" in printed(say_classes, of_classes(0.9, 0.5))
    classes = [ClassScore(label=n, rows=1 + n, precision=None, recall=n / 40) for n in range(40)]
    text = printed(say_classes, Score(rows=820, metric="accuracy", value=0.5, loss=1.0, balanced=0.4, classes=classes))
    assert " 11 " in text
    assert "0.300" not in text
    assert "and 28 more classes, of better recall" in " ".join(text.split())
