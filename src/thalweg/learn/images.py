"""Images: folders of them, and tables that name them, as the pixels of one size that a model takes.

What is seen of an image is decided once, by those that a model is trained with, and kept with the model as an
`ImageForm`; new images are brought to the same. pixels: (height, width) where grey, (height, width, 3) in colour,
from 0 for black to 255.
"""

from __future__ import annotations

import hashlib
import io
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from .values import a_few, bare_text, labels_of, says_numbers, text_of

if TYPE_CHECKING:
    from PIL import Image

Colour: TypeAlias = Literal["grey", "rgb"]
Pixels: TypeAlias = NDArray[Any]
OnImage: TypeAlias = Callable[[int, int], None]
"""Called as each image has been read, with how many have been, and of how many."""

CLASS = "class"
"""The target of a folder of images: the name of the folder that an image is in."""

_ENDINGS = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
        *(".pbm", ".pnm", ".tga", ".avif", ".jp2", ".heic", ".heif"),  # the last two to be refused, not left out
    )
)
_TABLES = (".csv", ".tsv", ".parquet")
_CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})  # which systems leave in folders
_RUN = {"config.yaml", "data.json"}  # a folder with these is a run, and the images in it are its figures
_TO_LEARN = frozenset({"train", "training"})
_TO_JUDGE = frozenset({"test", "testing", "val", "valid", "validation", "dev", "eval", "holdout"})

_MOST_PIXELS = 32 * 32  # of an image, where no size is asked for
_MOST_NUMBERS = 500_000_000  # of all images: 4 GB, as the features they become
_TINT = 8  # by how much the channels of grey pixels may differ, as photographs' do from rounding
_WORKERS = min(8, os.cpu_count() or 1)


