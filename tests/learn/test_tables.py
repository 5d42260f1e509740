"""Files of tables: whichever way they are written, the same table is read, or none."""

import bz2
import gzip
import io
import lzma
import zipfile

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from thalweg.learn.data import Schema, Target, drop_missing_targets
from thalweg.learn.tables import load_table, read_frame

ROWS = 12
WORDS = ["red", "green", "blue"] * 4
CSV = "x,colour,kind\n" + "".join(f'{i},"{c}",{k}\n' for i, (c, k) in enumerate(zip(WORDS, "ab" * 6, strict=True)))


@pytest.fixture
def write(tmp_path):
    """Writes text or bytes to a file and says where."""

    def write(content, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


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
        ("sep=;\n" + CSV.replace(",", ";"), ["0", "red", "a"]),
        ("SEP=,\r\n" + CSV, ["0", "red", "a"]),
        ("sep=#\n" + CSV.replace(",", "#"), ["0", "red", "a"]),
        (CSV.replace("red", "5 € “net”").encode("cp1252"), ["0", "5 € “net”", "a"]),
        (CSV.replace("red", "\x81").encode("latin-1"), ["0", "\x81", "a"]),
        ("\n" + CSV, ["0", "red", "a"]),
        (b'"x",colour,kind\n"0,5",red,a\n' + 11 * b"1,blue,b\n", ["0,5", "red", "a"]),
        (CSV.replace("x,", " x ,", 1), ["0", "red", "a"]),
    ],
)
def test_dialects_of_csv(write, content, first):
    frame = read_frame(write(content))
    assert list(frame.columns) == ["x", "colour", "kind"]
    assert frame.iloc[0].tolist() == first
    assert len(frame) == ROWS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("names", "row", "values"),
    [
        ("x, in kg;colour;kind", "0,5;red;a", ["0.5", "red", "a"]),
        ("x, in kg\tcolour\tkind", "0,5\tred\ta", ["0.5", "red", "a"]),
        ("x|colour, or tint|kind", '0|"red\n, or so"|a', ["0", "red\n, or so", "a"]),
        ("x,colour; or tint,kind", "0,red; pink,a", ["0", "red; pink", "a"]),
    ],
)
def test_of_marks_in_the_names_the_one_counts_that_makes_most_of_every_row(write, names, row, values, end):
    frame = read_frame(write(end.join([names, *[row] * ROWS])))
    assert frame.iloc[-1].tolist() == values
    assert len(frame.columns) == 3


def zipped(content, **more):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in {
            "folder/": b"",
            "folder/table.csv": content,
            "__MACOSX/folder/._table.csv": b"\0",
            **more,
        }.items():
            archive.writestr(name, text)
    return packed.getvalue()


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zipped])
def test_a_packed_table_is_read_as_what_is_in_it(write, pack):
    plain = read_frame(write(CSV))
    pd.testing.assert_frame_equal(read_frame(write(pack(CSV.encode()), "table.csv.packed")), plain)
    parquet = io.BytesIO()
    plain.to_parquet(parquet)
    pd.testing.assert_frame_equal(read_frame(write(pack(parquet.getvalue()))), plain)


@pytest.mark.parametrize("pack", [gzip.compress, zipped])
def test_a_packed_table_that_is_damaged_is_said_to_be(write, pack):
    with pytest.raises(ValueError, match="is packed, and cannot be unpacked"):
        read_frame(write(pack(CSV.encode())[:-9]))


def test_an_archive_of_several_files_is_no_table(write):
    with pytest.raises(ValueError, match="neither a CSV nor a Parquet file"):
        read_frame(write(zipped(CSV.encode(), other=CSV)))


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_decimal_commas(write, separator):
    rows = [
        ["x", "y", "note", "n"],
        ["1,5", "-1.234,5", "a, b", "7"],
        ["2", "NA", "c", "8"],
        ["2,5e3", ",25", "d", "9"],
    ]
    frame = read_frame(write("\n".join(separator.join(row) for row in rows) + "\n"))
    assert frame["x"].tolist() == ["1.5", "2", "2.5e3"]
    assert frame["y"].fillna("").tolist() == ["-1234.5", "", ".25"]
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
def test_commas_that_are_left_as_they_are(write, content):
    assert "," in read_frame(write(content))["x"].iloc[0]


