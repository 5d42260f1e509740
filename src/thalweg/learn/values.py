"""Values of one column of a table: text, numbers, dates, and what stands for none."""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]
Label: TypeAlias = bool | int | float | str

MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "?", "<na>", "nat"})
"""What stands for no value in a CSV file, which has no other way to say so, in any case of letters."""

BESIDE_NUMBERS = MISSING | {"none", "-"}
"""What stands for no value beside numbers and dates; among words `none` and `-` are words."""

LARGEST: Final = 1e150
"""The largest number to compute with: the square of a larger one overflows."""

FARTHEST: Final = 1e30
"""The most standard deviations to compute with: float32, which models are trained in, ends at 3e38."""

_ROUNDING = 1e-14  # a hundred times by how much a number is rounded, beside itself

_DATE = (
    r"^(?:(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})"
    r"|(?P<first>\d{1,2})[-/.](?P<second>\d{1,2})[-/.](?P<last>\d{4}))(?P<clock>[T ].*)?$"
)
_OF_12_HOURS = re.compile(r"^[T ] *(?P<hour>0?[1-9]|1[0-2])(?P<rest>(?::\d{2}){0,2}(?:\.\d+)?) ?(?P<half>[AaPp])[Mm]$")
_NEARLY_ALL = 0.9
_TIME = r"\d{1,2}(?::\d{2}){1,2}(?:\.\d+)?(?: ?[AaPp]\.?[Mm]\.?)?"
_LIKE_DATE = (  # 2 Jan 2024, Jan 2, 2024, 2/1/24, 2024-01, 01/2024, with a day of the week before and a time after
    r"^(?:[^\W\d]{2,10}[.,]{0,2} )?"
    r"(?:\d{1,2}(?:st|nd|rd|th|\.)?[ /-]?[^\W\d]{3,9}\.?[ /,-]{0,2}(?:\d{2}|\d{4})"
    r"|[^\W\d]{3,9}\.? \d{1,2}(?:st|nd|rd|th)?,? \d{4}"
    r"|(?:\d{2}|\d{4})[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](?:\d{2}|\d{4})"
    r"|\d{4}[-/]\d{1,2}|\d{1,2}[-/]\d{4})"
    rf"(?:[T ,]+{_TIME}.*)?$"
)
_MARKED = r"^[+-]?\d{1,3}(?:[ .,'’\u00a0\u202f]?\d{3})*(?:[.,]\d+)?$"
_MEASURED = r"^[+-]?(?P<before>[$€£¥₹₩₽])? ?[+-]?\d[\d., ]*(?P<after>[^\d\s.,:/-].{0,11})?$"
_WHOLE = re.compile(r"(-?\d+)(?:\.0)?")
_CODE = r"[+-]?0\d"  # how a number does not begin
_INSTANT: Final = "datetime64[us, UTC]"


def is_bool(values: pd.Series) -> bool:
    """Whether it is of truth values."""
    return pd.api.types.is_bool_dtype(values)


def is_number(values: pd.Series) -> bool:
    """Whether it is of numbers, not of text that says them."""
    return pd.api.types.is_numeric_dtype(values) and not is_bool(values)


def is_duration(values: pd.Series) -> bool:
    """Whether it is of spans of time, which are numbers of seconds."""
    return values.dtype.kind == "m"


def is_date(values: pd.Series) -> bool:
    """Whether it is of dates, not of text that says them."""
    return pd.api.types.is_datetime64_any_dtype(values)


def is_category(values: pd.Series) -> bool:
    """Whether who made the table said that it is of categories."""
    return isinstance(values.dtype, pd.CategoricalDtype)


def says_numbers(values: pd.Series) -> bool:
    """Whether all that is there is numbers, or text that says them."""
    if is_number(values) or is_duration(values):
        return True
    if is_bool(values) or is_date(values):
        return False
    numbers = floats(values)
    return not np.isnan(numbers).all() and no_number(values, numbers) is None


def text_of(values: pd.Series) -> pd.Series:
    """As stripped text, empty where missing."""
    return values.astype(object).where(values.notna(), "").map(str).str.strip().astype(object)


def bare_text(values: pd.Series) -> pd.Series:
    """As text, empty where missing or where a word stands for that, as beside numbers and dates."""
    text = text_of(values)
    return text.mask(text.str.lower().isin(BESIDE_NUMBERS), "").astype(object)


def floats(values: pd.Series) -> Array:
    """As float64, NaN where missing or no number."""
    if values.dtype.kind == "c":
        raise ValueError(
            f"column {values.name!r} holds complex numbers; give their real and imaginary parts as columns of their own"
        )
    if is_number(values) or is_bool(values):
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    if is_duration(values):
        return values.dt.total_seconds().to_numpy(dtype=np.float64, na_value=np.nan)
    # what pandas cannot read is NaN, and so is what stands for none; text is read as it is, whatever else by its words
    text = values.str.strip() if pd.api.types.infer_dtype(values, skipna=True) == "string" else text_of(values)
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    found = ~np.isnan(numbers)
    numbers[found] = text[found].astype(np.float64)  # before pandas 3, the others may be off in their last digit
    return numbers


