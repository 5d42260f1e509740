"""Data sets that come by name: those of scikit-learn, three toy rivers, and MNIST from its IDX files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn import datasets

from .images import Colour, ImageForm

Task = Literal["classification", "regression"]

_TOY_ROWS = 1000
_IDX_DIMENSIONS = {"images": (3, 4), "labels": (1,)}  # of four, the last holds the colours of a pixel


@dataclass(frozen=True)
class Bundled:
    """A table that is known by name: its target is the last column, and the others may be the pixels of images."""

    frame: pd.DataFrame
    target: str
    task: Task
    images: ImageForm | None = None


def load_bundled(name: str, data_dir: str | None = None) -> Bundled:
    """Load one of `BUNDLED`.

    Parameters
    ----------
    name : str
        One of `BUNDLED`.
    data_dir : str, optional
        For `mnist`: the folder with the four IDX files, plain or `.gz`; without it they come from OpenML.

    Raises
    ------
    ValueError
        When the name is not known, or files of `mnist` are missing or damaged.

    Examples
    --------
    >>> from thalweg.learn.datasets import load_bundled
    >>> wine = load_bundled("wine")
    >>> wine.frame.shape, wine.target, wine.task
    ((178, 14), 'cultivar', 'classification')
    """
    if name not in BUNDLED:
        raise ValueError(f"there is no bundled data set {name!r}; choose from {', '.join(BUNDLED)}")
    return _mnist(data_dir) if name == "mnist" else BUNDLED[name]()


def _from_sklearn(load: Callable[..., Any], target: str, task: Task) -> Callable[[], Bundled]:
    def loader() -> Bundled:
        bunch = load(as_frame=True)
        answer = bunch.target
        names = getattr(bunch, "target_names", None)
        if task == "classification" and names is not None and isinstance(names[0], str):
            answer = answer.map(dict(enumerate(map(str, names))))
        return Bundled(bunch.data.assign(**{target: answer}), target, task)

    return loader


def _toy(points: Callable[[], tuple[np.ndarray, np.ndarray]], names: tuple[str, str]) -> Callable[[], Bundled]:
    def loader() -> Bundled:
        x, y = points()
        frame = pd.DataFrame({"x": x[:, 0], "y": x[:, 1], "class": np.array(names)[y]})
        return Bundled(frame, "class", "classification")

    return loader


def _spirals() -> tuple[np.ndarray, np.ndarray]:
    """Two arms of a spiral, each turning once and a half."""
    rng = np.random.default_rng(0)
    y = np.arange(_TOY_ROWS) % 2
    radius = np.sqrt(rng.uniform(0.02, 1.0, _TOY_ROWS))
    angle = 3 * np.pi * radius + np.pi * y
    x = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    return x + 0.02 * rng.standard_normal(x.shape), y


def _mnist(data_dir: str | None) -> Bundled:
    """Train and test rows together, the 60 000 first; pixels from 0 to 255."""
    if data_dir is None:
        return _mnist_from_openml()
    folder = Path(data_dir)
    parts = []
    for part in ("train", "t10k"):
        images, labels = (_read_idx(_idx_file(folder, part, kind), kind) for kind in ("images", "labels"))
        if len(images) != len(labels):
            raise ValueError(
                f"{folder} holds {len(images)} {part} images but {len(labels)} labels; fetch the files anew"
            )
        parts.append((images, labels))
    sizes = [images.shape[1:] for images, _ in parts]
    if sizes[0] != sizes[1] or 0 in sizes[0]:
        train, test = (" × ".join(map(str, size)) for size in sizes)
        raise ValueError(
            f"{folder} must hold train and t10k images of one size, but has {train} and {test} pixels; "
            "fetch the files anew"
        )
    height, width, channels = (*sizes[0], 1)[:3]
    if channels not in (1, 3):
        raise ValueError(f"{folder} must hold images of 1 or 3 numbers for each pixel, but has {channels}")
    images, digits = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return _digits(images.reshape(len(images), -1), digits, height, width, "grey" if channels == 1 else "rgb")


def _mnist_from_openml() -> Bundled:
    try:
        bunch = datasets.fetch_openml("mnist_784", version=1, as_frame=True, parser="auto")
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"mnist could not be fetched from OpenML ({error}); give the folder that holds its IDX files "
            "(train-images-idx3-ubyte and so on) as data_dir"
        ) from None
    return _digits(bunch.data.to_numpy(), bunch.target.astype(int).to_numpy(), 28, 28)


def _digits(pixels: np.ndarray, digits: np.ndarray, height: int, width: int, colour: Colour = "grey") -> Bundled:
    form = ImageForm(height=height, width=width, colour=colour)
    frame = pd.DataFrame(pixels, columns=form.columns)
    return Bundled(frame.assign(digit=digits), "digit", "classification", form)


def _idx_file(folder: Path, part: str, kind: str) -> Path:
    if not folder.is_dir():
        raise ValueError(f"data_dir must be a folder that holds the IDX files of mnist, but {folder} is none")
    dimensions = _IDX_DIMENSIONS[kind]
    names = [f"{part}-{kind}{dot}idx{n}-ubyte{end}" for n in dimensions for dot in "-." for end in ("", ".gz")]
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise ValueError(f"{folder} lacks {names[0]} (or {names[1]})")
    return found[0]


def _read_idx(path: Path, kind: str) -> np.ndarray:
    """An IDX file: a magic number, its sizes, its bytes (http://yann.lecun.com/exdb/mnist)."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} could not be read: {error}") from None
    magic = {2048 + n: n for n in _IDX_DIMENSIONS[kind]}  # 2048 says that it holds bytes
    dimensions = magic.get(int.from_bytes(content[:4], "big"), 0)
    head = 4 * (dimensions + 1)
    if not dimensions or len(content) < head:
        numbers = " or ".join(map(str, magic))
        raise ValueError(f"{path} is no IDX file of {kind}: it should begin with the number {numbers}")
    sizes = struct.unpack(f">{dimensions}i", content[4:head])
    if any(size < 0 for size in sizes) or len(content) - head != math.prod(sizes):
        raise ValueError(
            f"{path} is damaged: it announces {' × '.join(map(str, sizes))} bytes and holds {len(content) - head}"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(sizes)


BUNDLED: dict[str, Callable[..., Bundled]] = {
    "digits": _from_sklearn(datasets.load_digits, "digit", "classification"),
    "iris": _from_sklearn(datasets.load_iris, "species", "classification"),
    "wine": _from_sklearn(datasets.load_wine, "cultivar", "classification"),
    "breast_cancer": _from_sklearn(datasets.load_breast_cancer, "diagnosis", "classification"),
    "diabetes": _from_sklearn(datasets.load_diabetes, "progression", "regression"),
    "moons": _toy(lambda: datasets.make_moons(_TOY_ROWS, noise=0.15, random_state=0), ("upper", "lower")),
    "circles": _toy(
        lambda: datasets.make_circles(_TOY_ROWS, noise=0.06, factor=0.5, random_state=0), ("outer", "inner")
    ),
    "spirals": _toy(_spirals, ("one", "other")),
    "mnist": _mnist,
}
"""Every data set that has a name here."""
