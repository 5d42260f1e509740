"""Tables: what each column is, and how it becomes the numbers that a model takes.

A `Schema` is learnt once, from the rows that a model is trained on, and kept with the model. New rows are matched to it
by the names of their columns. features: (N, n_inputs), float64, standardised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from .columns import (
    FEW_VALUES,
    Column,
    DateColumn,
    NumberColumn,
    day_of,
    frame_features,
    in_digits,
    learn_columns,
    squeezed_by,
)
from .datasets import Task
from .images import ImageForm
from .pixels import PixelScales
from .spans import amounts_of, says_spans
from .tables import Decimal, check_target
from .values import (
    Array,
    Label,
    bare_text,
    centre_and_scale,
    floats,
    is_category,
    labels_of,
    like,
    looks_like,
    no_number,
    number_labels,
    says_numbers,
    standardised,
    text_of,
)

_SOME_IMAGES = 2000  # say how bright all are


class Target(BaseModel):
    """What is predicted: classes with the labels that they had, or a number."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    task: Task
    reason: str
    classes: list[Label] = []
    mean: float = 0.0
    scale: float = 1.0
    spans: bool = False  # of time, which are numbers of seconds
    of_numbers: bool | None = None  # or text that says them, beside which `-` is none; older runs did not keep this

    @classmethod
    def learn(cls, values: pd.Series, task: Task | None = None, rows: NDArray[np.intp] | None = None) -> Target:
        """Find out what a target is; arguments and errors are those of `Schema.learn`."""
        rows = np.arange(len(values)) if rows is None else rows
        return _target(values, str(values.name), task, rows)

    def lacking(self, frame: pd.DataFrame) -> pd.Series:
        """Whether each row lacks its target (N,)."""
        check_target(frame, self.name)
        return self._missing(frame[self.name])

    def encode(self, values: pd.Series) -> NDArray[Any]:
        """Class codes (N,), or standardised numbers (N, 1).

        Raises
        ------
        ValueError
            When a value is missing, is no number, or is a class that is not known.
        """
        if self._missing(values).any():
            raise ValueError(f"target {self.name!r} has missing values; drop these rows")
        if self.task == "regression":
            return standardised(amounts_of(values, self.name, spans=self.spans), self.mean, self.scale)[:, None]
        codes = {str(label): code for code, label in enumerate(self.classes)}
        labels = self._labels(values)
        unknown = sorted({label for label in labels if label not in codes})
        if unknown:
            raise ValueError(
                f"target {self.name!r} holds {unknown[0]!r}, which is none of the classes {', '.join(codes)}"
            )
        return np.array([codes[label] for label in labels], dtype=np.int64)

    def decode(self, outputs: Array) -> NDArray[Any]:
        """Labels from logits (N, classes), or numbers in the target's unit from (N, 1)."""
        if self.task == "regression":
            return outputs[:, 0] * self.scale + self.mean
        return np.array(self.classes, dtype=object)[outputs.argmax(1)]

    def describe(self) -> str:
        """In words."""
        if self.task == "regression":
            unit = ", in seconds" if self.spans else ""
            return f"regression, as {self.reason}{unit}: mean {self.mean:.4g}, standard deviation {self.scale:.4g}"
        shown = ", ".join(map(str, self.classes[:6])) + (", …" if len(self.classes) > 6 else "")
        return f"classification, as {self.reason}: {len(self.classes)} classes ({shown})"

    def _missing(self, values: pd.Series) -> pd.Series:
        of_numbers = not self._is_of_words if self.of_numbers is None else self.of_numbers
        return (bare_text(values) if of_numbers else text_of(values)).eq("")

    def _labels(self, values: pd.Series) -> list[str]:
        """The labels, written as the classes are: these rows may hold no class but '1.0', others 'n.a.'."""
        if not self._is_of_words and says_numbers(values):
            return [str(label) for label in number_labels(values)]
        return like(text_of(values), [str(label) for label in self.classes])

    @property
    def _is_of_words(self) -> bool:
        return self.task == "classification" and all(isinstance(label, bool | str) for label in self.classes)


