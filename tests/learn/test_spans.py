"""Text that says a span of time is a number of seconds."""

import datetime
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.learn.data import Schema
from thalweg.learn.spans import says_spans, seconds_in


@given(st.timedeltas(datetime.timedelta(days=-9999), datetime.timedelta(days=9999)))
def test_python_s_and_pandas_own_words_are_read_back(span):
    assert seconds_in(str(span)) == pytest.approx(span.total_seconds(), abs=1e-6)
    assert seconds_in(str(pd.Timedelta(span))) == pytest.approx(span.total_seconds(), abs=1e-6)
    assert seconds_in(pd.Timedelta(span).isoformat()) == pytest.approx(span.total_seconds(), abs=1e-6)


@pytest.mark.parametrize(
    "text",
    ["3 days", "+3 DAYS", "01:23:45", "25:30:00.5", "1 day 02:00:00", "5 min", "1 day 3 hours", "2h 5m"],
)
def test_what_pandas_reads_is_read_as_pandas_reads_it(text):
    assert seconds_in(text) == pd.Timedelta(text).total_seconds()


@pytest.mark.parametrize(
    "text",
    ["", "5", "14:30", "1:60:00", "5 m", "80s", "5 kg", "1 month", "P", "PT", "P1Y", "1,5 days", "2:30:00 PM"],
)
def test_what_could_be_something_else_is_none(text):
    assert np.isnan(seconds_in(text))


def table(rows=40):
    rng = np.random.default_rng(0)
    minutes = rng.integers(1, 3000, rows)
    waited = [str(datetime.timedelta(minutes=int(n))) for n in minutes]
    frame = pd.DataFrame({"waited": waited, "x": rng.normal(size=rows), "y": rng.normal(size=rows)})
    frame.loc[3, "waited"] = "-"
    return pd.read_csv(io.StringIO(frame.to_csv(index=False)), dtype=str), minutes


def test_a_column_of_spans_is_a_number_of_seconds_whichever_way_it_is_written():
    frame, minutes = table()
    schema = Schema.model_validate_json(Schema.learn(frame, "y").model_dump_json())
    assert schema.columns[0].describe() == "span of time, in seconds, with missing values"
    assert schema.columns[0].mean == pytest.approx(
        np.where(np.arange(40) == 3, np.median(np.delete(minutes, 3)), minutes).mean() * 60
    )
    features = schema.features(frame)
    for other in (pd.to_timedelta(minutes, unit="min"), [f"{n} minutes" for n in minutes], minutes * 60):
        same = schema.features(frame.assign(waited=other))
        np.testing.assert_allclose(np.delete(same, 3, axis=0), np.delete(features, 3, axis=0))
    with pytest.raises(ValueError, match=r"'waited' must hold spans of time such as 3 days .* but 'soon' is none"):
        schema.features(frame.assign(waited="soon"))


def test_spans_where_numbers_were_are_refused():
    """Nobody says which unit these had."""
    frame, _ = table()
    with pytest.raises(ValueError, match="'x' must hold numbers, as it did in training, but '3 days' is none"):
        Schema.learn(frame, "y").features(frame.assign(x="3 days"))


def test_a_column_that_is_not_all_spans_is_none():
    assert not says_spans(pd.Series(["3 days", "5"]))
    assert not says_spans(pd.Series(["01:23:45", "14:30"]))
    assert not says_spans(pd.Series(["", "NA"]))
    assert says_spans(pd.Series(["3 days", "", None, "NA"]))


def test_a_target_of_spans_is_a_number_of_seconds_and_a_few_are_classes():
    frame, minutes = table()
    frame = frame.drop(index=3)
    target = Schema.learn(frame, "waited").target
    assert "as the target is a span of time, in seconds" in target.describe()
    np.testing.assert_allclose(target.decode(target.encode(frame["waited"])), np.delete(minutes, 3) * 60)
    few = frame.assign(waited=["1 day" if n % 2 else "3 days" for n in range(39)])
    target = Schema.learn(few, "waited").target
    assert (target.task, target.classes) == ("classification", ["1 day", "3 days"])
    assert target.encode(few["waited"]).tolist() == [1, 0] * 19 + [1]
