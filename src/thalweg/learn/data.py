"""Tables: what each column is, and how it becomes the numbers that a model takes.

A `Schema` is learnt once, from the rows that a model is trained on, and kept with the model. New rows are matched to it
by the names of their columns. features: (N, n_inputs), float64, standardised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .datasets import Task
from .images import ImageForm
from .tables import Decimal, check_names, check_target, nearest
from .values import (
    Array,
    Label,
    a_few,
    bare_text,
    centre_and_scale,
    dates_of,
    floats,
    is_category,
    labels_of,
    like,
    looks_like,
    no_date,
    no_number,
    number_labels,
    numbers_of,
    says_numbers,
    sound,
    standardised,
    text_of,
)

_MOST_LEVELS = 50  # of a category; rarer ones are as unseen ones
_FEW_VALUES = 20  # with no more different values than this, an integer target names classes, and text is what it is
_CYCLES = {"month": 12, "weekday": 7, "hour": 24}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # of a name such as patient_id, PatientId or patientID
_NAMELESS = re.compile(r"(?:Unnamed: \d+)?")  # as pandas calls what has no name in a file


class _Column(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str


class NumberColumn(_Column):
    """Standardised; a missing value is the median, with a column that says so where training rows lacked values."""

    role: Literal["number"] = "number"
    mean: float
    scale: float
    fill: float
    missing: bool

    @property
    def size(self) -> int:
        """The number of features that it becomes."""
        return 1 + self.missing

    def features(self, values: pd.Series) -> Array:
        """The features (N, size)."""
        numbers = numbers_of(values, self.name)
        absent = np.isnan(numbers)
        columns = [standardised(np.where(absent, self.fill, numbers), self.mean, self.scale)]
        return np.column_stack([*columns, absent.astype(float)] if self.missing else columns)

    def describe(self) -> str:
        """In words."""
        return "number" + (", with missing values" if self.missing else "")


class CategoryColumn(_Column):
    """One 0/1 column for each value; one that was not seen in training is 0 in all, and so are the rarest."""

    role: Literal["category"] = "category"
    levels: list[str]
    rare: int = 0
    rarest: list[str] = []  # by name, which older runs did not keep
    looks: str | None = None  # what it may be instead, where there are rarer values

    @property
    def size(self) -> int:
        """The number of features that it becomes."""
        return len(self.levels)

    def features(self, values: pd.Series) -> Array:
        """The features (N, size)."""
        text = np.array(like(text_of(values), self.levels), dtype=object)[:, None]
        return (text == np.array(self.levels, dtype=object)).astype(float)

    def unseen(self, values: pd.Series) -> list[str]:
        """The values, each once, that training did not see."""
        seen = {"", *self.levels, *self.rarest}
        return [word for word in dict.fromkeys(like(text_of(values), self.levels)) if word not in seen]

    def describe(self) -> str:
        """In words."""
        shown = ", ".join(level or "(missing)" for level in self.levels[:4]) + (", …" if len(self.levels) > 4 else "")
        rare = f"; {self.rare} rarer values count as unseen" if self.rare else ""
        return f"category of {len(self.levels)}: {shown}{rare}{f'; {self.looks}' if self.looks else ''}"


class DateColumn(_Column):
    """Time, standardised, and the place in each cycle (year, week, day) that rows vary in, as sine and cosine."""

    role: Literal["date"] = "date"
    mean: float
    scale: float
    fill: float
    missing: bool
    cycles: list[Literal["month", "weekday", "hour"]]
    day_first: bool

    @property
    def size(self) -> int:
        """The number of features that it becomes."""
        return 1 + self.missing + 2 * len(self.cycles)

    def features(self, values: pd.Series) -> Array:
        """The features (N, size)."""
        dates = dates_of(values, self.day_first)
        wrong = no_date(values, dates)
        if wrong is not None:
            raise ValueError(
                f"column {self.name!r} held dates in training, but {wrong!r} is none; write it as 2026-01-31"
            )
        absent = dates.isna().to_numpy()
        dates = dates.fillna(pd.Timestamp(round(self.fill * 1e6), unit="us", tz="UTC"))
        columns = [(_seconds(dates) - self.mean) / self.scale]
        if self.missing:
            columns.append(absent.astype(float))
        for cycle in self.cycles:
            angle = 2 * np.pi * _phase(dates, cycle) / _CYCLES[cycle]
            columns += [np.sin(angle), np.cos(angle)]
        return np.column_stack(columns)

    def describe(self) -> str:
        """In words."""
        cycles = f", with {', '.join(self.cycles)}" if self.cycles else ""
        order = ", the day first" if self.day_first else ""
        return f"date{order}{cycles}{', with missing values' if self.missing else ''}"


class IgnoredColumn(_Column):
    """Left out, and why."""

    role: Literal["ignored"] = "ignored"
    reason: str

    @property
    def size(self) -> int:
        """The number of features that it becomes."""
        return 0

    def features(self, values: pd.Series) -> Array:
        """The features (N, size)."""
        return np.empty((len(values), 0))

    def describe(self) -> str:
        """In words."""
        return f"left out: {self.reason}"


Column = Annotated[NumberColumn | CategoryColumn | DateColumn | IgnoredColumn, Field(discriminator="role")]


class Target(BaseModel):
    """What is predicted: classes with the labels that they had, or a number."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    task: Task
    reason: str
    classes: list[Label] = []
    mean: float = 0.0
    scale: float = 1.0

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
            return standardised(numbers_of(values, self.name), self.mean, self.scale)[:, None]
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
            return f"regression, as {self.reason}: mean {self.mean:.4g}, standard deviation {self.scale:.4g}"
        shown = ", ".join(map(str, self.classes[:6])) + (", …" if len(self.classes) > 6 else "")
        return f"classification, as {self.reason}: {len(self.classes)} classes ({shown})"

    def _missing(self, values: pd.Series) -> pd.Series:
        return (text_of(values) if self._is_of_words else bare_text(values)).eq("")

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
            Which columns are pixels of images. These have one scale, as what is nearly black everywhere tells little.

        Raises
        ------
        ValueError
            When the target does not exist, is constant or cannot be what the task asks for, when numbers are infinite,
            when two columns share a name, or when no column is left to learn from.
        """
        check_target(frame, target)
        rows = np.arange(len(frame)) if rows is None else rows
        columns = learn_columns(frame.drop(columns=target), rows)
        if images is not None:
            columns = _of_one_scale(columns, set(images.columns))
        return cls(columns=columns, target=Target.learn(frame[target], task, rows), decimal=decimal, images=images)

    @property
    def n_inputs(self) -> int:
        """The number of features."""
        return sum(column.size for column in self.columns)

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
        return frame_features(self.columns, frame)


def learn_columns(
    frame: pd.DataFrame, rows: NDArray[np.intp] | None = None, weight: Array | None = None
) -> list[Column]:
    """Find out what each column of inputs is; arguments and errors as for `Schema.learn`.

    `weight` (N,), above 0: how often each row counts, once by default.
    """
    if not len(frame.columns):
        raise ValueError("the table has no columns to learn from, none but the target")
    check_names(frame.columns)
    rows = np.arange(len(frame)) if rows is None else rows
    weight = np.ones(len(frame)) if weight is None else weight
    columns: list[Column] = [_column(frame[name], str(name), rows, weight) for name in frame.columns]
    if not any(column.size for column in columns):
        reasons = "; ".join(f"{column.name!r} is {column.describe()}" for column in columns[:5])
        raise ValueError(f"no column is left to learn from: {reasons}")
    return columns


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


def frame_features(columns: Sequence[Column], frame: pd.DataFrame) -> Array:
    """The features (N, n_inputs) of rows; see `Schema.features`."""
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)  # as `learn_columns` has them
    used = [column for column in columns if column.size]
    missing = [column.name for column in used if column.name not in frame.columns]
    if missing:
        shown = ", ".join(map(repr, missing[:12])) + (", …" if len(missing) > 12 else "")
        near = nearest(missing[0], [name for name in frame.columns if name not in {column.name for column in columns}])
        raise ValueError(
            f"the table lacks column{'s' if len(missing) > 1 else ''} {shown}, which the model was trained with"
            + (f"; it has {near!r}" if near is not None else "")
        )
    check_names(frame[[column.name for column in used]].columns)
    return np.concatenate([column.features(frame[column.name]) for column in used], axis=1)


def drop_missing_targets(frame: pd.DataFrame, target: str) -> tuple[pd.DataFrame, int]:
    """The rows that have a target, and the number of those that have none."""
    check_target(frame, target)
    values = frame[target]
    absent = (bare_text(values) if says_numbers(values) else text_of(values)).eq("")
    if absent.all():
        raise ValueError(f"target {target!r} has no values")
    if len(frame) - absent.sum() == 1:
        raise ValueError("the table has one row with a target, but needs one to learn from and one to be judged by")
    return frame.loc[~absent].reset_index(drop=True), int(absent.sum())


def _column(values: pd.Series, name: str, rows: NDArray[np.intp], weight: Array) -> Any:
    """What a column is."""
    if _NAMELESS.fullmatch(name):
        return IgnoredColumn(name=name, reason="it has no name in its file, as numbers of rows have none")
    if is_category(values):
        return _category_column(text_of(values), name, rows, weight)
    if says_numbers(values):
        return _number_column(values, name, rows, weight)
    for day_first in (False, True):
        dates = dates_of(values, day_first)
        if dates.notna().any() and no_date(values, dates) is None:
            return _date_column(dates, name, day_first, rows, weight)
    return _category_column(text_of(values), name, rows, weight)


def _number_column(values: pd.Series, name: str, rows: NDArray[np.intp], weight: Array) -> NumberColumn | IgnoredColumn:
    numbers = floats(values)
    reason = _nothing_to_learn(pd.Series(numbers), rows) or _names_rows(name, numbers, weight)
    if reason:
        return IgnoredColumn(name=name, reason=reason)
    learnt, weight = sound(numbers, values, name)[rows], weight[rows]
    absent = np.isnan(learnt)
    fill = weighted_median(learnt[~absent], weight[~absent])
    filled = np.where(absent, fill, learnt)
    mean, scale = centre_and_scale(filled, weight)
    return NumberColumn(name=name, mean=float(mean), scale=float(scale), fill=fill, missing=bool(absent.any()))


def _date_column(
    dates: pd.Series, name: str, day_first: bool, rows: NDArray[np.intp], weight: Array
) -> DateColumn | IgnoredColumn:
    reason = _nothing_to_learn(dates, rows)
    if reason:
        return IgnoredColumn(name=name, reason=reason)
    learnt = dates.iloc[rows]
    dated = learnt.notna().to_numpy()
    seen, weight = learnt[dated], weight[rows][dated]
    seconds = _seconds(seen)
    fill = weighted_median(seconds, weight)
    mean, scale = centre_and_scale(seconds, weight)
    cycles: list[Any] = [cycle for cycle in _CYCLES if len(np.unique(np.floor(_phase(seen, cycle)))) > 1]
    return DateColumn(
        name=name,
        mean=float(mean),
        scale=float(scale),
        fill=fill,
        missing=bool(learnt.isna().any()),
        cycles=cycles,
        day_first=day_first,
    )


def _category_column(
    text: pd.Series, name: str, rows: NDArray[np.intp], weight: Array
) -> CategoryColumn | IgnoredColumn:
    reason = _nothing_to_learn(text.mask(text.eq("")), rows)
    if reason:
        return IgnoredColumn(name=name, reason=reason)
    if text.nunique() > max(20, _rows_counted(weight) // 2):
        reason = "nearly every row has its own text, as an identifier has"
        looks = _nearly_numbers_or_dates(text) or looks_like(text)
        return IgnoredColumn(name=name, reason=f"{reason}; {looks}" if looks else reason)
    counts = pd.Series(weight[rows]).groupby(text.to_numpy()[rows], sort=False).sum()
    levels = [str(level) for level in counts.sort_values(ascending=False, kind="stable").index]
    rarest = sorted(levels[_MOST_LEVELS:])
    looks = _nearly_numbers_or_dates(text) or looks_like(text) if len(levels) > _FEW_VALUES else None
    return CategoryColumn(name=name, levels=sorted(levels[:_MOST_LEVELS]), rare=len(rarest), rarest=rarest, looks=looks)


def _nearly_numbers_or_dates(text: pd.Series) -> str | None:
    """How many values of text are numbers, or dates, where most are, and one that is none."""
    text = bare_text(text)
    text = text[text.ne("")]
    numbers = floats(text)
    found = [("numbers", ~np.isnan(numbers), no_number(text, numbers))]
    for day_first in (False, True):
        if dates_of(a_few(text), day_first).notna().mean() <= 0.5:  # all of them take long
            continue
        dates = dates_of(text, day_first)
        found.append(("dates", dates.notna().to_numpy(), no_date(text, dates)))
    kind, read, wrong = max(found, key=lambda one: one[1].mean())
    return f"{read.mean():.0%} are {kind}, but not {wrong!r}" if read.mean() > 0.5 else None


def _nothing_to_learn(values: pd.Series, rows: NDArray[np.intp]) -> str | None:
    """Why there is nothing to learn from values in these rows, if so: a weight on them would stay as it was drawn."""
    for part, where in ((values, ""), (values.iloc[rows], " in the rows that are learnt from")):
        if part.isna().all():
            return f"it has no values{where}"
        if part.nunique() == 1 and part.notna().all():
            return f"it is constant{where}"
    return None


def _names_rows(name: str, numbers: Array, weight: Array) -> str | None:
    """Why numbers say no more than which row it is, if so: new rows have others, beyond all that were learnt from.

    Examples
    --------
    >>> names, rows = ["id", "PassengerId", "ORDER_ID", "grid", "Idaho"], np.ones(3)
    >>> [_names_rows(name, np.arange(3.0), rows) is not None for name in names]
    [True, True, True, False, False]
    """
    if "id" not in (word.lower() for word in _WORD.findall(name)):
        return None
    there = numbers[~np.isnan(numbers)]
    if len(np.unique(there)) <= _rows_counted(weight) // 2 or np.mod(there, 1).any():
        return None
    return "nearly every row has its own number, and its name says that it is an identifier; by another it is a number"


def _rows_counted(weight: Array) -> int:
    """How many rows there are, where weights may be shares of one, and yet no row is less than a row."""
    return max(len(weight), int(weight.sum()))


def _target(values: pd.Series, name: str, task: Task | None, rows: NDArray[np.intp]) -> Target:
    """What the target is; every row has one."""
    numeric = says_numbers(values)
    labels = labels_of(values)
    distinct = sorted(set(labels), key=lambda v: (isinstance(v, str), v))
    if len(distinct) == 1:
        raise ValueError(f"target {name!r} is constant ({distinct[0]}): there is nothing to learn")
    whole = numeric and bool((np.mod(numbers_of(values, name), 1) == 0).all())
    if task is None:
        if not numeric or is_category(values):
            task, reason = "classification", "the target is of categories" if numeric else "the target is no number"
            if not numeric and len(distinct) > _FEW_VALUES:
                reason += _aside(looks_like(values))
        elif whole and len(distinct) <= _FEW_VALUES:
            task, reason = "classification", f"the target has {len(distinct)} different whole numbers"
        else:
            task, reason = "regression", "the target is a number"
    else:
        reason = "given"
    if task == "regression":
        if not numeric:
            raise ValueError(
                f"target {name!r} must hold numbers for regression, but {no_number(values, floats(values))!r} is none"
                f"{_aside(looks_like(values))}; leave out the task, or choose classification"
            )
        numbers = numbers_of(values, name)[rows]
        mean, scale = centre_and_scale(numbers, np.ones(len(numbers)))
        reason += _decided_by(numbers, np.square((numbers - mean) / scale))
        return Target(name=name, task=task, reason=reason, mean=float(mean), scale=float(scale))
    counts = pd.Series(labels, dtype=object).value_counts()
    single = [label for label in distinct if counts[label] < 2]
    if single:
        raise ValueError(
            f"class {single[0]!r} of target {name!r} has one row, but a class needs two, one to learn from "
            "and one to be judged by; give it more rows, drop it"
            + (", or choose regression" if numeric else _aside(looks_like(values)))
        )
    return Target(name=name, task=task, reason=reason, classes=distinct)


def _decided_by(numbers: Array, squares: Array) -> str:
    """An aside on the few rows, if any, that are most of a variance: a model then learns to predict these alone."""
    few = np.argsort(-squares)[: max(1, len(numbers) // 100)]
    few = few[squares[few] >= squares[few[0]] / 100]  # as one mistyped row among them may be
    share = squares[few].sum() / (squares.sum() or 1.0)
    if len(numbers) < _FEW_VALUES or share < 0.5:
        return ""
    make, farthest = "makes" if len(few) == 1 else "make", numbers[few[0]]
    return f" ({len(few)} of {len(numbers)} rows, such as {farthest:g}, {make} up {share:.0%} of its variance)"


def _aside(looks: str | None) -> str:
    return f" (the column {looks})" if looks else ""


def _seconds(dates: pd.Series) -> Array:
    return dates.astype("int64").to_numpy(np.float64) / 1e6


def _phase(dates: pd.Series, cycle: str) -> Array:
    """Where in its cycle a date is: months from January, days from Monday, hours from midnight."""
    if cycle == "month":
        return (dates.dt.month - 1 + (dates.dt.day - 1) / 31).to_numpy(np.float64)
    if cycle == "weekday":
        return dates.dt.day_of_week.to_numpy(np.float64)
    return (dates.dt.hour + dates.dt.minute / 60).to_numpy(np.float64)


def weighted_median(numbers: Array, weight: Array) -> float:
    """The median of numbers that are there as often as their weights say.

    Examples
    --------
    >>> weighted_median(np.array([3.0, 1.0, 2.0, 9.0]), np.array([1.0, 1.0, 1.0, 1.0]))
    2.5
    >>> weighted_median(np.array([3.0, 1.0, 2.0, 9.0]), np.array([3.0, 1.0, 1.0, 1.0]))
    3.0
    """
    order = np.argsort(numbers)
    reached = np.cumsum(weight[order]) / weight.sum()
    middle = np.searchsorted(reached, [0.5 - 1e-12, 0.5 + 1e-12])  # two numbers where one ends at the half
    return float(numbers[order[middle]].mean())