class Schema(BaseModel):
    """How a table becomes numbers; it goes through JSON unchanged.

    Examples
    --------
    >>> import pandas as pd
    >>> from thalweg.learn.data import Schema
    >>> frame = pd.DataFrame({"size": [1.0, 2.0, 3.0, 4.0], "colour": list("rgrg"), "price": [1.5, 2.5, 3.5, 4.5]})
    >>> schema = Schema.learn(frame, "price")
    >>> [column.describe() for column in schema.columns], schema.n_inputs
    (['number', 'category of 2: g, r'], 3)
    >>> schema.features(frame[["colour", "size"]]).shape  # the order of the columns does not matter
    (4, 3)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    columns: list[Column]
    target: Target
    decimal: Decimal | None = None  # how the file wrote it, which others of its kind may leave open
    images: ImageForm | None = None  # how images became the columns of their pixels
    pixels: PixelScales | None = None  # how these are measured, which older runs did not keep apart

    @classmethod
    def learn(
        cls,
        frame: pd.DataFrame,
        target: str,
        task: Task | None = None,
        rows: NDArray[np.intp] | None = None,
        decimal: Decimal | None = None,
        images: ImageForm | None = None,
    ) -> Schema:
        """Find out what each column is.

        Parameters
        ----------
        frame : DataFrame
            Rows with a target each; see `drop_missing_targets`.
        target : str
            The column to predict.
        task : {"classification", "regression"}, optional
            Decided from the target where it is not given.
        rows : array of int, optional
            The rows that are learnt from; all by default. All rows decide what a column is, and these alone what there
            is to learn from it: means, levels and the like.
        decimal : {"point", "comma"}, optional
            How the file that the rows came from writes decimals.
        images : ImageForm, optional
            Which columns are pixels of images. These have one scale, as what is nearly black everywhere tells little,
            and are measured from the brightness of their image, which is a feature of its own.

        Raises
        ------
        ValueError
            When the target does not exist, is constant or cannot be what the task asks for, when numbers are infinite,
            when two columns share a name, or when no column is left to learn from.
        """
        check_target(frame, target)
        rows = np.arange(len(frame)) if rows is None else rows
        columns = learn_columns(frame.drop(columns=target), rows)
        learnt = Target.learn(frame[target], task, rows)
        if images is not None:
            columns = _of_one_scale(columns, set(images.columns))
        schema = cls(columns=columns, target=learnt, decimal=decimal, images=images)
        if not schema._is_pixel.any():
            return schema
        some = frame.iloc[rows[:: 1 + len(rows) // _SOME_IMAGES]]
        return schema.model_copy(update={"pixels": PixelScales.learn(schema.features(some)[:, schema._is_pixel])})

    @property
    def n_inputs(self) -> int:
        """The number of features."""
        return sum(column.size for column in self.columns) + (self.pixels is not None)

    def squeezed(self, *features: Array) -> dict[str, str]:
        """For each column of numbers or dates, but no pixels, the values that leave its others hardly any spread.

        `features` (N, n_inputs) may come in several parts.
        """
        is_pixel = self._is_pixel
        starts = np.cumsum([0, *(column.size for column in self.columns)])
        found = {}
        for column, start in zip(self.columns, starts[:-1], strict=True):
            if isinstance(column, NumberColumn | DateColumn) and not is_pixel[start]:
                numbers = np.concatenate([part[:, start] for part in features]) * column.scale + column.mean
                found[column.name] = squeezed_by(numbers, day_of if isinstance(column, DateColumn) else in_digits)
        return {name: values for name, values in found.items() if values is not None}

    @property
    def identifier_names(self) -> set[str]:
        """The names of the columns that were left out as each of their values names its row."""
        return {column.name for column in self.columns if column.role == "ignored" and column.names_rows}

    def identifiers(self, frame: pd.DataFrame) -> pd.DataFrame:
        """These columns of rows, as they are."""
        names = self.identifier_names
        return frame[[name for name in frame.columns if str(name) in names]]

    @property
    def n_outputs(self) -> int:
        """The number of classes, or 1."""
        return len(self.target.classes) or 1

    def features(self, frame: pd.DataFrame) -> Array:
        """The features (N, n_inputs) of rows, whose columns may come in any order and with others between.

        Raises
        ------
        ValueError
            When a column is missing, or holds what it did not hold in training.
        """
        features = frame_features(self.columns, frame)
        return features if self.pixels is None else self.pixels.features(features, self._is_pixel)

    @property
    def _is_pixel(self) -> NDArray[np.bool_]:
        """Which of the columns' features are pixels."""
        names = set() if self.images is None else set(self.images.columns)
        sizes = [column.size for column in self.columns]
        return np.repeat([column.name in names for column in self.columns], sizes)


