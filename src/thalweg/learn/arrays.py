"""Arrays in files, as NumPy keeps them: a table, whose rows lie along the first dimension.

An array of one number or word for each row is a column of its name; one of more is as many columns, `X_0`, `X_1` and so
on; one of bytes in the shape of images is their pixels. Of one array alone, as an `.npy` file holds it, the columns are
numbered from 0.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .images import ImageForm

Values: TypeAlias = NDArray[Any]

TARGETS = ("y", "target", "targets", "label", "labels")
"""The names of an array that is a target, where nobody says which is."""

# how the names of arrays end that are a part of the rows; of several, the first counts
_LEARNT, _JUDGED = ("_train", "_training"), ("_test", "_testing", "_val", "_valid", "_validation")


@dataclass(frozen=True)
class Arrays:
    """Arrays that have been read.

    Attributes
    ----------
    frame : DataFrame
    target : str or None
        The column that was asked for, or that is called as a target is.
    images : ImageForm or None
        What the pixels among the columns are.
    """

    frame: pd.DataFrame
    target: str | None
    images: ImageForm | None


def is_array(path: Path) -> bool:
    """Whether it is a file whose name ends as those of arrays do."""
    return path.suffix.lower() in (".npy", ".npz") and path.is_file()


def read_arrays(path: Path, target: str | None = None, *, learnt: bool = True) -> Arrays:
    """Read an `.npy` or `.npz` file.

    Parameters
    ----------
    path : Path
    target : str, optional
        The array of an `.npz` file, or the column, that is predicted; by default the array with the first name of
        `TARGETS`.
    learnt : bool
        Of `x_train` and `x_test`, which one `x` is: the rows that are learnt from, or those that are not.

    Raises
    ------
    ValueError
        When the file is damaged, holds objects of Python, no rows, or two arrays that become a column of one name.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from thalweg.learn.arrays import read_arrays
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "flowers.npz"
    >>> np.savez(path, X=np.ones((4, 2)), y=np.array(["a", "b", "a", "b"]))
    >>> arrays = read_arrays(path)
    >>> list(arrays.frame), arrays.target
    (['X_0', 'X_1', 'y'], 'y')
    """
    found = _load(path)
    if isinstance(found, np.ndarray):
        return Arrays(_frame(path, _columns_of_one(path, found)), target, None)
    arrays, target = _of_part(found, learnt), None if target is None else _stem(target)
    if target is None:
        target = next((name for name in TARGETS if name in arrays), None)
    arrays = _with_rows(path, arrays, target)
    form = _form_of(path, {name: x for name, x in arrays.items() if name != target})
    if target is not None and target in arrays:
        y = arrays[target]
        if y[0].size != 1:
            raise ValueError(
                f"{target!r} in {path} is an array of {_shape(y)}; what is predicted is one number or label for each "
                "row"
            )
        arrays[target] = y.reshape(len(y))  # and so no image
    return Arrays(_frame(path, _columns(path, arrays, form)), target, form)


def rows_of(path: Path, names: Sequence[str], target: str, images: ImageForm | None) -> pd.DataFrame:
    """Read rows for a model that takes columns of these names, among them the pixels of images of that form, if any.

    The columns of one array alone go by their place.

    Raises
    ------
    ValueError
        As for `read_arrays`, and when images have another form, or one array alone another number of columns.
    """
    found = read_arrays(path, target, learnt=False)
    frame = found.frame
    if found.images not in (None, images):
        seen = "no images" if images is None else images.describe()
        raise ValueError(f"{path} holds images of {found.images.describe()}, and the model takes {seen}")
    if path.suffix.lower() == ".npz" or set(names) <= set(frame.columns):
        return frame
    if len(frame.columns) != len(names):
        raise ValueError(
            f"{path} holds an array of {len(frame.columns)} columns, and the model takes {len(names)}: {_listed(names)}"
        )
    return frame.set_axis(list(names), axis=1)


def has_rows_apart(path: Path) -> bool:
    """Whether a file holds rows to judge by, as `x_test` is, which are not learnt from."""
    found = _opened(path)
    return not isinstance(found, np.ndarray) and any(_end(name) in _JUDGED for name in found.files)


def _opened(path: Path) -> Any:
    """An array, or what reads the arrays of a file one by one."""
    return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)


def _load(path: Path) -> Values | dict[str, Values]:
    try:
        found = _opened(path)
        return found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        if "Object arrays" in str(error):
            raise ValueError(
                f"{path} holds objects of Python, which could run any code as they are read; save arrays of numbers or "
                "text, with astype(float) or astype(str)"
            ) from None
        raise ValueError(f"{path} is no file of NumPy's, or is damaged") from None


def _of_part(arrays: dict[str, Values], learnt: bool) -> dict[str, Values]:
    """The arrays by names without `_train` and the like; of those for several parts of the rows, one part's.

    All of a part end alike, as rows of one part have no answers in another. An array without an ending belongs to every
    part, unless the part has one of its name.
    """
    ends = (*_LEARNT, *_JUDGED) if learnt else (*_JUDGED, *_LEARNT)
    end = next((end for end in ends if end in map(_end, arrays)), "")
    own = {_stem(name) for name in arrays if end and _end(name) == end}
    rivals = ("", *(_LEARNT if end in _LEARNT else _JUDGED))
    taken: dict[str, Values] = {}
    left_out: list[str] = []
    for name, x in arrays.items():
        if _end(name) == end or (not _end(name) and name not in own):
            taken[_stem(name)] = x
        elif _end(name) in rivals:
            left_out.append(name)
    if left_out:
        verb = "is" if len(left_out) == 1 else "are"
        warnings.warn(f"{_listed(left_out)} {verb} left out, beside arrays that end in {end}", stacklevel=3)
    return taken


def _end(name: str) -> str:
    """How a name ends that says of which part of the rows an array is."""
    return next((end for end in (*_LEARNT, *_JUDGED) if name.lower().endswith(end) and len(name) > len(end)), "")


def _stem(name: str) -> str:
    return name[: len(name) - len(_end(name))]


def _with_rows(path: Path, arrays: dict[str, Values], target: str | None) -> dict[str, Values]:
    """The arrays with as many rows as the target has, or else the largest of them."""
    if not arrays:
        raise ValueError(f"{path} holds no arrays")
    chief = target if target in arrays else max(arrays, key=lambda name: arrays[name].size)
    rows = _rows(arrays[chief])
    if not rows:
        raise ValueError(f"{path} holds no rows, but {chief}, an array of {_shape(arrays[chief])}")
    others = [f"{name} ({_shape(x)})" for name, x in arrays.items() if _rows(x) != rows]
    if others:
        verb = "is" if len(others) == 1 else "are"
        warnings.warn(f"{_listed(others)} {verb} left out: {chief} has {rows} rows", stacklevel=3)
    return {name: x for name, x in arrays.items() if _rows(x) == rows}


def _rows(x: Values) -> int:
    return len(x) if x.ndim else 0


def _shape(x: Values) -> str:
    return " × ".join(map(str, x.shape)) or "one number"


def _listed(names: Sequence[str]) -> str:
    return shorten(", ".join(names), 100, placeholder=" …")


def _form_of(path: Path, arrays: dict[str, Values]) -> ImageForm | None:
    """What the images among the arrays are: bytes of (N, height, width), a last dimension of 1 or 3 for colours."""
    found = {name: x for name, x in arrays.items() if _is_images(x)}
    if len(found) > 1:
        names = list(found)
        raise ValueError(f"{names[0]!r} and {names[1]!r} in {path} both hold images, and a row has one; leave one out")
    for x in found.values():
        height, width, *channels = _channels_last(x).shape[1:]
        return ImageForm(height=height, width=width, colour="rgb" if channels == [3] else "grey")
    return None


def _is_images(x: Values) -> bool:
    return (
        x.dtype == np.uint8 and x.size > 0 and (x.ndim == 3 or (x.ndim == 4 and _channels_last(x).shape[3] in (1, 3)))
    )


def _channels_last(x: Values) -> Values:
    """Images as NumPy's users have them; PyTorch's have the colours first."""
    first = x.ndim == 4 and x.shape[3] not in (1, 3) and x.shape[1] in (1, 3)
    return np.moveaxis(x, 1, 3) if first else x


def _columns(path: Path, arrays: Mapping[str, Values], form: ImageForm | None) -> dict[str, Values]:
    """What arrays become, beside each other."""
    columns: dict[str, Values] = {}
    sources: dict[str, str] = {}
    for name, x in arrays.items():
        for column, y in _columns_of(path, name, x, form).items():
            if column in columns:
                raise ValueError(
                    f"{sources[column]!r} and {name!r} in {path} both become a column {column!r}; rename one of them"
                )
            columns[column], sources[column] = y, name
    return columns


def _columns_of(path: Path, name: str, x: Values, form: ImageForm | None) -> dict[str, Values]:
    """What one array becomes."""
    if form is not None and _is_images(x):
        return dict(zip(form.columns, _channels_last(x).reshape(len(x), -1).T, strict=True))
    if x.dtype.names is not None:
        return _columns(path, {f"{name}_{part}": x[part] for part in x.dtype.names}, None)
    if x[0].size == 1:
        return {name: x.reshape(len(x))}
    places = ["_".join(map(str, place)) for place in product(*map(range, x.shape[1:]))]
    return dict(zip((f"{name}_{place}" for place in places), x.reshape(len(x), -1).T, strict=True))


def _columns_of_one(path: Path, x: Values) -> dict[str, Values]:
    """The columns of an array alone: by its fields, or by their places."""
    if not _rows(x):
        raise ValueError(f"{path} holds no rows, but an array of {_shape(x)}")
    if x.dtype.names is not None:
        return _columns(path, {part: x[part] for part in x.dtype.names}, None)
    return {str(place): y for place, y in enumerate(x.reshape(len(x), -1).T)}


def _frame(path: Path, columns: dict[str, Values]) -> pd.DataFrame:
    for name, x in columns.items():
        if x.dtype.kind not in "biufUSMm":
            raise ValueError(f"{name!r} in {path} is of {x.dtype}; it must hold numbers, text or dates")
    return pd.DataFrame({name: _plain(x) for name, x in columns.items()})


def _plain(x: Values) -> Values:
    """Values as a column of a table has them."""
    if x.dtype.kind == "S":
        return np.char.decode(x, "utf-8", "replace").astype(object)
    if x.dtype.kind == "U":
        return x.astype(object)
    if x.dtype.kind == "f" and x.dtype.itemsize != 8:
        return x.astype(np.float64)
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))
