"""Columns: what each of a table is, and how it becomes the numbers that a model takes.

features: (N, size), float64, standardised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .spans import amounts_of, says_spans
from .tables import check_names, nearest
from .values import (
    Array,
    a_few,
    bare_text,
    centre_and_scale,
    dates_of,
    floats,
    is_category,
    like,
    looks_like,
    no_date,
    no_number,
    says_numbers,
    sound,
    standardised,
    text_of,
)

_MOST_LEVELS = 50  # of a category; rarer ones are as unseen ones
FEW_VALUES = 20
"""With no more different values than this, whole numbers as a target name classes, and text is what it is."""
_FAR_VALUES = 3  # that stand for none, at most
_CYCLES = {"month": 12, "weekday": 7, "hour": 24}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # of a name such as patient_id, PatientId or patientID
_YEAR_LAST = r"\d{1,2}[-/.]"  # is how a date begins whose days or months may be first
_NAMELESS = re.compile(r"(?:Unnamed: \d+)?")  # as pandas calls what has no name in a file


class _Column(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str


class NumberColumn(_Column):
    """Standardised; a missing value is the median, with a column that says so where training rows lacked values.

    A span of time is a number of seconds.
    """

    role: Literal["number"] = "number"
    mean: float
    scale: float
    fill: float
    missing: bool
    spans: bool = False

    @property
    def size(self) -> int:
        """The number of features that it becomes."""
        return 1 + self.missing

    def features(self, values: pd.Series) -> Array:
        """The features (N, size)."""
        numbers = amounts_of(values, self.name, spans=self.spans)
        absent = np.isnan(numbers)
        columns = [standardised(np.where(absent, self.fill, numbers), self.mean, self.scale)]
        return np.column_stack([*columns, absent.astype(float)] if self.missing else columns)

    def describe(self) -> str:
        """In words."""
        kind = "span of time, in seconds" if self.spans else "number"
        return kind + (", with missing values" if self.missing else "")


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
    either: bool = False  # could be first, so that it was chosen; older runs did not keep this

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
        order = ", the day first" if self.day_first else ", the month first" if self.either else ""
        order += " (if not, write 2026-01-31)" if self.either else ""
        return f"date{order}{cycles}{', with missing values' if self.missing else ''}"


class IgnoredColumn(_Column):
    """Left out, and why."""

    role: Literal["ignored"] = "ignored"
    reason: str
    names_rows: bool = False  # as an identifier does

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


def _column(values: pd.Series, name: str, rows: NDArray[np.intp], weight: Array) -> Any:
    """What a column is."""
    if _NAMELESS.fullmatch(name):
        return IgnoredColumn(name=name, reason="it has no name in its file, as numbers of rows have none")
    if is_category(values):
        return _category_column(text_of(values), name, rows, weight)
    if says_numbers(values) or says_spans(values):
        return _number_column(values, name, rows, weight)
    orders = (False, True) if bare_text(values).str.match(_YEAR_LAST).any() else (False,)
    readings = {day_first: dates_of(values, day_first) for day_first in orders}
    readings = {k: dates for k, dates in readings.items() if dates.notna().any() and no_date(values, dates) is None}
    if readings:
        either = len(readings) == 2 and not readings[False].equals(readings[True])
        day_first = _says_day_first(values, readings) if either else False not in readings
        return _date_column(readings[day_first], name, day_first, either, rows, weight)
    return _category_column(text_of(values), name, rows, weight)


def _number_column(values: pd.Series, name: str, rows: NDArray[np.intp], weight: Array) -> NumberColumn | IgnoredColumn:
    spans = says_spans(values)
    numbers = amounts_of(values, name, spans=spans) if spans else floats(values)
    reason = _nothing_to_learn(pd.Series(numbers), rows)
    if reason:
        return IgnoredColumn(name=name, reason=reason)
    reason = _names_rows(name, numbers, weight)
    if reason:
        return IgnoredColumn(name=name, reason=reason, names_rows=True)
    learnt, weight = sound(numbers, values, name)[rows], weight[rows]
    absent = np.isnan(learnt)
    fill = weighted_median(learnt[~absent], weight[~absent])
    filled = np.where(absent, fill, learnt)
    mean, scale = centre_and_scale(filled, weight)
    return NumberColumn(
        name=name,
        mean=float(mean),
        scale=float(scale),
        fill=fill,
        missing=bool(absent.any()),
        spans=spans,
    )


def squeezed_by(numbers: Array, write: Callable[[float], str]) -> str | None:
    """The values, if any, without which a spread would be less than a third: a -999 for none, or one mistyped row.

    `write` makes text of a value.

    Examples
    --------
    >>> numbers = np.arange(40.0)
    >>> squeezed_by(np.append(numbers, [-999, -999]), in_digits), squeezed_by(numbers, in_digits)
    ('-999 in 2', None)
    """
    rest = np.sort(numbers)
    spread, found, told = np.std(rest), list[str](), 0
    while len(found) < _FAR_VALUES:
        lowest, middle, highest = rest[[0, len(rest) // 2, -1]]
        far = lowest if middle - lowest > highest - middle else highest
        first, last = np.searchsorted(rest, [far, np.nextafter(far, np.inf)])
        found.append(f"{write(far)} in {last - first}")
        rest = rest[last:] if first == 0 else rest[:first]
        if len(rest) < 4 or rest[len(rest) // 4] == rest[3 * len(rest) // 4]:  # as where most are 0 and a few are not
            break
        if 3 * np.std(rest) < spread:
            spread, told = np.std(rest), len(found)
    return " and ".join(found[:told]) or None


def _says_day_first(values: pd.Series, readings: Mapping[bool, pd.Series]) -> bool:
    """Whether days are more likely first, by the two readings of dates that either may be first in.

    Points stand between the parts where days are first, and what is a series with equal steps in one reading alone is
    meant to be one. Nothing else tells, and months are first.
    """
    differ = readings[False].ne(readings[True]) & readings[False].notna()
    if bare_text(values[differ]).str.match(r"\d+\.\d+\.").all():
        return True
    return _is_regular(readings[True]) and not _is_regular(readings[False])


def _is_regular(dates: pd.Series) -> bool:
    """Whether dates, in whatever order and however often each comes, are equally far apart in time or in months.

    Examples
    --------
    >>> [_is_regular(pd.Series(pd.date_range("2026-01-05", periods=6, freq=f))) for f in ("3D", "1h", "2MS", "B")]
    [True, True, True, False]
    """
    seen = pd.Series(dates.dropna().sort_values().unique())
    if len(seen) < 3:
        return False
    steps = [np.diff(_seconds(seen))]
    in_month = pd.to_timedelta(seen.dt.day, unit="D") + (seen - seen.dt.normalize())
    if in_month.nunique() == 1:
        steps.append(np.diff(12 * seen.dt.year + seen.dt.month))
    return any((step == step[0]).all() for step in steps)


def _date_column(
    dates: pd.Series, name: str, day_first: bool, either: bool, rows: NDArray[np.intp], weight: Array
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
        either=either,
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
        return IgnoredColumn(name=name, reason=f"{reason}; {looks}" if looks else reason, names_rows=True)
    counts = pd.Series(weight[rows]).groupby(text.to_numpy()[rows], sort=False).sum()
    levels = [str(level) for level in counts.sort_values(ascending=False, kind="stable").index]
    rarest = sorted(levels[_MOST_LEVELS:])
    looks = _nearly_numbers_or_dates(text) or looks_like(text) if len(levels) > FEW_VALUES else None
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


def _seconds(dates: pd.Series) -> Array:
    return dates.astype("int64").to_numpy(np.float64) / 1e6


def in_digits(number: float) -> str:
    """A number, in as few of ten digits as say it."""
    return f"{number:.10g}"


def day_of(seconds: float) -> str:
    """The day of a time, in words that a table may have for it.

    Examples
    --------
    >>> day_of(0.0), day_of(253402214399.99997)
    ('1970-01-01', '9999-12-31')
    """
    return pd.Timestamp(round(seconds), unit="s").date().isoformat()


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
