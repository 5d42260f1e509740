"""Tables: what is in them is found out once, kept, and asked for again."""

import datetime
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.learn.columns import CategoryColumn, DateColumn, learn_columns
from thalweg.learn.data import Schema, Target, drop_missing_targets
from thalweg.learn.values import dates_of

ROWS = 12
CODES = np.arange(ROWS) % 3


def table(**columns):
    """A frame of twelve rows, whose target is a class unless it says otherwise."""
    return pd.DataFrame({"kind": np.array(["a", "b", "c"])[CODES], **columns})


def learn(target="kind", task=None, **columns):
    frame = table(**columns)
    return Schema.learn(frame, target, task), frame


def column(values):
    """What a column of these values is."""
    return learn(x=values)[0].columns[0]


def again(schema):
    """The schema after JSON."""
    return Schema.model_validate_json(schema.model_dump_json())


NUMBERS = [float(x) for x in range(ROWS)]
WORDS = ["red", "green", "blue"] * 4
ISO = [f"2026-{month:02d}-28" for month in range(1, 13)]

SPELLINGS = ["", "NA", "n/a", "#N/A", "NaN", "null", "None", "?", "-", " nan ", "<NA>", "NaT"]

KINDS = [
    (NUMBERS, "number"),
    ([str(x) for x in NUMBERS], "number"),
    ([f" {x:e} " for x in NUMBERS], "number"),
    (np.arange(ROWS, dtype=np.uint8), "number"),
    (np.arange(ROWS, dtype=np.float16), "number"),
    (pd.array([1, 2, None, 4] * 3, dtype="Int64"), "number"),
    (pd.to_timedelta(NUMBERS, unit="h"), "number"),
    (pd.Series(pd.to_timedelta(NUMBERS, unit="h")).astype("duration[us][pyarrow]"), "number"),
    (pd.Categorical([1, 2, 3] * 4), "category"),
    (pd.Categorical(ISO[:6] * 2), "category"),
    (WORDS, "category"),
    (pd.Categorical(WORDS), "category"),
    (pd.array(WORDS, dtype="string"), "category"),
    ([True, False, False] * 4, "category"),
    (pd.array([True, None, False] * 4, dtype="boolean"), "category"),
    (["true", "False", "true"] * 4, "category"),
    (["1", "two", "3"] * 4, "category"),
    (ISO, "date"),
    ([f"28/{month:02d}/2026" for month in range(1, 13)], "date"),
    ([f"{month}/28/2026 {month}:05 AM" for month in range(1, 13)], "date"),
    ([f"{day} 07:05:00.5 UTC" for day in ISO], "date"),
    ([f"{day} 07:05 XM" for day in ISO], "category"),
    ([f"{day} 13:05 PM" for day in ISO], "category"),
    ([f"{month}/28/2026" for month in range(1, 13)], "date"),
    ([f"28.{month}.2026" for month in range(1, 13)], "date"),
    ([f"{day}T10:30:00Z" for day in ISO], "date"),
    (pd.to_datetime(ISO), "date"),
    (pd.to_datetime(ISO).tz_localize("Europe/Paris"), "date"),
    ([datetime.date.fromisoformat(day) for day in ISO], "date"),
    (["2026-02-30", *ISO[1:]], "category"),
    (["", " ", None] * 4, "ignored"),
    (["NA", "none", "-", "?"] * 3, "category"),  # words: what is missing in a data frame is missing
    (["7", "NA", "-", "7"] * 3, "number"),
    ([*ISO[:9], "NA", "-", "none"], "date"),
    ([None] * ROWS, "ignored"),
    ([np.nan] * ROWS, "ignored"),
    ([7] * ROWS, "ignored"),
    (["same"] * ROWS, "ignored"),
    (pd.to_datetime(["2026-01-01"] * ROWS), "ignored"),
]


