"""Tables: what is in them is found out once, kept, and asked for again."""

import datetime
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.learn.data import Schema, Target, drop_missing_targets, learn_columns, load_table, read_frame

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


@pytest.fixture
def write(tmp_path):
    """Writes text or bytes to a file and says where."""

    def write(content, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


NUMBERS = [float(x) for x in range(ROWS)]
WORDS = ["red", "green", "blue"] * 4
ISO = [f"2026-{month:02d}-28" for month in range(1, 13)]

SPELLINGS = ["", "NA", "n/a", "NaN", "null", "None", "?", "-", " nan ", "<NA>", "NaT"]

KINDS = [
    (NUMBERS, "number"),
    ([str(x) for x in NUMBERS], "number"),
    ([f" {x:e} " for x in NUMBERS], "number"),
    (np.arange(ROWS, dtype=np.uint8), "number"),
    (np.arange(ROWS, dtype=np.float16), "number"),
    (pd.array([1, 2, None, 4] * 3, dtype="Int64"), "number"),
    (pd.Categorical(list(range(ROWS))), "number"),
    (WORDS, "category"),
    (pd.Categorical(WORDS), "category"),
    (pd.array(WORDS, dtype="string"), "category"),
    ([True, False, False] * 4, "category"),
    (pd.array([True, None, False] * 4, dtype="boolean"), "category"),
    (["true", "False", "true"] * 4, "category"),
    (["1", "two", "3"] * 4, "category"),
    (ISO, "date"),
    ([f"28/{month:02d}/2026" for month in range(1, 13)], "date"),
    ([f"{month}/28/2026" for month in range(1, 13)], "date"),
    ([f"28.{month}.2026" for month in range(1, 13)], "date"),
    ([f"{day}T10:30:00Z" for day in ISO], "date"),
    (pd.to_datetime(ISO), "date"),
    (pd.to_datetime(ISO).tz_localize("Europe/Paris"), "date"),
    ([datetime.date.fromisoformat(day) for day in ISO], "date"),
    (["2026-02-30", *ISO[1:]], "category"),
    (["", "NA", " nan ", "?"] * 3, "ignored"),
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

    def test_numbers_are_standardised(self):
        schema, frame = learn(x=NUMBERS)
        features = schema.features(frame)
        assert features.mean() == pytest.approx(0, abs=1e-15)
        assert features.std() == pytest.approx(1, rel=1e-14)
        assert np.allclose(features[:, 0], (np.arange(12) - 5.5) / np.arange(12).std(), rtol=1e-14)

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
        schema, _ = learn(x=["red", "", "NA", "blue"] * 3)
        assert schema.columns[0].levels == ["", "blue", "red"]
        assert schema.features(pd.DataFrame({"x": [None, "?"]})).tolist() == [[1, 0, 0]] * 2

    def test_rare_categories_are_as_unseen_ones(self):
        words = [f"w{n}" for n in range(50) for _ in range(3)] + [f"rare{n}" for n in range(5)]
        schema = Schema.learn(pd.DataFrame({"x": words, "y": np.arange(len(words)) % 2}), "y")
        assert schema.columns[0].rare == 5
        assert schema.features(pd.DataFrame({"x": ["w3", "rare3"]})).sum(1).tolist() == [1.0, 0.0]

    def test_text_of_its_own_in_every_row_is_left_out(self):
        names = [f"name {n}" for n in range(30)]
        frame = pd.DataFrame({"id": names, "x": range(30), "y": np.arange(30) % 2})
        schema = Schema.learn(frame, "y")
        assert "identifier" in schema.columns[0].describe()
        assert schema.features(frame.drop(columns="id")).shape == (30, 1)

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
            (["2026-03-01 12:30", "2026-12-25T00:00:00+02:00"] * 6, False, "2026-03-01T12:30"),
        ],
    )
    def test_dates_are_read_in_their_order(self, values, day_first, first):
        date = column(values)
        assert (date.role, date.day_first) == ("date", day_first)
        seconds = date.features(pd.Series(values))[0, 0] * date.scale + date.mean
        assert seconds == pytest.approx(pd.Timestamp(first, tz="UTC").timestamp(), abs=1e-3)

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
            (lambda f: f.drop(columns=["size", "day"]), "lacks columns 'size', 'day'"),
            (
                lambda f: f.assign(size="big"),
                "column 'size' must hold numbers, .* but 'big' is none",
            ),
            (lambda f: f.assign(day="tomorrow"), "column 'day' held dates in training, but 'tomorrow' is none"),
            (lambda f: f.assign(day=3), "column 'day' held dates"),
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
        ],
    )
    def test_the_task_is_decided_by_the_values(self, values, task):
        assert Target.learn(pd.Series(values, name="y")).task == task

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

    def test_text_stays_text_where_few_rows_look_like_numbers(self):
        target = Target.learn(pd.Series(["1.0", "other"] * 6, name="y"))
        assert target.encode(pd.Series(["1.0", "1.0"])).tolist() == [0, 0]

    @pytest.mark.parametrize(
        ("values", "task", "message"),
        [
            ([1.0] * ROWS, None, "is constant"),
            (["a"] * ROWS, None, "is constant"),
            (WORDS, "regression", "must hold numbers for regression, but 'red' is none"),
            (["a", *["b"] * 11], None, "class 'a' of target 'y' has one row"),
            ([7, *[2] * 11], None, "class 7 of target 'y' has one row.*or choose regression"),
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
        frame = pd.DataFrame({"x": range(6), "y": ["a", "", None, "NA", "b", "a"]})
        kept, dropped = drop_missing_targets(frame, "y")
        assert (kept["x"].tolist(), kept.index.tolist(), dropped) == ([0, 4, 5], [0, 1, 2], 3)

    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            (pd.DataFrame({"x": [1, 2], "y": [None, ""]}), "target 'y' has no values"),
            (pd.DataFrame({"x": [1, 2], "y": [None, "a"]}), "one row with a target"),
            (pd.DataFrame({"x": [1], "y": ["a"]}), "one row with a target"),
            (pd.DataFrame({"x": [1], "yy": ["a"]}), "no column 'y' to predict; did you mean 'yy'"),
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


CSV = "x,colour,kind\n" + "".join(f'{i},"{c}",{k}\n' for i, (c, k) in enumerate(zip(WORDS, "ab" * 6, strict=True)))


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "first"),
        [
            (CSV, ["0", "red", "a"]),
            (CSV.replace(",", ";"), ["0", "red", "a"]),
            (CSV.replace(",", "\t"), ["0", "red", "a"]),
            (CSV.replace(",", ", "), ["0", "red", "a"]),
            (CSV.replace("\n", "\r\n"), ["0", "red", "a"]),
            (CSV.rstrip("\n"), ["0", "red", "a"]),
            (b"\xef\xbb\xbf" + CSV.encode(), ["0", "red", "a"]),
            (CSV.replace("red", "rosé").encode("latin-1"), ["0", "rosé", "a"]),
            (CSV.replace("red", "rosé"), ["0", "rosé", "a"]),
            (CSV.replace("red", "red, or pink"), ["0", "red, or pink", "a"]),
            (CSV.replace("red", 'the ""red"" one'), ["0", 'the "red" one', "a"]),
            (CSV.replace("red", "red\nwine"), ["0", "red\nwine", "a"]),
            (CSV.replace("0,", "NA,", 1), ["NA", "red", "a"]),
            (CSV.replace("x,", " x ,", 1), ["0", "red", "a"]),
        ],
    )
    def test_dialects_of_csv(self, write, content, first):
        frame = read_frame(write(content))
        assert list(frame.columns) == ["x", "colour", "kind"]
        assert frame.iloc[0].tolist() == first
        assert len(frame) == ROWS

    @pytest.mark.parametrize("separator", [";", "\t", "|"])
    def test_decimal_commas(self, write, separator):
        rows = [
            ["x", "y", "note", "n"],
            ["1,5", "-1.234,5", "a, b", "7"],
            ["2", "NA", "c", "8"],
            ["2,5e3", ",25", "d", "9"],
        ]
        frame = read_frame(write("\n".join(separator.join(row) for row in rows) + "\n"))
        assert frame["x"].tolist() == ["1.5", "2", "2.5e3"]
        assert frame["y"].tolist() == ["-1234.5", "", ".25"]
        assert frame["note"].tolist() == ["a, b", "c", "d"]
        assert frame["n"].tolist() == ["7", "8", "9"]

    @pytest.mark.parametrize(
        "content",
        [
            "x;y\n1,5;0.5\n2,5;1.5\n",  # a point elsewhere: who knows what the comma means
            "x;y\n1,5;a\n2,5 kg;b\n",
            "x;y\n1,2,3;a\n2,5;b\n",
            'x,y\n"1,5",a\n"2,5",b\n',  # separated by commas: those of numbers group digits
        ],
    )
    def test_commas_that_are_left_as_they_are(self, write, content):
        assert "," in read_frame(write(content))["x"].iloc[0]

    def test_parquet_says_what_csv_says(self, write):
        frame = table(x=NUMBERS, colour=WORDS, day=ISO)
        buffer = io.BytesIO()
        frame.to_parquet(buffer)
        parquet = read_frame(write(buffer.getvalue(), "table.parquet"))
        text = read_frame(write(frame.to_csv(index=False)))
        one, other = Schema.learn(parquet, "kind"), Schema.learn(text, "kind")
        assert one == other
        assert np.array_equal(one.features(text), other.features(parquet))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "is empty"),
            (" \n\n", "is empty"),
            (b"\xef\xbb\xbf", "is no CSV file"),
            ("a,b,c\n", "has no rows below its names"),
            ("one word\nand another\n", "no CSV file of several columns"),
            ("Dear Sir, hello\nI am, well, fine, really.\n", "is no CSV file"),
            ("a,b\n1,2,3\n4,5,6\n", "its rows hold more values than its first row has names"),
            ("a,b\n1,2\n4,5,6\n", "is no CSV file.*line 3"),
            ('a,b\n"1,2\n3,4\n', "is no CSV file"),
            ("a,a ,b\n1,2,3\n", "2 columns of the name 'a'"),
            (bytes(range(256)), "neither a CSV nor a Parquet file"),
            ("a,b\n1,2\n".encode("utf-16"), "neither a CSV nor a Parquet file"),
            (b"PAR1 and nothing of the kind", "damaged Parquet file"),
        ],
    )
    @pytest.mark.filterwarnings("default")  # as it is for people: nothing may hang on warnings that are errors
    def test_what_is_no_table(self, write, content, message):
        with pytest.raises(ValueError, match=message) as caught:
            read_frame(write(content))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("nowhere.csv", "there is no file nowhere.csv"),
            ("mooons", "did you mean the bundled 'moons'"),
            (".", "is a folder"),
        ],
    )
    def test_what_is_not_there(self, source, message):
        with pytest.raises(ValueError, match=message):
            load_table(source, "y")

    def test_a_file_is_known_by_its_content(self, write):
        path = write(CSV)
        one = load_table(path, "kind")
        assert (one.target, one.task, one.source, len(one.frame)) == ("kind", None, path, ROWS)
        write(CSV.replace("red", "rot"))
        assert load_table(path, "kind").sha256 != one.sha256

    def test_a_target_must_be_named_and_there(self, write):
        path = write(CSV)
        with pytest.raises(ValueError, match=r"which column to predict.*x, colour, kind"):
            load_table(path)
        with pytest.raises(ValueError, match="no column 'kin' to predict; did you mean 'kind'"):
            load_table(path, "kin")

    def test_a_bundled_set_knows_its_target_and_may_be_asked_for_another(self):
        iris = load_table("iris")
        assert (iris.target, iris.task) == ("species", "classification")
        other = load_table("iris", "petal width (cm)")
        assert (other.target, other.task, other.sha256) == ("petal width (cm)", None, iris.sha256)
        with pytest.raises(ValueError, match="no column 'specie' to predict; did you mean 'species'"):
            load_table("iris", "specie")

    def test_from_a_file_to_numbers(self, write):
        """Text in, the same text out: the whole way of one table."""
        frame, dropped = drop_missing_targets(read_frame(write(CSV + "3,red,\n")), "kind")
        schema = Schema.learn(frame, "kind")
        assert (dropped, schema.n_inputs, schema.n_outputs) == (1, 4, 2)
        codes = schema.target.encode(frame["kind"])
        assert schema.target.decode(np.eye(2)[codes]).tolist() == frame["kind"].tolist()