def numbers_of(values: pd.Series, name: str) -> Array:
    """As float64, NaN where missing.

    Raises
    ------
    ValueError
        When a value is no number, or one that cannot be computed with.
    """
    return sound(floats(values), values, name)


def sound(numbers: Array, values: pd.Series, name: str) -> Array:
    """Values as the float64 that `floats` made of them, if all are numbers to compute with; see `numbers_of`."""
    wrong = no_number(values, numbers)
    if wrong is not None:
        raise ValueError(f"column {name!r} must hold numbers, as it did in training, but {wrong!r} is none")
    beyond = np.flatnonzero(np.abs(numbers) > LARGEST)
    if len(beyond):
        extent = "infinite" if np.isinf(numbers[beyond[0]]) else f"{numbers[beyond[0]]:g}, too large for arithmetic,"
        raise ValueError(
            f"column {name!r} is {extent} in row {beyond[0] + 1} (of {len(beyond)} such); "
            "replace it by a number, or leave it empty"
        )
    return numbers


def unit_of(numbers: NDArray[Any]) -> Any:
    """What numbers (N, …) are to be divided by before they are squared (…): 1, or a power of two for tiny ones.

    Squares of numbers below 1e-154 lose their digits, and then are 0. A power of two changes no digit.

    Examples
    --------
    >>> unit_of(np.array([[1.0, 0.0, 3e-200], [-2.0, 0.0, 1e-200]])) == [1.0, 1.0, 2.0**-662]
    array([ True,  True,  True])
    """
    largest = np.abs(numbers).max(axis=0)
    return np.where((largest > 0) & (largest < 1e-100), np.ldexp(1.0, np.frexp(largest)[1]), 1.0)


def centre_and_scale(numbers: NDArray[Any], weight: Array) -> tuple[Any, Any]:
    """The mean and the standard deviation (…) of numbers (N, …) that count as often as `weight` (N,) says.

    A deviation that is nothing but rounding is 1 instead.

    Examples
    --------
    >>> mean, scale = centre_and_scale(np.array([[1e12, 0.3], [1e12 + 0.5, 0.1 + 0.2]]), np.ones(2))
    >>> mean[0].item(), scale.tolist()
    (1000000000000.25, [0.25, 1.0])
    """
    unit, largest = unit_of(numbers), np.abs(numbers).max(axis=0)
    mean = np.average(numbers.astype(np.float64, copy=False), axis=0, weights=weight)
    rest = numbers - mean
    slip = np.average(rest, axis=0, weights=weight)  # of a mean that is large beside the deviations
    mean, rest = mean + slip, (rest - slip) / unit
    scale = unit * np.sqrt(np.average(np.square(rest, out=rest), axis=0, weights=weight))
    return mean, np.where(scale > _ROUNDING * largest, scale, 1.0)


def standardised(numbers: NDArray[Any], mean: ArrayLike, scale: ArrayLike) -> NDArray[Any]:
    """Numbers in standard deviations, in their own dtype; those beyond a tiny one by far are as many as float32 takes.

    Examples
    --------
    >>> standardised(np.array([1.0, 3.0, 1e20]), 1.0, 2.0), standardised(np.array([1e20]), 0.0, 1e-300)
    (array([0.e+00, 1.e+00, 5.e+19]), array([1.e+30]))
    """
    mean, scale = np.asarray(mean, numbers.dtype), np.asarray(scale, numbers.dtype)
    with np.errstate(over="ignore"):
        return np.clip((numbers - mean) / scale, -FARTHEST, FARTHEST)


def no_number(values: pd.Series, numbers: Array) -> str | None:
    """The first value that is there though its number is missing."""
    if is_number(values) or is_bool(values) or is_duration(values) or not np.isnan(numbers).any():
        return None
    text = bare_text(values[np.isnan(numbers)])  # a few of the rows as a rule, or all of them
    wrong = text[text.ne("")]
    return str(wrong.iloc[0]) if len(wrong) else None


def dates_of(values: pd.Series, day_first: bool) -> pd.Series:
    """As UTC times, NaT where missing or no date."""
    if is_date(values):
        return pd.to_datetime(values, utc=True).astype(_INSTANT)
    text = bare_text(values)
    parts = text.str.extract(_DATE).astype("string")  # not objects, which older pandas makes numbers of
    day, month = (parts["first"], parts["second"]) if day_first else (parts["second"], parts["first"])
    date = [parts["year"].fillna(parts["last"]), parts["month"].fillna(month), parts["day"].fillna(day)]
    clock = parts["clock"].fillna("").str.replace(r" ?(?:UTC|GMT)$", "Z", regex=True)
    clock = clock.str.replace(_OF_12_HOURS, _of_24_hours, regex=True)
    iso = date[0] + "-" + date[1].str.zfill(2) + "-" + date[2].str.zfill(2) + clock
    return pd.to_datetime(iso, errors="coerce", utc=True, format="ISO8601").astype(_INSTANT)


