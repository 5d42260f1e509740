"""Draw the pictures that a page of the guide makes: run its code, and keep every figure that it has named.

    python docs/gallery/draw.py what-is-a-neural-ode neural-ode

A figure named `river` becomes docs/gallery/neural-ode-river.png.
"""

from __future__ import annotations

import argparse
import doctest
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

GALLERY = Path(__file__).parent


def run(page: Path) -> dict[str, Any]:
    """The names that the code of a page leaves behind."""
    test = doctest.DocTestParser().get_doctest(page.read_text("utf-8"), {}, page.stem, str(page), 0)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    if doctest.DocTestRunner(optionflags=flags).run(test, clear_globs=False).failed:
        raise SystemExit(f"{page.name} does not do what it says")
    return test.globs


def keep(figure: Figure, path: Path) -> None:
    """Write a small PNG, of 255 colours: white, some of what there is much of, the water, and some far from it."""
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    image = Image.open(picture).convert("RGB")
    halves = (image.quantize(127, method) for method in (Image.Quantize.MEDIANCUT, Image.Quantize.MAXCOVERAGE))
    colours = np.concatenate([np.reshape(half.getpalette() or [], (-1, 3))[:127] for half in halves])
    colours = colours[colours.min(1) < 245]  # what is nearly white would be taken for it
    palette = Image.new("P", (1, 1))
    palette.putpalette([255, 255, 255, *colours.ravel().tolist()])
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", help="a page of docs/guide, without its suffix")
    parser.add_argument("prefix", help="what the names of its pictures begin with")
    given = parser.parse_args()
    for name, value in run(GALLERY.parent / "guide" / f"{given.page}.md").items():
        if isinstance(value, Figure):
            path = GALLERY / f"{given.prefix}-{name}.png"
            keep(value, path)
            print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