class TestColumns:
    @pytest.mark.parametrize(("values", "role"), KINDS)
    def test_what_it_is(self, values, role):
        schema, frame = learn(x=values, other=NUMBERS)
        assert schema.columns[0].role == role
        features = schema.features(frame)
        assert features.shape == (ROWS, schema.n_inputs)
        assert np.isfinite(features).all()
        assert np.array_equal(again(schema).features(frame), features)
        assert schema.features(frame.iloc[:0]).shape == (0, schema.n_inputs)
        assert schema.features(pd.DataFrame({"x": [], "other": []})).shape == (0, schema.n_inputs)
        assert all(part.describe() for part in (*schema.columns, schema.target))

    @pytest.mark.parametrize(
        ("values", "hint"),
        [
            (
                [f"{n % 12:02}:{n % 60:02}" for n in range(60)],
                "times of day: write them as numbers, such as 14.5 hours",
            ),
            ([f"{n % 12}:{n % 60:02}:30 PM" for n in range(60)], "times of day"),
            ([f"{n % 28 + 1:02} Jan {1960 + n}" for n in range(60)], "dates: write them as 2024-01-02"),
            ([f"March {n % 28 + 1}, {1960 + n}" for n in range(60)], "dates"),
            ([f"{n % 28 + 1}/{n % 12 + 1}/{n + 10}" for n in range(60)], "dates"),
            ([f"{1960 + n}-{n % 12 + 1:02}" for n in range(60)], "dates"),
            ([f"{n} {n + 100}" for n in range(60)], "numbers: write them as 1234.5"),
            ([f"{n},5" for n in range(60)], "numbers: write them as 1234.5"),
            ([f"${n}.50" for n in range(60)], "numbers with '$': write the numbers alone"),
            ([f"{n},5 €" for n in range(60)], "numbers with '€'"),
            ([f"{n}%" for n in range(59)] + ["unknown"], "numbers with '%'"),
            ([f"-{n}.5 kg" for n in range(57)] + ["", "NA", "-"], "numbers with 'kg'"),
        ],
    )
    def test_text_that_looks_like_something_else_says_how_to_write_it(self, values, hint):
        target = np.arange(len(values)) % 2
        few = Schema.learn(pd.DataFrame({"x": values, "n": np.arange(len(values)), "y": target}), "y")
        assert few.columns[0].role == "ignored"
        assert f"as an identifier has; looks like {hint}" in few.columns[0].describe()
        some = pd.DataFrame({"x": values[:30] * 2, "y": target[:60]})
        assert f"; looks like {hint}" in Schema.learn(some, "y").columns[0].describe()
        many = pd.DataFrame({"x": values * 20, "y": np.tile(target, 20)})
        assert f"count as unseen; looks like {hint}" in again(Schema.learn(many, "y")).columns[0].describe()
        with pytest.raises(ValueError, match=r"has one row.*the column looks like"):
            Target.learn(pd.Series(values, name="x"))
        assert f"no number (the column looks like {hint}" in Target.learn(pd.Series(values * 2, name="x")).describe()
        with pytest.raises(ValueError, match=r"must hold numbers for regression.*the column looks like"):
            Target.learn(pd.Series(values, name="x"), "regression")

    @pytest.mark.parametrize("form", ["A{}", "{}a{}", "192.168.0.{}", "{}-{}", "No. {}", "{} {}", "1.2.{}x{}"])
    def test_identifiers_look_like_nothing_else(self, form):
        names = [form.format(n, n + 1) for n in range(60)]
        schema = Schema.learn(pd.DataFrame({"x": names, "n": np.arange(60), "y": np.arange(60) % 2}), "y")
        assert schema.columns[0].describe().endswith("as an identifier has")

    @pytest.mark.parametrize(
        ("change", "squeezed"),
        [
            ({}, None),
            (dict.fromkeys(range(0, 400, 10), -999), "-999 in 40"),
            (dict.fromkeys(range(150), 9999), "9999 in 150"),
            ({3: 1e6}, "1000000 in 1"),
            ({3: -999, 5: 99999, 7: -999}, "99999 in 1 and -999 in 2"),
            ({3: 250, 5: -150}, None),  # ten standard deviations, and hardly any matter to the others
            ({n: float(n > 395) for n in range(400)}, None),  # a mark that few rows have
            ({n: max(0.0, n - 370.0) for n in range(400)}, None),  # most are 0
        ],
    )
    def test_values_that_squeeze_the_others_are_named(self, change, squeezed):
        numbers = pd.Series(np.random.default_rng(0).normal(50, 10, 400))
        numbers.loc[list(change)] = list(change.values())
        frame = pd.DataFrame({"x": numbers.sample(frac=1, random_state=0).to_numpy(), "y": np.arange(400) % 2})
        schema = Schema.learn(frame, "y")
        assert schema.squeezed(schema.features(frame)) == ({} if squeezed is None else {"x": squeezed})

    @pytest.mark.parametrize("far", ["9999-12-31", "1900-01-01"])
    def test_dates_that_squeeze_the_others_are_named(self, far):
        days = pd.Series(pd.date_range("2024-01-01", periods=400).strftime("%Y-%m-%d"))
        target = pd.Series(np.arange(400) % 2, name="y")
        for rows, squeezed in (([], {}), ([3, 8], {"x": f"{far} in 2"})):
            frame = pd.DataFrame({"z": np.arange(400) % 7, "x": days.mask(days.index.isin(rows), far), "y": target})
            schema = Schema.learn(frame, "y")
            assert schema.squeezed(schema.features(frame)) == squeezed

    def test_dates_that_are_nearly_all_some_say_which_is_none(self):
        values = [f"28/{n % 12 + 1}/{1960 + n}" for n in range(59)] + ["30/02/2020"]
        schema = Schema.learn(pd.DataFrame({"x": values, "n": np.arange(60), "y": np.arange(60) % 2}), "y")
        assert schema.columns[0].describe().endswith("; 98% are dates, but not '30/02/2020'")

    def test_numbers_are_standardised(self):
        schema, frame = learn(x=NUMBERS)
        features = schema.features(frame)
        assert features.mean() == pytest.approx(0, abs=1e-15)
        assert features.std() == pytest.approx(1, rel=1e-14)
        assert np.allclose(features[:, 0], (np.arange(12) - 5.5) / np.arange(12).std(), rtol=1e-14)

    def test_numbers_whose_squares_are_zero_are_standardised_too(self):
        known, _ = learn(target="x", x=[n / 3 for n in NUMBERS], size=[n / 7 for n in NUMBERS])
        unit = 2.0**-700
        small, frame = learn(target="x", x=[unit * n / 3 for n in NUMBERS], size=[unit * n / 7 for n in NUMBERS])
        assert small.target.scale == unit * known.target.scale
        assert small.columns[1].scale == unit * known.columns[1].scale
        assert np.isfinite(again(small).features(frame)).all()
        assert small.features(pd.DataFrame({"kind": ["a"], "size": [-1e20]}))[0, -1] == -1e30

    @pytest.mark.parametrize("spelling", [*SPELLINGS, None, np.nan])
    def test_a_missing_number_is_the_median_and_a_flag(self, spelling):
        schema, frame = learn(x=[spelling, "10", "20", "90", *["20"] * 8])
        known, flag = schema.features(frame).T
        assert schema.columns[0].fill == 20
        assert known[0] == known[2] != known[1]
        assert flag.tolist() == [1.0] + [0.0] * 11

    def test_a_number_that_goes_missing_later_is_the_median_without_a_flag(self):
        schema, _ = learn(x=NUMBERS)
        for absent in ([None], [""], [np.nan], ["NA"]):
            assert schema.features(pd.DataFrame({"x": absent})).tolist() == [[0.0]]

    def test_categories_are_one_of_their_columns(self):
        schema, frame = learn(x=WORDS)
        assert schema.columns[0].levels == ["blue", "green", "red"]
        assert np.array_equal(schema.features(frame), np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]] * 4))

    def test_a_category_that_was_not_seen_is_zero_in_all_columns(self):
        schema, _ = learn(x=WORDS)
        assert schema.features(pd.DataFrame({"x": ["violet", None]})).tolist() == [[0, 0, 0]] * 2
        assert schema.columns[0].unseen(pd.Series(["violet", "red", "violet"])) == ["violet"]

    def test_a_missing_category_is_a_category(self):
        schema, _ = learn(x=["red", "", None, "blue"] * 3)
        assert schema.columns[0].levels == ["", "blue", "red"]
        assert schema.features(pd.DataFrame({"x": [None, " "]})).tolist() == [[1, 0, 0]] * 2
        assert schema.columns[0].unseen(pd.Series(["red", None])) == []

    def test_rare_categories_are_as_unseen_ones(self):
        words = [f"w{n}" for n in range(50) for _ in range(3)] + [f"rare{n}" for n in range(5)]
        schema = Schema.learn(pd.DataFrame({"x": words, "y": np.arange(len(words)) % 2}), "y")
        assert schema.columns[0].rare == 5
        assert schema.features(pd.DataFrame({"x": ["w3", "rare3"]})).sum(1).tolist() == [1.0, 0.0]
        assert schema.columns[0].unseen(pd.Series(["w3", "rare3", None, "new"])) == ["new"]

    def test_rare_categories_of_an_older_run_are_known_by_number(self):
        old = {"role": "category", "name": "x", "levels": ["a", "b"], "rare": 3}
        assert "3 rarer values count as unseen" in CategoryColumn.model_validate(old).describe()

    def test_truth_is_one_category_however_it_is_written(self):
        schema, _ = learn(x=[True, False, False] * 4)
        assert schema.features(pd.DataFrame({"x": ["true", "FALSE", "False"]})).tolist() == [[0, 1], [1, 0], [1, 0]]
        schema, _ = learn(x=["true", "false", "false"] * 4)
        assert schema.features(pd.DataFrame({"x": [True, False, False]})).tolist() == [[0, 1], [1, 0], [1, 0]]

    def test_a_whole_number_is_one_category_however_it_is_written(self):
        """A column of whole numbers is one of decimal ones to pandas as soon as a row lacks its own."""
        schema, _ = learn(x=pd.Categorical([7, -1, -1] * 4))
        again = pd.DataFrame({"x": [7.0, np.nan, -1.0, 7.5]})
        assert schema.features(again).tolist() == [[0, 1], [0, 0], [1, 0], [0, 0]]
        assert schema.columns[0].unseen(again["x"]) == ["7.5"]
        schema, _ = learn(x=pd.Categorical([7.0, 0.5, 0.5] * 4))
        assert schema.features(pd.DataFrame({"x": [7, 0]})).tolist() == [[0, 1], [0, 0]]
        schema, _ = learn(x=["007", "B", "B"] * 4)
        assert schema.features(pd.DataFrame({"x": ["7", "007", "07"]})).tolist() == [[0, 0], [1, 0], [0, 0]]

    @pytest.mark.parametrize("name", ["", "Unnamed: 0"])
    def test_a_column_without_a_name_is_left_out_whether_it_is_there_or_not(self, name):
        frame = pd.DataFrame({name: range(ROWS), "x": NUMBERS, "kind": WORDS})
        schema = Schema.learn(frame, "kind")
        assert "left out: it has no name" in schema.columns[0].describe()
        assert np.array_equal(schema.features(frame), schema.features(frame[["x"]]))

    def test_text_of_its_own_in_every_row_is_left_out(self):
        names = [f"name {n}" for n in range(30)]
        frame = pd.DataFrame({"id": names, "x": range(30), "y": np.arange(30) % 2})
        schema = Schema.learn(frame, "y")
        assert "identifier" in schema.columns[0].describe()
        assert schema.features(frame.drop(columns="id")).shape == (30, 1)

    @pytest.mark.parametrize(
        ("name", "numbers", "left_out"),
        [
            ("PassengerId", range(1, 31), True),
            ("patient id", [str(n) for n in range(1000, 1030)], True),
            ("customerID", [None, *np.random.default_rng(0).permutation(29)], True),
            ("id", np.arange(30) % 5, False),  # of five, and many rows of each
            ("id", np.arange(30) + 0.5, False),
            ("width", range(30), False),
            ("year", range(1990, 2020), False),
        ],
    )
    def test_numbers_that_name_the_rows_are_left_out(self, name, numbers, left_out):
        """New rows have numbers beyond them; a row that is kept apart to judge by has not, and would not tell."""
        frame = pd.DataFrame({name: numbers, "x": np.arange(30) % 7, "y": np.arange(30) % 2})
        schema = Schema.learn(frame, "y")
        assert ("its name says that it is an identifier" in schema.columns[0].describe()) == left_out
        twice = learn_columns(frame.loc[frame.index.repeat(2)].reset_index(drop=True))
        assert twice[0].role == learn_columns(frame, weight=np.full(30, 2.0))[0].role

    def test_numbers_with_one_slip_say_which(self):
        frame = pd.DataFrame({"id": [*map(str, range(29)), "1O"], "x": range(30), "y": np.arange(30) % 2})
        assert "97% are numbers, but not '1O'" in Schema.learn(frame, "y").columns[0].describe()

    @pytest.mark.parametrize(
        ("values", "day_first", "first"),
        [
            (["2026-03-01", "2026-12-25"] * 6, False, "2026-03-01"),
            (["01/03/2026", "25/12/2026"] * 6, True, "2026-03-01"),
            (["3/1/2026", "12/25/2026"] * 6, False, "2026-03-01"),
            (["1.3.2026", "25.12.2026"] * 6, True, "2026-03-01"),
            (["01/03/2026", "05/12/2026"] * 6, False, "2026-01-03"),  # could be either: the month first
            (["01/01/2026", "05.05.2026"] * 6, False, "2026-01-01"),  # the same either way
            (["2026-03-01 12:30", "2026-12-25T00:00:00+02:00"] * 6, False, "2026-03-01T12:30"),
        ],
    )
    def test_dates_are_read_in_their_order(self, values, day_first, first):
        date = column(values)
        assert date.either == (first == "2026-01-03")
        assert (date.role, date.day_first) == ("date", day_first)
        seconds = date.features(pd.Series(values))[0, 0] * date.scale + date.mean
        assert seconds == pytest.approx(pd.Timestamp(first, tz="UTC").timestamp(), abs=1e-3)

    @pytest.mark.parametrize(
        ("form", "freq", "day_first"),
        [
            ("%d.%m.%Y", "MS", True),  # as dates with points are written
            ("%d/%m/%Y", "MS", True),
            ("%m/%d/%Y", "MS", False),
            ("%d-%m-%Y", "QS", True),
            ("%d/%m/%Y %H:%M", "MS", True),
        ],
    )
    def test_of_two_orders_the_one_that_makes_a_series_is_taken_and_said(self, form, freq, day_first):
        days = pd.date_range("2014-02-01", periods=40, freq=freq)
        order = np.random.default_rng(0).permutation(np.repeat(np.arange(40), 2))  # of two places, in no order
        values = [*days.strftime(form)[order], None]
        date = Schema.learn(pd.DataFrame({"x": values, "y": np.arange(81) % 2}), "y").columns[0]
        assert (date.day_first, date.either) == (day_first, True)
        first = "day" if day_first else "month"
        assert date.describe().startswith(f"date, the {first} first (if not, write 2026-01-31)")
        read = dates_of(pd.Series(values[:-1]), date.day_first).dt.tz_localize(None)
        assert read.tolist() == days[order].tolist()

    @pytest.mark.parametrize(("separator", "day_first"), [("/", False), ("-", False), (".", True)])
    def test_of_two_orders_that_say_nothing_the_month_is_first_but_between_points(self, separator, day_first):
        values = [separator.join(day) for day in (("01", "03", "2026"), ("05", "12", "2026"), ("03", "03", "2026"))]
        date = column(values * 4)
        assert (date.day_first, date.either) == (day_first, True)
        daily = column([f"{n:02}{separator}01{separator}2026" for n in range(1, 13)])  # or monthly
        assert daily.day_first == day_first

    def test_the_order_of_dates_of_an_older_run_is_kept(self):
        kept = column(["01.03.2026", "05.12.2026", "03.03.2026"] * 4).model_dump()
        del kept["either"]
        date = DateColumn.model_validate(kept | {"day_first": False})
        assert date.describe() == "date, with month, weekday"
        assert date.features(pd.Series(["01.13.2026"])).shape == (1, date.size)

    def test_cycles_of_dates_close(self):
        """New Year's Eve is as near to New Year's Day as any two neighbours."""
        days = pd.date_range("2026-01-01", "2026-12-31")
        date = Schema.learn(pd.DataFrame({"x": days, "y": np.arange(len(days)) % 2}), "y").columns[0]
        assert date.cycles == ["month", "weekday"]
        features = date.features(pd.Series(days))
        month, week = features[:, 1:3], features[:, 3:5]
        assert np.allclose(np.hypot(*month.T), 1)
        assert np.linalg.norm(month[0] - month[-1]) < 0.04
        assert np.allclose(week[:-7], week[7:])

    def test_missing_dates_are_the_median_and_a_flag(self):
        date = column([*ISO[:-1], None])
        assert date.missing
        features = date.features(pd.Series([None, "", ISO[0]]))
        assert features[:, 1].tolist() == [1, 1, 0]
        assert np.array_equal(features[0], features[1])
        assert np.isfinite(date.features(pd.Series([np.nan, np.nan]))).all()


