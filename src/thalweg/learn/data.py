"""Tables: what each column is, and how it becomes the numbers that a model takes.

A `Schema` is learnt once, from the rows that a model is trained on, and kept with the model. New rows are matched to it
by the names of their columns. features: (N, n_inputs), float64, standardised.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .datasets import BUNDLED, Task, load_bundled

Array: TypeAlias = NDArray[np.float64]
Label: TypeAlias = bool | int | float | str

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "<na>", "nat"})
"""What stands for no value, in any case of letters."""

_MOST_LEVELS = 50  # of a category; rarer ones are as unseen ones
_FEW_VALUES = 20  # an integer target with no more different values than this names classes
_DATE = (
    r"^(?:(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})"
    r"|(?P<first>\d{1,2})[-/.](?P<second>\d{1,2})[-/.](?P<last>\d{4}))(?P<clock>[T ].*)?$"
)
_DECIMAL_COMMA = r"[+-]?(?:(?:\d{1,3}(?:\.\d{3})+|\d+)(?:,\d*)?|,\d+)(?:[eE][+-]?\d+)?"
_SEPARATORS = ",;\t|"
_CYCLES = {"month": 12, "weekday": 7, "hour": 24}
_INSTANT: Final = "datetime64[us, UTC]"
_LARGEST = 1e150  # of a number: the square of a larger one overflows


@dataclass(frozen=True)
class Table:
    """Rows with their target, and where they came from."""

    frame: pd.DataFrame
    target: str
    task: Task | None
    source: str
    sha256: str


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
        numbers = _numbers(values, self.name)
        absent = np.isnan(numbers)
        columns = [(np.where(absent, self.fill, numbers) - self.mean) / self.scale]
        return np.column_stack([*columns, absent.astype(float)] if self.missing else columns)

    def describe(self) -> str:
        """In words."""
        return "number" + (", with missing values" if self.missing else "")


class CategoryColumn(_Column):
    """One 0/1 column for each value; one that was not seen in training is 0 in all."""

    role: Literal["category"] = "category"
    levels: list[str]
    rare: int = 0

    @property
    def size(self) -> int:
        """The number of features that it becomes."""
        return len(self.levels)

    def features(self, values: pd.Series) -> Array:
        """The features (N, size)."""
        text = _text(values).to_numpy()[:, None]
        return (text == np.array(self.levels, dtype=object)).astype(float)

    def unseen(self, values: pd.Series) -> list[str]:
        """The values, each once, that are none of the levels."""
        return [str(value) for value in _text(values).unique() if value not in self.levels]

    def describe(self) -> str:
        """In words."""
        shown = ", ".join(level or "(missing)" for level in self.levels[:4]) + (", …" if len(self.levels) > 4 else "")
        rare = f"; {self.rare} rarer values count as unseen" if self.rare else ""
        return f"category of {len(self.levels)}: {shown}{rare}"


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
        dates = _dates(values, self.day_first)
        if dates is None:
            raise ValueError(
                f"column {self.name!r} held dates in training, but {_example(values)!r} is none; write it as 2026-01-31"
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

    def encode(self, values: pd.Series) -> NDArray[Any]:
        """Class codes (N,), or standardised numbers (N, 1).

        Raises
        ------
        ValueError
            When a value is missing, is no number, or is a class that is not known.
        """
        if _absent(values).any():
            raise ValueError(f"target {self.name!r} has missing values; drop these rows")
        if self.task == "regression":
            return ((_numbers(values, self.name) - self.mean) / self.scale)[:, None]
        codes = {str(label): code for code, label in enumerate(self.classes)}
        # text stays as it is written: these rows may hold no class but '1.0', others 'n.a.'
        as_text = all(isinstance(label, str) for label in self.classes)
        labels = [str(label) for label in (_text(values) if as_text else _labels(values))]
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

    @classmethod
    def learn(
        cls, frame: pd.DataFrame, target: str, task: Task | None = None, rows: NDArray[np.intp] | None = None
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
            The rows that means and the like are taken from; all by default. What a column is, all rows decide.

        Raises
        ------
        ValueError
            When the target does not exist, is constant or cannot be what the task asks for, when numbers are infinite,
            when two columns share a name, or when no column is left to learn from.
        """
        _check_target(frame, target)
        rows = np.arange(len(frame)) if rows is None else rows
        columns = learn_columns(frame.drop(columns=target), rows)
        return cls(columns=columns, target=Target.learn(frame[target], task, rows))

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
    _check_names(frame)
    rows = np.arange(len(frame)) if rows is None else rows
    weight = np.ones(len(frame)) if weight is None else weight
    columns: list[Column] = [_column(frame[name], str(name), rows, weight) for name in frame.columns]
    if not any(column.size for column in columns):
        reasons = "; ".join(f"{column.name!r} is {column.describe()}" for column in columns[:5])
        raise ValueError(f"no column is left to learn from: {reasons}")
    return columns