class ImageForm(BaseModel):
    """What a model sees of each image.

    Attributes
    ----------
    height, width : int
        The size that every image is brought to.
    colour : {"grey", "rgb"}
        Whether a pixel is one number, or three.

    Examples
    --------
    >>> from thalweg.learn.images import ImageForm
    >>> form = ImageForm(height=1, width=2, colour="rgb")
    >>> form.columns
    ['pixel_0_0_red', 'pixel_0_0_green', 'pixel_0_0_blue', 'pixel_0_1_red', 'pixel_0_1_green', 'pixel_0_1_blue']
    >>> form.describe()
    '1 × 2 pixels in colour'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    height: int
    width: int
    colour: Colour

    @property
    def columns(self) -> list[str]:
        """The names of the columns that its pixels become: row, place in the row and, in colour, which of the three."""
        channels = [""] if self.colour == "grey" else ["_red", "_green", "_blue"]
        return [f"pixel_{y}_{x}{c}" for y in range(self.height) for x in range(self.width) for c in channels]

    def describe(self) -> str:
        """In words."""
        return f"{self.height} × {self.width} pixels{', grey' if self.colour == 'grey' else ' in colour'}"


@dataclass(frozen=True)
class Images:
    """Images that have been read.

    Attributes
    ----------
    frame : DataFrame
        A row for each, with its pixels; the index, `file`, names it.
    form : ImageForm
        What is seen of each.
    sha256 : str
        The hash of their names and of what is in their files.
    """

    frame: pd.DataFrame
    form: ImageForm
    sha256: str


def holds_images(folder: Path) -> bool:
    """Whether it is a folder with images in folders."""
    return folder.is_dir() and any("/" in name for name in _walk(folder)[0])


def is_image(path: Path) -> bool:
    """Whether it is a file whose name ends as those of images do."""
    return path.suffix.lower() in _ENDINGS and path.is_file()


def read_images(
    folder: Path,
    names: Sequence[str],
    size: Sequence[int] | int | None = None,
    colour: Colour | None = None,
    on_image: OnImage | None = None,
) -> Images:
    """Read images, and bring all of them to one form.

    An image is turned as its EXIF orientation says, laid on white where it is transparent, and stretched to the size.
    Of one that moves, the first frame counts.

    Parameters
    ----------
    folder : Path
    names : sequence of str
        Paths from that folder, at least one.
    size : int or (int, int), optional
        The height and width, one number where they are the same. By default the median height and the median width,
        made smaller together until there are no more than 1024 pixels.
    colour : {"grey", "rgb"}, optional
        By default grey where all images are.
    on_image : callable, optional
        Called as each has been read.

    Raises
    ------
    ValueError
        When some cannot be read, which are named, when all of them are too much to hold, or without Pillow.
    """
    _pillow()
    if size is None:
        size = _choose_size(_each(_shape, folder, names))
    height, width = (size, size) if isinstance(size, int) else size
    _check_amount(len(names), height * width * (3 if colour == "rgb" else 1))
    read = _each(lambda path: _read(path, height, width), folder, names, on_image)
    if colour is None:
        colour = "rgb" if any(_is_tinted(pixels) for pixels, _ in read) else "grey"
        _check_amount(len(names), height * width * (3 if colour == "rgb" else 1))
    form = ImageForm(height=height, width=width, colour=colour)
    pixels = np.stack([_coloured(pixels, colour) for pixels, _ in read]).reshape(len(names), -1)
    index = pd.Index([_text(name) for name in names], name="file", dtype=object)
    return Images(pd.DataFrame(pixels, index, form.columns), form, _digest(names, [digest for _, digest in read]))


def read_folder(
    folder: Path,
    target: str | None = None,
    size: Sequence[int] | int | None = None,
    colour: Colour | None = None,
    on_image: OnImage | None = None,
) -> Images:
    """Read a folder to learn from, each folder in which is a class with its images, in whatever folders of its own.

    What is left out, such as files that are no images, a warning says. The target can be none but `class`; the other
    arguments are those of `read_images`.

    Returns
    -------
    Images
        With a further column, `class`.

    Raises
    ------
    ValueError
        When there are no two classes to tell apart, when the folders are parts of a split instead, or as for
        `read_images`.
    """
    found, others = _walk(folder)
    names = [name for name in found if "/" in name]
    _check_classes(folder, found, others)
    if target not in (None, CLASS):
        raise ValueError(
            f"{folder} is a folder of images, and the folders in it say what they are: leave out the target, or name a "
            f"table with a column {target!r} and one of the names of images"
        )
    classes = {_class_of(name) for name in names}
    _note_left_out(folder, [name for name in found if "/" not in name], others, classes)
    images = read_images(folder, names, size, colour, on_image)
    labels = pd.Series([_class_of(name) for name in names], images.frame.index, dtype=object)
    return Images(images.frame.assign(**{CLASS: labels}), images.form, images.sha256)


def read_new(
    path: Path, form: ImageForm, target: str, classes: Sequence[str], on_image: OnImage | None = None
) -> pd.DataFrame:
    """Read an image, or all in a folder, as a model sees them.

    The first folder on the way to an image says its class where it is one of those known; where none is, there is no
    target.

    Raises
    ------
    ValueError
        When there are none, or as for `read_images`.
    """
    if not path.is_dir():
        return with_form(form, path.parent, [path.name], on_image)
    names, others = _walk(path)
    if not names:
        raise ValueError(f"{path} holds no images{_instead(others)}")
    _note_left_out(path, [], others)
    frame = with_form(form, path, names, on_image)
    known = [_class_of(name) if _class_of(name) in classes else None for name in names]
    return frame.assign(**{target: pd.Series(known, frame.index, dtype=object)}) if any(known) else frame


def with_form(form: ImageForm, folder: Path, names: Sequence[str], on_image: OnImage | None = None) -> pd.DataFrame:
    """Read images in a form that was decided before."""
    return read_images(folder, names, (form.height, form.width), form.colour, on_image).frame


def image_column(frame: pd.DataFrame, folder: Path) -> str | None:
    """The column of a table that names images, by their paths from a folder, if there is one.

    Raises
    ------
    ValueError
        When there are two of them.
    """
    found = [str(name) for name in frame.columns if _names_images(frame[name], folder)]
    if len(found) > 1:
        raise ValueError(f"columns {found[0]!r} and {found[1]!r} both name images, and a row has one; leave one out")
    return found[0] if found else None


def names_in(frame: pd.DataFrame, column: str) -> list[str]:
    """What a column names in each row.

    Raises
    ------
    ValueError
        When a row names nothing.
    """
    names = list(text_of(frame[column]))
    if "" in names:
        raise ValueError(f"column {column!r} names no image in row {names.index('') + 1}; name one, or drop the row")
    return names


def folder_sha256(folder: Path) -> str:
    """The hash of a folder to learn from, as `read_folder` has it."""
    return images_sha256(folder, [name for name in _walk(folder)[0] if "/" in name])


def images_sha256(folder: Path, names: Sequence[str]) -> str:
    """The hash of images, as `read_images` has it."""
    return _digest(names, _each(lambda path: hashlib.sha256(path.read_bytes()).digest(), folder, names))


def _digest(names: Sequence[str], digests: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for name, digest in zip(names, digests, strict=True):
        whole.update(os.fsencode(name) + b"\0" + digest)
    return whole.hexdigest()


def _walk(folder: Path) -> tuple[list[str], list[str]]:
    """The images in a folder and in all folders in it, and the other files, as paths from it in order."""
    images: list[str] = []
    others: list[str] = []
    ways = {str(folder): frozenset([folder.resolve()])}  # the folders that one is reached by, wherever links lead to

    def stop(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        way = ways.pop(place)
        if set(files) >= _RUN:
            folders.clear()
            continue
        there = {name: Path(place, name).resolve() for name in folders if not _is_clutter(name)}
        folders[:] = [name for name, path in there.items() if not any(step.is_relative_to(path) for step in way)]
        ways |= {os.path.join(place, name): way | {there[name]} for name in folders}
        for name in files:
            path = Path(place, name)
            if not _is_clutter(name):
                readable = path.is_file() or not path.exists()  # a link to nothing is to be heard of
                kind = images if path.suffix.lower() in _ENDINGS and readable else others
                kind.append(path.relative_to(folder).as_posix())
    return sorted(images), sorted(others)


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _CLUTTER


def _class_of(name: str) -> str:
    """The class of an image: the first folder on the way to it, its name written in one of the ways that look alike."""
    return unicodedata.normalize("NFC", _text(name.split("/")[0]))


def _text(name: str) -> str:
    """A name that may be written into a file, also where it is no UTF-8."""
    return os.fsencode(name).decode(errors="replace")


def _check_classes(folder: Path, found: list[str], others: list[str]) -> None:
    """See that the folders in a folder are classes, at least two, that can be told apart."""
    if not found:
        raise ValueError(f"{folder} is a folder that holds no images{_instead(others)}{_name_table(folder, others)}")
    classes = sorted({_class_of(name) for name in found if "/" in name})
    if not classes:
        raise ValueError(
            f"{folder} holds images, but no folders of them, which would say their classes: put the images of each "
            f"class into a folder of its name{_name_table(folder, others, or_else=', or')}"
        )
    parts = [[name for name in classes if name.casefold() in words] for words in (_TO_LEARN, _TO_JUDGE)]
    if all(parts):
        (learn, *_), (judge, *_) = parts
        raise ValueError(
            f"{folder} holds {', '.join(parts[0] + parts[1])}, which are no classes but the parts of a split: learn "
            f"from {folder / learn}, and judge the run by the other, with thalweg predict RUN {folder / judge}"
        )
    if len(classes) == 1:
        deeper = sorted({name.split("/")[1] for name in found if name.count("/") > 1})
        hint = f"; for {', '.join(map(repr, deeper[:3]))} name {folder / classes[0]}" if len(deeper) > 1 else ""
        raise ValueError(
            f"{folder} holds images of one class, {classes[0]!r}, and telling apart takes two: each folder in it is a "
            f"class{hint}"
        )
    first = {name.strip(): name for name in reversed(classes)}
    for name in classes:
        if name != first[name.strip()]:
            raise ValueError(
                f"the folders {first[name.strip()]!r} and {name!r} in {folder}, which are classes, have names that "
                "differ by blanks alone; rename one, or put their images into one folder"
            )
    names = pd.Series(classes, name=CLASS, dtype=object)
    missing, labels = bare_text(names).eq("") & says_numbers(names), labels_of(names)
    odd = [name for n, name in enumerate(classes) if missing[n] or labels[n] in labels[:n]]
    if odd:
        raise ValueError(
            f"the folders in {folder}, which are classes, have numbers for names, but {odd[0]!r} is none, or that of "
            "another too; rename it"
        )


def _instead(others: list[str]) -> str:
    return f", but {_counted(others)}" if others else ""


def _name_table(folder: Path, others: list[str], or_else: str = ";") -> str:
    tables = [name for name in others if name.lower().endswith(_TABLES)]
    if not tables:
        return ""
    return f"{or_else} name a table in it, such as {folder / tables[0]}, with --target"


def _note_left_out(folder: Path, loose: list[str], others: list[str], classes: Iterable[str] | None = None) -> None:
    """Warn of what is in a folder and is not learnt from."""
    if loose:
        shown = ", ".join(loose[:3]) + (", …" if len(loose) > 3 else "")
        warnings.warn(f"left out, as they are in no folder of a class in {folder}: {shown}", stacklevel=3)
    if others:
        warnings.warn(f"left out, as they are no images: {_counted(others)} in {folder}", stacklevel=3)
    if classes is not None:
        inside = [path.name for path in folder.iterdir() if path.is_dir() and not _is_clutter(path.name)]
        empty = sorted(name for name in inside if _class_of(name) not in classes)
        if empty:
            warnings.warn(f"left out, as there are no images in them: folders {', '.join(empty)}", stacklevel=3)


def _counted(names: list[str]) -> str:
    """How many files there are of each ending, the commonest first.

    Examples
    --------
    >>> _counted(["a.txt", "b.TXT", "c.pdf", "d"])
    '4 other files (2 .txt, 1 .pdf, 1 d)'
    """
    kinds = Counter(Path(name).suffix.lower() or Path(name).name for name in names).most_common()
    shown = ", ".join(f"{number} {kind}" for kind, number in kinds[:4]) + (", …" if len(kinds) > 4 else "")
    return f"{len(names)} other file{'s' if len(names) > 1 else ''} ({shown})"


def _names_images(values: pd.Series, folder: Path) -> bool:
    """Whether all values are names of images, and some of them are there."""
    if not (pd.api.types.is_object_dtype(values) or pd.api.types.is_string_dtype(values)):
        return False
    first = values.dropna().iloc[:1]
    if not all(Path(str(name)).suffix.lower() in _ENDINGS for name in first):
        return False  # as is soon seen of nearly every column
    names = text_of(values)
    names = names[names.ne("")]
    return all(Path(name).suffix.lower() in _ENDINGS for name in names) and any(
        (folder / name).is_file() for name in a_few(names)
    )


_Seen = TypeVar("_Seen")


def _each(
    look: Callable[[Path], _Seen], folder: Path, names: Sequence[str], on_image: OnImage | None = None
) -> list[_Seen]:
    """What is seen at each of the images, or an error that says which cannot be read, and why."""
    seen: list[_Seen] = []
    failed: list[str] = []

    def attempt(name: str) -> _Seen | str:
        try:
            return look(folder / name)
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises errors of many kinds
            return f"{_text(name)} ({_why(error)})"

    pool = ThreadPoolExecutor(_WORKERS)  # Pillow lets others run while it computes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow finds odd it reads
            for number, one in enumerate(pool.map(attempt, names), start=1):
                if isinstance(one, str):
                    failed.append(one)
                else:
                    seen.append(one)
                if on_image is not None:
                    on_image(number, len(names))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if failed:
        shown = ", ".join(failed[:3]) + (", …" if len(failed) > 3 else "")
        raise ValueError(
            f"{len(failed)} of {len(names)} image{'s' if len(names) > 1 else ''} in {folder} cannot be read: {shown}; "
            "save what is no image that can be read as PNG or JPEG, and take away what is damaged"
        )
    return seen


def _why(error: Exception) -> str:
    """Why an image cannot be read, in a few words."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "no image that Pillow knows"
    if isinstance(error, Image.DecompressionBombError):
        return "too large"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return shorten(" ".join(str(error).split()), 100) or type(error).__name__


