"""Tables: where rows come from, and how a file writes them.

The values of a CSV file stay text. What it leaves out is missing, as in Parquet, and numbers are written with a decimal
point alone, whichever way the file writes them.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import difflib
import gzip
import hashlib
import io
import lzma
import re
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pandas as pd

from .arrays import is_array, read_arrays, rows_of
from .datasets import BUNDLED, Task, load_bundled
from .images import (
    CLASS,
    Colour,
    ImageForm,
    OnImage,
    folder_sha256,
    holds_images,
    image_column,
    images_sha256,
    is_image,
    names_in,
    read_folder,
    read_images,
    read_new,
    with_form,
)
from .values import BESIDE_NUMBERS, MISSING

Decimal: TypeAlias = Literal["point", "comma"]
"""The mark before the decimals of a number; the other one may stand between its thousands."""

_SEPARATORS = ",;\t|"
_NO_SEPARATOR = "\x1f"  # which no table holds
_JSON = r'\s*\[?\s*\{\s*"[^"]*"\s*:'  # as an object begins, or a list of them
_MARKS: dict[Decimal, str] = {"point": ".", "comma": ","}
_ENCODINGS = ("utf-8-sig", "cp1252", "latin-1")  # the last of which knows every byte


def _written(decimal: str, thousands: str) -> re.Pattern[str]:
    grouped = rf"[1-9]\d{{0,2}}(?:{thousands}\d{{3}})+"
    return re.compile(rf"[+-]?(?:(?:{grouped}|\d+)(?:{decimal}\d*)?|{decimal}\d+)(?:[eE][+-]?\d+)?")


_WRITTEN: dict[Decimal, re.Pattern[str]] = {"point": _written(r"\.", ","), "comma": _written(",", r"\.")}


@dataclass(frozen=True)
class Table:
    """Rows with their target, and where they came from.

    Attributes
    ----------
    frame : DataFrame
    target : str
        One of its columns.
    task : {"classification", "regression"} or None
        What is asked of a bundled data set.
    source, sha256 : str
        The file or the name, and the hash of what is in it.
    decimal : {"point", "comma"} or None
        How a CSV file writes decimals, where it tells.
    images : ImageForm or None
        What is seen of each image, where rows are images or name them.
    """

    frame: pd.DataFrame
    target: str
    task: Task | None
    source: str
    sha256: str
    decimal: Decimal | None = None
    images: ImageForm | None = None


def load_table(
    source: str,
    target: str | None = None,
    data_dir: str | None = None,
    *,
    decimal: Decimal | None = None,
    likely: Decimal | None = None,
    image_size: Sequence[int] | int | None = None,
    image_colour: Colour | None = None,
    on_image: OnImage | None = None,
) -> Table:
    """Read a file, a folder of images, or a bundled data set by its name.

    Parameters
    ----------
    source : str
        A CSV file (comma, semicolon or tab; a first row of names), also packed as `.gz` or the like, a Parquet file,
        arrays of NumPy's, a folder of folders of images, or a name of `BUNDLED`. A column of a file that names images
        is replaced by their pixels.
    target : str, optional
        The column to predict; bundled data sets know theirs, that of a folder of images is `class`, and of arrays one
        may be called so.
    data_dir : str, optional
        Where the files of `mnist` are.
    decimal, likely : {"point", "comma"}, optional
        As for `read_frame`.
    image_size, image_colour, on_image
        The `size`, `colour` and `on_image` of `read_images`.

    Raises
    ------
    ValueError
        When there is no such file or name, it is empty or no table, or the target is not named or not there.
    """
    path = Path(source)
    if source in BUNDLED and not path.is_file():
        if holds_images(path):
            warnings.warn(f"{source} is the data set of this name; write ./{source} for the folder", stacklevel=2)
        table = _load_bundled(source, target, data_dir)
    elif path.is_dir():
        read = read_folder(path, target, image_size, image_colour, on_image)
        table = Table(read.frame, CLASS, "classification", source, read.sha256, images=read.form)
    else:
        table = _load_file(source, target, decimal, likely)
        column = None
        if table.images is None:
            column = image_column(table.frame.drop(columns=table.target), path.parent)
        if column is not None:
            read = read_images(path.parent, names_in(table.frame, column), image_size, image_colour, on_image)
            frame, sha256 = _with_pixels(table.frame, column, read.frame), _both(table.sha256, read.sha256)
            table = replace(table, frame=frame, sha256=sha256, images=read.form)
    check_target(table.frame, table.target)
    return table


def _load_bundled(name: str, target: str | None, data_dir: str | None) -> Table:
    bundled = load_bundled(name, data_dir)
    known = bundled.target if target is None else target
    digest = hashlib.sha256(pd.util.hash_pandas_object(bundled.frame, index=False).to_numpy().tobytes()).hexdigest()
    task = bundled.task if known == bundled.target else None
    return Table(bundled.frame, known, task, name, digest, images=bundled.images)


def _load_file(source: str, target: str | None, decimal: Decimal | None, likely: Decimal | None) -> Table:
    path = Path(source)
    if _is_stream(path):
        raise ValueError(
            f"{source} is no file that can be read again, as what a run is made from must be; save it as one"
        )
    if is_image(path):
        raise ValueError(f"{source} is one image; name a folder, each folder in which holds the images of a class")
    found, images = None, None
    if is_array(path):
        arrays = read_arrays(path, target)
        frame, target, images = arrays.frame, arrays.target, arrays.images
    else:
        frame, found = _read(path, decimal, likely, least=2)
    if target is None:
        raise ValueError(
            f"say which column to predict with --target (target=); {source} has "
            f"{', '.join(map(str, frame.columns[:12]))}{', …' if len(frame.columns) > 12 else ''}"
        )
    check_target(frame, target)
    return Table(frame, target, None, source, hashlib.sha256(path.read_bytes()).hexdigest(), found, images)


def read_rows(
    source: str,
    images: ImageForm | None,
    columns: Sequence[str],
    target: str,
    classes: Sequence[str] = (),
    *,
    decimal: Decimal | None = None,
    likely: Decimal | None = None,
    as_written: Collection[str] = (),
    on_image: OnImage | None = None,
) -> pd.DataFrame:
    """Read rows for a model: a CSV or Parquet file, arrays of NumPy's, an image, or a folder of images.

    Parameters
    ----------
    source : str
    images : ImageForm or None
        What the model sees of an image, if it sees any.
    columns : sequence of str
        The columns that it takes.
    target : str
        What it predicts.
    classes : sequence of str
        Which there are, as a folder of one of these names says what the images in it are.
    as_written : collection of str
        Columns of a CSV file whose values are no numbers, such as an identifier 10.100, however they look.
    decimal, likely, on_image
        As for `load_table`.

    Raises
    ------
    ValueError
        When there is no such file, it is empty or no table, images cannot be read, or the model sees none.
    """
    path = Path(source)
    if path.is_dir() or is_image(path):
        if images is None:
            kind = "a folder" if path.is_dir() else "an image"
            raise ValueError(
                f"{source} is {kind}, and the model was trained with a table; name a CSV, Parquet or array file"
            )
        return read_new(path, images, target, classes, on_image)
    if is_array(path):
        frame = rows_of(path, columns, target, images)
    else:
        frame, _ = _read(path, decimal, likely, least=1, as_written=as_written)
    if images is None:
        return frame
    column = image_column(frame, path.parent)
    if column is None:
        if frame.columns.intersection(images.columns).empty:
            raise ValueError(
                f"{source} has no column that names images, which the model was trained with: their paths from "
                f"{path.parent.absolute()}"
            )
        return frame
    return _with_pixels(frame, column, with_form(images, path.parent, names_in(frame, column), on_image))


def source_sha256(
    source: str, images: ImageForm | None, *, decimal: Decimal | None = None, likely: Decimal | None = None
) -> str:
    """The hash of what a file or a folder holds, as `load_table` has it; `images` is that of `read_rows`."""
    path = Path(source)
    if path.is_dir():
        return folder_sha256(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if images is None:
        return sha256
    with warnings.catch_warnings(action="ignore"):  # what is to be said of the file was said as its rows were read
        frame = read_arrays(path).frame if is_array(path) else read_frame(path, decimal=decimal, likely=likely)
    column = image_column(frame, path.parent)
    return sha256 if column is None else _both(sha256, images_sha256(path.parent, names_in(frame, column)))


def _with_pixels(frame: pd.DataFrame, column: str, pixels: pd.DataFrame) -> pd.DataFrame:
    """A table whose rows are named by a column of images, which are in its place."""
    rest = frame.drop(columns=column).set_index(pixels.index)
    return pd.concat([rest, pixels], axis=1)


def _both(table: str, images: str) -> str:
    return hashlib.sha256(f"{table} {images}".encode()).hexdigest()


def read_frame(path: str | Path, *, decimal: Decimal | None = None, likely: Decimal | None = None) -> pd.DataFrame:
    """Read a CSV or Parquet file; the values of a CSV file stay text until a schema says what they are.

    Parameters
    ----------
    path : str or Path
        `-` is standard input. What is packed, as `.gz`, `.bz2`, `.xz` or alone in a `.zip`, is unpacked.
    decimal : {"point", "comma"}, optional
        How a CSV file writes decimals. By default the file tells: commas between its values, or one number that is
        none otherwise.
    likely : {"point", "comma"}, optional
        How it does where it does not tell.

    Raises
    ------
    ValueError
        When there is no such file, it is empty or no table, or its numbers could be one or the other.
    """
    return _read(Path(path), decimal, likely, least=1)[0]


def check_target(frame: pd.DataFrame, target: str) -> None:
    """See that there is a target.

    Raises
    ------
    ValueError
        When there is no such column, or more than one.
    """
    if target not in frame.columns:
        names = [str(name) for name in frame.columns]
        near = nearest(str(target), names)
        hint = (
            f"did you mean {near!r}?"
            if near is not None
            else f"the columns are {', '.join(names[:12])}" + (", …" if len(names) > 12 else "")
        )
        raise ValueError(f"there is no column {target!r} to predict; {hint}")
    check_names(frame[[target]].columns)


def nearest(name: str, names: Sequence[str]) -> str | None:
    """The name that one was likely meant to be, in small letters or capitals, if there is one.

    Examples
    --------
    >>> nearest("PRICE", ["size", "Prize", "price"]), nearest("town", ["size", "price"])
    ('price', None)
    """
    folded = {other.casefold(): other for other in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[near[0]] if near else None


def check_names(names: pd.Index) -> None:
    """See that no two columns share a name.

    Raises
    ------
    ValueError
        When two do.
    """
    twice = names[names.duplicated()]
    if len(twice):
        raise ValueError(f"there are {sum(names == twice[0])} columns of the name {twice[0]!r}; rename them")


def _read(
    path: Path, decimal: Decimal | None, likely: Decimal | None, *, least: int, as_written: Collection[str] = ()
) -> tuple[pd.DataFrame, Decimal | None]:
    """A file's rows, of at least so many columns where it is CSV, and how it writes decimals."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a CSV or Parquet file in it")
    if not path.is_file() and not _is_stream(path):
        near = difflib.get_close_matches(str(path), BUNDLED, n=1)
        hint = f"; did you mean the bundled {near[0]!r}?" if near else f" (bundled data sets: {', '.join(BUNDLED)})"
        raise ValueError(f"there is no file {path}{hint}")
    content = _unpacked(path, sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes())
    if not content.strip():
        raise ValueError(f"{path} is empty")
    if content[:4] == b"PAR1":
        frame = _read_parquet(path, content)
    else:
        text, separator = _separated(_decoded(path, content))
        if re.match(_JSON, text):
            raise ValueError(f"{path} is no CSV file but JSON; write it as CSV, as pandas' read_json and to_csv do")
        frame = _read_csv(path, text, separator)
        if len(frame.columns) < least:
            raise ValueError(
                f"{path} is no CSV file of several columns: "
                "nothing in its first line is separated by a comma, semicolon or tab"
            )
        decimal = decimal or _decimal(path, frame, separator, likely)
        frame = _with_points(frame, decimal, as_written)
    frame.columns = [str(name).strip() for name in frame.columns]
    check_names(frame.columns)
    if frame.empty:
        raise ValueError(f"{path} has no rows below its names")
    return frame, decimal