def _of_24_hours(found: re.Match[str]) -> str:
    """A time of day with AM or PM, counted from midnight."""
    return f" {int(found['hour']) % 12 + 12 * (found['half'] in 'pP'):02}{found['rest']}"


def no_date(values: pd.Series, dates: pd.Series) -> str | None:
    """The first value that is there though its date is missing."""
    if is_date(values):
        return None
    text = bare_text(values)
    wrong = text[text.ne("") & dates.isna()]
    return str(wrong.iloc[0]) if len(wrong) else None


def a_few(values: pd.Series) -> pd.Series:
    """About a thousand values from all over a column, which say what most of it is."""
    return values.iloc[:: 1 + len(values) // 1000]


def looks_like(values: pd.Series) -> str | None:
    """What nearly all of some text looks like that is read as text, and how to write it, if it looks like anything.

    Examples
    --------
    >>> looks_like(pd.Series(["5%", "12.5 %", ""]))
    "looks like numbers with '%': write the numbers alone"
    >>> looks_like(pd.Series(["02 Jan 2024", "3 February 2024"]))
    'looks like dates: write them as 2024-01-02'
    """
    text = a_few(bare_text(values))
    text = text[text.ne("")]
    if not len(text):
        return None
    for form, words in (
        (rf"^{_TIME}$", "times of day: write them as numbers, such as 14.5 hours"),
        (_LIKE_DATE, "dates: write them as 2024-01-02"),
        (_MARKED, "numbers: write them as 1234.5"),
    ):
        if text.str.match(form).mean() > _NEARLY_ALL:
            return f"looks like {words}"
    parts = text.str.extract(_MEASURED).fillna("").agg("".join, axis=1)
    units = parts[parts.ne("")].value_counts()
    if len(units) and units.iloc[0] > _NEARLY_ALL * len(text):
        return f"looks like numbers with {units.index[0]!r}: write the numbers alone"
    return None


def labels_of(values: pd.Series) -> list[Label]:
    """Class labels as Python values: whole numbers as int, other numbers as float, truth as bool, the rest as text.

    Text that is written as no number is, such as 007, is a code and stays as it is. So does text in which one number
    that is not whole has two names, as versions 3.1 and 3.10 have.

    Examples
    --------
    >>> labels_of(pd.Series(["3.1", "2.0", "2"])), labels_of(pd.Series(["3.1", "3.10"]))
    ([3.1, 2, 2], ['3.1', '3.10'])
    """
    if is_bool(values):
        return [bool(value) for value in values]
    if says_numbers(values) and (is_number(values) or not _are_codes(text_of(values))):
        return number_labels(values)
    return list(text_of(values))


def _are_codes(text: pd.Series) -> bool:
    """Whether text that says numbers names more than these."""
    if text.str.match(_CODE).any():
        return True
    numbers = floats(pd.Series(text.unique()))
    broken = numbers[numbers > np.floor(numbers)]
    return len(np.unique(broken)) < len(broken)


def number_labels(values: pd.Series) -> list[Label]:
    """The labels of values that are numbers, or text that says them."""
    written = values.to_numpy() if is_number(values) else bare_text(values)
    return [_label(*pair) for pair in zip(written, numbers_of(values, str(values.name)), strict=True)]


def _label(written: Any, number: float) -> Label:
    """A whole number as int, to its last digit, another as float, in as few digits as name it."""
    if not number.is_integer():
        return float(str(written)) if isinstance(written, np.floating) else float(number)
    try:
        return int(written)
    except ValueError:  # text such as '2.0'
        return int(number)


def like(text: pd.Series, known: list[str]) -> list[str]:
    """Text, with truth and whole numbers written as they are among what is known.

    Parquet's True is what a CSV file may call true, and 1 is 1.0 in a column of pandas where another row has none.

    Examples
    --------
    >>> like(pd.Series(["true", "1.0", "A", "b"]), ["1", "True", "a"])
    ['True', '1', 'A', 'b']
    """
    seen = set(known)
    spelt = {key: word for word in known if (key := _truth_or_whole(word))}
    words = {word: word if word in seen else spelt.get(_truth_or_whole(word), word) for word in text.unique()}
    return [words[word] for word in text]


def _truth_or_whole(word: str) -> str:
    """A word for truth, or a whole number, in one of the ways to write it; empty where it is neither."""
    if word.lower() in ("true", "false"):
        return word.lower()
    whole = _WHOLE.fullmatch(word)
    return whole[1] if whole else ""