def frame_features(columns: Sequence[Column], frame: pd.DataFrame) -> Array:
    """The features (N, n_inputs) of rows; see `Schema.features`."""
    frame = frame.rename(columns=str)  # as `learn_columns` has them
    used = [column for column in columns if column.size]
    missing = [column.name for column in used if column.name not in frame.columns]
    if missing:
        raise ValueError(
            f"the table lacks column{'s' if len(missing) > 1 else ''} "
            f"{', '.join(map(repr, missing))}, which the model was trained with"
        )
    _check_names(frame[[column.name for column in used]])
    return np.concatenate([column.features(frame[column.name]) for column in used], axis=1)


def load_table(source: str, target: str | None = None, data_dir: str | None = None) -> Table:
    """Read a file, or a bundled data set by its name.

    Parameters
    ----------
    source : str
        A CSV file (comma, semicolon or tab; a first row of names; numbers with a decimal comma where that does not
        separate values), a Parquet file, or a name of `BUNDLED`.
    target : str, optional
        The column to predict; bundled data sets know theirs.
    data_dir : str, optional
        Where the files of `mnist` are.

    Raises
    ------
    ValueError
        When there is no such file or name, it is empty or no table, or the target is not named or not there.
    """
    if source in BUNDLED and not Path(source).is_file():
        bundled = load_bundled(source, data_dir)
        known = bundled.target if target is None else target
        digest = hashlib.sha256(pd.util.hash_pandas_object(bundled.frame, index=False).to_numpy().tobytes()).hexdigest()
        table = Table(bundled.frame, known, bundled.task if known == bundled.target else None, source, digest)
    else:
        frame = read_frame(source)
        if target is None:
            raise ValueError(
                f"say which column to predict with --target (target=); {source} has "
                f"{', '.join(map(str, frame.columns[:12]))}{', …' if len(frame.columns) > 12 else ''}"
            )
        table = Table(frame, target, None, source, hashlib.sha256(Path(source).read_bytes()).hexdigest())
    _check_target(table.frame, table.target)
    return table