def _is_stream(path: Path) -> bool:
    """Whether it is standard input, a pipe or the like, which can be read once."""
    return str(path) == "-" or (path.exists() and not path.is_file() and not path.is_dir())


def _unpacked(path: Path, content: bytes) -> bytes:
    """What is in a file, or in the one file in it where it is packed."""
    unpack = next((unpack for mark, unpack in _PACKED.items() if re.match(mark, content)), None)
    if unpack is None:
        return content
    try:
        return unpack(content)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError) as error:
        raise ValueError(f"{path} is packed, and cannot be unpacked: {error}") from None


def _unzipped(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = [file for file in archive.infolist() if not file.is_dir() and not file.filename.startswith("__MACOSX")]
        return archive.read(files[0]) if len(files) == 1 else content  # several are a spreadsheet, or who knows what


_PACKED: dict[bytes, Callable[[bytes], bytes]] = {
    rb"\x1f\x8b": gzip.decompress,
    rb"BZh[1-9]1AY&SY": bz2.decompress,
    rb"\xfd7zXZ\0": lzma.decompress,
    rb"PK\x03\x04": _unzipped,
}
"""How files that are packed begin, and what unpacks them."""


def _read_parquet(path: Path, content: bytes) -> pd.DataFrame:
    def read(**options: Any) -> pd.DataFrame:
        frame = pd.read_parquet(io.BytesIO(content), **options)
        named = [name for name in frame.index.names if name is not None]
        return frame.reset_index(named, allow_duplicates=True)  # an index with a name is a column like any other

    try:
        frame = read()
        lacking = [k for k, kind in enumerate(frame.dtypes) if kind.kind == "f" and frame.iloc[:, k].hasnans]
        if lacking:  # whole numbers, as soon as one is null, have become decimal ones, which end at 16 digits
            nullable = read(dtype_backend="numpy_nullable")
            for k in lacking:
                if nullable.dtypes.iloc[k].kind in "iu":
                    frame.isetitem(k, nullable.iloc[:, k].array)
    except Exception as error:  # pyarrow raises errors of many kinds
        raise ValueError(f"{path} is a damaged Parquet file: {error}") from None
    return frame


def _decoded(path: Path, content: bytes) -> str:
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as Windows PowerShell and Excel write
    for encoding in ("utf-16", *_ENCODINGS) if marked else _ENCODINGS:
        try:
            text = content.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    if "\0" in text:
        raise ValueError(
            f"{path} is neither a CSV nor a Parquet file: it holds binary data; save a spreadsheet as CSV, unpack an "
            "archive, and save arrays by numpy.save or numpy.savez, under a name that ends in .npy or .npz"
        )
    return text


def _separated(text: str) -> tuple[str, str]:
    """A table's text, and what stands between the values of a row."""
    told = re.match(r'\s*"?sep=(.)"?[ \t]*\r?\n', text, re.IGNORECASE)  # as Excel has it
    if told:
        return text[told.end() :], told[1]
    lines = [line for line in text.splitlines() if line.strip()]
    names = lines[0] if lines else ""
    found = [x for x in _SEPARATORS if x in names]
    if len(found) == 1:  # in the rows there may be decimal commas too
        return text, found[0]
    if not found and names.count('"') % 2 == 0:  # one name, which ends in this line
        return text, _NO_SEPARATOR
    counts = {x: _values_of_a_row(text, x) for x in found}
    if counts and max(counts.values()) > 1:
        return text, max(counts, key=lambda x: counts[x])
    try:
        return text, csv.Sniffer().sniff("\n".join(lines[:50]), delimiters=_SEPARATORS).delimiter
    except csv.Error:
        return text, ","


def _values_of_a_row(text: str, separator: str) -> int:
    """How many values a separator makes of each of the first rows; 0 where not of all as many."""
    rows = csv.reader(io.StringIO(text, newline=None), delimiter=separator, skipinitialspace=True)
    try:
        counts = {len(row) for row in islice(filter(None, rows), 50)}
    except csv.Error:  # of a value too long for Python's reader
        return 0
    return counts.pop() if len(counts) == 1 else 0


def _read_csv(path: Path, text: str, separator: str) -> pd.DataFrame:
    alone = separator == _NO_SEPARATOR  # a blank line then is a row whose one value is missing
    text = text.strip("\r\n") if alone else text

    def read(**options: object) -> pd.DataFrame:
        return pd.read_csv(  # type: ignore[call-overload]
            io.StringIO(text),
            sep=separator,
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
            index_col=False,
            skip_blank_lines=not alone,
            **options,
        )

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # that values are about to be dropped
            names, frame = read(header=None, nrows=1).iloc[0].str.strip(), read()
    except pd.errors.ParserWarning:
        raise ValueError(f"{path} is no CSV file: its rows hold more values than its first row has names") from None
    except ValueError as error:  # as all of the reader's errors are
        raise ValueError(f"{path} is no CSV file: {' '.join(str(error).split())}") from None
    if not alone and frame.iloc[:, -1].eq("").any():
        _say_what_is_short(path, text, separator, len(names))
    check_names(pd.Index(names[names.ne("")]))  # of two that are one, the reader has renamed the second
    return pd.DataFrame({name: _without_missing(frame[name]) for name in frame.columns})


def _say_what_is_short(path: Path, text: str, separator: str, names: int) -> None:
    """Warn of rows with fewer values than there are names, as pandas fills them up."""
    rows = csv.reader(io.StringIO(text, newline=None), delimiter=separator, skipinitialspace=True)
    try:
        lengths = [len(row) for row in rows if row not in ([], [""])]
    except csv.Error:  # of a value too long for Python's reader
        return
    short = [n for n, length in enumerate(lengths) if length < names]
    if short:
        some = f"{len(short)} rows, first row {short[0]}, hold" if len(short) > 1 else f"row {short[0]} holds"
        warnings.warn(f"{some} fewer values than {path} has names; what is not there counts as missing", stacklevel=2)


def _without_missing(values: pd.Series) -> pd.Series:
    """The column with nothing where a word says that there is nothing."""
    words = [word for word in values.unique().tolist() if word.strip().lower() in MISSING]
    return values.mask(values.isin(words)) if words else values


def _decimal(path: Path, frame: pd.DataFrame, separator: str, likely: Decimal | None) -> Decimal | None:
    """How a file writes decimals; None where nothing depends on it.

    1,5 and 1.234,5 are numbers in one way only, and 1,234 in two. What is sure says how the others are meant. Between
    commas decimals have a point, whatever is likely; where a comma is likely, "1,234" in quotes stays in doubt.
    """
    if separator == "," and likely != "comma":
        return "point"
    told: set[Decimal] = {"point"} if separator == "," else set()
    unsure: list[tuple[str, str]] = []
    for name, values in _numbers_with_marks(frame, "," if separator == "," else ",."):
        ways: list[Decimal] = [way for way, form in _WRITTEN.items() if all(map(form.fullmatch, values))]
        if len(ways) == 2:
            unsure.append((name, next(value for value in values if _has_marks(value))))
        elif separator != ",":  # beside such commas others are no decimal ones
            told |= set(ways)
    if unsure and likely:
        told.add(likely)
    if unsure and len(told) != 1:
        name, value = unsure[0]
        plain = {way: float(_plain(value, way)) for way in _WRITTEN}
        others = "its other numbers say both" if told else "nothing else in it says which"
        raise ValueError(
            f"{path} has {value!r} in column {name!r}, which is {plain['point']:.10g} with a decimal point and "
            f"{plain['comma']:.10g} with a decimal comma, and {others}; write its numbers without marks between "
            "thousands, or say which it is as you train, by data.decimal=point or data.decimal=comma"
        )
    if len(told) == 1:
        return told.pop()
    return "point" if told else likely


def _with_points(frame: pd.DataFrame, decimal: Decimal | None, as_written: Collection[str]) -> pd.DataFrame:
    """The table with 1234.5 where its numbers are written 1.234,5 or 1,234.5, but for some columns."""
    if decimal is None:
        return frame
    changed = {
        name: frame[name].str.strip().map(lambda value: _plain(value, decimal), na_action="ignore")
        for name, values in _numbers_with_marks(frame, "," if decimal == "point" else ",.")
        if name.strip() not in as_written and all(map(_WRITTEN[decimal].fullmatch, values))
    }
    return pd.DataFrame({name: changed.get(name, frame[name]) for name in frame.columns})


def _numbers_with_marks(frame: pd.DataFrame, marks: str = ",.") -> Iterator[tuple[str, list[str]]]:
    """The columns with such marks, each with all its different values but those that stand for none beside numbers."""
    for name in frame.columns:
        values = frame[name].dropna().unique().tolist()
        written = "".join(values)
        if any(mark in written for mark in marks):
            yield name, [value.strip() for value in values if value.strip().lower() not in BESIDE_NUMBERS]


def _has_marks(value: str) -> bool:
    return "," in value or "." in value


def _plain(value: str, decimal: Decimal) -> str:
    """A number as Python writes it; what is none beside numbers stays what it is."""
    thousands = "," if decimal == "point" else "."
    return value.replace(thousands, "").replace(_MARKS[decimal], ".")