def test_parquet_says_what_csv_says(write):
    days = pd.date_range("2026-01-28", periods=ROWS, freq="MS").strftime("%Y-%m-%d")
    frame = pd.DataFrame({"x": np.arange(ROWS) / 7, "colour": WORDS, "day": days, "kind": list("abc") * 4})
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
        ("Dear Sir, hello\nI am, well, fine, really.\n", "is no CSV file"),
        ("a,b\n1,2,3\n4,5,6\n", "its rows hold more values than its first row has names"),
        ("a,b\n1,2\n4,5,6\n", "is no CSV file.*line 3"),
        ('a,b\n"1,2\n3,4\n', "is no CSV file"),
        ("a,a ,b\n1,2,3\n", "2 columns of the name 'a'"),
        ("x,y,y\n1,2,2\n", "there are 2 columns of the name 'y'; rename them"),
        ("y;x;y;y\n1;2;2;3\n", "there are 3 columns of the name 'y'; rename them"),
        (bytes(range(256)), "neither a CSV nor a Parquet file"),
        ("a,b\n1,2\n".encode("utf-16-le"), "neither a CSV nor a Parquet file"),
        (b"\xff\xfe" + "a,b\n1,2\n".encode("utf-16-le") + b"\0", "neither a CSV nor a Parquet file.*as CSV"),
        (b"PAR1 and nothing of the kind", "damaged Parquet file"),
        ('{"x": [1, 2],\n "y": [3, 4]}', "is no CSV file but JSON; write it as CSV"),
        ('[\n {"x": 1, "y": 3},\n {"x": 2, "y": 4}]', "is no CSV file but JSON"),
        ('{"x": 1, "y": 3}\n{"x": 2, "y": 4}\n', "is no CSV file but JSON"),
    ],
)
@pytest.mark.filterwarnings("default")  # as it is for people: nothing may hang on warnings that are errors
def test_what_is_no_table(write, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_frame(write(content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            "a,b,c\n1,2,3\n\n4\n5,,\n6,7\n",
            "2 rows, first row 2, hold fewer values than .*table.csv has names",
        ),
        ('sep=;\na;b;c\n1;"2\n";3\n4;5\n', "row 2 holds fewer values than .*table.csv has names"),
    ],
)
def test_rows_that_are_too_short_are_filled_up_and_counted(write, content, told):
    with pytest.warns(UserWarning, match=f"^{told}; what is not there counts as missing$"):
        frame = read_frame(write(content))
    assert frame["c"].iloc[0] == "3"
    assert frame["c"].iloc[1:].isna().all()


def test_rows_whose_last_values_are_empty_are_not_too_short(write):
    assert read_frame(write("a,b\n1,\n2,NA\n \n,\n"))["b"].isna().tolist() == [True] * 3


@pytest.mark.parametrize(
    ("rows", "numbers"),
    [
        (["1,200;a", "950;b", "12.5;c"], [1200, 950, 12.5]),  # one point that is sure
        (["1,200.50;a", "950;b", "12,500;c"], [1200.5, 950, 12500]),
        (["1,200,000;a", "950;b", "12,500;c"], [1200000, 950, 12500]),
        (["1.200;a", "950;b", "12,5;c"], [1200, 950, 12.5]),  # one comma that is sure
        (["1.200;0,5", "12.500;1,5"], [1200, 12500]),  # in another column
        (["1,200;0.5", "12,500;1.5"], [1200, 12500]),
        (["1.234.567;a", "950;b"], [1234567, 950]),
        (["0,500;a", "1,250;b"], [0.5, 1.25]),  # no group of digits begins by 0
        (["1234,567;a", "1,250;b"], [1234.567, 1.25]),
        (["NA;a", "-1,250;b", "none;c", "0,5;d"], [np.nan, -1.25, np.nan, 0.5]),
    ],
)
@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_number_that_is_sure_says_how_the_others_are_written(write, rows, numbers, separator):
    frame = read_frame(write("x;y\n".replace(";", separator) + "\n".join(rows).replace(";", separator)))
    assert np.array_equal(pd.to_numeric(frame["x"], errors="coerce"), numbers, equal_nan=True)