def read_frame(path: str | Path) -> pd.DataFrame:
    """Read a CSV or Parquet file; the values of a CSV file stay text until a schema says what they are.

    Raises
    ------
    ValueError
        When there is no such file, or it is empty or no table.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a CSV or Parquet file in it")
    if not path.is_file():
        near = difflib.get_close_matches(str(path), BUNDLED, n=1)
        hint = f"; did you mean the bundled {near[0]!r}?" if near else f" (bundled data sets: {', '.join(BUNDLED)})"
        raise ValueError(f"there is no file {path}{hint}")
    content = path.read_bytes()
    if not content.strip():
        raise ValueError(f"{path} is empty")
    if content[:4] == b"PAR1":
        try:
            frame = pd.read_parquet(io.BytesIO(content))
        except Exception as error:  # pyarrow raises errors of many kinds
            raise ValueError(f"{path} is a damaged Parquet file: {error}") from None
    else:
        frame = _read_csv(path, content)
    frame.columns = [str(name).strip() for name in frame.columns]
    _check_names(frame)
    if frame.empty:
        raise ValueError(f"{path} has no rows below its names")
    return frame


def lacks_target(frame: pd.DataFrame, target: str) -> pd.Series:
    """Whether each row lacks its target (N,)."""
    _check_target(frame, target)
    return _absent(frame[target])


def drop_missing_targets(frame: pd.DataFrame, target: str) -> tuple[pd.DataFrame, int]:
    """The rows that have a target, and the number of those that have none."""
    absent = lacks_target(frame, target)
    if absent.all():
        raise ValueError(f"target {target!r} has no values")
    if len(frame) - absent.sum() == 1:
        raise ValueError("the table has one row with a target, but needs one to learn from and one to be judged by")
    return frame.loc[~absent].reset_index(drop=True), int(absent.sum())


def _read_csv(path: Path, content: bytes) -> pd.DataFrame:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if "\0" in text:
        raise ValueError(f"{path} is neither a CSV nor a Parquet file: it holds binary data")
    separator = _separator(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # that values are about to be dropped
            frame = pd.read_csv(
                io.StringIO(text),
                sep=separator,
                dtype=str,
                keep_default_na=False,
                skipinitialspace=True,
                index_col=False,
            )
    except pd.errors.ParserWarning:
        raise ValueError(f"{path} is no CSV file: its rows hold more values than its first row has names") from None
    except ValueError as error:  # as all of the reader's errors are
        raise ValueError(f"{path} is no CSV file: {' '.join(str(error).split())}") from None
    if len(frame.columns) < 2:
        raise ValueError(
            f"{path} is no CSV file of several columns: nothing in its lines is separated by a comma, semicolon or tab"
        )
    return frame if separator == "," else _with_points(frame)


def _separator(text: str) -> str:
    """What stands between the values of a row."""
    lines = text.splitlines()
    in_names = [x for x in _SEPARATORS if x in "".join(lines[:1])]
    if len(in_names) == 1:  # in the rows there may be decimal commas too
        return in_names[0]
    try:
        return csv.Sniffer().sniff("\n".join(lines[:50]), delimiters=_SEPARATORS).delimiter
    except csv.Error:
        return ","


def _with_points(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with 1234.5 where its numbers are written 1.234,5; as it is where a column has numbers with a point."""
    texts = {name: _text(frame[name]) for name in frame.columns}
    present = {name: text[text.ne("")] for name, text in texts.items()}
    if any(_parses(text) and text.str.contains(".", regex=False).any() for text in present.values()):
        return frame
    for name, text in present.items():
        if len(text) and text.str.contains(",").any() and text.str.fullmatch(_DECIMAL_COMMA).all():
            frame[name] = texts[name].str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
    return frame


def _check_target(frame: pd.DataFrame, target: str) -> None:
    if target not in frame.columns:
        names = [str(name) for name in frame.columns]
        near = difflib.get_close_matches(str(target), names, n=1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else f"the columns are {', '.join(names[:12])}" + (", …" if len(names) > 12 else "")
        )
        raise ValueError(f"there is no column {target!r} to predict; {hint}")
    _check_names(frame[[target]])


def _check_names(frame: pd.DataFrame) -> None:
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise ValueError(f"there are {sum(frame.columns == twice[0])} columns of the name {twice[0]!r}; rename them")


def _column(values: pd.Series, name: str, rows: NDArray[np.intp], weight: Array) -> Any:
    """What a column is."""
    text = _text(values) if not _is_number(values) and not _is_date(values) else None
    present = values.notna() if text is None else text.ne("")
    if not present.any():
        return IgnoredColumn(name=name, reason="it has no values")
    if (values[present] if text is None else text[present]).nunique() == 1 and present.all():
        return IgnoredColumn(name=name, reason="it is constant")
    if _is_number(values) or (text is not None and not _is_bool(values) and _parses(text)):
        return _number_column(_numbers(values, name), name, rows, weight)
    for day_first in (False, True):
        dates = _dates(values, day_first)
        if dates is not None:
            return _date_column(dates, name, day_first, rows, weight)
    assert text is not None
    return _category_column(text, name, weight)


def _number_column(numbers: Array, name: str, rows: NDArray[np.intp], weight: Array) -> NumberColumn:
    learnt, weight = numbers[rows], weight[rows]
    absent = np.isnan(learnt)
    fill = 0.0 if absent.all() else weighted_median(learnt[~absent], weight[~absent])
    filled = np.where(absent, fill, learnt)
    return NumberColumn(
        name=name,
        mean=float(np.average(filled, weights=weight)),
        scale=_scale(filled, weight),
        fill=fill,
        missing=bool(absent.any()),
    )


