"""The one look of all figures: deep water, light banks, boats in colours that all eyes can tell apart."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ..core.files import write_whole

INK = "#12303f"
MUTED = "#5d7480"
BANK = "#f6f3ec"
CURRENT = "#a9d3e3"
DEEP = "#08263b"
WATER = LinearSegmentedColormap.from_list("water", ["#3b7d9c", "#205a79", "#10405c", DEEP])
TARGET = LinearSegmentedColormap.from_list("target", ["#e4542b", "#f79a4b", "#ffd56b", "#fff7dd"])

# Neighbours in this list differ in lightness as well as in hue, and no colour is the water's.
CLASS_COLOURS = (
    "#ff6a3d",
    "#e9f6fb",
    "#ffc53d",
    "#5fd9b0",
    "#ff9ec4",
    "#c7dc3f",
    "#b9a2ff",
    "#d9b38c",
    "#86e3f2",
    "#ffe9a8",
)
CLASS_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">")
_NO_GLYPH = r"Glyph \d+ .* missing from"
_MOST_KEYS = 24  # classes that a key has room for
_BEGUN = re.compile(r"[^\W_]{1,5}\Z")  # the letters of a word in the midst of which a text ends

_FALLBACKS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK TC", "Noto Sans CJK KR", "Noto Sans CJK HK"),
    *("Noto Sans JP", "Noto Sans SC", "Noto Sans TC", "Noto Sans KR", "Source Han Sans", "Source Han Sans SC"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "IPAexGothic", "IPAGothic", "TakaoGothic"),
    *("NanumGothic", "UnDotum"),
    *("Hiragino Sans", "Hiragino Sans GB", "PingFang SC", "Heiti SC", "Apple SD Gothic Neo"),
    *("Microsoft YaHei", "SimHei", "Microsoft JhengHei", "Yu Gothic", "Meiryo", "MS Gothic", "Malgun Gothic"),
    *("Noto Sans", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai", "Nirmala UI"),
    *("Leelawadee UI", "Segoe UI Symbol", "Noto Sans Symbols 2", "Noto Emoji", "FreeSans"),
    *("Arial Unicode MS", "Unifont"),
)
"""Fonts for what DejaVu Sans lacks, as Linux, macOS and Windows bring them: those that a machine has are asked."""

_LOOK: dict[Any, Any] = {
    "font.size": 12.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": BANK,
    "axes.titlesize": 13.0,
    "axes.titlelocation": "left",
    "axes.titlepad": 9.0,
    "axes.labelsize": 12.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 11.0,
    "ytick.labelsize": 11.0,
    "legend.frameon": False,
    "legend.fontsize": 11.5,
    "legend.title_fontsize": 10.5,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.4,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "thalweg",  # the same figure is the same file
    "image.composite_image": True,
}

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function in the one look, and leave matplotlib's settings as they were."""

    @wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_LOOK | {"font.family": font_families()}), _boxes_told_once():
            return draw(*args, **kwargs)

    return in_style


def font_families() -> list[str]:
    """DejaVu Sans, which comes with matplotlib, and the fonts of this machine that have what it lacks.

    Examples
    --------
    >>> font_families()[0]
    'DejaVu Sans'
    """
    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in _FALLBACKS if name in installed)]


@contextmanager
def _boxes_told_once() -> Iterator[None]:
    """Make one sentence of matplotlib's warnings, one for each sign that no font has and each file."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.filterwarnings("always", message=_NO_GLYPH)
        yield
    boxes = [warning for warning in heard if re.match(_NO_GLYPH, str(warning.message))]
    for warning in heard:
        if warning not in boxes:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if boxes:
        warnings.warn(
            "boxes stand in the figures for signs that no font of this machine has; install one that has them, such as "
            f"Noto Sans CJK, and delete matplotlib's list of fonts in {matplotlib.get_cachedir()}",
            stacklevel=4,
        )


def new_figure(width: float, height: float) -> Figure:
    """A figure of its own canvas, in inches: no window, no global list of figures."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def new_panels(count: int, *, width: float = 4.0, label: str = "state z") -> tuple[Figure, list[Axes]]:
    """A figure of panels beside each other with one z axis, and room between the names of their times."""
    figure = new_figure(max(width * count, 6.0), 4.9)
    axes = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    figure.set_layout_engine("constrained", wspace=0.05)
    axes[0].set_ylabel(label)
    return figure, list(axes)