class TestFeatures:
    frame = table(size=NUMBERS, colour=WORDS, day=ISO, answer=[True, False] * 6)
    schema = Schema.learn(frame, "kind")

    @settings(deadline=None)
    @given(order=st.permutations(["size", "colour", "day", "answer", "kind", "extra"]))
    def test_order_and_further_columns_change_nothing(self, order):
        frame = self.frame.assign(extra=1)[order]
        assert np.array_equal(self.schema.features(frame), self.schema.features(self.frame))

    def test_rows_are_encoded_alone(self):
        whole = self.schema.features(self.frame)
        for row in range(ROWS):
            assert np.array_equal(self.schema.features(self.frame.iloc[[row]]), whole[[row]])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda f: f.drop(columns="size"), "lacks column 'size'"),
            (lambda f: f.drop(columns=["size", "day"]), "lacks columns 'size', 'day', which .* trained with$"),
            (lambda f: f.rename(columns={"size": "SIZE"}), "lacks column 'size', which .* with; it has 'SIZE'$"),
            (
                lambda f: f.assign(size="big"),
                "column 'size' must hold numbers, .* but 'big' is none",
            ),
            (lambda f: f.assign(day="tomorrow"), "column 'day' held dates in training, but 'tomorrow' is none"),
            (lambda f: f.assign(day=[*ISO[:11], "soon"]), "column 'day' held dates in training, but 'soon' is none"),
            (lambda f: f.assign(day=3), "column 'day' held dates in training, but '3' is none"),
            (lambda f: f.assign(size=np.inf), "column 'size' is infinite in row 1"),
            (lambda f: f.assign(size="-Infinity"), "column 'size' is infinite in row 1"),
            (lambda f: f.assign(size=1e200), "column 'size' is 1e\\+200, too large"),
            (lambda f: pd.concat([f, f[["size"]]], axis=1), "2 columns of the name 'size'"),
        ],
    )
    def test_what_does_not_fit_is_named(self, change, message):
        with pytest.raises(ValueError, match=message):
            self.schema.features(change(self.frame))

    def test_statistics_are_those_of_the_training_rows(self):
        """What happens in a row that is judged does not move those that are learnt from."""
        rows = np.arange(8)
        frame = table(size=[*NUMBERS[:-1], np.nan], colour=WORDS, day=ISO, price=np.arange(ROWS) ** 2 + 0.5)
        frame = frame.drop(columns="kind")
        changed = frame.copy()
        changed.loc[8:, ["size", "price"]] = [[1e6, -1e6]] * 4
        changed.loc[8:, "day"] = ["1999-01-01", "2050-07-07", "2000-02-29", None]
        before, after = (Schema.learn(f, "price", rows=rows) for f in (frame, changed))
        assert before == after
        features = before.features(frame)[rows, 0]
        assert (features.mean(), features.std()) == (pytest.approx(0, abs=1e-15), pytest.approx(1))
        target = before.target.encode(frame["price"])[rows]
        assert (target.mean(), target.std()) == (pytest.approx(0, abs=1e-15), pytest.approx(1))

    @pytest.mark.parametrize("far", [0.0, 2.0**40, -(2.0**50)])
    def test_deviations_are_one_however_far_from_zero(self, far):
        """Unless they are nothing but rounding."""
        frame = pd.DataFrame({"size": far + np.arange(50.0), "price": far + np.arange(50.0) ** 2})
        schema = Schema.learn(frame, "price", "regression")
        for numbers in (schema.features(frame), schema.target.encode(frame["price"])):
            assert (numbers.mean(), numbers.std()) == (pytest.approx(0, abs=1e-12), pytest.approx(1))
        rounded = Schema.learn(frame.assign(price=[0.1 + 0.2, 0.3] * 25), "price", "regression")
        assert rounded.target.scale == 1

    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            ([*[5.0] * 8, 5.1, 900, 2, 1], "it is constant in the rows that are learnt from"),
            (["5"] * 8 + ["6"] * 4, "it is constant in the rows that are learnt from"),
            ([*[None] * 8, 5.1, 900, 2, 1], "it has no values in the rows that are learnt from"),
            (["-", ""] * 4 + ["6"] * 4, "it has no values in the rows that are learnt from"),
            (["2026-01-01"] * 8 + ISO[8:], "it is constant in the rows that are learnt from"),
            ([""] * 8 + ISO[8:], "it has no values in the rows that are learnt from"),
            (["red"] * 8 + ["blue"] * 4, "it is constant in the rows that are learnt from"),
        ],
    )
    def test_what_the_rows_that_are_learnt_from_say_nothing_of_is_left_out(self, values, reason):
        frame = table(x=values, other=NUMBERS)
        schema = Schema.learn(frame, "kind", rows=np.arange(8))
        assert schema.columns[0].describe() == f"left out: {reason}"
        assert schema.features(frame).shape == (ROWS, 1)

    def test_categories_are_those_of_the_rows_that_are_learnt_from(self):
        """A weight of one that comes later would stay as it was drawn."""
        frame = table(x=["red", "blue"] * 4 + ["green"] * 4)
        schema = Schema.learn(frame, "kind", rows=np.arange(8))
        assert schema.columns[0].levels == ["blue", "red"]
        assert schema.columns[0].unseen(frame["x"]) == ["green"]

    def test_a_row_that_counts_twice_is_two_rows(self):
        """For means, scales, medians, and the commonest of many categories."""
        rng = np.random.default_rng(0)
        size, day = rng.normal(size=300), pd.Series(pd.date_range("2026-01-01", periods=300, freq="D"))
        frame = pd.DataFrame({"size": size, "day": day, "word": rng.permutation(np.arange(300) % 60).astype(str)})
        frame = frame.assign(word="w" + frame["word"]).mask(rng.uniform(size=(300, 3)) < 0.1)
        weight = rng.integers(1, 4, 300)
        weighted, repeated = (
            learn_columns(frame, weight=weight.astype(float)),
            learn_columns(frame.loc[frame.index.repeat(weight)].reset_index(drop=True)),
        )
        assert weighted[2] == repeated[2] != learn_columns(frame)[2]
        assert len(weighted[2].levels) == 50
        for one, other in zip(weighted[:2], repeated[:2], strict=True):
            assert one.fill == other.fill
            assert (one.mean, one.scale) == pytest.approx((other.mean, other.scale), rel=1e-12)

    def test_names_need_not_be_text(self):
        frame = pd.DataFrame(np.random.default_rng(0).normal(size=(6, 3)), columns=[0, 1, 2])
        assert Schema.learn(frame, 2).features(frame).shape == (6, 2)
        frame.columns = pd.MultiIndex.from_tuples([("size", 1), ("size", 2), ("kind", 0)])
        assert Schema.learn(frame, ("kind", 0)).features(frame).shape == (6, 2)

    @pytest.mark.parametrize(
        ("written", "hour"),
        [
            *(("1/31/2026 12:05 AM", 0), ("1/31/2026 1:05 am", 1), ("1/31/2026 12:05:00 PM", 12)),
            *(("1/31/2026 01:05:00PM", 13), ("31.1.2026 11:05 PM", 23), ("2026-01-31 09:05:00 UTC", 9)),
            *(("2026-01-31 09:05:00.000 GMT", 9), ("2026-01-31T09:05", 9), ("2026-01-31 10:05:00+01:00", 9)),
        ],
    )
    def test_a_time_of_day_is_read_however_it_is_written(self, written, hour):
        (date,) = dates_of(pd.Series([written]), day_first="." in written)
        assert date == pd.Timestamp(2026, 1, 31, hour, 5, tz="UTC")

    def test_spans_of_time_are_seconds(self):
        spans = pd.Series(pd.to_timedelta([1.5, None, 4] * 4, unit="min"))
        column, other = learn(x=spans, y=spans.dt.total_seconds())[0].columns
        assert column.model_dump(exclude={"name", "spans"}) == other.model_dump(exclude={"name", "spans"})
        target = Target.learn(pd.Series(pd.to_timedelta(np.arange(30), unit="h"), name="wait"))
        assert (target.task, target.mean) == ("regression", 14.5 * 3600)