def _shape(path: Path) -> tuple[int, int]:
    """The height and width of an image the right way up, which its first bytes say."""
    from PIL import ExifTags, Image

    with Image.open(path) as image:
        width, height = image.size
        told = "exif" in image.info and image.format != "TIFF"  # of which Pillow turns the size by itself
        turned = told and image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def _choose_size(shapes: list[tuple[int, int]]) -> tuple[int, int]:
    """The size of most images, or as much smaller as a model that sees every pixel at once wants it.

    Examples
    --------
    >>> _choose_size([(28, 28), (28, 28), (300, 200)]), _choose_size([(3000, 4000)])
    ((28, 28), (27, 36))
    """
    height, width = np.median(np.array(shapes), axis=0)
    shrink = min(1.0, float(np.sqrt(_MOST_PIXELS / (height * width))))
    return max(1, int(height * shrink)), max(1, int(width * shrink))


def _read(path: Path, height: int, width: int) -> tuple[Pixels, bytes]:
    """The pixels of an image at a size, and the hash of its file."""
    from PIL import Image, ImageOps

    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        image.draft(None, (2 * max(height, width),) * 2)  # a JPEG file then is made smaller as it is read
        plain = _plain(ImageOps.exif_transpose(image))
    scaled = plain.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(scaled), hashlib.sha256(content).digest()


