"""What a model is worth: its scores on rows, and those of what one knows without a model."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import mean_absolute_error, precision_recall_fscore_support

from .course import Tally
from .data import Target
from .model import FlowModel
from .training import Samples, outputs, row_losses
from .values import Array, Label

_UNEVEN = 3.0  # times as many rows as the rarest class has make the commonest one's share the better part of accuracy


class ClassScore(BaseModel):
    """How well the rows of one class are told from the others.

    Attributes
    ----------
    label : bool, int, float or str
    rows : int
        How many are of the class.
    precision : float or None
        Of the rows that are said to be of the class, the share that is; None where none is said to be.
    recall : float or None
        Of the rows that are of the class, the share that is said to be; None where none is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    label: Label
    rows: int
    precision: float | None
    recall: float | None


class Score(BaseModel):
    """How well a model predicts rows.

    Attributes
    ----------
    rows : int
        The number of rows with a target.
    metric : {"accuracy", "R²"}
    value : float
        Of that metric.
    loss : float
        Cross-entropy, or mean squared error in squared standard deviations of the target.
    rmse, mae : float or None
        The root mean squared error and the mean absolute error, in the target's unit.
    balanced : float or None
        The balanced accuracy: the mean of the recalls of the classes that there are.
    classes : list of ClassScore
        In the order of the target's classes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    rows: int
    metric: Literal["accuracy", "R²"]
    value: float
    loss: float
    rmse: float | None = None
    mae: float | None = None
    balanced: float | None = None
    classes: list[ClassScore] = []

    @property
    def is_uneven(self) -> bool:
        """Whether classes are of so different sizes that accuracy says little of the small ones."""
        rows = [one.rows for one in self.classes if one.rows]
        return bool(rows) and max(rows) >= _UNEVEN * min(rows)

    def beats(self, guess: Score) -> bool:
        """Whether it is better than another one on the same rows."""
        return self.loss < guess.loss if self.metric == "R²" else self.value > guess.value

    def describe(self) -> str:
        """In words.

        Examples
        --------
        >>> Score(rows=30, metric="accuracy", value=29 / 30, loss=0.1).describe()
        'accuracy 0.967 (29 of 30 rows right)'
        """
        if self.metric == "accuracy":
            right = f"accuracy {self.value:.3f} ({round(self.value * self.rows)} of {self.rows} rows right)"
            return f"{right}, balanced accuracy {self.balanced:.3f}" if self.is_uneven else right
        absolute = "" if self.mae is None else f", mean absolute error {self.mae:.4g}"
        return f"R² {self.value:.3f}, root mean squared error {self.rmse:.4g}{absolute} ({self.rows} rows)"


def judge(model: FlowModel, target: Target, samples: Samples) -> Score:
    """How well a model predicts rows.

    Raises
    ------
    ValueError
        When they cannot be carried to the end of the flow.
    """
    parameter = next(model.parameters())
    samples = samples.to(parameter.device, parameter.dtype)
    try:
        answer = outputs(model, samples.x)
    except ArithmeticError as error:
        raise ValueError(f"the model cannot be judged: {error}") from error
    tally = Tally(target.task)
    tally.add(answer, samples.y, None, row_losses(target.task, answer, samples.y))
    truth = samples.y.cpu().numpy()
    if target.task == "classification":
        return _of_classes(target, truth, answer.argmax(dim=1).cpu().numpy(), tally.loss, tally.score)
    return _of_numbers(target, truth, answer.cpu().numpy(), tally.loss, tally.score)


def judge_guess(target: Target, learnt: NDArray[Any], truth: NDArray[Any]) -> Score:
    """The score on rows of the commonest class, or of the mean, of those that are learnt from.

    Parameters
    ----------
    target : Target
    learnt, truth : array
        The class codes (N,), or standardised targets (N, 1), of the rows to learn from and of those to judge by.
    """
    if target.task == "classification":
        shares = np.bincount(learnt, minlength=len(target.classes)) / len(learnt)
        loss = float(-np.log(np.maximum(shares[truth], 1 / (1 + len(learnt)))).mean())
        guess = np.full_like(truth, shares.argmax())
        return _of_classes(target, truth, guess, loss, float((truth == guess).mean()))
    loss, spread = float(np.mean(truth**2)), float(np.var(truth))
    return _of_numbers(target, truth, np.zeros_like(truth), loss, 1 - loss / spread if spread else 0.0)


def _of_classes(target: Target, truth: NDArray[Any], said: NDArray[Any], loss: float, accuracy: float) -> Score:
    codes = range(len(target.classes))
    precision, recall, _, rows = precision_recall_fscore_support(truth, said, labels=codes, zero_division=np.nan)
    classes = [
        ClassScore(label=label, rows=int(count), precision=_or_none(p), recall=_or_none(r))
        for label, count, p, r in zip(target.classes, rows, precision, recall, strict=True)
    ]
    balanced = float(np.mean(recall[rows > 0]))
    return Score(rows=len(truth), metric="accuracy", value=accuracy, loss=loss, balanced=balanced, classes=classes)


def _of_numbers(target: Target, truth: Array, said: Array, loss: float, r2: float) -> Score:
    mae = float(mean_absolute_error(truth, said)) * target.scale
    return Score(rows=len(truth), metric="R²", value=r2, loss=loss, rmse=math.sqrt(loss) * target.scale, mae=mae)


def _or_none(share: float) -> float | None:
    return None if math.isnan(share) else float(share)