def _date_column(dates: pd.Series, name: str, day_first: bool, rows: NDArray[np.intp], weight: Array) -> DateColumn:
    absent = dates.iloc[rows].isna().to_numpy()
    dated = rows[~absent] if not absent.all() else np.flatnonzero(dates.notna())
    seen, weight = dates.iloc[dated], weight[dated]
    seconds = _seconds(seen)
    fill = weighted_median(seconds, weight)
    cycles: list[Any] = [cycle for cycle in _CYCLES if len(np.unique(np.floor(_phase(seen, cycle)))) > 1]
    return DateColumn(
        name=name,
        mean=float(np.average(seconds, weights=weight)),
        scale=_scale(seconds, weight),
        fill=fill,
        missing=bool(absent.any()),
        cycles=cycles,
        day_first=day_first,
    )


def _category_column(text: pd.Series, name: str, weight: Array) -> CategoryColumn | IgnoredColumn:
    counts = pd.Series(weight).groupby(text.to_numpy(), sort=False).sum().sort_values(ascending=False, kind="stable")
    count = max(len(text), int(weight.sum()))  # weights may be shares of one, and yet no row is less than a row
    if len(counts) > max(20, count // 2):
        share = pd.to_numeric(text[text.ne("")], errors="coerce").notna().mean()
        example = next((v for v in text if v and not _parses(pd.Series([v]))), "")
        numbers = f"; {share:.0%} are numbers, but not {example!r}" if share > 0.5 else ""
        return IgnoredColumn(name=name, reason=f"nearly every row has its own text, as an identifier has{numbers}")
    kept = sorted(counts.index[:_MOST_LEVELS])
    return CategoryColumn(name=name, levels=kept, rare=max(0, len(counts) - _MOST_LEVELS))


def _target(values: pd.Series, name: str, task: Task | None, rows: NDArray[np.intp]) -> Target:
    """What the target is; every row has one."""
    numeric = _is_number(values) or (not _is_bool(values) and not _is_date(values) and _parses(_text(values)))
    labels = _labels(values)
    distinct = sorted(set(labels), key=lambda v: (isinstance(v, str), v))
    if len(distinct) == 1:
        raise ValueError(f"target {name!r} is constant ({distinct[0]}): there is nothing to learn")
    whole = numeric and all(isinstance(label, int) for label in distinct)
    if task is None:
        if not numeric:
            task, reason = "classification", "the target is no number"
        elif whole and len(distinct) <= _FEW_VALUES:
            task, reason = "classification", f"the target has {len(distinct)} different whole numbers"
        else:
            task, reason = "regression", "the target is a number"
    else:
        reason = "given"
    if task == "regression":
        if not numeric:
            raise ValueError(
                f"target {name!r} must hold numbers for regression, but {_example(values)!r} is none; "
                "leave out the task, or choose classification"
            )
        numbers = _numbers(values, name)[rows]
        scale = _scale(numbers, np.ones(len(numbers)))
        return Target(name=name, task=task, reason=reason, mean=float(numbers.mean()), scale=scale)
    counts = pd.Series(labels, dtype=object).value_counts()
    single = [label for label in distinct if counts[label] < 2]
    if single:
        raise ValueError(
            f"class {single[0]!r} of target {name!r} has one row, but a class needs two, one to learn from "
            "and one to be judged by; give it more rows, drop it" + (", or choose regression" if numeric else "")
        )
    return Target(name=name, task=task, reason=reason, classes=distinct)


def _labels(values: pd.Series) -> list[Label]:
    """Class labels as Python values: whole numbers as int, other numbers as float, truth as bool, the rest as text."""
    if _is_bool(values):
        return [bool(value) for value in values]
    if _is_number(values) or (not _is_date(values) and _parses(_text(values))):
        written = values if _is_number(values) else _text(values)
        return [_label(*pair) for pair in zip(written, _numbers(values, str(values.name)), strict=True)]
    return list(_text(values))


def _label(written: Any, number: float) -> Label:
    """A whole number as int, to its last digit, another as float."""
    if not number.is_integer():
        return float(number)
    try:
        return int(written)
    except ValueError:  # text such as '2.0'
        return int(number)


def _numbers(values: pd.Series, name: str) -> Array:
    """As float64, NaN where missing."""
    if _is_number(values) or _is_bool(values):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        text = _text(values)
        numbers = pd.to_numeric(text.mask(text.eq("")), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        wrong = text[np.isnan(numbers) & text.ne("").to_numpy()]
        if len(wrong):
            raise ValueError(f"column {name!r} must hold numbers, as it did in training, but {wrong.iloc[0]!r} is none")
    beyond = np.flatnonzero(np.abs(numbers) > _LARGEST)
    if len(beyond):
        extent = "infinite" if np.isinf(numbers[beyond[0]]) else f"{numbers[beyond[0]]:g}, too large for arithmetic,"
        raise ValueError(
            f"column {name!r} is {extent} in row {beyond[0] + 1} (of {len(beyond)} such); "
            "replace it by a number, or leave it empty"
        )
    return numbers


def _dates(values: pd.Series, day_first: bool) -> pd.Series | None:
    """As UTC times, NaT where missing; None where a value is no date."""
    if _is_date(values):
        return pd.to_datetime(values, utc=True).astype(_INSTANT)
    if (_is_number(values) or _is_bool(values)) and values.notna().any():
        return None
    text = _text(values)
    parts = text.str.extract(_DATE).astype("string")  # not objects, which older pandas makes numbers of
    day, month = (parts["first"], parts["second"]) if day_first else (parts["second"], parts["first"])
    date = [parts["year"].fillna(parts["last"]), parts["month"].fillna(month), parts["day"].fillna(day)]
    iso = date[0] + "-" + date[1].str.zfill(2) + "-" + date[2].str.zfill(2) + parts["clock"].fillna("")
    dates = pd.to_datetime(iso, errors="coerce", utc=True, format="ISO8601")
    return None if dates[text.ne("")].isna().any() else dates.astype(_INSTANT)


def _seconds(dates: pd.Series) -> Array:
    return dates.astype("int64").to_numpy(np.float64) / 1e6


def _phase(dates: pd.Series, cycle: str) -> Array:
    """Where in its cycle a date is: months from January, days from Monday, hours from midnight."""
    if cycle == "month":
        return (dates.dt.month - 1 + (dates.dt.day - 1) / 31).to_numpy(np.float64)
    if cycle == "weekday":
        return dates.dt.day_of_week.to_numpy(np.float64)
    return (dates.dt.hour + dates.dt.minute / 60).to_numpy(np.float64)


def _text(values: pd.Series) -> pd.Series:
    """As stripped text, empty where missing."""
    text = values.astype(object).where(values.notna(), "").map(str).str.strip()
    return text.mask(text.str.lower().isin(MISSING), "").astype(object)


def _absent(values: pd.Series) -> pd.Series:
    """Whether each value is missing."""
    return values.isna() | _text(values).eq("")


def _parses(text: pd.Series) -> bool:
    """Whether all that is there is numbers."""
    present = text[text.ne("")]
    return len(present) > 0 and bool(pd.to_numeric(present, errors="coerce").notna().all())


def _is_bool(values: pd.Series) -> bool:
    return pd.api.types.is_bool_dtype(values)


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not _is_bool(values)


def _is_date(values: pd.Series) -> bool:
    return pd.api.types.is_datetime64_any_dtype(values)


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


def _scale(numbers: Array, weight: Array) -> float:
    """The standard deviation, or 1 where it is nothing but rounding."""
    mean = np.average(numbers, weights=weight)
    scale = float(np.sqrt(np.average(np.square(numbers - mean), weights=weight)))
    return scale if scale > 1e-12 * max(1e-300, float(np.abs(numbers).max())) else 1.0


def _example(values: pd.Series) -> Any:
    """A value that is no number."""
    text: Sequence[str] = list(_text(values))
    return next((v for v in text if v and not _parses(pd.Series([v]))), text[0] if len(text) else "")