def test_between_commas_other_commas_group_digits(write):
    frame = read_frame(write('x,y\n"1,200",a\n950,b\n"12,500.5",c\n'))
    assert frame["x"].tolist() == ["1200", "950", "12500.5"]


UNSURE = 'income\tprice\n"1,200"\t120\n950\t95\n"12,500"\t1250\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (UNSURE, "'1,200' in column 'income', which is 1200 with a decimal point and 1.2 with a decimal comma"),
        ("x;y\n1.234;12.500\n2.345;13.000\n", "'1.234' in column 'x', which is 1.234 .* and 1234 .* comma"),
        ("x;y;z\n1.234;0.5;0,5\n", "its other numbers say both"),
    ],
)
def test_numbers_that_could_be_others_are_refused(write, content, message):
    with pytest.raises(ValueError, match=f"{message}.*without marks between thousands.*data.decimal"):
        read_frame(write(content))


def test_who_knows_how_numbers_are_written_can_say_so(write):
    path = write(UNSURE)
    assert read_frame(path, decimal="point")["income"].tolist() == ["1200", "950", "12500"]
    assert read_frame(path, decimal="comma")["income"].tolist() == ["1.200", "950", "12.500"]
    assert read_frame(path, likely="point")["income"].tolist() == ["1200", "950", "12500"]
    assert load_table(path, "price", decimal="comma").frame["income"].tolist() == ["1.200", "950", "12.500"]


def test_what_is_sure_goes_before_what_is_likely(write):
    path = write("x;y\n1.5;2\n")
    assert read_frame(path, likely="comma")["x"].tolist() == ["1.5"]
    for content in ("x;y\n1.5;12.345\n", 'x,y\n1.5,"12,345"\n'):
        with pytest.raises(ValueError, match="its other numbers say both"):
            read_frame(write(content), likely="comma")


def test_between_commas_decimals_have_a_point_whatever_is_likely(write):
    """Nobody has two meanings for a point there: one beside decimal commas would need quotes around all decimals."""
    frame = read_frame(write('x,z\n51.257,1\n12.345,"1,234.5"\n'), likely="comma")
    assert frame.to_dict("list") == {"x": ["51.257", "12.345"], "z": ["1", "1234.5"]}


@pytest.mark.parametrize(
    ("content", "decimal"),
    [
        ("x;y\n1,5;2\n", "comma"),
        ("x;y\n1.5;2\n", "point"),
        ("x,y\n1,2\n", "point"),
        ("x;y\n1;2\n", None),
    ],
)
def test_a_table_tells_how_it_writes_decimals(write, content, decimal):
    assert load_table(write(content), "y").decimal == decimal


@pytest.mark.parametrize("content", ["x\n1\n2\n", "x\n1,5\n2,5\n", '"x"\r\n"1,5"\r\n2\r\n'])
def test_one_column_is_enough_to_predict_and_too_few_to_learn_from(write, content):
    path = write(content)
    frame = read_frame(path)
    assert (list(frame.columns), len(frame)) == (["x"], 2)
    with pytest.raises(ValueError, match="no CSV file of several columns"):
        load_table(path, "x")


def test_a_word_for_none_is_missing_where_a_file_has_no_other_way_to_say_so(write):
    words = ["", "NA", "n/a", "#N/A", "NaN", "null", "?", "<NA>", "NaT", "none", "-", "x"]
    frame = pd.DataFrame({"n": range(12), "y": words})
    assert read_frame(write(frame.to_csv(index=False)))["y"].isna().tolist() == [True] * 9 + [False] * 3
    frame.to_parquet(path := write("", "table.parquet"))
    assert read_frame(path)["y"].tolist() == words


def test_whole_numbers_of_parquet_keep_their_digits_beside_a_null(write):
    numbers = {"UInt64": [2**64 - 1, None, 2**64 - 2], "Int64": [2**53 + 1, None, -(2**53)], "Int8": [1, 2, None]}
    frame = pd.DataFrame({"x": [0.5, None, 2], "n": [1, 2, 3], "all": pd.array([None] * 3, dtype="Int16")})
    frame = frame.assign(whole=[1.0, None, 2.0], **{kind: pd.array(of, dtype=kind) for kind, of in numbers.items()})
    plain = pyarrow.Table.from_pandas(frame).replace_schema_metadata()  # as others write it: pandas' own says Int64
    pyarrow.parquet.write_table(plain, path := write("", "table.parquet"))
    read = read_frame(path)
    pd.testing.assert_frame_equal(read, frame)
    rows, _ = drop_missing_targets(pd.concat([read, read]), "UInt64")
    assert Target.learn(rows["UInt64"]).classes == [2**64 - 2, 2**64 - 1]