def _of_one_scale(columns: Sequence[Column], names: set[str]) -> list[Column]:
    """The columns, those of some names with the root mean square of their scales for each scale."""
    scales = [column.scale for column in columns if isinstance(column, NumberColumn) and column.name in names]
    if not scales:
        return list(columns)
    scale = float(np.sqrt(np.mean(np.square(scales))))
    return [
        column.model_copy(update={"scale": scale})
        if isinstance(column, NumberColumn) and column.name in names
        else column
        for column in columns
    ]


def drop_missing_targets(frame: pd.DataFrame, target: str) -> tuple[pd.DataFrame, int]:
    """The rows that have a target, and the number of those that have none."""
    check_target(frame, target)
    values = frame[target]
    absent = (bare_text(values) if says_numbers(values) or says_spans(values) else text_of(values)).eq("")
    if absent.all():
        raise ValueError(f"target {target!r} has no values")
    if len(frame) - absent.sum() == 1:
        raise ValueError("the table has one row with a target, but needs one to learn from and one to be judged by")
    return frame.loc[~absent].reset_index(drop=True), int(absent.sum())


def _target(values: pd.Series, name: str, task: Task | None, rows: NDArray[np.intp]) -> Target:
    """What the target is; every row has one."""
    spans = says_spans(values)
    numeric = says_numbers(values) or spans
    one, some = ("span of time", "spans of time") if spans else ("number", "whole numbers")
    labels = labels_of(values)
    distinct = sorted(set(labels), key=lambda v: (isinstance(v, str), v))
    constant = f"target {name!r} is constant ({distinct[0]}): there is nothing to learn"
    if len(distinct) == 1:
        raise ValueError(constant)
    whole = numeric and bool((np.mod(amounts_of(values, name, spans=spans), 1) == 0).all())
    if task is None:
        if not numeric or is_category(values):
            task, reason = "classification", "the target is of categories" if numeric else "the target is no number"
            if not numeric and len(distinct) > FEW_VALUES:
                reason += _aside(looks_like(values))
        elif whole and len(distinct) <= FEW_VALUES:
            task, reason = "classification", f"the target has {len(distinct)} different {some}"
        else:
            task, reason = "regression", f"the target is a {one}"
    else:
        reason = "given"
    if task == "regression":
        if not numeric:
            raise ValueError(
                f"target {name!r} must hold numbers for regression, but {no_number(values, floats(values))!r} is none"
                f"{_aside(looks_like(values))}; leave out the task, or choose classification"
            )
        numbers = amounts_of(values, name, spans=spans)
        if (numbers == numbers[0]).all():  # in more than one spelling
            raise ValueError(constant)
        numbers = numbers[rows]
        mean, scale = centre_and_scale(numbers, np.ones(len(numbers)))
        reason += _decided_by(numbers, np.square((numbers - mean) / scale))
        mean, scale = float(mean), float(scale)
        return Target(name=name, task=task, reason=reason, mean=mean, scale=scale, spans=spans, of_numbers=numeric)
    counts = pd.Series(labels, dtype=object).value_counts()
    single = [label for label in distinct if counts[label] < 2]
    if single:
        raise ValueError(
            f"class {single[0]!r} of target {name!r} has one row, but a class needs two, one to learn from "
            "and one to be judged by; give it more rows, drop it"
            + (", or choose regression" if numeric else _aside(looks_like(values)))
        )
    return Target(name=name, task=task, reason=reason, classes=distinct, of_numbers=numeric)


def _decided_by(numbers: Array, squares: Array) -> str:
    """An aside on the few rows, if any, that are most of a variance: a model then learns to predict these alone."""
    few = np.argsort(-squares)[: max(1, len(numbers) // 100)]
    few = few[squares[few] >= squares[few[0]] / 100]  # as one mistyped row among them may be
    share = squares[few].sum() / (squares.sum() or 1.0)
    if len(numbers) < FEW_VALUES or share < 0.5:
        return ""
    make, farthest = "makes" if len(few) == 1 else "make", numbers[few[0]]
    return f" ({len(few)} of {len(numbers)} rows, such as {farthest:g}, {make} up {share:.0%} of its variance)"


def _aside(looks: str | None) -> str:
    return f" (the column {looks})" if looks else ""