cells = st.one_of(
    st.floats(-1e150, 1e150),
    st.integers(-(2**70), 2**70),
    st.none(),
    st.booleans(),
    st.text(max_size=5),
    st.sampled_from(["", "NA", "1.5", "2026-01-31", "31/01/2026", "1e5", "red", "blue"]),
    st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)),
)
strategies = st.sampled_from([cells, st.floats(-1e150, 1e150), st.integers(0, 5), st.sampled_from(["u", "v", ""])])
frames = st.integers(4, 12).flatmap(
    lambda n: st.lists(strategies.flatmap(lambda s: st.lists(s, min_size=n, max_size=n)), min_size=1, max_size=4)
)


@settings(deadline=None, max_examples=60)
@given(columns=frames, seed=st.integers(0, 99))
def test_any_table_becomes_finite_numbers_that_json_keeps(columns, seed):
    frame = pd.DataFrame({f"x{i}": pd.Series(values, dtype=object).infer_objects() for i, values in enumerate(columns)})
    frame["kind"] = np.arange(len(frame)) % 2
    rows = np.random.default_rng(seed).permutation(len(frame))[: max(2, len(frame) // 2)]
    try:
        schema = Schema.learn(frame, "kind", rows=rows)
    except ValueError as error:
        assert "no column is left to learn from" in str(error)  # noqa: PT017
        return
    features = schema.features(frame)
    assert features.shape == (len(frame), schema.n_inputs)
    assert np.isfinite(features).all()
    assert again(schema) == schema
    assert np.array_equal(again(schema).features(frame[frame.columns[::-1]]), features)
    assert np.array_equal(schema.features(frame.iloc[[1]]), features[[1]])


class TestTargets:
    @pytest.mark.parametrize(
        ("values", "classes"),
        [
            (WORDS, ["blue", "green", "red"]),
            (pd.Categorical(WORDS), ["blue", "green", "red"]),
            ([0, 1, 2] * 4, [0, 1, 2]),
            ([0.0, 1.0, 2.0] * 4, [0, 1, 2]),
            (["2", "1.0", "10"] * 4, [1, 2, 10]),
            ([True, False, True] * 4, [False, True]),
            ([-1, 1, 2**60 + 1] * 4, [-1, 1, 2**60 + 1]),
            (["9007199254740993", "9007199254740992", "5"] * 4, [5, 9007199254740992, 9007199254740993]),
            (np.array([2**64 - 1, 1, 2**64 - 2] * 4, dtype=np.uint64), [1, 2**64 - 2, 2**64 - 1]),
            (["01", "1", "2"] * 4, ["01", "1", "2"]),
            (["none", "some", "-"] * 4, ["-", "none", "some"]),
            (["NA", "null", "?"] * 4, ["?", "NA", "null"]),
        ],
    )
    def test_classes_keep_their_labels(self, values, classes):
        frame = pd.DataFrame({"x": NUMBERS, "y": values})
        target = Schema.learn(frame, "y").target
        assert (target.task, target.classes) == ("classification", classes)
        assert [type(label) for label in target.classes] == [type(label) for label in classes]
        codes = target.encode(frame["y"])
        assert set(codes) == set(range(len(classes)))
        decoded = target.decode(np.eye(len(classes))[codes])
        assert np.array_equal(target.encode(pd.Series(decoded)), codes)
        kept = Target.model_validate_json(target.model_dump_json())
        assert kept == target
        assert [type(label) for label in kept.classes] == [type(label) for label in classes]

    @pytest.mark.parametrize(
        ("values", "task"),
        [
            (np.arange(ROWS) / 2, "regression"),
            (np.arange(ROWS) // 2, "classification"),
            ([str(x / 3) for x in range(ROWS)], "regression"),
            ([True, False] * 6, "classification"),
            (ISO[:6] * 2, "classification"),
            (pd.Categorical(np.arange(ROWS) // 2 + 0.5), "classification"),
        ],
    )
    def test_the_task_is_decided_by_the_values(self, values, task):
        assert Target.learn(pd.Series(values, name="y")).task == task

    @pytest.mark.parametrize(
        ("values", "task", "classes"),
        [
            (["3.1", "3.10", "2.0"] * 4, "classification", ["2.0", "3.1", "3.10"]),
            (pd.Categorical(["3.1", "3.10", "2.0"] * 4), None, ["2.0", "3.1", "3.10"]),
            (["3.1", "3.20", "2.0", "2"] * 3, "classification", [2, 3.1, 3.2]),
            (["1", "1.0", "2.00", "2"] * 3, "classification", [1, 2]),  # whole, beside a row that lacked its own
            (["3.1", "3.10", "2.0"] * 4, None, []),  # a number is predicted
        ],
    )
    def test_classes_that_are_spelt_apart_are_apart_where_they_are_not_whole_numbers(self, values, task, classes):
        assert Target.learn(pd.Series(values, name="y"), task).classes == classes

    def test_many_whole_numbers_are_a_quantity(self):
        assert Target.learn(pd.Series(np.repeat(np.arange(20), 2), name="y")).task == "classification"
        assert Target.learn(pd.Series(np.repeat(np.arange(21), 2), name="y")).task == "regression"

    def test_a_task_that_is_given_is_kept(self):
        values = pd.Series([0, 1, 2] * 4, name="y")
        assert Target.learn(values, "regression").task == "regression"
        assert Target.learn(pd.Series([0.5, 1.5] * 6, name="y"), "classification").classes == [0.5, 1.5]

    def test_numbers_come_back_in_their_unit(self):
        values = pd.Series(np.arange(ROWS) * 1e4 + 0.5, name="y")
        target = Target.learn(values)
        assert np.allclose(target.decode(target.encode(values)), values, rtol=1e-14)

    @pytest.mark.parametrize(
        ("far", "said"),
        [
            ({}, "is a number: mean"),
            ({7: 1e12}, r"is a number \(1 of 300 rows, such as 1e\+12, makes up 100% of its variance\): mean"),
            (
                {7: -999.0, 30: -999.0},
                r"is a number \(2 of 300 rows, such as -999, make up 99% of its variance\): mean",
            ),
            ({7: 1e12, 310: 1e15}, r"\(1 of 300 rows, such as 1e\+12"),  # of those that are learnt from
            (dict.fromkeys(range(30), 20.0), "is a number: mean"),
        ],
    )
    def test_a_few_rows_that_are_all_that_is_learnt_are_named(self, far, said):
        values = pd.Series(np.random.default_rng(0).normal(size=320), name="y")
        values[list(far)] = list(far.values())
        assert re.search(said, Target.learn(values, rows=np.arange(300)).describe())

    def test_text_stays_text_where_few_rows_look_like_numbers(self):
        target = Target.learn(pd.Series(["1.0", "other"] * 6, name="y"))
        assert target.encode(pd.Series(["1.0", "1.0"])).tolist() == [0, 0]

    @pytest.mark.parametrize(
        ("learnt", "asked"),
        [
            (np.array([0.1, 0.25] * 6, dtype=np.float32), ["0.1", "0.25"]),
            (np.array([0.1, 0.25] * 6, dtype=np.float16), np.array([0.1, 0.25])),
            (["0.10", "0.25"] * 6, np.array([0.1, 0.25], dtype=np.float32)),
            (["3.1", "3.10", "2.0", "2"] * 3, ["2", "2.0"]),
            (["3.10", "3.9", "3.1"] * 4, ["3.1", "3.10"]),
            ([False, True] * 6, ["false", "true"]),
            ([False, True] * 6, ["FALSE", "TRUE"]),
            (["false", "true"] * 6, [False, True]),
            ([1, 2] * 6, ["01", "2.0"]),
            (["-", "none"] * 6, ["-", "none"]),
        ],
    )
    def test_a_class_is_known_from_a_file_of_another_kind(self, learnt, asked):
        target = Target.learn(pd.Series(learnt, name="y"), "classification")
        assert target.encode(pd.Series(asked, name="y")).tolist() == [0, 1]
        assert target.encode(pd.Series(asked[:1], name="y")).tolist() == [0]

    @pytest.mark.parametrize(
        ("learnt", "asked", "lacking"),
        [
            (["-", "+"] * 6, ["-", "", "-"], [False, True, False]),
            ([0, 1] * 6, ["-", "", "NA"], [True] * 3),
            (np.arange(ROWS) / 2, ["-", "1", None], [True, False, True]),
            (["01", "1", "2"] * 4, ["-", "1", "none", "01"], [True, False, True, False]),
            (["3 days", "2 days"] * 6, ["-", "3 days", "none"], [True, False, True]),
        ],
    )
    def test_a_target_is_missing_by_what_it_was_in_training(self, learnt, asked, lacking):
        target = Target.learn(pd.Series(learnt, name="y"))
        for known in (target, Target.model_validate_json(target.model_dump_json())):
            assert known.lacking(pd.DataFrame({"y": asked})).tolist() == lacking

    @pytest.mark.parametrize(("learnt", "lacking"), [(["-", "+"] * 6, [False, True]), ([0, 1] * 6, [True, True])])
    def test_a_target_of_an_older_run_is_missing_by_its_classes(self, learnt, lacking):
        kept = Target.learn(pd.Series(learnt, name="y")).model_dump()
        del kept["of_numbers"]
        assert Target.model_validate(kept).lacking(pd.DataFrame({"y": ["-", ""]})).tolist() == lacking

    @pytest.mark.parametrize(
        ("values", "task", "message"),
        [
            ([1.0] * ROWS, None, "is constant"),
            (["a"] * ROWS, None, "is constant"),
            (WORDS, "regression", "must hold numbers for regression, but 'red' is none"),
            (["a", *["b"] * 11], None, "class 'a' of target 'y' has one row"),
            ([7, *[2] * 11], None, "class 7 of target 'y' has one row.*or choose regression"),
            (["0.5", "0.50"] * 6, None, r"is constant \(0.5\)"),
            ([np.inf, *NUMBERS[1:]], None, "is infinite in row 1"),
            (["inf", *map(str, NUMBERS[1:])], None, "is infinite in row 1"),
        ],
    )
    def test_what_cannot_be_learnt(self, values, task, message):
        with pytest.raises(ValueError, match=message):
            Target.learn(pd.Series(values, name="y"), task)

    @pytest.mark.parametrize(
        ("learnt", "values", "message"),
        [
            (WORDS, ["violet"], "holds 'violet', which is none of the classes blue, green, red"),
            ([0, 1] * 6, [2], "holds '2', which is none of the classes 0, 1"),
            ([0, 1] * 6, ["x"], "holds 'x'"),
            ([0, 1] * 6, [0, None], "has missing values"),
            (pd.array([True, False] * 6, dtype="boolean"), pd.array([True, None], dtype="boolean"), "missing values"),
            (np.arange(ROWS) / 2, [None], "has missing values"),
            (np.arange(ROWS) / 2, ["x"], "must hold numbers"),
        ],
    )
    def test_what_cannot_be_encoded(self, learnt, values, message):
        with pytest.raises(ValueError, match=message):
            Target.learn(pd.Series(learnt, name="y")).encode(pd.Series(values, name="y"))

    def test_rows_without_a_target_are_dropped_and_counted(self):
        frame = pd.DataFrame({"x": range(6), "y": ["a", "", None, " ", "none", "a"]})
        kept, dropped = drop_missing_targets(frame, "y")
        assert (kept["x"].tolist(), kept.index.tolist(), dropped) == ([0, 4, 5], [0, 1, 2], 3)

    def test_beside_numbers_a_word_for_none_is_no_target(self):
        frame = pd.DataFrame({"x": range(6), "y": ["1", "", None, "NA", "-", "2"]})
        assert drop_missing_targets(frame, "y")[0]["x"].tolist() == [0, 5]

    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            (pd.DataFrame({"x": [1, 2], "y": [None, ""]}), "target 'y' has no values"),
            (pd.DataFrame({"x": [1, 2], "y": [None, "a"]}), "one row with a target"),
            (pd.DataFrame({"x": [1], "y": ["a"]}), "one row with a target"),
            (pd.DataFrame({"x": [1], "yy": ["a"]}), "no column 'y' to predict; did you mean 'yy'"),
            (pd.DataFrame({"x": [1], "Y": ["a"]}), "no column 'y' to predict; did you mean 'Y'"),
            (pd.DataFrame({"x": [1], "price": ["a"]}), "no column 'y' to predict; the columns are x, price"),
            (pd.DataFrame([[1, 2]], columns=["y", "y"]), "2 columns of the name 'y'"),
        ],
    )
    def test_a_table_without_targets(self, frame, message):
        with pytest.raises(ValueError, match=message):
            drop_missing_targets(frame, "y")

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({}, "no columns to learn from"),
            ({"x": [1] * ROWS, "z": [None] * ROWS}, "no column is left to learn from: 'x' is left out: it is constant"),
        ],
    )
    def test_a_table_without_inputs(self, columns, message):
        with pytest.raises(ValueError, match=message):
            learn(**columns)

    def test_two_columns_of_one_name(self):
        with pytest.raises(ValueError, match="2 columns of the name 'x'; rename them"):
            Schema.learn(pd.concat([table(x=NUMBERS), table(x=NUMBERS)[["x"]]], axis=1), "kind")