def test_an_index_of_parquet_is_a_column_where_it_has_a_name(write):
    frame = pd.DataFrame({"x": range(3), "y": list("abc")})
    path = write("", "table.parquet")
    frame.set_index("x").to_parquet(path)
    pd.testing.assert_frame_equal(read_frame(path), frame, check_dtype=False)
    frame.set_index(["x", frame.index]).to_parquet(path)
    assert sorted(read_frame(path).columns) == ["x", "y"]
    frame.set_index(pd.Index([5, 6, 7], name="y")).to_parquet(path)
    with pytest.raises(ValueError, match="2 columns of the name 'y'"):
        read_frame(path)


def test_the_index_of_a_csv_file_is_not_learnt_from(write):
    frame = pd.DataFrame({"x": np.arange(ROWS) / 7, "kind": list("abc") * 4})
    schema = Schema.learn(read_frame(write(frame.to_csv())), "kind")
    assert [column.role for column in schema.columns] == ["ignored", "number"]
    assert np.array_equal(schema.features(read_frame(write(frame.to_csv(index=False)))), schema.features(frame))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.csv", "there is no file nowhere.csv"),
        ("mooons", "did you mean the bundled 'moons'"),
        (".", "is a folder"),
    ],
)
def test_what_is_not_there(source, message):
    with pytest.raises(ValueError, match=message):
        load_table(source, "y")


def test_a_file_is_known_by_its_content(write):
    path = write(CSV)
    one = load_table(path, "kind")
    assert (one.target, one.task, one.source, len(one.frame)) == ("kind", None, path, ROWS)
    write(CSV.replace("red", "rot"))
    assert load_table(path, "kind").sha256 != one.sha256


def test_a_target_must_be_named_and_there(write):
    path = write(CSV)
    with pytest.raises(ValueError, match=r"which column to predict.*x, colour, kind"):
        load_table(path)
    with pytest.raises(ValueError, match="no column 'kin' to predict; did you mean 'kind'"):
        load_table(path, "kin")


def test_a_bundled_set_knows_its_target_and_may_be_asked_for_another():
    iris = load_table("iris")
    assert (iris.target, iris.task) == ("species", "classification")
    other = load_table("iris", "petal width (cm)")
    assert (other.target, other.task, other.sha256) == ("petal width (cm)", None, iris.sha256)
    with pytest.raises(ValueError, match="no column 'specie' to predict; did you mean 'species'"):
        load_table("iris", "specie")


def test_from_a_file_to_numbers(write):
    """Text in, the same text out: the whole way of one table."""
    frame, dropped = drop_missing_targets(read_frame(write(CSV + "3,red,\n")), "kind")
    schema = Schema.learn(frame, "kind")
    assert (dropped, schema.n_inputs, schema.n_outputs) == (1, 4, 2)
    codes = schema.target.encode(frame["kind"])
    assert schema.target.decode(np.eye(2)[codes]).tolist() == frame["kind"].tolist()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_what_windows_writes_is_read(tmp_path, encoding):
    path = tmp_path / "windows.csv"
    path.write_bytes('sep=;\r\nstädte;n\r\n"a\r\nb";1\r\nc;2\r\n'.encode(encoding))
    assert read_frame(path).to_dict("list") == {"städte": ["a\r\nb", "c"], "n": ["1", "2"]}


def test_a_blank_line_of_a_file_of_one_column_is_a_row(tmp_path):
    """Answers stand beside the rows that were asked for."""
    path = tmp_path / "one.csv"
    for end in ("\n", "\r\n"):
        path.write_bytes(end.join(["", "size", "1", "", "2", "", ""]).encode())
        values = read_frame(path)["size"]
        assert values.isna().tolist() == [False, True, False]
        assert values.dropna().tolist() == ["1", "2"]
