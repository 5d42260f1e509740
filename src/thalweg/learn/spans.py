"""Spans of time: text that says one, such as 3 days, 01:23:45 or PT4M13S, as a number of seconds."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd

from .values import (
    Array,
    a_few,
    bare_text,
    floats,
    is_bool,
    is_date,
    is_duration,
    is_number,
    no_number,
    numbers_of,
    says_numbers,
)

_NUMBER = r"\d+(?:\.\d+)?"
_CLOCK = r"(?P<hours>\d+):(?P<minutes>[0-5]\d):(?P<seconds>[0-5]\d(?:\.\d+)?)"
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"(?P<sign>[+-])?{_CLOCK}",
        rf"\+?(?P<days>\d+) days? \+?{_CLOCK}",
        rf"(?P<days>[+-]?\d+) days?(?:, | \+){_CLOCK}",  # of a negative one pandas and Python add the time to the days
        rf"(?P<sign>[+-])?P(?:(?P<weeks>-?{_NUMBER})W)?(?:(?P<days>-?{_NUMBER})D)?"
        rf"(?:T(?:(?P<hours>-?{_NUMBER})H)?(?:(?P<minutes>-?{_NUMBER})M)?(?:(?P<seconds>-?{_NUMBER})S)?)?",
        rf"(?P<sign>[+-])?(?:(?P<weeks>{_NUMBER}) ?(?:weeks?|wks?))?[ ,]*(?:(?P<days>{_NUMBER}) ?days?)?[ ,]*"
        rf"(?:(?P<hours>{_NUMBER}) ?(?:hours?|hrs?))?[ ,]*(?:(?P<minutes>{_NUMBER}) ?(?:minutes?|mins?))?[ ,]*"
        rf"(?:(?P<seconds>{_NUMBER}) ?(?:seconds?|secs?))?",
        # a letter alone may be of metres, or of the 80s, but not beside another
        rf"(?P<sign>[+-])?(?=(?:{_NUMBER} ?[dhms] ?){{2}})(?:(?P<days>{_NUMBER}) ?d)? ?(?:(?P<hours>{_NUMBER}) ?h)? ?"
        rf"(?:(?P<minutes>{_NUMBER}) ?m)? ?(?:(?P<seconds>{_NUMBER}) ?s)?",
    )
)
_SECONDS = {"weeks": 604_800.0, "days": 86_400.0, "hours": 3_600.0, "minutes": 60.0, "seconds": 1.0}


def seconds_in(text: str) -> float:
    """The seconds of a span that text says in one way only, NaN where it says none.

    Examples
    --------
    >>> [seconds_in(text) for text in ("3 days", "1 day, 2:00:00", "01:23:45", "1.5 hours", "PT4M13S", "2h 5m")]
    [259200.0, 93600.0, 5025.0, 5400.0, 253.0, 7500.0]
    >>> [seconds_in(text) for text in ("14:30", "5 m", "80s", "5", "P", "1 month", "-1 days 23:00:00")]
    [nan, nan, nan, nan, nan, nan, nan]
    """
    for form in _FORMS:
        found = form.fullmatch(text)
        if found:
            parts = found.groupdict()
            sign = -1.0 if parts.pop("sign", None) == "-" else 1.0
            told = [float(number) * _SECONDS[unit] for unit, number in parts.items() if number is not None]
            if told:
                return sign * math.fsum(told)
    return math.nan


def says_spans(values: pd.Series) -> bool:
    """Whether all that is there is spans of time, or text that says them."""
    if is_duration(values):
        return True
    if is_number(values) or is_bool(values) or is_date(values):
        return False
    for part in (a_few(values), values):  # most text is soon seen to be none
        seconds = _seconds(part)
        if no_number(part, seconds) is not None:
            return False
    return not np.isnan(seconds).all()


def amounts_of(values: pd.Series, name: str, *, spans: bool) -> Array:
    """Numbers as float64, or spans of time as seconds, NaN where missing; a number among spans is one of seconds.

    Raises
    ------
    ValueError
        When a value is none, or one that cannot be computed with.
    """
    if not spans or says_numbers(values):
        return numbers_of(values, name)
    seconds = _seconds(values)
    wrong = no_number(values, seconds)
    if wrong is not None:
        raise ValueError(
            f"column {name!r} must hold spans of time such as 3 days or 01:23:45, as it did in training, but {wrong!r} "
            "is none"
        )
    return seconds


def _seconds(values: pd.Series) -> Array:
    """As seconds, NaN where missing or no span."""
    if is_duration(values):
        return floats(values)
    text = bare_text(values)
    known = {word: seconds_in(word) for word in text.unique()}
    return text.map(known).to_numpy(dtype=np.float64)