@styled
def save(figure: Figure, path: str | Path, *, dpi: int = 170) -> list[Path]:
    """Write a figure as PNG and SVG.

    Parameters
    ----------
    figure : Figure
    path : str or Path
        Where, without suffix; its folder is made where there is none. Files of that name are replaced, or
        what they lead to where they are links.
    dpi : int
        Dots per inch of the PNG.

    Returns
    -------
    list of Path
        The PNG and the SVG.

    Examples
    --------
    >>> import tempfile
    >>> from thalweg.figures import field_figure, save
    >>> figure = field_figure(lambda t, z: -z, (0.0, 1.0), [1.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in save(figure, f"{folder}/river", dpi=40)]
    ['river.png', 'river.svg']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    looks: dict[str, dict[str, Any]] = {
        "png": {"dpi": dpi, "metadata": {"Software": None}},
        "svg": {"metadata": {"Date": None, "Creator": None}},
    }
    return [_save_whole(figure, path.parent / f"{path.name}.{kind}", kind, look) for kind, look in looks.items()]


def _save_whole(figure: Figure, path: Path, kind: str, look: dict[str, Any]) -> Path:
    picture = BytesIO()
    figure.savefig(picture, format=kind, **look)
    write_whole(path, picture.getvalue())
    return path


@dataclass(frozen=True)
class Colouring:
    """What the colour of a boat says: its class, its target value, or nothing.

    Attributes
    ----------
    values : (N,) array
        Class codes (integers) or target values.
    names : sequence of str or None
        The names of the classes; None where values are numbers.
    label : str
        What the values are.
    scale : (float, float) or None
        Which values have the first and the last colour; None: the least and the greatest.
    """

    values: NDArray[Any]
    names: Sequence[str] | None = None
    label: str = "target"
    scale: tuple[float, float] | None = None

    @classmethod
    def plain(cls, n: int) -> Colouring:
        """All boats alike."""
        return cls(np.zeros(n, dtype=int), ("boats",))

    def pick(self, rows: NDArray[np.intp]) -> Colouring:
        """The colours of some of the boats, on the scale of all of them."""
        return replace(self, values=self.values[rows], scale=self._scale())

    def colour(self, row: int) -> Any:
        """The colour of one boat."""
        value = self.values[row]
        return class_colour(int(value)) if self.names is not None else TARGET(self._norm()(value))

    def marker(self, row: int) -> str:
        """The shape of one boat."""
        return class_marker(int(self.values[row])) if self.names is not None else "o"

    def handles(self) -> list[Line2D]:
        """The key to the classes; none for one class or for numbers."""
        if self.names is None or len(self.names) < 2:
            return []
        keys = [mark(class_marker(k), class_colour(k), 8, label=name) for k, name in enumerate(told_apart(self.names))]
        more = len(keys) - _MOST_KEYS
        return keys if more <= 0 else [*keys[:_MOST_KEYS], Line2D([], [], linestyle="none", label=f"and {more} more")]

    def add_bar(self, figure: Figure, axes: Axes | Sequence[Axes]) -> None:
        """The key to the numbers, where the values are some."""
        if self.names is None:
            scale = ScalarMappable(self._norm(), TARGET)
            low, high = self._scale()
            below, above = np.min(self.values) < low, np.max(self.values) > high
            extend = "both" if below and above else "min" if below else "max" if above else "neither"
            bar = figure.colorbar(scale, ax=axes, fraction=0.035, pad=0.02, aspect=28, extend=extend)
            bar.set_label(shorten(self.label, 40))
            bar.outline.set_visible(False)

    def _scale(self) -> tuple[float, float]:
        return self.scale or (float(np.min(self.values)), float(np.max(self.values)))

    def _norm(self) -> Normalize:
        low, high = self._scale()
        return Normalize(low, high) if high > low else Normalize(low - 0.5, low + 0.5)


def class_colour(k: int) -> str:
    """The colour of class k."""
    return CLASS_COLOURS[k % len(CLASS_COLOURS)]


def class_marker(k: int) -> str:
    """The shape of class k, another one when the colours come round again."""
    return CLASS_MARKERS[(k + k // len(CLASS_COLOURS)) % len(CLASS_MARKERS)]


def mark(shape: str, colour: Any, size: float, *, label: str = "", edge: str = DEEP) -> Line2D:
    """A marker for a key."""
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=shape,
        markersize=size,
        markerfacecolor=colour,
        markeredgecolor=edge,
        markeredgewidth=0.8,
        label=label,
    )


def shorten(text: str, most: int = 18) -> str:
    """A name that fits in a key, with no sign in it read as mathematics."""
    return _cut(str(text), 0, most).replace("$", r"\$")


def told_apart(names: Sequence[str], most: int = 18) -> list[str]:
    """Names that fit in a key, where those that begin alike show what tells them apart.

    Examples
    --------
    >>> told_apart(["hail", "a field in the sun", "a field under light snow", "a field under lightning"])
    ['hail', 'a field in the sun', 'a fiel…light snow', 'a fiel…lightning']
    """
    return [name.replace("$", r"\$") for name in _apart([str(name) for name in names], 0, most)]


def _apart(names: Sequence[str], start: int, most: int) -> list[str]:
    cut = [_cut(name, start, most) for name in names]
    for alike in {text for text, times in Counter(cut).items() if times > 1}:
        places = [n for n, text in enumerate(cut) if text == alike]
        group = [names[n] for n in places]
        if len(set(group)) > 1:
            shared = next(n for n, letters in enumerate(zip_longest(*group)) if len(set(letters)) > 1)
            further = len(_BEGUN.sub("", group[0][:shared]))
            for n, text in zip(places, _apart(group, further, most), strict=True):
                cut[n] = text
    return cut


def _cut(name: str, start: int, most: int) -> str:
    """The beginning of a name; where it is to be read from further on, little of it and what is there."""
    text = name if start == 0 else f"{name[: most // 3]}…{name[start:]}"
    return text if len(text) <= most else text[: most - 1] + "…"
