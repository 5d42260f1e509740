"""Scores are those of scikit-learn, and say more where classes are of very different sizes."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error, precision_score, r2_score, recall_score

from thalweg.learn.data import Target
from thalweg.learn.judging import Score, judge, judge_guess
from thalweg.learn.training import Samples


class Fixed(torch.nn.Module):
    """A model that says what it is asked."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        return x * self.one


def classes(*labels):
    return Target(name="kind", task="classification", reason="given", classes=list(labels))


def judged(truth, said, *labels):
    logits = torch.eye(len(labels), dtype=torch.float64)[said]
    return judge(Fixed(), classes(*labels), Samples(logits, torch.tensor(truth)))


def test_classes_are_judged_as_scikit_learn_judges_them():
    rng = np.random.default_rng(0)
    truth, said = rng.choice(3, 200, p=[0.7, 0.2, 0.1]), rng.integers(0, 3, 200)
    score = judged(truth, said, "a", "b", "c")
    assert score.balanced == pytest.approx(balanced_accuracy_score(truth, said))
    np.testing.assert_allclose([one.recall for one in score.classes], recall_score(truth, said, average=None))
    np.testing.assert_allclose([one.precision for one in score.classes], precision_score(truth, said, average=None))
    assert [one.rows for one in score.classes] == np.bincount(truth).tolist()
    assert Score.model_validate_json(score.model_dump_json()) == score


def test_what_cannot_be_divided_is_none():
    score = judged([0, 0, 1], [0, 0, 0], "a", "b", "c")
    assert [(one.precision, one.recall) for one in score.classes] == [(2 / 3, 1), (None, 0), (None, None)]
    assert score.balanced == 0.5


def test_balanced_accuracy_is_told_where_sizes_differ_much():
    assert "balanced accuracy 0.500" in judged([0] * 9 + [1], [0] * 10, "a", "b").describe()
    assert "balanced" not in judged([0] * 6 + [1] * 4, [0] * 10, "a", "b").describe()


def test_numbers_are_judged_in_the_target_s_unit():
    rng = np.random.default_rng(0)
    truth, said = rng.normal(size=(2, 50, 1))
    target = Target(name="price", task="regression", reason="given", mean=7.0, scale=30.0)
    score = judge(Fixed(), target, Samples(torch.from_numpy(said), torch.from_numpy(truth)))
    assert score.value == pytest.approx(r2_score(truth, said))
    assert score.mae == pytest.approx(mean_absolute_error(30 * truth + 7, 30 * said + 7))
    assert "mean absolute error" in score.describe()
    guess = judge_guess(target, truth, truth)
    assert guess.mae == pytest.approx(30 * np.abs(truth).mean())
    assert score.beats(guess) == (((said - truth) ** 2).mean() < (truth**2).mean())


def test_the_commonest_class_finds_no_other():
    guess = judge_guess(classes("a", "b"), np.array([0, 1, 1]), np.array([0, 1, 1, 1]))
    assert (guess.value, guess.balanced) == (0.75, 0.5)
    assert not guess.beats(guess)