def _plain(image: Image.Image) -> Image.Image:
    """An image of pixels from 0 to 255, grey or in colour, with nothing transparent: mode L, F or RGB."""
    from PIL import Image

    if image.mode.startswith("I"):
        numbers = np.asarray(image)
        if numbers.min() < 0 or numbers.max() > 65535:
            raise ValueError("its numbers have more than 16 bits")
        numbers = np.where(numbers == image.info.get("transparency"), 65535, numbers)
        return Image.fromarray(numbers.astype(np.float32) / 257)  # which 65535 is 255 times
    if image.mode == "F":
        raise ValueError("its pixels are decimal numbers, which do not say what white is")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _is_tinted(pixels: Pixels) -> bool:
    return pixels.ndim == 3 and bool(np.ptp(pixels, axis=2).max() > _TINT)


def _coloured(pixels: Pixels, colour: Colour) -> Pixels:
    """Pixels, grey or in colour as asked for."""
    from PIL import Image

    if colour == "rgb":
        return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
    return pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))


def _check_amount(images: int, numbers: int) -> None:
    """See that all images are not more than a model is trained with in memory."""
    if images * numbers > _MOST_NUMBERS:
        raise ValueError(
            f"{images} images of {numbers} numbers each are {images * numbers:.2g} numbers, and more than "
            f"{_MOST_NUMBERS:.0e} are not held in memory; choose a smaller data.image_size, or fewer images"
        )


def _pillow() -> None:
    """See that what reads images is there."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise ValueError("reading images takes Pillow: pip install thalweg[images]") from None
